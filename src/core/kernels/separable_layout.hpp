// How the separable kernel divides its scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// Output rows that are computed together, and bytes of the widest vector of any ISA.
inline constexpr index_t kSeparableRows = 8, kSeparableVector = 64;

// A result that no cache holds until it is read goes past them.
inline constexpr index_t kStreamedBytes = index_t{24} << 20;

// Counts in elements of the compute type, but for the zero row.
struct SeparableLayout {
  index_t reach;    // neighbouring source columns under a block of outputs
  index_t pitch;    // from one row of column sums to the next
  index_t phases;   // a row is split by column position modulo the stride
  index_t segment;  // columns of one phase
  index_t split;    // a split row, where there is one
  index_t result;   // a row of results
  index_t column_weights, row_weights, bias;
  index_t tables;      // bytes: source rows, taps of a row
  index_t zero_bytes;  // a source row of zeros
};

DEPTHWISE_SHARED SeparableLayout separable_layout(const Spec& spec, const Tile& tile, const AxisClass& h,
                                                  const AxisClass& w) {
  const index_t vector = kSeparableVector / compute_bytes(spec.dtype), pixel = tile.channels;
  const auto whole = [vector](index_t elements) { return (elements + vector - 1) / vector * vector; };
  const index_t columns = larger(1, tile.pixels), span = larger(1, w.span(columns)), step = w.src_step;
  SeparableLayout l{};
  l.reach = (span - 1) * (step < 0 ? -step : step) + 1;
  l.pitch = whole(l.reach * pixel) + 6 * vector;  // tiles load whole vectors
  const index_t taps_reach = (larger(1, w.taps) - 1) * w.spacing;
  l.phases = w.stride < taps_reach + 1 ? w.stride : taps_reach + 1;
  l.segment = whole((columns + taps_reach / w.stride) * pixel) + vector;
  l.split = w.stride == 1 && step == 1 ? 0 : l.phases * l.segment + vector;
  l.result = whole(columns * pixel) + vector;
  const index_t pattern = whole(pixel) + vector;
  l.column_weights = larger(1, h.taps) * pattern;
  l.row_weights = larger(1, w.taps) * pattern;
  l.bias = pattern;
  const index_t rows = (kSeparableRows - 1) * h.stride + larger(1, h.taps);
  l.tables = rows * 8 + larger(1, w.taps) * 24;
  const index_t line = spec.layout == Layout::nhwc ? spec.channels : 1;
  l.zero_bytes = l.reach * line * compute_bytes(spec.dtype) + kSeparableVector;
  return l;
}

DEPTHWISE_SHARED index_t separable_scratch_bytes(const SeparableLayout& l, DType dtype) {
  const index_t elements =
      kSeparableRows * l.pitch + l.split + l.result + l.column_weights + l.row_weights + l.bias;
  return elements * compute_bytes(dtype) + l.tables + l.zero_bytes + 2 * kSeparableVector;
}

}  // namespace depthwise
