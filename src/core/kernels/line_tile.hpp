// The inner loops with channels in the vector lanes.
//
// A tile holds Rows x Pixels outputs of one vector of channels in registers and walks the source rows under
// them, the taps of a row in order, one accumulator an output: each input of a row is loaded once for all the
// outputs that it touches. Inputs that lie outside the image are skipped; so are source rows.
#pragma once

#include <type_traits>

#include "activation.hpp"
#include "line_layout.hpp"
#include "window.hpp"

namespace {

using depthwise::index_t;
using depthwise::kFewPixels;
using depthwise::kLineBytes;
using depthwise::kLinePixels;
using depthwise::smaller;
using depthwise::Window;
using depthwise::WindowFunction;
using depthwise::WindowFunctions;
using depthwise::WindowRows;
using simd::compute_t;
using simd::kLanes;
using simd::vec;

template <class T>
inline constexpr int kLine = static_cast<int>(kLineBytes / sizeof(T));
// Vectors of a line.
template <class T>
inline constexpr int kParts = kLine<T> / kLanes<T>;

// A tile: outputs of `rows` x `pixels` and some vectors of channels, under adjacent taps of a row whose
// number and stride are known, or under any (0 taps). A square has as many rows of taps, of the same stride,
// and weights that are adjacent.
struct Shape {
  int taps, stride, rows, pixels, vectors = 1;
  bool square = false;

  constexpr int source_rows() const { return (rows - 1) * stride + taps; }
  // Several rows of so few columns that the weights of all taps fit beside the sums.
  constexpr bool keeps_weights() const { return square && rows > 1 && pixels <= kFewPixels && vectors == 1; }
};

// Hides where a pointer came from. Otherwise the compiler keeps one pointer for each of its future values, in
// far more registers than there are.
template <class P>
DEPTHWISE_INLINE void opaque(P& pointer) {
  __asm__("" : "+r"(pointer));
}

// Keeps a loaded vector in its register: as operands in memory, its uses would load it once each.
template <class V>
DEPTHWISE_INLINE void keep(V& vector) {
  __asm__("" : "+" DEPTHWISE_VECTOR_REGISTER(vector));
}

// Where the source channels of one vector of results lie, when each is repeated for several results: lane l
// reads lane lanes[l] of the vector at `first`, of which `count` channels exist.
template <class T>
struct Repeat {
  simd::index_vec<T> lanes;
  index_t first;
  simd::LaneCount<T> count;
};

// That of the vector from result channel `channel` on, for `m` results of each of `sources` channels. A whole
// vector of source channels is read where there is one; else what there is.
template <class T>
Repeat<T> repeat_from(index_t channel, index_t m, index_t sources) {
  constexpr index_t V = kLanes<T>;
  const index_t base = channel / m, first = sources < V ? 0 : smaller(base, sources - V);
  simd::index_vec<T> lanes;
  for (int i = 0, lane = static_cast<int>(base - first), q = static_cast<int>(channel - base * m); i < V;
       ++i) {
    lanes[i] = lane;
    if (++q == m) q = 0, ++lane;
  }
  return {lanes, first, simd::LaneCount<T>(static_cast<int>(smaller(sources, V)))};
}

// Where `size` channels from `channel` on are taken: those that would begin before channel 0, or end behind
// the last one, overlap their neighbours instead.
DEPTHWISE_INLINE index_t inner_channel(index_t channel, index_t channels, index_t size) {
  const index_t last = channels - size, at = channel < last ? channel : last;
  return at > 0 ? at : 0;
}

// How a vector of inputs is loaded, for the results from channel `channel` on.
template <class S>
struct Adjacent {
  static constexpr bool kRepeats = false;
  index_t first;

  DEPTHWISE_INLINE Adjacent(const Window<S>&, index_t, index_t channel) : first(channel) {}
  DEPTHWISE_INLINE vec<compute_t<S>> operator()(const S* x) const { return simd::load(x); }
};
template <class S>
struct Repeated {
  static constexpr bool kRepeats = true;
  simd::index_vec<compute_t<S>> lanes;
  simd::LaneCount<compute_t<S>> count;
  index_t first;

