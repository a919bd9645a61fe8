// The inner loops with channels in the vector lanes.
//
// A tile holds Rows x Pixels outputs of one vector of channels in registers and walks the source rows under
// them, the taps of a row in order, one accumulator an output: each input of a row is loaded once for all the
// outputs that it touches. Inputs that lie outside the image are skipped; so are source rows.
#pragma once

#include "../simd.hpp"
#include "../task.hpp"

namespace {

using depthwise::index_t;
using depthwise::kLineBytes;
using simd::kLanes;
using simd::vec;

template <class T>
inline constexpr int kLine = static_cast<int>(kLineBytes / sizeof(T));

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

// What the tiles of a block of output rows and channels share. Output column v reads input position
// stride*v + spacing*k for its tap k; those in [inside_begin, inside_end) exist, pixel_step elements apart.
template <class T>
struct Window {
  index_t taps, stride, spacing, inside_begin, inside_end, pixel_step;
  index_t row_taps, row_stride;
  const T* weights;  // tap k of kernel row t at t*weight_row + k*weight_step
  index_t weight_row, weight_step;
  index_t out_step, out_row;  // elements from an output column to the next, and from a row to the next
  index_t channels;           // at least one vector of them
  bool prefetch, stream;      // fetch the next tile's new rows; write whole tiles past the caches
};

// Where rows of a tile start: table[t] is input position 0 under kernel row t of the first output row, for
// begin <= t < end; the second output row starts row_stride further. out is output column 0.
template <class T>
struct WindowRows {
  const T* const* table;
  index_t begin, end;
  T* out;
};

// Which of a tile's inputs lie inside the image, counted from the tile's first.
struct Inside {
  int begin, count;

  DEPTHWISE_INLINE bool operator()(int input) const {
    return static_cast<unsigned>(input - begin) < static_cast<unsigned>(count);
  }
  DEPTHWISE_INLINE Inside from(int input) const { return {begin - input, count}; }
};

// Adjacent taps of one source row, for the outputs of Rows rows; row r takes its weights from w[r].
template <class T, int Taps, int Stride, int Rows, int Pixels, bool Edge>
DEPTHWISE_INLINE void add_taps(const T* x, index_t pixel_step, const T* const (&w)[Rows], index_t weight_step,
                               Inside inside, vec<T> (*acc)[Pixels]) {
  vec<T> weights[Rows][Taps];
#pragma GCC unroll 2
  for (int r = 0; r < Rows; ++r) {
    const T* from = w[r];
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k, from += weight_step) weights[r][k] = simd::load(from);
  }
#pragma GCC unroll 32
  for (int i = 0; i < (Pixels - 1) * Stride + Taps; ++i, x += pixel_step) {
    opaque(x);
    if (Edge && !inside(i)) continue;
    vec<T> input = simd::load(x);
    if (Taps > 1) keep(input);
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 8
      for (int k = 0; k < Taps; ++k)
        if (i >= k && (i - k) % Stride == 0 && (i - k) / Stride < Pixels)
          acc[r][(i - k) / Stride] = simd::fma(input, weights[r][k], acc[r][(i - k) / Stride]);
  }
}

// One tap: its weight against Pixels inputs, `step` elements and `stride` positions apart.
template <class T, int Pixels, bool Edge>
DEPTHWISE_INLINE void add_tap(const T* x, index_t step, int stride, vec<T> weight, Inside inside,
                              vec<T> (&acc)[Pixels]) {
#pragma GCC unroll 16
  for (int p = 0; p < Pixels; ++p, x += step) {
    opaque(x);
    if (!Edge || inside(p * stride)) acc[p] = simd::fma(simd::load(x), weight, acc[p]);
  }
}

// Any number of taps, by threes where neighbouring outputs share inputs.
template <class T, int Stride, int Pixels, bool Edge>
DEPTHWISE_INLINE void add_any_taps(const Window<T>& b, const T* x, const T* w, Inside inside,
                                   vec<T> (&acc)[Pixels]) {
  const int taps = static_cast<int>(b.taps), stride = static_cast<int>(b.stride),
            spacing = static_cast<int>(b.spacing);
  int k = 0;
  if constexpr (Stride == 1)
    for (; k + 3 <= taps; k += 3, x += 3 * b.pixel_step, w += 3 * b.weight_step)
      add_taps<T, 3, 1, 1, Pixels, Edge>(x, b.pixel_step, {w}, b.weight_step, inside.from(k), &acc);
  for (; k < taps; ++k, x += spacing * b.pixel_step, w += b.weight_step)
    add_tap<T, Pixels, Edge>(x, stride * b.pixel_step, stride, simd::load(w), inside.from(k * spacing), acc);
}

