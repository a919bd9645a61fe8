// How the filter-gradient kernels divide their work and scratch; shared with the plan, which bounds it.
#pragma once

#include "flat_layout.hpp"

namespace depthwise {

// Blocks of positions, in the order in which a task goes through them: rows of a block fastest, then column
// blocks, row classes, batch.
struct GradBlocks {
  index_t row_blocks, column_blocks, classes;

  __attribute__((always_inline)) index_t count(index_t batch) const {
    return batch * classes * column_blocks * row_blocks;
  }
};

DEPTHWISE_SHARED GradBlocks grad_blocks(const Spec& spec, const Tile& tile, index_t classes,
                                        index_t class_rows) {
  return {(class_rows + tile.rows - 1) / tile.rows, (spec.w.out + tile.columns - 1) / tile.columns, classes};
}

// Counts in elements of the compute type.
struct GradLayout {
  index_t pixel;    // lanes of a packed pixel: a line, a plane's 1, or all output channels
  index_t outputs;  // gradient planes against one input plane
  index_t tap;      // lanes of one tap's sums
  index_t slots;    // packed input rows kept
  index_t phases, segment, x_row;
  index_t grad_row;
  index_t sums;      // of all taps
  index_t pointers;  // of rows, in bytes
};

DEPTHWISE_SHARED GradLayout grad_layout(const Spec& spec, const Tile& tile, const AxisClass& h,
                                        const AxisClass& w, bool lines, index_t vector_lanes) {
  const index_t line = kLineBytes / compute_bytes(spec.dtype);
  const bool nhwc = spec.layout == Layout::nhwc;
  const index_t slack = lines ? 0 : kMaxVectorBytes / compute_bytes(spec.dtype) * (tile.period + 1);
  const index_t reach = (larger(1, w.taps) - 1) * w.spacing;
  GradLayout l{};
  l.pixel = lines ? line : nhwc ? spec.channels * spec.multiplier : 1;
  l.outputs = lines || nhwc ? 1 : spec.multiplier;
  l.tap = lines ? line : tile.period * vector_lanes;
  l.slots = (tile.rows - 1) * h.stride + larger(1, h.taps);
  l.phases = lines ? 1 : w.stride < reach + 1 ? w.stride : reach + 1;
  l.segment = lines ? ((tile.columns - 1) * w.stride + reach + 1) * l.pixel
                    : (tile.columns + reach / w.stride) * l.pixel + slack;
  l.x_row = l.phases * l.segment;
  l.grad_row = tile.columns * l.pixel + slack;
  l.sums = l.outputs * spec.h.kernel * spec.w.kernel * l.tap;
  l.pointers = (tile.rows * (h.taps + l.outputs) + w.taps) * 8;
  return l;
}

DEPTHWISE_SHARED index_t grad_scratch_bytes(const GradLayout& l, const Tile& tile, DType dtype) {
  const index_t elements = (l.slots + 1) * l.x_row + tile.rows * l.outputs * l.grad_row + 3 * l.sums;
  return elements * compute_bytes(dtype) + l.pointers + kLineBytes;
}

}  // namespace depthwise
