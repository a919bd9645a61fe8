// Few channels: several tiles side by side share the lanes. Lane l holds channel l % channels of tile
// l / channels.
#pragma once

#include "fft_source.hpp"

namespace {

// Pixel p's `channels` adjacent elements between from + p*from_step and to + p*to_step.
template <int kChannels, class S>
DEPTHWISE_INLINE void copy_pixels(const S* from, index_t from_step, S* to, index_t to_step, index_t count) {
  for (index_t p = 0; p < count; ++p)
    __builtin_memcpy(to + p * to_step, from + p * from_step, kChannels * sizeof(S));
}

template <class S>
void copy_pixels(int channels, const S* from, index_t from_step, S* to, index_t to_step, index_t count) {
  switch (channels) {
    case 1: return copy_pixels<1>(from, from_step, to, to_step, count);
    case 2: return copy_pixels<2>(from, from_step, to, to_step, count);
    case 3: return copy_pixels<3>(from, from_step, to, to_step, count);
    case 4: return copy_pixels<4>(from, from_step, to, to_step, count);
    default:
      for (index_t p = 0; p < count; ++p)
        for (int c = 0; c < channels; ++c) to[p * to_step + c] = from[p * from_step + c];
  }
}

// One tile's part of a row: pixels `image.column_step * step` apart, from `from` on, and lines.
template <class S, class T = compute_t<S>>
void pack_part(const Image& image, const S* from, index_t step, index_t count, T* to) {
  const int channels = static_cast<int>(image.channels);
  const index_t pixel = step * image.column_step;
  if constexpr (sizeof(S) == sizeof(T)) {
    if (image.channel_step == 1) return copy_pixels(channels, from, pixel, to, kLine<T>, count);
  }
  for (int c = 0; c < channels; ++c)
    for (index_t p = 0; p < count; ++p)
      to[p * kLine<T> + c] = simd::load_one(from + p * pixel + c * image.channel_step);
}

template <class S, class T = compute_t<S>>
void store_part(const T* from, index_t count, const Image& image, index_t step, S* to) {
  const int channels = static_cast<int>(image.channels);
  const index_t pixel = step * image.column_step;
  if constexpr (sizeof(S) == sizeof(T)) {
    if (image.channel_step == 1) return copy_pixels(channels, from, kLine<T>, to, pixel, count);
  }
  for (int c = 0; c < channels; ++c)
    for (index_t p = 0; p < count; ++p)
      simd::store_one(to + p * pixel + c * image.channel_step, from[p * kLine<T> + c]);
}

// load_source for `group` tiles whose positions lie `apart`.
template <class S, Layout kLayout, class T = compute_t<S>>
void load_group(const FftPlanes<T>& planes, const FftSource<S, kLayout>& source, const AxisClass& h,
                const AxisClass& w, const Reach& reach, int group, index_t apart, T* plane) {
  const Image& image = source.lines.image;
  planes.load_rows(plane, [&](index_t e, T* row) {
    const index_t from = reach.row(h, e);
    if (from < 0) return false;
    FftPlanes<T>::clear(row, planes.width);
    const S* const first = source.lines.data + source.batch * image.batch_step + from * image.row_step;
    for (int g = 0; g < group; ++g) {
      const index_t left = reach.left + g * apart;
      const Range columns = range_inside(w, left, planes.width);
      T* const lanes = row + g * image.channels;
      if (columns.begin < columns.end)
        pack_part<S>(image, first + w.source(left + columns.begin) * image.column_step, w.src_step,
                     columns.end - columns.begin, lanes + columns.begin * kLine<T>);
      if (!reach.shows_border()) continue;
      for_outside(columns, reach.columns, [&](index_t i) {
        pack_part<S>(image, first + reach.column(w, g * apart + i) * image.column_step, 1, 1,
                     lanes + i * kLine<T>);
      });
    }
    return true;
  });
}

}  // namespace
