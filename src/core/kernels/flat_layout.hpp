// How the flat-row kernels divide their scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// Output rows of the tallest flat tile, vectors of the widest; vector bytes of any ISA.
inline constexpr index_t kFlatMaxRows = 8, kFlatMaxVectors = 8, kMaxVectorBytes = 64;

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
