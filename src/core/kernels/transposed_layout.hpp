// How the kernel of transposed planes divides its scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// Counts of 64-byte lines, in the order in which the parts follow each other.
struct TransposedLayout {
  index_t source, result, weights, bias, repeats, table;
};

// Of the result a block of rows is kept or, where classes interleave, all of it.
DEPTHWISE_SHARED TransposedLayout transposed_layout(const Spec& spec, const Tile& tile, const AxisClass& h) {
  const bool forward = spec.op == Op::forward;
  const Axis &y = spec.h, &x = spec.w;
  const index_t pointers = larger(1, h.taps) + h.stride, pointer = sizeof(void*);
  TransposedLayout l{};
  l.source = forward ? y.in * x.in : y.out * x.out;
  l.result = tile.rows_at_once * (forward ? x.out : x.in);
  l.weights = y.kernel * x.kernel * tile.units;
  l.bias = 1;
  l.repeats = 3;  // of every vector of a line: lanes, a place and a count
  l.table = (pointers * pointer + kLineBytes - 1) / kLineBytes;
  return l;
}

DEPTHWISE_SHARED index_t transposed_scratch_bytes(const TransposedLayout& l) {
  return (l.source + l.result + l.weights + l.bias + l.repeats + l.table) * kLineBytes;
}

}  // namespace depthwise
