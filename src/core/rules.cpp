// When each kernel applies, when it is preferred, and how it cuts the work. The measurements behind the
// choices are in docs/performance.md; `depthwise bench choices` checks them against the alternatives.
#include <algorithm>
#include <numeric>

#include "fft_rules.hpp"
#include "kernels/direct_layout.hpp"
#include "kernels/flat_layout.hpp"
#include "kernels/grad_layout.hpp"
#include "kernels/line_layout.hpp"
#include "kernels/transposed_layout.hpp"
#include "separable_rules.hpp"
#include "tile_choice.hpp"

namespace depthwise {
namespace {

index_t image_bytes(const Spec& spec) {
  return (spec.input_elements() + spec.output_elements()) * dtype_bytes(spec.dtype);
}
// Measured: from here on, fetching and streaming stores gain more than they cost.
bool beyond_caches(const Spec& spec) { return image_bytes(spec) > 16 << 20; }

Rule lines_rule(const Spec& spec) {
  Rule r;
  // Packing brings the pixels of a residue together; a plane's rows are packed as they lie.
  r.columns = spec.layout == Layout::nhwc ? Dilation::split : Dilation::keep;
  const Problem p(spec, r.columns);
  const index_t line = kLineBytes / compute_bytes(spec.dtype);
  r.units = ceil_div(p.channels, line);
  const auto scratch = [&](const Tile& t) { return line_scratch_bytes(line_layout(spec, t, p.h, p.w)); };
  r.tile.columns = p.w.out_count;
  fit_columns(r.tile, caches().l1 / 2, 16, scratch);
  r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));
  r.tile.pixels = choose_pixels(r.tile.columns);
  if (r.tile.columns < p.w.out_count)
    r.tile.columns = ceil_div(r.tile.columns, r.tile.pixels) * r.tile.pixels;
  const index_t blocks = ceil_div(p.w.out_count, r.tile.columns) * spec.batch * r.units;
  const index_t steps = r.tile.columns * line * p.h.taps * p.w.taps;
  r.tile.rows = choose_packed_rows(p, blocks, steps);
  r.tile.units = choose_units(r.units, blocks * ceil_div(p.h.out_count, r.tile.rows), steps * r.tile.rows);
  for (Tile taller = r.tile; taller.rows_at_once < r.tile.rows; r.tile = taller) {
    ++taller.rows_at_once;
    if (scratch(taller) > caches().l1 * 3 / 4) break;
  }
  r.scratch_bytes = scratch(r.tile);
  r.applies = r.scratch_bytes <= kMaxScratchBytes && p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

Rule flat_rule(const Spec& spec, int vector_bytes) {
  const Problem p(spec);
  const bool nhwc = spec.layout == Layout::nhwc;
  const index_t lanes = vector_bytes / compute_bytes(spec.dtype),
                pixel = nhwc ? std::max<index_t>(p.channels, 1) : 1;
  Rule r;
  r.tile.period = static_cast<int>(std::min<index_t>(pixel / std::gcd(pixel, lanes), 99));
  r.units = nhwc ? 1 : spec.channels;
  const auto scratch = [&](const Tile& t) { return flat_scratch_bytes(spec, t, p.h, p.w); };
  r.tile.columns = p.w.out_count;
  // Rows packed again for the next block, and padding, are few against this many.
  r.tile.rows_at_once =
      static_cast<int>(std::clamp<index_t>(4 * p.h.taps, 8, std::max<index_t>(8, p.h.out_count)));
  // Rows as long as the second-level cache allows, which the processor fetches ahead.
  const index_t room = std::min(caches().l2, kMaxScratchBytes) / 2;
  fit_columns(r.tile, room, ceil_div(16 * lanes * r.tile.period, pixel), scratch);
  r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));  // even shares
  const index_t blocks = ceil_div(p.w.out_count, r.tile.columns) * spec.batch * r.units;
  const index_t steps = r.tile.columns * pixel * p.h.taps * p.w.taps * (nhwc ? 1 : spec.multiplier);
  const int tile_rows = nhwc ? 8 : vector_bytes == kLineBytes ? 7 : 4;  // whole tiles
  r.tile.rows = choose_packed_rows(p, blocks, steps);
  if (nhwc) r.tile.rows = std::min(ceil_div(r.tile.rows, tile_rows) * tile_rows, p.h.out_count);
  r.tile.units = choose_units(r.units, blocks * ceil_div(p.h.out_count, r.tile.rows), steps * r.tile.rows);
  r.tile.rows_at_once = tile_rows;
  for (Tile taller = r.tile; taller.rows_at_once < r.tile.rows; r.tile = taller) {
    taller.rows_at_once += tile_rows;
    if (scratch(taller) > caches().l1 * 3 / 4) break;
  }
  r.tile.stream = beyond_caches(spec);
  r.scratch_bytes = scratch(r.tile);
  const bool tiles = r.tile.period == 1 || r.tile.period == 3 || r.tile.period == 5 || r.tile.period == 7;
  r.applies = tiles && r.scratch_bytes <= kMaxScratchBytes && p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

