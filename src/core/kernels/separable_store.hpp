// Finished sums of a row rounded to what the result is stored as.
#pragma once

#include "line_store.hpp"
#include "separable_tile.hpp"

namespace {

// Integers of 8 or 16 bits, rounded to the nearest, of numbers other than NaN where they are signed; what is
// out of their range becomes its end. `most` is its upper one.
#if defined(__AVX512F__)
// What is too large for 32 bits becomes the largest unsigned, or the least signed.
template <class To>
DEPTHWISE_INLINE void store_narrow(To* to, vec<float> x, vec<float> most) {
  if constexpr (To(-1) < To(0)) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps((__m512)x, (__m512)most));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtsepi32_epi16(whole));
  } else {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps((__m512)x, _mm512_setzero_ps()));
    if constexpr (sizeof(To) == 1)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(whole));
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtusepi32_epi16(whole));
  }
}
#elif defined(__AVX2__)
// What is too small for 32 bits, and NaN, becomes the least signed.
DEPTHWISE_INLINE __m256i rounded(vec<float> x, vec<float> most) {
  return _mm256_cvtps_epi32(_mm256_min_ps((__m256)most, (__m256)x));
}
template <class To>
DEPTHWISE_INLINE void store_narrow(To* to, vec<float> x, vec<float> most) {
  const __m256i whole = rounded(x, most);
  const __m128i low = _mm256_castsi256_si128(whole), high = _mm256_extracti128_si256(whole, 1);
  const __m128i words = To(-1) < To(0) ? _mm_packs_epi32(low, high) : _mm_packus_epi32(low, high);
  if constexpr (sizeof(To) == 1)
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
  else
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), words);
}
#endif

// To the nearest integer, ties to even, within the range of `To`; NaN gives 0. Adding the shift leaves the
// integer in the low bits.
template <class To, class T>
DEPTHWISE_INLINE void store_integers(void* to, index_t at, vec<T> x) {
  typedef To narrow __attribute__((vector_size(kLanes<T> * sizeof(To)), aligned(sizeof(To)), may_alias));
  constexpr bool is_signed = To(-1) < To(0);
  constexpr T low = is_signed ? -T(1 << (8 * sizeof(To) - 1)) : T(0),
              high = low + T((1 << 8 * sizeof(To)) - 1);
  const vec<T> least = simd::broadcast(low), most = simd::broadcast(high);
  if constexpr (is_signed) x = x == x ? x : vec<T>{};
#if defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return store_narrow(static_cast<To*>(to) + at, x, most);
#endif
  x = x > least ? x : least;
  x = x < most ? x : most;
  x = x + (sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52));
  *reinterpret_cast<narrow*>(static_cast<To*>(to) + at) =
      __builtin_convertvector((simd::index_vec<T>)x, narrow);
}

#if defined(__AVX512F__)
inline constexpr bool kPacksBytes = true;

// Four neighbouring vectors of bytes: each by itself would take as many instructions. NaN becomes the least
// signed, and so 0.
DEPTHWISE_INLINE void store_neighbours(char* to, const vec<float>* x) {
  const __m512 most = _mm512_set1_ps(255);
  const auto rounded = [=](vec<float> y) { return _mm512_cvtps_epi32(_mm512_min_ps(most, (__m512)y)); };
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i words = _mm512_packus_epi32(rounded(x[0]), rounded(x[1])),
                more = _mm512_packus_epi32(rounded(x[2]), rounded(x[3]));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(words, more)));
}
#elif defined(__AVX2__)
inline constexpr bool kPacksBytes = true;

// Four neighbouring vectors of bytes: each by itself would take as many instructions.
DEPTHWISE_INLINE void store_neighbours(char* to, const vec<float>* x) {
  const vec<float> most = simd::broadcast(255.0f);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i words = _mm256_packus_epi32(rounded(x[0], most), rounded(x[1], most)),
                more = _mm256_packus_epi32(rounded(x[2], most), rounded(x[3], most));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_permutevar8x32_epi32(_mm256_packus_epi16(words, more), order));
}
#else
inline constexpr bool kPacksBytes = false;

DEPTHWISE_INLINE void store_neighbours(char*, const vec<float>*) {}
#endif

// Vectors of bytes, `step` apart.
template <int kVectors, class T>
DEPTHWISE_INLINE void store_bytes(void* to, index_t at, index_t step, const vec<T> (&x)[kVectors]) {
  if constexpr (kPacksBytes && kVectors % 4 == 0 && sizeof(T) == 4) {
    if (step == kLanes<T>) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; v += 4)
        store_neighbours(static_cast<char*>(to) + at + v * kLanes<T>, x + v);
      return;
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store_integers<std::uint8_t, T>(to, at + v * step, x[v]);
}

template <class S>
DEPTHWISE_INLINE void store_result(Storage storage, void* to, index_t at, vec<compute_t<S>> x) {
  switch (storage) {
    case Storage::same: return simd::store(static_cast<S*>(to) + at, x);
    case Storage::u8: return store_integers<std::uint8_t, compute_t<S>>(to, at, x);
    case Storage::i16: return store_integers<std::int16_t, compute_t<S>>(to, at, x);
    case Storage::u16: return store_integers<std::uint16_t, compute_t<S>>(to, at, x);
  }
}

// The first n lanes.
template <class S>
DEPTHWISE_INLINE void store_result_n(Storage storage, void* to, index_t at, vec<compute_t<S>> x, index_t n) {
  if (n >= kLanes<compute_t<S>>) return store_result<S>(storage, to, at, x);
  if (storage == Storage::same) return simd::store_n(static_cast<S*>(to) + at, x, static_cast<int>(n));
  alignas(simd::kVectorBytes) char buffer[simd::kVectorBytes];
  store_result<S>(storage, buffer, 0, x);
  const index_t bytes = storage == Storage::u8 ? 1 : 2;
  for (index_t i = 0; i < n * bytes; ++i) static_cast<char*>(to)[at * bytes + i] = buffer[i];
}

}  // namespace
