// The inner loops of rows in the vector lanes under 3x3 taps, read where they lie: NCHW planes, whose filter
// is one for all lanes, and NHWC rows of few channels, whose weights repeat with the channels. For
// instruction sets that mask loads cheaply, but not stores.
//
// A tile holds seven output rows of one vector; each input is loaded once for every tap of a row. Where all
// columns exist the weights stay in registers from tile to tile. At the ends of rows loads are masked, and
// most weights are operands in memory. Under a stride of 2 even and odd columns are taken apart in registers,
// and sums keep the order of lanes that this leaves until they are stored.
#pragma once

#include "activation.hpp"
#include "flat_tile.hpp"

namespace {

inline constexpr int kImageRows = 7;

// Some planes of one task, or rows of all channels as one plane, under a stride S of 1 or, of planes whose
// taps are neighbours, 2. Row 0, column 0 of the output reads `source` for tap 0 of kernel row 0; of the rows
// and columns from there on, [first, last) and [low, high) exist. A plane narrower than a vector is followed
// by its next row, or plane: what a vector writes beyond its row, the next one writes again. Weights repeat
// after `period` vectors, which rows of more than one vector are a multiple of or longer than.
template <class T>
struct Images {
  const T* source;
  index_t row_step, plane_step, tap_step;
  index_t first, last, low, high;
  const T* weights;  // of planes, tap i of plane p: i * kLanes + p; of patterns: [tap][kernel row][pattern]
  bool patterns;     // whether weights and bias differ from lane to lane
  index_t period;
  T* out;
  index_t out_row, out_plane, rows, elements, planes;
  index_t planes_behind;  // that follow, and are computed later
  const T* bias;          // one for each plane, or a pattern; or null
  Activation activation;
  bool stream;  // write past the caches, where rows are whole lines
};

#if defined(__AVX2__) && !defined(__AVX512F__)
inline constexpr bool kImages = true;

// Those of plane p in vector q of the pattern: [kernel row][tap].
template <class T>
DEPTHWISE_INLINE void find_weights(const Images<T>& b, index_t p, index_t q, vec<T> (&weights)[9]) {
  constexpr int L = kLanes<T>;
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i)
    weights[i] = b.patterns ? simd::load(b.weights + ((i % 3 * 3 + i / 3) * b.period + q) * L)
                            : simd::broadcast(b.weights[i * L + p]);
}

// Under a stride of 2: every second lane of neighbouring vectors, in the order that one instruction gives.
DEPTHWISE_INLINE vec<float> even_lanes(vec<float> a, vec<float> b) {
  return (vec<float>)_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
}
DEPTHWISE_INLINE vec<float> odd_lanes(vec<float> a, vec<float> b) {
  return (vec<float>)_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd);
}
DEPTHWISE_INLINE vec<double> even_lanes(vec<double> a, vec<double> b) {
  return (vec<double>)_mm256_unpacklo_pd((__m256d)a, (__m256d)b);
}
DEPTHWISE_INLINE vec<double> odd_lanes(vec<double> a, vec<double> b) {
  return (vec<double>)_mm256_unpackhi_pd((__m256d)a, (__m256d)b);
}
// Sums of such lanes in their own order.
template <int S, class T>
DEPTHWISE_INLINE vec<T> in_order(vec<T> sums) {
  if constexpr (S == 1) return sums;
  return (vec<T>)_mm256_permute4x64_epi64((__m256i)sums, 0xd8);
}

// What a tile loads of each row, in vectors: the inputs of the taps, or what they are taken from.
template <int S>
inline constexpr int kRowLoads = S == 1 ? 3 : 4;
template <int S, class T>
DEPTHWISE_INLINE index_t load_offset(index_t tap_step, int i) {
  return S == 1 ? i * tap_step : i / 2 * 2 + i % 2 * kLanes<T>;
}

