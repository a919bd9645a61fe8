// The inner loops with a row in the vector lanes: NCHW planes, and NHWC rows of so few channels that pixels
// are read as one flat row whose weights repeat with the number of channels.
//
// A tile holds Rows output rows x Vectors vectors of the same channels; each input vector it loads serves
// every output row under it, and each weight every vector. Where lanes can be masked, the rows may be those
// of the image itself.
#pragma once

#include <utility>

#include "flat_layout.hpp"
#include "line_tile.hpp"
#include "wide.hpp"

namespace {

// Output rows computed from packed rows that lie `pitch` elements apart, the first of them under output row
// 0. Any-height tiles skip source rows outside [first, last), as those of the image itself do; the others
// read them. Flat output element i reads i + offsets[k] for tap k; adjacent taps lie `tap_step` apart or, in
// rows split into two phases, alternate between one and the next `phase` elements further on. Where `masked`,
// the rows are those of the image, of which nothing outside [first, last) and [low, high) is read: it counts
// as 0. Weights: [tap][kernel row][subrow][pattern].
template <class T>
struct FlatBlock {
  const T* source;
  index_t pitch, first, last;
  const T* weights;
  index_t stride, kernel_rows, subrows, taps;
  index_t tap_step, phase;
  bool masked;
  index_t low, high;
  const index_t* offsets;
  T* out;
  index_t out_row, rows, elements;
};

// Makes the compiler read anew what the pointer leads to: it would keep all the weights of an unrolled tile.
template <class P>
DEPTHWISE_INLINE void reload(P& pointer) {
  __asm__ volatile("" : "+r"(pointer));
}

using depthwise::larger;
using depthwise::smaller;

// Taps of a kernel of any width up to which rows of the image itself are read.
inline constexpr index_t kMaskedTaps = 16;

#if defined(__AVX512F__)
// Which of the L positions from this one on lie inside the image.
template <int L, class T>
DEPTHWISE_INLINE LaneMask lanes_inside(const FlatBlock<T>& b, index_t position) {
  return lanes_between<T, L>(b.low - position, b.high - position);
}

// Which lanes of each tap's inputs are read. Those of K taps are found without a loop: the compiler keeps
// arrays that loops fill in memory.
template <class T, int L, int K>
struct MaskedInputs {
  LaneMask inside[K];

  DEPTHWISE_INLINE MaskedInputs(const FlatBlock<T>& b, index_t at)
      : MaskedInputs(b, at, std::make_integer_sequence<int, K>{}) {}
  template <int... k>
  DEPTHWISE_INLINE MaskedInputs(const FlatBlock<T>& b, index_t at, std::integer_sequence<int, k...>)
      : inside{lanes_inside<L>(b, at + k * b.tap_step)...} {}

  DEPTHWISE_INLINE wide<T, L> load(const T* from, index_t k) const {
    return load_lanes<T, L>(from, inside[k]);
  }
};
template <class T, int L>
struct MaskedInputs<T, L, 0> {
  LaneMask inside[kMaskedTaps];

  DEPTHWISE_INLINE MaskedInputs(const FlatBlock<T>& b, index_t at) {
    for (index_t k = 0; k < b.taps; ++k) inside[k] = lanes_inside<L>(b, at + k * b.tap_step);
  }
  DEPTHWISE_INLINE wide<T, L> load(const T* from, index_t k) const {
    return load_lanes<T, L>(from, inside[k]);
  }
};
#endif

// The shape of tiles, and whether they hold all their weights in registers.
inline constexpr int kFlatRows = simd::kManyRegisters ? 8 : 4;
template <int KernelRows, int Taps>
inline constexpr bool kHoldsWeights = simd::kManyRegisters && Taps > 0 && KernelRows* Taps <= 9;
template <int KernelRows, int Taps>
inline constexpr int kFlatVectors = kHoldsWeights<KernelRows, Taps> ? 2 : 3;

// The weights of a tile's vectors, all of whose lanes hold the same channels.
template <class T, int KernelRows, int Taps, int Period, bool Held>
struct FlatWeights {
  static constexpr bool held = Held;
  static constexpr int pattern = Period * kLanes<T>;
  vec<T> in_registers[held ? KernelRows * Taps : 1];
  const T* in_memory;