Rule generic_rule(const Spec& spec) {
  const Problem p(spec);
  Rule r;
  r.applies = r.preferred = true;
  r.rows = r.columns = Dilation::keep;
  r.units = p.channels;
  r.tile.units = std::max<index_t>(p.channels, 1);
  r.tile.columns = std::min<index_t>(p.w.out_count, 64);
  r.reason = "no vector kernel fits its rows into the scratch";
  return r;
}

// Rows that a tap walks down at a time, so that beginning a column costs little.
constexpr index_t kGradRows = 8;
// Sums of a task, which stay in the cache beside the block and are added up where tasks share a unit.
constexpr index_t kMaxGradSums = 64 << 10;

// Rows and images of a block of the filter gradient: enough positions that adding its sums up costs little,
// and rows that stay in the cache while every tap passes over them.
template <class Bytes>
void choose_grad_block(Tile& tile, const Problem& p, index_t least, index_t most, const Bytes& bytes) {
  const index_t positions = std::max<index_t>(1, grad_positions(p.h, p.h.out_count));
  const index_t columns = std::max<index_t>(1, tile.columns);
  tile.rows = std::min(positions, std::max(kGradRows, ceil_div(least, columns)));
  while (tile.rows > 1 && bytes(tile) > most) tile.rows = ceil_div(tile.rows, 2);
  tile.rows = ceil_div(positions, ceil_div(positions, tile.rows));  // even shares
  if (tile.rows % p.h.stride != 0 && tile.rows < positions) tile.rows += p.h.stride - tile.rows % p.h.stride;
  if (tile.rows < positions) return;
  for (Tile more = tile; more.images < p.spec.batch && more.images * positions * columns < least;
       tile = more) {
    ++more.images;
    if (bytes(more) > most) break;
  }
}

// In place: blocks of whole rows, and as many channels as leave enough tasks. Those of a pixel are adjacent.
void choose_grad_direct(Tile& tile, const Problem& p, index_t units, index_t unit_sums) {
  constexpr index_t kMostRows = 16, kPositions = 2048, kLeastUnits = 8;
  const index_t positions = std::max<index_t>(1, grad_positions(p.h, p.h.out_count));
  tile.columns = std::max<index_t>(1, p.w.out_count);
  // Rows enough that those which two blocks read are few, but not so many that plain sums grow inexact.
  const index_t rows = std::clamp(kPositions / tile.columns, kGradRows, kMostRows);
  tile.rows = ceil_div(positions, ceil_div(positions, rows));
  if (tile.rows % p.h.stride != 0 && tile.rows < positions) tile.rows += p.h.stride - tile.rows % p.h.stride;
  tile.units = std::clamp<index_t>(units / 8, std::min(units, kLeastUnits), std::max<index_t>(1, units));
  tile.units = std::clamp<index_t>(kMaxGradSums / std::max<index_t>(unit_sums, 1), 1, tile.units);
  tile.units = ceil_div(units, ceil_div(units, tile.units));
}

// Enough tasks for the threads: by units alone where there are many, else by parts of the blocks.
Rule grad_filter_rule(const Spec& spec, int vector_bytes, GradForm form) {
  Problem p(spec);
  const bool nhwc = spec.layout == Layout::nhwc, flat = form == GradForm::flat;
  const index_t element = compute_bytes(spec.dtype), lanes = vector_bytes / element,
                line = kLineBytes / element;
  Rule r;
  r.columns = flat ? Dilation::keep : Dilation::split;
  p.w = widest(spec, spec.w, r.columns);
  const index_t pixel = nhwc && flat ? std::max<index_t>(p.channels, 1) : 1;
  r.tile.period = static_cast<int>(std::min<index_t>(pixel / std::gcd(pixel, lanes), 99));
  r.units = !flat ? ceil_div(p.channels, line) : nhwc ? 1 : spec.channels;
  const auto layout = [&](const Tile& t) { return grad_layout(spec, t, p.h, p.w, form, lanes); };
  const auto bytes = [&](const Tile& t) { return grad_panel_elements(layout(t), t) * element; };
  const auto scratch = [&](const Tile& t) { return grad_scratch_bytes(layout(t), t, p.w, spec.dtype); };
  r.tile.columns = p.w.out_count;
  r.tile.rows = 8;
  const auto sums = [&](const Tile& t) { return t.units * layout(t).sums * element; };
  if (form == GradForm::direct) {
    choose_grad_direct(r.tile, p, r.units, sums(r.tile));
  } else {
    const index_t most = caches().l1;
    fit_columns(r.tile, most, 16, bytes);
    r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));
    r.tile.units = std::clamp<index_t>(r.units / 8, 1, flat ? 16 : 4);
    while (r.tile.units > 1 && sums(r.tile) > kMaxGradSums) r.tile.units = ceil_div(r.tile.units, 2);
    choose_grad_block(r.tile, p, flat ? 256 * lanes : 512, most, bytes);
  }
  r.blocks = grad_blocks(spec, r.tile, p.h, p.w, class_count(spec.op, spec.h, r.rows),
                         class_count(spec.op, spec.w, r.columns))
                 .count();
  const index_t tasks = std::max<index_t>(1, ceil_div(r.units, r.tile.units));
  const index_t most_parts = std::max<index_t>(2, kMaxScratchBytes / 2 / (tasks * sums(r.tile)));
  r.parts =
      std::clamp<index_t>(std::min(ceil_div(kTasks, tasks), most_parts), 1, std::max<index_t>(r.blocks, 1));
  r.sums_bytes = sums(r.tile);
  r.scratch_bytes = scratch(r.tile);
  r.applies = r.tile.period <= 8 && r.scratch_bytes <= kMaxScratchBytes &&
              p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

