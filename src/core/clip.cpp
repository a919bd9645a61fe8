#include "clip.hpp"

#include <algorithm>
#include <cstring>

namespace depthwise {
namespace {

// An IEEE number whose exponent's bits are all set is infinite or NaN. Vectors at a time, since these may be
// most of a filter.
template <class Bits>
bool all_finite(const void* filter, index_t begin, index_t end, Bits exponent) {
  typedef Bits Vector __attribute__((vector_size(16)));
  constexpr index_t kVectors = 4, kSize = sizeof(Vector) / sizeof(Bits);
  const auto* const weights = static_cast<const Bits*>(filter);
  const Vector all = exponent | Vector{};
  Vector others[kVectors] = {};
  for (; begin + kVectors * kSize <= end; begin += kVectors * kSize)
    for (index_t v = 0; v < kVectors; ++v) {
      Vector x;
      std::memcpy(&x, weights + begin + v * kSize, sizeof x);
      others[v] |= reinterpret_cast<Vector>((x & all) == all);
    }
  Bits found = 0;
  for (const Vector& other : others)
    for (index_t i = 0; i < kSize; ++i) found |= other[i];
  for (; begin < end; ++begin) found |= (weights[begin] & exponent) == exponent;
  return found == 0;
}

bool all_finite(DType dtype, const void* filter, index_t begin, index_t end) {
  switch (dtype) {
    case DType::f16: return all_finite<std::uint16_t>(filter, begin, end, 0x7c00);
    case DType::bf16: return all_finite<std::uint16_t>(filter, begin, end, 0x7f80);
    case DType::f32: return all_finite<std::uint32_t>(filter, begin, end, 0x7f800000);
    case DType::f64: return all_finite<std::uint64_t>(filter, begin, end, 0x7ff0000000000000);
  }
  return false;
}

}  // namespace

Axis clip_taps(const Axis& a) {
  if (a.in == 0 || a.out == 0 || a.kernel == 0) return a;
  // Of the outputs, the last has the earliest tap over the image, and the first the latest. The padding that
  // is left before the first tap must not become negative.
  const index_t until = a.pad - a.stride * (a.out - 1);
  const index_t first = until > 0 ? std::min((until - 1) / a.dilation + 1, a.pad / a.dilation) : 0;
  const index_t last = std::min(a.kernel - 1, (a.in - 1 + a.pad) / a.dilation);
  if (first > last) return a;
  Axis clipped = a;
  clipped.kernel = last - first + 1;
  clipped.pad = a.pad - a.dilation * first;
  clipped.taps_before = first;
  clipped.taps_after = a.kernel - 1 - last;
  return clipped;
}

bool left_out_are_finite(const Spec& spec, const void* filter) {
  const index_t tap = spec.out_channels(), row = spec.w.filter_taps() * tap;
  const index_t begin = spec.h.taps_before * row, end = begin + spec.h.kernel * row;
  const auto finite = [&](index_t from, index_t to) { return all_finite(spec.dtype, filter, from, to); };
  if (!finite(0, begin) || !finite(end, end + spec.h.taps_after * row)) return false;
  const index_t left = spec.w.taps_before * tap, right = left + spec.w.kernel * tap;
  for (index_t at = begin; at < end; at += row)
    if (!finite(at, at + left) || !finite(at + right, at + row)) return false;
  return true;
}

bool filter_is_finite(const Spec& spec, const void* filter) {
  return all_finite(spec.dtype, filter, 0, spec.h.filter_taps() * spec.w.filter_taps() * spec.out_channels());
}

}  // namespace depthwise
