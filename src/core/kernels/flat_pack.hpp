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

// The elements at Place of the V triples that three vectors hold.
template <int Place, class T, int... I>
DEPTHWISE_INLINE vec<T> of_triples(vec<T> a, vec<T> b, vec<T> c, std::integer_sequence<int, I...>) {
  constexpr int V = kLanes<T>;
  // Since 3 does not divide V, these elements lie in different lanes: they are brought together where they
  // lie, then put in order. Lane l has that of triple(l).
  constexpr auto triple = [](int lane) {
    int i = 0;
    while ((3 * i + Place) % V != lane) ++i;
    return i;
  };
  constexpr auto source = [triple](int lane) { return (3 * triple(lane) + Place) / V; };
  const vec<T> ab = __builtin_shufflevector(a, b, (source(I) == 1 ? V + I : I)...);
  const vec<T> abc = __builtin_shufflevector(ab, c, (source(I) == 2 ? V + I : I)...);
  return __builtin_shufflevector(abc, abc, ((3 * I + Place) % V)...);
}

// Elements of three phases.
template <class S>
DEPTHWISE_INLINE void pack_triples(const FlatRow<S>& row, const S* from, const FlatPanel& panel,
                                   compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>;
  constexpr std::make_integer_sequence<int, V> lanes;
  T* places[3];
  for (index_t i = 0; i < 3; ++i) places[i] = to + (row.begin + i) % 3 * panel.segment + (row.begin + i) / 3;
  const index_t triples = (row.end - row.begin) / 3;
  index_t i = 0;
  for (; i + V <= triples; i += V, from += 3 * V) {
    const vec<T> a = simd::load(from), b = simd::load(from + V), c = simd::load(from + 2 * V);
    simd::store(places[0] + i, of_triples<0, T>(a, b, c, lanes));
    simd::store(places[1] + i, of_triples<1, T>(a, b, c, lanes));
    simd::store(places[2] + i, of_triples<2, T>(a, b, c, lanes));
  }
  const index_t rest = row.end - row.begin - 3 * i;
  for (index_t j = 0; j < rest; ++j) places[j % 3][i + j / 3] = simd::load_one(from + j);
}

// Each of `count` adjacent elements `repeat` times, at most kMostRepeats.
inline constexpr index_t kMostRepeats = 8;

template <class S>
DEPTHWISE_INLINE void pack_repeated(const S* from, index_t count, index_t repeat, compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>;
  simd::index_vec<T> indices[kMostRepeats];
  for (index_t v = 0; v < repeat; ++v)
    for (int i = 0; i < V; ++i) indices[v][i] = static_cast<int>((v * V + i) / repeat);
  index_t i = 0;
  for (; i + V <= count; i += V) {
    const vec<T> x = simd::load(from + i);
    for (index_t v = 0; v < repeat; ++v, to += V) simd::store(to, simd::permute<T>(x, indices[v]));
  }
  for (; i < count; ++i)
    for (index_t k = 0; k < repeat; ++k) *to++ = simd::load_one(from + i);
}

// Of each phase that the row has: its first pixel, where this goes, and how many pixels there are.
template <class S, class Body>
DEPTHWISE_INLINE void each_phase(const FlatRow<S>& row, const S* first, const FlatPanel& panel,
                                 compute_t<S>* to, const Body& body) {
  const index_t stride = panel.stride;
  for (index_t phase = 0; phase < panel.phases; ++phase) {
    const index_t begin = row.begin + (phase + stride - row.begin % stride) % stride;
    if (begin >= row.end) continue;
    body(first + (begin - row.begin) * row.step, to + phase * panel.segment + begin / stride * panel.pixel,
         (row.end - begin + stride - 1) / stride);
  }
}

// Pixels of Pixel elements, one phase after the other.
template <int Pixel, class S>
void pack_phases(const FlatRow<S>& row, const S* first, const FlatPanel& panel, compute_t<S>* to) {
  const index_t step = panel.stride * row.step;
  index_t source[Pixel];
  for (int i = 0; i < Pixel; ++i) source[i] = i / row.repeat * row.channel_step;
  each_phase(row, first, panel, to, [&](const S* from, compute_t<S>* x, index_t pixels) {
    for (; pixels > 0; --pixels, from += step, x += Pixel)
#pragma GCC unroll 4
      for (int i = 0; i < Pixel; ++i) x[i] = simd::load_one(from + source[i]);
  });
}

// The same of pixels whose elements are adjacent: Lanes elements at once, of which the next pixel overwrites
// what is too much. The last is copied as it is.
template <int Lanes, class S>
void copy_phases(const FlatRow<S>& row, const S* first, const FlatPanel& panel, compute_t<S>* to) {
  typedef S chunk __attribute__((vector_size(Lanes * sizeof(S)), aligned(sizeof(S)), may_alias));
  const index_t step = panel.stride * row.step, pixel = panel.pixel;
  each_phase(row, first, panel, to, [&](const S* from, compute_t<S>* x, index_t pixels) {
#pragma GCC unroll 4
    for (; pixels > 1; --pixels, from += step, x += pixel)
      *reinterpret_cast<chunk*>(x) = *reinterpret_cast<const chunk*>(from);
    for (index_t i = 0; i < pixel; ++i) x[i] = simd::load_one(from + i);
  });
}

template <class S>
using PackPhases = void (*)(const FlatRow<S>&, const S*, const FlatPanel&, compute_t<S>*);

// For pixels of a few elements, or null.
template <class S>
PackPhases<S> phases_of(const FlatRow<S>& row, index_t pixel) {
  if constexpr (sizeof(S) == sizeof(compute_t<S>))
    if (row.repeat == 1 && row.channel_step == 1 && pixel > 1 && pixel <= 8)
      return pixel == 2 ? copy_phases<2, S> : pixel <= 4 ? copy_phases<4, S> : copy_phases<8, S>;
  switch (pixel) {
    case 1: return pack_phases<1, S>;
    case 2: return pack_phases<2, S>;
    case 3: return pack_phases<3, S>;
    case 4: return pack_phases<4, S>;
    default: return nullptr;
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
  } else if (row.channel_step == 1 && row.step * row.repeat == panel.pixel && panel.stride == 1 &&
             row.repeat <= kMostRepeats) {
    to += row.begin * panel.pixel;
    each([&] { pack_repeated(from, pixels * row.step, row.repeat, to); });
  } else if (adjacent && panel.pixel == 1 && panel.stride == 2 && panel.phases == 2) {
    const bool odd = row.begin % 2 != 0;  // whether the first position is the second of a pair
    const index_t first = row.begin / 2 + (odd ? panel.segment : 0);
    const index_t second = (row.begin + 1) / 2 + (odd ? 0 : panel.segment);
    each([&] { pack_pairs(from, row.array_end, pixels, to + first, to + second); });
  } else if (adjacent && panel.pixel == 1 && panel.stride == 3 && panel.phases == 3) {
    each([&] { pack_triples(row, from, panel, to); });
  } else if (const PackPhases<S> pack = phases_of(row, panel.pixel)) {
    each([&] { pack(row, from, panel, to); });
  } else {
    each([&] { pack_pixels(row, from, panel, to); });
  }
}

}  // namespace
