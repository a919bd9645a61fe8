// Convolution by Fourier transforms, channels in the vector lanes: a task transforms one tile of a line of
// channels, multiplies it by the filter's spectrum, and transforms it back. Of kernels that are short in one
// direction only the other is transformed. Rows are those of the transforms: of tiles that lie turned, the
// image's columns.
//
// The tile is a circular convolution that is long enough for what wraps around to meet zeros only
// (overlap-save; at the image's border these zeros are its padding). A value that is not finite spreads over
// its tile, so every channel of a tile whose sums are not all finite is computed again as the definition
// says.
#pragma once

#include "fft_group.hpp"
#include "fft_taps.hpp"
#include "generic.hpp"

namespace {

// The same with rows and columns exchanged.
inline Task turned(const Task& task) {
  Task t = task;
  t.h = task.w, t.w = task.h;
  t.row_begin = task.column_begin, t.row_end = task.column_end;
  t.column_begin = task.row_begin, t.column_end = task.row_end;
  return t;
}
inline Image turned(const Image& image) {
  Image t = image;
  t.height = image.width, t.width = image.height;
  t.row_step = image.column_step, t.column_step = image.row_step;
  return t;
}

template <class S, Layout kLayout>
class Fft {
 public:
  explicit Fft(const Task& task)
      : whole_(task),
        task_(task.tile->turned ? turned(task) : task),
        spec_(*task.spec),
        h_(task_.h),
        w_(task_.w),
        source_{static_cast<const S*>(task.operands.a),
                as_rows(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
                lanes_of(spec_), spec_.multiplier},
        filter_(filter_of(task)),
        result_(as_rows(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_))),
        group_(task.tile->group),
        apart_(columns_apart()),
        tiles_(
            static_cast<int>(smaller(group_, (task_.column_end - task_.column_begin + apart_ - 1) / apart_))),
        sources_(spec_.op == Op::grad_input ? spec_.multiplier : 1),
        taps_h_(live_taps(task.tile->fft_h, h_)),
        taps_w_(live_taps(task.tile->fft_w, w_)),
        at_(reinterpret_cast<T*>(task.scratch)),
        planes_(task.tile->fft_h, task.tile->fft_w, fft_layout(task.tile->fft_h, task.tile->fft_w), at_),
        plane_(planes_.take(at_, planes_.layout.plane)),
        filter_plane_(task.prepared || task.prepare_to ? nullptr : planes_.take(at_, planes_.layout.filter)),
        filter_line_(planes_.take(at_, planes_.layout.buffer)),
        sum_(sources_ > 1 ? planes_.take(at_, planes_.layout.plane) : nullptr),
        rows_{planes_.take(at_, planes_.layout.row), planes_.take(at_, planes_.layout.row)},
        bias_(planes_.take(at_, 1)),
        blocks_(group_ > 1 ? result_.channels : 0) {}

  void run() {
    for (index_t unit = task_.unit_begin; unit < task_.unit_end; ++unit) {
      lane_ = unit * kL;
      const index_t rest = result_.channels - lane_;
      valid_ = static_cast<int>(rest < kL ? rest * group_ : kL);
      if (task_.prepare_to)
        for (index_t q = 0; q < sources_; ++q)
          make_spectrum(q, reinterpret_cast<T*>(task_.prepare_to + prepared_offset(q)));
      else
        compute_tile();
    }
  }

 private:
  using T = compute_t<S>;
  static constexpr int kL = kLine<T>;
  struct Taps {
    index_t first, count;
  };

  Image as_rows(const Image& image) const { return whole_.tile->turned ? turned(image) : image; }

  // Of tiles that share the lanes.
  index_t columns_apart() const {
    const depthwise::Tile& tile = *whole_.tile;
    return (tile.turned ? tile.rows : tile.columns) / tile.group;
  }

  static Lanes lanes_of(const Spec& spec) {
    if (spec.multiplier == 1) return Lanes::same;
    return spec.op == Op::forward ? Lanes::repeated : Lanes::spread;
  }

  // A phase of the input gradient's stride may have fewer taps than the plan provides for.
  static Taps live_taps(const FftAxis& axis, const AxisClass& c) {
    const index_t rest = c.taps - axis.first_tap;
    return {axis.first_tap, rest < axis.taps ? (rest > 0 ? rest : 0) : axis.taps};
  }

