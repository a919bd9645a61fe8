// The 9 sums of a 3x3 filter gradient, channels in the lanes: strips of several columns walk down the rows
// together.
//
// All sums stay in registers, and so do the gradients that an input meets. An input is loaded once for all
// columns of the strip: 10 loads for the 36 multiply-adds of four columns, which matters most where lines of
// neighbouring pixels evict each other from the first-level cache.
#pragma once

#include "grad_tile.hpp"

namespace {

// Columns whose gradients fit into the registers beside the sums, but for the oldest ones.
inline constexpr int kStripColumns = simd::kRegisters >= 32 ? 4 : 2;

// Where a walk reads, and what is fetched meanwhile, in bytes.
template <class T>
struct StripPlace {
  const T *x, *grad;
  std::uintptr_t next_x, next_grad;
};

// x * y + sum with y read from memory as it is used.
template <class T>
DEPTHWISE_INLINE vec<T> fma_memory(vec<T> x, const T* y, vec<T> sum) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  struct Vector {
    T lanes[kLanes<T>];
  };
  const Vector& operand = *reinterpret_cast<const Vector*>(y);
  if constexpr (sizeof(T) == 4)
    __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "m"(operand));
  else
    __asm__("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(x), "m"(operand));
  return sum;
#else
  return simd::fma(x, simd::load(y), sum);
#endif
}

// A vector of zeros: a gradient row that does not exist.
template <class T>
inline constexpr T kNoGradient[kLanes<T>] = {};

// Walks down a strip from gradient row u on, where the place is; `inside` tells which inputs exist. The
// oldest of the gradient rows that an input meets is read from memory where registers are few.
template <class T, int Columns, int Stride, bool Edge>
DEPTHWISE_INLINE void grad_strip_rows(const GradBlock<T>& b, const GradRun<T>& run, index_t u, index_t end,
                                      StripPlace<T> at, Inside inside, vec<T> (&acc)[3][3]) {
  constexpr int depth = (2 + Stride) / Stride,
                kept = 9 + depth * Columns < simd::kRegisters - 1 ? depth : depth - 1;
  const index_t pixel = b.pixel, next_pixel = b.next_pixel, grad_step = b.grad_step,
                next_grad_step = b.next_grad_step;
  vec<T> window[kept][Columns];
  const auto exists = [&b](index_t row) { return row >= b.grad_begin && row < b.grad_end; };
  const auto load_row = [&](index_t row, const T* from, vec<T>(&to)[Columns]) {
    const bool there = exists(row);
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c, from += grad_step) {
      opaque(from);
      to[c] = there ? simd::load(from) : vec<T>{};
    }
  };
#pragma GCC unroll 2
  for (int i = 1; i < kept; ++i) load_row(u - i, at.grad - i * b.grad_row, window[i]);
  for (index_t position = u * Stride; u < end; ++u, at.grad += b.grad_row, at.next_grad += b.next_grad_row) {
    load_row(u, at.grad, window[0]);
    const bool old = kept < depth && exists(u - kept);
    const T* const oldest = old ? at.grad - kept * b.grad_row : kNoGradient<T>;
    const index_t oldest_step = old ? grad_step : 0;
    std::uintptr_t next_grad = at.next_grad;
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c, next_grad += next_grad_step) simd::fetch(next_grad);
#pragma GCC unroll 2
    for (int phase = 0; phase < Stride; ++phase, ++position, at.x += b.x_row, at.next_x += b.next_x_row) {
      if (Stride > 1 && (position < run.begin || position >= run.end)) continue;
      const T* x = at.x;
      std::uintptr_t next_x = at.next_x;
#pragma GCC unroll 16
      for (int i = 0; i < (Columns - 1) * Stride + 3; ++i, x += pixel, next_x += next_pixel) {
        opaque(x);
        opaque(next_x);
        if (i < Columns * Stride) simd::fetch(next_x);
        if (Edge && !inside.has(i, (Columns - 1) * Stride + 3)) continue;
        vec<T> input = simd::load(x);
        keep(input);
#pragma GCC unroll 4
        for (int c = 0; c < Columns; ++c)
          if (i >= c * Stride && i - c * Stride < 3)
#pragma GCC unroll 4
            for (int r = phase; r < 3; r += Stride) {
              vec<T>& sum = acc[r][i - c * Stride];
              if constexpr (kept < depth) {
                if (r / Stride == kept) {
                  sum = fma_memory<T>(input, oldest + c * oldest_step, sum);
                  continue;
                }
              }
              sum = simd::fma(input, window[r / Stride][c], sum);
            }
      }
    }
#pragma GCC unroll 2
    for (int i = kept - 1; i > 0; --i)
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) window[i][c] = window[i - 1][c];
  }
}

// All images' rows of the strip from column `column` of the block on.
template <class T, int Columns, int Stride, bool Edge>
DEPTHWISE_INLINE void grad_strip(const GradBlock<T>& b, index_t column, Inside inside, vec<T> (&acc)[3][3]) {
  constexpr int depth = (2 + Stride) / Stride;
  for (index_t i = 0; i < b.run_count; ++i) {
    const GradRun<T>& run = b.runs[i];
    const index_t u = run.begin / Stride, rows = b.grad_end + depth - 1, last = (run.end - 1) / Stride + 1;
    const StripPlace<T> at{run.x + b.x_first + column * b.x_step + u * Stride * b.x_row,
                           run.grad + b.grad_first + column * b.grad_step + u * b.grad_row,
                           run.next_x + b.next_x_first + column * b.next_x_step,
                           run.next_grad + b.next_grad_first + column * b.next_grad_step};
    grad_strip_rows<T, Columns, Stride, Edge>(b, run, u, last < rows ? last : rows, at, inside, acc);
  }
}

template <class T, int Columns, int Stride>
DEPTHWISE_INLINE void add_strip(const GradBlock<T>& b, index_t column, Inside inside, bool edge,
                                vec<T> (&acc)[3][3]) {
  if (edge)
    grad_strip<T, Columns, Stride, true>(b, column, inside, acc);
  else
    grad_strip<T, Columns, Stride, false>(b, column, inside, acc);
}

// Adds all 9 sums over the block's columns. Of the row's inputs, counted from the first column's first, those
// in [begin, end) exist.
template <class T, int Stride>
void grad_strips(const GradBlock<T>& b, index_t begin, index_t end) {
  vec<T> acc[3][3];
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t) acc[t / 3][t % 3] = simd::load(b.sums + t / 3 * b.sum_row + t % 3 * b.sum_step);
  for (index_t j = 0, columns; j < b.columns; j += columns) {
    columns = even_share(b.columns - j, kStripColumns);
    const index_t inputs = (columns - 1) * Stride + 3;
    const auto clamp = [inputs](index_t i) { return i < 0 ? 0 : i < inputs ? i : inputs; };
    const int first = static_cast<int>(clamp(begin - j * Stride)),
              last = static_cast<int>(clamp(end - j * Stride));
    const Inside inside{first, last - first};
    const bool edge = first > 0 || last < inputs;
    if (columns == kStripColumns)
      add_strip<T, kStripColumns, Stride>(b, j, inside, edge, acc);
    else if (kStripColumns > 3 && columns == 3)
      add_strip<T, 3, Stride>(b, j, inside, edge, acc);
    else if (kStripColumns > 2 && columns == 2)
      add_strip<T, 2, Stride>(b, j, inside, edge, acc);
    else
      add_strip<T, 1, Stride>(b, j, inside, edge, acc);
  }
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t) simd::store(b.sums + t / 3 * b.sum_row + t % 3 * b.sum_step, acc[t / 3][t % 3]);
}

}  // namespace