// Adds source rows [begin, end) to the sums of one output row; w are the weights of row `begin`.
template <class T, int Taps, int Stride, int Pixels, bool Edge>
DEPTHWISE_INLINE void add_rows(const Window<T>& b, const T* const* table, index_t begin, index_t end,
                               index_t offset, const T* w, Inside inside, vec<T> (&acc)[Pixels]) {
  for (index_t t = begin; t < end; ++t, w += b.weight_row) {
    if constexpr (Taps > 0)
      add_taps<T, Taps, Stride, 1, Pixels, Edge>(table[t] + offset, b.pixel_step, {w}, b.weight_step, inside,
                                                 &acc);
    else
      add_any_taps<T, Stride, Pixels, Edge>(b, table[t] + offset, w, inside, acc);
  }
}

// Two output rows: source rows under the first alone, under both, under the second alone.
template <class T, int Taps, int Stride, int Pixels, bool Edge>
DEPTHWISE_INLINE void add_row_pair(const Window<T>& b, const WindowRows<T>& rows, index_t offset, const T* w,
                                   Inside inside, vec<T> (&acc)[2][Pixels]) {
  const auto clamp = [&](index_t t) { return t < rows.begin ? rows.begin : t < rows.end ? t : rows.end; };
  const index_t both = clamp(b.row_stride), second = clamp(b.row_taps);
  add_rows<T, Taps, Stride, Pixels, Edge>(b, rows.table, rows.begin, both, offset,
                                          w + rows.begin * b.weight_row, inside, acc[0]);
  const T* above = w + both * b.weight_row;
  const T* below = above - b.row_stride * b.weight_row;
  for (index_t t = both; t < second; ++t, above += b.weight_row, below += b.weight_row)
    add_taps<T, Taps, Stride, 2, Pixels, Edge>(rows.table[t] + offset, b.pixel_step, {above, below},
                                               b.weight_step, inside, acc);
  add_rows<T, Taps, Stride, Pixels, Edge>(b, rows.table, second, rows.end, offset,
                                          w + (second - b.row_stride) * b.weight_row, inside, acc[1]);
}

// Asks for what the next tile to the right reads first: rows that no tile above it has read.
template <class T, int Pixels>
DEPTHWISE_INLINE void fetch_next(const Window<T>& b, const WindowRows<T>& rows, index_t count,
                                 index_t offset) {
  const index_t begin = rows.end - count > rows.begin ? rows.end - count : rows.begin;
  for (index_t t = begin; t < rows.end; ++t) {
    const T* x = rows.table[t] + offset + Pixels * b.stride * b.pixel_step;
#pragma GCC unroll 4
    for (index_t i = 0; i < Pixels * b.stride; ++i, x += b.pixel_step) __builtin_prefetch(x, 0, 2);
  }
}

template <class T, int Rows, int Pixels, class Store>
DEPTHWISE_INLINE void store_tile(const Window<T>& b, T* out, const vec<T> (&acc)[Rows][Pixels],
                                 const Store& store) {
#pragma GCC unroll 2
  for (int r = 0; r < Rows; ++r) {
    T* to = out + r * b.out_row;
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p, to += b.out_step) {
      opaque(to);
      store(to, acc[r][p], p);
    }
  }
}

