// The inner loops of NCHW planes: a row in the vector lanes, and one filter, taken as scalars, for all of
// them.
//
// A tile holds Rows output rows x Vectors vectors; each input vector it loads serves every output row under
// it. Where lanes can be masked, the rows are those of the image itself.
#pragma once

#include "flat_tile.hpp"

namespace {

#if defined(__AVX512F__)
inline constexpr int kPlaneRows = 7;
#else
inline constexpr int kPlaneRows = 4;
#endif

// A source row whose taps are read one by one: those of a stride of 2 alternate between the two phases of a
// packed row.
template <int S, class T, class Load>
struct PlaneRow {
  const T *even, *odd;
  index_t tap_step, vector_step;
  const Load& load;

  DEPTHWISE_INLINE PlaneRow(const FlatBlock<T>& b, const T* from, index_t step, const Load& loads)
      : even(from), odd(from + b.phase), tap_step(b.tap_step), vector_step(step), load(loads) {}

  template <int k, class V, int Vectors>
  DEPTHWISE_INLINE void take(V (&x)[Vectors]) {
    const T*& from = S == 2 && k % 2 ? odd : even;
    opaque(from);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) x[v] = load(from + v * vector_step, k);
    from += tap_step;
  }
};

#if defined(__AVX512F__)
// Lane i of the result is lane `lanes[i]` of a, or lane `lanes[i] - L` of b.
DEPTHWISE_INLINE __m512 pick_lanes(__m512 a, __m512 b, wide<std::int32_t, 16> lanes) {
  return _mm512_permutex2var_ps(a, (__m512i)lanes, b);
}
DEPTHWISE_INLINE __m512d pick_lanes(__m512d a, __m512d b, wide<std::int64_t, 8> lanes) {
  return _mm512_permutex2var_pd(a, (__m512i)lanes, b);
}
DEPTHWISE_INLINE __m256 pick_lanes(__m256 a, __m256 b, wide<std::int32_t, 8> lanes) {
  return _mm256_permutex2var_ps(a, (__m256i)lanes, b);
}
DEPTHWISE_INLINE __m256d pick_lanes(__m256d a, __m256d b, wide<std::int64_t, 4> lanes) {
  return _mm256_permutex2var_pd(a, (__m256i)lanes, b);
}

// Each vector of a row of the image is read once, and shifted in registers for the taps that follow. Under
// outputs of stride 2, taps 0 and 1 take every second lane of two vectors apart, and the others shift those.
template <class T, int L, int K, int S, int Vectors>
struct ShiftedInputs {
  using V = wide<T, L>;
  using Lane = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  static constexpr int kLoads = S * Vectors + 1;
  wide<Lane, L> picked[K];
  LaneMask inside[kLoads];  // the image

  DEPTHWISE_INLINE ShiftedInputs(const FlatBlock<T>& b, index_t position)
      : ShiftedInputs(b, position, std::make_integer_sequence<int, K>{},
                      std::make_integer_sequence<int, kLoads>{}) {}
  template <int... k, int... i>
  DEPTHWISE_INLINE ShiftedInputs(const FlatBlock<T>& b, index_t position, std::integer_sequence<int, k...>,
                                 std::integer_sequence<int, i...>)
      : picked{pick<k>(b, std::make_integer_sequence<int, L>{})...},
        inside{lanes_inside<L>(b, position + i * L)...} {}

  // Lane i of tap k, in the vectors that it is picked from.
  template <int k, int... i>
  static DEPTHWISE_INLINE wide<Lane, L> pick([[maybe_unused]] const FlatBlock<T>& b,
                                             std::integer_sequence<int, i...>) {
    wide<Lane, L> lanes;
    if constexpr (S == 1)
      lanes = wide<Lane, L>{i...} + static_cast<Lane>(k * b.tap_step);
    else
      lanes = wide<Lane, L>{(k < 2 ? 2 * i + k : i + k / 2 < L ? i + k / 2 : 2 * (i + k / 2) - L + k % 2)...};
    keep(lanes);
    return lanes;
  }

  struct Row {
    const ShiftedInputs& inputs;
    V row[kLoads], phases[2][Vectors];