// Which of a tile's loads reach over an end of a row: none, the first, the last, or perhaps any.
enum class Ends { none, first, last, any };
template <int S, Ends kEnds>
DEPTHWISE_INLINE constexpr bool reaches_over(int i) {
  return kEnds == Ends::any || (kEnds == Ends::first && i == 0) ||
         (kEnds == Ends::last && i == kRowLoads<S> - 1);
}

// Which lanes of them exist, for the vector of columns from `at` on.
template <int S, class T>
struct ImageLanes {
  LaneMask inside[kRowLoads<S>];
  Ends ends;

  ImageLanes() = default;
  DEPTHWISE_INLINE ImageLanes(const Images<T>& b, index_t at) : ends(find_ends(b, at)) {
#pragma GCC unroll 4
    for (int i = 0; i < kRowLoads<S>; ++i) {
      const index_t position = S * at + load_offset<S, T>(b.tap_step, i);
      inside[i] = lanes_between<T, kLanes<T>>(b.low - position, b.high - position);
    }
  }

  template <Ends kEnds>
  DEPTHWISE_INLINE vec<T> load(const T* from, int i) const {
    return reaches_over<S, kEnds>(i) ? load_lanes<T, kLanes<T>>(from, inside[i]) : simd::load(from);
  }

 private:
  static Ends find_ends(const Images<T>& b, index_t at) {
    constexpr int last = kRowLoads<S> - 1;
    const auto exists = [&](int i) {
      const index_t position = S * at + load_offset<S, T>(b.tap_step, i);
      return position >= b.low && position + kLanes<T> <= b.high;
    };
    for (int i = 1; i < last; ++i)
      if (!exists(i)) return Ends::any;
    return exists(0) ? (exists(last) ? Ends::none : Ends::last) : exists(last) ? Ends::first : Ends::any;
  }
};

// Calls `use` with the input of each tap of a row; `load` takes what load `i` reads.
template <int S, class T, class Load, class Use>
DEPTHWISE_INLINE void row_inputs(const T* at, index_t tap_step, const Load& load, const Use& use) {
  const auto take = [&](int k, vec<T> input) __attribute__((always_inline)) {
    keep(input);
    use(k, input);
  };
  if constexpr (S == 1) {
#pragma GCC unroll 3
    for (int k = 0; k < 3; ++k) take(k, load(at + k * tap_step, k));
  } else {
    const auto read = [&](int i) __attribute__((always_inline)) {
      return load(at + load_offset<S, T>(tap_step, i), i);
    };
    vec<T> low = read(0), high = read(1);
    keep(low);
    keep(high);
    take(0, even_lanes(low, high));
    take(1, odd_lanes(low, high));
    take(2, even_lanes(read(2), read(3)));
  }
}

// The rows of a tile's source, and whether one of them is under an output row.
template <int S>
inline constexpr int kSourceRows = (kImageRows - 1) * S + 3;
template <int S>
DEPTHWISE_INLINE constexpr bool reads_row(int output, int row) {
  return row >= output * S && row - output * S < 3;
}

// The tile from row `row` on, at source `x`; the first `whole` of its rows are written as whole vectors, and
// the others' first `elements` lanes.
template <int S, class T>
DEPTHWISE_INLINE void image_tile(const Images<T>& b, const T* x, index_t row, const ImageLanes<S, T>& lanes,
                                 const vec<T>* weights, T* out, index_t whole) {
  constexpr int kHeld = 4;
  vec<T> acc[kImageRows] = {}, held[kHeld];
#pragma GCC unroll 4
  for (int i = 0; i < kHeld; ++i) {
    held[i] = weights[i];
    keep(held[i]);
  }
  const std::size_t from = static_cast<std::size_t>(S * row - b.first), count = b.last - b.first;
#pragma GCC unroll 16
  for (int r = 0; r < kSourceRows<S>; ++r, x += b.row_step) {
    if (from + r >= count) continue;
    row_inputs<S, T>(
        x, b.tap_step,
        [&](const T* at, int i)
            __attribute__((always_inline)) { return lanes.template load<Ends::any>(at, i); },
        [&](int k, vec<T> input) __attribute__((always_inline)) {
          reload(weights);
#pragma GCC unroll 8
          for (int t = 0; t < kImageRows; ++t)
            if (reads_row<S>(t, r)) {
              const int i = (r - S * t) * 3 + k;
              acc[t] = simd::fma(input, i < kHeld ? held[i] : weights[i], acc[t]);
            }
        });
  }
#pragma GCC unroll 8
  for (int t = 0; t < kImageRows; ++t, out += b.out_row) {
    const vec<T> sums = in_order<S, T>(acc[t]);
    if (t < whole)
      simd::store(out, sums);
    else
      simd::store_n(out, sums, static_cast<int>(b.elements));
  }
}