  DEPTHWISE_INLINE explicit FlatWeights(const T* from) : in_memory(from) {
    if constexpr (held) {
#pragma GCC unroll 9
      for (int i = 0; i < KernelRows * Taps; ++i) {
        vec<T> weight = simd::load(from + i * pattern);
        keep(weight);
        in_registers[i] = weight;
      }
    }
  }
  // Those of kernel row 0 at tap k.
  DEPTHWISE_INLINE const T* of_tap(index_t k) const {
    const T* tap = in_memory + k * KernelRows * pattern;
    reload(tap);
    return tap;
  }
};

// Source row R of the tile against the kernel row of each output row that it touches.
template <class T, int KernelRows, int Taps, int Stride, int R, int Rows, int Vectors, class Weights,
          class Load>
DEPTHWISE_INLINE void flat_source_row(const FlatBlock<T>& b, const T* even, index_t vector_step,
                                      const Weights& w, const Load& load, vec<T> (&acc)[Rows][Vectors]) {
  constexpr int first = R < KernelRows ? 0 : (R - KernelRows) / Stride + 1;
  constexpr int last = R / Stride < Rows - 1 ? R / Stride : Rows - 1;
  constexpr bool held = Weights::held;
  const T* odd = even + b.phase;
  const auto tap = [&](const T*& from, index_t k) __attribute__((always_inline)) {
    opaque(from);
    vec<T> x[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      vec<T> input = load(from + v * vector_step, k);
      if constexpr (first < last) keep(input);  // the compiler would read it for each of its uses
      x[v] = input;
    }
    const T* weights = held ? nullptr : w.of_tap(k);
#pragma GCC unroll 8
    for (int t = first; t <= last; ++t) {
      const int row = R - Stride * t;
      vec<T> weight = held ? w.in_registers[k * KernelRows + row] : simd::load(weights + row * w.pattern);
      if constexpr (!held && Vectors > 1) keep(weight);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) acc[t][v] = simd::fma(x[v], weight, acc[t][v]);
    }
    from += b.tap_step;
  };
  if constexpr (Taps > 0) {
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k) tap(Stride == 2 && k % 2 ? odd : even, k);
  } else {
    for (index_t k = 0; k < b.taps; k += Stride) {
      tap(even, k);
      if (Stride == 2 && k + 1 < b.taps) tap(odd, k + 1);
    }
  }
}

// Where they are Checked, source rows outside [first, last) are left out: branches cost the compiler
// registers.
template <class T, int KernelRows, int Taps, int Stride, bool Checked, int Rows, int Vectors, class Weights,
          class Load, int... R>
DEPTHWISE_INLINE void flat_source_rows(const FlatBlock<T>& b, index_t row, index_t at, index_t vector_step,
                                       const Weights& w, const Load& load, vec<T> (&acc)[Rows][Vectors],
                                       std::integer_sequence<int, R...>) {
  const T* x = b.source + row * Stride * b.pitch + at;
  const std::size_t from = static_cast<std::size_t>(row * Stride - b.first), count = b.last - b.first;
  ((!Checked || from + R < count
        ? flat_source_row<T, KernelRows, Taps, Stride, R>(b, x, vector_step, w, load, acc)
        : void(),
    x += b.pitch),
   ...);
}

// Vectors of the same lanes of the pattern, from `at` on; `weights` are those of the lanes.
template <class T, int KernelRows, int Taps, int Stride, int Period, bool Checked, int Rows, int Vectors,
          class Load>
DEPTHWISE_INLINE void flat_tile(const FlatBlock<T>& b, index_t row, index_t at, index_t vector_step,
                                const T* weights, const Load& load) {
  vec<T> acc[Rows][Vectors] = {};
  const FlatWeights<T, KernelRows, Taps, Period, kHoldsWeights<KernelRows, Taps> && !Checked> w(weights);
  flat_source_rows<T, KernelRows, Taps, Stride, Checked>(
      b, row, at, vector_step, w, load, acc,
      std::make_integer_sequence<int, (Rows - 1) * Stride + KernelRows>{});
  T* out = b.out + row * b.out_row + at;
#pragma GCC unroll 8
  for (int t = 0; t < Rows; ++t, out += b.out_row)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) simd::store(out + v * vector_step, acc[t][v]);
}

