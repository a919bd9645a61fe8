// A source row brought into flat form: columns split by stride phase, the channels of a pixel adjacent.
#pragma once

#include "line_pack.hpp"

namespace {

// Column positions [begin, end) of a row, `step` elements apart. Lane l of a pixel is the source element
// l / repeat * channel_step. Nothing is read at or beyond `array_end`.
template <class S>
struct FlatRow {
  const S* array_end;
  index_t step, begin, end;
  index_t repeat, channel_step;
};

// Position p goes to phase p % stride, column p / stride; phases that no tap reads are left out. Up to a
// vector beyond what is packed is cleared: panels have room for it, and hold 0 there.
struct FlatPanel {
  index_t stride, phases, segment, pixel;
};

template <class T>
DEPTHWISE_INLINE vec<T> first_lanes(vec<T> x, index_t count) {
  simd::index_vec<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return (vec<T>)((simd::index_vec<T>)x & (lane < static_cast<int>(count)));
}

// The first `count` elements, at most a vector; reads a whole one where the array has it.
template <class S>
DEPTHWISE_INLINE vec<compute_t<S>> load_first(const S* from, const S* array_end, index_t count) {
  using T = compute_t<S>;
  if (array_end - from >= kLanes<T>) return first_lanes<T>(simd::load(from), count);
  return simd::load_n(from, static_cast<int>(count));
}

// The last vector overlaps its neighbour.
template <class S>
DEPTHWISE_INLINE void pack_contiguous(const S* from, const S* array_end, index_t count, compute_t<S>* to) {
  constexpr int V = kLanes<compute_t<S>>;
  if (count < V) return simd::store(to, load_first(from, array_end, count));
  index_t i = 0;
#pragma GCC unroll 4
  for (; i + V <= count; i += V) simd::store(to + i, simd::load(from + i));
  if (i < count) simd::store(to + count - V, simd::load(from + count - V));
}

template <class T, int... I>
DEPTHWISE_INLINE vec<T> even_lanes(vec<T> a, vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I)...);
}
template <class T, int... I>
DEPTHWISE_INLINE vec<T> odd_lanes(vec<T> a, vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + 1)...);
}

// Pairs of adjacent elements: the first of each to `even`, the second to `odd`.
template <class S>
DEPTHWISE_INLINE void pack_pairs(const S* from, const S* array_end, index_t count, compute_t<S>* even,
                                 compute_t<S>* odd) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>;
  constexpr std::make_integer_sequence<int, V> lanes;
  const auto split = [&](vec<T> a, vec<T> b, index_t pair) {
    simd::store(even + pair, even_lanes<T>(a, b, lanes));
    simd::store(odd + pair, odd_lanes<T>(a, b, lanes));
  };
  index_t i = 0;
  for (; i + 2 * V <= count; i += 2 * V) split(simd::load(from + i), simd::load(from + i + V), i / 2);
  if (i == count) return;
  const bool second = count - i > V;
  const vec<T> a = second ? simd::load(from + i) : load_first(from + i, array_end, count - i);
  split(a, second ? load_first(from + i + V, array_end, count - i - V) : vec<T>{}, i / 2);
}

// Lanes [l, l + count) of each pixel, at most a vector of them.
template <class S>
DEPTHWISE_INLINE void pack_lanes(const FlatRow<S>& row, const S* first, const FlatPanel& panel,
                                 compute_t<S>* packed, index_t l, int count) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>;
  const index_t base = l / row.repeat * row.channel_step;
  simd::index_vec<T> indices = {};
  for (int i = 0; i < count; ++i)
    indices[i] = static_cast<int>((l + i) / row.repeat * row.channel_step - base);
  const index_t span = indices[count - 1] + 1;
  const S* from = first + base;
  index_t phase = row.begin % panel.stride, column = row.begin / panel.stride;
  for (index_t p = row.begin; p < row.end; ++p, from += row.step) {
    if (phase < panel.phases) {
      T* to = packed + phase * panel.segment + column * panel.pixel + l;
      if (span > V)
        for (int i = 0; i < count; ++i) to[i] = simd::load_one(from + indices[i]);
      else  // lanes past the pixel belong to the next ones, which cover the zeros
        simd::store(to,
                    first_lanes<T>(simd::permute<T>(load_first(from, row.array_end, span), indices), count));
    }
    if (++phase == panel.stride) phase = 0, ++column;
  }
}

// Pixels of a vector or more in whole vectors, the last overlapping its neighbour.
template <class S>
void pack_pixels(const FlatRow<S>& row, const S* first, const FlatPanel& panel, compute_t<S>* to) {
  constexpr int V = kLanes<compute_t<S>>;
  if (panel.pixel < V) return pack_lanes(row, first, panel, to, 0, static_cast<int>(panel.pixel));
  for (index_t l = 0; l < panel.pixel; l += V)
    pack_lanes(row, first, panel, to, l + V <= panel.pixel ? l : panel.pixel - V, V);
}

// Pixels of Pixel elements, one phase after the other.
template <int Pixel, class S>
void pack_phases(const FlatRow<S>& row, const S* first, const FlatPanel& panel, compute_t<S>* to) {
  const index_t stride = panel.stride;
  index_t source[Pixel];
  for (int i = 0; i < Pixel; ++i) source[i] = i / row.repeat * row.channel_step;
  for (index_t phase = 0; phase < panel.phases; ++phase) {
    const index_t begin = row.begin + (phase + stride - row.begin % stride) % stride;
    if (begin >= row.end) continue;
    const S* from = first + (begin - row.begin) * row.step;
    compute_t<S>* x = to + phase * panel.segment + begin / stride * Pixel;
    for (index_t p = begin; p < row.end; p += stride, from += stride * row.step, x += Pixel)
#pragma GCC unroll 4
      for (int i = 0; i < Pixel; ++i) x[i] = simd::load_one(from + source[i]);
  }
}

// Brings `rows` rows, the first position of the first of them at `from`, into the panel; their distances are
// `row_step` and `pitch`.
template <class S>
void pack_flat(const FlatRow<S>& row, const S* from, const FlatPanel& panel, compute_t<S>* to,
               index_t rows = 1, index_t row_step = 0, index_t pitch = 0) {
  const index_t pixels = row.end - row.begin;
  if (pixels <= 0) return;
  const bool adjacent = row.step == panel.pixel && row.repeat == 1 && row.channel_step == 1;
  const auto each = [&](const auto& pack) {
    for (; rows > 0; --rows, from += row_step, to += pitch) pack();
  };
  if (adjacent && panel.stride == 1) {
    to += row.begin * panel.pixel;
    each([&] { pack_contiguous(from, row.array_end, pixels * panel.pixel, to); });
  } else if (adjacent && panel.pixel == 1 && panel.stride == 2 && panel.phases == 2) {
    const bool odd = row.begin % 2 != 0;  // whether the first position is the second of a pair
    const index_t first = row.begin / 2 + (odd ? panel.segment : 0);
    const index_t second = (row.begin + 1) / 2 + (odd ? 0 : panel.segment);
    each([&] { pack_pairs(from, row.array_end, pixels, to + first, to + second); });
  } else if (panel.pixel <= 4) {
    constexpr auto few = [](index_t pixel) {
      return pixel == 1   ? pack_phases<1, S>
             : pixel == 2 ? pack_phases<2, S>
             : pixel == 3 ? pack_phases<3, S>
                          : pack_phases<4, S>;
    };
    each([&, pack = few(panel.pixel)] { pack(row, from, panel, to); });
  } else {
    each([&] { pack_pixels(row, from, panel, to); });
  }
}

}  // namespace