// One tile, all of whose rows exist but the first Above and the last Below, and columns as its ends say. Sums
// of a row begin when its first input is loaded and are complete three rows on, so that few of them are live
// at once, and all the weights. `store` takes the sums of each row. What the tile below reads may be fetched.
template <int S, int Above, int Below, Ends kEnds, bool Fetch, class T, class Store>
DEPTHWISE_INLINE void inner_tile(const T* x, index_t row_step, index_t tap_step,
                                 const ImageLanes<S, T>& lanes, const vec<T> (&weights)[9],
                                 const Store& store) {
  vec<T> acc[kImageRows] = {};
  [[maybe_unused]] const std::size_t ahead = static_cast<std::size_t>(S * kImageRows * row_step) * sizeof(T);
  const T* at = x + Above * row_step;
#pragma GCC unroll 16
  for (int r = Above; r < kSourceRows<S> - Below; ++r, at += row_step) {
    opaque(at);
    if constexpr (Fetch) simd::fetch(reinterpret_cast<std::uintptr_t>(at) + ahead);
    row_inputs<S, T>(
        at, tap_step,
        [&](const T* from, int i)
            __attribute__((always_inline)) { return lanes.template load<kEnds>(from, i); },
        [&](int k, vec<T> input) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int t = 0; t < kImageRows; ++t)
            if (reads_row<S>(t, r)) acc[t] = simd::fma(input, weights[(r - S * t) * 3 + k], acc[t]);
        });
  }
#pragma GCC unroll 8
  for (int t = 0; t < kImageRows; ++t) store(t, in_order<S, T>(acc[t]));
}

// The way from a tile to the next one.
struct TileStep {
  index_t source, out;
};

// `count` tiles of plane p, vector q of the pattern. Where they go past the caches it is in pairs, a line of
// each row at once. Sources that the caches hold are fetched ahead under a stride only.
template <int S, int Above, int Below, Ends kEnds, bool Stream, class T>
__attribute__((noinline)) void inner_tiles(const Images<T>& b, index_t p, index_t q, const T* x, T* out,
                                           index_t count, TileStep step, const ImageLanes<S, T>& lanes) {
  constexpr int L = kLanes<T>;
  constexpr bool fetches = Stream || S == 2;
  vec<T> weights[9];
  find_weights(b, p, q, weights);
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) keep(weights[i]);
  const index_t row_step = b.row_step, tap_step = b.tap_step, out_row = b.out_row;
  const auto plain = [&](index_t tiles) __attribute__((always_inline)) {
    for (; tiles > 0; --tiles, --count, x += step.source, out += step.out) {
      T* to = out;
      inner_tile<S, Above, Below, kEnds, fetches>(x, row_step, tap_step, lanes, weights,
                                                  [&](int, vec<T> sum) __attribute__((always_inline)) {
                                                    opaque(to);
                                                    simd::store(to, sum);
                                                    to += out_row;
                                                  });
    }
  };
  if constexpr (Stream) {
    alignas(simd::kVectorBytes) T halves[kImageRows * L];
    plain(reinterpret_cast<std::size_t>(out) % kLineBytes != 0);
    for (; count >= 2; count -= 2, x += 2 * S * L, out += 2 * L) {
      inner_tile<S, Above, Below, kEnds, fetches>(
          x, row_step, tap_step, lanes, weights,
          [&](int t, vec<T> sum) __attribute__((always_inline)) { simd::store(halves + t * L, sum); });
      T* to = out;
      inner_tile<S, Above, Below, kEnds, S == 2>(x + S * L, row_step, tap_step, lanes, weights,
                                                 [&](int t, vec<T> sum) __attribute__((always_inline)) {
                                                   opaque(to);
                                                   simd::stream(to, simd::load(halves + t * L));
                                                   simd::stream(to + L, sum);
                                                   to += out_row;
                                                 });
    }
  }
  plain(count);
}

