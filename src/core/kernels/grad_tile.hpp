// The inner loops of the filter gradient: sums over positions of input x gradient, a group of taps in
// registers.
//
// A group of kernel rows x taps walks down the rows of one column. A vector of the input is loaded once for
// all kernel rows of the group, and the gradient rows that it meets stay in registers, each loaded once for
// all taps: 4 loads for the 9 multiply-adds of a 3x3 kernel.
#pragma once

#include "line_tile.hpp"

namespace {

// Rows of one image under a block. Kernel row r of gradient row u reads the input at position stride*u + r;
// the block has the positions [begin, end). What is summed next starts at next_x and next_grad, in bytes, and
// is fetched meanwhile.
template <class T>
struct GradRun {
  const T* x;     // position 0
  const T* grad;  // row 0
  index_t begin, end;
  std::uintptr_t next_x, next_grad;
};

// Tap k of column j multiplies x[j*x_step + offsets[k]] and grad[j*grad_step], in each lane of a vector; the
// sums of tap (r, k) are added to sums[r*sum_row + k*sum_step].
template <class T>
struct GradBlock {
  const GradRun<T>* runs;
  index_t run_count;
  index_t stride;
  index_t grad_begin, grad_end;  // gradient rows that meet the positions
  index_t x_row, grad_row;       // from row to row
  index_t x_first, grad_first;
  index_t x_step, grad_step, columns;
  index_t pixel;  // from input to input, as x_step is from column to column
  // In bytes, as for x and grad.
  index_t next_x_row, next_grad_row, next_x_first, next_grad_first, next_x_step, next_grad_step, next_pixel;
  const index_t* offsets;
  T* sums;
  index_t sum_row, sum_step;
};

// Keeps what is used several times in a register; the compiler would read it from memory for each use.
template <class T>
DEPTHWISE_INLINE vec<T> kept(vec<T> x) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(x));
#elif defined(__x86_64__)
  __asm__("" : "+x"(x));
#else
  __asm__("" : "+w"(x));
#endif
  return x;
}

// Walks down one column, from gradient row u on; row u meets kernel row `first_row` at position `position`.
// With Stride 0, which stands for any, a group has one kernel row.
template <class T, int Rows, int Taps, int Stride>
DEPTHWISE_INLINE void grad_column(const GradBlock<T>& b, const GradRun<T>& run, index_t u, index_t end,
                                  index_t position, const T* x, const T* grad, std::uintptr_t next_x,
                                  std::uintptr_t next_grad, vec<T> (&acc)[Rows][Taps]) {
  constexpr int phases = Stride > 0 ? Stride : 1, depth = (Rows + phases - 1) / phases;
  const index_t skip = Stride > 0 ? 0 : (b.stride - 1) * b.x_row;
  index_t offsets[Taps];
  for (int k = 0; k < Taps; ++k) offsets[k] = b.offsets[k];
  vec<T> rows[depth];
#pragma GCC unroll 8
  for (int i = 1; i < depth; ++i)
    rows[i] = u - i >= b.grad_begin && u - i < b.grad_end ? simd::load(grad - i * b.grad_row) : vec<T>{};
  for (; u < end; ++u, grad += b.grad_row, x += skip, next_grad += b.next_grad_row) {
    simd::fetch(next_grad);
    rows[0] = u < b.grad_end ? simd::load(grad) : vec<T>{};
#pragma GCC unroll 2
    for (int phase = 0; phase < phases; ++phase, ++position, x += b.x_row, next_x += b.next_x_row) {
#pragma GCC unroll 2
      for (int i = 0; i < phases; ++i) simd::fetch(next_x + i * b.next_pixel);
      if (Stride > 1 && (position < run.begin || position >= run.end)) continue;
#pragma GCC unroll 8
      for (int k = 0; k < Taps && phase < Rows; ++k) {
        vec<T> input = simd::load(x + offsets[k]);
        if constexpr (Rows > phases) input = kept<T>(input);
#pragma GCC unroll 8
        for (int r = phase; r < Rows; r += phases) acc[r][k] = simd::fma(input, rows[r / phases], acc[r][k]);
      }
    }
#pragma GCC unroll 8
    for (int i = depth - 1; i > 0; --i) rows[i] = rows[i - 1];
  }
}