Rule generic_grad_filter(const Spec& spec) {
  Rule r;
  r.applies = r.preferred = true;
  r.units = spec.out_channels();
  r.reason = "no vector kernel fits its rows into the scratch";
  return r;
}

Rule vector_rule(const Spec& spec, int vector_bytes, bool lines) {
  if (spec.op == Op::grad_filter)
    return grad_filter_rule(spec, vector_bytes, lines ? GradForm::lines : GradForm::flat);
  return lines ? lines_rule(spec) : flat_rule(spec, vector_bytes);
}

// Shares of the lanes that do useful work.
double lane_use(index_t count, index_t lanes) {
  return static_cast<double>(count) / static_cast<double>(ceil_div(count, lanes) * lanes);
}
double line_use(const Spec& spec) {
  return lane_use(Problem(spec).channels, kLineBytes / compute_bytes(spec.dtype));
}
double plane_use(const Spec& spec, int vector_bytes) {
  return lane_use(Problem(spec).w.out_count, vector_bytes / compute_bytes(spec.dtype));
}

constexpr int kAvx2Bytes = 32;

// Taps whose weights a task of the direct kernel packs.
index_t packed_taps(const Problem& p, bool phases) {
  return phases ? p.spec.h.kernel * p.spec.w.kernel : p.h.taps * p.w.taps;
}

// Lines of channels of a task whose weights leave most of the second-level cache to the image.
index_t most_units(const Problem& p, bool phases) {
  return std::max<index_t>(1, caches().l2 / 4 / (packed_taps(p, phases) * kLineBytes));
}

// Whole rows and all channels, in the order of memory, which the processor fetches ahead; fewer where the
// rows under a tile, or the weights, would leave the second-level cache, or tasks are too few. `t` says what
// tiles and tasks are of; all columns are only where tasks are enough, or where they are computed together,
// and of 0 pixels are tiles that fit the columns.
Tile direct_tile(const Problem& p, index_t units, index_t line, Tile t) {
  constexpr index_t kLeastLines = 8, kLeastRows = 8, kEnoughTasks = 8;
  const Spec& s = p.spec;
  const index_t taps = packed_taps(p, t.phases);
  t.columns = p.w.out_count;
  const auto bytes = [&](const Tile& tile) {
    const index_t lines = ceil_div(units, s.multiplier);
    return (p.h.stride + p.h.taps) * p.w.span(tile.columns) * lines * kLineBytes;
  };
  fit_columns(t, caches().l2, 64, bytes);
  t.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, t.columns));
  if (t.pixels == 0) t.pixels = choose_pixels(t.columns);
  if (t.columns < p.w.out_count) t.columns = ceil_div(t.columns, t.pixels) * t.pixels;
  const index_t row_classes = class_count(s.op, s.h, Dilation::split),
                column_classes = class_count(s.op, s.w, Dilation::split);
  const bool enough = row_classes * s.batch >= kEnoughTasks || column_classes <= kMostParts;
  t.all_columns = t.all_columns && column_classes > 1 && enough;
  const index_t classes = t.phases ? 1 : t.all_columns ? row_classes : row_classes * column_classes;
  const index_t blocks = ceil_div(p.w.out_count, t.columns) * s.batch * classes;
  t.rows = choose_rows(p, std::max(kLeastRows, 2 * p.h.taps), blocks,
                       (t.all_columns ? s.w.out : t.columns) * units * line * taps);
  if (t.rows < p.h.out_count) t.rows += t.rows & 1;  // tiles take pairs
  const index_t wanted = ceil_div(kEnoughTasks, blocks * ceil_div(p.h.out_count, t.rows));
  t.units =
      std::min(std::max(ceil_div(units, wanted), std::min(units, kLeastLines)), most_units(p, t.phases));
  t.units = ceil_div(units, ceil_div(units, t.units));
  // The last block holds a whole vector, too.
  while (p.channels % line != 0 && units > t.units && (units - 1) % t.units == 0) ++t.units;
  return t;
}

// Tasks for few threads take all channels, as far as the second-level cache holds their weights: the
// processor fetches longer runs ahead.
void choose_coarse(Rule& r, const Problem& p) {
  Tile coarse = r.tile;
  coarse.units = std::min(r.units, most_units(p, r.tile.phases));
  if (coarse.units < r.units) return;
  r.coarse_units = coarse.units;
  r.coarse_scratch_bytes = direct_scratch_bytes(p.spec, coarse, p.h, p.w);
}

// Units of a task of planes where threads are few: as many as leave each of them some.
index_t coarse_share(index_t units) {
  constexpr index_t kCoarseTasks = 8;
  return std::max<index_t>(1, ceil_div(units, kCoarseTasks));
}

