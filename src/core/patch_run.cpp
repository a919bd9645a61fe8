// Runs the tasks of patches: gathers what a tile reads, runs its plan on it, and puts the results where they
// belong.
#include <algorithm>
#include <cstring>

#include "border.hpp"
#include "patches.hpp"

namespace depthwise {
namespace {

// `count` positions of an axis, `step` apart.
struct Positions {
  index_t first, step, count;
};

// An image as it is stored, of which blocks of channels are copied.
struct Stored {
  std::byte* data;
  Image image;
  Element element;
  index_t bytes;  // of an element

  Stored(const void* array, const Image& shape, Storage storage, DType dtype)
      : data(const_cast<std::byte*>(static_cast<const std::byte*>(array))),
        image(shape),
        element(depthwise::element(storage, dtype)),
        bytes(storage_bytes(storage, dtype)) {}

  std::byte* at(index_t batch, index_t row, index_t channel) const {
    return data + (batch * image.batch_step + row * image.row_step + channel * image.channel_step) * bytes;
  }
};

// A tile of one image of the batch.
struct Place {
  const Strip* strip;
  index_t batch, row, column;

  Run rows() const { return strip->tile_row(row); }
  Run columns() const { return strip->tile_column(column); }
  // The results that the tile stands for.
  static Positions results(const AxisClass& c, const Run& run) {
    return {c.out_start + c.out_step * run.begin, c.out_step, run.size()};
  }
};

Place place_of(const Patches& p, index_t tile) {
  const auto after = std::upper_bound(p.first_tile.begin(), p.first_tile.end(), tile);
  const index_t i = after - p.first_tile.begin() - 1, rest = tile - p.first_tile[i];
  const Strip& s = p.strips[i];
  const index_t columns = s.column_tiles(), rows = s.row_tiles();
  return {&s, rest / columns / rows, rest / columns % rows, rest % columns};
}

void run_plan(const Plan& plan, const Operands& operands, std::byte* scratch) {
  const KernelFunction run =
      plan.isa->kernels->run[static_cast<int>(plan.kernel)][static_cast<int>(plan.spec.dtype)];
  for (index_t i = 0; i < plan.tasks(); ++i) {
    Task task = plan.task(i);
    const bool empty = task.row_begin >= task.row_end || task.column_begin >= task.column_end;
    if (plan.spec.op != Op::grad_filter && empty) continue;
    task.operands = operands;
    task.scratch = scratch;
    run(task);
  }
}

// Tasks of one block of channels on one thread.
class PatchRun {
 public:
  PatchRun(const Patches& p, const Operands& operands, index_t block, std::byte* scratch)
      : p_(p),
        spec_(p.spec),
        operands_(operands),
        functions_(p.isa->kernels->pieces),
        nhwc_(p.spec.layout == Layout::nhwc),
        bytes_(dtype_bytes(p.dtype)),
        taps_(p.spec.h.kernel * p.spec.w.kernel),
        channel_(block * p.channels),
        channels_(p.channel_count(block)),
        outputs_(channels_ * p.spec.multiplier),
        scratch_(scratch) {}

  void forward(const Place& place) {
    enter(*place.strip);
    const Plan& plan = gather_input(place);
    run_plan(plan, {source_, filter(), bias(), result_}, kernel_scratch_);
    scatter({operands_.out, output_image(spec_), spec_.output, spec_.dtype}, place, result_, outputs_);
  }

  // A pixel's positions are added up row by row: first the columns of each, then the rows.
  void grad_input(const Place& place) {
    enter(*place.strip);
    const void* weights = filter();
    std::memset(totals_, 0, place.rows().size() * place.columns().size() * channels_ * bytes_);
    for (const Run& rows : place.strip->row_runs[place.row]) {
      std::memset(sums_, 0, rows.size() * place.columns().size() * channels_ * bytes_);
      for (const Run& columns : place.strip->column_runs[place.column]) {
        const Plan& plan = gather_gradient(place.batch, rows, columns);
        run_plan(plan, {source_, weights, nullptr, result_}, kernel_scratch_);
        fold_columns(rows, columns, place.columns());
      }
      fold_rows(rows, place.rows(), place.columns());
    }
    scatter({operands_.out, input_image(spec_), Storage::same, spec_.dtype}, place, totals_, channels_);
  }