  DEPTHWISE_INLINE Repeated(const Window<S>& b, index_t vector, index_t)
      : Repeated(static_cast<const Repeat<compute_t<S>>*>(b.repeats)[vector]) {}
  DEPTHWISE_INLINE explicit Repeated(const Repeat<compute_t<S>>& r)
      : lanes(r.lanes), count(r.count), first(r.first) {}
  DEPTHWISE_INLINE vec<compute_t<S>> operator()(const S* x) const {
    return simd::permute<compute_t<S>>(simd::load_lanes(x, count), lanes);
  }
};

// Which of a tile's inputs lie inside the image, counted from the tile's first: all of them, all but the
// first First and the last Last, or what is known only when the tile is computed. With AllRows, the source
// rows under the tile are known to lie inside, too.
template <int First, int Last, bool AllRows = false>
struct Cut {
  static constexpr bool kKnown = true, kAllRows = AllRows;

  // Of `inputs`.
  static constexpr bool has(int input, int inputs) { return input >= First && input < inputs - Last; }
  DEPTHWISE_INLINE Cut from(int) const { return {}; }
};
using Whole = Cut<0, 0>;
using WholeSquare = Cut<0, 0, true>;

struct Inside {
  static constexpr bool kKnown = false, kAllRows = false;
  int begin, count;

  DEPTHWISE_INLINE bool has(int input, int) const {
    return static_cast<unsigned>(input - begin) < static_cast<unsigned>(count);
  }
  DEPTHWISE_INLINE Inside from(int input) const { return {begin - input, count}; }
};

// Inputs which, but for few of them, all outputs of a tile have taps on.
struct Covered : Inside {};

// Moves along equal steps: three elements are reached from one pointer.
template <class P>
struct Steps {
  P at;
  index_t step;

  // For i = 0, 1, 2, ... in turn.
  DEPTHWISE_INLINE P operator()(int i) {
    if (i % 3 == 0) {
      if (i > 0) at += 3 * step;
      opaque(at);
    }
    return at + i % 3 * step;
  }
};

// The weights of one tap in each of Rows rows of a kernel.
template <class T, int Rows>
struct TapWeights {
  const T* at[Rows];

  DEPTHWISE_INLINE TapWeights& operator+=(index_t step) {
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) at[r] += step;
    return *this;
  }
  DEPTHWISE_INLINE TapWeights operator+(index_t step) const { return TapWeights(*this) += step; }
};

// Adjacent taps of one source row, for the outputs of Rows rows; w are the weights of the first.
template <int Taps, int Stride, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_taps(const S* x, index_t pixel_step, const Load& load,
                               const TapWeights<compute_t<S>, Rows>& w, index_t weight_step, const In& inside,
                               vec<compute_t<S>> (*acc)[Pixels]) {
  constexpr int inputs = (Pixels - 1) * Stride + Taps;
  vec<compute_t<S>> weights[Rows][Taps];
#pragma GCC unroll 2
  for (int r = 0; r < Rows; ++r) {
    const compute_t<S>* from = w.at[r];
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k, from += weight_step) {
      weights[r][k] = simd::load(from);
      if (Taps == 3) keep(weights[r][k]);  // which fit beside the sums
    }
  }
  Steps<const S*> from{x, pixel_step};
#pragma GCC unroll 32
  for (int i = 0; i < inputs; ++i) {
    const S* const at = from(i);
    if (!inside.has(i, inputs)) continue;
    vec<compute_t<S>> input = load(at);
    if (Taps > 1) keep(input);
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k)
        if (i >= k && (i - k) % Stride == 0 && (i - k) / Stride < Pixels)
          acc[r][(i - k) / Stride] = simd::fma(input, weights[r][k], acc[r][(i - k) / Stride]);
  }
}