void choose_coarse_planes(Rule& r, const Spec& spec) {
  const index_t line = kLineBytes / compute_bytes(spec.dtype);
  r.coarse_units = coarse_share(ceil_div(r.units, line)) * line;
  r.coarse_scratch_bytes = r.scratch_bytes;
}

// Copied rows: blocks of channels that stay in the second-level cache, in runs long enough to be read ahead,
// and tall tasks, since each copies the rows that its neighbour above ends with.
void copy_rows(const Problem& p, Rule& r) {
  constexpr index_t kShare = 8;
  const index_t line = kLineBytes / compute_bytes(p.spec.dtype);
  r.tile.copies = true;
  const auto bytes = [&] { return direct_ring_bytes(p.spec, r.tile, p.h, p.w); };
  while (r.tile.units > 1 && bytes() > caches().l2 / kShare) r.tile.units = ceil_div(r.tile.units, 2);
  const index_t columns = ceil_div(p.w.out_count, r.tile.columns),
                classes =
                    class_count(p.spec.op, p.spec.h, r.rows) * class_count(p.spec.op, p.spec.w, r.columns);
  r.tile.rows = choose_packed_rows(p, ceil_div(r.units, r.tile.units) * columns * classes * p.spec.batch,
                                   r.tile.columns * r.tile.units * line * p.h.taps * p.w.taps);
  if (r.tile.rows < p.h.out_count) r.tile.rows += r.tile.rows & 1;
}

// Whether tiles of parts of lines gain from rows fetched ahead where the caches hold them, by measurement:
// not where most of their time goes into multiply-adds, nor where few of the rows are new to a tile, nor
// where tiles take two rows.
bool fetching_pays(const Problem& p) {
  const auto dense = [](const AxisClass& a) { return a.stride == 1 && a.spacing == 1; };
  const bool pairs = p.h.taps == 3 && p.w.taps == 3;
  return dense(p.h) && dense(p.w) && std::max(p.h.taps, p.w.taps) <= 5 && !pairs &&
         2 * image_bytes(p.spec) > 5 * caches().l2;
}

// Whether tiles of whole lines pay where a line has two vectors, by measurement: where pixels share so few
// sets of the first-level cache that a line under a wider tile is gone before its second part is read; tiles
// of one row, which results beyond the caches take, are wider. Not under taps between which there are others.
bool line_tiles_pay(const Problem& p, int vector_bytes) {
  const index_t element = compute_bytes(p.spec.dtype), pixel = p.channels * element;
  const bool as_it_is = p.spec.multiplier == 1 && dtype_bytes(p.spec.dtype) == element;
  if (2 * vector_bytes != kLineBytes || !as_it_is || pixel % kLineBytes != 0) return false;
  const bool strides = p.w.stride == 1 || p.w.stride == 2;
  if (p.h.taps != 3 || p.w.taps != 3 || p.w.spacing != 1 || !strides) return false;
  const index_t distance = kWayBytes / (p.w.stride == 2 ? 16 : beyond_caches(p.spec) ? 8 : 4);
  return (pixel % distance) * (p.w.src_step % distance) % distance == 0;
}

// Outputs of a row that tiles of a whole line in one vector hold, by measurement: few under 3x3 taps where
// what a wider tile reads would evict itself from the first-level cache (pixels of the one distance or the
// other, and a stride of 2), or where it is read and written beyond the caches, a page or more at a time.
// Else 0.
int few_pixels(const Problem& p, int vector_bytes) {
  const index_t element = compute_bytes(p.spec.dtype), pixel = p.channels * element;
  const bool as_it_is = p.spec.multiplier == 1 && dtype_bytes(p.spec.dtype) == element;
  if (vector_bytes != kLineBytes || !as_it_is || p.w.spacing != 1 || p.w.src_step != 1) return 0;
  if (p.h.taps != 3 || p.w.taps != 3 || p.h.stride != p.w.stride) return 0;
  if (p.w.stride == 2 && (pixel % kWayBytes == kWayBytes / 2 || pixel == kWayBytes / 4)) return kFewPixels;
  return p.w.stride == 1 && beyond_caches(p.spec) && pixel >= kWayBytes / 4 ? kLinePixels : 0;
}

// Rows far enough ahead for the memory to answer, not so far that they are evicted again; 0 where nothing
// pays.
int tiles_ahead(const Problem& p, const Tile& t, bool whole_lines) {
  constexpr index_t kFetchBytes = 4 << 10, kLeastTiles = 2, kStridedBytes = 10 << 20;
  const index_t pixel = p.channels / p.spec.multiplier * dtype_bytes(p.spec.dtype);
  // By measurement, where lines are read at once: under strides from less than the caches on.
  const bool strided = p.h.stride > 1 && t.pixels > kFewPixels && image_bytes(p.spec) > kStridedBytes;
  const bool pays = beyond_caches(p.spec) || (whole_lines ? strided : fetching_pays(p));
  return pays && pixel > 0 ? static_cast<int>(std::max(kLeastTiles, ceil_div(kFetchBytes, t.pixels * pixel)))
                           : 0;
}

