// Few channels: several tiles side by side share the lanes. Lane l holds channel l % channels of tile
// l / channels.
#pragma once

#include "fft_blocks.hpp"
#include "fft_source.hpp"

namespace {

using depthwise::larger;

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

// Whether the pixels of a row are adjacent, `step` of them from one that is taken to the next.
template <class S>
bool adjacent_pixels(const Image& image, index_t step) {
  return sizeof(S) == sizeof(compute_t<S>) && image.channel_step == 1 && step == 1;
}

// Asks for adjacent elements, which lie too few pages on end for the processor to fetch them by itself.
template <class S>
DEPTHWISE_INLINE void fetch_run(const S* from, index_t elements) {
  const auto begin = reinterpret_cast<std::uintptr_t>(from), end = begin + elements * sizeof(S);
  for (std::uintptr_t line = begin; line < end; line += depthwise::kLineBytes) simd::fetch(line);
}

// The columns of tiles whose positions lie `apart`, from position `left` on, `width` of them.
struct TileColumns {
  const AxisClass& w;
  index_t left, width, apart;
  int tiles;

  Range inside(int tile) const { return range_inside(w, left + tile * apart, width); }
  // Positions that all tiles have inside the image.
  Range shared() const { return {inside(0).begin, inside(tiles - 1).end}; }
};

// load_source for several tiles.
template <class S, Layout kLayout, class T = compute_t<S>>
void load_group(const FftPlanes<T>& planes, const FftSource<S, kLayout>& source, const AxisClass& h,
                const Reach& reach, const TileColumns& tiles, const LaneBlocks<T>& blocks, T* plane) {
  const Image& image = source.lines.image;
  const AxisClass& w = tiles.w;
  const Range shared = tiles.shared();
  const index_t count = shared.end - shared.begin,
                first = w.source(tiles.left + shared.begin) * image.channels,
                apart = tiles.apart * image.channels;
  const bool adjacent = adjacent_pixels<S>(image, w.src_step) && count > 0,
             gathers = adjacent && blocks.fit(tiles.tiles, count);
  const Range gathered = gathers ? shared : Range{};
  planes.load_rows(plane, [&](index_t e, T* row) {
    const index_t from = reach.row(h, e), next = reach.row(h, e + 2);
    if (from < 0) return false;
    FftPlanes<T>::clear(row, gathered.begin);
    FftPlanes<T>::clear(row + gathered.end * kLine<T>, planes.width - gathered.end);
    const S* const image_row = source.lines.data + source.batch * image.batch_step + from * image.row_step;
    if (adjacent && next >= 0)
      fetch_run(image_row + (next - from) * image.row_step + first,
                (tiles.tiles - 1) * apart + count * image.channels);
    if constexpr (sizeof(S) == sizeof(T))
      if (gathers) blocks.gather(image_row + first, apart, count, row + shared.begin * kLine<T>);
    for (int g = 0; g < tiles.tiles; ++g) {
      const index_t left = tiles.left + g * tiles.apart;
      const Range columns = tiles.inside(g);
      T* const lanes = row + g * image.channels;
      const auto pack = [&](index_t begin, index_t end) {
        if (begin < end)
          pack_part<S>(image, image_row + w.source(left + begin) * image.column_step, w.src_step, end - begin,
                       lanes + begin * kLine<T>);
      };
      pack(columns.begin, smaller(columns.end, gathered.begin));
      pack(larger(columns.begin, gathered.end), columns.end);
      if (!reach.shows_border()) continue;
      for_outside(columns, reach.columns, [&](index_t i) {
        pack_part<S>(image, image_row + reach.column(w, g * tiles.apart + i) * image.column_step, 1, 1,
                     lanes + i * kLine<T>);
      });
    }
    return true;
  });
}

}  // namespace
