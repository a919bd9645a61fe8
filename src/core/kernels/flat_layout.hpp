// How the flat-row kernels divide their scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// Output rows of the tallest flat tile, vectors of the widest; vector bytes of any ISA.
inline constexpr index_t kFlatMaxRows = 8, kFlatMaxVectors = 8, kMaxVectorBytes = 64;

// Vectors of a row of a plane that is computed strip by strip.
inline constexpr index_t kMostStrips = 16;

// Rows of such a plane that stay in the first-level cache, with those that they read.
DEPTHWISE_SHARED index_t strip_rows(index_t columns, index_t stride, index_t element) {
  constexpr index_t kBand = 24 << 10;
  return kBand / (columns * (stride * stride + 1) * element);
}

// Whether planes are computed strip by strip where the ISA has the loops for it, by measurement: those under
// 5x5 taps unless their rows are very long; under 3x3 taps tiles take as long from six vectors on.
DEPTHWISE_SHARED bool takes_strips(const AxisClass& h, const AxisClass& w, index_t lanes, index_t element) {
  constexpr index_t kLeastRows = 14, kFew = 5, kFewHalved = 3;
  const bool adjacent = h.spacing == 1 && w.src_step == 1 && w.out_step == 1,
             strides = h.stride == w.stride && (h.stride == 1 || (h.stride == 2 && w.spacing == 1));
  if (h.taps != w.taps || (h.taps != 3 && h.taps != 5) || !strides || !adjacent) return false;
  const index_t most = h.taps == 5 ? kMostStrips : h.stride == 1 ? kFew : kFewHalved;
  return w.out_count >= lanes && w.out_count <= most * lanes &&
         strip_rows(w.out_count, h.stride, element) >= smaller(h.out_count, kLeastRows);
}

// Counts in elements of the compute type.
struct FlatLayout {
  index_t pixel;    // lanes of a pixel: 1 for a plane, all result channels for NHWC
  index_t outputs;  // result planes of one source plane: the multiplier, forward with NCHW, else 1
  index_t subrows;  // source planes summed: the multiplier, for the input gradient, else 1
  index_t slots;    // packed source rows kept: those under rows_at_once output rows, or a tile's
  index_t phases;   // packed rows are split by column position modulo the stride
  index_t segment;  // columns of one phase
  index_t pitch;    // from packed row to packed row
  index_t result;   // a row of results
  index_t panel, weights;
};

// Whether tiles hold several output rows: they share source rows, and taps lie evenly in each phase of a row.
DEPTHWISE_SHARED bool flat_shares_rows(const FlatLayout& l, int period, const AxisClass& h,
                                       const AxisClass& w) {
  const bool heights = h.stride == 1 ? h.taps == 3 || h.taps == 5 || h.taps == 7
                                     : h.stride == 2 && (h.taps == 3 || h.taps == 5);
  const bool even = w.stride == 1 || (w.stride == 2 && w.spacing == 1);
  return heights && even && h.stride == w.stride && l.subrows == 1 && (period == 1 || period == 3);
}

DEPTHWISE_SHARED FlatLayout flat_layout(const Spec& spec, const Tile& tile, const AxisClass& h,
                                        const AxisClass& w) {
  const bool nhwc = spec.layout == Layout::nhwc, forward = spec.op == Op::forward;
  const index_t vector = kMaxVectorBytes / compute_bytes(spec.dtype);
  const index_t reach = (larger(1, w.taps) - 1) * w.spacing;
  // The narrowest tile may be wider than a row, and packing ends with a whole vector.
  const index_t slack = (tile.period + 2) * vector;
  FlatLayout l{};
  l.pixel = !nhwc ? 1 : forward ? spec.channels * spec.multiplier : spec.channels;
  l.outputs = !nhwc && forward ? spec.multiplier : 1;
  l.subrows = forward ? 1 : spec.multiplier;
  l.slots = (larger(tile.rows_at_once, kFlatMaxRows) - 1) * h.stride + larger(1, h.taps);
  l.phases = w.stride < reach + 1 ? w.stride : reach + 1;
  l.segment = ((tile.columns + reach / w.stride) * l.pixel + slack) / vector * vector;  // keeps rows aligned
  l.pitch = l.phases * l.segment;
  l.result = tile.columns * l.pixel + slack;
  l.panel = l.slots * l.subrows * l.pitch;
  l.weights = l.outputs * h.taps * l.subrows * w.taps * (nhwc ? tile.period * vector : 1);
  l.weights = (l.weights + vector - 1) / vector * vector;
  return l;
}

DEPTHWISE_SHARED index_t flat_scratch_bytes(const Spec& spec, const Tile& tile, const AxisClass& h,
                                            const AxisClass& w) {
  const FlatLayout l = flat_layout(spec, tile, h, w);
  const index_t bias = l.outputs * tile.period * kMaxVectorBytes, offsets = w.taps * 8;
  const index_t staged = (h.taps * w.taps + 2) * kMaxVectorBytes;  // and what aligns the panel
  return (l.panel + l.weights + kFlatMaxRows * l.result) * compute_bytes(spec.dtype) + bias + offsets +
         staged + kLineBytes;
}

}  // namespace depthwise
