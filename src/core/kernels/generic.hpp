// Takes anything: one output at a time, taps in order. The plainest statement of what the other kernels
// compute.
#pragma once

#include "gather.hpp"
#include "line_store.hpp"

namespace {

using depthwise::Axis;
using depthwise::AxisClass;
using depthwise::Border;
using depthwise::next_shown;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Storage;
using depthwise::Task;

// Element `at` of an image, whatever it is stored as.
template <class S>
DEPTHWISE_INLINE compute_t<S> load_stored(const void* image, Storage storage, index_t at) {
  using T = compute_t<S>;
  switch (storage) {
    case Storage::same: break;
    case Storage::u8: return static_cast<T>(static_cast<const std::uint8_t*>(image)[at]);
    case Storage::i16: return static_cast<T>(static_cast<const std::int16_t*>(image)[at]);
    case Storage::u16: return static_cast<T>(static_cast<const std::uint16_t*>(image)[at]);
  }
  return simd::load_one(static_cast<const S*>(image) + at);
}

template <class S>
DEPTHWISE_INLINE void store_stored(void* image, Storage storage, index_t at, compute_t<S> x) {
  switch (storage) {
    case Storage::same: return simd::store_one(static_cast<S*>(image) + at, x);
    case Storage::u8: return saturate(&x, 1, static_cast<std::uint8_t*>(image) + at);
    case Storage::i16: return saturate(&x, 1, static_cast<std::int16_t*>(image) + at);
    case Storage::u16: return saturate(&x, 1, static_cast<std::uint16_t*>(image) + at);
  }
}

template <class S>
class Generic {
 public:
  explicit Generic(const Task& task)
      : task_(task),
        spec_(*task.spec),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)) {}

  void run() const {
    const bool folds = spec_.op == Op::grad_input && spec_.border != Border::constant;
    for (index_t u = task_.row_begin; u < task_.row_end; ++u)
      for (index_t v = task_.column_begin; v < task_.column_end; ++v)
        for (index_t c = task_.unit_begin; c < task_.unit_end; ++c)
          write(u, v, c, folds ? folded(u, v, c) : sum(u, v, c));
  }

 private:
  using T = compute_t<S>;

  // Forward, a result channel has one source channel; backward, it sums over its `multiplier` outputs.
  T sum(index_t u, index_t v, index_t c) const {
    const bool forward = spec_.op == Op::forward;
    const index_t planes = forward ? 1 : spec_.multiplier;
    T acc = 0;
    for (index_t t = 0; t < task_.h.taps; ++t)
      for (index_t q = 0; q < planes; ++q)
        for (index_t k = 0; k < task_.w.taps; ++k) {
          const index_t output = c * planes + q;
          acc = simd::fma(source(u, v, t, k, forward ? c / spec_.multiplier : output), weight(t, k, output),
                          acc);
        }
    return acc;
  }

  T source(index_t u, index_t v, index_t t, index_t k, index_t channel) const {
    const AxisClass &h = task_.h, &w = task_.w;
    return pixel(map_border(spec_.border, h.source(h.stride * u + h.spacing * t), h.src_size),
                 map_border(spec_.border, w.source(w.stride * v + w.spacing * k), w.src_size), channel);
  }

  // 0 outside the source.
  T pixel(index_t row, index_t column, index_t channel) const {
    if (row < 0 || row >= source_.height || column < 0 || column >= source_.width) return 0;
    return load_stored<S>(task_.operands.a, spec_.input,
                          task_.batch * source_.batch_step + row * source_.row_step +
                              column * source_.column_step + channel * source_.channel_step);
  }

  // The input gradient with a border: what every position that shows the pixel receives, added up row by row.
  T folded(index_t u, index_t v, index_t c) const {
    const index_t row = task_.h.out_start + task_.h.out_step * u,
                  column = task_.w.out_start + task_.w.out_step * v;
    T total = 0;
    each_shown(spec_.h, row, [&](index_t padded_row) {
      T sum = 0;
      each_shown(spec_.w, column,
                 [&](index_t padded_column) { sum += received(padded_row, padded_column, c); });
      total += sum;
    });
    return total;
  }

  template <class Body>
  void each_shown(const Axis& axis, index_t index, const Body& body) const {
    const index_t end = axis.shown_end();
    for (index_t at = next_shown(spec_.border, index, axis.in, -axis.pad, end); at < end;
         at = next_shown(spec_.border, index, axis.in, at + 1, end))
      body(at);
  }

  // The gradient at one position of the padded input; taps run backwards, as in every kernel.
  T received(index_t row, index_t column, index_t c) const {
    const Axis &h = spec_.h, &w = spec_.w;
    T acc = 0;
    for (index_t t = h.kernel - 1; t >= 0; --t) {
      const index_t i = row + h.pad - h.dilation * t;
      if (i % h.stride != 0) continue;
      for (index_t q = 0; q < spec_.multiplier; ++q)
        for (index_t k = w.kernel - 1; k >= 0; --k) {
          const index_t j = column + w.pad - w.dilation * k, output = c * spec_.multiplier + q;
          if (j % w.stride != 0) continue;
          acc = simd::fma(pixel(i / h.stride, j / w.stride, output), tap_weight(t, k, output), acc);
        }
    }
    return acc;
  }

  T weight(index_t t, index_t k, index_t output) const {
    return tap_weight(task_.h.tap_start + task_.h.tap_step * t, task_.w.tap_start + task_.w.tap_step * k,
                      output);
  }
  T tap_weight(index_t row, index_t column, index_t output) const {
    const index_t tap = spec_.tap(row, column) * spec_.channels * spec_.multiplier;
    return simd::load_one(static_cast<const S*>(task_.operands.b) + tap + output);
  }

  void write(index_t u, index_t v, index_t c, T sum) const {
    const S* bias = static_cast<const S*>(task_.operands.bias);
    if (bias) sum += simd::load_one(bias + c);
    if (spec_.activation != Activation::none) sum = activate<T>(simd::broadcast(sum), spec_.activation)[0];
    store_stored<S>(
        task_.operands.out, spec_.output,
        task_.batch * result_.batch_step + (task_.h.out_start + task_.h.out_step * u) * result_.row_step +
            (task_.w.out_start + task_.w.out_step * v) * result_.column_step + c * result_.channel_step,
        sum);
  }

  const Task& task_;
  const Spec& spec_;
  const Image source_, result_;
};

}  // namespace