  // In bytes, of a source's spectrum for this line.
  index_t prepared_offset(index_t q) const {
    return (lane_ / kL * sources_ + q) * planes_.layout.filter * depthwise::kLineBytes;
  }

  // ---- the filter

  LineSource<S, Layout::nhwc> filter_of(const Task& task) const {
    const Image taps(Layout::nhwc, spec_.h.kernel, spec_.w.filter_taps(), spec_.out_channels());
    return {static_cast<const S*>(task.operands.b) + spec_.tap(0, 0) * taps.channels, as_rows(taps),
            spec_.op == Op::grad_input && spec_.multiplier > 1 ? Lanes::spread : Lanes::same,
            spec_.multiplier};
  }

  // `count` taps of kernel row t from tap k on, as lines.
  void pack_taps(index_t t, index_t k, index_t count, index_t q, T* to) const {
    const index_t row = h_.tap_start + h_.tap_step * t, column = w_.tap_start + w_.tap_step * k;
    if (group_ == 1) return filter_.pack(0, row, column, w_.tap_step, count, lane_, valid_, q, to);
    const Image& taps = filter_.image;
    const S* tap = filter_.data + row * taps.row_step + column * taps.column_step;
    for (index_t i = 0; i < count; ++i, tap += w_.tap_step * taps.column_step) spread(tap, to + i * kL);
  }

  // The taps of a kernel row lie far apart.
  void fetch_taps(index_t t) const {
    filter_.fetch(0, h_.tap_start + h_.tap_step * t, w_.tap_start + w_.tap_step * taps_w_.first, w_.tap_step,
                  taps_w_.count, lane_);
  }

  // Every tile's lanes get the channels' elements.
  void spread(const S* from, T* to) const {
    for (int l = 0; l < kL; ++l) to[l] = l < valid_ ? simd::load_one(from + l % result_.channels) : T(0);
  }

  void make_spectrum(index_t q, T* to) const {
    load_filter(q, to);
    if (!transforms_columns()) return;
    for (index_t k = 0; k < planes_.layout.columns; ++k) {
      T* const column = to + k * planes_.layout.filter_column * kL;
      planes_.transform_column(column, column);
    }
  }

  // The filter, whose rows are transformed.
  void load_filter(index_t q, T* to) const {
    const index_t width = task_.tile->fft_w.size;
    const index_t rows = transforms_columns() ? planes_.height : task_.tile->fft_h.taps;
    planes_.load_rows(to, planes_.layout.filter_column, rows, [&](index_t e, T* row) {
      if (e >= taps_h_.count || taps_w_.count == 0) return false;
      if (e + 2 < taps_h_.count) fetch_taps(taps_h_.first + e + 2);
      pack_taps(taps_h_.first + e, taps_w_.first, taps_w_.count, q, row);
      FftPlanes<T>::clear(row + taps_w_.count * kL, width - taps_w_.count);
      return true;
    });
    if (taps_h_.count < h_.taps || taps_w_.count < w_.taps) spoil_if_infinite(q, to);
  }

  // Taps that meet padding only are left out of the transform, but times infinity the padding counts. What is
  // not a number spreads from its column over the tile.
  void spoil_if_infinite(index_t q, T* plane) const {
    for (index_t t = 0; t < h_.taps; ++t)
      for (index_t k = 0; k < w_.taps; ++k) {
        T* const line = rows_[0];
        pack_taps(t, k, 1, q, line);
        for (int v = 0; v < kL; v += kLanes<T>)
          simd::store(plane + v, simd::fma(simd::load(line + v), vec<T>{}, simd::load(plane + v)));
      }
  }

  // ---- the tile

  void compute_tile() {
    load_bias();
    for (index_t q = 0; q < sources_; ++q) {
      if (filter_plane_) load_filter(q, filter_plane_);
      load_image(q);
      multiply(q);
    }
    store_rows();
    repair();
  }

  void load_image(index_t q) const {
    const FftSource<S, kLayout> source{source_, task_.batch, lane_, valid_, q};
    Reach reach{h_.stride * task_.row_begin + taps_h_.first, w_.stride * task_.column_begin + taps_w_.first,
                planes_.height, planes_.width, Border::constant};
    if (spec_.op == Op::forward && spec_.border != Border::constant) {
      reach.border = spec_.border;
      const index_t rows = h_.span(task_.row_end - task_.row_begin), columns = w_.span(apart_);
      if (rows < reach.rows) reach.rows = rows;
      if (columns < reach.columns) reach.columns = columns;
    }
    if (group_ > 1)
      load_group(planes_, source, h_, reach, {w_, reach.left, planes_.width, w_.stride * apart_, tiles_},
                 blocks_, plane_);
    else
      load_source(planes_, source, h_, w_, reach, plane_);
  }

