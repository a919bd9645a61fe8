// How the filter-gradient kernels divide their work and scratch; shared with the plan, which bounds it.
#pragma once

#include "flat_layout.hpp"

namespace depthwise {

// Where the lanes of a vector come from.
enum class GradForm {
  direct,  // channels, read where they lie
  lines,   // channels, packed
  flat     // a row's columns, and its channels where they are few, packed
};

// Source positions of one axis that a class has at most inside the image.
DEPTHWISE_SHARED index_t grad_positions(const AxisClass& a, index_t outputs) {
  const index_t span = a.span(outputs), inside = (a.src_size + a.src_step - 1) / a.src_step;
  return span < inside ? span : inside;
}

// Blocks of positions, in the order in which a task goes through them: row blocks fastest.
struct GradBlocks {
  index_t row_blocks, column_blocks, column_classes, row_classes, image_blocks;

  __attribute__((always_inline)) index_t count() const {
    return row_blocks * column_blocks * column_classes * row_classes * image_blocks;
  }
};

// `h` and `w` are the widest classes of their axes.
DEPTHWISE_SHARED GradBlocks grad_blocks(const Spec& spec, const Tile& tile, const AxisClass& h,
                                        const AxisClass& w, index_t row_classes, index_t column_classes) {
  const index_t rows = larger(1, grad_positions(h, h.out_count));
  return {(rows + tile.rows - 1) / tile.rows, (w.out_count + tile.columns - 1) / tile.columns, column_classes,
          row_classes, (spec.batch + tile.images - 1) / tile.images};
}

// Counts in elements of the compute type.
struct GradLayout {
  index_t pixel;            // lanes of a packed pixel: a line, a plane's 1, or all output channels
  index_t outputs;          // gradient planes against one input plane
  index_t tap;              // lanes of one tap's sums
  index_t x_row, x_rows;    // packed rows of one image under a block
  index_t phases, segment;  // of a packed input row
  bool grad_in_place;  // rows of gradients are read where they lie, but for a last vector that is not full
  index_t grad_row, grad_rows;
  index_t sums;     // of all taps of a unit
  index_t running;  // units whose sums run at a time
};

DEPTHWISE_SHARED GradLayout grad_layout(const Spec& spec, const Tile& tile, const AxisClass& h,
                                        const AxisClass& w, GradForm form, index_t vector_lanes) {
  const index_t line = kLineBytes / compute_bytes(spec.dtype);
  const bool nhwc = spec.layout == Layout::nhwc, flat = form == GradForm::flat;
  const index_t slack = kMaxVectorBytes / compute_bytes(spec.dtype) * (tile.period + 1);
  const index_t reach = (larger(1, w.taps) - 1) * w.spacing;
  GradLayout l{};
  l.pixel = !flat ? line : nhwc ? spec.channels * spec.multiplier : 1;
  l.outputs = flat && !nhwc ? spec.multiplier : 1;
  l.tap = flat ? tile.period * vector_lanes : line;
  l.phases = flat ? (w.stride < reach + 1 ? w.stride : reach + 1) : 1;
  l.segment = flat ? (tile.columns + reach / w.stride) * l.pixel + slack
                   : larger(1, grad_positions(w, tile.columns)) * line;
  l.x_row = form == GradForm::direct ? 0 : l.phases * l.segment;
  l.x_rows = tile.rows;
  // Packing planes as they stream from memory takes less than reading them in place, unless many sums use
  // them.
  l.grad_in_place = flat && dtype_bytes(spec.dtype) == compute_bytes(spec.dtype) &&
                    (nhwc || h.stride > 1 || spec.h.kernel * spec.w.kernel > 25);
  l.grad_row = form == GradForm::direct ? 0
               : l.grad_in_place        ? vector_lanes
                                        : tile.columns * l.pixel + (flat ? slack : 0);
  l.grad_rows = (tile.rows + larger(1, h.taps) - 2) / h.stride + 1;
  if (l.grad_rows > h.out_count) l.grad_rows = h.out_count;
  l.sums = l.outputs * spec.h.kernel * spec.w.kernel * l.tap;
  l.running = form == GradForm::direct ? tile.units : 1;
  return l;
}

DEPTHWISE_SHARED index_t grad_panel_elements(const GradLayout& l, const Tile& tile) {
  return tile.images * (l.x_rows * l.x_row + l.grad_rows * l.grad_row);
}

DEPTHWISE_SHARED index_t grad_scratch_bytes(const GradLayout& l, const Tile& tile, const AxisClass& w,
                                            DType dtype) {
  constexpr index_t run_bytes = 6 * 8;
  return (grad_panel_elements(l, tile) + (l.running + 2 * tile.units) * l.sums) * compute_bytes(dtype) +
         tile.images * run_bytes + w.taps * 8 + kLineBytes;
}

}  // namespace depthwise
