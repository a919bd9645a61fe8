// The inner loops with channels in the vector lanes: rows of pixels, 64-byte lines of channels, packed
// weights.
//
// A tile holds Pixels outputs x Vectors vectors in registers and walks the taps in order, one accumulator an
// output: per tap one weight vector against Pixels inputs read as memory operands.
#pragma once

#include "../simd.hpp"
#include "../task.hpp"

namespace {

using depthwise::index_t;
using depthwise::kLineBytes;
using simd::kLanes;
using simd::vec;

template <class T>
inline constexpr int kLine = static_cast<int>(kLineBytes / sizeof(T));

// The source rows under one output row: table[0..count), against kernel rows from `first` on.
template <class T>
struct LineRows {
  const T* const* table;
  index_t count, first;
};

// Output column j of row i reads x = rows[i].table[r] + j*pixel_step + k*tap_step for tap k of its r-th row,
// against weights[((first + r)*taps + k)*kLine]; the line goes to out + i*out_row + j*out_step.
template <class T>
struct LineBlock {
  const LineRows<T>* rows;
  index_t row_count;
  const T* weights;
  index_t taps, tap_step, pixel_step;
  T* out;
  index_t out_row, out_step, columns;
};

// Two registers stay free for the weights.
template <class T, int Pixels>
constexpr int tile_vectors() {
  int vectors = kLine<T> / kLanes<T>;
  while (vectors > 1 && vectors * Pixels > simd::kRegisters - 2) vectors /= 2;
  return vectors;
}

// Hides where a pointer came from. Otherwise the compiler keeps one pointer for each of its future values, in
// far more registers than there are.
template <class P>
DEPTHWISE_INLINE void opaque(P& pointer) {
  __asm__("" : "+r"(pointer));
}

// Any taps: one weight a tap against Pixels inputs, read as memory operands. PixelStep is the block's
// pixel_step, or 0 for any: a constant becomes a displacement in every load.
template <class T, int PixelStep, int Pixels, int Vectors>
DEPTHWISE_INLINE void any_taps(const LineBlock<T>& b, const T* x, const T* w,
                               vec<T> (&acc)[Vectors][Pixels]) {
  const index_t pixel_step = PixelStep ? PixelStep : b.pixel_step;
  for (index_t k = 0; k < b.taps; ++k, x += b.tap_step, w += kLine<T>) {
    opaque(x);
    vec<T> weight[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) weight[v] = simd::load(w + v * kLanes<T>);
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v)
        acc[v][p] = simd::fma(simd::load(x + p * pixel_step + v * kLanes<T>), weight[v], acc[v][p]);
  }
}

// A known number of adjacent taps: each input of the row is loaded once, for all the outputs that it touches.
template <class T, int Taps, int Stride, int Pixels>
DEPTHWISE_INLINE void adjacent_taps(const T* x, const T* w, vec<T> (&acc)[1][Pixels]) {
  opaque(x);
#pragma GCC unroll 32
  for (int i = 0; i < (Pixels - 1) * Stride + Taps; ++i) {
    const vec<T> input = simd::load(x + i * kLine<T>);
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k)
      if (i >= k && (i - k) % Stride == 0 && (i - k) / Stride < Pixels)
        acc[0][(i - k) / Stride] = simd::fma(input, simd::load(w + k * kLine<T>), acc[0][(i - k) / Stride]);
  }
}

// Taps and Stride 0 stand for any.
template <class T, int Taps, int Stride, int Pixels, int Vectors>
DEPTHWISE_INLINE void line_tile(const LineBlock<T>& b, const LineRows<T>& rows, index_t column, int lane,
                                T* out) {
  vec<T> acc[Vectors][Pixels] = {};
  const T* w = b.weights + rows.first * b.taps * kLine<T> + lane;
  const index_t offset = column * b.pixel_step + lane;
  for (index_t r = 0; r < rows.count; ++r, w += b.taps * kLine<T>) {
    if constexpr (Taps > 0)
      adjacent_taps<T, Taps, Stride>(rows.table[r] + offset, w, acc);
    else
      any_taps<T, Stride * kLine<T>>(b, rows.table[r] + offset, w, acc);
  }
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p, out += b.out_step)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(out + v * kLanes<T>, acc[v][p]);
}

// The last tile of a row overlaps its neighbour instead of shrinking; columns >= Pixels.
template <class T, int Taps, int Stride, int Pixels>
void line_block(const LineBlock<T>& b) {
  constexpr int vectors = Taps > 0 ? 1 : tile_vectors<T, Pixels>();
  for (index_t i = 0; i < b.row_count; ++i)
    for (index_t column = 0; column < b.columns; column += Pixels) {
      const index_t from = column + Pixels <= b.columns ? column : b.columns - Pixels;
      T* const out = b.out + i * b.out_row + from * b.out_step;
#pragma GCC unroll 1
      for (int lane = 0; lane < kLine<T>; lane += vectors * kLanes<T>)
        line_tile<T, Taps, Stride, Pixels, vectors>(b, b.rows[i], from, lane, out + lane);
    }
}

template <class T>
using LineBlockFunction = void (*)(const LineBlock<T>&);

template <class T, int Stride, int Pixels>
LineBlockFunction<T> line_block_for_taps(index_t taps, bool adjacent) {
  if (adjacent && taps == 3) return line_block<T, 3, Stride, Pixels>;
  if (adjacent && taps == 5) return line_block<T, 5, Stride, Pixels>;
  if (adjacent && taps == 7) return line_block<T, 7, Stride, Pixels>;
  return line_block<T, 0, Stride, Pixels>;
}

template <class T, int Pixels>
LineBlockFunction<T> line_block_for_stride(index_t stride, index_t taps, bool adjacent) {
  if (stride == 1) return line_block_for_taps<T, 1, Pixels>(taps, adjacent);
  if (stride == 2) return line_block_for_taps<T, 2, Pixels>(taps, adjacent);
  return line_block<T, 0, 0, Pixels>;
}

// `pixels` is one of the widths that the plan may choose: 4, 6, 7 or 8.
template <class T>
LineBlockFunction<T> line_block_function(index_t stride, index_t taps, bool adjacent, int pixels) {
  switch (pixels) {
    case 4: return line_block_for_stride<T, 4>(stride, taps, adjacent);
    case 6: return line_block_for_stride<T, 6>(stride, taps, adjacent);
    case 7: return line_block_for_stride<T, 7>(stride, taps, adjacent);
    default: return line_block_for_stride<T, 8>(stride, taps, adjacent);
  }
}

}  // namespace