  // Sums up the tiles [begin, end).
  void grad_filter(index_t begin, index_t end, std::byte* totals) {
    std::memset(totals, 0, p_.sums_bytes);
    std::memset(scratch_, 0, 2 * p_.sums_bytes);  // what additions lose, and a tile's sums
    for (index_t i = begin; i < end; ++i) {
      const Place place = place_of(p_, i);
      enter(*place.strip);
      gather_input(place);
      const Plan& plan = gather_output_gradient(place);
      run_plan(plan, {source_, second_, nullptr, result_}, kernel_scratch_);
      add(result_, totals);
    }
  }

  // Adds up what every part summed, in order, and writes it.
  void reduce(const std::byte* sums, index_t step) {
    std::byte* const totals = scratch_ + p_.sums_bytes;
    std::memset(scratch_, 0, 2 * p_.sums_bytes);
    for (index_t part = 0; part < p_.parts; ++part) add(sums + part * step, totals);
    const Element to = element(Storage::same, spec_.dtype);
    std::byte* const out = static_cast<std::byte*>(operands_.out) + first_output() * dtype_bytes(spec_.dtype);
    scatter_function(to)({totals, out, taps_, outputs_, spec_.out_channels()});
  }

 private:
  index_t first_output() const { return channel_ * spec_.multiplier; }

  using Gather = void (*)(const GatherRow&);
  using Scatter = void (*)(const ScatterRow&);

  Gather gather_function(Element from) const {
    return functions_.gather[static_cast<int>(from)][static_cast<int>(p_.dtype)];
  }
  Scatter scatter_function(Element to) const {
    return functions_.scatter[static_cast<int>(p_.dtype)][static_cast<int>(to)];
  }

  void enter(const Strip& strip) {
    const PieceLayout l = p_.layout(strip, p_.channels);
    source_ = scratch_ + l.source, second_ = scratch_ + l.second, result_ = scratch_ + l.result;
    sums_ = scratch_ + l.sums, totals_ = scratch_ + l.totals, kernel_scratch_ = scratch_ + l.kernel;
  }

  // `channels` from `channel` on of the positions of an image, side by side in its layout.
  void gather(const Stored& from, index_t batch, const Positions& rows, const Positions& columns,
              Border border, index_t channel, index_t channels, std::byte* to) const {
    const index_t run = nhwc_ ? channels : 1, planes = nhwc_ ? 1 : channels;
    const index_t row_bytes = columns.count * run * bytes_;
    const auto gather_row = gather_function(from.element);
    for (index_t plane = 0; plane < planes; ++plane)
      for (index_t i = 0; i < rows.count; ++i, to += row_bytes) {
        const index_t row = map_border(border, rows.first + i * rows.step, from.image.height);
        if (row < 0)
          std::memset(to, 0, row_bytes);
        else
          gather_row({from.at(batch, row, channel + plane), from.image.width, from.image.column_step, run,
                      border, columns.first, columns.step, columns.count, to});
      }
  }

  // The plan of the tile, and what it reads in source_.
  const Plan& gather_input(const Place& place) const {
    const Strip& s = *place.strip;
    const PieceAxis h = forward_piece(s.h, place.rows()), w = forward_piece(s.w, place.columns());
    gather({operands_.a, input_image(spec_), spec_.input, spec_.dtype}, place.batch,
           {h.source, s.h.src_step, h.axis.in}, {w.source, s.w.src_step, w.axis.in}, spec_.border, channel_,
           channels_, source_);
    return *p_.find(p_.piece(h.axis, w.axis, channels_));
  }

  const Plan& gather_output_gradient(const Place& place) const {
    const Strip& s = *place.strip;
    const PieceAxis h = forward_piece(s.h, place.rows()), w = forward_piece(s.w, place.columns());
    gather({operands_.b, output_image(spec_), Storage::same, spec_.dtype}, place.batch,
           Place::results(s.h, place.rows()), Place::results(s.w, place.columns()), Border::constant,
           first_output(), outputs_, second_);
    return *p_.find(p_.piece(h.axis, w.axis, channels_));
  }

  // Gradients outside the array are zeros.
  const Plan& gather_gradient(index_t batch, const Run& rows, const Run& columns) const {
    const PieceAxis h = grad_input_piece(spec_.h, rows), w = grad_input_piece(spec_.w, columns);
    gather({operands_.a, output_image(spec_), Storage::same, spec_.dtype}, batch, {h.source, 1, h.axis.out},
           {w.source, 1, w.axis.out}, Border::constant, first_output(), outputs_, source_);
    return *p_.find(p_.piece(h.axis, w.axis, channels_));
  }