// With `phases`, a task computes all classes of rows and columns; with `copies`, on copies of rows.
Rule direct_rule(const Spec& spec, int vector_bytes, bool phases = false, bool copies = false) {
  Rule r;
  r.columns = Dilation::split;
  r.whole = phases;
  const Problem p(spec, r.columns);
  const index_t element = compute_bytes(spec.dtype), line = kLineBytes / element;
  r.units = ceil_div(p.channels, line);
  const bool whole_lines = vector_bytes == kLineBytes,
             evicted =
                 p.channels * dtype_bytes(spec.dtype) % kWayBytes * (p.w.out_step % kWayBytes) % kWayBytes ==
                 0;
  Tile kind;
  kind.phases = phases;
  // Classes of columns share their weights: where a task has all of them, these are packed once.
  kind.all_columns = !phases && !copies && spec.op == Op::forward;
  kind.whole_lines = !phases && !copies && line_tiles_pay(p, vector_bytes);
  kind.pixels = kind.whole_lines ? kLinePixels : phases || copies ? 0 : few_pixels(p, vector_bytes);
  r.tile = direct_tile(p, r.units, line, kind);
  r.tile.fetch_ahead = tiles_ahead(p, r.tile, whole_lines);
  // Where a task computes all phases, parts of lines would be written past the caches out of order. Pixels
  // that evict each other from the caches are no faster to write past them.
  r.tile.stream = beyond_caches(spec) && (!phases || whole_lines) && !evicted;
  r.scratch_bytes = direct_scratch_bytes(spec, r.tile, p.h, p.w);
  if (!copies) choose_coarse(r, p);
  r.applies = spec.layout == Layout::nhwc && p.channels * element >= vector_bytes &&
              r.scratch_bytes <= kMaxScratchBytes;
  return r;
}

// Whether loading a vector of the type takes one or two instructions.
bool loads_fast(DType dtype, int vector_bytes) { return dtype != DType::f16 || vector_bytes >= kAvx2Bytes; }

// Whether a task computes all classes of a strided gradient: where they are few, and read the same rows.
bool takes_phases(const Spec& spec) {
  const auto phases = [&](const Axis& a) { return class_count(spec.op, a, Dilation::split); };
  return spec.op == Op::grad_input && phases(spec.h) <= kMostPhases && phases(spec.w) <= kMostPhases &&
         phases(spec.h) * phases(spec.w) > 1 && spec.h.stride * spec.w.stride > 1;
}

// Whether AVX2's kernels beat those of vectors twice as wide, by measurement, for channels that fill one of
// its vectors but none of these, unless a few wide vectors hold whole pixels of a row that many taps share.
bool narrow_channels_pay(const Spec& spec, int vector_bytes) {
  constexpr index_t kFewVectors = 3, kFewTaps = 9;
  const index_t element = compute_bytes(spec.dtype), channels = Problem(spec).channels,
                wide = kLineBytes / element;
  if (vector_bytes != kAvx2Bytes || channels * element < vector_bytes || channels >= wide) return false;
  const bool whole = channels / std::gcd(channels, wide) <= kFewVectors,
             few_taps = spec.op == Op::grad_filter && spec.h.kernel * spec.w.kernel <= kFewTaps;
  return !whole || few_taps || spec.h.stride > 1 || spec.w.stride > 1;
}

Rule nhwc_direct(const Spec& spec, int vector_bytes) {
  constexpr index_t kLeastColumns = 4, kMany = 7;  // so that copies are read often enough
  // Tiles that read parts of cache lines pay for evictions with every part.
  const bool whole_lines = vector_bytes * dtype_bytes(spec.dtype) == kLineBytes * compute_bytes(spec.dtype);
  const Problem p(spec, Dilation::split);
  const index_t pixel = spec.channels * dtype_bytes(spec.dtype) * p.w.src_step;
  const bool evicted = pixel % (whole_lines ? kWayBytes : kWayBytes / 2) == 0 &&
                       p.w.out_count >= (whole_lines ? kMany : kLeastColumns);
  // Under a stride of 2, tiles of one pixel and whole lines take less time than copies.
  const bool one_pixel =
                 evicted && pixel % kWayBytes != 0 && p.w.stride == 2 && line_tiles_pay(p, vector_bytes),
             copies = evicted && !one_pixel;
  Rule r = direct_rule(spec, vector_bytes, !evicted && takes_phases(spec), copies);
  r.applies = r.applies && spec.multiplier == 1;
  if (one_pixel) r.tile.pixels = 1;
  if (r.applies && copies) {
    copy_rows(p, r);
    r.scratch_bytes = direct_scratch_bytes(spec, r.tile, p.h, p.w);
    r.applies = r.scratch_bytes <= kMaxScratchBytes;
  }
  r.preferred = loads_fast(spec.dtype, vector_bytes);
  r.beats_wider = r.applies && narrow_channels_pay(spec, vector_bytes);
  r.reason = r.tile.copies   ? "channels fill the lanes; rows whose pixels evict each other are copied"
             : r.tile.phases ? "channels fill the lanes, the image is read in place, for all phases at once"
                             : "channels fill the lanes, and the image is read in place";
  return r;
}

