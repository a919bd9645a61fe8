// Channels in the vector lanes, straight from the image where it lies: only the weights are packed.
//
// For channels that are adjacent. A task takes a block of channels whose rows under a tile stay in the
// first-level cache on the way down the image. Where neighbouring pixels evict each other from that cache,
// rows are copied first, whole runs of channels at a time, to where their distance is odd. Half precision is
// converted as it is loaded and stored. With a multiplier, the channels are those of the result, and each
// source channel is repeated in the registers.
#pragma once

#include "direct_layout.hpp"
#include "generic.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Task;

template <class S, template <class> class Load>
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
        channels_(depthwise::smaller(task.unit_end * kLine<T>, result_.channels) - first_),
        weight_step_(depthwise::direct_weight_lines(*task.tile) * kLine<T>),
        weights_(reinterpret_cast<T*>(task.scratch)),
        repeats_(reinterpret_cast<Repeat<T>*>(weights_ + h_.taps * w_.taps * weight_step_)),
        ring_(reinterpret_cast<S*>(reinterpret_cast<std::byte*>(repeats_) +
                                   depthwise::direct_repeat_bytes(spec_, *task.tile))),
        ring_step_(depthwise::direct_ring_step(spec_, *task.tile)),
        table_(reinterpret_cast<const S**>(reinterpret_cast<std::byte*>(ring_) +
                                           depthwise::direct_ring_bytes(spec_, *task.tile, h_, w_))) {}

  void run() {
    if (!pack_weights()) return run_generic();
    if constexpr (kRepeats) find_repeats();
    const Window<S> window = describe();
    const WindowFunctions<S> compute = window_functions<Load<S>>(window, task_.tile->pixels);
    copied_ = h_.stride * task_.row_begin;
    for (index_t u = task_.row_begin; u < task_.row_end;) {
      const bool pair = compute.pair && u + 1 < task_.row_end;
      const index_t count = pair ? 2 : 1;
      (pair ? compute.pair : compute.one)(window, find_rows(u, count), task_.column_begin, task_.column_end);
      u += count;
    }
    if (window.stream) simd::stream_fence();
  }

 private:
  using T = compute_t<S>;
  static constexpr bool kRepeats = Load<S>::kRepeats;
  static_assert(sizeof(Repeat<T>) <= 3 * simd::kVectorBytes);

  // Weights: [kernel row][tap][channel of the block]. Whether all are finite, so that taps on zeros can be
  // skipped.
  bool pack_weights() const {
    vec<T> probe = {};
    T* to = weights_;
    for (index_t t = 0; t < h_.taps; ++t)
      for (index_t k = 0; k < w_.taps; ++k, to += weight_step_) {
        const index_t row = h_.tap_start + h_.tap_step * t, column = w_.tap_start + w_.tap_step * k;
        const S* from = static_cast<const S*>(task_.operands.b) +
                        (row * spec_.w.kernel + column) * spec_.channels * spec_.multiplier + first_;
        for (index_t channel = 0; channel < channels_; channel += kLanes<T>) {
          const index_t c = channel + kLanes<T> <= channels_ ? channel : channels_ - kLanes<T>;
          const vec<T> weight = simd::load(from + c);
          probe += weight * T(0);
          simd::store(to + c, weight);
        }
      }
    return simd::all_zero<T>(probe);
  }

  // A tap on zeros can make a NaN: then no tap may be left out.
  void run_generic() const {
    Task all = task_;
    all.unit_begin = first_, all.unit_end = first_ + channels_;
    Generic<S>(all).run();
  }

  // A whole vector of source channels is read where there is one; else what there is.
  void find_repeats() const {
    constexpr index_t lanes = kLanes<T>;
    const index_t m = spec_.multiplier, sources = spec_.channels;
    for (index_t v = 0; v * lanes < channels_; ++v) {
      const index_t channel = first_ + depthwise::smaller(v * lanes, channels_ - lanes), base = channel / m,
                    first = sources < lanes ? 0 : depthwise::smaller(base, sources - lanes);
      simd::index_vec<T> indices;
      for (int i = 0, lane = static_cast<int>(base - first), q = static_cast<int>(channel - base * m);
           i < lanes; ++i) {
        indices[i] = lane;
        if (++q == m) q = 0, ++lane;
      }
      repeats_[v] = {indices, first,
                     simd::LaneCount<T>(static_cast<int>(depthwise::smaller(sources, lanes)))};
    }
  }

  Window<S> describe() const {
    const Range inside = range_inside(w_, 0, w_.span(w_.out_count));
    return {.taps = w_.taps,
            .stride = w_.stride,
            .spacing = w_.spacing,
            .inside_begin = inside.begin,
            .inside_end = inside.end,
            .pixel_step = copies() ? ring_step_ : w_.src_step * source_.column_step,
            .row_taps = h_.taps,
            .row_stride = h_.stride,
            .weights = weights_,
            .weight_row = w_.taps * weight_step_,
            .weight_step = weight_step_,
            .out_step = w_.out_step * result_.column_step,
            .out_row = h_.out_step * result_.row_step,
            .channels = channels_,
            .fetch_ahead = task_.tile->fetch_ahead,
            .stream = streams(),
            .repeats = repeats_,
            .finishes = !plain(),
            .bias = task_.operands.bias ? static_cast<const S*>(task_.operands.bias) + first_ : nullptr,
            .activation = spec_.activation};
  }

  bool plain() const { return !task_.operands.bias && spec_.activation == depthwise::Activation::none; }

  // Whether results may go past the caches: nothing reads them here again, and all vectors are aligned.
  bool streams() const {
    const auto aligned = [](index_t bytes) { return bytes % simd::kVectorBytes == 0; };
    return sizeof(S) == sizeof(T) && task_.tile->stream && plain() &&
           aligned(result_.channels * static_cast<index_t>(sizeof(T))) &&
           aligned(reinterpret_cast<index_t>(task_.operands.out));
  }

  bool copies() const { return !kRepeats && task_.tile->copies; }

  // Source rows under `count` output rows from u.
  WindowRows<S> find_rows(index_t u, index_t count) {
    const index_t first = h_.stride * u, positions = (count - 1) * h_.stride + h_.taps;
    const auto [begin, end] = range_inside(h_, first, w_.taps > 0 && h_.taps > 0 ? positions : 0);
    if (copies()) copy_rows(first + positions);
    for (index_t t = begin; t < end; ++t) table_[t] = copies() ? ring_row(first + t) : source_row(first + t);
    return {table_, begin, end, result_row(u)};
  }

  const S* source_row(index_t position) const {
    return static_cast<const S*>(task_.operands.a) + task_.batch * source_.batch_step +
           h_.source(position) * source_.row_step + w_.src_start * source_.column_step +
           (kRepeats ? 0 : first_);
  }

  // The copy of the row at a position. Its first pixel is the task's first, which is not the image's.
  S* ring_row(index_t position) const {
    const index_t slot = position % depthwise::direct_slots(h_), row = w_.span(task_.tile->columns);
    return ring_ + (slot * row - w_.stride * task_.column_begin) * ring_step_;
  }

  // Copies the rows inside the image up to position `end` that are not copied yet.
  void copy_rows(index_t end) {
    const index_t begin = end - depthwise::direct_slots(h_);
    copied_ = copied_ < begin ? begin : copied_;
    for (; copied_ < end; ++copied_)
      if (h_.inside(h_.source(copied_))) copy_row(source_row(copied_), ring_row(copied_));
  }

  void copy_row(const S* from, S* to) const {
    const index_t low = w_.stride * task_.column_begin,
                  count = w_.span(task_.column_end - task_.column_begin);
    const index_t step = w_.src_step * source_.column_step;
    const auto [begin, end] = range_inside(w_, low, count);
    from += low * step, to += low * ring_step_;
    for (index_t p = begin; p < end; ++p)
      __builtin_memcpy(to + p * ring_step_, from + p * step, channels_ * sizeof(S));
  }

  S* result_row(index_t u) const {
    return static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
           (h_.out_start + h_.out_step * u) * result_.row_step + w_.out_start * result_.column_step + first_;
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const index_t first_, channels_, weight_step_;
  T* const weights_;
  Repeat<T>* const repeats_;
  S* const ring_;
  const index_t ring_step_;
  const S** const table_;
  index_t copied_ = 0;  // rows before this position are in the ring
};

}  // namespace