    DEPTHWISE_INLINE Row(const ShiftedInputs& from, const T* p) : inputs(from) {
#pragma GCC unroll 16
      for (int i = 0; i < kLoads; ++i) row[i] = load_lanes<T, L>(p + i * L, from.inside[i]);
    }
    template <int k>
    DEPTHWISE_INLINE void take(V (&x)[Vectors]) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        if constexpr (S == 1)
          x[v] = k == 0 ? row[v] : pick_lanes(row[v], row[v + 1], inputs.picked[k]);
        else if constexpr (k < 2)
          x[v] = phases[k][v] = pick_lanes(row[2 * v], row[2 * v + 1], inputs.picked[k]);
        else
          x[v] = pick_lanes(phases[k % 2][v], row[2 * v + 2], inputs.picked[k]);
      }
    }
  };
  DEPTHWISE_INLINE Row operator()(const T* from) const { return {*this, from}; }
};
#endif

// Tap k of source row R against the kernel row of each output row that it touches.
template <int k, int R, int K, int S, int L, class T, int Rows, int Vectors, class Row>
DEPTHWISE_INLINE void plane_tap(const FlatBlock<T>& b, Row& row, wide<T, L> (&acc)[Rows][Vectors]) {
  constexpr int first = R < K ? 0 : (R - K) / S + 1, last = R / S < Rows - 1 ? R / S : Rows - 1;
  wide<T, L> x[Vectors];
  row.template take<k>(x);
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) keep(x[v]);  // the compiler would read it again for each of its uses
  const T* w = b.weights;
  if constexpr (!(K == 3 && Vectors == 1)) reload(w);  // so few fit into registers
#pragma GCC unroll 8
  for (int t = first; t <= last; ++t) {
    const wide<T, L> weight = w[(R - S * t) * K + k] - wide<T, L>{};
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) acc[t][v] = fma_wide(x[v], weight, acc[t][v]);
  }
}

template <int R, int K, int S, int L, class T, int Rows, int Vectors, class Row, int... k>
DEPTHWISE_INLINE void plane_source_row(const FlatBlock<T>& b, Row row, wide<T, L> (&acc)[Rows][Vectors],
                                       std::integer_sequence<int, k...>) {
  (plane_tap<k, R, K, S, L>(b, row, acc), ...);
}

// Source rows outside the image are left out. `rows` makes of a pointer what the taps are taken from.
template <int K, int S, int L, class T, int Rows, int Vectors, class MakeRow, int... R>
DEPTHWISE_INLINE void plane_source_rows(const FlatBlock<T>& b, index_t row, index_t position,
                                        const MakeRow& rows, wide<T, L> (&acc)[Rows][Vectors],
                                        std::integer_sequence<int, R...>) {
  constexpr std::make_integer_sequence<int, K> taps;
  const T* x = b.source + row * S * b.pitch + position;
  const std::size_t from = static_cast<std::size_t>(row * S - b.first), count = b.last - b.first;
  ((from + R < count ? plane_source_row<R, K, S, L>(b, rows(x), acc, taps) : void(), x += b.pitch), ...);
}

template <class T, int L, int K, int S, int Rows, int Vectors>
DEPTHWISE_INLINE void plane_tile(const FlatBlock<T>& b, index_t row, index_t at, index_t vector_step) {
  wide<T, L> acc[Rows][Vectors] = {};
  const auto load = [](const T* from, int) { return load_wide<T, L>(from); };
  const auto rows = [&](const T* from) { return PlaneRow<S, T, decltype(load)>(b, from, vector_step, load); };
  plane_source_rows<K, S, L>(b, row, at, rows, acc, std::make_integer_sequence<int, (Rows - 1) * S + K>{});
  T* out = b.out + row * b.out_row + at;
#if defined(__AVX512F__)
  if (Vectors == 1 && b.elements < L) {
    const LaneMask lanes = lanes_between<T, L>(0, b.elements);
#pragma GCC unroll 8
    for (int t = 0; t < Rows; ++t, out += b.out_row) store_lanes<T, L>(out, acc[t][0], lanes);
    return;
  }
#endif
#pragma GCC unroll 8
  for (int t = 0; t < Rows; ++t, out += b.out_row)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) store_wide<T, L>(out + v * vector_step, acc[t][v]);
}

#if defined(__AVX512F__)
// Only lanes inside the row are written.
template <class T, int L, int Rows, int Vectors>
DEPTHWISE_INLINE void store_rows(const FlatBlock<T>& b, index_t row, index_t at,
                                 const wide<T, L> (&acc)[Rows][Vectors]) {
  T* out = b.out + row * b.out_row + at;
  const index_t rest = b.elements - at - (Vectors - 1) * L;  // for the last vector
  const LaneMask lanes = lanes_between<T, L>(0, rest);
#pragma GCC unroll 8
  for (int t = 0; t < Rows; ++t, out += b.out_row) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors - 1; ++v) store_wide<T, L>(out + v * L, acc[t][v]);
    T* last = out + (Vectors - 1) * L;
    if (rest >= L)
      store_wide<T, L>(last, acc[t][Vectors - 1]);
    else
      store_lanes<T, L>(last, acc[t][Vectors - 1], lanes);
  }
}

