// Rows of the source brought into lines: pixels x 64 bytes of the compute type, lanes past the last channel
// 0.
#pragma once

#include "plane_pieces.hpp"

namespace {

using depthwise::Image;
using depthwise::Layout;

// The slot of a position in a ring of rows, as both move along.
struct RingSlot {
  index_t slots, slot;

  DEPTHWISE_INLINE RingSlot ahead(index_t positions) const {
    index_t next = slot + positions;
    while (next >= slots) next -= slots;
    return {slots, next};
  }
};

// Pixels of one row, a channel run in each.
template <class S>
struct PixelRow {
  const S* first;       // channel 0 of the first pixel
  index_t step, count;  // elements from pixel to pixel; pixels
};

// Lane l of the line is channel `lane + l`; `valid` lanes exist.
template <class S>
DEPTHWISE_INLINE void pack_whole_lines(const S* from, index_t step, index_t count, compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>, line = kLine<T>;
  for (index_t p = 0; p < count; ++p, from += step, to += line)
#pragma GCC unroll 8
    for (int v = 0; v < line; v += V) simd::store(to + v, simd::load(from + v));
}

template <class S>
void pack_channels(const PixelRow<S>& row, index_t lane, int valid, compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>, line = kLine<T>;
  const S* from = row.first + lane;
  for (index_t p = 0, n = row.count; p < n; ++p, from += row.step, to += line)
    for (int v = 0; v < line; v += V)
      simd::store(to + v, valid > v ? simd::load_n(from + v, valid - v) : vec<T>{});
}

// Lane l of the line is channel (lane + l) / multiplier: each source channel once for each of its outputs.
template <class S>
void pack_repeated(const PixelRow<S>& row, index_t lane, int valid, index_t multiplier, index_t channels,
                   compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>, line = kLine<T>;
  for (int v = 0; v < line; v += V) {
    // Near the last channel, whole vectors that begin before what is needed.
    const index_t wanted = (lane + v) / multiplier;
    const index_t base = channels >= V && wanted > channels - V ? channels - V : wanted;
    simd::index_vec<T> indices;
    for (int i = 0; i < V; ++i) {
      const index_t index = (lane + v + i) / multiplier - base;
      indices[i] = static_cast<int>(index < V ? index : V - 1);
    }
    const int loaded =
        base >= channels || valid <= v ? 0 : static_cast<int>(channels - base < V ? channels - base : V);
    const S* from = row.first + base;
    T* dst = to + v;
    if (loaded == V)
      for (index_t p = 0, n = row.count; p < n; ++p, from += row.step, dst += line)
        simd::store(dst, simd::permute<T>(simd::load(from), indices));
    else
      for (index_t p = 0, n = row.count; p < n; ++p, from += row.step, dst += line)
        simd::store(dst, simd::permute<T>(simd::load_n(from, loaded), indices));
  }
}

// Vectors that every `multiplier`-th element is taken from, and where from: what the first two hold, then in
// each turn what one more holds.
template <class T>
struct Spread {
  static constexpr int kMost = 8;
  int vectors;
  simd::index_vec<T> indices[kMost - 1];

  Spread(int multiplier, int q) : vectors(multiplier) {
    constexpr int V = kLanes<T>;
    for (int j = 1; j < vectors; ++j)
      for (int l = 0; l < V; ++l) {
        const int at = l * multiplier + q;
        indices[j - 1][l] = at / V == j ? V + at % V : j == 1 ? at % V : l;
      }
  }

  template <class S>
  DEPTHWISE_INLINE vec<T> operator()(const S* from) const {
    constexpr int V = kLanes<T>;
    vec<T> x = simd::load(from);
    for (int j = 1; j < vectors; ++j) x = simd::permute<T>(x, simd::load(from + j * V), indices[j - 1]);
    return x;
  }
};

// Lane l of the line is channel (lane + l)*multiplier + q: output q of each source channel. Whole lines of
// few outputs a channel are read as vectors.
template <class S>
void pack_spread(const PixelRow<S>& row, index_t lane, int valid, index_t multiplier, index_t q,
                 compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int line = kLine<T>, V = kLanes<T>;
  const S* from = row.first + lane * multiplier;
  if (valid == line && multiplier > 1 && multiplier <= Spread<T>::kMost && simd::kVectorBytes >= 32) {
    const Spread<T> spread(static_cast<int>(multiplier), static_cast<int>(q));
    for (index_t p = 0, n = row.count; p < n; ++p, from += row.step, to += line)
      for (int v = 0; v < line; v += V) simd::store(to + v, spread(from + v * multiplier));
    return;
  }
  from += q;
  for (index_t p = 0, n = row.count; p < n; ++p, from += row.step, to += line)
    for (int l = 0; l < line; ++l) to[l] = l < valid ? simd::load_one(from + l * multiplier) : 0;
}

// Rows i and i + H swap the blocks of H lanes that are off the diagonal.
template <class T, int H, int... I>
DEPTHWISE_INLINE void exchange(vec<T>& a, vec<T>& b, std::integer_sequence<int, I...>) {
  constexpr int V = kLanes<T>;
  const vec<T> lo = __builtin_shufflevector(a, b, ((I & H) ? V + I - H : I)...);
  b = __builtin_shufflevector(a, b, ((I & H) ? V + I : I + H)...);
  a = lo;
}

template <class T, int H = kLanes<T> / 2>
DEPTHWISE_INLINE void transpose(vec<T> (&rows)[kLanes<T>]) {
  if constexpr (H > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & H)) exchange<T, H>(rows[i], rows[i + H], std::make_integer_sequence<int, kLanes<T>>{});
    transpose<T, H / 2>(rows);
  }
}

