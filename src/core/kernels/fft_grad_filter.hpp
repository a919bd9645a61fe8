// The filter gradient by Fourier transforms: products of the spectra of input and gradient tiles are summed
// over tiles and images, and the sum is transformed back once.
//
// A task owns a unit's sum, or a fixed share of it, as in the direct kernels. A value that is not finite
// spreads over its channel's gradient, which is then computed again as the definition says.
#pragma once

#include "fft_source.hpp"
#include "grad_filter.hpp"

namespace {

template <class S, Layout kLayout>
class FftGradFilter {
 public:
  explicit FftGradFilter(const Task& task)
      : task_(task),
        spec_(*task.spec),
        axis_h_(task.tile->fft_h),
        axis_w_(task.tile->fft_w),
        x_{static_cast<const S*>(task.operands.a), input_image(spec_),
           spec_.multiplier == 1 ? Lanes::same : Lanes::repeated, spec_.multiplier},
        grad_{static_cast<const S*>(task.operands.b), output_image(spec_), Lanes::same, 1},
        at_(reinterpret_cast<T*>(task.scratch)),
        planes_(axis_h_, axis_w_, fft_layout(axis_h_, axis_w_), at_),
        x_plane_(planes_.take(at_, planes_.layout.plane)),
        grad_plane_(planes_.take(at_, planes_.layout.plane)),
        sum_(planes_.take(at_, planes_.layout.plane)),
        rows_{planes_.take(at_, planes_.layout.row), planes_.take(at_, planes_.layout.row)},
        lane_(task.unit_begin * kL) {
    const index_t rest = spec_.channels * spec_.multiplier - lane_;
    valid_ = static_cast<int>(rest < kL ? rest : kL);
  }

  void run() {
    FftPlanes<T>::clear(sum_, planes_.layout.plane);
    if (task_.reduce) {
      for (index_t p = 0; p < task_.parts; ++p)
        add(reinterpret_cast<const T*>(task_.sums + task_.sums_offset + p * task_.sums_step));
      return write();
    }
    for (index_t block = task_.block_begin; block < task_.block_end; ++block) add_block(block);
    if (task_.parts == 1) return write();
    T* const to = reinterpret_cast<T*>(task_.sums + task_.sums_offset);
    for (index_t i = 0; i < planes_.layout.plane * kL; i += kLanes<T>)
      simd::store(to + i, simd::load(sum_ + i));
  }

 private:
  using T = compute_t<S>;
  static constexpr int kL = kLine<T>;

  void add(const T* plane) const {
    for (index_t i = 0; i < planes_.layout.plane * kL; i += kLanes<T>)
      simd::store(sum_ + i, simd::load(sum_ + i) + simd::load(plane + i));
  }

  // Blocks: columns fastest, then rows, classes of the dilation, images.
  void add_block(index_t block) {
    constexpr auto split = depthwise::Dilation::split;
    const auto next = [&block](index_t count) {
      const index_t i = block % count;
      block /= count;
      return i;
    };
    const auto tiles = [](const AxisClass& widest, index_t outputs) {
      return (widest.out_count + outputs - 1) / outputs;
    };
    const index_t column = next(tiles(task_.w, task_.tile->columns)) * task_.tile->columns,
                  row = next(tiles(task_.h, task_.tile->rows)) * task_.tile->rows;
    const AxisClass w = axis_class(spec_.op, spec_.w, split, next(class_count(spec_.op, spec_.w, split))),
                    h = axis_class(spec_.op, spec_.h, split, next(class_count(spec_.op, spec_.h, split)));
    const auto range = [](index_t begin, index_t outputs, const AxisClass& c) {
      return Range{begin, begin + outputs < c.out_count ? begin + outputs : c.out_count};
    };
    const Range rows = range(row, task_.tile->rows, h), columns = range(column, task_.tile->columns, w);
    if (rows.begin >= rows.end || columns.begin >= columns.end) return;
    const FftSource<S, kLayout> x{x_, block, lane_, valid_, 0}, grad{grad_, block, lane_, valid_, 0};
    const Reach reach{h.stride * row + axis_h_.first_tap, w.stride * column + axis_w_.first_tap,
                      planes_.height, planes_.width, Border::constant};
    load_source(planes_, x, h, w, reach, x_plane_);
    load_destination(planes_, grad, h, w, rows, columns, grad_plane_);
    for (index_t k = 0; k < planes_.layout.columns; ++k) multiply_column(k * planes_.layout.column * kL);
  }

