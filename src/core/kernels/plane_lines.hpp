// Lines of channels brought back into planes, as plane_pieces.hpp brings planes into lines.
#pragma once

#include "line_store.hpp"

namespace {

#if defined(__AVX2__)
DEPTHWISE_INLINE void store_8(void* p, void* q, __m128i x) {
  _mm_storel_pd(static_cast<double*>(p), _mm_castsi128_pd(x));
  _mm_storeh_pd(static_cast<double*>(q), _mm_castsi128_pd(x));
}
DEPTHWISE_INLINE void store_16(void* p, void* q, __m256 x) {
  _mm_storeu_ps(static_cast<float*>(p), _mm256_castps256_ps128(x));
  _mm_storeu_ps(static_cast<float*>(q), _mm256_extractf128_ps(x, 1));
}
#endif

template <class S, class At>
DEPTHWISE_INLINE void store_pieces(vec<compute_t<S>> x, At at) {
  using T = compute_t<S>;
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == sizeof(T)) {
    store_16(at(0), at(1), _mm512_castps512_ps256((__m512)x));
    store_16(at(2), at(3), _mm512_extractf32x8_ps((__m512)x, 1));
  } else {
    const __m256i half = (__m256i)simd::from_float(S{}, x);
    store_8(at(0), at(1), _mm256_castsi256_si128(half));
    store_8(at(2), at(3), _mm256_extracti128_si256(half, 1));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(S) == sizeof(T))
    store_16(at(0), at(1), (__m256)x);
  else
    store_8(at(0), at(1), (__m128i)simd::from_float(S{}, x));
#else
  simd::store(at(0), x);
#endif
}

template <class S>
DEPTHWISE_INLINE void store_planes_of(const compute_t<S>* from, EvenPlanes<S> planes, int first,
                                      index_t begin, index_t count, Epilogue<compute_t<S>> finish) {
  using T = compute_t<S>;
  move_pieces<T>(
      count, [=](int r, index_t p) { return finish(simd::load(from + (p + r) * kLine<T>), first); },
      [=](vec<T> row, int r, index_t p) { store_pieces<S>(row, pieces_at(planes, first + r, begin + p)); });
}

// And back, finished; planes past the last valid one are not touched.
template <class S>
void lines_to_planes(const compute_t<S>* from, const EvenPlanes<S>& planes, int valid, index_t begin,
                     index_t count, const Epilogue<compute_t<S>>& finish) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>;
  int v = 0;
  if (count >= kPiece<T>)
    for (; v + V <= valid; v += V) store_planes_of<S>(from + v, planes, v, begin, count, finish);
  if (v < valid)
    store_planes<S>(from + v, count, planes[v] + begin, 1, planes.step, valid - v,
                    {finish.bias + v, finish.activation});
}

}  // namespace