Rule nhwc_direct_multiplier(const Spec& spec, int vector_bytes) {
  Rule r = direct_rule(spec, vector_bytes);
  // Fewer channels than lanes are loaded with masks, which AVX2 has for its own lanes only.
  const bool masks = vector_bytes == kLineBytes ||
                     (vector_bytes == kAvx2Bytes && compute_bytes(spec.dtype) == dtype_bytes(spec.dtype));
  r.applies = r.applies && spec.multiplier > 1 &&
              (masks || spec.channels * compute_bytes(spec.dtype) >= vector_bytes);
  r.preferred = vector_bytes >= kAvx2Bytes;  // narrower vectors have no instruction that permutes them
  r.beats_wider = r.applies && narrow_channels_pay(spec, vector_bytes);
  r.reason = "output channels fill the lanes, the image is read in place, and each channel repeated";
  return r;
}

// Whether a row's pixels and channels pay as one, by measurement: where channels fill no vector; where they
// do, on AVX2 only under 3x3 taps of stride 1, not for the filter's gradient. `half` says that they fill
// lines by half.
bool flat_rows_pay(const Spec& spec, int vector_bytes, bool half) {
  const bool fill = Problem(spec).channels * compute_bytes(spec.dtype) >= vector_bytes;
  if (!fill) return true;
  if (vector_bytes < kAvx2Bytes) return half;
  const auto three = [](const Axis& a) { return a.kernel == 3 && a.stride == 1; };
  return vector_bytes == kAvx2Bytes && half && three(spec.h) && three(spec.w) && spec.op != Op::grad_filter;
}

Rule nhwc_few_channels(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, false);
  r.applies = r.applies && spec.layout == Layout::nhwc && Problem(spec).channels <= 64;
  const bool repeats = spec.op == Op::forward && spec.multiplier > 1;
  const Rule direct = repeats ? nhwc_direct_multiplier(spec, vector_bytes) : Rule{};
  const bool in_place = direct.applies && direct.preferred;
  const bool half = line_use(spec) < 0.7;
  // Wide enough tiles, and pixels repeated for their outputs in whole vectors.
  const bool whole = repeats && !in_place && r.tile.period <= 3;
  // Measured: outputs read in place fill lanes that are half empty sooner.
  r.preferred = spec.multiplier == 1 ? flat_rows_pay(spec, vector_bytes, half) : whole || (half && !in_place);
  r.beats_wider = r.applies && narrow_channels_pay(spec, vector_bytes);
  r.reason = "too few channels to fill the lanes: a row's pixels and channels are taken as one";
  return r;
}

Rule grad_filter_nhwc_direct(const Spec& spec, int vector_bytes) {
  const index_t element = compute_bytes(spec.dtype);
  Rule r = grad_filter_rule(spec, vector_bytes, GradForm::direct);
  r.applies = r.applies && spec.layout == Layout::nhwc && spec.multiplier == 1 &&
              element == dtype_bytes(spec.dtype) && spec.channels * element >= vector_bytes;
  r.preferred = vector_bytes == kLineBytes || spec.channels * element % (kWayBytes / 4) != 0;
  r.beats_wider = r.applies && narrow_channels_pay(spec, vector_bytes);
  r.reason = "channels fill the lanes, and both images are read in place";
  return r;
}

Rule nhwc(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, true);
  r.applies = r.applies && spec.layout == Layout::nhwc && (spec.op != Op::forward || spec.multiplier == 1);
  r.preferred = true;
  r.reason = "channels fill the lanes";
  return r;
}

Rule nhwc_multiplier(const Spec& spec) {
  Rule r = lines_rule(spec);
  r.applies = r.applies && spec.layout == Layout::nhwc && spec.multiplier != 1;
  r.preferred = true;
  r.reason = "output channels fill the lanes; each input channel is repeated as its rows are packed";
  return r;
}

constexpr index_t kTileRows = 7;
constexpr index_t kShortRow = 12;  // which are transposed, unless planes are read in place

// Whether planes have tiles of several rows, which beat transposed channels even where they fill half the
// lanes.
bool plane_tiles(const Spec& spec) {
  const Problem p(spec);
  const bool square = p.h.taps == p.w.taps && (p.h.taps == 3 || p.h.taps == 5 || p.h.taps == 7);
  const bool strides = p.h.stride == p.w.stride && p.h.stride <= 2 && (p.h.stride == 1 || p.w.spacing == 1);
  const bool planes = spec.op == Op::forward || (spec.op == Op::grad_input && spec.multiplier == 1);
  return planes && square && strides && p.h.out_count >= kTileRows;
}

// Rows of results that stay in the first-level cache beside the rows under them.
index_t transposed_rows(const Problem& p, index_t rows, index_t columns) {
  constexpr index_t kBlock = 8 << 10;
  const index_t most = std::max<index_t>(1, kBlock / (std::max<index_t>(columns, 1) * kLineBytes));
  const index_t even = ceil_div(rows, ceil_div(rows, most));
  return std::min(rows, p.h.stride == 1 && p.h.spacing == 1 ? even + (even & 1) : even);  // tiles take pairs
}