  void multiply_column(index_t offset) const {
    T* const grad = grad_plane_ + offset;
    planes_.transform_column(grad, grad);
    const T* const x = planes_.transformed(x_plane_ + offset);
    T* const sum = sum_ + offset;
    for (index_t i = 0; i < 2 * planes_.height * kL; i += 2 * kL)
#pragma GCC unroll 8
      for (index_t j = i; j < i + kL; j += kLanes<T>) {
        const Complex<T> a{simd::load(x + j), simd::load(x + j + kL)},
            b{simd::load(grad + j), simd::load(grad + j + kL)}, y = times_conjugate(a, b);
        simd::store(sum + j, simd::load(sum + j) + y.re);
        simd::store(sum + j + kL, simd::load(sum + j + kL) + y.im);
      }
  }

  // ---- the result

  void write() {
    for (index_t k = 0; k < planes_.layout.columns; ++k) {
      T* const column = sum_ + k * planes_.layout.column * kL;
      planes_.invert(column, column);
    }
    clear_dead_taps();
    FftPlanes<T>::clear(probe_, 1);
    for (index_t t = 0; t < axis_h_.taps; t += 2) {
      const bool both = t + 1 < axis_h_.taps;
      planes_.result_rows(sum_, t, both ? t + 1 : t, rows_[0], rows_[1]);
      write_row(t, rows_[0]);
      if (both) write_row(t + 1, rows_[1]);
    }
    for (int l = 0; l < valid_; ++l)
      if (!(probe_[l] == 0)) repair(l);
  }

  S* tap(index_t row, index_t column) const {
    return static_cast<S*>(task_.operands.out) +
           (row * spec_.w.kernel + column) * spec_.channels * spec_.multiplier + lane_;
  }

  // Taps that meet padding only; if that is wrong, because of infinite gradients, the channel is repaired.
  void clear_dead_taps() const {
    if (axis_h_.taps == spec_.h.kernel && axis_w_.taps == spec_.w.kernel) return;
    for (index_t t = 0; t < spec_.h.kernel; ++t)
      for (index_t k = 0; k < spec_.w.kernel; ++k)
        for (int v = 0; v < valid_; v += kLanes<T>) simd::store_n(tap(t, k) + v, vec<T>{}, valid_ - v);
  }

  // 0 times a sum that is not finite is NaN, which stays in the probe.
  void write_row(index_t t, const T* row) {
    const vec<T> scale = simd::broadcast(planes_.scale);
    for (index_t k = 0; k < axis_w_.taps; ++k, row += kL) {
      S* const to = tap(axis_h_.first_tap + t, axis_w_.first_tap + k);
      for (int v = 0; v < valid_; v += kLanes<T>) {
        const vec<T> sum = simd::load(row + v) * scale;
        simd::store(probe_ + v, simd::fma(sum, vec<T>{}, simd::load(probe_ + v)));
        simd::store_n(to + v, sum, valid_ - v);
      }
    }
  }

  void repair(int l) const {
    Task task = task_;
    task.unit_begin = lane_ + l;
    task.unit_end = lane_ + l + 1;
    GenericGradFilter<S>(task).run();
  }

  const Task& task_;
  const Spec& spec_;
  const FftAxis &axis_h_, &axis_w_;
  const LineSource<S, kLayout> x_, grad_;
  T* at_;
  const FftPlanes<T> planes_;
  T *const x_plane_, *const grad_plane_, *const sum_, *const rows_[2];
  alignas(64) T probe_[kL];
  const index_t lane_;
  int valid_;
};

}  // namespace
