// The inner loops of the filter gradient: sums over positions of input x gradient, a group of taps in
// registers.
#pragma once

#include "line_tile.hpp"

namespace {

// Tap (r, k) at step i of row j multiplies  x[j*x_rows_step + r][offsets[k] + i*x_step]  and
// grad[j][i*grad_step], for each of `lanes` adjacent lanes; the sums go to sums[r*sum_row + k*sum_step]. A
// null row of x counts nothing; only groups of one kernel row may meet one.
template <class T>
struct GradBlock {
  const T* const* x;
  index_t x_rows_step;
  const index_t* offsets;
  index_t x_step;
  const T* const* grad;
  index_t grad_step;
  index_t rows, steps, lanes;
  T* sums;
  index_t sum_row, sum_step;
};

template <class T, int Rows, int Taps, int Vectors>
DEPTHWISE_INLINE void grad_row(const GradBlock<T>& b, index_t j, index_t lane,
                               vec<T> (&acc)[Rows][Taps][Vectors]) {
  if (Rows == 1 && !b.x[j * b.x_rows_step]) return;
  const T* x[Rows];
  index_t offsets[Taps];
  for (int r = 0; r < Rows; ++r) x[r] = b.x[j * b.x_rows_step + r] + lane;
  for (int k = 0; k < Taps; ++k) offsets[k] = b.offsets[k];
  const T* g = b.grad[j] + lane;
  for (index_t i = 0; i < b.steps; ++i, g += b.grad_step) {
    vec<T> grad[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) grad[v] = simd::load(g + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
          acc[r][k][v] = simd::fma(simd::load(x[r] + offsets[k] + v * kLanes<T>), grad[v], acc[r][k][v]);
      x[r] += b.x_step;
    }
  }
}

template <class T, int Rows, int Taps, int Vectors>
void grad_block(const GradBlock<T>& b) {
  for (index_t lane = 0; lane < b.lanes; lane += Vectors * kLanes<T>) {
    vec<T> acc[Rows][Taps][Vectors] = {};
    for (index_t j = 0; j < b.rows; ++j) grad_row<T, Rows, Taps, Vectors>(b, j, lane, acc);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k)
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v)
          simd::store(b.sums + r * b.sum_row + k * b.sum_step + lane + v * kLanes<T>, acc[r][k][v]);
  }
}

// A group of taps: so many kernel rows x taps, and the function that sums it.
template <class T>
struct GradGroup {
  int rows, taps;
  void (*run)(const GradBlock<T>&);
};

// Two vectors at once where that hides the latency that few taps leave open; MaxVectors lanes are there to
// take.
template <class T, int Rows, int Taps, int MaxVectors>
GradGroup<T> grad_group_of() {
  constexpr int vectors = MaxVectors > 1 && 2 * Rows * Taps + 2 <= simd::kRegisters ? 2 : 1;
  return {Rows, Taps, grad_block<T, Rows, Taps, vectors>};
}

// The largest group that fits what is left of a kernel row and of the kernel's height.
template <class T, int MaxVectors>
GradGroup<T> grad_group(index_t taps, index_t rows) {
  if (taps == 7 || taps > 8) return grad_group_of<T, 1, 7, MaxVectors>();
  if (taps >= 5)
    return rows >= 2 ? grad_group_of<T, 2, 5, MaxVectors>() : grad_group_of<T, 1, 5, MaxVectors>();
  if (taps == 4)
    return rows >= 2 ? grad_group_of<T, 2, 4, MaxVectors>() : grad_group_of<T, 1, 4, MaxVectors>();
  if (taps == 3)
    return rows >= 3 ? grad_group_of<T, 3, 3, MaxVectors>() : grad_group_of<T, 1, 3, MaxVectors>();
  if (taps == 2)
    return rows >= 4 ? grad_group_of<T, 4, 2, MaxVectors>() : grad_group_of<T, 1, 2, MaxVectors>();
  return rows >= 7 ? grad_group_of<T, 7, 1, MaxVectors>() : grad_group_of<T, 1, 1, MaxVectors>();
}

// Runs every tap of a kernel of h x w taps over the block, whose `sums` and `x` name tap (0, 0). `holed` rows
// of x may be null: then kernel rows go one by one.
template <class T, int MaxVectors>
void grad_taps(GradBlock<T> block, index_t h, index_t w, bool holed) {
  const T* const* const x = block.x;
  const index_t* const offsets = block.offsets;
  T* const sums = block.sums;
  for (index_t k = 0; k < w;) {
    index_t taken = 0;
    for (index_t r = 0; r < h;) {
      const GradGroup<T> group = grad_group<T, MaxVectors>(w - k, holed ? 1 : h - r);
      block.x = x + r;
      block.offsets = offsets + k;
      block.sums = sums + r * block.sum_row + k * block.sum_step;
      group.run(block);
      r += group.rows;
      taken = group.taps;
    }
    k += taken;
  }
}

// Adds block sums into totals with Kahan's compensation: the error does not grow with the number of blocks
// (Higham, Accuracy and Stability of Numerical Algorithms, 4.3).
template <class T>
void add_compensated(const T* sums, index_t count, T* totals, T* lost) {
  for (index_t i = 0; i < count; i += kLanes<T>) {
    const vec<T> total = simd::load(totals + i), y = simd::load(sums + i) - simd::load(lost + i),
                 sum = total + y;
    const vec<T> error = (sum - total) - y;
    simd::store(lost + i, error == error ? error : vec<T>{});  // inf - inf would spoil an infinite total
    simd::store(totals + i, sum);
  }
}

}  // namespace