// One vector whose inputs reach over an edge of the image, or which reaches over the end of the row.
template <class T, int L, int K, int S, int Rows>
DEPTHWISE_INLINE void plane_edge_tile(const FlatBlock<T>& b, index_t row, index_t at) {
  wide<T, L> acc[Rows][1] = {};
  const MaskedInputs<T, L, K> inputs(b, at);
  const auto load = [&](const T* from, int k) { return inputs.load(from, k); };
  const auto rows = [&](const T* from) { return PlaneRow<S, T, decltype(load)>(b, from, 0, load); };
  plane_source_rows<K, S, L>(b, row, at, rows, acc, std::make_integer_sequence<int, (Rows - 1) * S + K>{});
  store_rows<T, L>(b, row, at, acc);
}

// Inputs that the image does not have are masked; a vector that reaches over the end of the row has lanes
// left over.
template <class T, int L, int K, int S, int Rows, int Vectors>
DEPTHWISE_INLINE void plane_shifted_tile(const FlatBlock<T>& b, index_t row, index_t at) {
  wide<T, L> acc[Rows][Vectors] = {};
  const ShiftedInputs<T, L, K, S, Vectors> rows(b, S * at);
  plane_source_rows<K, S, L>(b, row, S * at, rows, acc,
                             std::make_integer_sequence<int, (Rows - 1) * S + K>{});
  store_rows<T, L>(b, row, at, acc);
}

// Packed rows, which hold zeros beside the image.
template <class T, int L, int K, int S>
DEPTHWISE_INLINE void plane_packed_rows(const FlatBlock<T>& b, index_t row) {
  constexpr int Rows = kPlaneRows;
  const index_t step = smaller(L, b.elements - L);
  for (index_t at = 0; at < b.elements; at += 2 * L) {
    if (b.elements - at <= L) {
      const index_t back = smaller(at, b.elements - L);
      plane_tile<T, L, K, S, Rows, 1>(b, row, back < 0 ? 0 : back, L);
    } else {
      plane_tile<T, L, K, S, Rows, 2>(b, row, smaller(at, b.elements - step - L), step);
    }
  }
}

// Rows of the image itself.
template <class T, int L, int K, int S>
DEPTHWISE_INLINE void plane_image_rows(const FlatBlock<T>& b, index_t row) {
  constexpr int Rows = kPlaneRows;
  const index_t inner_end = smaller(b.elements, b.high - (K - 1) * b.tap_step);
  for (index_t at = 0; at < b.elements;) {
    if (at >= b.low && at + 2 * L <= inner_end) {
      plane_tile<T, L, K, S, Rows, 2>(b, row, at, L);
      at += 2 * L;
    } else {
      const index_t back = smaller(at, b.elements - L);
      plane_edge_tile<T, L, K, S, Rows>(b, row, back < 0 ? 0 : back);
      at += L;
    }
  }
}

// Shifting takes the place of loads, but permutations compete with multiply-adds: it pays for few taps, and
// where a row is one vector, whose weights are loaded for it alone.
template <int L, int K, class T>
DEPTHWISE_INLINE bool plane_shifts(const FlatBlock<T>& b) {
  return (K - 1) * b.tap_step <= L && (K == 3 || b.elements <= L);
}

// Rows of the image itself, shifted in registers.
template <class T, int L, int K, int S>
DEPTHWISE_INLINE void plane_shifted_rows(const FlatBlock<T>& b, index_t row) {
  index_t at = 0;
  for (; b.elements - at > L; at += 2 * L) plane_shifted_tile<T, L, K, S, kPlaneRows, 2>(b, row, at);
  if (at < b.elements) plane_shifted_tile<T, L, K, S, kPlaneRows, 1>(b, row, at);
}