// `outputs` of the tile's columns are kept. The last vector of channels overlaps its neighbour.
template <class T, int Taps, int Stride, int Rows, int Pixels, bool Edge>
DEPTHWISE_INLINE void tile_channels(const Window<T>& b, const WindowRows<T>& rows, index_t column,
                                    Inside inside, int outputs) {
  T* const out = rows.out + column * b.out_step;
  const index_t offset = column * b.stride * b.pixel_step;
  for (index_t channel = 0; channel < b.channels; channel += kLanes<T>) {
    const index_t c = channel + kLanes<T> <= b.channels ? channel : b.channels - kLanes<T>;
    if (b.prefetch) fetch_next<T, Pixels>(b, rows, Rows * b.row_stride, offset + c);
    vec<T> acc[Rows][Pixels] = {};
    if constexpr (Rows == 1)
      add_rows<T, Taps, Stride, Pixels, Edge>(b, rows.table, rows.begin, rows.end, offset + c,
                                              b.weights + rows.begin * b.weight_row + c, inside, acc[0]);
    else
      add_row_pair<T, Taps, Stride, Pixels, Edge>(b, rows, offset + c, b.weights + c, inside, acc);
    if (!Edge && b.stream)
      store_tile(b, out + c, acc, [](T* to, vec<T> sum, int) { simd::stream(to, sum); });
    else
      store_tile(b, out + c, acc, [&](T* to, vec<T> sum, int p) {
        if (!Edge || p < outputs) simd::store(to, sum);
      });
  }
}

// Output columns [begin, end) of Rows rows. The last tile overlaps its neighbour, or keeps what there is.
template <class T, int Taps, int Stride, int Rows, int Pixels>
void window_rows(const Window<T>& window, const WindowRows<T>& window_rows, index_t begin, index_t end) {
  const Window<T> b = window;  // copies, which the stores of sums cannot change
  const WindowRows<T> rows = window_rows;
  const index_t span = (Pixels - 1) * b.stride + (b.taps - 1) * b.spacing + 1;
  for (index_t column = begin; column < end; column += Pixels) {
    index_t from = column + Pixels <= end ? column : end - Pixels;
    from = from < begin ? begin : from;
    const index_t position = from * b.stride, low = b.inside_begin - position, high = b.inside_end - position;
    const int outputs = static_cast<int>(end - from < Pixels ? end - from : Pixels);
    const int first = static_cast<int>(low < 0 ? 0 : low < span ? low : span);
    const int last = static_cast<int>(high < first ? first : high < span ? high : span);
    if (outputs == Pixels && first == 0 && last == span)
      tile_channels<T, Taps, Stride, Rows, Pixels, false>(b, rows, from, {}, outputs);
    else
      tile_channels<T, Taps, Stride, Rows, Pixels, true>(b, rows, from, {first, last - first}, outputs);
  }
}

template <class T>
using WindowFunction = void (*)(const Window<T>&, const WindowRows<T>&, index_t, index_t);

// Whether tiles of two output rows pay, which share inputs: the registers must hold both rows and the
// weights.
inline constexpr bool kRowPair = simd::kRegisters >= 32;

template <class T, int Pixels>
WindowFunction<T> window_function_of(const Window<T>& b) {
  const bool dense = b.spacing == 1 && b.stride == 1;
  if (dense && b.taps == 3) return window_rows<T, 3, 1, 1, Pixels>;
  if (dense && b.taps == 5) return window_rows<T, 5, 1, 1, Pixels>;
  if (dense && b.taps == 7) return window_rows<T, 7, 1, 1, Pixels>;
  if (b.spacing == 1 && b.stride == 2 && b.taps == 3) return window_rows<T, 3, 2, 1, Pixels>;
  if (b.spacing == 1 && b.stride == 2 && b.taps == 5) return window_rows<T, 5, 2, 1, Pixels>;
  return dense ? window_rows<T, 0, 1, 1, Pixels> : window_rows<T, 0, 0, 1, Pixels>;
}

// The loops for one output row, and those for pairs of rows, or null where they do not pay.
template <class T>
struct WindowFunctions {
  WindowFunction<T> one, pair;
};

template <class T, int Pixels>
WindowFunctions<T> window_functions_of(const Window<T>& b) {
  WindowFunction<T> pair = nullptr;
  if constexpr (kRowPair)
    if (b.spacing == 1 && b.stride == 1 && b.taps == 3 && b.row_stride <= b.row_taps)
      pair = window_rows<T, 3, 1, 2, Pixels>;
  return {window_function_of<T, Pixels>(b), pair};
}

// `pixels` is one of the widths that the plan may choose: 4, 6, 7 or 8.
template <class T>
WindowFunctions<T> window_functions(const Window<T>& b, int pixels) {
  switch (pixels) {
    case 4: return window_functions_of<T, 4>(b);
    case 6: return window_functions_of<T, 6>(b);
    case 7: return window_functions_of<T, 7>(b);
    default: return window_functions_of<T, 8>(b);
  }
}

}  // namespace
