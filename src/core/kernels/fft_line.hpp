// One-dimensional transforms of lines: Stockham's passes, which leave their results in order.
#pragma once

#include "fft_butterfly.hpp"
#include "fft_layout.hpp"
#include "line_tile.hpp"

namespace {

using depthwise::FftAxis;

// A sequence of complex lines. The inverse transform is the forward one with `re` and `im` exchanged.
template <class T>
struct Sequence {
  T *re, *im;
  index_t step;

  Sequence exchanged() const { return {im, re, step}; }
};

// Lines of re and im alternating.
template <class T>
DEPTHWISE_INLINE Sequence<T> interleaved(T* data) {
  return {data, data + kLine<T>, 2 * kLine<T>};
}

// Point q + s*(p + m*j) of `in` is input j of butterfly (p, q), whose output k goes to q + s*(R*p + k).
template <class T>
struct Pass {
  Sequence<T> in, out;
  index_t m, s;
  const T* roots;    // [p][k - 1]: re, im of the root that output k of butterfly p is multiplied by
  const T* factors;  // of the points of `in`, or null
};

template <class T, int R, bool Last, bool Product>
DEPTHWISE_INLINE void butterfly(const Pass<T>& pass, index_t from, index_t to, const T* root) {
  const index_t jump = pass.s * pass.m * pass.in.step, out_jump = pass.s * pass.out.step;
  Steps<const T*> re{pass.in.re + from * pass.in.step, jump}, im{pass.in.im + from * pass.in.step, jump};
  Complex<T> x[R];
#pragma GCC unroll 16
  for (int j = 0; j < R; ++j) x[j] = {simd::load(re(j)), simd::load(im(j))};
  if constexpr (Product) {
    const Sequence<const T> factors = interleaved(pass.factors);
    Steps<const T*> at{factors.re + from * factors.step, pass.s * pass.m * factors.step};
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) {
      const T* const factor = at(j);
      x[j] = times(x[j], simd::load(factor), simd::load(factor + kLine<T>));
    }
  }
  Dft<T, R>::run(x);
  Steps<T*> to_re{pass.out.re + to * pass.out.step, out_jump},
      to_im{pass.out.im + to * pass.out.step, out_jump};
#pragma GCC unroll 16
  for (int k = 0; k < R; ++k) {
    if (!Last && k > 0)
      x[k] = times(x[k], simd::broadcast(root[2 * k - 2]), simd::broadcast(root[2 * k - 1]));
    simd::store(to_re(k), x[k].re);
    simd::store(to_im(k), x[k].im);
  }
}

template <class T, int R, bool Last, bool Product>
void run_pass(Pass<T> pass) {
  for (int lane = 0; lane < kLine<T>; lane += kLanes<T>) {
    const T* root = pass.roots;
    for (index_t p = 0; p < pass.m; ++p, root += 2 * (R - 1))
      for (index_t q = 0; q < pass.s; ++q)
        butterfly<T, R, Last, Product>(pass, q + pass.s * p, q + pass.s * R * p, root);
    pass.in.re += kLanes<T>, pass.in.im += kLanes<T>;
    pass.out.re += kLanes<T>, pass.out.im += kLanes<T>;
    if (Product) pass.factors += kLanes<T>;
  }
}

template <class T, int R>
void run_radix(const Pass<T>& pass) {
  if (pass.factors)
    pass.m == 1 ? run_pass<T, R, true, true>(pass) : run_pass<T, R, false, true>(pass);
  else
    pass.m == 1 ? run_pass<T, R, true, false>(pass) : run_pass<T, R, false, false>(pass);
}

// Transforms of one length.
template <class T>
class LineFft {
 public:
  // `first` and `second` have the lines of a sequence each.
  LineFft(const FftAxis& axis, T* first, T* second)
      : axis_(axis), buffers_{interleaved(first), interleaved(second)} {}

  // `in` may be `out`. With `factors`, lines of re and im alternating, that of the product of both.
  void run(Sequence<T> in, Sequence<T> out, const T* factors = nullptr) const {
    index_t n = axis_.size;
    const T* table = roots();
    for (int i = 0; i < axis_.passes; ++i) {
      const Sequence<T> to = i + 1 == axis_.passes ? out : buffers_[i % 2];
      const index_t m = n / axis_.radix[i];
      dispatch(axis_.radix[i], {in, to, m, axis_.size / n, table, i == 0 ? factors : nullptr});
      in = to;
      n = m;
      table += 2 * axis_.size;
    }
  }

 private:
  const T* roots() const {
    if constexpr (sizeof(T) == sizeof(float))
      return axis_.roots_f32;
    else
      return axis_.roots_f64;
  }

  static void dispatch(int radix, const Pass<T>& pass) {
    switch (radix) {
      case 2: return run_radix<T, 2>(pass);
      case 3: return run_radix<T, 3>(pass);
      case 4: return run_radix<T, 4>(pass);
      case 5: return run_radix<T, 5>(pass);
      case 6: return run_radix<T, 6>(pass);
      case 8: return run_radix<T, 8>(pass);
      case 9: return run_radix<T, 9>(pass);
      default: return run_radix<T, 10>(pass);
    }
  }

  const FftAxis& axis_;
  const Sequence<T> buffers_[2];
};

}  // namespace
