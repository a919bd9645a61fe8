#include "axis_class.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace depthwise {
namespace {

// How many of start, start + step, ... lie below size.
index_t count_from(index_t start, index_t step, index_t size) {
  return start < size ? (size - start - 1) / step + 1 : 0;
}

AxisClass forward_class(const Axis& a, bool split, index_t q) {
  const index_t g = split ? std::gcd(a.stride, a.dilation) : 1, residues = split ? a.dilation / g : 1;
  return {.out_start = q,
          .out_step = residues,
          .out_count = count_from(q, residues, a.out),
          .src_start = a.stride * q - a.pad,
          .src_step = split ? a.dilation : 1,
          .src_size = a.in,
          .stride = a.stride / g,
          .spacing = split ? 1 : a.dilation,
          .taps = a.kernel,
          .tap_start = 0,
          .tap_step = 1};
}

// The inverse of a value that has no factor in common with the modulus, by Euclid's algorithm.
index_t inverse(index_t value, index_t modulus) {
  index_t divided = value % modulus, divisor = modulus, factor = 1, next_factor = 0;
  while (divisor != 0) {
    const index_t quotient = divided / divisor;
    divided = std::exchange(divisor, divided - quotient * divisor);
    factor = std::exchange(next_factor, factor - quotient * next_factor);
  }
  return factor < 0 ? factor + modulus : factor;
}

// The first tap that reaches position r of the input, or kernel when none does: the least t for which the
// stride divides r + pad - dilation*t.
index_t first_tap(const Axis& a, index_t r, index_t period) {
  const index_t g = a.stride / period, position = r + a.pad;
  if (position % g != 0) return a.kernel;
  const index_t rest = position / g % period, residue = rest < 0 ? rest + period : rest;
  const __int128 tap = static_cast<__int128>(residue) * inverse(a.dilation / g, period) % period;
  return std::min(static_cast<index_t>(tap), a.kernel);
}

// From a position of the input to the next of its class; steps beyond the axis are all alike.
index_t input_step(const Axis& a, index_t residues) {
  index_t step;
  return __builtin_mul_overflow(a.stride, residues, &step) ? std::max<index_t>(a.in, 1) : step;
}

AxisClass grad_input_class(const Axis& a, bool split, index_t k) {
  const index_t g = std::gcd(a.stride, a.dilation);
  const index_t spread = a.dilation / g, period = a.stride / g;
  const index_t r = k % a.stride, q = k / a.stride;
  const index_t t0 = first_tap(a, r, period);
  const index_t taps = count_from(t0, period, a.kernel);
  // Tap m of the phase reads gradient v + b - spread*m; taps run backwards so that the source position grows.
  const index_t b = taps > 0 ? (r + a.pad - a.dilation * t0) / a.stride : 0;
  const index_t step = input_step(a, split ? spread : 1);
  return {.out_start = r + a.stride * q,
          .out_step = step,
          .out_count = count_from(r + a.stride * q, step, a.in),
          .src_start = q + b - spread * (taps - 1),
          .src_step = split ? spread : 1,
          .src_size = a.out,
          .stride = 1,
          .spacing = split ? 1 : spread,
          .taps = taps,
          .tap_start = t0 + period * (taps - 1),
          .tap_step = -period};
}

}  // namespace

index_t class_count(Op op, const Axis& a, Dilation dilation) {
  const index_t residues = dilation == Dilation::split ? a.dilation / std::gcd(a.stride, a.dilation) : 1;
  return op == Op::grad_input ? std::min(a.in, input_step(a, residues)) : std::min(a.out, residues);
}

AxisClass axis_class(Op op, const Axis& a, Dilation dilation, index_t k) {
  // With one residue there is nothing to keep: steps of the dilation leave out what no tap reads.
  const bool split = dilation == Dilation::split || a.stride % a.dilation == 0;
  return op == Op::grad_input ? grad_input_class(a, split, k) : forward_class(a, split, k);
}

}  // namespace depthwise
