// The filter gradient: every tap sums the products of the positions that it reads with the gradient.
//
// A task owns its units' sums, so nothing is shared between threads. A block's sums run plainly, blocks are
// added with compensation, and the parts of a unit that several tasks summed are added in order: the result
// does not depend on the number of threads, and its error does not grow with the batch.
//
// Only products inside the image are summed, and some lanes multiply zeros with what lies beside a row. Where
// that could matter, with something infinite or NaN, the sums show it, and the channel is done again one
// product at a time, with the padding.
#pragma once

#include "flat_pack.hpp"
#include "generic_grad_filter.hpp"
#include "grad_layout.hpp"
#include "grad_strip.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Dilation;
using depthwise::GradBlocks;
using depthwise::GradForm;
using depthwise::GradLayout;
using depthwise::smaller;
using depthwise::Spec;
using depthwise::Task;

template <class S, Layout kLayout, GradForm kForm>
class GradFilter {
 public:
  explicit GradFilter(const Task& task)
      : task_(task),
        spec_(*task.spec),
        layout_(grad_layout(spec_, *task.tile, task.h, task.w, kForm, kV)),
        blocks_(grad_blocks(spec_, *task.tile, task.h, task.w,
                            class_count(spec_.op, spec_.h, Dilation::split),
                            class_count(spec_.op, spec_.w, kColumns))),
        x_image_(input_image(spec_)),
        grad_image_(output_image(spec_)),
        units_(task.unit_end - task.unit_begin) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t elements) {
      T* const part = at;
      at += elements;
      return part;
    };
    x_panel_ = take(task.tile->images * layout_.x_rows * layout_.x_row);
    grad_panel_ = take(task.tile->images * layout_.grad_rows * layout_.grad_row);
    sums_ = take(layout_.running * layout_.sums);
    totals_ = take(units_ * layout_.sums);
    lost_ = take(units_ * layout_.sums);
    runs_ = reinterpret_cast<GradRun<T>*>(at);
    offsets_ = reinterpret_cast<index_t*>(runs_ + task.tile->images);
  }

  void run() {
    const index_t all = units_ * layout_.sums;
    clear(totals_, 2 * all);
    if (task_.reduce) {
      for (index_t p = 0; p < task_.parts; ++p)
        add_compensated(reinterpret_cast<const T*>(task_.sums + task_.sums_offset + p * task_.sums_step), all,
                        totals_, lost_);
      return write();
    }
    if constexpr (kDirect) {
      sum_in_place();
    } else {
      for (index_t block = task_.block_begin; block < task_.block_end; ++block) {
        at_ = place(block);
        if (at_.empty()) continue;
        find_offsets();
        clear_panels();
        find_runs();
        for (unit_ = task_.unit_begin; unit_ < task_.unit_end; ++unit_) sum_unit();
      }
    }
    if (task_.parts == 1) return write();
    T* to = reinterpret_cast<T*>(task_.sums + task_.sums_offset);
    for (index_t i = 0; i < all; ++i) to[i] = totals_[i];
  }

 private:
  using T = compute_t<S>;
  static constexpr int kV = kLanes<T>, kL = kLine<T>;
  static constexpr bool kFlat = kForm == GradForm::flat, kDirect = kForm == GradForm::direct;
  static constexpr Dilation kColumns = kFlat ? Dilation::keep : Dilation::split;

  static void clear(T* to, index_t elements) {
    for (index_t i = 0; i < elements; ++i) to[i] = 0;
  }
  static index_t clamp(index_t x, index_t most) { return x < 0 ? 0 : smaller(x, most); }

  // A block: some of the images, and of a class of rows and one of columns the gradient columns
  // [column, column + columns), the positions [begin, end) and the gradient rows that meet them.
  struct Place {
    AxisClass h, w;
    index_t batch, images;
    index_t column, columns;
    Range columns_inside;  // positions of the columns that lie inside the image, from the first column's on
    index_t begin, end, grad_begin, grad_end;

    // No tap reads anything in it.
    bool empty() const { return columns <= 0 || begin >= end || columns_inside.begin >= columns_inside.end; }
  };

  Place place(index_t block) const {
    const auto next = [&block](index_t count) {
      const index_t i = block % count;
      block /= count;
      return i;
    };
    const depthwise::Tile& tile = *task_.tile;
    const index_t row_block = next(blocks_.row_blocks), column_block = next(blocks_.column_blocks);
    Place p{};
    p.w = axis_class(spec_.op, spec_.w, kColumns, next(blocks_.column_classes));
    p.h = axis_class(spec_.op, spec_.h, Dilation::split, next(blocks_.row_classes));
    p.batch = block * tile.images;
    p.images = smaller(tile.images, spec_.batch - p.batch);
    p.column = column_block * tile.columns;
    p.columns = smaller(tile.columns, p.w.out_count - p.column);
    p.columns_inside = range_inside(p.w, p.w.stride * p.column, p.w.span(p.columns));
    find_rows(p, row_block * tile.rows, tile.rows);
    return p;
  }

  static void find_rows(Place& p, index_t begin, index_t count) {
    const AxisClass& h = p.h;
    const Range inside = range_inside(h, 0, h.span(h.out_count));
    p.begin = inside.begin + begin;
    p.end = smaller(p.begin + count, inside.end);
    const index_t first = p.begin - h.taps + h.stride;  // ceil((begin - taps + 1) / stride)
    p.grad_begin = first <= 0 ? 0 : first / h.stride;
    p.grad_end = smaller((p.end - 1) / h.stride + 1, h.out_count);
  }

  void clear_panels() {
    if (!kFlat || at_.column == cleared_) return;  // margins and slack stay 0
    clear(x_panel_, grad_panel_elements(layout_, *task_.tile));
    cleared_ = at_.column;
  }

  void find_offsets() {
    for (index_t k = 0; k < at_.w.taps; ++k) {
      const index_t position = at_.w.spacing * k;
      offsets_[k] = kDirect ? position * at_.w.src_step * x_image_.column_step
                    : !kFlat
                        ? position * kL
                        : position % at_.w.stride * layout_.segment + position / at_.w.stride * layout_.pixel;
    }
  }

  const S* input_row(const Place& p, index_t image, index_t position) const {
    return static_cast<const S*>(task_.operands.a) + (p.batch + image) * x_image_.batch_step +
           p.h.source(position) * x_image_.row_step;
  }
  const S* gradient_row(const Place& p, index_t image, index_t u) const {
    return static_cast<const S*>(task_.operands.b) + (p.batch + image) * grad_image_.batch_step +
           (p.h.out_start + p.h.out_step * u) * grad_image_.row_step +
           (p.w.out_start + p.w.out_step * p.column) * grad_image_.column_step;
  }
  // Where a block's first row begins, perhaps left of the image.
  std::uintptr_t first_input(const Place& p, index_t image) const {
    return address(input_row(p, image, p.begin)) +
           p.w.source(p.w.stride * p.column) * x_image_.column_step * static_cast<index_t>(sizeof(S));
  }
  std::uintptr_t first_gradient(const Place& p, index_t image) const {
    return address(gradient_row(p, image, p.grad_begin));
  }
  static std::uintptr_t address(const S* p) { return reinterpret_cast<std::uintptr_t>(p); }

  T* packed_input(index_t image, index_t position) const {
    return x_panel_ + (image * layout_.x_rows + position - at_.begin) * layout_.x_row;
  }
  T* packed_gradient(index_t image, index_t u) const {
    return grad_panel_ + (image * layout_.grad_rows + u - at_.grad_begin) * layout_.grad_row;
  }

  void find_runs() {
    for (index_t i = 0; i < at_.images; ++i) {
      GradRun<T>& run = runs_[i];
      run.begin = at_.begin, run.end = at_.end;
      if constexpr (kDirect && sizeof(S) == sizeof(T)) {
        run.x = input_row(at_, i, 0) + at_.w.source(at_.w.stride * at_.column) * x_image_.column_step;
        run.grad = gradient_row(at_, i, 0);
        run.next_x = first_input(at_, i);
        run.next_grad = first_gradient(at_, i);
      } else {
        run.x = packed_input(i, 0) - (kFlat ? 0 : at_.columns_inside.begin * kL);
        run.grad = packed_gradient(i, 0);
      }
    }
  }

  // What follows the current unit in its block, or else the first unit of the next block, roughly.
  void find_next() {
    const bool last = unit_ + 1 == task_.unit_end;
    const index_t unit = last ? task_.unit_begin : unit_ + 1,
                  rows = blocks_.row_blocks > 1 ? task_.tile->rows : 0;
    const index_t images = last && rows == 0 ? task_.tile->images : 0;
    const index_t u = last && rows > 0 ? rows / at_.h.stride : 0, position = at_.begin + u * at_.h.stride;
    const index_t column = at_.w.source(at_.w.stride * at_.column + at_.columns_inside.begin);
    for (index_t i = 0; i < at_.images; ++i) {
      runs_[i].next_x = address(input_row(at_, i + images, position) + column * x_image_.column_step +
                                unit_offset(unit, x_image_, spec_.multiplier));
      runs_[i].next_grad =
          address(gradient_row(at_, i + images, at_.grad_begin + u) + unit_offset(unit, grad_image_, 1));
    }
  }

  // Where a unit's channels begin; `repeat` output channels share one of the image.
  index_t unit_offset(index_t unit, const Image& image, index_t repeat) const {
    if (kFlat)
      return kLayout == Layout::nchw ? unit * image.channels / x_image_.channels * image.channel_step : 0;
    return unit * kL / repeat * image.channel_step;
  }

  void sum_unit() {
    find_next();
    const index_t at = (unit_ - task_.unit_begin) * layout_.sums;
    clear(sums_, layout_.sums);
    for (index_t i = 0; i < at_.images; ++i) pack_input(i);
    for (index_t o = 0; o < layout_.outputs; ++o) {
      for (index_t i = 0; i < at_.images; ++i) pack_gradient(i, o);
      if constexpr (kFlat)
        sum_flat(o);
      else
        for (int v = 0; v < kL; v += kV)
          if (lane() + v < grad_image_.channels) sum_lines(v);
    }
    add_compensated(sums_, layout_.sums, totals_ + at, lost_ + at);
  }

  index_t lane() const { return unit_ * kL; }
  int valid() const { return static_cast<int>(smaller(grad_image_.channels - lane(), kL)); }

  void pack_input(index_t image) const {
    const index_t begin = at_.columns_inside.begin, count = at_.columns_inside.end - begin;
    const index_t column = at_.w.source(at_.w.stride * at_.column) + at_.w.src_step * begin;
    const S* data = static_cast<const S*>(task_.operands.a);
    if constexpr (kFlat) {
      const FlatRow<S> row{data + x_image_.batch_step * spec_.batch,
                           at_.w.src_step * x_image_.column_step,
                           begin,
                           at_.columns_inside.end,
                           kLayout == Layout::nhwc ? spec_.multiplier : 1,
                           1};
      pack_flat(
          row,
          input_row(at_, image, at_.begin) + column * x_image_.column_step + unit_offset(unit_, x_image_, 1),
          {at_.w.stride, layout_.phases, layout_.segment, layout_.pixel}, packed_input(image, at_.begin),
          at_.end - at_.begin, at_.h.src_step * x_image_.row_step, layout_.x_row);
    } else {
      const Lanes lanes = spec_.multiplier == 1 ? Lanes::same : Lanes::repeated;
      const LineSource<S, kLayout> source{data, x_image_, lanes, spec_.multiplier};
      const bool adjacent = kLayout == Layout::nchw && count == spec_.w.in && at_.w.src_step == 1 &&
                            at_.h.src_step == 1 &&
                            layout_.x_row == count * kL;  // rows follow each other, here and there
      const index_t rows = adjacent ? at_.end - at_.begin : 1;
      for (index_t p = at_.begin; p < at_.end; p += rows)
        source.pack(at_.batch + image, at_.h.source(p), column, at_.w.src_step, rows * count, lane(), valid(),
                    0, packed_input(image, p));
    }
  }

  void pack_gradient(index_t image, index_t o) const {
    const S* const end = static_cast<const S*>(task_.operands.b) + grad_image_.batch_step * spec_.batch;
    if constexpr (kFlat) {
      const index_t count = at_.columns * layout_.pixel, first = layout_.grad_in_place ? count / kV * kV : 0;
      if (first == count) return;
      for (index_t u = at_.grad_begin; u < at_.grad_end; ++u)
        pack_contiguous(gradient_row(at_, image, u) + plane(o) + first, end, count - first,
                        packed_gradient(image, u));
    } else {
      const bool adjacent = kLayout == Layout::nchw && at_.columns == spec_.w.out && at_.w.out_step == 1 &&
                            at_.h.out_step == 1 && layout_.grad_row == at_.columns * kL;
      const index_t rows = adjacent ? at_.grad_end - at_.grad_begin : 1;
      for (index_t u = at_.grad_begin; u < at_.grad_end; u += rows)
        LineSource<S, kLayout>{static_cast<const S*>(task_.operands.b), grad_image_, Lanes::same, 1}.pack(
            at_.batch + image, at_.h.out_start + at_.h.out_step * u,
            at_.w.out_start + at_.w.out_step * at_.column, at_.w.out_step, rows * at_.columns, lane(),
            valid(), 0, packed_gradient(image, u));
    }
  }

  // Where the gradients of the unit's output channel o begin in an image.
  index_t plane(index_t o) const { return unit_offset(unit_, grad_image_, 1) + o * grad_image_.channel_step; }

  GradBlock<T> block() const {
    GradBlock<T> b{};
    b.runs = runs_;
    b.run_count = at_.images;
    b.stride = at_.h.stride;
    b.grad_begin = at_.grad_begin, b.grad_end = at_.grad_end;
    b.x_row = kDirect ? at_.h.src_step * x_image_.row_step : layout_.x_row;
    b.grad_row = kDirect ? at_.h.out_step * grad_image_.row_step : layout_.grad_row;
    constexpr index_t bytes = sizeof(S);
    const bool planes =
        !kFlat && kLayout == Layout::nchw;  // a unit's planes are adjacent: fetched line by line
    b.next_x_row = planes ? spec_.w.in * kL * bytes : at_.h.src_step * x_image_.row_step * bytes;
    b.next_grad_row = planes ? spec_.w.out * kL * bytes : at_.h.out_step * grad_image_.row_step * bytes;
    b.offsets = offsets_;
    b.sums = sums_;
    b.sum_row = at_.w.taps * layout_.tap;
    b.sum_step = layout_.tap;
    return b;
  }

  // Where registers are few and lines packed, columns one by one are faster.
  bool strips() const {
    return at_.h.taps == 3 && at_.w.taps == 3 && at_.h.stride == at_.w.stride && at_.w.stride <= 2 &&
           (kDirect || kStripColumns > 2);
  }

  // The sums of the block's columns, from column j of the panel on.
  void add_columns(const GradBlock<T>& b, index_t j) const {
    const index_t stride = at_.w.stride, begin = at_.columns_inside.begin - stride * j,
                  end = at_.columns_inside.end - stride * j;
    if (!strips()) return GradTaps<T>(b, stride, begin, end).add(at_.h.taps, at_.w.taps);
    (stride == 1 ? grad_strips<T, 1> : grad_strips<T, 2>)(b, begin, end);
  }

  void sum_lines(int v) const {
    GradBlock<T> b = block();
    b.columns = at_.columns;
    b.pixel = kL;
    b.x_step = at_.w.stride * kL;
    b.grad_step = kL;
    constexpr bool planes = kLayout == Layout::nchw;
    b.next_pixel = at_.w.src_step * static_cast<index_t>(sizeof(S)) * (planes ? kL : x_image_.column_step);
    b.next_x_step = at_.w.stride * b.next_pixel;
    b.next_grad_step =
        at_.w.out_step * static_cast<index_t>(sizeof(S)) * (planes ? kL : grad_image_.column_step);
    b.sums += v;
    b.x_first = b.grad_first = v;
    add_columns(b, 0);
  }

  // In the order of memory: all channels of a few columns, then the next columns. Sums run over several
  // blocks where these are small.
  void sum_in_place() {
    constexpr index_t kPositions = 512;
    const index_t all = units_ * layout_.sums;
    clear(sums_, all);
    index_t positions = 0;
    Place following{};
    if (task_.block_begin < task_.block_end) following = place(task_.block_begin);
    for (index_t block = task_.block_begin; block < task_.block_end; ++block) {
      at_ = following;
      if (block + 1 < task_.block_end) following = place(block + 1);
      if (!at_.empty()) {
        find_offsets();
        find_runs();
        sum_block(following.empty() ? at_ : following);
        positions += (at_.end - at_.begin) * at_.columns * at_.images;
      }
      if (positions < kPositions && block + 1 < task_.block_end) continue;
      add_compensated(sums_, all, totals_, lost_);
      clear(sums_, all);
      positions = 0;
    }
  }

  // Chunks of columns whose lines stay in the first-level cache.
  void sum_block(const Place& following) const {
    const index_t chunk = even_share(at_.columns, 8);
    GradBlock<T> b = block();
    b.pixel = at_.w.src_step * x_image_.column_step;
    b.x_step = at_.w.stride * b.pixel;
    b.grad_step = at_.w.out_step * grad_image_.column_step;
    b.next_pixel = b.pixel * static_cast<index_t>(sizeof(S));
    b.next_x_step = b.x_step * static_cast<index_t>(sizeof(S));
    b.next_grad_step = b.grad_step * static_cast<index_t>(sizeof(S));
    for (index_t j = 0; j < at_.columns; j += chunk) sum_chunk(b, following, j, chunk);
  }

  // All channels of the columns [j, j + chunk). Meanwhile the lines are fetched that the chunk of a vector a
  // little further on is the first to read.
  void sum_chunk(GradBlock<T> b, const Place& following, index_t j, index_t chunk) const {
    constexpr index_t kLines = 2, lines = kL / kV, bytes = sizeof(S);
    const index_t first = task_.unit_begin * kL,
                  channels = smaller(task_.unit_end * kL, grad_image_.channels),
                  vectors = (channels - first + kV - 1) / kV;
    // The first position that only the next column reads, counted from a column's own.
    const index_t lead = (at_.w.taps - 1) * at_.w.spacing + 1 - at_.w.stride;
    const std::uintptr_t jump_x = first_input(following, 0) - first_input(at_, 0),
                         jump_grad = first_gradient(following, 0) - first_gradient(at_, 0);
    const auto channel_of = [&](index_t i) { return smaller(first + i * kV, grad_image_.channels - kV); };
    index_t next = kLines * lines % vectors, column = j + kLines * lines / vectors * chunk;
    T* const sums = b.sums;
    b.columns = smaller(chunk, at_.columns - j);
    for (index_t i = 0; i < vectors; ++i) {
      const index_t channel = channel_of(i), next_channel = channel_of(next);
      const bool here = column < at_.columns;
      const index_t next_column = here ? column : 0;
      const std::uintptr_t next_x = (here ? 0 : jump_x) +
                                    ((next_column * at_.w.stride + lead) * b.pixel + next_channel) * bytes,
                           next_grad =
                               (here ? 0 : jump_grad) + (next_column * b.grad_step + next_channel) * bytes;
      if (next_column == 0)
        fetch_margin(b, next_x, smaller(lead, at_.columns_inside.end) - at_.columns_inside.begin);
      if (++next == vectors) next = 0, column += chunk;
      b.sums = sums + i / lines * layout_.sums + i % lines * kV;
      b.x_first = channel + j * b.x_step;
      b.grad_first = channel + j * b.grad_step;
      b.next_x_first = static_cast<index_t>(next_x);
      b.next_grad_first = static_cast<index_t>(next_grad);
      add_columns(b, j);
    }
  }

  // The `columns` before those at `next_x`.
  void fetch_margin(const GradBlock<T>& b, std::uintptr_t next_x, index_t columns) const {
    for (index_t i = 0; i < at_.images; ++i) {
      std::uintptr_t row = runs_[i].next_x + next_x;
      for (index_t p = at_.begin; p < at_.end; ++p, row += b.next_x_row)
        for (index_t k = 1; k <= columns; ++k) simd::fetch(row - k * b.next_pixel);
    }
  }

  void sum_flat(index_t o) const {
    const index_t count = at_.columns * layout_.pixel, vectors = (count + kV - 1) / kV,
                  in_place = layout_.grad_in_place ? count / kV : 0;
    GradBlock<T> b = block();
    b.sums += o * at_.h.taps * at_.w.taps * layout_.tap;
    if constexpr (sizeof(S) == sizeof(T))
      if (in_place > 0) {
        GradBlock<T> there = b;
        there.grad_row = at_.h.out_step * grad_image_.row_step;
        for (index_t i = 0; i < at_.images; ++i) runs_[i].grad = gradient_row(at_, i, 0) + plane(o);
        sum_vectors(there, 0, in_place, 0);
        for (index_t i = 0; i < at_.images; ++i) runs_[i].grad = packed_gradient(i, 0);
      }
    sum_vectors(b, in_place, vectors, in_place);
  }

  // The vectors [begin, end) of a row, where that of the gradient begins with vector `grad_begin`. Vectors p,
  // p + period, ... share their channels.
  void sum_vectors(GradBlock<T> b, index_t begin, index_t end, index_t grad_begin) const {
    const index_t period = task_.tile->period, bytes = kV * static_cast<index_t>(sizeof(S));
    b.x_step = b.grad_step = period * kV;
    b.next_pixel = b.next_grad_step = period * bytes;
    b.next_x_step = b.next_pixel * at_.w.stride;
    T* const sums = b.sums;
    for (index_t p = begin; p < begin + period && p < end; ++p) {
      b.columns = (end - p + period - 1) / period;
      b.x_first = p * kV;
      b.grad_first = (p - grad_begin) * kV;
      b.next_x_first = p * bytes * at_.w.stride;
      b.next_grad_first = p * bytes;
      b.sums = sums + p % period * kV;
      // What lies outside the image is 0 in the panel.
      GradTaps<T>(b, 1, 0, b.columns + at_.w.taps).add(at_.h.taps, at_.w.taps);
    }
  }

  // Some gradient may meet padding alone, and then no sum tells whether it is finite.
  static bool all_seen(const depthwise::Axis& a) {
    const auto seen = [&a](index_t i) {
      const index_t first = a.stride * i - a.pad,
                    before = first < 0 ? (-first + a.dilation - 1) / a.dilation : 0;
      return before < a.kernel && first + before * a.dilation < a.in;
    };
    bool all = true;
    for (index_t i = 0; i < a.out; ++i) all = all && seen(i);
    return all;
  }

  void write() const {
    const bool seen = all_seen(spec_.h) && all_seen(spec_.w);
    const bool planes = kFlat && kLayout == Layout::nchw && layout_.outputs == 1;
    for (index_t unit = 0; unit < units_; unit += planes ? kV : 1) {
      if (planes)
        write_planes(unit, seen);
      else if constexpr (kFlat)
        write_flat(unit, seen);
      else
        write_lines(unit, seen);
    }
  }

  // A channel whose sums are `probe`, 0 where all are finite, is done again unless padding cannot matter.
  void check(index_t channel, T probe, bool seen) const {
    const GenericGradFilter<S> exact(task_);
    if (probe != 0 || !(seen || exact.finite(channel))) exact.run_channel(channel);
  }

  void write_lines(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel, channels = grad_image_.channels;
    const index_t first = (task_.unit_begin + unit) * kL;
    for (index_t v = 0; v < kL && first + v < channels; v += kV) {
      const int count = static_cast<int>(smaller(channels - first - v, kV)), skip = kDirect ? kV - count : 0;
      const T* total = totals_ + unit * layout_.sums + v;
      S* to = static_cast<S*>(task_.operands.out) + first + v;
      vec<T> probe = {};
      for (index_t t = 0; t < taps; ++t, to += channels, total += layout_.tap) {
        const vec<T> sum = skip > 0 ? simd::load_n(total + skip, count) : simd::load(total);
        probe += sum * T(0);
        simd::store_n(to, sum, count);
      }
      for (int i = 0; i < count; ++i) check(first + v + i, probe[i], seen);
    }
  }

  void write_flat(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel;
    for (index_t o = 0; o < layout_.outputs; ++o)
      for (index_t c = 0; c < layout_.pixel; ++c) {
        const index_t channel = ((task_.unit_begin + unit) * layout_.outputs + o) * layout_.pixel + c;
        S* to = static_cast<S*>(task_.operands.out) + channel;
        const T* total = totals_ + unit * layout_.sums + o * taps * layout_.tap;
        T probe = 0;
        for (index_t t = 0; t < taps; ++t, to += grad_image_.channels, total += layout_.tap) {
          const T sum = sum_channel(total, c);
          probe += sum * T(0);
          simd::store_one(to, sum);
        }
        check(channel, probe, seen);
      }
  }

  // A vector of planes at once, each one's lanes brought into a lane of their own.
  void write_planes(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel, first = task_.unit_begin + unit;
    const int count = static_cast<int>(smaller(units_ - unit, kV));
    S* to = static_cast<S*>(task_.operands.out) + first;
    const T* total = totals_ + unit * layout_.sums;
    vec<T> probe = {};
    for (index_t t = 0; t < taps; ++t, to += grad_image_.channels, total += layout_.tap) {
      vec<T> lanes[kV] = {};
      for (int i = 0; i < count; ++i) lanes[i] = simd::load(total + i * layout_.sums);
      transpose<T>(lanes);
#pragma GCC unroll 4
      for (int half = kV / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      probe += lanes[0] * T(0);
      simd::store_n(to, lanes[0], count);
    }
    for (int i = 0; i < count; ++i) check(first + i, probe[i], seen);
  }

  T sum_channel(const T* total, index_t c) const {
    T sum = 0;
    for (index_t i = c; i < layout_.tap; i += layout_.pixel) sum += total[i];
    return sum;
  }

  const Task& task_;
  const Spec& spec_;
  const GradLayout layout_;
  const GradBlocks blocks_;
  const Image x_image_, grad_image_;
  const index_t units_;
  T *x_panel_, *grad_panel_, *sums_, *totals_, *lost_;
  GradRun<T>* runs_;
  index_t* offsets_;
  Place at_{};
  index_t unit_ = 0, cleared_ = -1;
};

}  // namespace
