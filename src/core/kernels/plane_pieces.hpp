// Planes brought into lines of channels, as flat runs of pixels: a 128-bit lane of a vector holds a few
// pixels of one plane, and turns into as many planes of one pixel without leaving its lane.
#pragma once

#include <utility>

#include "line_tile.hpp"

namespace {

using simd::compute_t;

// Pixels of a piece: what one 128-bit lane holds of a plane in the compute type.
template <class T>
inline constexpr int kPiece = 16 / static_cast<int>(sizeof(T));
template <class S>
inline constexpr int kPieceOf = kPiece<compute_t<std::remove_const_t<S>>>;

// Lane l of a line is the plane l * step elements further on.
template <class S>
struct EvenPlanes {
  S* first;
  index_t step;

  DEPTHWISE_INLINE S* operator[](int l) const { return first + l * step; }
};

// Pixel p of the planes whose pieces make up one vector: every kPiece-th from plane l on.
template <class S>
struct EvenPieces {
  S* first;
  index_t step;

  DEPTHWISE_INLINE S* operator()(int j) const { return first + j * step; }
};
template <class S>
struct Pieces {
  S* const* planes;
  index_t p;

  DEPTHWISE_INLINE S* operator()(int j) const { return planes[j * kPieceOf<S>] + p; }
};
template <class S>
DEPTHWISE_INLINE EvenPieces<S> pieces_at(EvenPlanes<S> planes, int l, index_t p) {
  return {planes[l] + p, kPieceOf<S> * planes.step};
}
template <class S>
DEPTHWISE_INLINE Pieces<S> pieces_at(S* const* planes, int l, index_t p) {
  return {planes + l, p};
}

#if defined(__AVX2__)
// 16 bytes of each plane, and 8 bytes of each: pieces of the compute type, and of a type of half its size.
DEPTHWISE_INLINE __m128 load_16(const void* p) { return _mm_loadu_ps(static_cast<const float*>(p)); }
DEPTHWISE_INLINE __m128i load_8(const void* p, const void* q) {
  const __m128d low = _mm_load_sd(static_cast<const double*>(p));
  return _mm_castpd_si128(_mm_loadh_pd(low, static_cast<const double*>(q)));
}
DEPTHWISE_INLINE __m256 load_16(const void* p, const void* q) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(load_16(p)), load_16(q), 1);
}
#endif

// 128-bit lane j of the result is piece at(j).
template <class S, class At>
DEPTHWISE_INLINE vec<compute_t<S>> load_pieces(At at) {
  using T [[maybe_unused]] = compute_t<S>;  // vectors of 128 bits are one piece
#if defined(__AVX512F__)
  if constexpr (sizeof(S) == sizeof(T))
    return (vec<T>)_mm512_insertf32x8(_mm512_castps256_ps512(load_16(at(0), at(1))), load_16(at(2), at(3)),
                                      1);
  else
    return simd::to_float(S{}, (simd::u16half)_mm256_set_m128i(load_8(at(2), at(3)), load_8(at(0), at(1))));
#elif defined(__AVX2__)
  if constexpr (sizeof(S) == sizeof(T))
    return (vec<T>)load_16(at(0), at(1));
  else
    return simd::to_float(S{}, (simd::u16half)load_8(at(0), at(1)));
#else
  return simd::load(at(0));
#endif
}

// Element I of two vectors interleaved by runs of `run` elements within each 128-bit lane: of their low
// halves or, with `high`, of their high ones.
template <class T, int run>
constexpr int interleaved(int i, bool high) {
  constexpr int P = kPiece<T>;
  const int lane = i / P * P, at = i % P;
  return lane + at / (2 * run) * run + at % run + (at / run % 2 ? kLanes<T> : 0) + (high ? P / 2 : 0);
}
template <class T, int run, bool high, int... I>
DEPTHWISE_INLINE vec<T> interleave(vec<T> a, vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, interleaved<T, run>(I, high)...);
}

// Row i, element e of each 128-bit lane changes places with row e, element i.
template <class T>
DEPTHWISE_INLINE void transpose_lanes(vec<T> (&rows)[kPiece<T>]) {
  constexpr std::make_integer_sequence<int, kLanes<T>> all;
  if constexpr (kPiece<T> == 2) {
    const vec<T> a = rows[0], b = rows[1];
    rows[0] = interleave<T, 1, false>(a, b, all), rows[1] = interleave<T, 1, true>(a, b, all);
  } else {
    const vec<T> a = interleave<T, 1, false>(rows[0], rows[1], all),
                 b = interleave<T, 1, true>(rows[0], rows[1], all),
                 c = interleave<T, 1, false>(rows[2], rows[3], all),
                 d = interleave<T, 1, true>(rows[2], rows[3], all);
    rows[0] = interleave<T, 2, false>(a, c, all), rows[1] = interleave<T, 2, true>(a, c, all);
    rows[2] = interleave<T, 2, false>(b, d, all), rows[3] = interleave<T, 2, true>(b, d, all);
  }
}

// Moves `count` pixels of a vector of planes, a piece of each at a time: `load` fills rows from pixel p on,
// which are transposed, and `store` takes them. The last piece overlaps its neighbour.
template <class T, class Load, class Store>
DEPTHWISE_INLINE void move_pieces(index_t count, Load load, Store store) {
  constexpr int P = kPiece<T>;
  for (index_t i = 0; i < count; i += P) {
    const index_t p = i + P <= count ? i : count - P;
    vec<T> rows[P];
#pragma GCC unroll 4
    for (int r = 0; r < P; ++r) rows[r] = load(r, p);
    transpose_lanes<T>(rows);
#pragma GCC unroll 4
    for (int r = 0; r < P; ++r) store(rows[r], r, p);
  }
}

// Pixels [begin, begin + count) of a vector of planes as vectors a line apart. By value: what is stored could
// change what is referred to.
template <class S, class Planes>
DEPTHWISE_INLINE void load_planes(Planes planes, int first, index_t begin, index_t count, compute_t<S>* to) {
  using T = compute_t<S>;
  move_pieces<T>(
      count, [=](int r, index_t p) { return load_pieces<S>(pieces_at(planes, first + r, begin + p)); },
      [=](vec<T> row, int r, index_t p) { simd::store(to + (p + r) * kLine<T>, row); });
}

// Pixels [begin, begin + count) of the planes as lines from `to` on; lanes past the last plane hold anything.
template <class S>
void planes_to_lines(const S* const* planes, int valid, index_t begin, index_t count, compute_t<S>* to) {
  using T = compute_t<S>;
  if (count < kPiece<T>) {
    for (index_t p = 0; p < count; ++p)
      for (int l = 0; l < valid; ++l) to[p * kLine<T> + l] = simd::load_one(planes[l] + begin + p);
    return;
  }
  const index_t step = planes[1] - planes[0];
  bool even = true;
  for (int l = 1; l < kLine<T>; ++l) even = even && planes[l] - planes[l - 1] == step;
  for (int v = 0; v < valid; v += kLanes<T>) {
    if (even)
      load_planes<S>(EvenPlanes<const S>{planes[0], step}, v, begin, count, to + v);
    else
      load_planes<S>(planes, v, begin, count, to + v);
  }
}

}  // namespace