// One tap: its weights against Pixels inputs, `step` elements and `stride` positions apart.
template <int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_tap(const S* x, index_t step, int stride, const Load& load,
                              const TapWeights<compute_t<S>, Rows>& w, const In& inside,
                              vec<compute_t<S>> (*acc)[Pixels]) {
  Steps<const S*> from{x, step};
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p) {
    const S* const at = from(p);
    if (!inside.has(p * stride, (Pixels - 1) * stride + 1)) continue;
    vec<compute_t<S>> input = load(at);
    if (Rows > 1) keep(input);
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) acc[r][p] = simd::fma(input, simd::load(w.at[r]), acc[r][p]);
  }
}

// Adjacent inputs on which all outputs of a tile have taps; w are those of the last output on the first of
// them. Each weight is loaded once for all the inputs that it touches.
template <int Inputs, int Rows, int Pixels, class S, class Load>
DEPTHWISE_INLINE void add_inputs(const S* x, index_t pixel_step, const Load& load,
                                 TapWeights<compute_t<S>, Rows> w, index_t weight_step,
                                 vec<compute_t<S>> (*acc)[Pixels]) {
  vec<compute_t<S>> inputs[Inputs];
  Steps<const S*> source{x, pixel_step};
#pragma GCC unroll 8
  for (int i = 0; i < Inputs; ++i) {
    inputs[i] = load(source(i));
    keep(inputs[i]);
  }
#pragma GCC unroll 16
  for (int k = 0; k < Inputs + Pixels - 1; ++k, w += weight_step) {
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
      opaque(w.at[r]);
      vec<compute_t<S>> weight = simd::load(w.at[r]);
      if (Inputs > 1) keep(weight);
#pragma GCC unroll 8
      for (int i = 0; i < Inputs; ++i)
        if (const int p = i + Pixels - 1 - k; p >= 0 && p < Pixels)
          acc[r][p] = simd::fma(inputs[i], weight, acc[r][p]);
    }
  }
}

// One input, of which the outputs [begin, end) of a tile have taps; w are those of output 0.
template <int Rows, int Pixels, class S, class Load>
DEPTHWISE_INLINE void add_input(const S* x, const Load& load, TapWeights<compute_t<S>, Rows> w,
                                index_t weight_step, int begin, int end, vec<compute_t<S>> (*acc)[Pixels]) {
  const vec<compute_t<S>> input = load(x);
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p, w += -weight_step) {
    if (p < begin || p >= end) continue;
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) acc[r][p] = simd::fma(input, simd::load(w.at[r]), acc[r][p]);
  }
}

// All inputs that the outputs of a tile have taps on, one after the other: under kernels larger than the
// image, they are fewer than the taps, and most outputs have taps on all of them.
template <int Rows, int Pixels, class S, class Load>
DEPTHWISE_INLINE void add_all_inputs(const Window<S>& b, const S* x, const Load& load,
                                     TapWeights<compute_t<S>, Rows> w, const Covered& inside,
                                     vec<compute_t<S>> (*acc)[Pixels]) {
  const int taps = static_cast<int>(b.taps), end = inside.begin + inside.count;
  int i = inside.begin;
  x += i * b.pixel_step, w += i * b.weight_step;  // those of the first output
  const auto by_some_outputs = [&](int stop) {
    for (; i < stop; ++i, x += b.pixel_step, w += b.weight_step)
      add_input(x, load, w, b.weight_step, i - taps + 1, i + 1, acc);
  };
  const auto by_all_outputs = [&]<int Inputs>(std::integral_constant<int, Inputs>) {
    for (; i + Inputs <= end && i + Inputs <= taps; i += Inputs) {
      add_inputs<Inputs>(x, b.pixel_step, load, w + -(Pixels - 1) * b.weight_step, b.weight_step, acc);
      x += Inputs * b.pixel_step, w += Inputs * b.weight_step;
    }
  };
  by_some_outputs(end < Pixels - 1 ? end : Pixels - 1);
  by_all_outputs(std::integral_constant<int, simd::kManyRegisters ? 7 : 4>{});
  by_all_outputs(std::integral_constant<int, 3>{});
  by_all_outputs(std::integral_constant<int, 1>{});
  by_some_outputs(end);
}

