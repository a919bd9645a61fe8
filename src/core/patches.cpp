#include "patches.hpp"

#include <algorithm>
#include <optional>

#include "border.hpp"
#include "tile_choice.hpp"

namespace depthwise {
namespace {

// Tasks that a problem should offer, and row classes beyond which they are not taken apart.
constexpr index_t kPatchTasks = 8, kMaxClasses = 64;
// Bytes below which cutting a tile smaller costs more than what it spares.
constexpr index_t kLeastBytes = 1 << 17;

// Scratch parts begin at cache lines.
index_t lines(index_t bytes) { return ceil_div(bytes, kLineBytes) * kLineBytes; }

// Elements of a part of the scratch; far too many count as 2^50, so that no sum of such overflows.
index_t product(std::initializer_list<index_t> sizes) {
  constexpr index_t most = index_t{1} << 50;
  index_t n = 1;
  for (const index_t size : sizes)
    if (__builtin_mul_overflow(n, size, &n) || n > most) return most;
  return n;
}

// Positions that show the border: before the axis, and after it.
index_t outside(const Axis& a) { return a.pad + a.shown_end() - a.in; }

// The most positions of one piece that fold onto a tile.
index_t longest_run(const Axis& a, index_t tile) { return tile + std::min<index_t>(outside(a), 8); }

// Results that no tap outside the image enters.
Run forward_inner(const Axis& a) {
  const index_t room = a.in - 1 - ((a.kernel - 1) * a.dilation - a.pad);
  const Run r{ceil_div(a.pad, a.stride), room < 0 ? 0 : std::min(a.out, room / a.stride + 1)};
  return r.empty() ? Run{} : r;
}

// Pixels that no position outside the image shows.
Run grad_input_inner(Border border, const Axis& a) {
  const index_t before = a.pad, after = a.shown_end() - a.in;
  if (before >= a.in || after >= a.in) return {};
  Run r{0, a.in};
  const auto exclude = [&](index_t first, index_t last) {
    const index_t x = map_border(border, first, a.in), y = map_border(border, last, a.in);
    const index_t low = std::min(x, y), high = std::max(x, y);
    if (low < a.in - 1 - high)
      r.begin = std::max(r.begin, high + 1);
    else
      r.end = std::min(r.end, low);
  };
  if (before > 0) exclude(-before, -1);
  if (after > 0) exclude(a.in, a.in + after - 1);
  return r.empty() ? Run{} : r;
}

// What the kernel computes in place: nothing unless that is nearly all, for narrow strips take longer than
// their share.
void find_inner(Patches& p) {
  const Spec& s = p.spec;
  if (s.op == Op::grad_filter || s.input != Storage::same || s.output != Storage::same) return;
  const bool forward = s.op == Op::forward;
  const Run rows = forward ? forward_inner(s.h) : grad_input_inner(s.border, s.h);
  const Run columns = forward ? forward_inner(s.w) : grad_input_inner(s.border, s.w);
  const index_t all = forward ? s.h.out * s.w.out : s.h.in * s.w.in;
  if (8 * rows.size() * columns.size() < 7 * all) return;
  p.inner_rows = rows, p.inner_columns = columns;
}

AxisClass whole_axis(index_t size) {
  return {.out_start = 0,
          .out_step = 1,
          .out_count = size,
          .src_start = 0,
          .src_step = 1,
          .src_size = size,
          .stride = 1,
          .spacing = 1,
          .taps = 1,
          .tap_start = 0,
          .tap_step = 1};
}

// The members of a class that lie within `inner`.
Run within(const AxisClass& c, const Run& inner) {
  const auto first_from = [&](index_t position) {
    const index_t u = position <= c.out_start ? 0 : ceil_div(position - c.out_start, c.out_step);
    return std::min(u, c.out_count);
  };
  return {first_from(inner.begin), first_from(inner.end)};
}

// What lies around the inner rectangle: above and below, left and right.
void add_strips(Patches& p, const AxisClass& h, const AxisClass& w) {
  Run r = within(h, p.inner_rows), c = within(w, p.inner_columns);
  if (r.empty() || c.empty()) r = c = {};
  const Run all_columns{0, w.out_count};
  for (const auto& [rows, columns] :
       {std::pair{Run{0, r.begin}, all_columns}, std::pair{Run{r.end, h.out_count}, all_columns},
        std::pair{r, Run{0, c.begin}}, std::pair{r, Run{c.end, w.out_count}}})
    if (!rows.empty() && !columns.empty())
      p.strips.push_back({.h = h, .w = w, .rows = rows, .columns = columns});
}

void find_strips(Patches& p) {
  const Spec& s = p.spec;
  if (s.op == Op::grad_input) return add_strips(p, whole_axis(s.h.in), whole_axis(s.w.in));
  const bool split = class_count(s.op, s.h, Dilation::split) <= kMaxClasses;
  const Dilation rows = split ? Dilation::split : Dilation::keep;
  for (index_t k = 0; k < class_count(s.op, s.h, rows); ++k)
    add_strips(p, axis_class(s.op, s.h, rows, k), axis_class(s.op, s.w, Dilation::keep, 0));
}

// Sources that a tile reads, in units of what it would read without a halo.
double waste(const Patches& p, const AxisClass& c, const Axis& axis, index_t tile) {
  const double n = static_cast<double>(tile);
  if (p.spec.op != Op::grad_input)
    return static_cast<double>(c.span(tile)) / (n * static_cast<double>(c.stride));
  return (n + static_cast<double>((axis.kernel - 1) * axis.dilation)) / n;
}

// The largest tile within `bytes`: wide, since rows lie together in memory, but not so flat that its halo of
// rows outweighs it. Returns its waste relative to the whole strip's, or infinity when there is none.
double choose_tile(const Patches& p, Strip& s, index_t channels, index_t bytes) {
  s.tile_rows = s.rows.size(), s.tile_columns = s.columns.size();
  const index_t flat = 4 * (p.spec.h.kernel + 1);
  while (p.layout(s, channels).kernel > bytes) {
    if (s.tile_rows == 1 && s.tile_columns == 1) return 1e300;
    const double rows = waste(p, s.h, p.spec.h, ceil_div(s.tile_rows, 2)),
                 columns = waste(p, s.w, p.spec.w, ceil_div(s.tile_columns, 2));
    if (s.tile_rows > 1 && (s.tile_columns == 1 || s.tile_rows > flat || rows < columns))
      s.tile_rows = std::max<index_t>(s.tile_rows * 3 / 4, 1);
    else
      s.tile_columns = std::max<index_t>(s.tile_columns * 3 / 4, 1);
  }
  s.tile_rows = ceil_div(s.rows.size(), s.row_tiles());
  s.tile_columns = ceil_div(s.columns.size(), s.column_tiles());
  return waste(p, s.h, p.spec.h, s.tile_rows) / waste(p, s.h, p.spec.h, s.rows.size()) *
         waste(p, s.w, p.spec.w, s.tile_columns) / waste(p, s.w, p.spec.w, s.columns.size());
}

// The most waste of any strip's tile, which it chooses.
double choose_tiles(Patches& p, index_t channels, index_t bytes) {
  double most = 0;
  for (Strip& s : p.strips) most = std::max(most, choose_tile(p, s, channels, bytes));
  return most;
}

// Fewer channels to a piece where tiles of all would be small against their halo. Channels last are copied in
// longer runs the more of them there are, and copying is little against many taps; planes are best left
// whole.
bool choose_sizes(Patches& p, index_t bytes) {
  const Spec& s = p.spec;
  const index_t line = kLineBytes / compute_bytes(s.dtype);
  const bool nhwc = s.layout == Layout::nhwc;
  const double bearable = nhwc ? 1.25 + static_cast<double>(s.h.kernel * s.w.kernel) / 256 : 1.01;
  index_t channels = nhwc ? s.channels : std::min(s.channels, line), best = 0;
  double least = 1e299;
  for (;;) {
    const double found = choose_tiles(p, channels, bytes);
    if (found < least) least = found, best = channels;
    if (least <= bearable || channels == 1) break;
    channels = channels > line ? ceil_div(channels / 2, line) * line : channels / 2;
  }
  if (best == 0) return false;
  choose_tiles(p, best, bytes);
  p.channels = best;
  p.channel_blocks = ceil_div(s.channels, best);
  return true;
}

// Bytes for a tile: what the second-level cache holds beside the kernel's own, and not more than a task's
// share of the whole.
index_t first_bytes(const Patches& p) {
  const Spec& s = p.spec;
  const index_t all =
      (s.input_elements() / std::max<index_t>(s.batch, 1) + s.output_elements()) * dtype_bytes(p.dtype);
  return std::clamp(all / kPatchTasks, kLeastBytes, std::max(kLeastBytes, caches().l2 * 3 / 8));
}

// How many of the positions from `at` on show pixels of one tile, or none of any, as its number or -1 tells.
struct Shown {
  index_t positions, tile;
};
Shown shown_from(Border border, const Axis& a, const Run& pixels, index_t tile, index_t at) {
  const index_t pixel = map_border(border, at, a.in);
  const Stretch s = stretch_from(border, at, a.in);
  // The neighbours on the way that show the same tile, or pixels on the same side of all.
  Run same{pixels.end, a.in};
  index_t of = -1;
  if (pixel < pixels.begin) {
    same = {0, pixels.begin};
  } else if (pixel < pixels.end) {
    of = (pixel - pixels.begin) / tile;
    same = pixels.part(of, tile);
  }
  const index_t left = s.step > 0 ? same.end - pixel : s.step < 0 ? pixel - same.begin + 1 : s.positions;
  return {std::min({left, s.positions, a.shown_end() - at}), of};
}

// The padded positions that show the pixels of each tile, in pieces of neighbours; nothing where there are so
// many pieces that listing them would take long.
std::optional<std::vector<std::vector<Run>>> find_runs(Border border, const Axis& a, const Run& pixels,
                                                       index_t tile) {
  constexpr index_t kMostPieces = 1 << 18;
  const index_t longest = longest_run(a, tile);
  index_t last = -1, pieces = ceil_div(pixels.size(), tile);
  if (pieces > kMostPieces) return {};
  std::vector<std::vector<Run>> runs(pieces);
  for (index_t at = -a.pad; at < a.shown_end(); ++pieces) {
    if (pieces > kMostPieces) return {};
    auto [count, of] = shown_from(border, a, pixels, tile, at);
    if (of >= 0) {
      if (of != last || runs[of].back().size() == longest) runs[of].push_back({at, at});
      count = std::min(count, longest - runs[of].back().size());
      runs[of].back().end += count;
    }
    at += count;
    last = of;
  }
  return runs;
}

// Kinds of pieces up to which each gets a plan. Sane problems have a few.
constexpr std::size_t kMostPlans = 1 << 12;

// Every axis of a piece that a strip needs, along the rows, or the columns; or more than there may be plans.
std::vector<Axis> piece_axes(const Patches& p, const Strip& s, bool rows) {
  std::vector<Axis> axes;
  const auto add = [&axes](const Axis& a) {
    if (axes.size() > kMostPlans) return;
    const auto same = [&a](const Axis& b) { return a.in == b.in && a.out == b.out && a.pad == b.pad; };
    if (std::none_of(axes.begin(), axes.end(), same)) axes.push_back(a);
  };
  if (p.spec.op == Op::grad_input) {
    for (const auto& runs : rows ? s.row_runs : s.column_runs)
      for (const Run& r : runs) add(grad_input_piece(rows ? p.spec.h : p.spec.w, r).axis);
    return axes;
  }
  const index_t tiles = rows ? s.row_tiles() : s.column_tiles();
  for (const index_t i : {index_t{0}, tiles - 1})
    add(forward_piece(rows ? s.h : s.w, rows ? s.tile_row(i) : s.tile_column(i)).axis);
  return axes;
}

// The kernel or the algorithm asked for may not take every piece; all give the piece's sums.
Plan plan_piece(Spec spec, const Isa& isa, const std::string& kernel) {
  const bool named = has_kernel(spec, kernel, isa);
  if (!named && !has_kernel(spec, "", isa)) spec.algorithm = Algorithm::direct;
  Plan plan = make_whole_plan(spec, named ? kernel : "", isa.name);
  join_rows(plan);
  return plan;
}

// Whether every tile has its pieces.
bool find_pieces(Patches& p) {
  if (p.spec.op != Op::grad_input) return true;
  for (Strip& s : p.strips) {
    auto rows = find_runs(p.spec.border, p.spec.h, s.rows, s.tile_rows);
    auto columns = rows ? find_runs(p.spec.border, p.spec.w, s.columns, s.tile_columns) : std::nullopt;
    if (!columns) return false;
    s.row_runs = std::move(*rows), s.column_runs = std::move(*columns);
  }
  return true;
}

// Whether there are few enough kinds of pieces.
bool plan_pieces(Patches& p, const std::string& kernel) {
  for (Strip& s : p.strips) {
    const std::vector<Axis> rows = piece_axes(p, s, true), columns = piece_axes(p, s, false);
    for (const Axis& h : rows)
      for (const Axis& w : columns)
        for (const index_t block : {index_t{0}, p.channel_blocks - 1}) {
          const Spec piece = p.piece(h, w, p.channel_count(block));
          const Plan* plan = p.find(piece);
          if (!plan && p.plans.size() == kMostPlans) return false;
          if (!plan) plan = &p.plans.emplace_back(plan_piece(piece, *p.isa, kernel));
          const index_t kernel = plan->rule.scratch_bytes + plan->rule.unprepared_scratch_bytes;
          p.scratch_bytes = std::max(p.scratch_bytes, p.layout(s, p.channels).kernel + kernel);
        }
  }
  return true;
}

void count_tiles(Patches& p) {
  p.first_tile = {0};
  for (const Strip& s : p.strips)
    p.first_tile.push_back(p.first_tile.back() + p.spec.batch * s.row_tiles() * s.column_tiles());
  if (p.spec.op != Op::grad_filter) return;
  p.parts = std::clamp<index_t>(ceil_div(kPatchTasks, p.channel_blocks), 1, std::max<index_t>(p.tiles(), 1));
  p.sums_bytes =
      lines(p.spec.h.kernel * p.spec.w.kernel * p.channels * p.spec.multiplier * dtype_bytes(p.dtype));
}

}  // namespace

PieceAxis forward_piece(const AxisClass& c, Run outputs) {
  return {{.in = c.span(outputs.size()),
           .out = outputs.size(),
           .kernel = c.taps,
           .stride = c.stride,
           .dilation = c.spacing,
           .pad = 0},
          c.source(c.stride * outputs.begin)};
}

// Every gradient that a tap brings to one of the positions, and with strides at least two, so that it remains
// known which taps meet.
PieceAxis grad_input_piece(const Axis& a, Run positions) {
  const index_t first = positions.begin + a.pad, last = positions.end - 1 + a.pad;
  const index_t behind = first - (a.kernel - 1) * a.dilation;
  const index_t source =
      std::min(behind > 0 ? ceil_div(behind, a.stride) : behind / a.stride, first / a.stride);
  const index_t count = last / a.stride - source + 1;
  return {{.in = positions.size(),
           .out = a.stride > 1 ? std::max<index_t>(count, 2) : count,
           .kernel = a.kernel,
           .stride = a.stride,
           .dilation = a.dilation,
           .pad = first - a.stride * source},
          source};
}

Spec Patches::piece(const Axis& h, const Axis& w, index_t block_channels) const {
  Spec s = spec;
  s.border = Border::constant;
  s.input = s.output = Storage::same;
  s.dtype = dtype;
  s.batch = 1;
  s.channels = block_channels;
  s.h = h, s.w = w;
  return s;
}

const Plan* Patches::find(const Spec& piece) const {
  const auto same = [](const Axis& a, const Axis& b) {
    return a.in == b.in && a.out == b.out && a.pad == b.pad;
  };
  for (const Plan& plan : plans)
    if (plan.spec.channels == piece.channels && same(plan.spec.h, piece.h) && same(plan.spec.w, piece.w))
      return &plan;
  return nullptr;
}

PieceLayout Patches::layout(const Strip& s, index_t c) const {
  const index_t bytes = dtype_bytes(dtype), outputs = c * spec.multiplier;
  const index_t filter = product({spec.h.kernel, spec.w.kernel, outputs});
  const index_t own_filter = c == spec.channels && dtype == spec.dtype ? 0 : filter;
  PieceLayout l{};
  index_t at = 0;
  const auto take = [&at, bytes](index_t elements) {
    const index_t begin = at;
    at += lines(elements * bytes);
    return begin;
  };
  const index_t tile = product({s.tile_rows, s.tile_columns, c}), results = product({tile, spec.multiplier});
  if (spec.op == Op::grad_input) {
    const index_t rows = longest_run(spec.h, s.tile_rows), columns = longest_run(spec.w, s.tile_columns);
    const auto sources = [](const Axis& a, index_t n) {
      return (n - 1 + (a.kernel - 1) * a.dilation) / a.stride + 2;
    };
    l.source = take(product({sources(spec.h, rows), sources(spec.w, columns), outputs}));
    l.second = take(own_filter);
    l.result = take(product({rows, columns, c}));
    l.sums = take(product({rows, s.tile_columns, c}));
    l.totals = take(tile);
  } else {
    // The filter gradient's own come first: they stay where they are from strip to strip.
    const bool forward = spec.op == Op::forward;
    l.sums = take(forward ? 0 : filter);
    l.result = take(forward ? results : filter);
    l.source = take(product({s.h.span(s.tile_rows), s.w.span(s.tile_columns), c}));
    l.second = take(forward ? own_filter : results);
  }
  l.kernel = at;
  return l;
}

std::shared_ptr<const Patches> make_patches(const Plan& plan, const std::string& kernel) {
  Patches p;
  p.spec = plan.spec;
  p.isa = plan.isa;
  p.dtype = plan.spec.op == Op::forward || plan.spec.dtype == DType::f64 ? plan.spec.dtype : DType::f32;
  find_inner(p);
  find_strips(p);
  for (index_t bytes = first_bytes(p); bytes >= kLineBytes; bytes /= 2) {
    p.plans.clear();
    p.scratch_bytes = 0;
    // A large kernel needs more than the usual share, but never more than the bound.
    const bool usual = choose_sizes(p, bytes);
    if (!usual && !choose_sizes(p, kMaxScratchBytes * 3 / 4)) return nullptr;
    if (!find_pieces(p) || !plan_pieces(p, kernel)) return nullptr;
    count_tiles(p);
    if (p.scratch_bytes <= kMaxScratchBytes) return std::make_shared<const Patches>(std::move(p));
    if (!usual) return nullptr;
  }
  return nullptr;
}

}  // namespace depthwise
