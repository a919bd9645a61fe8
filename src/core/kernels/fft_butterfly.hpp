// Discrete Fourier transforms of a few points, each point a vector of independent transforms: no lane meets
// another.
#pragma once

#include "../simd.hpp"
#include "fft_roots.hpp"

namespace {

using simd::vec;

template <class T>
struct Complex {
  vec<T> re, im;
};
template <class T>
DEPTHWISE_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
DEPTHWISE_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
DEPTHWISE_INLINE Complex<T> scaled(Complex<T> a, double by) {
  const vec<T> factor = simd::broadcast(static_cast<T>(by));
  return {a.re * factor, a.im * factor};
}
// a + b*by.
template <class T>
DEPTHWISE_INLINE Complex<T> plus_scaled(Complex<T> a, Complex<T> b, double by) {
  const vec<T> factor = simd::broadcast(static_cast<T>(by));
  return {simd::fma(b.re, factor, a.re), simd::fma(b.im, factor, a.im)};
}
// -i*a.
template <class T>
DEPTHWISE_INLINE Complex<T> turned(Complex<T> a) {
  return {a.im, -a.re};
}
template <class T>
DEPTHWISE_INLINE Complex<T> times(Complex<T> a, vec<T> re, vec<T> im) {
  return {simd::fma(a.re, re, -(a.im * im)), simd::fma(a.re, im, a.im * re)};
}
// a * conj(b).
template <class T>
DEPTHWISE_INLINE Complex<T> times_conjugate(Complex<T> a, Complex<T> b) {
  return {simd::fma(a.re, b.re, a.im * b.im), simd::fma(a.im, b.re, -(a.re * b.im))};
}
// sum + a * conj(b).
template <class T>
DEPTHWISE_INLINE Complex<T> plus_times_conjugate(Complex<T> sum, Complex<T> a, Complex<T> b) {
  return {simd::fma(a.re, b.re, simd::fma(a.im, b.im, sum.re)),
          simd::fma(a.im, b.re, simd::fma(-a.re, b.im, sum.im))};
}

template <class T, int R>
struct Dft;

template <class T>
struct Dft<T, 2> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[2]) {
    const Complex<T> a = x[0];
    x[0] = a + x[1];
    x[1] = a - x[1];
  }
};

template <class T>
struct Dft<T, 3> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[3]) {
    const Complex<T> sum = x[1] + x[2], d = turned(scaled(x[1] - x[2], -unit_root(1, 3).im));
    const Complex<T> middle = plus_scaled(x[0], sum, -0.5);
    x[0] = x[0] + sum;
    x[1] = middle + d;
    x[2] = middle - d;
  }
};

template <class T>
struct Dft<T, 4> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[4]) {
    const Complex<T> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = turned(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
  }
};

template <class T>
struct Dft<T, 5> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[5]) {
    constexpr Root r1 = unit_root(1, 5), r2 = unit_root(2, 5);
    const Complex<T> s1 = x[1] + x[4], d1 = x[1] - x[4], s2 = x[2] + x[3], d2 = x[2] - x[3];
    const Complex<T> a1 = plus_scaled(plus_scaled(x[0], s1, r1.re), s2, r2.re);
    const Complex<T> a2 = plus_scaled(plus_scaled(x[0], s1, r2.re), s2, r1.re);
    const Complex<T> b1 = turned(plus_scaled(scaled(d1, -r1.im), d2, -r2.im));
    const Complex<T> b2 = turned(plus_scaled(scaled(d1, -r2.im), d2, r1.im));
    x[0] = x[0] + s1 + s2;
    x[1] = a1 + b1;
    x[4] = a1 - b1;
    x[2] = a2 + b2;
    x[3] = a2 - b2;
  }
};

// x * exp(-2*pi*i*k/n), k and n constants once loops are unrolled.
template <class T>
DEPTHWISE_INLINE Complex<T> rotated(Complex<T> x, int k, int n) {
  if (k == 0) return x;
  if (4 * k == n) return turned(x);
  const Root r = unit_root(k, n);
  return times(x, simd::broadcast(static_cast<T>(r.re)), simd::broadcast(static_cast<T>(r.im)));
}

// A*B points as B transforms of A points, and A of B points.
template <class T, int A, int B>
DEPTHWISE_INLINE void composed(Complex<T> (&x)[A * B]) {
  Complex<T> y[A][B];
#pragma GCC unroll 16
  for (int b = 0; b < B; ++b) {
    Complex<T> part[A];
#pragma GCC unroll 16
    for (int a = 0; a < A; ++a) part[a] = x[B * a + b];
    Dft<T, A>::run(part);
#pragma GCC unroll 16
    for (int a = 0; a < A; ++a) y[a][b] = rotated<T>(part[a], a * b, A * B);
  }
#pragma GCC unroll 16
  for (int a = 0; a < A; ++a) {
    Dft<T, B>::run(y[a]);
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) x[a + A * b] = y[a][b];
  }
}

template <class T>
struct Dft<T, 6> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[6]) { composed<T, 2, 3>(x); }
};
template <class T>
struct Dft<T, 8> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[8]) { composed<T, 2, 4>(x); }
};
template <class T>
struct Dft<T, 9> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[9]) { composed<T, 3, 3>(x); }
};
template <class T>
struct Dft<T, 10> {
  DEPTHWISE_INLINE static void run(Complex<T> (&x)[10]) { composed<T, 2, 5>(x); }
};

}  // namespace