// Any number of taps, by threes where neighbouring outputs share inputs.
template <int Stride, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_any_taps(const Window<S>& b, const S* x, const Load& load,
                                   TapWeights<compute_t<S>, Rows> w, const In& inside,
                                   vec<compute_t<S>> (*acc)[Pixels]) {
  const int taps = static_cast<int>(b.taps), stride = static_cast<int>(b.stride),
            spacing = static_cast<int>(b.spacing);
  if constexpr (std::is_same_v<In, Covered>) return add_all_inputs(b, x, load, w, inside, acc);
  int k = 0;
  if constexpr (Stride == 1)
    for (; k + 3 <= taps; k += 3, x += 3 * b.pixel_step, w += 3 * b.weight_step)
      add_taps<3, 1, Rows, Pixels>(x, b.pixel_step, load, w, b.weight_step, inside.from(k), acc);
  for (; k < taps; ++k, x += spacing * b.pixel_step, w += b.weight_step)
    add_tap(x, stride * b.pixel_step, stride, load, w, inside.from(k * spacing), acc);
}

// The taps of one source row, for the outputs of Rows rows.
template <int Taps, int Stride, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_source_row(const Window<S>& b, const S* x, const Load& load,
                                     const TapWeights<compute_t<S>, Rows>& w, const In& inside,
                                     vec<compute_t<S>> (*acc)[Pixels]) {
  if constexpr (Taps > 0)
    add_taps<Taps, Stride, Rows, Pixels>(x, b.pixel_step, load, w, b.weight_step, inside, acc);
  else
    add_any_taps<Stride>(b, x, load, w, inside, acc);
}

// Adds source rows [begin, end) to the sums of output row `row` of a tile, for Vectors vectors of channels; w
// are the weights of row `begin`.
template <int Taps, int Stride, int Vectors, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_rows(const Window<S>& b, const S* const* table, index_t begin, index_t end,
                               index_t offset, const Load& load, const compute_t<S>* w, const In& inside,
                               int row, vec<compute_t<S>> (&acc)[Vectors][Rows][Pixels]) {
  for (index_t t = begin; t < end; ++t, w += b.weight_row) {
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      const TapWeights<compute_t<S>, 1> from{w + v * b.weight_vector};
      add_source_row<Taps, Stride>(b, table[t] + offset + v * kLanes<compute_t<S>>, load, from, inside,
                                   acc[v] + row);
    }
  }
}

// Two output rows: source rows under the first alone, under both, under the second alone.
template <int Taps, int Stride, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_row_pair(const Window<S>& b, const WindowRows<S>& rows, index_t offset,
                                   const Load& load, const compute_t<S>* w, const In& inside,
                                   vec<compute_t<S>> (&acc)[1][2][Pixels]) {
  const auto clamp = [&](index_t t) { return t < rows.begin ? rows.begin : t < rows.end ? t : rows.end; };
  const index_t both = clamp(b.row_stride), second = clamp(b.row_taps);
  add_rows<Taps, Stride>(b, rows.table, rows.begin, both, offset, load, w + rows.begin * b.weight_row, inside,
                         0, acc);
  const compute_t<S>* const above = w + both * b.weight_row;
  TapWeights<compute_t<S>, 2> pair{above, above - b.row_stride * b.weight_row};
  for (index_t t = both; t < second; ++t, pair += b.weight_row)
    add_source_row<Taps, Stride>(b, rows.table[t] + offset, load, pair, inside, acc[0]);
  add_rows<Taps, Stride>(b, rows.table, second, rows.end, offset, load,
                         w + (second - b.row_stride) * b.weight_row, inside, 1, acc);
}