// Lane l of the line is the plane `planes[l]` elements from the first; pixels are row.step apart within it.
template <class S>
void pack_planes(const PixelRow<S>& row, const index_t* planes, int valid, compute_t<S>* to) {
  using T = compute_t<S>;
  constexpr int V = kLanes<T>, line = kLine<T>;
  for (int v = 0; v < line; v += V) {
    const int count = valid - v < 0 ? 0 : (valid - v < V ? valid - v : V);
    for (index_t p = 0; p < row.count; p += V) {
      const int pixels = static_cast<int>(row.count - p < V ? row.count - p : V);
      T* const dst = to + p * line + v;
      vec<T> block[V] = {};
      for (int i = 0; i < count; ++i) {
        const S* from = row.first + planes[v + i] + p * row.step;
        if (row.step == 1)
          block[i] = simd::load_n(from, pixels);
        else
          for (int j = 0; j < pixels; ++j) block[i][j] = simd::load_one(from + j * row.step);
      }
      transpose<T>(block);
      for (int j = 0; j < pixels; ++j) simd::store(dst + j * line, block[j]);
    }
  }
}

// Which channel of the image lane l of a line reads.
enum class Lanes {
  same,      // l
  repeated,  // l / multiplier: one source channel for each of its outputs
  spread     // l*multiplier + q: output q of each source channel
};

// An array as a source of lines.
template <class S, Layout kLayout>
struct LineSource {
  const S* data;
  Image image;
  Lanes lanes;
  index_t multiplier;

  // `count` pixels of one row, `column_step` columns apart, in the `valid` channels from `lane` on.
  DEPTHWISE_INLINE void pack(index_t batch, index_t row, index_t column, index_t column_step, index_t count,
                             index_t lane, int valid, index_t q, compute_t<S>* to) const {
    const S* first = data + batch * image.batch_step + row * image.row_step + column * image.column_step;
    const index_t step = column_step * image.column_step;
    if (kLayout == Layout::nhwc && lanes == Lanes::same && valid == kLine<compute_t<S>>)
      return pack_whole_lines(first + lane, step, count, to);
    pack_other({first, step, count}, lane, valid, q, to);
  }

  // Asks for the pixels of a row of NHWC.
  DEPTHWISE_INLINE void fetch(index_t batch, index_t row, index_t column, index_t column_step, index_t count,
                              index_t lane) const {
    const S* at = data + batch * image.batch_step + row * image.row_step + column * image.column_step +
                  channel(lane, 0);
    for (index_t p = 0; p < count; ++p, at += column_step * image.column_step)
      simd::fetch(reinterpret_cast<std::uintptr_t>(at));
  }

 private:
  void pack_other(const PixelRow<S>& pixels, index_t lane, int valid, index_t q, compute_t<S>* to) const {
    if constexpr (kLayout == Layout::nchw) {
      constexpr int line = kLine<compute_t<S>>;
      if (pixels.step == 1 && valid == line && pixels.count >= kPiece<compute_t<S>>) {
        const S* planes[line];
        for (int l = 0; l < line; ++l) planes[l] = pixels.first + channel(lane + l, q) * image.channel_step;
        return planes_to_lines<S>(planes, valid, 0, pixels.count, to);
      }
      index_t planes[line];
      for (int l = 0; l < line; ++l) planes[l] = channel(lane + l, q) * image.channel_step;
      pack_planes(pixels, planes, valid, to);
    } else if (lanes == Lanes::same) {
      pack_channels(pixels, lane, valid, to);
    } else if (lanes == Lanes::repeated) {
      pack_repeated(pixels, lane, valid, multiplier, image.channels, to);
    } else {
      pack_spread(pixels, lane, valid, multiplier, q, to);
    }
  }

  index_t channel(index_t lane, index_t q) const {
    return lanes == Lanes::same ? lane : lanes == Lanes::repeated ? lane / multiplier : lane * multiplier + q;
  }
};

}  // namespace