  // The filter, or the part of it that belongs to the block of channels, in the dtype of pieces.
  const void* filter() const {
    if (channels_ == spec_.channels && p_.dtype == spec_.dtype) return operands_.b;
    const std::byte* first =
        static_cast<const std::byte*>(operands_.b) + first_output() * dtype_bytes(spec_.dtype);
    gather_function(element(Storage::same, spec_.dtype))(
        {first, taps_, spec_.out_channels(), outputs_, Border::constant, 0, 1, taps_, second_});
    return second_;
  }

  const void* bias() const {
    if (!operands_.bias) return nullptr;
    return static_cast<const std::byte*>(operands_.bias) + first_output() * dtype_bytes(spec_.dtype);
  }

  void fold_columns(const Run& rows, const Run& columns, const Run& tile) const {
    const index_t run = nhwc_ ? channels_ : 1, planes = nhwc_ ? 1 : channels_;
    const auto fold = functions_.fold[static_cast<int>(p_.dtype)];
    const std::byte* from = result_;
    std::byte* to = sums_;
    for (index_t i = 0; i < planes * rows.size(); ++i) {
      fold({from, to, columns.size(), run, columns.begin, spec_.w.in, tile.begin, spec_.border});
      from += columns.size() * run * bytes_;
      to += tile.size() * run * bytes_;
    }
  }

  void fold_rows(const Run& rows, const Run& tile_rows, const Run& tile_columns) const {
    const index_t run = nhwc_ ? channels_ : 1, planes = nhwc_ ? 1 : channels_;
    const index_t row_bytes = tile_columns.size() * run * bytes_;
    const auto fold = functions_.fold[static_cast<int>(p_.dtype)];
    const std::byte* from = sums_;
    for (index_t plane = 0; plane < planes; ++plane)
      for (index_t row = rows.begin; row < rows.end; ++row, from += row_bytes) {
        const index_t shown = map_border(spec_.border, row, spec_.h.in) - tile_rows.begin;
        std::byte* const to = totals_ + (plane * tile_rows.size() + shown) * row_bytes;
        fold({from, to, tile_columns.size(), run, tile_columns.begin, spec_.w.in, tile_columns.begin,
              spec_.border});
      }
  }

  // Puts a tile where it belongs in the result; the first of its `channels` belongs to the block's first.
  void scatter(const Stored& to, const Place& place, const std::byte* from, index_t channels) const {
    const index_t run = nhwc_ ? channels : 1, planes = nhwc_ ? 1 : channels;
    const Positions rows = Place::results(place.strip->h, place.rows()),
                    columns = Place::results(place.strip->w, place.columns());
    const index_t first = channel_ * channels / channels_;
    const auto scatter_row = scatter_function(to.element);
    for (index_t plane = 0; plane < planes; ++plane)
      for (index_t i = 0; i < rows.count; ++i, from += columns.count * run * bytes_)
        scatter_row({from,
                     to.at(place.batch, rows.first + i * rows.step, first + plane) +
                         columns.first * to.image.column_step * to.bytes,
                     columns.count, run, columns.step * to.image.column_step});
  }

  void add(const std::byte* sums, std::byte* totals) const {
    const index_t bytes = (taps_ * outputs_ * bytes_ + kLineBytes - 1) / kLineBytes * kLineBytes;
    functions_.add[static_cast<int>(p_.dtype)](sums, bytes / bytes_, totals, scratch_);
  }

  const Patches& p_;
  const Spec& spec_;
  const Operands& operands_;
  const PieceFunctions& functions_;
  const bool nhwc_;
  const index_t bytes_, taps_, channel_, channels_, outputs_;
  std::byte *const scratch_, *source_ = nullptr, *second_ = nullptr, *result_ = nullptr, *sums_ = nullptr,
                             *totals_ = nullptr, *kernel_scratch_ = nullptr;
};

}  // namespace

void run_patch(const Patches& p, const Operands& operands, index_t index, std::byte* scratch,
               std::byte* sums) {
  const index_t block = index % p.channel_blocks, item = index / p.channel_blocks;
  PatchRun run(p, operands, block, scratch);
  switch (p.spec.op) {
    case Op::forward: return run.forward(place_of(p, item));
    case Op::grad_input: return run.grad_input(place_of(p, item));
    case Op::grad_filter:
      return run.grad_filter(p.tiles() * item / p.parts, p.tiles() * (item + 1) / p.parts,
                             sums + index * p.sums_bytes);
  }
}

void reduce_patch(const Patches& p, const Operands& operands, index_t block, std::byte* scratch,
                  std::byte* sums) {
  PatchRun(p, operands, block, scratch).reduce(sums + block * p.sums_bytes, p.channel_blocks * p.sums_bytes);
}

}  // namespace depthwise