// Rows output rows of a square kernel whose weights are adjacent, one source row after the other without a
// loop.
template <int Taps, int Stride, int Vectors, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_square(const Window<S>& b, const WindowRows<S>& rows, index_t offset,
                                 const Load& load, const compute_t<S>* w, const In& inside,
                                 vec<compute_t<S>> (&acc)[Vectors][Rows][Pixels]) {
  static_assert(Rows <= 2);
  constexpr int L = kLanes<compute_t<S>>;
#pragma GCC unroll 16
  for (int t = 0; t < (Rows - 1) * Stride + Taps; ++t) {
    if (!In::kAllRows && (t < rows.begin || t >= rows.end)) continue;
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) {
      const S* const x = rows.table[t] + offset + v * L;
      const compute_t<S>* const above = w + (v * Taps + t) * Taps * L;
      const compute_t<S>* const below = above - Stride * Taps * L;
      if (Rows == 1 || t < Stride)
        add_taps<Taps, Stride, 1, Pixels>(x, b.pixel_step, load, {{above}}, L, inside, acc[v]);
      else if (t >= Taps)
        add_taps<Taps, Stride, 1, Pixels>(x, b.pixel_step, load, {{below}}, L, inside, acc[v] + 1);
      else if constexpr (Rows == 2)
        add_taps<Taps, Stride, 2, Pixels>(x, b.pixel_step, load, {{above, below}}, L, inside, acc[v]);
    }
  }
}

// As add_square(), with the weights of all taps in registers.
template <int Taps, int Stride, int Rows, int Pixels, class S, class Load, class In>
DEPTHWISE_INLINE void add_narrow_square(const Window<S>& b, const WindowRows<S>& rows, index_t offset,
                                        const Load& load, const compute_t<S>* w, const In& inside,
                                        vec<compute_t<S>> (&acc)[Rows][Pixels]) {
  constexpr int inputs = (Pixels - 1) * Stride + Taps;
  vec<compute_t<S>> weights[Taps][Taps];
#pragma GCC unroll 4
  for (int t = 0; t < Taps; ++t)
#pragma GCC unroll 4
    for (int k = 0; k < Taps; ++k) {
      weights[t][k] = simd::load(w + (t * Taps + k) * kLanes<compute_t<S>>);
      keep(weights[t][k]);
    }
#pragma GCC unroll 16
  for (int t = 0; t < (Rows - 1) * Stride + Taps; ++t) {
    if (!In::kAllRows && (t < rows.begin || t >= rows.end)) continue;
    const S* const x = rows.table[t] + offset;
#pragma GCC unroll 8
    for (int i = 0; i < inputs; ++i) {
      if (!inside.has(i, inputs)) continue;
      vec<compute_t<S>> input = load(x + i * b.pixel_step);
      keep(input);
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int k = 0; k < Taps; ++k)
          if (const int row = t - r * Stride, p = i - k;
              row >= 0 && row < Taps && p >= 0 && p % Stride == 0 && p / Stride < Pixels)
            acc[r][p / Stride] = simd::fma(input, weights[row][k], acc[r][p / Stride]);
    }
  }
}

// Asks for what a tile at `offset` reads first: rows that no tile above it has read.
template <int Rows, int Pixels, class S>
DEPTHWISE_INLINE void fetch(const Window<S>& b, const WindowRows<S>& rows, index_t offset) {
  const index_t fresh = rows.end - Rows * b.row_stride, begin = fresh > rows.begin ? fresh : rows.begin;
  for (index_t t = begin; t < rows.end; ++t) {
    const S* x = rows.table[t] + offset;
#pragma GCC unroll 4
    for (index_t i = 0; i < Pixels * b.stride; ++i, x += b.pixel_step)
      simd::fetch(reinterpret_cast<std::uintptr_t>(x));
  }
}

template <class S, int Rows, int Pixels, class Store>
DEPTHWISE_INLINE void store_tile(S* out, index_t row_step, index_t step,
                                 const vec<compute_t<S>> (&acc)[Rows][Pixels], const Store& store) {
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    Steps<S*> to{out + r * row_step, step};
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p) store(to(p), acc[r][p], p);
  }
}

// bias and activation of the sums of `rows` x `pixels` outputs, of which `outputs` of a row are kept.
template <class S>
__attribute__((noinline)) void finish_tile(const Window<S>& b, const compute_t<S>* sums, int rows, int pixels,
                                           int outputs, index_t channel, S* out) {
  using T = compute_t<S>;
  const vec<T> bias = b.bias ? simd::load(b.bias + channel) : -vec<T>{};  // -0 leaves a sum of -0 alone
  for (int r = 0; r < rows; ++r, sums += pixels * kLanes<T>)
    for (int p = 0; p < outputs; ++p)
      simd::store(out + r * b.out_row + p * b.out_step,
                  activate<T>(simd::load(sums + p * kLanes<T>) + bias, b.activation));
}