// The tiles that cover Vectors patterns, `step` elements apart.
template <class T, int KernelRows, int Taps, int Stride, int Period, int Rows, int Vectors>
DEPTHWISE_INLINE void flat_tiles(const FlatBlock<T>& b, index_t row, index_t at, index_t step) {
  const auto load = [](const T* from, index_t) __attribute__((always_inline)) { return simd::load(from); };
  for (int p = 0; p < Period * kLanes<T>; p += kLanes<T>)
    flat_tile<T, KernelRows, Taps, Stride, Period, false, Rows, Vectors>(b, row, at + p, step, b.weights + p,
                                                                         load);
}

// Packed rows, which hold zeros beside the image. The last tiles overlap their neighbours instead of
// shrinking.
template <class T, int KernelRows, int Taps, int Stride, int Period, int Rows>
DEPTHWISE_INLINE void flat_packed_rows(const FlatBlock<T>& b, index_t row) {
  constexpr index_t unit = Period * kLanes<T>, most = kFlatVectors<KernelRows, Taps>;
  index_t at = 0;
  for (; at + most * unit <= b.elements; at += most * unit)
    flat_tiles<T, KernelRows, Taps, Stride, Period, Rows, most>(b, row, at, unit);
  const index_t step = smaller(unit, b.elements - unit);
  for (; at < b.elements; at += 2 * unit) {
    if (b.elements - at > unit)
      flat_tiles<T, KernelRows, Taps, Stride, Period, Rows, 2>(b, row, smaller(at, b.elements - step - unit),
                                                               step);
    else
      flat_tiles<T, KernelRows, Taps, Stride, Period, Rows, 1>(b, row, smaller(at, b.elements - unit), unit);
  }
}

#if defined(__AVX512F__)
// One pattern, some of whose inputs lie beside, above or below the image.
template <class T, int KernelRows, int Taps, int Period, int Rows>
DEPTHWISE_INLINE void flat_edge_tiles(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int V = kLanes<T>;
  for (int p = 0; p < Period * V; p += V) {
    const MaskedInputs<T, V, Taps> inputs(b, at + p);
    const auto load = [&](const T* from, index_t k)
                          __attribute__((always_inline)) { return inputs.load(from, k); };
    flat_tile<T, KernelRows, Taps, 1, Period, true, Rows, 1>(b, row, at + p, 0, b.weights + p, load);
  }
}

// Rows of the image itself.
template <class T, int KernelRows, int Taps, int Period, int Rows>
DEPTHWISE_INLINE void flat_image_rows(const FlatBlock<T>& b, index_t row) {
  constexpr index_t unit = Period * kLanes<T>, most = kFlatVectors<KernelRows, Taps>;
  const bool inner = row >= b.first && row + Rows - 1 + KernelRows <= b.last;
  const index_t inner_end = inner ? smaller(b.elements, b.high - (b.taps - 1) * b.tap_step) : 0;
  for (index_t at = 0; at < b.elements;) {
    if (at < b.low || at + unit > inner_end) {
      flat_edge_tiles<T, KernelRows, Taps, Period, Rows>(b, row, smaller(at, b.elements - unit));
      at += unit;
    } else if (at + most * unit <= inner_end) {
      flat_tiles<T, KernelRows, Taps, 1, Period, Rows, most>(b, row, at, unit);
      at += most * unit;
    } else {
      flat_tiles<T, KernelRows, Taps, 1, Period, Rows, 1>(b, row, at, unit);
      at += unit;
    }
  }
}
#endif

// Tiles of several rows, for the kernel heights that are known here. The last ones of the block overlap
// their neighbours; elements >= a pattern, and rows >= kFlatRows, or 8 where a row is one vector.
template <class T, int KernelRows, int Taps, int Stride, int Period>
void flat_block(const FlatBlock<T>& b) {
  if constexpr (Period == 1 && kFlatRows < 8) {
    if (b.elements <= kLanes<T>) {
      for (index_t u = 0; u < b.rows; u += 8)
        flat_tiles<T, KernelRows, Taps, Stride, 1, 8, 1>(b, smaller(u, b.rows - 8), 0, kLanes<T>);
      return;
    }
  }
  for (index_t u = 0; u < b.rows; u += kFlatRows) {
    const index_t row = smaller(u, b.rows - kFlatRows);
#if defined(__AVX512F__)
    if constexpr (Stride == 1) {
      if (b.masked) {
        flat_image_rows<T, KernelRows, Taps, Period, kFlatRows>(b, row);
        continue;
      }
    }
#endif
    flat_packed_rows<T, KernelRows, Taps, Stride, Period, kFlatRows>(b, row);
  }
}

