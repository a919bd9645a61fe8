// How the FFT kernels divide their scratch; shared with the plan, which bounds it.
#pragma once

#include "line_layout.hpp"

namespace depthwise {

// In lines of 64 bytes; a complex number takes two.
struct FftLayout {
  index_t column;   // from column to column of a plane: odd, so that columns do not meet in the cache's sets
  index_t columns;  // that a real transform along the width leaves
  index_t plane;
  index_t filter_column, filter;  // the same of the filter's spectrum
  index_t buffer;                 // of one transform
  index_t row;                    // of the tile's width, real
};

DEPTHWISE_SHARED FftLayout fft_layout(const FftAxis& h, const FftAxis& w) {
  FftLayout l{};
  l.column = 2 * (h.size | 1);
  l.columns = w.size / 2 + 1;
  l.plane = l.column * l.columns;
  l.filter_column = h.transformed() ? l.column : 2 * h.taps;
  l.filter = l.filter_column * l.columns;
  l.buffer = 2 * (h.transformed() ? larger(h.size, w.size) : w.size);
  l.row = w.size;
  return l;
}

// Planes: the tile, and for sums over several sources or tiles the sum. Filters: one unless it comes
// prepared. Rows: two to transform, two results. Two buffers of a transform, a column of the tile, one of the
// filter, and the bias.
DEPTHWISE_SHARED index_t fft_scratch_bytes(const FftLayout& l, index_t planes, index_t filters) {
  return (planes * l.plane + filters * l.filter + 4 * l.buffer + 4 * l.row + 1) * kLineBytes;
}

}  // namespace depthwise
