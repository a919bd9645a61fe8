// The two passes of the separable kernel on what registers hold: sums down the columns, and along a row.
#pragma once

#include <utility>

#include "../simd.hpp"
#include "../spec.hpp"

namespace {

using depthwise::index_t;
using depthwise::Storage;
using simd::compute_t;
using simd::kLanes;
using simd::vec;

// ---- images of any storage
// -------------------------------------------------------------------------------------

template <class From>
inline constexpr bool kIsInteger = false;
template <>
inline constexpr bool kIsInteger<std::uint8_t> = true;
template <>
inline constexpr bool kIsInteger<std::int16_t> = true;
template <>
inline constexpr bool kIsInteger<std::uint16_t> = true;

// As many neighbouring integers as `Wide` has lanes of 32 bits. GCC converts vectors lane by lane without
// help.
template <class Wide, class From>
DEPTHWISE_INLINE Wide load_integers(const From* from) {
  constexpr int lanes = sizeof(Wide) / 4;
#if defined(__AVX512F__)
  if constexpr (lanes == 16 && sizeof(From) == 1)
    return (Wide)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  if constexpr (lanes == 16 && sizeof(From) == 2) {
    const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Wide)(From(-1) < From(0) ? _mm512_cvtepi16_epi32(narrow) : _mm512_cvtepu16_epi32(narrow));
  }
#endif
#if defined(__AVX2__)
  if constexpr (lanes == 8 && sizeof(From) == 1)
    return (Wide)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  if constexpr (lanes == 8 && sizeof(From) == 2) {
    const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Wide)(From(-1) < From(0) ? _mm256_cvtepi16_epi32(narrow) : _mm256_cvtepu16_epi32(narrow));
  }
#endif
  typedef From narrow __attribute__((vector_size(lanes * sizeof(From)), aligned(sizeof(From)), may_alias));
  return __builtin_convertvector(*reinterpret_cast<const narrow*>(from), Wide);
}

template <class T, class From>
DEPTHWISE_INLINE vec<T> load_image(const From* from) {
  if constexpr (kIsInteger<From>) {
    typedef std::int32_t wide __attribute__((vector_size(kLanes<T> * 4)));
    return __builtin_convertvector(load_integers<wide>(from), vec<T>);
  } else {
    return simd::load(from);
  }
}
template <class T, class From>
DEPTHWISE_INLINE vec<T> load_image_n(const From* from, index_t n) {
  From buffer[kLanes<T>] = {};
  for (index_t i = 0; i < n; ++i) buffer[i] = from[i];
  return load_image<T>(buffer);
}

// ---- down the columns
// ------------------------------------------------------------------------------------------

// The weight of one tap: the same in every lane, or a vector of weights.
template <class T, bool kUniform>
DEPTHWISE_INLINE vec<T> tap_weight(const T* weights, index_t tap, index_t step) {
  if constexpr (kUniform) return simd::broadcast(weights[tap]);
  return simd::load(weights + tap * step);
}

template <class T, class From>
struct ColumnWork {
  const From* const* rows;  // source rows from the first output's first tap on
  index_t row_stride, taps;
  const T* weights;
  index_t weight_step;
  T* out;
  index_t pitch;
};

// kRows neighbouring outputs of kVectors vectors, `step` elements apart, from element `at` on. Each source
// row is loaded once; every output adds its taps in order.
// kTaps is their number, or 0 where it is b.taps >= kRows.
template <class T, class From, int kRows, int kVectors, bool kUniform, int kTaps>
DEPTHWISE_INLINE void column_tile(const ColumnWork<T, From>& b, index_t at, index_t step, const T* weights,
                                  T* out) {
  vec<T> acc[kRows][kVectors] = {};
  const auto add = [&](index_t p, int first, int last) __attribute__((always_inline)) {
    vec<T> x[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) x[v] = load_image<T>(b.rows[p] + at + v * step);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if (r < first || r > last) continue;
      if (kTaps > 0 && p - r >= kTaps) continue;
      const vec<T> w = tap_weight<T, kUniform>(weights, p - r, b.weight_step);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[r][v] = simd::fma(x[v], w, acc[r][v]);
    }
  };
  if constexpr (kTaps > 0) {
#pragma GCC unroll 16
    for (int p = 0; p < kRows + kTaps - 1; ++p) add(p, 0, p < kRows ? p : kRows - 1);
  } else {
#pragma GCC unroll 8
    for (int p = 0; p < kRows - 1; ++p) add(p, 0, p);
    for (index_t p = kRows - 1; p < b.taps; ++p) add(p, 0, kRows - 1);
#pragma GCC unroll 8
    for (int p = 1; p < kRows; ++p) add(b.taps - 1 + p, p, kRows - 1);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) simd::store(out + r * b.pitch + v * step, acc[r][v]);
}

// ---- along a row
// -----------------------------------------------------------------------------------------------

// Neighbouring taps that read the same vectors: tap i of a group reads what tap 0 reads i vectors further on.
struct RowGroup {
  index_t offset, first, count;  // of tap 0, in elements; its place among the weights; taps
};

template <class T>
struct RowWork {
  const RowGroup* groups;
  index_t group_count;
  const T* weights;
  index_t weight_step, step;
};

template <class T, int kVectors, int kTaps, bool kUniform>
DEPTHWISE_INLINE void row_group(const RowWork<T>& b, const RowGroup& g, const T* x, index_t step,
                                const T* weights, vec<T> (&acc)[kVectors]) {
  vec<T> w[kTaps];
#pragma GCC unroll 4
  for (int i = 0; i < kTaps; ++i) w[i] = tap_weight<T, kUniform>(weights, g.first + i, b.weight_step);
  x += g.offset;
#pragma GCC unroll 16
  for (int j = 0; j < kVectors + kTaps - 1; ++j) {
    const vec<T> loaded = simd::load(x + j * step);
#pragma GCC unroll 4
    for (int i = 0; i < kTaps; ++i)
      if (j >= i && j < i + kVectors) acc[j - i] = simd::fma(loaded, w[i], acc[j - i]);
  }
}

