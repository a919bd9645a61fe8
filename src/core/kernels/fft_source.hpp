// Tiles of an image brought into planes.
#pragma once

#include "../border.hpp"
#include "fft_plane.hpp"
#include "line_pack.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Border;
using depthwise::map_border;

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
  // Asks for what pack() will read of an image whose pixels lie apart.
  DEPTHWISE_INLINE void fetch(index_t row, index_t column, index_t step, index_t count) const {
    if constexpr (kLayout == Layout::nhwc) lines.fetch(batch, row, column, step, count, lane);
  }
};

// The positions from (top, left) on that a tile's results depend on: outside the image they show its border.
struct Reach {
  index_t top, left, rows, columns;
  Border border;

  DEPTHWISE_INLINE bool shows_border() const { return border != Border::constant; }
  // The row of the image that position e shows, or -1.
  DEPTHWISE_INLINE index_t row(const AxisClass& h, index_t e) const {
    return e < rows ? map_border(border, h.source(top + e), h.src_size) : -1;
  }
  DEPTHWISE_INLINE index_t column(const AxisClass& w, index_t e) const {
    return map_border(border, w.source(left + e), w.src_size);
  }
};

// Calls visit(i) for 0 <= i < size outside the range.
template <class Visit>
DEPTHWISE_INLINE void for_outside(const Range& range, index_t size, const Visit& visit) {
  const bool empty = range.begin >= range.end;
  for (index_t i = 0; i < (empty || range.begin > size ? size : range.begin); ++i) visit(i);
  for (index_t i = range.end; !empty && i < size; ++i) visit(i);
}

// The positions that a tile reads.
template <class S, Layout kLayout, class T = compute_t<S>>
void load_source(const FftPlanes<T>& planes, const FftSource<S, kLayout>& source, const AxisClass& h,
                 const AxisClass& w, const Reach& reach, T* plane) {
  const Range columns = range_inside(w, reach.left, planes.width);
  planes.load_rows(plane, [&](index_t e, T* row) {
    const index_t from = reach.row(h, e);
    const bool empty = columns.begin >= columns.end;
    if (from < 0 || (empty && !reach.shows_border())) return false;
    const Range packed = empty ? Range{0, 0} : columns;
    FftPlanes<T>::clear(row, packed.begin);
    if (const index_t next = reach.row(h, e + 2); next >= 0 && !empty)
      source.fetch(next, w.source(reach.left + packed.begin), w.src_step, packed.end - packed.begin);
    if (!empty)
      source.pack(from, w.source(reach.left + packed.begin), w.src_step, packed.end - packed.begin,
                  row + packed.begin * kLine<T>);
    FftPlanes<T>::clear(row + packed.end * kLine<T>, planes.width - packed.end);
    if (reach.shows_border())
      for_outside(packed, reach.columns,
                  [&](index_t i) { source.pack(from, reach.column(w, i), 1, 1, row + i * kLine<T>); });
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