// The last tiles of a row, and of the block, overlap their neighbours instead of shrinking; rows >=
// kPlaneRows.
template <class T, int L, int K, int S>
void plane_block(const FlatBlock<T>& b) {
  for (index_t u = 0; u < b.rows; u += kPlaneRows) {
    const index_t row = smaller(u, b.rows - kPlaneRows);
    if (!b.masked)
      plane_packed_rows<T, L, K, S>(b, row);
    else if (S == 2 || plane_shifts<L, K>(b))
      plane_shifted_rows<T, L, K, S>(b, row);
    else if constexpr (S == 1)
      plane_image_rows<T, L, K, S>(b, row);
  }
}
#else
// The last tiles of a row, and of the block, overlap their neighbours instead of shrinking; elements >= L,
// and rows >= 7 where a row is one vector, else 4.
template <class T, int L, int K, int S>
void plane_block(const FlatBlock<T>& b) {
  const index_t vectors = (b.elements + L - 1) / L;
  if (vectors == 1) {
    for (index_t u = 0; u < b.rows; u += 7) plane_tile<T, L, K, S, 7, 1>(b, smaller(u, b.rows - 7), 0, L);
    return;
  }
  // Three vectors a tile, then two; a row of a little more than one has its two vectors overlap.
  const bool odd = vectors == 3 && b.elements < 3 * L;
  const index_t threes = odd || vectors == 2 ? 0 : vectors % 3 == 1 ? vectors / 3 - 1 : vectors / 3;
  const index_t broad = threes * 3 * L, step = vectors == 2 ? b.elements - L : L;
  for (index_t u = 0; u < b.rows; u += 4) {
    const index_t row = smaller(u, b.rows - 4);
    for (index_t at = 0; at < broad; at += 3 * L)
      plane_tile<T, L, K, S, 4, 3>(b, row, smaller(at, b.elements - 3 * L), L);
    for (index_t at = broad; at < b.elements; at += 2 * L)
      plane_tile<T, L, K, S, 4, 2>(b, row, smaller(at, b.elements - step - L), step);
  }
}
#endif

// Any kernel, stride and dilation: one output row, no input shared.
template <class T, int Vectors>
DEPTHWISE_INLINE void plane_row_tile(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int V = kLanes<T>;
  const index_t kernel_rows = b.kernel_rows * b.subrows, position = row * b.stride * b.subrows;
  const index_t begin = b.first * b.subrows > position ? b.first * b.subrows - position : 0;
  const index_t end = smaller(b.last * b.subrows - position, kernel_rows);
  vec<T> acc[Vectors] = {};
  const T* source = b.source + (position + begin) * b.pitch + at;
  const T* w = b.weights + begin * b.taps;
  for (index_t r = begin; r < end; ++r, source += b.pitch)
    for (index_t k = 0; k < b.taps; ++k, ++w) {
      const T* from = source + b.offsets[k];
      vec<T> weight = simd::broadcast(*w);
      keep(weight);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[v] = simd::fma(simd::load(from + v * V), weight, acc[v]);
    }
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) simd::store(b.out + row * b.out_row + at + v * V, acc[v]);
}

// Covers a row from `at` on with tiles of Vectors, then narrower ones; the last overlaps its neighbour.
template <class T, int Vectors>
DEPTHWISE_INLINE void plane_row(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int width = Vectors * kLanes<T>;
  for (; b.elements - at >= width; at += width) plane_row_tile<T, Vectors>(b, row, at);
  if (at == b.elements) return;
  if constexpr (Vectors == 1)
    plane_row_tile<T, 1>(b, row, smaller(at, b.elements - width));
  else
    plane_row<T, Vectors / 2>(b, row, at);
}

template <class T>
void plane_rows(const FlatBlock<T>& b) {
  for (index_t row = 0; row < b.rows; ++row) plane_row<T, 8>(b, row, 0);
}

template <class T, int L>
FlatFunction<T> plane_block_of(index_t stride, index_t kernel) {
  if (stride == 1)
    return kernel == 3   ? plane_block<T, L, 3, 1>
           : kernel == 5 ? plane_block<T, L, 5, 1>
                         : plane_block<T, L, 7, 1>;
  return kernel == 3   ? plane_block<T, L, 3, 2>
         : kernel == 5 ? plane_block<T, L, 5, 2>
                       : plane_block<T, L, 7, 2>;
}

// Half vectors waste less of a row, and cost half as much where they run two at a time; but they read more
// weights for each product, so short rows of wide kernels prefer whole ones.
template <class T>
FlatFunction<T> plane_function(index_t stride, index_t kernel, [[maybe_unused]] index_t columns) {
  constexpr int V = kLanes<T>;
#if defined(__AVX512F__)
  const auto vectors = [columns](int lanes) { return (columns + lanes - 1) / lanes; };
  if (vectors(V / 2) * (kernel == 3 ? 20 : 24) < vectors(V) * 40)
    return plane_block_of<T, V / 2>(stride, kernel);
#endif
  return plane_block_of<T, V>(stride, kernel);
}

}  // namespace
