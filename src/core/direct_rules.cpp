// When the kernels that read NHWC images in place apply and are preferred, and how they cut the work.
#include <algorithm>
#include <numeric>

#include "kernels/direct_layout.hpp"
#include "rules.hpp"

namespace depthwise {
namespace {

// Taps whose weights a task of the direct kernel packs.
index_t packed_taps(const Problem& p, bool phases) {
  return phases ? p.spec.h.kernel * p.spec.w.kernel : p.h.taps * p.w.taps;
}

// Multiply-adds of a row of a task that has all channels.
index_t row_steps(const Problem& p, const Tile& t, index_t units, index_t line) {
  return (t.all_columns ? p.spec.w.out : t.columns) * units * line * packed_taps(p, t.phases);
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
  t.rows = choose_rows(p, std::max(kLeastRows, 2 * p.h.taps), blocks, row_steps(p, t, units, line));
  if (t.rows < p.h.out_count) t.rows += t.rows & 1;  // tiles take pairs
  const index_t wanted = ceil_div(kEnoughTasks, blocks * ceil_div(p.h.out_count, t.rows));
  t.units = std::min(std::max(ceil_div(units, wanted), std::min(units, kLeastLines)), most_units(taps));
  t.units = ceil_div(units, ceil_div(units, t.units));
  // The last block holds a whole vector, too.
  while (p.channels % line != 0 && units > t.units && (units - 1) % t.units == 0) ++t.units;
  return t;
}

// Tasks for few threads take all channels, as far as the second-level cache holds their weights: the
// processor fetches longer runs ahead.
void choose_coarse(Rule& r, const Problem& p) {
  Tile coarse = r.tile;
  coarse.units = std::min(r.units, most_units(packed_taps(p, r.tile.phases)));
  if (coarse.units < r.units) return;
  r.coarse_units = coarse.units;
  r.coarse_scratch_bytes = direct_scratch_bytes(p.spec, coarse, p.h, p.w);
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
  const bool as_it_is = p.spec.multiplier == 1 && as_stored(p.spec);
  if (2 * vector_bytes != kLineBytes || !as_it_is || pixel % kLineBytes != 0) return false;
  const bool strides = p.w.stride == 1 || p.w.stride == 2;
  if (p.h.taps != 3 || p.w.taps != 3 || p.w.spacing != 1 || !strides) return false;
  const index_t distance = kWayBytes / (p.w.stride == 2 ? 16 : beyond_caches(p.spec) ? 8 : 4);
  return (pixel % distance) * (p.w.src_step % distance) % distance == 0;
}

// As few_pixels() tells, where a set holds 12 lines and the image comes from beyond the second-level cache:
// the fewer they are, the more of it is read in the order of memory, which is what the processor fetches
// best.
int few_outside(const Problem& p, index_t pixel) {
  if (p.w.stride == 2) return 1;
  if (p.w.stride > 2 || p.w.src_step > 1 || pixel < kWayBytes / 8) return kLinePixels;
  return pixel < kWayBytes / 4 ? kFewPixels : 1;
}

// Outputs of a row that tiles of a whole line in one vector hold, by measurement: few under 3x3 taps where
// what a wider tile reads would evict itself from the first-level cache (pixels of the one distance or the
// other, and a stride of 2), or where it is read and written beyond the caches, a page or more at a time;
// with many ways, where it comes from beyond the second-level cache. Else 0.
int few_pixels(const Problem& p, int vector_bytes) {
  const index_t element = compute_bytes(p.spec.dtype), pixel = p.channels * element;
  const bool as_it_is = p.spec.multiplier == 1 && as_stored(p.spec);
  if (vector_bytes != kLineBytes || !as_it_is || p.w.spacing != 1) return 0;
  if (p.h.taps != 3 || p.w.taps != 3 || p.h.stride != p.w.stride) return 0;
  if (!few_ways()) return image_bytes(p.spec) > caches().l2 ? few_outside(p, pixel) : 0;
  const bool adjacent = p.w.src_step == 1,
             evicts = pixel % kWayBytes == kWayBytes / 2 || pixel == kWayBytes / 4;
  if (p.w.stride == 2 && adjacent && evicts) return kFewPixels;
  const bool pages = p.w.stride == 1 && adjacent && pixel >= kWayBytes / 4;
  return pages && beyond_caches(p.spec) ? kLinePixels : 0;
}

// Where vectors begin, by measurement. Those that straddle lines take two accesses each: of whole lines,
// under few taps stores cost more than the loads, under many the loads do; of half a line they do under some,
// and never where a tile takes whole lines. New results lie as the image does. Where vectors do not begin at
// channel 0 pixels have one more, and few make up for it only where pixels share sets of the first-level
// cache.
Fit vector_fit(const Problem& p, int vector_bytes) {
  constexpr index_t kFewTaps = 9, kSomeTaps = 25, kLeastShared = 4, kLeast = 8, kLeastUnderMany = 12;
  const index_t line = kLineBytes / compute_bytes(p.spec.dtype), stored = line * dtype_bytes(p.spec.dtype),
                pixel = p.channels * dtype_bytes(p.spec.dtype), taps = p.spec.h.kernel * p.spec.w.kernel;
  const bool few = taps <= kFewTaps, whole_lines = vector_bytes == kLineBytes,
             halves = vector_bytes == kAvx2Bytes && !few && taps <= kSomeTaps;
  if (!(whole_lines || halves) || p.spec.multiplier > 1 || pixel % (stored / 2) != 0) return Fit::channels;
  const index_t least = pixel % (kWayBytes / 4) == 0 ? kLeastShared : few ? kLeast : kLeastUnderMany;
  if (ceil_div(p.channels, line) < least) return Fit::channels;
  return few ? Fit::result : Fit::image;
}

// Rows far enough ahead for the memory to answer, not so far that they are evicted again; 0 where nothing
// pays, as for whole lines with many ways, which such processors fetch ahead as well themselves.
int tiles_ahead(const Problem& p, const Tile& t, bool whole_lines) {
  constexpr index_t kFetchBytes = 4 << 10, kLeastTiles = 2, kStridedBytes = 10 << 20;
  const index_t pixel = p.channels / p.spec.multiplier * dtype_bytes(p.spec.dtype);
  // By measurement, where lines are read at once: under strides from less than the caches on.
  const bool strided = p.h.stride > 1 && t.pixels > kFewPixels && image_bytes(p.spec) > kStridedBytes;
  if (whole_lines && !few_ways()) return 0;
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
  const index_t pixel = p.channels * dtype_bytes(spec.dtype) % kWayBytes;
  const bool whole_lines = vector_bytes == kLineBytes,
             evicted = pixel * (p.w.out_step % kWayBytes) % kWayBytes == 0;
  Tile kind;
  kind.phases = phases;
  kind.fit = copies ? Fit::channels : vector_fit(p, vector_bytes);
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
  if (spec.op == Op::forward) r.prepared_bytes = spec.h.kernel * spec.w.kernel * kLineBytes;
  r.most_rows = most_rows(row_steps(p, r.tile, r.units, line));
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

}  // namespace

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
                       p.w.out_count >= (whole_lines ? kMany : kLeastColumns) && (few_ways() || !whole_lines);
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
  r.beats_wider = narrow_channels_pay(spec, vector_bytes);
  r.reason = r.tile.copies   ? "channels fill the lanes; rows whose pixels evict each other are copied"
             : r.tile.phases ? "channels fill the lanes, the image is read in place, for all phases at once"
                             : "channels fill the lanes, and the image is read in place";
  return r;
}

Rule nhwc_direct_multiplier(const Spec& spec, int vector_bytes) {
  Rule r = direct_rule(spec, vector_bytes);
  // Fewer channels than lanes are loaded with masks, which AVX2 has for its own lanes only.
  const bool masks = vector_bytes == kLineBytes || (vector_bytes == kAvx2Bytes && as_stored(spec));
  r.applies = r.applies && spec.multiplier > 1 &&
              (masks || spec.channels * compute_bytes(spec.dtype) >= vector_bytes);
  r.preferred = vector_bytes >= kAvx2Bytes;  // narrower vectors have no instruction that permutes them
  r.beats_wider = narrow_channels_pay(spec, vector_bytes);
  r.reason = "output channels fill the lanes, the image is read in place, and each channel repeated";
  return r;
}

}  // namespace depthwise
