// The filter gradient one product at a time: what no vector kernel takes, and channels whose sums are not
// finite.
#pragma once

#include "generic.hpp"

namespace {

// One filter tap at a time, whatever the problem.
template <class S>
class GenericGradFilter {
 public:
  explicit GenericGradFilter(const Task& task)
      : task_(task), spec_(*task.spec), x_image_(input_image(spec_)), grad_image_(output_image(spec_)) {}

  void run() const {
    for (index_t o = task_.unit_begin; o < task_.unit_end; ++o) run_channel(o);
  }

  void run_channel(index_t o) const {
    S* to = static_cast<S*>(task_.operands.out) + o;
    for (index_t t = 0; t < spec_.h.kernel; ++t)
      for (index_t k = 0; k < spec_.w.kernel; ++k, to += grad_image_.channels)
        simd::store_one(to, sum(t, k, o));
  }

  // Whether no gradient of an output channel is infinite or NaN.
  bool finite(index_t o) const {
    const S* grad = static_cast<const S*>(task_.operands.b) + o * grad_image_.channel_step;
    T probe = 0;
    for (index_t n = 0; n < spec_.batch; ++n, grad += grad_image_.batch_step)
      for (index_t i = 0; i < spec_.h.out; ++i)
        for (index_t j = 0; j < spec_.w.out; ++j)
          probe += simd::load_one(grad + i * grad_image_.row_step + j * grad_image_.column_step) * T(0);
    return probe == 0;
  }

 private:
  using T = compute_t<S>;

  // Rows are added with compensation, as in the other kernels.
  T sum(index_t t, index_t k, index_t o) const {
    T total = 0, lost = 0;
    for (index_t n = 0; n < spec_.batch; ++n)
      for (index_t i = 0; i < spec_.h.out; ++i) {
        const T y = row_sum(n, i, t, k, o) - lost, next = total + y, error = (next - total) - y;
        lost = error - error == 0 ? error : 0;  // of an infinite total nothing is lost
        total = next;
      }
    return total;
  }

  T row_sum(index_t n, index_t i, index_t t, index_t k, index_t o) const {
    const Axis &h = spec_.h, &w = spec_.w;
    const index_t row = map_border(spec_.border, h.stride * i + h.dilation * t - h.pad, h.in);
    const index_t x =
        n * x_image_.batch_step + row * x_image_.row_step + o / spec_.multiplier * x_image_.channel_step;
    const S* grad = static_cast<const S*>(task_.operands.b) + n * grad_image_.batch_step +
                    i * grad_image_.row_step + o * grad_image_.channel_step;
    T sum = 0;
    for (index_t j = 0; j < w.out; ++j) {
      const index_t column = map_border(spec_.border, w.stride * j + w.dilation * k - w.pad, w.in);
      const bool read = row >= 0 && column >= 0;
      const index_t at = x + column * x_image_.column_step;
      sum = simd::fma(read ? load_stored<S>(task_.operands.a, spec_.input, at) : T(0),
                      simd::load_one(grad + j * grad_image_.column_step), sum);
    }
    return sum;
  }

  const Task& task_;
  const Spec& spec_;
  const Image x_image_, grad_image_;
};

}  // namespace
