// Vectors of any number of lanes, and loads and stores of some of their lanes where the ISA has masks.
#pragma once

#include "../simd.hpp"
#include "../spec.hpp"

namespace {

using depthwise::index_t;

// L elements: a vector, or half of one where that fits short rows better.
template <class T, int L>
struct wide_of {
  typedef T type __attribute__((vector_size(L * sizeof(T))));
  typedef T unaligned __attribute__((vector_size(L * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <class T, int L>
using wide = typename wide_of<T, L>::type;

template <class T, int L>
DEPTHWISE_INLINE wide<T, L> load_wide(const T* p) {
  return *reinterpret_cast<const typename wide_of<T, L>::unaligned*>(p);
}
template <class T, int L>
DEPTHWISE_INLINE void store_wide(T* p, wide<T, L> x) {
  *reinterpret_cast<typename wide_of<T, L>::unaligned*>(p) = x;
}

// Whether some lanes of a vector can be loaded, and stored, for little more than all of them. AVX2 has loads
// for that, and stores, but for one of those some processors take a dozen cycles.
#if defined(__AVX512F__)
inline constexpr bool kMaskedLanes = true;
using LaneMask = __mmask16;

DEPTHWISE_INLINE __m512 fma_wide(__m512 x, __m512 y, __m512 acc) { return _mm512_fmadd_ps(x, y, acc); }
DEPTHWISE_INLINE __m512d fma_wide(__m512d x, __m512d y, __m512d acc) { return _mm512_fmadd_pd(x, y, acc); }
DEPTHWISE_INLINE __m256 fma_wide(__m256 x, __m256 y, __m256 acc) { return _mm256_fmadd_ps(x, y, acc); }
DEPTHWISE_INLINE __m256d fma_wide(__m256d x, __m256d y, __m256d acc) { return _mm256_fmadd_pd(x, y, acc); }

// Lanes that are not in the mask read as 0, and no memory is touched for them.
template <class T, int L>
DEPTHWISE_INLINE wide<T, L> load_lanes(const T* p, LaneMask lanes) {
  wide<T, L> x;
  const auto& memory = *reinterpret_cast<const typename wide_of<T, L>::unaligned*>(p);
  if constexpr (sizeof(T) == 4)
    __asm__("vmovups %1, %0%{%2%}%{z%}" : "=v"(x) : "m"(memory), "Yk"(lanes));
  else
    __asm__("vmovupd %1, %0%{%2%}%{z%}" : "=v"(x) : "m"(memory), "Yk"(lanes));
  return x;
}
template <class T, int L>
DEPTHWISE_INLINE void store_lanes(T* p, wide<T, L> x, LaneMask lanes) {
  if constexpr (sizeof(T) == 4 && L == 16) _mm512_mask_storeu_ps(p, lanes, (__m512)x);
  if constexpr (sizeof(T) == 8 && L == 8) _mm512_mask_storeu_pd(p, (__mmask8)lanes, (__m512d)x);
  if constexpr (sizeof(T) == 4 && L == 8) _mm256_mask_storeu_ps(p, (__mmask8)lanes, (__m256)x);
  if constexpr (sizeof(T) == 8 && L == 4) _mm256_mask_storeu_pd(p, (__mmask8)lanes, (__m256d)x);
}

// Lanes i of L with low <= i < high.
template <class T, int L>
DEPTHWISE_INLINE LaneMask lanes_between(index_t low, index_t high) {
  const int from = static_cast<int>(low < 0 ? 0 : low > L ? L : low);
  const int to = static_cast<int>(high < 0 ? 0 : high > L ? L : high);
  LaneMask lanes = static_cast<LaneMask>(((1u << to) - 1) & ~((1u << from) - 1));
  __asm__("" : "+Yk"(lanes));
  return lanes;
}
#else
inline constexpr bool kMaskedLanes = false;

#if defined(__AVX2__)
using LaneMask = __m256i;

template <class T, int L>
DEPTHWISE_INLINE wide<T, L> load_lanes(const T* p, LaneMask lanes) {
  if constexpr (sizeof(T) == 4)
    return _mm256_maskload_ps(p, lanes);
  else
    return _mm256_maskload_pd(p, lanes);
}
template <class T, int L>
DEPTHWISE_INLINE LaneMask lanes_between(index_t low, index_t high) {
  simd::index_vec<T> lane;
  for (int i = 0; i < L; ++i) lane[i] = i;
  const auto clamp = [](index_t i) { return static_cast<int>(i < 0 ? 0 : i > L ? L : i); };
  LaneMask lanes = (LaneMask)((lane >= clamp(low)) & (lane < clamp(high)));
  __asm__("" : "+x"(lanes));
  return lanes;
}
#endif

template <class V>
DEPTHWISE_INLINE V fma_wide(V x, V y, V acc) {
  return simd::fma(x, y, acc);
}
#endif

}  // namespace
