// Turns one axis of a problem into plain convolutions: no inserted zeros, and no dilation unless asked to
// keep it.
//
// Forward, output j reads input  stride*j + dilation*t - pad  for tap t. With g = gcd(stride, dilation),
// outputs j = q + (dilation/g)*u of one residue q read  base + dilation*((stride/g)*u + t): an undilated
// convolution of stride/g over every dilation-th input.
//
// The input gradient at position i = r + stride*v takes the taps with dilation*t = r + pad (mod stride),
// which are t0 + (stride/g)*m, from gradient positions  v + b - (dilation/g)*m: a stride-1 convolution with
// dilation dilation/g; its residues modulo dilation/g can be split as above.
#pragma once

#include "spec.hpp"

namespace depthwise {

// Destination out_start + out_step*u, 0 <= u < out_count, reads source src_start + src_step*p at position
// p = stride*u + spacing*t for tap t (filter tap tap_start + tap_step*t), 0 <= t < taps.
struct AxisClass {
  index_t out_start, out_step, out_count;
  index_t src_start, src_step, src_size;
  index_t stride, spacing;
  index_t taps, tap_start, tap_step;

  index_t source(index_t position) const { return src_start + src_step * position; }
  bool inside(index_t source_index) const { return source_index >= 0 && source_index < src_size; }
  // Positions that `outputs` neighbouring destinations read, first to last.
  index_t span(index_t outputs) const {
    return taps > 0 && outputs > 0 ? (outputs - 1) * stride + (taps - 1) * spacing + 1 : 0;
  }
};

// Dilation::split gives one class a residue, with spacing 1; Dilation::keep leaves it in `spacing`, with
// src_step 1.
enum class Dilation : bool { keep, split };

index_t class_count(Op op, const Axis& axis, Dilation dilation);
AxisClass axis_class(Op op, const Axis& axis, Dilation dilation, index_t k);

}  // namespace depthwise