// Whether transposing pays, by measurement, where planes have no tiles of several rows: up to a number of
// columns, since every output of a multiplier transposes its input again and a single row of taps uses it
// little; with AVX2, where classes have few rows, too.
bool transposing_pays_without_tiles(const Spec& spec, const Problem& p, int vector_bytes) {
  struct Limits {
    index_t taps, columns, repeated, under_row;
  };
  constexpr index_t kFewTaps = 5;
  const bool avx2 = vector_bytes == kAvx2Bytes;
  const index_t taps = p.h.taps * p.w.taps, columns = p.w.out_count;
  if (!avx2 && vector_bytes != kLineBytes) return taps >= kFewTaps;
  const Limits limits = avx2 ? Limits{3, 65, 33, 14} : Limits{4, 75, 56, 33};
  if (taps < limits.taps) return false;
  if (p.h.taps == 1) return columns <= limits.under_row;
  if (avx2 && p.h.out_count < kTileRows) return true;
  return columns <= (spec.multiplier == 1 ? limits.columns : limits.repeated);
}

// The same under dilated taps where planes have such tiles.
bool transposing_pays_dilated(const Problem& p, int vector_bytes) {
  constexpr index_t kDilated = 4, kMostColumns = 40;
  if (vector_bytes == kAvx2Bytes || p.w.spacing < kDilated) return false;
  return vector_bytes != kLineBytes || (p.w.taps >= 5 && p.w.out_count <= kMostColumns);
}

// Whether transposing pays, by measurement: where planes have no tiles of several rows, and where their rows
// are short; where planes do not evict their neighbours, all of which are read and written at once.
bool transposing_pays(const Spec& spec, const Problem& p, bool whole, int vector_bytes) {
  constexpr double kLeastUse = 0.7, kLeastImageUse = 2 / 3.0;
  const index_t element = compute_bytes(spec.dtype), lanes = vector_bytes / element, columns = p.w.out_count;
  if (lane_use(p.channels, lanes) < kLeastUse) return false;
  if (whole) return true;
  const auto evicted = [&](const Axis& y, const Axis& x) {
    const index_t in = y.in * x.in * element, out = y.out * x.out * element;
    return in % kWayBytes == 0 || out % kWayBytes == 0;
  };
  const index_t taps = std::max(p.h.taps, p.w.taps);
  // Small planes are read where they lie, as far as their rows fill vectors.
  const bool images = vector_bytes == kAvx2Bytes && element == dtype_bytes(spec.dtype) && plane_tiles(spec) &&
                      ((taps == 3 && columns <= 2 * lanes) || takes_strips(p.h, p.w, lanes, element));
  if (images && lane_use(columns, lanes) > kLeastImageUse) return false;
  if (columns <= kShortRow) return true;
  if (!plane_tiles(spec)) return transposing_pays_without_tiles(spec, p, vector_bytes);
  if (evicted(spec.h, spec.w)) return false;
  if (p.w.spacing > 1) return transposing_pays_dilated(p, vector_bytes);
  // Masked lanes, of what needs no conversion: planes are shifted, or taken apart, in registers.
  const bool masks = vector_bytes == kLineBytes && element == dtype_bytes(spec.dtype);
  if (masks && taps <= 5) return false;
  if (taps == 3) return p.w.stride == 2 && columns <= 14;
  return columns <= (taps == 7 && vector_bytes == kLineBytes ? 56 : 28);
}

Rule nchw_transposed(const Spec& spec, int vector_bytes) {
  Rule r;
  r.rows = r.columns = Dilation::keep;
  Problem p(spec, r.columns);
  p.h = widest(spec, spec.h, r.rows);
  const bool forward = spec.op == Op::forward;
  const index_t line = kLineBytes / compute_bytes(spec.dtype), taps = spec.h.kernel * spec.w.kernel;
  const index_t height = forward ? spec.h.out : spec.h.in, width = forward ? spec.w.out : spec.w.in;
  r.whole = class_count(spec.op, spec.h, r.rows) * class_count(spec.op, spec.w, r.columns) > 1;
  r.units = ceil_div(p.channels, line);
  Tile& t = r.tile;
  t.columns = std::max<index_t>(width, 1);
  t.rows = r.whole ? std::max<index_t>(height, 1)
                   : choose_rows(p, 4 * p.h.span(1), spec.batch * r.units, width * line * taps);
  t.rows_at_once = static_cast<int>(r.whole ? std::min<index_t>(height, kMaxScratchBytes)
                                            : transposed_rows(p, t.rows, width));
  t.pixels = choose_pixels(p.w.out_count);
  t.units = choose_units(r.units, spec.batch * r.units, height * width * line * taps);
  t.units = std::min(t.units, most_units(p, true));
  const auto scratch = [&](const Tile& tile) {
    return transposed_scratch_bytes(transposed_layout(spec, tile, p.h));
  };
  r.scratch_bytes = scratch(t);
  Tile coarse = t;
  coarse.units = std::min(coarse_share(r.units), most_units(p, true));
  r.coarse_scratch_bytes = scratch(coarse);
  r.coarse_units = r.coarse_scratch_bytes <= kMaxScratchBytes ? coarse.units : 0;
  r.applies =
      spec.layout == Layout::nchw && (forward || spec.multiplier == 1) && r.scratch_bytes <= kMaxScratchBytes;
  r.preferred = transposing_pays(spec, p, r.whole, vector_bytes);
  r.reason = "planes are transposed as they are, so that channels fill the lanes";
  return r;
}