// Kernel rows from first_row on.
template <class T, int Rows, int Taps, int Stride>
void grad_group(const GradBlock<T>& b, index_t first_row) {
  constexpr int phases = Stride > 0 ? Stride : 1, depth = (Rows + phases - 1) / phases;
  const index_t stride = Stride > 0 ? Stride : b.stride;
  vec<T> acc[Rows][Taps];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) acc[r][k] = simd::load(b.sums + r * b.sum_row + k * b.sum_step);
  for (index_t i = 0; i < b.run_count; ++i) {
    const GradRun<T>& run = b.runs[i];
    const index_t ahead = run.begin - first_row, last = run.end - 1 - first_row;
    if (last < 0) continue;
    const index_t u = ahead <= 0 ? 0 : (ahead + stride - phases) / stride;
    const index_t rows = b.grad_end + depth - 1, end = last / stride + 1 < rows ? last / stride + 1 : rows;
    const index_t position = first_row + stride * u;
    const T* x = run.x + b.x_first + position * b.x_row;
    const T* grad = run.grad + b.grad_first + u * b.grad_row;
    std::uintptr_t next_x = run.next_x + b.next_x_first, next_grad = run.next_grad + b.next_grad_first;
    for (index_t j = 0; j < b.columns; ++j, x += b.x_step, grad += b.grad_step) {
      grad_column<T, Rows, Taps, Stride>(b, run, u, end, position, x, grad, next_x, next_grad, acc);
      next_x += b.next_x_step, next_grad += b.next_grad_step;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) simd::store(b.sums + r * b.sum_row + k * b.sum_step, acc[r][k]);
}

// The first of the fewest, even shares of `count` that are at most `most`.
DEPTHWISE_INLINE index_t even_share(index_t count, index_t most) {
  const index_t shares = (count + most - 1) / most;
  return (count + shares - 1) / shares;
}

// The sums of a group, its gradient rows and one input fit into the registers.
constexpr int max_grad_taps(int rows) {
  const int taps = (simd::kRegisters - 1 - rows) / rows, most = simd::kRegisters >= 32 ? 7
                                                                : rows == 3            ? 3
                                                                                       : 5;
  return taps < most ? taps : most;
}

// Rows of the next group: as many as there are functions for, unless a single one would be left.
DEPTHWISE_INLINE index_t grad_rows_of(index_t rows) {
  if (rows == 7 || rows > 8) return 7;
  if (rows == 5 || rows == 8) return 5;
  return even_share(rows, 3);
}

template <class T>
using GradFunction = void (*)(const GradBlock<T>&, index_t first_row);

// The function for `taps`, or for Taps, the most that there are.
template <class T, int Rows, int Stride, int Taps>
GradFunction<T> grad_function_of(index_t taps) {
  if constexpr (Taps > 1)
    if (taps < Taps) return grad_function_of<T, Rows, Stride, Taps - 1>(taps);
  return grad_group<T, Rows, Taps, Stride>;
}

template <class T, int Stride>
GradFunction<T> grad_function_for_rows(index_t rows, index_t taps) {
  switch (rows) {
    case 7: return grad_function_of<T, 7, Stride, max_grad_taps(7)>(taps);
    case 5: return grad_function_of<T, 5, Stride, max_grad_taps(5)>(taps);
    case 3: return grad_function_of<T, 3, Stride, max_grad_taps(3)>(taps);
    case 2: return grad_function_of<T, 2, Stride, max_grad_taps(2)>(taps);
    default: return grad_function_of<T, 1, Stride, max_grad_taps(1)>(taps);
  }
}

template <class T>
GradFunction<T> grad_function(index_t stride, index_t rows, index_t taps) {
  if (stride == 1) return grad_function_for_rows<T, 1>(rows, taps);
  if (stride == 2) return grad_function_for_rows<T, 2>(rows, taps);
  return grad_function_of<T, 1, 0, max_grad_taps(1)>(taps);
}

