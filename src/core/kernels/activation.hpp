// bias and activation, applied to finished sums before they are rounded to the storage type.
#pragma once

#include "../simd.hpp"
#include "../spec.hpp"

namespace {

using depthwise::Activation;

// exp(x) for x <= 0: 2^n * exp(r), r in [-ln2/2, ln2/2], exp(r) by its Taylor polynomial of degree 7
// (relative error below 4e-9, so that float rounding dominates); 0 below -87, where the result would be
// subnormal.
DEPTHWISE_INLINE simd::vec<float> exp_negative(simd::vec<float> x) {
  using V = simd::vec<float>;
  const auto vanishes = x < -87.0f;
  x = vanishes ? V{} : x;
  const V shifted = x * 0x1.715476p+0f + 0x1.8p23f;  // adding 1.5*2^23 rounds to an integer in the low bits
  const V n = shifted - 0x1.8p23f;
  const V r =
      simd::fma(n, simd::broadcast(-0x1.7f7d1cp-20f), simd::fma(n, simd::broadcast(-0x1.62e4p-1f), x));
  V p = simd::broadcast(1.0f / 5040);
  constexpr float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  for (const float c : coefficients) p = simd::fma(p, r, simd::broadcast(c));
  const simd::u32vec scale = ((simd::u32vec)shifted << 23) + 0x3f800000u;
  return vanishes ? V{} : p * (V)scale;
}

DEPTHWISE_INLINE simd::vec<double> exp_negative(simd::vec<double> x) {
  for (int i = 0; i < simd::kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// x / (1 + exp(-x)), written with exp(-|x|) so that nothing overflows.
template <class V>
DEPTHWISE_INLINE V silu(V x) {
  const V zero = {};
  const V e = exp_negative(x < zero ? x : -x);
  return x * (x < zero ? e : zero + 1) / (e + 1);
}

// NaN stays NaN in each: comparisons with it choose x. Out of line, to keep the exponential out of every
// kernel.
template <class T>
__attribute__((noinline)) simd::vec<T> activate_some(simd::vec<T> x, Activation activation) {
  using V = simd::vec<T>;
  const V zero = {}, six = zero + T(6);
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return x < zero ? zero : x;
    case Activation::relu6: return x < zero ? zero : (x > six ? six : x);
    case Activation::silu: return silu(x);
    case Activation::hard_swish: {
      const V gate = x + T(3);
      return x * (gate < zero ? zero : (gate > six ? six : gate)) / T(6);
    }
  }
  return x;
}

template <class T>
DEPTHWISE_INLINE simd::vec<T> activate(simd::vec<T> x, Activation activation) {
  return activation == Activation::none ? x : activate_some<T>(x, activation);
}

}  // namespace