// How many of the source rows of the tile from row `row` on are missing above the image, and below it.
template <int S>
struct MissingRows {
  index_t above, below;

  template <class T>
  DEPTHWISE_INLINE MissingRows(const Images<T>& b, index_t row)
      : above(b.first - S * row), below(S * row + kSourceRows<S> - b.last) {}
  // Whether inner tiles know the case: that of "SAME" padding.
  DEPTHWISE_INLINE bool few() const { return above <= 1 && below <= 1; }
  DEPTHWISE_INLINE bool none() const { return above <= 0 && below <= 0; }
};

// `count` tiles from row `row` and column `at` on, to which `lanes` apply; few rows are missing, none where
// there are several tiles of different rows.
template <int S, Ends kEnds, class T>
DEPTHWISE_INLINE void tiles_of(const Images<T>& b, index_t p, index_t q, index_t row, index_t at,
                               index_t count, TileStep step, const ImageLanes<S, T>& lanes) {
  constexpr bool streams = kEnds == Ends::none;
  const MissingRows<S> missing(b, row);
  const T* const x = b.source + p * b.plane_step + S * (row * b.row_step + at);
  T* const out = b.out + p * b.out_plane + row * b.out_row + at;
  if (missing.above > 0 && missing.below > 0)
    inner_tiles<S, 1, 1, kEnds, false>(b, p, q, x, out, count, step, lanes);
  else if (missing.above > 0)
    inner_tiles<S, 1, 0, kEnds, false>(b, p, q, x, out, count, step, lanes);
  else if (missing.below > 0)
    inner_tiles<S, 0, 1, kEnds, false>(b, p, q, x, out, count, step, lanes);
  else if (streams && b.stream)
    inner_tiles<S, 0, 0, kEnds, streams>(b, p, q, x, out, count, step, lanes);
  else
    inner_tiles<S, 0, 0, kEnds, false>(b, p, q, x, out, count, step, lanes);
}

// The vector of columns from `at` on, number q of its pattern, rows [begin, end) of plane p, whatever is
// missing. Rows up to `whole` are written as whole vectors.
template <int S, class T>
DEPTHWISE_INLINE void any_columns(const Images<T>& b, index_t p, index_t q, index_t at, index_t begin,
                                  index_t end, index_t whole, const ImageLanes<S, T>& lanes) {
  vec<T> weights[9];
  find_weights(b, p, q, weights);
  const T* const x = b.source + p * b.plane_step + S * at;
  T* const out = b.out + p * b.out_plane + at;
  for (index_t u = begin; u < end; u += kImageRows) {
    const index_t row = smaller(u, b.rows - kImageRows);
    image_tile<S>(b, x + S * row * b.row_step, row, lanes, weights, out + row * b.out_row, whole - row);
  }
}
template <int S, class T>
__attribute__((noinline)) void any_tile(const Images<T>& b, index_t p, index_t q, index_t row, index_t at,
                                        const ImageLanes<S, T>& lanes) {
  any_columns(b, p, q, at, row, row + kImageRows, b.rows, lanes);
}