// Where the first vectors of lines wait for their last one: a line that is written past the caches in parts,
// with other lines in between, reaches the memory in parts.
template <class T, int Rows, int Pixels>
struct LineParts {
  alignas(kLineBytes) T parts[kParts<T> > 1 ? Rows * Pixels * kLine<T> : 1];
};

// The vectors from `channel` on, which is one of a line, go past the caches with the last of the line.
template <class T, int Rows, int Pixels>
DEPTHWISE_INLINE void stream_tile(const Window<T>& b, const vec<T> (&acc)[Rows][Pixels], index_t channel,
                                  T* out, LineParts<T, Rows, Pixels>& lines) {
  constexpr int V = kLanes<T>, line = kLine<T>;
  const index_t part = channel % line;
  if (part < line - V)
    return store_tile<T>(lines.parts + part, Pixels * line, line, acc,
                         [](T* to, vec<T> sum, int) { simd::store(to, sum); });
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    const T* from = lines.parts + r * Pixels * line;
    T* to = out + r * b.out_row;
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p, from += line, to += b.out_step) {
      for (int i = V; i < line; i += V) simd::stream(to + i - line, simd::load(from + i - V));
      simd::stream(to, acc[r][p]);
    }
  }
}

template <int Rows, int Pixels, bool Edge, class S, class Parts>
DEPTHWISE_INLINE void write_tile(const Window<S>& b, const vec<compute_t<S>> (&acc)[Rows][Pixels],
                                 int outputs, index_t channel, S* out, [[maybe_unused]] Parts& lines) {
  using T = compute_t<S>;
  if (b.finishes) {
    alignas(simd::kVectorBytes) T sums[Rows * Pixels * kLanes<T>];
    store_tile<T>(sums, Pixels * kLanes<T>, kLanes<T>, acc,
                  [](T* to, vec<T> sum, int) { simd::store(to, sum); });
    finish_tile(b, sums, Rows, Pixels, outputs, channel, out);
    return;
  }
  if constexpr (!Edge && sizeof(S) == sizeof(T))
    if (b.stream) return stream_tile(b, acc, channel, out, lines);
  store_tile(out, b.out_row, b.out_step, acc, [&](S* to, vec<T> sum, int p) {
    if (!Edge || p < outputs) simd::store(to, sum);
  });
}

// `outputs` of the tile's columns are kept. Passes over Vectors vectors of channels at a time, row by row;
// those at the ends may overlap their neighbours.
template <class Load, Shape shape, class S, class In>
DEPTHWISE_INLINE void tile_channels(const Window<S>& b, const WindowRows<S>& rows, index_t column,
                                    index_t later, const In& inside, int outputs) {
  using T = compute_t<S>;
  constexpr int Taps = shape.taps, Stride = shape.stride, Rows = shape.rows, Pixels = shape.pixels,
                Vectors = shape.vectors;
  S* const out = rows.out + column * b.out_step;
  const index_t start = column * b.stride * b.pixel_step;
  LineParts<T, Rows, Pixels> lines;
  constexpr index_t step = Vectors * kLanes<T>;
  index_t vector = 0;
  for (index_t channel = b.first_vector; channel < b.channels; channel += step, vector += Vectors) {
    const index_t c = inner_channel(channel, b.channels, step);
    const Load load(b, vector, c);
    const index_t offset = start + load.first;
    if (b.fetch_ahead > 0 && vector % kParts<T> == 0) fetch<Rows, Pixels>(b, rows, later + load.first);
    vec<T> acc[Vectors][Rows][Pixels];  // zeroed one by one: an array the compiler would zero in memory
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v)
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 16
        for (int p = 0; p < Pixels; ++p) acc[v][r][p] = vec<T>{};
    const T* const w = b.weights + vector * b.weight_vector;
    if constexpr (shape.keeps_weights())
      add_narrow_square<Taps, Stride>(b, rows, offset, load, w, inside, acc[0]);
    else if constexpr (shape.square)
      add_square<Taps, Stride>(b, rows, offset, load, w, inside, acc);
    else if constexpr (Rows == 1)
      add_rows<Taps, Stride>(b, rows.table, rows.begin, rows.end, offset, load, w + rows.begin * b.weight_row,
                             inside, 0, acc);
    else
      add_row_pair<Taps, Stride>(b, rows, offset, load, w, inside, acc);
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v)
      write_tile<Rows, Pixels, !In::kKnown>(b, acc[v], outputs, c + v * kLanes<T>, out + c + v * kLanes<T>,
                                            lines);
  }
}

