// Which loops compute a window: of line_tile.hpp, for the shapes of tiles that pay.
#pragma once

#include "line_tile.hpp"

namespace {

// What the loops of a window may know when they are compiled: taps of 0 stand for any number, as a stride of
// 0 does, whose taps may lie apart.
struct KnownTaps {
  index_t taps, stride;

  bool operator==(const KnownTaps&) const = default;
};

template <class S>
KnownTaps known_taps(const Window<S>& b) {
  const bool odd = b.taps == 3 || b.taps == 5 || b.taps == 7, adjacent = b.spacing == 1;
  if (adjacent && b.stride == 1) return {odd || b.taps <= 2 ? b.taps : 0, 1};
  return adjacent && b.stride == 2 && odd ? KnownTaps{b.taps, 2} : KnownTaps{0, 0};
}

template <class S, class Load, int Pixels>
WindowFunction<S> window_function_of(const Window<S>& b) {
  const KnownTaps known = known_taps(b);
  if (known == KnownTaps{1, 1}) return window_rows<S, Load, Shape{1, 1, 1, Pixels}>;
  if (known == KnownTaps{2, 1}) return window_rows<S, Load, Shape{2, 1, 1, Pixels}>;
  if (known == KnownTaps{3, 1}) return window_rows<S, Load, Shape{3, 1, 1, Pixels}>;
  if (known == KnownTaps{5, 1}) return window_rows<S, Load, Shape{5, 1, 1, Pixels}>;
  if (known == KnownTaps{7, 1}) return window_rows<S, Load, Shape{7, 1, 1, Pixels}>;
  if (known == KnownTaps{3, 2}) return window_rows<S, Load, Shape{3, 2, 1, Pixels}>;
  if (known == KnownTaps{5, 2}) return window_rows<S, Load, Shape{5, 2, 1, Pixels}>;
  if (known == KnownTaps{7, 2}) return window_rows<S, Load, Shape{7, 2, 1, Pixels}>;
  if (known == KnownTaps{0, 1}) return window_rows<S, Load, Shape{0, 1, 1, Pixels}>;
  return window_rows<S, Load, Shape{0, 0, 1, Pixels}>;
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

// Under kernels that are no such squares.
template <class S, class Load, int Pixels>
WindowFunction<S> oblong_pair(const Window<S>& b) {
  const KnownTaps known = known_taps(b);
  if (known == KnownTaps{5, 1}) return window_rows<S, Load, Shape{5, 1, 2, Pixels}>;
  if (known == KnownTaps{7, 1} || known == KnownTaps{0, 1})
    return window_rows<S, Load, Shape{0, 1, 2, Pixels}>;
  return known == KnownTaps{0, 0} ? window_rows<S, Load, Shape{0, 0, 2, Pixels}> : nullptr;
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
  if (known_taps(b) == KnownTaps{3, 1}) return window_rows<S, Load, Shape{3, 1, 2, Pixels}>;
  if constexpr (kPlain && Pixels > 4) return oblong_pair<S, Load, Pixels>(b);
  return nullptr;
}

template <class S, class Load, int Pixels>
WindowFunction<S> pair_function(const Window<S>& b) {
  constexpr int pixels = 4;  // where the sums of two rows, six weights and an input fill the registers
  if constexpr (simd::kManyRegisters)
    return pair_of_many<S, Load, Pixels>(b);
  else if constexpr (simd::kFused)
    return takes_pairs(b) ? square_pair<S, Load, 3, pixels>(b) : nullptr;
  return nullptr;
}

// 3x3 tiles of few columns, of one row and two; of four, too, where neighbouring rows share most inputs.
template <class S, class Load, int Stride, int Pixels>
WindowFunctions<S> narrow_functions() {
  WindowFunctions<S> f{window_rows<S, Load, Shape{3, Stride, 1, Pixels}>,
                       window_rows<S, Load, square_of(3, Stride, 2, Pixels)>};
  if constexpr (Stride == 1) f.four = window_rows<S, Load, square_of(3, Stride, 4, Pixels)>;
  return f;
}

// Tiles of whole lines of channels, of a width that the others do not have: where a line has one vector, of
// few pixels.
template <class S, class Load>
WindowFunctions<S> line_functions(const Window<S>& b, int pixels) {
  if constexpr (Load::kRepeats || sizeof(S) != sizeof(compute_t<S>)) return {};
  if (!square(b, 3)) return {};
  if constexpr (kParts<compute_t<S>> == 1) {
    if (b.stride == 2 && pixels == kFewPixels)
      return {window_rows<S, Load, Shape{3, 2, 1, kFewPixels}>, nullptr};
    if (b.stride == 2 && pixels == 1) return narrow_functions<S, Load, 2, 1>();
    if (b.stride == 1 && pixels == 1) return narrow_functions<S, Load, 1, 1>();
    if (b.stride == 1 && pixels == kFewPixels) return narrow_functions<S, Load, 1, kFewPixels>();
  }
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