  // -0 is the neutral element of addition: it leaves a sum of -0 alone.
  void load_bias() const {
    const S* bias = static_cast<const S*>(task_.operands.bias);
    if (bias && group_ > 1) return spread(bias, bias_);
    for (int v = 0; v < kL; v += kLanes<T>)
      simd::store(bias_ + v, bias && valid_ > v ? simd::load_n(bias + lane_ + v, valid_ - v) : -vec<T>{});
  }

  bool transforms_columns() const { return task_.tile->fft_h.transformed(); }

  // Products of spectra are summed over the sources; the last brings the sum back.
  void multiply(index_t q) const {
    const FftLayout& layout = planes_.layout;
    for (index_t k = 0; k < layout.columns; ++k) {
      T* const column = plane_ + k * layout.column * kL;
      const T* const filter = filter_column(q, k);
      if (!transforms_columns()) {
        sum_taps(q, k, column, filter);
        continue;
      }
      T* const line = planes_.transformed(column);
      if (sources_ == 1) {
        planes_.invert_product(line, filter, column);
        continue;
      }
      multiply_column(line, filter);
      add_column(q, line, sum_ + k * layout.column * kL, planes_.height);
      if (q + 1 == sources_) planes_.invert(line, column);
    }
  }

  // Column k of the filter's spectrum, which stays in the cache where it does not come prepared.
  const T* filter_column(index_t q, index_t k) const {
    const index_t offset = k * planes_.layout.filter_column * kL;
    if (!filter_plane_) return reinterpret_cast<const T*>(task_.prepared + prepared_offset(q)) + offset;
    if (!transforms_columns()) return filter_plane_ + offset;
    planes_.transform_column(filter_plane_ + offset, filter_line_);
    return filter_line_;
  }

  void sum_taps(index_t q, index_t k, T* column, const T* filter) const {
    const index_t rows = task_.row_end - task_.row_begin;
    TapSums<T>{h_.stride, task_.tile->fft_h.taps}.run(column, rows, filter);
    if (sources_ > 1) add_column(q, column, sum_ + k * planes_.layout.column * kL, rows);
  }

  void multiply_column(T* line, const T* spectrum) const {
    for (index_t i = 0; i < task_.tile->fft_h.size; ++i, line += 2 * kL, spectrum += 2 * kL)
#pragma GCC unroll 8
      for (int v = 0; v < kL; v += kLanes<T>) {
        const Complex<T> x{simd::load(line + v), simd::load(line + v + kL)},
            w{simd::load(spectrum + v), simd::load(spectrum + v + kL)}, y = times_conjugate(x, w);
        simd::store(line + v, y.re);
        simd::store(line + v + kL, y.im);
      }
  }

  void add_column(index_t q, T* line, T* sum, index_t rows) const {
    for (index_t i = 0; i < 2 * rows * kL; i += kLanes<T>) {
      const vec<T> total = q == 0 ? simd::load(line + i) : simd::load(sum + i) + simd::load(line + i);
      simd::store(q + 1 == sources_ ? line + i : sum + i, total);
    }
  }

  // ---- the results

  void store_rows() {
    const index_t step = transforms_columns() ? h_.stride : 1;
    FftPlanes<T>::clear(probe_, 1);
    for (index_t u = task_.row_begin; u < task_.row_end; u += 2) {
      const bool both = u + 1 < task_.row_end;
      const index_t e = step * (u - task_.row_begin);
      planes_.result_rows(plane_, e, both ? e + step : e, rows_[0], rows_[1]);
      store_row(u, rows_[0]);
      if (both) store_row(u + 1, rows_[1]);
    }
  }

  // Calls keep(j, v, sum) for every vector of a row's sums. 0 times a sum that is not finite is NaN, which
  // stays in the probe.
  template <class Keep>
  DEPTHWISE_INLINE void scale_row(const T* row, index_t columns, int valid, const Keep& keep) {
    const index_t step = w_.stride * kL;
    const vec<T> scale = simd::broadcast(planes_.scale);
    for (int v = 0; v < valid; v += kLanes<T>) {
      vec<T> probe = simd::load(probe_ + v);
      for (index_t j = 0; j < columns; ++j) {
        const vec<T> sum = simd::load(row + j * step + v) * scale;
        probe = simd::fma(sum, vec<T>{}, probe);
        keep(j, v, sum);
      }
      simd::store(probe_ + v, probe);
    }
  }

