// How the direct kernel divides its scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// Whether results may go past the caches: nothing reads them in between, and pixels are whole lines.
__attribute__((always_inline)) inline bool direct_streams(const Spec& spec, const Tile& tile,
                                                          const Operands& operands) {
  const bool as_computed = dtype_bytes(spec.dtype) == compute_bytes(spec.dtype),
             plain = !operands.bias && spec.activation == Activation::none;
  const index_t channels = spec.op == Op::grad_input ? spec.channels : spec.channels * spec.multiplier,
                pixel = channels * dtype_bytes(spec.dtype);
  return tile.stream && as_computed && plain && pixel % kLineBytes == 0 &&
         reinterpret_cast<index_t>(operands.out) % kLineBytes == 0;
}

// Whether vectors may begin so many channels in: the last task's channels begin behind its units, and must
// fill a vector.
__attribute__((always_inline)) inline bool direct_takes_lead(const Spec& spec, const Tile& tile, index_t lead,
                                                             index_t lanes) {
  const index_t line = kLineBytes / compute_bytes(spec.dtype), lines = (spec.channels + line - 1) / line,
                last = spec.channels - (lines - 1) / tile.units * tile.units * line;
  return last == spec.channels || last - lead >= lanes;
}

// Channels before the first with whose cache line a vector of so many lanes begins. Where lines are written
// past the caches it is they that count.
__attribute__((always_inline)) inline index_t direct_lead(const Spec& spec, const Tile& tile,
                                                          const Operands& operands, index_t lanes) {
  if (tile.fit == Fit::channels || direct_streams(spec, tile, operands)) return 0;
  const index_t size = dtype_bytes(spec.dtype), bytes = lanes * size;
  const void* const fitted = tile.fit == Fit::image ? operands.a : operands.out;
  const index_t over = reinterpret_cast<index_t>(fitted) % bytes,
                lead = over == 0 ? 0 : (bytes - over) / size;
  return over % size == 0 && direct_takes_lead(spec, tile, lead, lanes) ? lead : 0;
}

// What says where the source channels of a vector lie takes three times the vector's bytes, or
// less.
__attribute__((always_inline)) inline index_t direct_repeat_bytes(const Spec& spec, const Tile& tile) {
  return spec.multiplier == 1 ? 0 : 3 * tile.units * kLineBytes;
}

// Vectors may begin beside the lines of channels that a task is made of, and then reach into one more.
__attribute__((always_inline)) inline index_t direct_weight_lines(const Spec& spec, const Tile& tile) {
  return spec.multiplier == 1 ? tile.units + 1 : tile.units;
}

// Rows under a pair of output rows.
__attribute__((always_inline)) inline index_t direct_slots(const AxisClass& h) { return h.taps + h.stride; }

// Elements from a copied pixel to the next one: an odd number of lines.
__attribute__((always_inline)) inline index_t direct_ring_step(const Spec& spec, const Tile& tile) {
  const index_t bytes = dtype_bytes(spec.dtype),
                run = tile.units * (kLineBytes / compute_bytes(spec.dtype)) * bytes;
  return ((run + kLineBytes - 1) / kLineBytes | 1) * kLineBytes / bytes;
}

__attribute__((always_inline)) inline index_t direct_ring_bytes(const Spec& spec, const Tile& tile,
                                                                const AxisClass& h, const AxisClass& w) {
  return tile.copies
             ? direct_slots(h) * w.span(tile.columns) * direct_ring_step(spec, tile) * dtype_bytes(spec.dtype)
             : 0;
}

// Phases of an axis up to which a task computes all of them.
inline constexpr index_t kMostPhases = 4;
// Classes of rows and of columns, in all, up to which a task computes a few rows of each in turn.
inline constexpr index_t kMostParts = kMostPhases * kMostPhases;

__attribute__((always_inline)) inline index_t direct_scratch_bytes(const Spec& spec, const Tile& tile,
                                                                   const AxisClass& h, const AxisClass& w) {
  // Enough for four rows of outputs, too, which tiles only take of strides up to the taps.
  const index_t pointers = 2 * (h.taps + h.stride);
  const index_t taps = tile.phases ? spec.h.kernel * spec.w.kernel : h.taps * w.taps;
  return taps * direct_weight_lines(spec, tile) * kLineBytes + direct_repeat_bytes(spec, tile) +
         direct_ring_bytes(spec, tile, h, w) + pointers * index_t{sizeof(void*)};
}

}  // namespace depthwise
