// When the kernels of NCHW planes apply and are preferred, and how they cut the work.
#include <algorithm>

#include "kernels/flat_layout.hpp"
#include "kernels/transposed_layout.hpp"
#include "rules.hpp"

namespace depthwise {
namespace {

double plane_use(const Spec& spec, int vector_bytes) {
  return lane_use(Problem(spec).w.out_count, vector_bytes / compute_bytes(spec.dtype));
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
// columns, fewer under a single row of taps, which uses a transposed input little, and for the few taps of a
// multiplier, whose results are most of the work; with AVX2, where classes have few rows, too.
bool transposing_pays_without_tiles(const Spec& spec, const Problem& p, int vector_bytes) {
  struct Limits {
    index_t taps, columns, repeated, few_repeated, under_row;
  };
  constexpr index_t kFewTaps = 5, kLeastRepeated = 2;
  const bool avx2 = vector_bytes == kAvx2Bytes;
  const index_t taps = p.h.taps * p.w.taps, columns = p.w.out_count;
  if (!avx2 && vector_bytes != kLineBytes) return taps >= kFewTaps;
  const Limits limits = avx2 ? Limits{3, 65, 33, 20, 14} : Limits{4, 75, 56, 28, 33};
  const bool repeated = spec.multiplier > 1;
  if (taps < (repeated ? kLeastRepeated : limits.taps)) return false;
  if (p.h.taps == 1) return columns <= limits.under_row;
  if (avx2 && p.h.out_count < kTileRows) return true;
  if (!repeated) return columns <= limits.columns;
  return columns <= (taps <= kFewTaps ? limits.few_repeated : limits.repeated);
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
  const bool images = vector_bytes == kAvx2Bytes && as_stored(spec) && plane_tiles(spec) &&
                      ((taps == 3 && columns <= 2 * lanes) || takes_strips(p.h, p.w, lanes, element));
  if (images && lane_use(columns, lanes) > kLeastImageUse) return false;
  if (columns <= kShortRow) return true;
  if (!plane_tiles(spec)) return transposing_pays_without_tiles(spec, p, vector_bytes);
  if (evicted(spec.h, spec.w)) return false;
  if (p.w.spacing > 1) return transposing_pays_dilated(p, vector_bytes);
  // Masked lanes, of what needs no conversion: planes are shifted, or taken apart, in registers.
  const bool masks = vector_bytes == kLineBytes && as_stored(spec);
  if (masks && taps <= 5) return false;
  if (taps == 3) return p.w.stride == 2 && columns <= 14;
  return columns <= (taps == 7 && vector_bytes == kLineBytes ? 56 : 28);
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
  const bool images = plane_tiles(spec) && p.w.taps == 3 && spec.multiplier == 1 && as_stored(spec) &&
                      (spec.op == Op::forward || spec.w.stride == 1);
  const bool dense = p.w.stride == 1;
  if (vector_bytes != kAvx2Bytes || !images || (dense && beyond_caches(spec))) return false;
  const bool few = columns <= kShortRow || (dense && columns < 4 * lanes && columns % (2 * lanes) != 0);
  return few || lane_use(columns, lanes) > lane_use(columns, 2 * lanes);
}

}  // namespace

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
  t.units = std::min(t.units, most_units(taps));
  // With a multiplier, as many lines of results share one of source channels.
  if (forward && spec.multiplier > 1 && t.units > spec.multiplier) t.units -= t.units % spec.multiplier;
  const auto scratch = [&](const Tile& tile) {
    return transposed_scratch_bytes(transposed_layout(spec, tile, p.h));
  };
  r.scratch_bytes = scratch(t);
  Tile coarse = t;
  coarse.units = std::min(coarse_share(r.units), most_units(taps));
  r.coarse_scratch_bytes = scratch(coarse);
  r.coarse_units = r.coarse_scratch_bytes <= kMaxScratchBytes ? coarse.units : 0;
  if (forward) r.prepared_bytes = taps * kLineBytes;
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
  r.beats_wider = narrow_planes_pay(spec, vector_bytes);
  r.reason = r.beats_wider ? "the columns of a plane fill the lanes, of narrow vectors best"
                           : "the columns of a plane fill the lanes";
  return r;
}

}  // namespace depthwise
