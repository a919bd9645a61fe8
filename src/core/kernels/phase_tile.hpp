// The inner loops of a strided input gradient with channels in the vector lanes, all column phases together.
//
// Column i of the result takes tap i + pad - stride*s of source column s. A tile holds Stride*Pixels
// neighbouring results of one vector of channels in registers and walks the source rows under them, the
// columns of a row in order, one accumulator a result: each source is loaded once for all the results that it
// touches, and results are written in the order of memory. Sources outside the image are skipped.
#pragma once

#include "line_tile.hpp"

namespace {

// All columns of the result as one class: of the sources under them, each column takes those of its phase.
DEPTHWISE_INLINE depthwise::AxisClass all_phases(const depthwise::Axis& a) {
  return {.out_start = 0,
          .out_step = 1,
          .out_count = a.in,
          .src_start = 0,
          .src_step = 1,
          .src_size = a.out,
          .stride = a.stride,
          .spacing = a.dilation,
          .taps = a.kernel,
          .tap_start = 0,
          .tap_step = 1};
}

// A tile's first result takes tap Shift of source 0. Sources are counted from the first that a tap reaches.
template <int Taps, int Stride, int Pixels, int Shift>
struct PhaseShape {
  static_assert(Shift < Stride && Shift < Taps);
  static constexpr int kResults = Stride * Pixels, kFirst = -((Taps - 1 - Shift) / Stride),
                       kSources = (kResults - 1 + Shift) / Stride - kFirst + 1;
  // The result that takes tap `tap` of source `source`.
  static constexpr int result(int source, int tap) { return Stride * (source + kFirst) + tap - Shift; }
};

// One source row.
template <class Shape, int Taps, class S, class In>
DEPTHWISE_INLINE void spread_taps(const S* x, index_t pixel_step, const compute_t<S>* w, index_t weight_step,
                                  const In& inside, vec<compute_t<S>> (&acc)[Shape::kResults]) {
  vec<compute_t<S>> weights[Taps];
#pragma GCC unroll 8
  for (int k = 0; k < Taps; ++k, w += weight_step) weights[k] = simd::load(w);
  Steps<const S*> source{x, pixel_step};
#pragma GCC unroll 16
  for (int i = 0; i < Shape::kSources; ++i) {
    const S* const at = source(i);
    if (!inside.has(i, Shape::kSources)) continue;
    vec<compute_t<S>> input = simd::load(at);
    keep(input);
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k)
      if (Shape::result(i, k) >= 0 && Shape::result(i, k) < Shape::kResults)
        acc[Shape::result(i, k)] = simd::fma(input, weights[k], acc[Shape::result(i, k)]);
  }
}

template <class S, int Results, bool Edge>
DEPTHWISE_INLINE void write_phases(const Window<S>& b, const vec<compute_t<S>> (&acc)[1][Results], int kept,
                                   S* out) {
  using T = compute_t<S>;
  if (!Edge && b.stream)
    store_tile(out, 0, b.out_step, acc, [](S* to, vec<T> sum, int) { simd::stream(to, sum); });
  else
    store_tile(out, 0, b.out_step, acc, [&](S* to, vec<T> sum, int p) {
      if (!Edge || p < kept) simd::store(to, sum);
    });
}

// The tile of the results from `out` on, of which the first `kept` are; its sources begin `offset` elements
// into their rows. Vectors of channels at the ends may overlap their neighbours.
template <class Shape, int Taps, int Pixels, class S, class In>
DEPTHWISE_INLINE void phase_channels(const Window<S>& b, const WindowRows<S>& rows, S* out, index_t offset,
                                     index_t later, const In& inside, int kept) {
  using T = compute_t<S>;
  const T* weights = b.weights + rows.begin * b.weight_row;
  for (index_t channel = b.first_vector; channel < b.channels;
       channel += kLanes<T>, weights += b.weight_vector) {
    const index_t c = inner_channel(channel, b.channels, kLanes<T>);
    if (b.fetch_ahead > 0) fetch<1, Pixels>(b, rows, later + c);
    vec<T> acc[1][Shape::kResults] = {};
    const T* w = weights;
    for (index_t t = rows.begin; t < rows.end; ++t, w += b.weight_row)
      spread_taps<Shape, Taps>(rows.table[t] + offset + c, b.pixel_step, w, b.weight_step, inside, acc[0]);
    write_phases<S, Shape::kResults, !In::kKnown>(b, acc, kept, out + c);
  }
}

// Result columns [begin, end) of one row, of which `begin` is a multiple of the stride. The last tile
// overlaps its neighbour, or keeps what there is.
template <class S, int Taps, int Stride, int Pixels, int Shift>
void phase_row(const Window<S>& window, const WindowRows<S>& window_rows, index_t begin, index_t end) {
  using Shape = PhaseShape<Taps, Stride, Pixels, Shift>;
  constexpr int results = Shape::kResults, sources = Shape::kSources;
  const Window<S> b = window;  // copies, which the stores of sums cannot change
  const WindowRows<S> rows = window_rows;
  const index_t last = begin + (end - begin - results + Stride - 1) / Stride * Stride;
  for (index_t column = begin; column < end; column += results) {
    const index_t from = column <= last ? column : last < begin ? begin : last;
    const index_t first = (from + b.pad - Shift) / Stride + Shape::kFirst;
    const index_t low = b.inside_begin - first, high = b.inside_end - first;
    const int kept = static_cast<int>(end - from < results ? end - from : results);
    const int lo = static_cast<int>(low < 0 ? 0 : low < sources ? low : sources);
    const int hi = static_cast<int>(high < lo ? lo : high < sources ? high : sources);
    S* const out = rows.out + from * b.out_step;
    const index_t offset = first * b.pixel_step, later = offset + b.fetch_ahead * Pixels * b.pixel_step;
    if (kept == results && lo == 0 && hi == sources)
      phase_channels<Shape, Taps, Pixels>(b, rows, out, offset, later, Whole{}, kept);
    else
      phase_channels<Shape, Taps, Pixels>(b, rows, out, offset, later, Inside{lo, hi - lo}, kept);
  }
}

template <class S, int Taps, int Pixels>
WindowFunction<S> phase_function_of(const Window<S>& b) {
  return b.pad % 2 == 0 ? phase_row<S, Taps, 2, Pixels, 0> : phase_row<S, Taps, 2, Pixels, 1>;
}

template <int Pixels, class S>
WindowFunction<S> phase_function_of(const Window<S>& b) {
  switch (b.taps) {
    case 3: return phase_function_of<S, 3, Pixels>(b);
    case 5: return phase_function_of<S, 5, Pixels>(b);
    case 7: return phase_function_of<S, 7, Pixels>(b);
    default: return nullptr;
  }
}

// The loops for all phases of a row, or null where there are none for its taps and stride. `pixels` is one of
// the widths that the plan may choose.
template <class S>
WindowFunction<S> phase_function(const Window<S>& b, int pixels) {
  if (b.stride != 2 || b.spacing != 1) return nullptr;
  return pixels >= 7 ? phase_function_of<7>(b) : phase_function_of<4>(b);
}

}  // namespace
