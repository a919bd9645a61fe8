// Small NCHW planes under square kernels, read where they lie: a strip is one vector of columns, from the
// first row to the last. Each input is loaded once; the sums of the output rows under which a source row lies
// are in registers, and move on by one with every output row. For instruction sets that mask loads cheaply.
#pragma once

#include "image_tile.hpp"

namespace {

// Which of a strip's loads are masked: those that reach over the first column, those over the last, or all.
enum class StripEnds { none, first, last, any };

#if defined(__AVX2__) && !defined(__AVX512F__)
// What a strip loads of each source row: the inputs of its taps or, under a stride of 2, pairs of vectors
// from every second tap on, which even and odd columns are taken from.
template <int K, int S>
inline constexpr int kStripLoads = S == 1 ? K : K + 1;
template <int S, class T>
DEPTHWISE_INLINE index_t strip_offset(index_t tap_step, int i) {
  return S == 1 ? i * tap_step : i / 2 * 2 + i % 2 * kLanes<T>;
}
template <int K, int S, StripEnds kEnds>
DEPTHWISE_INLINE constexpr bool is_masked(int i) {
  if (kEnds == StripEnds::first) return S == 1 ? i < K / 2 : i == 0;
  if (kEnds == StripEnds::last) return S == 1 ? i > K / 2 : i % 2 == 1;
  return kEnds == StripEnds::any;
}

// A vector of columns, from `at` on, and which lanes of its loads exist.
template <int K, int S, class T>
struct Strip {
  index_t at;
  StripEnds ends;
  LaneMask inside[kStripLoads<K, S>];

  Strip() = default;
  Strip(const Images<T>& b, index_t column) : at(column) {
    bool missing[kStripLoads<K, S>];
    for (int i = 0; i < kStripLoads<K, S>; ++i) {
      const index_t position = S * at + strip_offset<S, T>(b.tap_step, i);
      inside[i] = lanes_between<T, kLanes<T>>(b.low - position, b.high - position);
      missing[i] = position < b.low || position + kLanes<T> > b.high;
    }
    ends = masks<StripEnds::none>(missing)    ? StripEnds::none
           : masks<StripEnds::first>(missing) ? StripEnds::first
           : masks<StripEnds::last>(missing)  ? StripEnds::last
                                              : StripEnds::any;
  }