  void store_row(index_t u, T* row) {
    const index_t all = task_.column_end - task_.column_begin, columns = all < apart_ ? all : apart_;
    S* const to = static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
                  (h_.out_start + h_.out_step * u) * result_.row_step +
                  (w_.out_start + w_.out_step * task_.column_begin) * result_.column_step +
                  lane_ * result_.channel_step;
    const index_t out_step = w_.out_step * result_.column_step;
    if (group_ > 1 && kLayout == Layout::nhwc && u + 2 < task_.row_end)
      fetch_run(to + 2 * h_.out_step * result_.row_step, all * out_step);
    const Epilogue<T> finish{bias_, spec_.activation};
    if (group_ > 1) {
      scale_row(row, columns, kL,
                [=](index_t j, int v, vec<T> sum) { simd::store(row + j * kL + v, finish(sum, v)); });
      store_group(row, all, columns, to);
    } else if constexpr (kLayout == Layout::nhwc) {
      if (u + 2 < task_.row_end) fetch_pixels(to + 2 * h_.out_step * result_.row_step, columns, out_step);
      scale_row(row, columns, valid_, [=, valid = valid_](index_t j, int v, vec<T> sum) {
        simd::store_n(to + j * out_step + v, finish(sum, v), valid - v);
      });
    } else {
      scale_row(row, columns, kL, [=](index_t j, int v, vec<T> sum) { simd::store(row + j * kL + v, sum); });
      store_planes<S>(row, columns, to, out_step, result_.channel_step, valid_, finish);
    }
  }

  // Pixels of results, each of which may begin in a line that another thread has written.
  static void fetch_pixels(const S* to, index_t columns, index_t out_step) {
    for (index_t j = 0; j < columns; ++j, to += out_step)
      simd::fetch_to_write(reinterpret_cast<std::uintptr_t>(to));
  }

  void store_group(const T* row, index_t all, index_t columns, S* to) const {
    const index_t shared = store_shared(row, all, columns, to);
    for (int g = 0; g < tiles_; ++g) {
      const index_t begin = g * apart_ + shared, rest = all - begin, count = smaller(rest, apart_ - shared);
      if (count > 0)
        store_part<S>(row + shared * kL + g * result_.channels, count, result_, w_.out_step,
                      to + begin * w_.out_step * result_.column_step);
    }
  }

  // Those columns that all tiles have, where that is faster. How many.
  index_t store_shared(const T* row, index_t all, index_t columns, S* to) const {
    if constexpr (sizeof(S) == sizeof(T)) {
      const index_t shared = smaller(columns, all - (tiles_ - 1) * apart_);
      if (!blocks_.fit(tiles_, shared) || !adjacent_pixels<S>(result_, w_.out_step)) return 0;
      blocks_.scatter(row, shared, to, apart_ * result_.column_step);
      return shared;
    }
    return 0;
  }

  void repair() const {
    for (int l = 0; l < valid_; ++l) {
      const index_t tile = group_ > 1 ? l / result_.channels : 0;
      if (probe_[l] == 0 || tile >= tiles_) continue;
      Task task = whole_;
      task.unit_begin = lane_ + l - tile * result_.channels;
      task.unit_end = task.unit_begin + 1;
      task.column_begin += tile * apart_;
      if (task.column_end > task.column_begin + apart_) task.column_end = task.column_begin + apart_;
      Generic<S>(task).run();
    }
  }

  const Task& whole_;
  const Task task_;  // as the transforms see it
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const LineSource<S, kLayout> source_;
  const LineSource<S, Layout::nhwc> filter_;
  const Image result_;
  const int group_;        // tiles that the lanes have room for
  const index_t apart_;    // their columns
  const int tiles_;        // those that exist
  const index_t sources_;  // planes that a result sums over
  const Taps taps_h_, taps_w_;
  T* at_;
  const FftPlanes<T> planes_;
  T *const plane_, *const filter_plane_, *const filter_line_, *const sum_, *const rows_[2], *const bias_;
  const LaneBlocks<T> blocks_;
  alignas(64) T probe_[kL];
  index_t lane_ = 0;
  int valid_ = 0;
};

}  // namespace