// The tiles at the ends of rows that are computed as often as others where images are small: those that
// "SAME" padding cuts, of stride 1. Whether the tile was one of them.
template <class Load, Shape shape, class S>
DEPTHWISE_INLINE bool cut_tile(const Window<S>& b, const WindowRows<S>& rows, index_t column, index_t later,
                               int first, int last) {
  constexpr int cut = shape.stride == 1 ? shape.taps / 2 : 1;
  const auto tile = [&](auto inside) __attribute__((always_inline)) {
    tile_channels<Load, shape>(b, rows, column, later, inside, shape.pixels);
    return true;
  };
  if (first == cut && last == 0) return tile(Cut<cut, 0>{});
  if (first == 0 && last == cut) return tile(Cut<0, cut>{});
  if (first == cut && last == cut) return tile(Cut<cut, cut>{});
  return false;
}

// Whether a tile's inputs are Covered.
template <int Pixels>
DEPTHWISE_INLINE bool covered(index_t taps, const Inside& inside) {
  const index_t end = inside.begin + inside.count,
                begin = inside.begin < Pixels - 1 ? Pixels - 1 : inside.begin;
  return inside.count > 0 && 8 * (smaller(end, taps) - begin) >= 7 * inside.count;
}

// Output columns [begin, end) of a tile's rows. The last tile overlaps its neighbour, or keeps what there is.
template <class S, class Load, Shape shape>
void window_rows(const Window<S>& window, const WindowRows<S>& window_rows, index_t begin, index_t end) {
  constexpr int Pixels = shape.pixels;
  const Window<S> b = window;  // copies, which the stores of sums cannot change
  const WindowRows<S> rows = window_rows;
  const index_t span = (Pixels - 1) * b.stride + (b.taps - 1) * b.spacing + 1;
  for (index_t column = begin; column < end; column += Pixels) {
    index_t from = column + Pixels <= end ? column : end - Pixels;
    from = from < begin ? begin : from;
    const index_t position = from * b.stride, low = b.inside_begin - position, high = b.inside_end - position;
    const int outputs = static_cast<int>(end - from < Pixels ? end - from : Pixels);
    const int first = static_cast<int>(low < 0 ? 0 : low < span ? low : span);
    const int last = static_cast<int>(high < first ? first : high < span ? high : span);
    const index_t later = (column + b.fetch_ahead * Pixels) * b.stride * b.pixel_step;
    if (outputs == Pixels && first == 0 && last == span) {
      if constexpr (shape.square)
        if (rows.begin == 0 && rows.end == shape.source_rows()) {
          tile_channels<Load, shape>(b, rows, from, later, WholeSquare{}, outputs);
          continue;
        }
      tile_channels<Load, shape>(b, rows, from, later, Whole{}, outputs);
      continue;
    }
    if constexpr (shape.taps > 2 && (Pixels >= 7 || shape.vectors > 1 || shape.rows > 1) && !Load::kRepeats)
      if (outputs == Pixels &&
          cut_tile<Load, shape>(b, rows, from, later, first, static_cast<int>(span) - last))
        continue;
    const Inside inside{first, last - first};
    if constexpr (shape.taps == 0 && shape.stride == 1)
      if (covered<Pixels>(b.taps, inside)) {
        tile_channels<Load, shape>(b, rows, from, later, Covered{inside}, outputs);
        continue;
      }
    tile_channels<Load, shape>(b, rows, from, later, inside, outputs);
  }
}

}  // namespace