Rule nchw_small_planes(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, true);
  r.applies = r.applies && spec.layout == Layout::nchw;
  // The filter gradient transposes whole planes, which lie as one row.
  const bool few = spec.op == Op::grad_filter && spec.w.in * compute_bytes(spec.dtype) <= kLineBytes;
  const double planes = plane_use(spec, vector_bytes), lines = line_use(spec);
  r.preferred = few ? lines > 0.7 : planes < 0.55 && lines > planes && !plane_tiles(spec);
  r.reason = "rows are too short to fill the lanes: channels are transposed into them";
  return r;
}

// Has each task compute all classes of rows: they lie between one another, and planes are read and written
// again while they are in the cache.
void take_all_rows(Rule& r, const Spec& spec) {
  const index_t plane = (spec.h.in * spec.w.in + spec.h.out * spec.w.out) * dtype_bytes(spec.dtype);
  r.tile.all_rows = true;
  r.tile.units = std::clamp<index_t>(caches().l2 / 4 / std::max<index_t>(plane, 1), 1, r.tile.units);
}

// Whether AVX2's tiles and strips of planes beat any kernel of vectors twice as wide, by measurement: where
// rows fill more of their lanes, and where they are short; under a stride of 1, not beyond the caches.
bool narrow_planes_pay(const Spec& spec, int vector_bytes) {
  const index_t element = compute_bytes(spec.dtype), lanes = vector_bytes / element;
  const Problem p(spec);
  const index_t columns = p.w.out_count;
  const bool images = plane_tiles(spec) && p.w.taps == 3 && spec.multiplier == 1 &&
                      dtype_bytes(spec.dtype) == element && (spec.op == Op::forward || spec.w.stride == 1);
  const bool dense = p.w.stride == 1;
  if (vector_bytes != kAvx2Bytes || !images || (dense && beyond_caches(spec))) return false;
  const bool few = columns <= kShortRow || (dense && columns < 4 * lanes && columns % (2 * lanes) != 0);
  return few || lane_use(columns, lanes) > lane_use(columns, 2 * lanes);
}

Rule nchw_planes(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, false);
  r.applies = r.applies && spec.layout == Layout::nchw;
  if (spec.op != Op::grad_filter && r.applies) {
    const bool several = spec.h.dilation > 1 && class_count(spec.op, spec.h, r.rows) > 1;
    if (several && r.tile.rows >= Problem(spec).h.out_count)
      take_all_rows(r, spec);
    else
      choose_coarse_planes(r, spec);
  }
  r.preferred = true;
  r.beats_wider = r.applies && narrow_planes_pay(spec, vector_bytes);
  r.reason = r.beats_wider ? "the columns of a plane fill the lanes, of narrow vectors best"
                           : "the columns of a plane fill the lanes";
  return r;
}

}  // namespace

Rule kernel_rule(KernelId kernel, const Spec& spec, int vector_bytes) {
  switch (kernel) {
    case KernelId::forward_nhwc_few_channels:
    case KernelId::grad_filter_nhwc_few_channels:
    case KernelId::grad_input_nhwc_few_channels: return nhwc_few_channels(spec, vector_bytes);
    case KernelId::grad_filter_nhwc_direct: return grad_filter_nhwc_direct(spec, vector_bytes);
    case KernelId::forward_nhwc_direct:
    case KernelId::grad_input_nhwc_direct: return nhwc_direct(spec, vector_bytes);
    case KernelId::forward_nhwc_direct_multiplier: return nhwc_direct_multiplier(spec, vector_bytes);
    case KernelId::forward_nhwc:
    case KernelId::grad_filter_nhwc:
    case KernelId::grad_input_nhwc: return nhwc(spec, vector_bytes);
    case KernelId::forward_nhwc_multiplier: return nhwc_multiplier(spec);
    case KernelId::forward_nchw_transposed:
    case KernelId::grad_input_nchw_transposed: return nchw_transposed(spec, vector_bytes);
    case KernelId::forward_nchw_small_planes:
    case KernelId::grad_filter_nchw_small_planes:
    case KernelId::grad_input_nchw_small_planes: return nchw_small_planes(spec, vector_bytes);
    case KernelId::forward_nchw_planes:
    case KernelId::grad_filter_nchw_planes:
    case KernelId::grad_input_nchw_planes: return nchw_planes(spec, vector_bytes);
    case KernelId::forward_separable:
    case KernelId::grad_input_separable: return separable_rule(spec);
    case KernelId::forward_nhwc_fft:
    case KernelId::grad_filter_nhwc_fft:
    case KernelId::grad_input_nhwc_fft: return fft_rule(spec, Layout::nhwc);
    case KernelId::forward_nchw_fft:
    case KernelId::grad_filter_nchw_fft:
    case KernelId::grad_input_nchw_fft: return fft_rule(spec, Layout::nchw);
    case KernelId::forward_generic:
    case KernelId::grad_input_generic: return generic_rule(spec);
    case KernelId::grad_filter_generic: return generic_grad_filter(spec);
    case KernelId::count: break;
  }
  return {};
}

}  // namespace depthwise