template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_accumulate(vec<T> (&acc)[Vectors], const vec<T> (&x)[Vectors], const T* w) {
#pragma GCC unroll 8
  for (int p = 0; p < Period; ++p) {
    vec<T> weight = simd::load(w + p * kLanes<T>);
    if constexpr (Vectors > Period) keep(weight);
#pragma GCC unroll 8
    for (int v = p; v < Vectors; v += Period) acc[v] = simd::fma(x[v], weight, acc[v]);
  }
}

// Any kernel height, stride and dilation: one output row, no input shared.
template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_row_tile(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int pattern = Period * kLanes<T>;
  const index_t kernel_rows = b.kernel_rows * b.subrows, position = row * b.stride * b.subrows;
  const index_t begin = b.first * b.subrows > position ? b.first * b.subrows - position : 0;
  const index_t end = smaller(b.last * b.subrows - position, kernel_rows);
  vec<T> acc[Vectors] = {};
  const T* source = b.source + (position + begin) * b.pitch + at;
  for (index_t r = begin; r < end; ++r, source += b.pitch) {
    const T* w = b.weights + r * pattern;
    for (index_t k = 0; k < b.taps; ++k, w += kernel_rows * pattern) {
      const T* from = source + b.offsets[k];
      vec<T> x[Vectors];
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) x[v] = simd::load(from + v * kLanes<T>);
      flat_accumulate<T, Vectors, Period>(acc, x, w);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; ++v) simd::store(b.out + row * b.out_row + at + v * kLanes<T>, acc[v]);
}

// Covers a row from `at` on with tiles of Vectors, then narrower ones; the last overlaps its neighbour.
template <class T, int Vectors, int Period>
DEPTHWISE_INLINE void flat_row(const FlatBlock<T>& b, index_t row, index_t at) {
  constexpr int width = Vectors * kLanes<T>;
  constexpr bool narrowest = Vectors == Period;
  for (; b.elements - at >= width; at += width) flat_row_tile<T, Vectors, Period>(b, row, at);
  if (at == b.elements) return;
  if constexpr (narrowest)
    flat_row_tile<T, Vectors, Period>(b, row, smaller(at, b.elements - width));
  else
    flat_row<T, Vectors / 2, Period>(b, row, at);
}

template <class T, int Vectors, int Period>
void flat_rows(const FlatBlock<T>& b) {
  for (index_t row = 0; row < b.rows; ++row) flat_row<T, Vectors, Period>(b, row, 0);
}

template <class T>
using FlatFunction = void (*)(const FlatBlock<T>&);

template <class T, int KernelRows, int Taps, int Stride>
FlatFunction<T> flat_block_for(int period) {
  return period == 3 ? flat_block<T, KernelRows, Taps, Stride, 3>
                     : flat_block<T, KernelRows, Taps, Stride, 1>;
}

template <class T>
FlatFunction<T> flat_rows_for(int period) {
  switch (period) {
    case 3: return flat_rows<T, 6, 3>;
    case 5: return flat_rows<T, 5, 5>;
    case 7: return flat_rows<T, 7, 7>;
    default: return flat_rows<T, 8, 1>;
  }
}

template <class T>
FlatFunction<T> flat_function(index_t stride, index_t kernel_rows, index_t taps, int period) {
  if (stride == 1) {
    switch (kernel_rows) {
      case 3: return taps == 3 ? flat_block_for<T, 3, 3, 1>(period) : flat_block_for<T, 3, 0, 1>(period);
      case 5: return flat_block_for<T, 5, 0, 1>(period);
      case 7: return flat_block_for<T, 7, 0, 1>(period);
    }
  } else if (stride == 2) {
    switch (kernel_rows) {
      case 3: return taps == 3 ? flat_block_for<T, 3, 3, 2>(period) : flat_block_for<T, 3, 0, 2>(period);
      case 5: return flat_block_for<T, 5, 0, 2>(period);
    }
  }
  return flat_rows_for<T>(period);
}

}  // namespace