// From vector to vector of a tile. Those that share neither loads nor weights' places lie side by side, a
// constant apart.
template <bool kGroups, bool kUniform, class T>
DEPTHWISE_INLINE index_t row_step(const RowWork<T>& b) {
  return kUniform && !kGroups ? kLanes<T> : b.step;
}

// kVectors sums, a step apart. Without kGroups, every tap is a group of its own.
template <class T, int kVectors, bool kGroups, bool kUniform>
DEPTHWISE_INLINE void row_sums(const RowWork<T>& b, const T* x, const T* weights, vec<T> (&acc)[kVectors]) {
  const index_t step = row_step<kGroups, kUniform>(b);
  for (const RowGroup *g = b.groups, *end = g + b.group_count; g != end; ++g) {
    if (kGroups && g->count == 4)
      row_group<T, kVectors, 4, kUniform>(b, *g, x, step, weights, acc);
    else if (kGroups && g->count == 2)
      row_group<T, kVectors, 2, kUniform>(b, *g, x, step, weights, acc);
    else
      row_group<T, kVectors, 1, kUniform>(b, *g, x, step, weights, acc);
  }
}

// ---- along a row of few channels
// ---------------------------------------------------------------------------------

// kNarrowVectors neighbouring sums of taps that are kPixel elements apart: narrow_sums() where is_narrow().
inline constexpr int kNarrowVectors = 8;

#if defined(__AVX512F__)
DEPTHWISE_INLINE bool is_narrow(index_t pixel, index_t) { return pixel <= 4; }

template <int kLanesOff>
DEPTHWISE_INLINE vec<float> shifted(vec<float> low, vec<float> high) {
  if constexpr (kLanesOff == 0) return low;
  return (vec<float>)_mm512_alignr_epi32((__m512i)high, (__m512i)low, kLanesOff);
}

// Loads that straddle cache lines are dearer than shifts of what was loaded, which have a unit of their own:
// half of the taps go each way, at the same time.
template <int kPixel, int kTap>
DEPTHWISE_INLINE void add_narrow_tap(const float* x, const vec<float>* loaded, vec<float> w,
                                     vec<float> (&acc)[kNarrowVectors]) {
  constexpr int V = kLanes<float>, at = kTap * kPixel;
#pragma GCC unroll 8
  for (int v = 0; v < kNarrowVectors; ++v) {
    if constexpr (kTap % 2 == 0)
      acc[v] = simd::fma(shifted<at % V>(loaded[at / V + v], loaded[at / V + v + 1]), w, acc[v]);
    else
      acc[v] = simd::fma(simd::load(x + at + v * V), w, acc[v]);
  }
}

// Taps that move on by whole vectors, or the first `taps` of them.
template <int kPixel, int... kTap>
DEPTHWISE_INLINE void add_narrow_taps(const float* x, const float* weights, index_t taps,
                                      vec<float> (&acc)[kNarrowVectors],
                                      std::integer_sequence<int, kTap...>) {
  constexpr int V = kLanes<float>;
  vec<float> loaded[kNarrowVectors + kPixel + 1];
#pragma GCC unroll 16
  for (int v = 0; v < kNarrowVectors + kPixel; ++v) loaded[v] = simd::load(x + v * V);
  loaded[kNarrowVectors + kPixel] = vec<float>{};  // of which no tap reads
  const auto add = [&](auto tap) __attribute__((always_inline)) {
    add_narrow_tap<kPixel, tap>(x, loaded, simd::broadcast(weights[tap]), acc);
    return true;
  };
  (void)(... && (kTap < taps && add(std::integral_constant<int, kTap>{})));
}

template <int kPixel>
DEPTHWISE_INLINE void narrow_sums(const float* x, const float* weights, index_t taps,
                                  vec<float> (&acc)[kNarrowVectors]) {
  constexpr int V = kLanes<float>;
  for (index_t k = 0; k < taps; k += V)
    add_narrow_taps<kPixel>(x + k * kPixel, weights + k, taps - k, acc, std::make_integer_sequence<int, V>{});
}
#else
DEPTHWISE_INLINE bool is_narrow(index_t pixel, index_t taps) {
  return (pixel == 1 || pixel == 3) && (taps == 3 || taps == 5 || taps == 7);
}

template <int kTaps, int kPixel>
DEPTHWISE_INLINE void narrow_sums_of(const float* x, const float* weights,
                                     vec<float> (&acc)[kNarrowVectors]) {
#pragma GCC unroll 8
  for (int k = 0; k < kTaps; ++k) {
    const vec<float> w = simd::broadcast(weights[k]);
#pragma GCC unroll 8
    for (int v = 0; v < kNarrowVectors; ++v)
      acc[v] = simd::fma(simd::load(x + k * kPixel + v * kLanes<float>), w, acc[v]);
  }
}

template <int kPixel>
DEPTHWISE_INLINE void narrow_sums(const float* x, const float* weights, index_t taps,
                                  vec<float> (&acc)[kNarrowVectors]) {
  if (taps == 3) return narrow_sums_of<3, kPixel>(x, weights, acc);
  if (taps == 5) return narrow_sums_of<5, kPixel>(x, weights, acc);
  narrow_sums_of<7, kPixel>(x, weights, acc);
}
#endif

}  // namespace
