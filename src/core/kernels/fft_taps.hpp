// Kernels that are long in one direction and short in the other: rows are transformed along the long one, and
// their spectra summed over the taps of the short one, frequency by frequency.
#pragma once

#include "fft_butterfly.hpp"
#include "line_tile.hpp"

namespace {

// One frequency of consecutive rows, lines of re and im alternating. Row u becomes the sum over t < taps of
// row stride*u + t, times the conjugate of the filter's row t.
template <class T>
struct TapSums {
  index_t stride, taps;

  // In place: what a sum overwrites, no later one reads.
  void run(T* column, index_t rows, const T* filter) const {
    for (int v = 0; v < kL; v += kLanes<T>) {
      index_t u = 0;
      for (; u + kRows <= rows; u += kRows) sum<kRows>(column + v, u, filter + v);
      switch (rows - u) {
        case 3: sum<3>(column + v, u, filter + v); break;
        case 2: sum<2>(column + v, u, filter + v); break;
        case 1: sum<1>(column + v, u, filter + v); break;
        default: break;
      }
    }
  }

 private:
  static constexpr int kL = kLine<T>, kRows = 4;

  template <int R>
  DEPTHWISE_INLINE void sum(T* column, index_t u, const T* filter) const {
    Complex<T> sums[R] = {};
    const T* from = column + 2 * stride * u * kL;
    const index_t step = 2 * stride * kL;
    for (index_t t = 0; t < taps; ++t, from += 2 * kL, filter += 2 * kL) {
      const Complex<T> w{simd::load(filter), simd::load(filter + kL)};
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Complex<T> x{simd::load(from + r * step), simd::load(from + r * step + kL)};
        sums[r] = plus_times_conjugate(sums[r], x, w);
      }
    }
    T* const to = column + 2 * u * kL;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      simd::store(to + 2 * r * kL, sums[r].re);
      simd::store(to + 2 * r * kL + kL, sums[r].im);
    }
  }
};

}  // namespace