 private:
  // Whether every load that has to be masked is.
  template <StripEnds kEnds>
  static bool masks(const bool (&missing)[kStripLoads<K, S>]) {
    for (int i = 0; i < kStripLoads<K, S>; ++i)
      if (missing[i] && !is_masked<K, S, kEnds>(i)) return false;
    return true;
  }
};

// Calls `use` with the input of each tap of the source row at `from`.
template <int K, int S, StripEnds kEnds, class T, class Use>
DEPTHWISE_INLINE void strip_inputs(const T* from, index_t tap_step, const LaneMask* inside, const Use& use) {
  const auto load = [&](int i) __attribute__((always_inline)) {
    const T* const p = from + strip_offset<S, T>(tap_step, i);
    return is_masked<K, S, kEnds>(i) ? load_lanes<T, kLanes<T>>(p, inside[i])
                                     : (wide<T, kLanes<T>>)simd::load(p);
  };
  const auto take = [&](int k, vec<T> input) __attribute__((always_inline)) {
    keep(input);
    use(k, input);
  };
  if constexpr (S == 1) {
#pragma GCC unroll 8
    for (int k = 0; k < K; ++k) take(k, load(k));
  } else {
#pragma GCC unroll 8
    for (int k = 0; k < K; k += 2) {
      vec<T> low = load(k), high = load(k + 1);
      keep(low);
      keep(high);
      take(k, even_lanes(low, high));
      if (k + 1 < K) take(k + 1, odd_lanes(low, high));
    }
  }
}

// Rows [begin, end) of a strip of the plane at `source` and `out`; weights: [kernel row][tap]. The output row
// t reads the source rows from S*t on.
template <int K, int S, StripEnds kEnds, class T>
__attribute__((noinline)) void run_strip(const Images<T>& b, const Strip<K, S, T>& strip, const T* source,
                                         T* out, const vec<T>* weights, index_t begin, index_t end) {
  constexpr int kSums = (K + S - 1) / S, kHeld = K == 3 ? 9 : 7;
  vec<T> sums[kSums] = {}, held[kHeld];
#pragma GCC unroll 16
  for (int i = 0; i < kHeld; ++i) {
    held[i] = weights[i];
    keep(held[i]);
  }
  const index_t row_step = b.row_step, tap_step = b.tap_step, out_row = b.out_row;
  const T* from = source + S * (begin * row_step + strip.at);
  T* to = out + begin * out_row + strip.at;
  // Of the source rows from the first that a tap meets on, `count` from row `first` on exist.
  const index_t first = larger(b.first - S * begin, 0),
                last = smaller(b.last - S * begin, S * (end - begin - 1) + K);
  const auto count = static_cast<std::size_t>(larger(last - first, 0));
  // Adds source row r, of which the first of the rows under an output row is `phase` rows further up, to the
  // sums; sum j is that of the output row which began j rows ago.
  const auto add = [&](auto phase, index_t r) __attribute__((always_inline)) {
    if (static_cast<std::size_t>(r - first) < count) {
      strip_inputs<K, S, kEnds>(from, tap_step, strip.inside,
                                [&](int k, vec<T> input) __attribute__((always_inline)) {
                                  const vec<T>* rest = weights;
                                  if constexpr (kHeld < K * K) reload(rest);
#pragma GCC unroll 8
                                  for (int j = 0; j < kSums; ++j) {
                                    const int i = (phase + S * j) * K + k;
                                    if (i >= K * K) continue;
                                    sums[j] = simd::fma(input, i < kHeld ? held[i] : rest[i], sums[j]);
                                  }
                                });
    }
    from += row_step;
    opaque(from);
  };
  for (index_t t = begin, r = 0; t < end + kSums - 1; ++t) {
    add(std::integral_constant<int, 0>{}, r++);
    if (t >= begin + kSums - 1) {
      simd::store(to, in_order<S, T>(sums[kSums - 1]));
      to += out_row;
      opaque(to);
    }
    if constexpr (S == 2) add(std::integral_constant<int, 1>{}, r++);
#pragma GCC unroll 8
    for (int j = kSums - 1; j > 0; --j) sums[j] = sums[j - 1];
    sums[0] = vec<T>{};
  }
}

template <int K, int S, class T>
DEPTHWISE_INLINE auto strip_function(StripEnds ends) {
  switch (ends) {
    case StripEnds::none: return run_strip<K, S, StripEnds::none, T>;
    case StripEnds::first: return run_strip<K, S, StripEnds::first, T>;
    case StripEnds::last: return run_strip<K, S, StripEnds::last, T>;
    case StripEnds::any: break;
  }
  return run_strip<K, S, StripEnds::any, T>;
}

// All planes, whose rows have a vector or more. Bands of rows stay in the first-level cache while the strips
// pass over them; the last strip overlaps its neighbour.
template <int K, int S, class T>
void compute_strips(const Images<T>& b) {
  constexpr int L = kLanes<T>;
  Strip<K, S, T> strips[depthwise::kMostStrips];
  int count = 0;
  for (index_t at = 0; at < b.elements; at += L)
    strips[count++] = Strip<K, S, T>(b, smaller(at, b.elements - L));
  const index_t most = depthwise::strip_rows(b.elements, S, sizeof(T)), bands = (b.rows + most - 1) / most,
                band = (b.rows + bands - 1) / bands;
  for (index_t p = 0; p < b.planes; ++p) {
    vec<T> weights[K * K];
    for (int i = 0; i < K * K; ++i) weights[i] = simd::broadcast(b.weights[i * L + p]);
    for (index_t begin = 0; begin < b.rows; begin += band)
      for (int i = 0; i < count; ++i)
        strip_function<K, S, T>(strips[i].ends)(b, strips[i], b.source + p * b.plane_step,
                                                b.out + p * b.out_plane, weights, begin,
                                                smaller(begin + band, b.rows));
    if (finishes(b)) finish_image(b, p, 0, b.rows);
  }
}
#endif

}  // namespace