// The same, of rows of a vector or more, by inner tiles as far as they know what is missing.
template <int S, class T>
DEPTHWISE_INLINE void image_columns(const Images<T>& b, index_t p, index_t q, index_t at, index_t begin,
                                    index_t end, const ImageLanes<S, T>& lanes) {
  const TileStep down{S * kImageRows * b.row_step, kImageRows * b.out_row};
  // The last row at which a tile may begin none of whose rows are missing.
  const index_t last = smaller(b.rows - kImageRows, (b.last - kSourceRows<S>) / S);
  for (index_t u = begin; u < end;) {
    const index_t row = smaller(u, b.rows - kImageRows);
    const MissingRows<S> missing(b, row);
    index_t count = 1;
    if (missing.none() && row <= last)
      count = smaller((last - row) / kImageRows, (end - 1 - u) / kImageRows) + 1;
    u += count * kImageRows;
    const Ends ends = missing.few() ? lanes.ends : Ends::any;
    if (ends == Ends::first || ends == Ends::none)
      tiles_of<S, Ends::first>(b, p, q, row, at, count, down, lanes);
    else if (ends == Ends::last)
      tiles_of<S, Ends::last>(b, p, q, row, at, count, down, lanes);
    else
      for (index_t i = 0; i < count; ++i) any_tile(b, p, q, row + i * kImageRows, at, lanes);
  }
}

// Bias and activation of the sums of plane p in rows [begin, end), which lie where the results belong.
template <class T>
__attribute__((noinline)) void finish_image(const Images<T>& b, index_t p, index_t begin, index_t end) {
  constexpr int L = kLanes<T>;
  const vec<T> one = simd::broadcast(b.bias && !b.patterns ? b.bias[p] : -T(0));  // -0 leaves -0 alone
  for (index_t u = begin; u < end; ++u) {
    T* out = b.out + p * b.out_plane + u * b.out_row;
    for (index_t i = 0; i < b.elements; i += L) {
      const vec<T> bias = b.bias && b.patterns ? simd::load(b.bias + i / L % b.period * L) : one;
      const int count = static_cast<int>(smaller(b.elements - i, L));
      simd::store_n(out + i, activate<T>(simd::load_n(out + i, count) + bias, b.activation), count);
    }
  }
}

template <class T>
DEPTHWISE_INLINE bool finishes(const Images<T>& b) {
  return b.bias || b.activation != Activation::none;
}

// The tiles of row `row` of `inner` patterns from column `first` on, all of whose columns exist. Runs of
// patterns stay in the first-level cache while each of their vectors passes over them.
template <int S, class T>
DEPTHWISE_INLINE void inner_columns(const Images<T>& b, index_t p, index_t row, index_t first, index_t inner,
                                    const ImageLanes<S, T>& lanes) {
  constexpr index_t kRun = 16, L = kLanes<T>;
  const index_t unit = b.period * L, run = b.period == 1 ? inner : kRun;
  if (!MissingRows<S>(b, row).few()) {
    for (index_t v = 0; v < inner * b.period; ++v) any_tile(b, p, v % b.period, row, first + v * L, lanes);
    return;
  }
  for (index_t done = 0; done < inner; done += run, first += run * unit)
    for (index_t q = 0; q < b.period; ++q)
      tiles_of<S, Ends::none>(b, p, q, row, first + q * L, smaller(run, inner - done), {S * unit, unit},
                              lanes);
}

// The vectors at the ends of rows, some of whose columns are missing.
template <int S, class T>
struct RowEnds {
  static constexpr int kMost = 28;  // four patterns of seven vectors
  struct End {
    index_t at, q;
    ImageLanes<S, T> lanes;
  };
  End ends[kMost];
  int count = 0;

  // Those of the first pattern, if `first`, and from column `rest` on; `kMost` and more are not all noted.
  DEPTHWISE_INLINE RowEnds(const Images<T>& b, bool first, index_t rest) {
    const index_t unit = b.period * kLanes<T>;
    if (first) add(b, 0);
    for (index_t at = rest; at < b.elements && count < kMost; at += unit)
      add(b, smaller(at, b.elements - unit));
  }
  bool all() const { return count < kMost; }

 private:
  void add(const Images<T>& b, index_t at) {
    for (index_t q = 0; q < b.period && count < kMost; ++q, at += kLanes<T>)
      ends[count++] = {at, q, ImageLanes<S, T>(b, at)};
  }
};

