// Takes anything: one output at a time, taps in order. The plainest statement of what the other kernels
// compute.
#pragma once

#include "line_store.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Task;

template <class S>
class Generic {
 public:
  explicit Generic(const Task& task)
      : task_(task),
        spec_(*task.spec),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)) {}

  void run() const {
    for (index_t u = task_.row_begin; u < task_.row_end; ++u)
      for (index_t v = task_.column_begin; v < task_.column_end; ++v)
        for (index_t c = task_.unit_begin; c < task_.unit_end; ++c) write(u, v, c, sum(u, v, c));
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
    const index_t row = h.source(h.stride * u + h.spacing * t),
                  column = w.source(w.stride * v + w.spacing * k);
    if (!h.inside(row) || !w.inside(column)) return 0;
    return simd::load_one(static_cast<const S*>(task_.operands.a) + task_.batch * source_.batch_step +
                          row * source_.row_step + column * source_.column_step +
                          channel * source_.channel_step);
  }

  T weight(index_t t, index_t k, index_t output) const {
    const index_t row = task_.h.tap_start + task_.h.tap_step * t,
                  column = task_.w.tap_start + task_.w.tap_step * k;
    const index_t tap = (row * spec_.w.kernel + column) * spec_.channels * spec_.multiplier;
    return simd::load_one(static_cast<const S*>(task_.operands.b) + tap + output);
  }

  void write(index_t u, index_t v, index_t c, T sum) const {
    const S* bias = static_cast<const S*>(task_.operands.bias);
    if (bias) sum += simd::load_one(bias + c);
    if (spec_.activation != Activation::none) sum = activate<T>(simd::broadcast(sum), spec_.activation)[0];
    simd::store_one(static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
                        (task_.h.out_start + task_.h.out_step * u) * result_.row_step +
                        (task_.w.out_start + task_.w.out_step * v) * result_.column_step +
                        c * result_.channel_step,
                    sum);
  }

  const Task& task_;
  const Spec& spec_;
  const Image source_, result_;
};

}  // namespace
