// Rows of an image brought together, whatever they are stored as, with what the border shows outside.
#pragma once

#include "../border.hpp"
#include "../simd.hpp"

namespace {

using depthwise::Border;
using depthwise::index_t;
using depthwise::map_border;

// Neighbouring elements, converted: exactly from integers to floats and from 16-bit floats to float32.
template <class T>
DEPTHWISE_INLINE void convert(const T* from, index_t count, T* to) {
  constexpr index_t few = 8;  // for which a call of memcpy takes longer
  if (count > few) __builtin_memcpy(to, from, count * sizeof(T));
#pragma GCC unroll 1
  for (index_t i = 0; count <= few && i < count; ++i) to[i] = from[i];
}
template <class From, class To>
DEPTHWISE_INLINE void convert(const From* from, index_t count, To* to) {
  for (index_t i = 0; i < count; ++i) to[i] = static_cast<To>(from[i]);
}
template <class Half>
DEPTHWISE_INLINE void convert_half(const Half* from, index_t count, float* to) {
  constexpr int lanes = simd::kLanes<float>;
  index_t i = 0;
  for (; i + lanes <= count; i += lanes) simd::store(to + i, simd::load(from + i));
  const int rest = static_cast<int>(count - i);
  if (rest > 0) simd::store_n(to + i, simd::load_n(from + i, rest), rest);
}
DEPTHWISE_INLINE void convert(const simd::f16* from, index_t count, float* to) {
  convert_half(from, count, to);
}
DEPTHWISE_INLINE void convert(const simd::bf16* from, index_t count, float* to) {
  convert_half(from, count, to);
}

// Rounded to the nearest integer, ties to even, within [least, most]; NaN gives 0. The result is right in its
// low bits, as many as the range needs.
template <class T>
DEPTHWISE_INLINE simd::index_vec<T> rounded(simd::vec<T> x, T least, T most) {
  using V = simd::vec<T>;
  const V low = simd::broadcast(least), high = simd::broadcast(most);
  x = x == x ? x : V{};
  x = x < low ? low : x;
  x = x > high ? high : x;
  // Beside this number lie integers only, whose low bits are those of its significand.
  return (simd::index_vec<T>)(x + (sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52)));
}

// Neighbouring elements as integers, saturated.
template <class T, class To>
DEPTHWISE_INLINE void saturate(const T* from, index_t count, To* to) {
  constexpr int bits = 8 * sizeof(To), lanes = simd::kLanes<T>, block = 64;
  constexpr T least = To(-1) < To(0) ? -T(1 << (bits - 1)) : T(0), most = least + T((1 << bits) - 1);
  alignas(simd::kVectorBytes) simd::integer<T> wide[block];
  for (; count >= block; count -= block, from += block, to += block) {
    for (int i = 0; i < block; i += lanes)
      *(simd::index_vec<T>*)(wide + i) = rounded<T>(simd::load(from + i), least, most);
    for (int i = 0; i < block; ++i) to[i] = static_cast<To>(wide[i]);
  }
  for (index_t i = 0; i < count; ++i)
    to[i] = static_cast<To>(rounded<T>(simd::broadcast(from[i]), least, most)[0]);
}

// A row of an image: `size` pixels, `pixel_step` elements apart, of which `run` neighbouring elements are
// taken.
template <class From>
struct BorderRow {
  const From* pixels;  // pixel 0
  index_t size, pixel_step, run;
  Border border;
};

// Brings together `count` pixels from position `first` on, `step` positions apart; each is `run` elements.
template <class From, class To>
void gather_row(const BorderRow<From>& row, index_t first, index_t step, index_t count, To* to) {
  const index_t run = row.run;
  index_t p = 0;
  const auto outside = [&](index_t end) {
    for (; p < end; ++p) {
      const index_t source = map_border(row.border, first + p * step, row.size);
      if (source < 0)
        for (index_t i = 0; i < run; ++i) to[p * run + i] = To{};
      else
        convert(row.pixels + source * row.pixel_step, run, to + p * run);
    }
  };
  const auto reach = [&](index_t position) {  // how many of the pixels lie before it
    const index_t pixels = position <= first ? 0 : (position - first + step - 1) / step;
    return pixels < count ? pixels : count;
  };
  outside(reach(0));
  const index_t end = reach(row.size);
  const From* from = row.pixels + (first + p * step) * row.pixel_step;
  if (step == 1 && row.pixel_step == run && p < end) {
    convert(from, (end - p) * run, to + p * run);
    p = end;
  }
  for (; p < end; ++p, from += step * row.pixel_step) convert(from, run, to + p * run);
  outside(count);
}

}  // namespace