// Bands of rows: in the order of memory, `inner` patterns from column `first` on, then the vectors at the
// ends; what tiles share with their neighbours is computed, and finished, anew. Returns false, and computes
// nothing, where the ends have too many vectors.
template <int S, class T>
bool image_rows(const Images<T>& b, index_t first, index_t inner) {
  constexpr index_t kBand = 4 * kImageRows;
  const RowEnds<S, T> ends(b, first > 0, first + inner * b.period * kLanes<T>);
  if (!ends.all()) return false;
  const ImageLanes<S, T> lanes(b, first);
  for (index_t p = 0; p < b.planes; ++p)
    for (index_t begin = 0; begin < b.rows; begin += kBand) {
      const index_t end = smaller(begin + kBand, b.rows);
      for (index_t u = begin; u < end; u += kImageRows)
        inner_columns<S>(b, p, smaller(u, b.rows - kImageRows), first, inner, lanes);
      for (int i = 0; i < ends.count; ++i)
        image_columns<S>(b, p, ends.ends[i].q, ends.ends[i].at, begin, end, ends.ends[i].lanes);
      if (finishes(b)) finish_image(b, p, smaller(begin, b.rows - kImageRows), end);
    }
  return true;
}

// All planes of few vectors a row. Bands of rows stay in the cache while vectors of columns pass over them;
// where there is but one vector, planes are written in order.
template <int S, class T>
void narrow_images(const Images<T>& b) {
  constexpr index_t kBandBytes = 256 << 10, L = kLanes<T>;
  const index_t row_bytes = 2 * b.planes * b.elements * static_cast<index_t>(sizeof(T));
  const index_t tiles = kBandBytes / (kImageRows * row_bytes), unit = b.period * L,
                band = b.elements <= L ? b.rows : (tiles > 1 ? tiles : 1) * kImageRows;
  const bool follow = b.out_plane == b.rows * b.elements;  // planes, as rows
  for (index_t begin = 0; begin < b.rows; begin += band) {
    const index_t end = smaller(begin + band, b.rows);
    const auto column = [&](index_t q, index_t at) {
      const ImageLanes<S, T> lanes(b, at);
      if (lanes.ends != Ends::any && b.elements >= L) {
        for (index_t p = 0; p < b.planes; ++p) image_columns<S>(b, p, q, at, begin, end, lanes);
        return;
      }
      const ImageLanes<S, T> own(b, at);  // which nothing else sees: its masks stay in registers
      for (index_t p = 0; p < b.planes; ++p) {
        // There is room for whole vectors behind the last row up to here.
        const index_t room = (follow ? b.planes - p + b.planes_behind : 1) * b.rows * b.elements,
                      whole = b.elements >= L ? b.rows
                              : room < L      ? 0
                                              : (room - L) / b.elements + 1;
        any_columns(b, p, q, at, begin, end, whole, own);
      }
    };
    for (index_t at = 0; at < b.elements; at += unit)
      for (index_t q = 0; q < b.period; ++q) column(q, (at > 0 ? smaller(at, b.elements - unit) : 0) + q * L);
  }
  for (index_t p = 0; finishes(b) && p < b.planes; ++p) finish_image(b, p, 0, b.rows);
}

// All planes; rows >= kImageRows.
template <int S, class T>
void compute_images(const Images<T>& b) {
  constexpr index_t kLeastInner = 2;
  const index_t unit = b.period * kLanes<T>;
  // Patterns from `first` on, up to the last all of whose inputs exist, as far as they are loaded.
  const index_t first = b.low > 0 ? unit : 0, behind = S == 1 ? 2 * b.tap_step : 2,
                last = smaller(b.elements, (b.high - behind) / S) - unit,
                inner = b.low <= S * unit ? (last - first + unit) / unit : 0;
  if (inner < kLeastInner || !image_rows<S>(b, first, inner)) narrow_images<S>(b);
  if (b.stream) simd::stream_fence();
}
#else
inline constexpr bool kImages = false;
#endif

}  // namespace
