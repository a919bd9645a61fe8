// Channels in the vector lanes, straight from the image where it lies: only the weights are packed, by each
// task or once for all when a filter is prepared.
//
// For channels that are adjacent. A task takes a block of channels whose rows under a tile stay in the
// first-level cache on the way down the image. Where neighbouring pixels evict each other from that cache,
// rows are copied first, whole runs of channels at a time, to where their distance is odd. Half precision is
// converted as it is loaded and stored. A task computes all phases of a strided gradient, row by row, so that
// the gradient is read and results are written once, in the order of memory. With a multiplier, the channels
// are those of the result, and each source channel is repeated in the registers.
#pragma once

#include "direct_layout.hpp"
#include "generic.hpp"
#include "phase_tile.hpp"
#include "range.hpp"
#include "window_choice.hpp"

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
        lead_(task.prepare_to ? task.prepare_lead
                              : depthwise::direct_lead(spec_, *task.tile, task.operands, kLanes<T>)),
        first_(task.unit_begin > 0 ? task.unit_begin * kLine<T> + lead_ : 0),
        channels_(depthwise::smaller(task.unit_end * kLine<T> + lead_, result_.channels) - first_),
        first_vector_(task.unit_begin > 0 || lead_ == 0 ? 0 : lead_ - kLanes<T>),
        rows_(packed_taps(spec_.h, h_)),
        columns_(packed_taps(spec_.w, w_)),
        packed_(task.prepare_to ? reinterpret_cast<T*>(task.prepare_to) + kept_offset()
                                : reinterpret_cast<T*>(task.scratch)),
        weights_(task.prepared ? reinterpret_cast<const T*>(task.prepared) + kept_offset() : packed_),
        repeats_(reinterpret_cast<Repeat<T>*>(reinterpret_cast<T*>(task.scratch) +
                                              depthwise::direct_weight_lines(spec_, *task.tile) * kLine<T> *
                                                  rows_.count * columns_.count)),
        ring_(reinterpret_cast<S*>(reinterpret_cast<std::byte*>(repeats_) +
                                   depthwise::direct_repeat_bytes(spec_, *task.tile))),
        ring_step_(depthwise::direct_ring_step(spec_, *task.tile)),
        table_(reinterpret_cast<const S**>(reinterpret_cast<std::byte*>(ring_) +
                                           depthwise::direct_ring_bytes(spec_, *task.tile, h_, w_))) {}

  void run() {
    const bool finite = task_.prepared || pack_weights();
    if (task_.prepare_to) return;
    if (!finite) return run_generic();
    if constexpr (kRepeats) find_repeats();
    copied_ = h_.stride * task_.row_begin;
    const index_t columns = class_count(spec_.op, spec_.w, depthwise::Dilation::split);
    if (phases() || (task_.tile->all_columns && columns <= depthwise::kMostParts))
      run_together();
    else
      each_part([&](const AxisClass& h, const AxisClass& w) { run_part(part_of(h, w)); });
    if (streams()) simd::stream_fence();
  }

 private:
  using T = compute_t<S>;
  static constexpr bool kRepeats = Load<S>::kRepeats;
  static_assert(sizeof(Repeat<T>) <= 3 * simd::kVectorBytes);

  static constexpr index_t kRows = 2;  // that a pass computes of every part

  // Taps of one axis whose weights are packed: start, start + step, ...
  struct Taps {
    index_t start, step, count;

    index_t operator()(index_t i) const { return start + step * i; }
  };

  // A class of rows and one of columns, or all columns, and the loops that compute their results. For a
  // column of the task there are column_step.
  struct Part {
    AxisClass h, w;
    index_t column_step;
    Window<S> window;
    WindowFunctions<S> compute;
  };

  bool phases() const { return !kRepeats && task_.tile->phases; }

  // Those of the class or, where a task computes all classes, which share them out, all.
  Taps packed_taps(const depthwise::Axis& axis, const AxisClass& c) const {
    return phases() ? Taps{0, 1, axis.kernel} : Taps{c.tap_start, c.tap_step, c.taps};
  }

  // From the weights of one vector of channels to the next one's.
  index_t weight_vector() const { return rows_.count * columns_.count * kLanes<T>; }

  // Where the task's weights are among those of all channels, which are kept of a filter that is finite. The
  // vector before those that begin with a line is the first.
  index_t kept_offset() const {
    const index_t begin = lead_ == 0 ? 0 : lead_ - kLanes<T>;
    return (first_ + first_vector_ - begin) / kLanes<T> * weight_vector();
  }

  // Weights: [vector of channels][kernel row][tap][lane]. Blocks of channels long enough to be read ahead,
  // and short enough for the first-level cache. Whether all are finite, so that taps on zeros can be skipped.
  bool pack_weights() const {
    constexpr index_t kBlock = 8 * kLine<T>;
    vec<T> probe = {};  // of products with 0, in sums that do not wait for one another
    T* block = packed_;
    for (index_t channel = first_vector_; channel < channels_; channel += kBlock) {
      const index_t end = depthwise::smaller(channel + kBlock, channels_);
      T* to = block;
      for (index_t t = 0; t < rows_.count; ++t)
        for (index_t k = 0; k < columns_.count; ++k, to += kLanes<T>)
          probe += pack_tap(spec_.tap(rows_(t), columns_(k)), channel, end, to);
      block += kBlock / kLanes<T> * weight_vector();
    }
    return simd::all_zero<T>(probe);
  }

  // The vectors that begin in [channel, end) of one tap. The sum of their products with 0.
  DEPTHWISE_INLINE vec<T> pack_tap(index_t tap, index_t channel, index_t end, T* to) const {
    const S* from =
        static_cast<const S*>(task_.operands.b) + tap * spec_.channels * spec_.multiplier + first_;
    const index_t step = weight_vector();
    vec<T> products = {};
    for (; channel < end; channel += kLanes<T>, to += step) {
      const vec<T> weight = simd::load(from + inner_channel(channel, channels_, kLanes<T>));
      products += weight * T(0);
      simd::store(to, weight);
    }
    return products;
  }

  // A tap on zeros can make a NaN: then no tap may be left out.
  void run_generic() const {
    each_part([&](const AxisClass& h, const AxisClass& w) {
      Task all = task_;
      all.h = h, all.w = w;
      all.row_end = depthwise::smaller(all.row_end, h.out_count);
      all.column_end = depthwise::smaller(all.column_end, w.out_count);
      all.unit_begin = first_, all.unit_end = first_ + channels_;
      Generic<S>(all).run();
    });
  }

  // Every pair of classes of rows and columns that the task computes.
  template <class Body>
  void each_part(const Body& body) const {
    const bool several = phases() || task_.tile->all_columns;
    if (!several) return body(h_, w_);
    constexpr auto split = depthwise::Dilation::split;
    const index_t rows = phases() ? class_count(spec_.op, spec_.h, split) : 1,
                  columns = class_count(spec_.op, spec_.w, split);
    for (index_t r = 0; r < rows; ++r)
      for (index_t c = 0; c < columns; ++c)
        body(phases() ? axis_class(spec_.op, spec_.h, split, r) : h_,
             axis_class(spec_.op, spec_.w, split, c));
  }

  // All rows of one part.
  void run_part(const Part& part) { run_rows(part, task_.row_begin, task_.row_end); }

  // All parts, a few rows at a time: results are written in the order of memory.
  void run_together() {
    Part parts[depthwise::kMostParts];
    int count = 0;
    each_part([&](const AxisClass& h, const AxisClass& w) {
      Part& part = parts[count];
      if (phases() && find_rows_of_phases(h, part))
        count += w.out_start == 0;  // which stands for the others, too
      else
        part = part_of(h, w), ++count;
    });
    for (index_t u = task_.row_begin; u < task_.row_end; u += kRows)
      for (int i = 0; i < count; ++i) run_rows(parts[i], u, u + kRows);
  }

  Part part_of(const AxisClass& h, const AxisClass& w) const {
    const Window<S> window = describe(h, w);
    return {h, w, 1, window, loops(window)};
  }

  // The part that computes all column phases together, if there are loops for them.
  bool find_rows_of_phases(const AxisClass& h, Part& part) const {
    const AxisClass all = all_phases(spec_.w);
    Window<S> window = describe(h, all);
    window.pad = spec_.w.pad;
    part = {h, all, spec_.w.stride, window, {loops_of_phases(window), nullptr}};
    return part.compute.one != nullptr;
  }

  // Those that convert what they load are compiled here: no other source has use for them.
  static constexpr bool kShared = sizeof(S) == sizeof(T);

  WindowFunctions<S> loops(const Window<S>& window) const {
    if constexpr (!kShared)
      return window_functions<Load<S>>(window, task_.tile->pixels);
    else if constexpr (kRepeats)
      return DEPTHWISE_SYMBOL(repeated_windows)(window, task_.tile->pixels);
    else
      return DEPTHWISE_SYMBOL(windows)(window, task_.tile->pixels);
  }

  WindowFunction<S> loops_of_phases(const Window<S>& window) const {
    if constexpr (kRepeats)
      return nullptr;
    else if constexpr (kShared)
      return DEPTHWISE_SYMBOL(phases)(window, task_.tile->pixels);
    else
      return phase_function(window, task_.tile->pixels);
  }

  void find_repeats() const {
    constexpr index_t lanes = kLanes<T>;
    for (index_t v = 0; v * lanes < channels_; ++v)
      repeats_[v] = repeat_from<T>(first_ + depthwise::smaller(v * lanes, channels_ - lanes),
                                   spec_.multiplier, spec_.channels);
  }

  Window<S> describe(const AxisClass& h, const AxisClass& w) const {
    const Range inside = range_inside(w, 0, w.span(w.out_count));
    constexpr index_t weight_step = kLanes<T>;
    const index_t weight_row = columns_.count * weight_step;
    return {.taps = w.taps,
            .stride = w.stride,
            .spacing = w.spacing,
            .inside_begin = inside.begin,
            .inside_end = inside.end,
            .pixel_step = copies() ? ring_step_ : w.src_step * source_.column_step,
            .row_taps = h.taps,
            .row_stride = h.stride,
            .weights = phases() ? weights_ + h.tap_start * weight_row + w.tap_start * weight_step : weights_,
            .weight_vector = weight_vector(),
            .weight_row = phases() ? h.tap_step * weight_row : weight_row,
            .weight_step = phases() ? w.tap_step * weight_step : weight_step,
            .out_step = w.out_step * result_.column_step,
            .out_row = h.out_step * result_.row_step,
            .columns = depthwise::smaller(w.out_count, task_.column_end - task_.column_begin),
            .channels = channels_,
            .fetch_ahead = task_.tile->fetch_ahead,
            .stream = streams(),
            .whole_lines = task_.tile->whole_lines,
            .first_vector = first_vector_,
            .repeats = repeats_,
            .finishes = task_.operands.bias || spec_.activation != depthwise::Activation::none,
            .bias = task_.operands.bias ? static_cast<const S*>(task_.operands.bias) + first_ : nullptr,
            .activation = spec_.activation};
  }

  bool streams() const { return depthwise::direct_streams(spec_, *task_.tile, task_.operands); }

  bool copies() const { return !kRepeats && task_.tile->copies; }

  // Rows [u, end) of a part, of those that it has.
  void run_rows(const Part& part, index_t u, index_t end) {
    const index_t first = part.column_step * task_.column_begin,
                  last = depthwise::smaller(part.column_step * task_.column_end, part.w.out_count);
    if (first >= last) return;
    end = depthwise::smaller(end, depthwise::smaller(task_.row_end, part.h.out_count));
    while (u < end) {
      const WindowFunctions<S>& f = part.compute;
      const bool four = f.four && !copies() && u + 4 <= end, pair = f.pair && u + 2 <= end;
      const index_t count = four ? 4 : pair ? 2 : 1;
      (four ? f.four : pair ? f.pair : f.one)(part.window, find_rows(part, u, count), first, last);
      u += count;
    }
  }

  // Source rows under `count` output rows from u.
  WindowRows<S> find_rows(const Part& part, index_t u, index_t count) {
    const AxisClass& h = part.h;
    const index_t first = h.stride * u, positions = (count - 1) * h.stride + h.taps;
    const auto [begin, end] = range_inside(h, first, part.w.taps > 0 && h.taps > 0 ? positions : 0);
    if (copies()) copy_rows(first + positions);
    for (index_t t = begin; t < end; ++t)
      table_[t] = copies() ? ring_row(first + t) : source_row(h, part.w, first + t);
    return {table_, begin, end, result_row(h, part.w, u)};
  }

  const S* source_row(const AxisClass& h, const AxisClass& w, index_t position) const {
    return static_cast<const S*>(task_.operands.a) + task_.batch * source_.batch_step +
           h.source(position) * source_.row_step + w.src_start * source_.column_step +
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
      if (h_.inside(h_.source(copied_))) copy_row(source_row(h_, w_, copied_), ring_row(copied_));
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

  S* result_row(const AxisClass& h, const AxisClass& w, index_t u) const {
    return static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
           (h.out_start + h.out_step * u) * result_.row_step + w.out_start * result_.column_step + first_;
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const index_t lead_, first_, channels_, first_vector_;
  const Taps rows_, columns_;  // whose weights are packed
  T* const packed_;
  const T* const weights_;
  Repeat<T>* const repeats_;
  S* const ring_;
  const index_t ring_step_;
  const S** const table_;
  index_t copied_ = 0;  // rows before this position are in the ring
};

}  // namespace
