// Finished rows of lines taken out of scratch: bias, activation, rounding to the storage type, layout.
#pragma once

#include "activation.hpp"
#include "line_pack.hpp"

namespace {

// How sums become results; `bias` is a line of the compute type.
template <class T>
struct Epilogue {
  const T* bias;
  Activation activation;

  DEPTHWISE_INLINE vec<T> operator()(vec<T> sum, int lane) const {
    return activate<T>(sum + simd::load(bias + lane), activation);
  }
};

// Pixel p goes to `to + p*step`, channels adjacent.
template <class S>
void store_channels(const compute_t<S>* from, index_t count, S* to, index_t step, int valid,
                    const Epilogue<compute_t<S>>& finish) {
  using T = compute_t<S>;
  for (index_t p = 0; p < count; ++p, from += kLine<T>, to += step)
    for (int v = 0; v < valid; v += kLanes<T>)
      simd::store_n(to + v, finish(simd::load(from + v), v), valid - v);
}

// Channel l of pixel p goes to `to + l*plane + p*step`.
template <class S>
void store_planes(const compute_t<S>* from, index_t count, S* to, index_t step, index_t plane, int valid,
                  const Epilogue<compute_t<S>>& finish) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>, line = kLine<T>;
  for (int v = 0; v < valid; v += V) {
    const int planes = valid - v < V ? valid - v : V;
    for (index_t p = 0; p < count; p += V) {
      const int pixels = static_cast<int>(count - p < V ? count - p : V);
      vec<T> block[V] = {};
      for (int j = 0; j < pixels; ++j) block[j] = finish(simd::load(from + (p + j) * line + v), v);
      transpose<T>(block);
      for (int i = 0; i < planes; ++i) {
        S* dst = to + (v + i) * plane + p * step;
        if (step == 1)
          simd::store_n(dst, block[i], pixels);
        else
          for (int j = 0; j < pixels; ++j) simd::store_one(dst + j * step, static_cast<T>(block[i][j]));
      }
    }
  }
}

}  // namespace
