// The inner loops with a row in the vector lanes: NCHW planes, and NHWC rows of so few channels that pixels
// are read as one flat row whose weights repeat with the number of channels.
//
// A tile holds Rows output rows x Vectors vectors; each input vector it loads serves every output row under
// it.
#pragma once

#include <utility>

#include "flat_layout.hpp"
#include "line_tile.hpp"

namespace {

// Output rows computed from packed rows that lie `pitch` elements apart, the first of them under output row
// 0. Any-height tiles skip source rows outside [first, last), the others read them. Flat output element i
// reads i + offsets[k] for tap k; adjacent taps lie `tap_step` apart or, in rows split into two phases,
// alternate between one and the next `phase` elements further on. Where `masked`,
// positions of a row outside [low, high) are read as 0. Weights: [tap][kernel row][subrow][pattern].
template <class T>
struct FlatBlock {
  const T* source;
  index_t pitch, first, last;
  const T* weights;
  index_t stride, kernel_rows, subrows, taps;
  index_t tap_step, phase;
  bool masked;
  index_t low, high;
  const index_t* offsets;
  T* out;
  index_t out_row, rows, elements;
};

// Keeps a vector of several uses in a register; the compiler would read it from memory for each of them.
template <class T>
DEPTHWISE_INLINE void keep_in_register(vec<T>& x) {
#if defined(__x86_64__)
  __asm__("" : "+x"(x));
#else
  __asm__("" : "+w"(x));
#endif
}

// Makes the compiler read anew what the pointer leads to: it would keep all the weights of an unrolled tile.
template <class P>
DEPTHWISE_INLINE void reload(P& pointer) {
  __asm__ volatile("" : "+r"(pointer));
}

template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_accumulate(vec<T> (&acc)[Vectors], const vec<T> (&x)[Vectors], const T* w) {
#pragma GCC unroll 8
  for (int p = 0; p < Period; ++p) {
    vec<T> weight = simd::load(w + p * kLanes<T>);
    if constexpr (Vectors > Period) keep_in_register<T>(weight);
#pragma GCC unroll 8
    for (int v = p; v < Vectors; v += Period) acc[v] = simd::fma(x[v], weight, acc[v]);
  }
}

// Source row R of the tile against the kernel row of each output row that it touches.
template <class T, int KernelRows, int Taps, int Stride, int Period, int R, int Rows, int Vectors>
DEPTHWISE_INLINE void flat_source_row(const FlatBlock<T>& b, const T* even, index_t vector_step,
                                      vec<T> (&acc)[Rows][Vectors]) {
  constexpr int first = R < KernelRows ? 0 : (R - KernelRows) / Stride + 1;
  constexpr int last = R / Stride < Rows - 1 ? R / Stride : Rows - 1;
  constexpr int pattern = Period * kLanes<T>;
  const T* w = b.weights;
  const T* odd = even + b.phase;
  const auto tap = [&](const T*& from, const T* weights) {
    opaque(from);
    if constexpr (Taps > 0) reload(weights);
    vec<T> x[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      x[v] = simd::load(from + v * vector_step);
      if constexpr (first < last) keep_in_register<T>(x[v]);  // read once for all of its uses
    }
#pragma GCC unroll 8
    for (int t = first; t <= last; ++t)
      flat_accumulate<T, Vectors, Period>(acc[t], x, weights + (R - Stride * t) * pattern);
    from += b.tap_step;
  };
  if constexpr (Taps > 0) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) tap(Stride == 2 && k % 2 ? odd : even, w + k * KernelRows * pattern);
  } else {
    for (index_t k = 0; k < b.taps; k += Stride, w += Stride * KernelRows * pattern) {
      tap(even, w);
      if (Stride == 2 && k + 1 < b.taps) tap(odd, w + KernelRows * pattern);
    }
  }
}

template <class T, int KernelRows, int Taps, int Stride, int Period, int Rows, int Vectors, int... R>
DEPTHWISE_INLINE void flat_source_rows(const FlatBlock<T>& b, index_t row, index_t at, index_t vector_step,
                                       vec<T> (&acc)[Rows][Vectors], std::integer_sequence<int, R...>) {
  const T* x = b.source + row * Stride * b.pitch + at;
  ((flat_source_row<T, KernelRows, Taps, Stride, Period, R>(b, x, vector_step, acc), x += b.pitch), ...);
}

template <class T, int KernelRows, int Taps, int Stride, int Period, int Rows, int Vectors>
DEPTHWISE_INLINE void flat_tile(const FlatBlock<T>& b, index_t row, index_t at, index_t vector_step) {
  vec<T> acc[Rows][Vectors] = {};
  flat_source_rows<T, KernelRows, Taps, Stride, Period>(
      b, row, at, vector_step, acc, std::make_integer_sequence<int, (Rows - 1) * Stride + KernelRows>{});
  T* out = b.out + row * b.out_row + at;
#pragma GCC unroll 8
  for (int t = 0; t < Rows; ++t, out += b.out_row)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(out + v * vector_step, acc[t][v]);
}

DEPTHWISE_INLINE index_t smaller(index_t a, index_t b) { return a < b ? a : b; }

