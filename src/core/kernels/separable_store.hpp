// Finished sums of a row rounded to what the result is stored as.
#pragma once

#include "line_store.hpp"
#include "separable_tile.hpp"

namespace {

// To the nearest integer, ties to even, within the range of `To`; NaN gives 0. Adding the shift leaves the
// integer in the low bits.
template <class To, class T>
DEPTHWISE_INLINE void store_integers(void* to, index_t at, vec<T> x) {
  typedef To narrow __attribute__((vector_size(kLanes<T> * sizeof(To)), aligned(sizeof(To)), may_alias));
  constexpr bool is_signed = To(-1) < To(0);
  constexpr T low = is_signed ? -T(1 << (8 * sizeof(To) - 1)) : T(0),
              high = low + T((1 << 8 * sizeof(To)) - 1);
  const vec<T> least = simd::broadcast(low), most = simd::broadcast(high);
#if defined(__AVX512F__)
  // Conversion and narrowing saturate by themselves: what is too large for 32 bits becomes the largest
  // unsigned.
  if constexpr (sizeof(T) == 4 && !is_signed) {
    const __m512i rounded = _mm512_cvtps_epi32(_mm512_max_ps((__m512)x, _mm512_setzero_ps()));
    if constexpr (sizeof(To) == 1)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<To*>(to) + at),
                       _mm512_cvtusepi32_epi8(rounded));
    else
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<To*>(to) + at),
                          _mm512_cvtusepi32_epi16(rounded));
    return;
  }
#endif
  if constexpr (is_signed) x = x == x ? x : vec<T>{};
  x = x > least ? x : least;
  x = x < most ? x : most;
  x = x + (sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52));
#if defined(__AVX512F__)

  if constexpr (sizeof(T) == 4 && sizeof(To) == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<To*>(to) + at),
                        _mm512_cvtepi32_epi16((__m512i)x));
    return;
  }
#endif
  *reinterpret_cast<narrow*>(static_cast<To*>(to) + at) =
      __builtin_convertvector((simd::index_vec<T>)x, narrow);
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

// Past the caches, where a whole cache line is written at a time; `to` is aligned to a vector.
template <class T>
DEPTHWISE_INLINE void stream(T* to, vec<T> x) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(to), (__m512i)x);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(to), (__m256i)x);
#else
  simd::store(to, x);
#endif
}

// Makes streamed results visible before any later write.
DEPTHWISE_INLINE void end_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

}  // namespace
