// Transforms of a tile: real rows two at a time, then columns, unless rows are summed tap by tap.
//
// A plane holds columns 0 to width/2 of the spectrum, the others being conjugates of these; each column is
// contiguous. Spectra are twice what the definition says, which the scale of the result takes back.
#pragma once

#include "fft_line.hpp"

namespace {

using depthwise::FftLayout;
using depthwise::index_t;

template <class T>
class FftPlanes {
 public:
  // Takes its buffers from `at`, and moves it behind them.
  FftPlanes(const FftAxis& h, const FftAxis& w, const FftLayout& layout, T*& at)
      : layout(layout),
        height(h.size),
        width(w.size),
        scale(T(1) / static_cast<T>(4 * (h.transformed() ? h.size : 1) * w.size)),
        first_(take(at, layout.buffer)),
        second_(take(at, layout.buffer)),
        line_(take(at, layout.buffer)),
        rows_{take(at, layout.row), take(at, layout.row)},
        h_(h, first_, second_),
        w_(w, first_, second_) {}

  static T* take(T*& at, index_t lines) {
    T* const part = at;
    at += lines * kL;
    return part;
  }

  static void clear(T* to, index_t lines) {
    for (index_t i = 0; i < lines * kL; i += kLanes<T>) simd::store(to + i, vec<T>{});
  }

  // Transforms rows along the width. load(e, to) writes row e, all of it, or returns false where it is 0.
  template <class Load>
  void load_rows(T* plane, const Load& load) const {
    load_rows(plane, layout.column, height, load);
  }
  // So many into columns that lie `column` lines apart.
  template <class Load>
  void load_rows(T* plane, index_t column, index_t rows, const Load& load) const {
    for (index_t e = 0; e < rows; e += 2) {
      const bool first = load(e, rows_[0]), second = e + 1 < rows && load(e + 1, rows_[1]);
      if (first || second) {
        if (!first) clear(rows_[0], width);
        if (!second) clear(rows_[1], width);
        w_.run({rows_[0], rows_[1], kL}, interleaved(line_));
      } else {
        clear(line_, 2 * width);
      }
      for (index_t k = 0; k < layout.columns; ++k)
        separate(line_ + 2 * k * kL, line_ + 2 * (k > 0 ? width - k : 0) * kL,
                 plane + (k * column + 2 * e) * kL, e + 1 < rows);
    }
  }

  // Rows e and f of what the transformed columns of `plane` stand for; `a` and `b` hold a row each.
  void result_rows(const T* plane, index_t e, index_t f, T* a, T* b) const {
    for (index_t k = 0; k < layout.columns; ++k) {
      const T* const column = plane + k * layout.column * kL;
      join(column + 2 * e * kL, column + 2 * f * kL, line_ + 2 * k * kL,
           line_ + 2 * (k > 0 ? width - k : 0) * kL);
    }
    w_.run(interleaved(line_).exchanged(), Sequence<T>{a, b, kL}.exchanged());
  }

  // `to` may be the column.
  void transform_column(T* column, T* to) const { h_.run(interleaved(column), interleaved(to)); }

  // The column's transform in a buffer that the next call of any member overwrites, and the way back.
  T* transformed(T* column) const {
    transform_column(column, line_);
    return line_;
  }
  void invert(T* transformed, T* column) const {
    h_.run(interleaved(transformed).exchanged(), interleaved(column).exchanged());
  }
  // That of the product with the conjugate of a filter's column.
  void invert_product(T* transformed, const T* filter, T* column) const {
    h_.run(interleaved(transformed).exchanged(), interleaved(column).exchanged(), filter);
  }

  const FftLayout layout;
  const index_t height, width;
  const T scale;

 private:
  static constexpr int kL = kLine<T>;

  // From Z = A + iB at a frequency and its negative, A and B transforms of real rows: 2A and 2B.
  static void separate(const T* z, const T* mirror, T* to, bool both) {
#pragma GCC unroll 8
    for (int v = 0; v < kL; v += kLanes<T>, z += kLanes<T>, mirror += kLanes<T>, to += kLanes<T>) {
      const vec<T> re = simd::load(z), im = simd::load(z + kL);
      const vec<T> mirror_re = simd::load(mirror), mirror_im = simd::load(mirror + kL);
      simd::store(to, re + mirror_re);
      simd::store(to + kL, im - mirror_im);
      if (!both) continue;
      simd::store(to + 2 * kL, im + mirror_im);
      simd::store(to + 3 * kL, mirror_re - re);
    }
  }

  // A + iB at a frequency and its negative.
  static void join(const T* a, const T* b, T* to, T* mirror) {
#pragma GCC unroll 8
    for (int v = 0; v < kL; v += kLanes<T>) {
      const vec<T> a_re = simd::load(a + v), a_im = simd::load(a + v + kL);
      const vec<T> b_re = simd::load(b + v), b_im = simd::load(b + v + kL);
      simd::store(mirror + v, a_re + b_im);
      simd::store(mirror + v + kL, b_re - a_im);
      simd::store(to + v, a_re - b_im);
      simd::store(to + v + kL, a_im + b_re);
    }
  }

  T *const first_, *const second_, *const line_, *const rows_[2];
  const LineFft<T> h_, w_;
};

}  // namespace
