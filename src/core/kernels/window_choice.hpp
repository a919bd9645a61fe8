// Which loops compute a window: of line_tile.hpp, for the shapes of tiles that pay.
#pragma once

#include "line_tile.hpp"

namespace {

template <class S, class Load, int Pixels>
WindowFunction<S> window_function_of(const Window<S>& b) {
  const bool dense = b.spacing == 1 && b.stride == 1, halved = b.spacing == 1 && b.stride == 2;
  if (dense && b.taps == 1) return window_rows<S, Load, Shape{1, 1, 1, Pixels}>;
  if (dense && b.taps == 2) return window_rows<S, Load, Shape{2, 1, 1, Pixels}>;
  if (dense && b.taps == 3) return window_rows<S, Load, Shape{3, 1, 1, Pixels}>;
  if (dense && b.taps == 5) return window_rows<S, Load, Shape{5, 1, 1, Pixels}>;
  if (dense && b.taps == 7) return window_rows<S, Load, Shape{7, 1, 1, Pixels}>;
  if (halved && b.taps == 3) return window_rows<S, Load, Shape{3, 2, 1, Pixels}>;
  if (halved && b.taps == 5) return window_rows<S, Load, Shape{5, 2, 1, Pixels}>;
  if (halved && b.taps == 7) return window_rows<S, Load, Shape{7, 2, 1, Pixels}>;
  return dense ? window_rows<S, Load, Shape{0, 1, 1, Pixels}> : window_rows<S, Load, Shape{0, 0, 1, Pixels}>;
}

// Whether add_square() takes it, of so many taps.
template <class S>
bool square(const Window<S>& b, index_t taps) {
  constexpr index_t L = kLanes<compute_t<S>>;
  return b.taps == taps && b.spacing == 1 && b.row_taps == taps && b.row_stride == b.stride &&
         b.weight_step == L && b.weight_row == taps * L && b.weight_vector == taps * b.weight_row;
}

constexpr Shape square_of(int taps, int stride, int rows, int pixels, int vectors = 1) {
  return {taps, stride, rows, pixels, vectors, true};
}

// Whether tiles of two output rows, which share inputs, pay where registers are few, by measurement: not for
// rows of one tile, nor for results that go past the caches.
template <class S>
bool takes_pairs(const Window<S>& b) {
  constexpr index_t kOneTile = 8;
  return square(b, 3) && b.columns > kOneTile && (b.stride == 2 || !b.stream);
}

template <class S, class Load, int Taps, int Pixels>
WindowFunction<S> square_pair(const Window<S>& b) {
  if (!square(b, Taps)) return nullptr;
  if (b.stride == 1) return window_rows<S, Load, square_of(Taps, 1, 2, Pixels)>;
  if (b.stride == 2) return window_rows<S, Load, square_of(Taps, 2, 2, Pixels)>;
  return nullptr;
}

// Under other taps than those of a square of 3, 5 or 7.
template <class S, class Load, int Pixels>
WindowFunction<S> oblong_pair(const Window<S>& b) {
  const bool dense = b.spacing == 1 && b.stride == 1, halved = b.spacing == 1 && b.stride == 2;
  if (dense && b.taps == 5) return window_rows<S, Load, Shape{5, 1, 2, Pixels}>;
  if (dense && b.taps > 3) return window_rows<S, Load, Shape{0, 1, 2, Pixels}>;
  const bool any = !dense && !(halved && (b.taps == 3 || b.taps == 5 || b.taps == 7));
  return any ? window_rows<S, Load, Shape{0, 0, 2, Pixels}> : nullptr;
}

// Where registers are many, the sums of two rows, the weights of two rows of taps and an input fill them:
// each source row is read for both, which halves what comes from the second-level cache under large kernels.
// Only shapes that are often met, to keep what is compiled within bounds.
template <class S, class Load, int Pixels>
WindowFunction<S> pair_of_many(const Window<S>& b) {
  constexpr bool kPlain = sizeof(S) == sizeof(compute_t<S>) && !Load::kRepeats;
  if (const auto square = square_pair<S, Load, 3, Pixels>(b)) return square;
  if constexpr (Pixels > 4) {
    if (const auto square = square_pair<S, Load, 5, Pixels>(b)) return square;
    if (const auto square = square_pair<S, Load, 7, Pixels>(b)) return square;
  }
  if (b.row_stride > b.row_taps) return nullptr;
  if (b.spacing == 1 && b.stride == 1 && b.taps == 3) return window_rows<S, Load, Shape{3, 1, 2, Pixels}>;
  if constexpr (kPlain && Pixels > 4) return oblong_pair<S, Load, Pixels>(b);
  return nullptr;
}

template <class S, class Load, int Pixels>
WindowFunction<S> pair_function(const Window<S>& b) {
  if constexpr (simd::kManyRegisters) return pair_of_many<S, Load, Pixels>(b);
  if constexpr (!simd::kManyRegisters && simd::kFused) {
    constexpr int pixels = 4;  // the sums of two rows, six weights and an input fill the registers
    if (!takes_pairs(b)) return nullptr;
    if (b.stride == 1) return window_rows<S, Load, square_of(3, 1, 2, pixels)>;
    if (b.stride == 2) return window_rows<S, Load, square_of(3, 2, 2, pixels)>;
  }
  return nullptr;
}

// Tiles of whole lines of channels, of a width that the others do not have: where a line has one vector, of
// few pixels.
template <class S, class Load>
WindowFunctions<S> line_functions(const Window<S>& b, int pixels) {
  if constexpr (Load::kRepeats || sizeof(S) != sizeof(compute_t<S>)) return {};
  if (!square(b, 3)) return {};
  if constexpr (kParts<compute_t<S>> == 1)
    if (b.stride == 2 && pixels == kFewPixels)
      return {window_rows<S, Load, Shape{3, 2, 1, kFewPixels}>, nullptr};
  if constexpr (kParts<compute_t<S>> == 2) {
    if (!b.whole_lines) return {};
    if (b.stride == 2 && pixels == 1) return {window_rows<S, Load, square_of(3, 2, 1, 1, 2)>, nullptr};
    const bool pairs = takes_pairs(b);
    if (b.stride == 1)
      return {window_rows<S, Load, square_of(3, 1, 1, kLinePixels, 2)>,
              pairs ? window_rows<S, Load, square_of(3, 1, 2, kLinePixels / 2, 2)> : nullptr};
    if (b.stride == 2)
      return {window_rows<S, Load, square_of(3, 2, 1, kLinePixels, 2)>,
              pairs ? window_rows<S, Load, square_of(3, 2, 2, kLinePixels / 2, 2)> : nullptr};
  }
  return {};
}

template <class S, class Load, int Pixels>
WindowFunctions<S> window_functions_of(const Window<S>& b) {
  return {window_function_of<S, Load, Pixels>(b), pair_function<S, Load, Pixels>(b)};
}

// `pixels` is one of the widths that the plan may choose: 4, 6, 7 or 8, or 1 or 2 of whole lines.
template <class Load, class S>
WindowFunctions<S> window_functions(const Window<S>& b, int pixels) {
  if (const auto lines = line_functions<S, Load>(b, pixels); lines.one) return lines;
  switch (pixels) {
    case 4: return window_functions_of<S, Load, 4>(b);
    case 6: return window_functions_of<S, Load, 6>(b);
    case 7: return window_functions_of<S, Load, 7>(b);
    default: return window_functions_of<S, Load, 8>(b);
  }
}

}  // namespace
