// How the line kernels divide their scratch; shared with the plan, which bounds it.
#pragma once

#include "../task.hpp"

namespace depthwise {

#define DEPTHWISE_SHARED static inline __attribute__((always_inline, unused))

DEPTHWISE_SHARED index_t larger(index_t a, index_t b) { return a > b ? a : b; }
DEPTHWISE_SHARED index_t smaller(index_t a, index_t b) { return a < b ? a : b; }

// Counts of 64-byte lines, in the order in which the parts follow each other.
struct LineLayout {
  index_t panel_columns;  // pixels of a packed row
  index_t slots;          // packed rows kept: those under rows_at_once output rows
  index_t subrows;        // planes of a packed row: the multiplier for the input gradient, else 1
  index_t ring, zeros, weights, bias, result, table;
};

DEPTHWISE_SHARED LineLayout line_layout(const Spec& spec, const Tile& tile, const AxisClass& h,
                                        const AxisClass& w) {
  const index_t columns = tile.columns, at_once = tile.rows_at_once;
  LineLayout l{};
  l.panel_columns = larger(1, w.taps > 0 ? (columns - 1) * w.stride + (w.taps - 1) * w.spacing + 1 : 0);
  l.slots = (at_once - 1) * h.stride + larger(1, h.taps);
  l.subrows = spec.op == Op::grad_input ? spec.multiplier : 1;
  l.ring = l.slots * l.subrows * l.panel_columns;
  l.zeros = l.panel_columns;
  l.weights = h.taps * l.subrows * w.taps;
  l.bias = 1;
  l.result = at_once * columns;
  l.table = (l.slots * l.subrows * static_cast<index_t>(sizeof(void*)) + kLineBytes - 1) / kLineBytes;
  return l;
}

DEPTHWISE_SHARED index_t line_scratch_bytes(const LineLayout& l) {
  return (l.ring + l.zeros + l.weights + l.bias + l.result + l.table) * kLineBytes;
}

}  // namespace depthwise
