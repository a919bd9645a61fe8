// Channels in the vector lanes, straight from the image where it lies: only the weights are packed.
//
// For float32 and float64 with channels adjacent. A task takes a block of channels whose rows under a tile
// stay in the first-level cache on the way down the image.
#pragma once

#include "direct_layout.hpp"
#include "generic.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Task;

template <class S>
class Direct {
 public:
  explicit Direct(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        first_(task.unit_begin * kLine<T>),
        channels_(depthwise::smaller(task.unit_end * kLine<T>, spec_.channels) - first_),
        weight_step_(depthwise::direct_weight_lines(*task.tile) * kLine<T>),
        weights_(reinterpret_cast<T*>(task.scratch)),
        table_(reinterpret_cast<const T**>(weights_ + h_.taps * w_.taps * weight_step_)) {}

  void run() {
    if constexpr (sizeof(S) == sizeof(T)) {
      if (!pack_weights()) return run_generic();
      const Window<T> window = describe();
      const WindowFunctions<T> compute = window_functions(window, task_.tile->pixels);
      for (index_t u = task_.row_begin; u < task_.row_end;) {
        const bool pair = compute.pair && u + 1 < task_.row_end;
        const index_t count = pair ? 2 : 1;
        (pair ? compute.pair : compute.one)(window, find_rows(u, count), task_.column_begin,
                                            task_.column_end);
        for (const index_t end = u + count; u < end; ++u) finish(u);
      }
      if (window.stream) simd::stream_fence();
    }
  }

 private:
  using T = compute_t<S>;

  // Weights: [kernel row][tap][channel of the block]. Whether all are finite, so that taps on zeros can be
  // skipped.
  bool pack_weights() const {
    vec<T> probe = {};
    T* to = weights_;
    for (index_t t = 0; t < h_.taps; ++t)
      for (index_t k = 0; k < w_.taps; ++k, to += weight_step_) {
        const index_t row = h_.tap_start + h_.tap_step * t, column = w_.tap_start + w_.tap_step * k;
        const T* from = static_cast<const T*>(task_.operands.b) +
                        (row * spec_.w.kernel + column) * spec_.channels + first_;
        for (index_t channel = 0; channel < channels_; channel += kLanes<T>) {
          const index_t c = channel + kLanes<T> <= channels_ ? channel : channels_ - kLanes<T>;
          const vec<T> weight = simd::load(from + c);
          probe += weight * T(0);
          simd::store(to + c, weight);
        }
      }
    T sum = 0;
    for (int i = 0; i < kLanes<T>; ++i) sum += probe[i];
    return sum == 0;
  }

  // A tap on zeros can make a NaN: then no tap may be left out.
  void run_generic() const {
    Task all = task_;
    all.unit_begin = first_, all.unit_end = first_ + channels_;
    Generic<S>(all).run();
  }

  Window<T> describe() const {
    const index_t step = w_.src_step;
    const auto ceil_div = [step](index_t a) { return a <= 0 ? 0 : (a + step - 1) / step; };
    return {.taps = w_.taps,
            .stride = w_.stride,
            .spacing = w_.spacing,
            .inside_begin = ceil_div(-w_.src_start),
            .inside_end = ceil_div(w_.src_size - w_.src_start),
            .pixel_step = step * source_.column_step,
            .row_taps = h_.taps,
            .row_stride = h_.stride,
            .weights = weights_,
            .weight_row = w_.taps * weight_step_,
            .weight_step = weight_step_,
            .out_step = w_.out_step * result_.column_step,
            .out_row = h_.out_step * result_.row_step,
            .channels = channels_,
            .prefetch = task_.tile->beyond_caches,
            .stream = streams()};
  }

  // Whether results may go past the caches: nothing reads them here again, and all vectors are aligned.
  bool streams() const {
    const bool plain = !task_.operands.bias && spec_.activation == depthwise::Activation::none;
    const auto aligned = [](index_t bytes) { return bytes % simd::kVectorBytes == 0; };
    return task_.tile->beyond_caches && plain && aligned(spec_.channels * static_cast<index_t>(sizeof(T))) &&
           aligned(reinterpret_cast<index_t>(task_.operands.out));
  }

  // Source rows under `count` output rows from u.
  WindowRows<T> find_rows(index_t u, index_t count) const {
    const index_t first = h_.stride * u, positions = (count - 1) * h_.stride + h_.taps;
    index_t begin = 0, end = w_.taps > 0 && h_.taps > 0 ? positions : 0;
    while (begin < end && !h_.inside(h_.source(first + begin))) ++begin;
    while (begin < end && !h_.inside(h_.source(first + end - 1))) --end;
    const T* image = static_cast<const T*>(task_.operands.a) + task_.batch * source_.batch_step +
                     w_.src_start * source_.column_step + first_;
    for (index_t t = begin; t < end; ++t) table_[t] = image + h_.source(first + t) * source_.row_step;
    return {table_, begin, end, result_row(u)};
  }

  T* result_row(index_t u) const {
    return static_cast<T*>(task_.operands.out) + task_.batch * result_.batch_step +
           (h_.out_start + h_.out_step * u) * result_.row_step + w_.out_start * result_.column_step + first_;
  }

  // bias and activation, in place while the row is in cache.
  void finish(index_t u) const {
    const T* bias = static_cast<const T*>(task_.operands.bias);
    if (!bias && spec_.activation == depthwise::Activation::none) return;
    for (index_t column = task_.column_begin; column < task_.column_end; ++column) {
      T* const out = result_row(u) + column * w_.out_step * result_.column_step;
      for (index_t c = 0; c < channels_; c += kLanes<T>) {
        const int count = static_cast<int>(depthwise::smaller(channels_ - c, kLanes<T>));
        const vec<T> sum = simd::load_n(out + c, count),
                     shift = bias ? simd::load_n(bias + first_ + c, count) : -vec<T>{};
        simd::store_n(out + c, activate<T>(sum + shift, spec_.activation), count);
      }
    }
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const index_t first_, channels_, weight_step_;
  T* const weights_;
  const T** const table_;
};

}  // namespace
