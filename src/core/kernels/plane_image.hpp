// The inner loops of NCHW planes under 3x3 taps, read where they lie: one filter for all lanes, for
// instruction sets that mask loads cheaply, but not stores.
//
// A tile holds seven output rows of one vector; each input is loaded once for every tap of a row. The weights
// of a plane are spread over vectors in memory, where they are operands of the multiply-adds.
#pragma once

#include "activation.hpp"
#include "flat_tile.hpp"

namespace {

inline constexpr int kImageRows = 7;
// Vectors of a row up to which this pays, by measurement.
inline constexpr index_t kImageVectors = 4;

// Some planes of one task. Row 0, column 0 of the output reads `source` for tap 0 of kernel row 0; of the
// rows and columns from there on, [first, last) and [low, high) exist. Tap i of plane p has the weight
// weights[i * kLanes + p]. Rows of fewer elements than a vector follow each other: what a vector writes
// beyond its row, the next one writes again.
template <class T>
struct PlaneImages {
  const T* source;
  index_t row_step, plane_step, tap_step;
  index_t first, last, low, high;
  const T* weights;
  T* out;
  index_t out_row, out_plane, rows, elements, planes;
  const T* bias;  // or null
  Activation activation;
};

#if defined(__AVX2__) && !defined(__AVX512F__)
inline constexpr bool kPlaneImages = true;

// Which lanes of the inputs of each tap exist, for the vector of columns from `at` on.
template <class T>
struct ImageLanes {
  LaneMask inside[3];

  DEPTHWISE_INLINE ImageLanes(const PlaneImages<T>& b, index_t at) {
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) {
      const index_t position = at + k * b.tap_step;
      inside[k] = lanes_between<T, kLanes<T>>(b.low - position, b.high - position);
    }
  }
};

// The tile from row `row` on, at source `x`; the first `whole` of its rows are written as whole vectors, and
// the others' first `elements` lanes.
template <class T>
DEPTHWISE_INLINE void image_tile(const PlaneImages<T>& b, const T* x, index_t row, const ImageLanes<T>& lanes,
                                 const vec<T>* weights, T* out, index_t whole) {
  constexpr int L = kLanes<T>, kHeld = 4;
  vec<T> acc[kImageRows] = {}, held[kHeld];
#pragma GCC unroll 4
  for (int i = 0; i < kHeld; ++i) {
    held[i] = weights[i];
    keep(held[i]);
  }
  const std::size_t from = static_cast<std::size_t>(row - b.first), count = b.last - b.first;
#pragma GCC unroll 16
  for (int r = 0; r < kImageRows + 2; ++r, x += b.row_step) {
    if (from + r >= count) continue;
    const T* at = x;
#pragma GCC unroll 8
    for (int k = 0; k < 3; ++k, at += b.tap_step) {
      vec<T> input = load_lanes<T, L>(at, lanes.inside[k]);
      keep(input);
      reload(weights);
#pragma GCC unroll 8
      for (int t = 0; t < kImageRows; ++t)
        if (r >= t && r - t < 3) {
          const int i = (r - t) * 3 + k;
          acc[t] = simd::fma(input, i < kHeld ? held[i] : weights[i], acc[t]);
        }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kImageRows; ++t, out += b.out_row) {
    if (t < whole)
      simd::store(out, acc[t]);
    else
      simd::store_n(out, acc[t], static_cast<int>(b.elements));
  }
}

// The vector of columns from `at` on, rows [begin, end) of all planes.
template <class T>
DEPTHWISE_INLINE void image_columns(const PlaneImages<T>& b, index_t at, index_t begin, index_t end) {
  constexpr int L = kLanes<T>;
  const ImageLanes<T> lanes(b, at);
  const bool follow = b.out_plane == b.rows * b.elements;  // planes, as rows
  for (index_t p = 0; p < b.planes; ++p) {
    vec<T> weights[9];
    for (int i = 0; i < 9; ++i) weights[i] = simd::broadcast(b.weights[i * L + p]);
    const T* const x = b.source + p * b.plane_step + at;
    T* const out = b.out + p * b.out_plane + at;
    // Rows up to here are written as whole vectors: there is room behind their last.
    const index_t room = (follow ? b.planes - p : 1) * b.rows * b.elements,
                  whole = b.elements >= L ? b.rows
                          : room < L      ? 0
                                          : (room - L) / b.elements + 1;
    for (index_t u = begin; u < end; u += kImageRows) {
      const index_t row = smaller(u, b.rows - kImageRows);
      image_tile(b, x + row * b.row_step, row, lanes, weights, out + row * b.out_row, whole - row);
    }
  }
}

// Bias and activation of sums that lie where the results belong.
template <class T>
__attribute__((noinline)) void finish_images(const PlaneImages<T>& b) {
  constexpr int L = kLanes<T>;
  for (index_t p = 0; p < b.planes; ++p) {
    const vec<T> bias = simd::broadcast(b.bias ? b.bias[p] : -T(0));  // -0 leaves a sum of -0 alone
    for (index_t u = 0; u < b.rows; ++u) {
      T* out = b.out + p * b.out_plane + u * b.out_row;
      for (index_t i = 0; i < b.elements; i += L) {
        const int count = static_cast<int>(smaller(b.elements - i, L));
        simd::store_n(out + i, activate<T>(simd::load_n(out + i, count) + bias, b.activation), count);
      }
    }
  }
}

// All planes; rows >= kImageRows. Bands of rows stay in the cache while vectors of columns pass over them;
// where there is but one vector, planes are written in order.
template <class T>
void plane_images(const PlaneImages<T>& b) {
  constexpr index_t kBandBytes = 256 << 10, L = kLanes<T>;
  const index_t row_bytes = 2 * b.planes * b.elements * static_cast<index_t>(sizeof(T));
  const index_t tiles = kBandBytes / (kImageRows * row_bytes),
                band = b.elements <= L ? b.rows : (tiles > 1 ? tiles : 1) * kImageRows;
  for (index_t u = 0; u < b.rows; u += band) {
    const index_t end = smaller(u + band, b.rows);
    image_columns(b, 0, u, end);
    for (index_t at = L; at < b.elements; at += L) image_columns(b, smaller(at, b.elements - L), u, end);
  }
  if (b.bias || b.activation != Activation::none) finish_images(b);
}
#else
inline constexpr bool kPlaneImages = false;
#endif

}  // namespace