// Tiles of several rows, for the kernel heights that are known here. The last ones of a row, and of the
// block, overlap their neighbours instead of shrinking; rows >= kFlatTileRows, elements >= the narrowest
// tile.
template <class T, int KernelRows, int Taps, int Stride, int Period>
void flat_block(const FlatBlock<T>& b) {
  constexpr int V = kLanes<T>;
  if constexpr (Period == 1) {
    const index_t vectors = (b.elements + V - 1) / V;
    if (vectors == 1) {
      for (index_t u = 0; u < b.rows; u += 8)
        flat_tile<T, KernelRows, Taps, Stride, Period, 8, 1>(b, smaller(u, b.rows - 8), 0, V);
      return;
    }
    // Three vectors a tile, then two; a row of a little more than one has its two vectors overlap.
    const bool odd = vectors == 3 && b.elements < 3 * V;
    const index_t threes = odd || vectors == 2 ? 0 : vectors % 3 == 1 ? vectors / 3 - 1 : vectors / 3;
    const index_t wide = threes * 3 * V, step = vectors == 2 ? b.elements - V : V;
    for (index_t u = 0; u < b.rows; u += 4) {
      const index_t row = smaller(u, b.rows - 4);
      for (index_t at = 0; at < wide; at += 3 * V)
        flat_tile<T, KernelRows, Taps, Stride, Period, 4, 3>(b, row, smaller(at, b.elements - 3 * V), V);
      for (index_t at = wide; at < b.elements; at += 2 * V)
        flat_tile<T, KernelRows, Taps, Stride, Period, 4, 2>(b, row, smaller(at, b.elements - step - V),
                                                             step);
    }
  } else {
    constexpr int width = Period * V;
    for (index_t u = 0; u < b.rows; u += 4)
      for (index_t at = 0; at < b.elements; at += width)
        flat_tile<T, KernelRows, Taps, Stride, Period, 4, Period>(b, smaller(u, b.rows - 4),
                                                                  smaller(at, b.elements - width), V);
  }
}

// Any kernel height, stride and dilation: one output row, no input shared.
template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_row_tile(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int pattern = Period * kLanes<T>;
  const index_t kernel_rows = b.kernel_rows * b.subrows, position = row * b.stride * b.subrows;
  const index_t begin = b.first * b.subrows > position ? b.first * b.subrows - position : 0;
  const index_t end = smaller(b.last * b.subrows - position, kernel_rows);
  vec<T> acc[Vectors] = {};
  const T* source = b.source + (position + begin) * b.pitch + at;
  for (index_t r = begin; r < end; ++r, source += b.pitch) {
    const T* w = b.weights + r * pattern;
    for (index_t k = 0; k < b.taps; ++k, w += kernel_rows * pattern) {
      const T* from = source + b.offsets[k];
      vec<T> x[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) x[v] = simd::load(from + v * kLanes<T>);
      flat_accumulate<T, Vectors, Period>(acc, x, w);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) simd::store(b.out + row * b.out_row + at + v * kLanes<T>, acc[v]);
}

// Covers a row from `at` on with tiles of Vectors, then narrower ones; the last overlaps its neighbour.
template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_row(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int width = Vectors * kLanes<T>;
  constexpr bool narrowest = Vectors == Period;
  for (; b.elements - at >= width; at += width) flat_row_tile<T, Vectors, Period>(b, row, at);
  if (at == b.elements) return;
  if constexpr (narrowest)
    flat_row_tile<T, Vectors, Period>(b, row, smaller(at, b.elements - width));
  else
    flat_row<T, Vectors / 2, Period>(b, row, at);
}

template <class T, int Vectors, int Period>
void flat_rows(const FlatBlock<T>& b) {
  for (index_t row = 0; row < b.rows; ++row) flat_row<T, Vectors, Period>(b, row, 0);
}

template <class T>
using FlatFunction = void (*)(const FlatBlock<T>&);

template <class T, int KernelRows, int Taps, int Stride>
FlatFunction<T> flat_block_for(int period) {
  return period == 3 ? flat_block<T, KernelRows, Taps, Stride, 3>
                     : flat_block<T, KernelRows, Taps, Stride, 1>;
}

template <class T>
FlatFunction<T> flat_rows_for(int period) {
  switch (period) {
    case 3: return flat_rows<T, 6, 3>;
    case 5: return flat_rows<T, 5, 5>;
    case 7: return flat_rows<T, 7, 7>;
    default: return flat_rows<T, 8, 1>;
  }
}

template <class T>
FlatFunction<T> flat_function(index_t stride, index_t kernel_rows, index_t taps, int period) {
  if (stride == 1) {
    switch (kernel_rows) {
      case 3: return taps == 3 ? flat_block_for<T, 3, 3, 1>(period) : flat_block_for<T, 3, 0, 1>(period);
      case 5: return flat_block_for<T, 5, 0, 1>(period);
      case 7: return flat_block_for<T, 7, 0, 1>(period);
    }
  } else if (stride == 2) {
    switch (kernel_rows) {
      case 3: return taps == 3 ? flat_block_for<T, 3, 3, 2>(period) : flat_block_for<T, 3, 0, 2>(period);
      case 5: return flat_block_for<T, 5, 0, 2>(period);
    }
  }
  return flat_rows_for<T>(period);
}

}  // namespace
