// Runs of pixels of few channels brought into the lanes of several tiles, and back, by permutations.
#pragma once

#include "line_tile.hpp"

namespace {

// Where a vector is a line, it holds as many pixels of `channels` channels as there are tiles to a line.
// Pixel j of tile g is block j of vector g of the image, and block g of line j: either way blocks change
// places.
template <class T>
class LaneBlocks {
 public:
  // By measurement: narrower vectors would take several permutations each, and more blocks too many.
  static constexpr bool kPays = simd::kVectorBytes == depthwise::kLineBytes && sizeof(T) == sizeof(float);
  static constexpr int kMost = 5;  // blocks of a vector

  explicit LaneBlocks(index_t channels)
      : channels_(static_cast<int>(channels)),
        blocks_(kPays && channels >= kLanes<T> / kMost && channels <= kLanes<T> / 2 ? kLanes<T> / channels_
                                                                                    : 0) {
    for (int i = 0; i < blocks_; ++i)
      for (int from = 1; from < blocks_; ++from)
        for (int l = 0; l < kLanes<T>; ++l)
          indices_[i][from][l] = l / channels_ == from             ? kLanes<T> + i * channels_ + l % channels_
                                 : from == 1 && l / channels_ == 0 ? i * channels_ + l
                                                                   : l;
  }

  // Whether they can move so many pixels of so many tiles.
  bool fit(int tiles, index_t count) const { return blocks_ > 0 && tiles == blocks_ && count >= blocks_; }

  // Pixels [0, count) of tiles that begin `apart` elements from each other, into lines.
  void gather(const T* from, index_t apart, index_t count, T* to) const {
    const int channels = channels_, used = blocks_ * channels;
    exchange(
        count, [=](index_t p, int g) { return simd::load_n(from + g * apart + p * channels, used); },
        [=](index_t p, int j, vec<T> line) { simd::store(to + (p + j) * kLine<T>, line); });
  }

  // And back.
  void scatter(const T* from, index_t count, T* to, index_t apart) const {
    const int channels = channels_, used = blocks_ * channels;
    exchange(
        count, [=](index_t p, int j) { return simd::load(from + (p + j) * kLine<T>); },
        [=](index_t p, int g, vec<T> pixels) { simd::store_n(to + g * apart + p * channels, pixels, used); });
  }

 private:
  template <class Load, class Store>
  void exchange(index_t count, Load load, Store store) const {
    switch (blocks_) {
      case 2: return exchange_blocks<2>(count, load, store);
      case 3: return exchange_blocks<3>(count, load, store);
      case 4: return exchange_blocks<4>(count, load, store);
      default: return exchange_blocks<5>(count, load, store);
    }
  }

  // The last pixels overlap their neighbours.
  template <int kBlocks, class Load, class Store>
  DEPTHWISE_INLINE void exchange_blocks(index_t count, Load load, Store store) const {
    for (index_t i = 0; i < count; i += kBlocks) {
      const index_t p = i + kBlocks <= count ? i : count - kBlocks;
      vec<T> in[kBlocks];
#pragma GCC unroll 5
      for (int j = 0; j < kBlocks; ++j) in[j] = load(p, j);
#pragma GCC unroll 5
      for (int j = 0; j < kBlocks; ++j) {
        vec<T> out = simd::permute<T>(in[0], in[1], indices_[j][1]);
#pragma GCC unroll 5
        for (int from = 2; from < kBlocks; ++from) out = simd::permute<T>(out, in[from], indices_[j][from]);
        store(p, j, out);
      }
    }
  }

  const int channels_, blocks_;
  simd::index_vec<T> indices_[kMost][kMost];
};

}  // namespace