// Adds the sums of all taps over the block's columns, group by group. A tap reads the columns whose inputs,
// `stride` apart and counted from the first column's first, lie in [begin, end).
template <class T>
class GradTaps {
 public:
  GradTaps(const GradBlock<T>& block, index_t stride, index_t begin, index_t end)
      : block_(block), all_(block), stride_(stride), begin_(begin), end_(end) {}

  void add(index_t kernel_rows, index_t taps) {
    for (index_t r = 0; r < kernel_rows; r += rows_) {
      first_row_ = r;
      rows_ = all_.stride <= 2 ? grad_rows_of(kernel_rows - r) : 1;
      add_taps(taps);
    }
  }

 private:
  // The first column whose input of tap k is at least `position`.
  index_t column(index_t position, index_t k) const {
    const index_t ahead = position - k, j = ahead <= 0     ? 0
                                            : stride_ == 1 ? ahead
                                                           : (ahead + stride_ - 1) / stride_;
    return j < all_.columns ? j : all_.columns;
  }
  index_t from(index_t k) const { return column(begin_, k); }
  index_t to(index_t k) const { return column(end_, k); }

  // A column at the edge costs what its sums take to load and store: where most are, few taps at a time.
  void add_taps(index_t taps) {
    const bool narrow =
        stride_ == 1 && all_.run_count == 1 && taps >= 5 && from(0) > 0 && to(taps - 1) < all_.columns;
    const index_t all = max_grad_taps(static_cast<int>(rows_)), few = (5 + rows_) / rows_,
                  most = narrow && few < all ? few : all;
    for (index_t k = 0, n; k < taps; k += n) {
      n = even_share(taps - k, most);
      if (from(k) < to(k + n - 1))
        add_group(k, n, 0, all_.columns);
      else
        for (index_t q = k; q < k + n; ++q) add_columns(q, 1, from(q), to(q));
    }
  }

  // Of the columns [begin, end), those that all taps [k, k + n) read, then the others with fewer taps.
  void add_group(index_t k, index_t n, index_t begin, index_t end) {
    if (n == 0 || begin >= end) return;
    const auto within = [=](index_t j) { return j < begin ? begin : j < end ? j : end; };
    const index_t first = within(from(k)), last = within(to(k + n - 1));
    add_columns(k, n, first, last);
    add_group(k + 1, n - 1, begin, first);
    add_group(k, n - 1, last, end);
  }

  void add_columns(index_t k, index_t n, index_t begin, index_t end) {
    if (begin >= end) return;
    block_.columns = end - begin;
    block_.offsets = all_.offsets + k;
    block_.sums = all_.sums + first_row_ * all_.sum_row + k * all_.sum_step;
    block_.x_first = all_.x_first + begin * all_.x_step;
    block_.grad_first = all_.grad_first + begin * all_.grad_step;
    grad_function<T>(block_.stride, rows_, n)(block_, first_row_);
    fetched(end - begin);
  }

  // What follows is fetched column by column, until all of it is on its way.
  void fetched(index_t columns) {
    fetched_ += columns;
    block_.next_x_first += columns * all_.next_x_step;
    block_.next_grad_first += columns * all_.next_grad_step;
    if (fetched_ < all_.columns) return;
    block_.next_x_row = block_.next_grad_row = 0;
    block_.next_x_step = block_.next_grad_step = block_.next_pixel = 0;
    block_.next_x_first = all_.next_x_first, block_.next_grad_first = all_.next_grad_first;
  }

  GradBlock<T> block_;
  const GradBlock<T>& all_;
  const index_t stride_, begin_, end_;
  index_t first_row_ = 0, rows_ = 0, fetched_ = 0;
};

// Adds block sums into totals with Kahan's compensation: the error does not grow with the number of blocks
// (Higham, Accuracy and Stability of Numerical Algorithms, 4.3).
template <class T>
void add_compensated(const T* sums, index_t count, T* totals, T* lost) {
  for (index_t i = 0; i < count; i += kLanes<T>) {
    const vec<T> total = simd::load(totals + i), y = simd::load(sums + i) - simd::load(lost + i),
                 sum = total + y;
    const vec<T> error = (sum - total) - y;
    simd::store(lost + i, error - error == 0 ? error : vec<T>{});  // of an infinite total nothing is lost
    simd::store(totals + i, sum);
  }
}

}  // namespace
