// Tiles of an image brought into planes.
#pragma once

#include "fft_plane.hpp"
#include "line_pack.hpp"

namespace {

using depthwise::AxisClass;

// A line of channels of one image.
template <class S, Layout kLayout>
struct FftSource {
  const LineSource<S, kLayout>& lines;
  index_t batch, lane;
  int valid;
  index_t q;

  DEPTHWISE_INLINE void pack(index_t row, index_t column, index_t step, index_t count,
                             compute_t<S>* to) const {
    lines.pack(batch, row, column, step, count, lane, valid, q, to);
  }
};

struct Range {
  index_t begin, end;
};

// The positions of a tile, counted from `first`, that lie inside the source; at most `size`.
DEPTHWISE_INLINE Range inside(const AxisClass& c, index_t first, index_t size) {
  const index_t from = c.source(first), step = c.src_step;
  const auto steps = [step](index_t a) { return a <= 0 ? 0 : (a + step - 1) / step; };
  const index_t begin = steps(-from), end = steps(c.src_size - from);
  return {begin < size ? begin : size, end < size ? end : size};
}

// The positions that a tile reads, from (top, left) on.
template <class S, Layout kLayout, class T = compute_t<S>>
void load_source(const FftPlanes<T>& planes, const FftSource<S, kLayout>& source, const AxisClass& h,
                 const AxisClass& w, index_t top, index_t left, T* plane) {
  const Range rows = inside(h, top, planes.height), columns = inside(w, left, planes.width);
  planes.load_rows(plane, [&](index_t e, T* row) {
    if (e < rows.begin || e >= rows.end || columns.begin >= columns.end) return false;
    FftPlanes<T>::clear(row, columns.begin);
    source.pack(h.source(top + e), w.source(left + columns.begin), w.src_step, columns.end - columns.begin,
                row + columns.begin * kLine<T>);
    FftPlanes<T>::clear(row + columns.end * kLine<T>, planes.width - columns.end);
    return true;
  });
}

// Destinations [u0, u1) x [v0, v1) of the classes, strides apart among zeros.
template <class S, Layout kLayout, class T = compute_t<S>>
void load_destination(const FftPlanes<T>& planes, const FftSource<S, kLayout>& source, const AxisClass& h,
                      const AxisClass& w, Range rows, Range columns, T* plane) {
  const index_t count = columns.end - columns.begin;
  planes.load_rows(plane, [&](index_t e, T* row) {
    const index_t u = rows.begin + e / h.stride;
    if (e % h.stride != 0 || u >= rows.end) return false;
    const index_t from_row = h.out_start + h.out_step * u, from = w.out_start + w.out_step * columns.begin;
    const index_t dense = w.stride == 1 ? count : 0;
    if (dense > 0) source.pack(from_row, from, w.out_step, count, row);
    FftPlanes<T>::clear(row + dense * kLine<T>, planes.width - dense);
    for (index_t v = dense; v < count; ++v)
      source.pack(from_row, from + w.out_step * v, 1, 1, row + v * w.stride * kLine<T>);
    return true;
  });
}

}  // namespace
