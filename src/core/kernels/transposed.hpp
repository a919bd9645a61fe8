// Planes of NCHW with channels in the vector lanes: whole planes of a line of channels are transposed as flat
// runs of pixels, computed in the cache like an image of NHWC, and transposed back. With a multiplier, a line
// of source channels is transposed once for as many lines of results, and repeated in the registers.
//
// A task computes all columns. Where the destinations fall into several classes, one task computes all of
// them, since what it transposes back are whole runs of pixels.
#pragma once

#include "generic.hpp"
#include "phase_tile.hpp"
#include "plane_lines.hpp"
#include "range.hpp"
#include "transposed_layout.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Dilation;
using depthwise::larger;
using depthwise::Op;
using depthwise::smaller;
using depthwise::Spec;
using depthwise::Task;
using depthwise::TransposedLayout;

template <class S>
class Transposed {
 public:
  explicit Transposed(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        rows_(spec_, spec_.h),
        columns_(spec_, spec_.w),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        layout_(transposed_layout(spec_, *task.tile, h_)) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t lines) {
      T* const part = at;
      at += lines * kL;
      return part;
    };
    lines_ = take(layout_.source);
    sums_ = take(layout_.result);
    pack_to_ = take(layout_.weights);
    const index_t before = task.unit_begin * taps() * kL;
    if (task.prepare_to) pack_to_ = reinterpret_cast<T*>(task.prepare_to) + before;
    packed_ = task.prepared ? reinterpret_cast<const T*>(task.prepared) + before : pack_to_;
    bias_ = take(layout_.bias);
    repeats_ = reinterpret_cast<Repeat<T>*>(take(layout_.repeats));
    table_ = reinterpret_cast<const T**>(take(layout_.table));
  }

  void run() {
    const bool all_finite = task_.prepared || pack_weights();
    if (task_.prepare_to) return;
    for (index_t unit = task_.unit_begin; unit < task_.unit_end; ++unit) {
      if (unit == task_.unit_begin || unit % repeats() == 0) find_sources(unit / repeats());
      find_unit(unit);
      if (!all_finite && !finite())
        run_generic();
      else if (several())
        run_classes();
      else
        run_rows();
    }
  }

 private:
  using T = compute_t<S>;
  static constexpr int kL = kLine<T>;
  static_assert(sizeof(Repeat<T>) <= 3 * simd::kVectorBytes);

  bool several() const { return rows_.count * columns_.count > 1; }
  index_t taps() const { return spec_.h.kernel * spec_.w.kernel; }
  // Results of a source channel, which are as many units for a line of source channels.
  index_t repeats() const { return spec_.op == Op::forward ? spec_.multiplier : 1; }
  static int valid_in(const Image& image, index_t line) {
    return static_cast<int>(smaller(image.channels - line * kL, kL));
  }

  // From the weights of one vector of channels to the next one's.
  index_t weight_vector() const { return taps() * kLanes<T>; }

  // Weights: [vector of channels][tap][lane]; lanes past the last channel are 0. Vectors go innermost: theirs
  // are adjacent in the filter. Whether all are finite.
  bool pack_weights() const {
    const index_t begin = task_.unit_begin * kL, end = task_.unit_end * kL;
    T* to = pack_to_;
    vec<T> probe = {};
    for (index_t t = 0; t < spec_.h.kernel; ++t)
      for (index_t k = 0; k < spec_.w.kernel; ++k, to += kLanes<T>)
        probe += pack_tap(spec_.tap(t, k), begin, end, to);
    return simd::all_zero<T>(probe);
  }

  // The sum of the weights' products with 0.
  DEPTHWISE_INLINE vec<T> pack_tap(index_t tap, index_t begin, index_t end, T* to) const {
    const S* const from = static_cast<const S*>(task_.operands.b) + tap * result_.channels;
    const index_t step = weight_vector(), channels = result_.channels;
    vec<T> products = {};
    for (index_t lane = begin; lane < end; lane += kLanes<T>, to += step) {
      const int valid = static_cast<int>(smaller(channels - lane, kLanes<T>));
      const vec<T> weights = valid > 0 ? simd::load_n(from + lane, valid) : vec<T>{};
      products += weights * T(0);
      simd::store(to, weights);
    }
    return products;
  }

  // Where the planes of a line of source channels are, none of whose rows is there yet.
  void find_sources(index_t line) {
    sources_ = valid_in(source_, line);
    const S* const batch = static_cast<const S*>(task_.operands.a) + task_.batch * source_.batch_step;
    for (int l = 0; l < kL; ++l)
      planes_[l] = batch + (line * kL + (l < sources_ ? l : sources_ - 1)) * source_.channel_step;
    loaded_ = several() ? 0 : larger(0, h_.source(h_.stride * task_.row_begin));
  }

  // What depends on the unit: its weights, its bias, and where its planes are.
  void find_unit(index_t unit) {
    const index_t lane = unit * kL, batch = task_.batch;
    valid_ = valid_in(result_, unit);
    first_ = lane;
    weights_ = packed_ + (unit - task_.unit_begin) * taps() * kL;
    if (repeats() > 1)
      for (int v = 0; v < kParts<T>; ++v)
        repeats_[v] = repeat_from<T>(unit % repeats() * kL + v * kLanes<T>, repeats(), kL);
    results_ = {
        static_cast<S*>(task_.operands.out) + batch * result_.batch_step + lane * result_.channel_step,
        result_.channel_step};
    // -0 is the neutral element of addition: it leaves a sum of -0 alone.
    const S* bias = static_cast<const S*>(task_.operands.bias);
    for (int v = 0; v < kL; v += kLanes<T>)
      simd::store(bias_ + v, bias && valid_ > v ? simd::load_n(bias + lane + v, valid_ - v) : -vec<T>{});
  }

  // Whether all weights of the unit are, so that taps on zeros can be skipped.
  bool finite() const {
    vec<T> probe = {};
    for (const T *w = weights_, *end = w + taps() * kL; w < end; w += kLanes<T>)
      probe += simd::load(w) * T(0);
    return simd::all_zero<T>(probe);
  }

  // The classes of an axis, of which the first few are found once for all units.
  struct Classes {
    static constexpr index_t kKept = 3;
    const Spec& spec;
    const depthwise::Axis& axis;
    const index_t count;
    AxisClass kept[kKept] = {};

    Classes(const Spec& s, const depthwise::Axis& a)
        : spec(s), axis(a), count(depthwise::class_count(s.op, a, Dilation::keep)) {
      for (index_t i = 0; i < smaller(count, kKept); ++i) kept[i] = axis_class(s.op, a, Dilation::keep, i);
    }
    AxisClass operator[](index_t i) const {
      return i < kKept ? kept[i] : axis_class(spec.op, axis, Dilation::keep, i);
    }
  };

  // Every pair of classes of rows and columns.
  template <class Body>
  void each_class(const Body& body) const {
    if (!several()) return body(h_, w_);
    for (index_t r = 0; r < rows_.count; ++r)
      for (index_t c = 0; c < columns_.count; ++c) body(rows_[r], columns_[c]);
  }

  // A tap on zeros can make a NaN: then no tap may be left out.
  void run_generic() const {
    Task all = task_;
    all.unit_begin = first_, all.unit_end = first_ + valid_;
    each_class([&](const AxisClass& h, const AxisClass& w) {
      all.h = h, all.w = w;
      if (several()) all.row_begin = 0, all.row_end = h.out_count;
      all.column_begin = 0, all.column_end = w.out_count;
      Generic<S>(all).run();
    });
  }

  void run_classes() {
    need_rows(source_.height);
    const AxisClass all = all_phases(spec_.w);
    each_class([&](const AxisClass& h, const AxisClass& w) {
      T* const to = sums_ + (h.out_start * result_.width + w.out_start) * kL;
      Window<T> window = describe(h, all);
      window.pad = spec_.w.pad;
      const WindowFunction<T> phases = DEPTHWISE_SYMBOL(phases)(window, task_.tile->pixels);
      if (!phases)
        compute(h, w, 0, h.out_count, to);
      else if (w.out_start == 0)  // which stands for the others, too
        compute(h, all, window, {phases, nullptr}, 0, h.out_count, to);
    });
    store_rows(0, result_.height);
  }

  // Blocks of rows: each is finished while it is in the first-level cache, and reads rows that just came
  // there.
  void run_rows() {
    for (index_t u = task_.row_begin; u < task_.row_end;) {
      const index_t end = smaller(u + task_.tile->rows_at_once, task_.row_end);
      const index_t last = h_.source(h_.stride * (end - 1) + h_.spacing * (h_.taps - 1));
      need_rows(smaller(last + 1, source_.height));
      compute(h_, w_, u, end, sums_);
      store_rows(u, end);
      u = end;
    }
  }

  // Transposes the source rows up to `end` that are not there yet.
  void need_rows(index_t end) {
    if (loaded_ >= end) return;
    const index_t begin = loaded_ * source_.width, pixels = end * source_.width - begin;
    planes_to_lines<S>(planes_, sources_, begin, pixels, lines_ + begin * kL);
    loaded_ = end;
  }

  void store_rows(index_t begin, index_t end) const {
    const index_t width = result_.width;
    lines_to_planes<S>(sums_, results_, valid_, begin * width, (end - begin) * width,
                       Epilogue<T>{bias_, spec_.activation});
  }

  Window<T> describe(const AxisClass& h, const AxisClass& w) const {
    constexpr index_t step = kLanes<T>;
    const index_t row = spec_.w.kernel * step;
    const Range inside = range_inside(w, 0, w.span(w.out_count));
    return {.taps = w.taps,
            .stride = w.stride,
            .spacing = w.spacing,
            .inside_begin = inside.begin,
            .inside_end = inside.end,
            .pixel_step = w.src_step * kL,
            .row_taps = h.taps,
            .row_stride = h.stride,
            .weights = weights_ + h.tap_start * row + w.tap_start * step,
            .weight_vector = weight_vector(),
            .weight_row = h.tap_step * row,
            .weight_step = w.tap_step * step,
            .out_step = w.out_step * kL,
            .out_row = h.out_step * result_.width * kL,
            .columns = w.out_count,
            .channels = (valid_ + kLanes<T> - 1) / kLanes<T> * kLanes<T>,
            .fetch_ahead = 0,
            .stream = false,
            .repeats = repeats_};
  }

  // Rows [begin, end) of a class; `to` is row `begin`.
  void compute(const AxisClass& h, const AxisClass& w, index_t begin, index_t end, T* to) const {
    const Window<T> window = describe(h, w);
    const int pixels = task_.tile->pixels;
    compute(h, w, window,
            repeats() > 1 ? DEPTHWISE_SYMBOL(repeated_windows)(window, pixels)
                          : DEPTHWISE_SYMBOL(windows)(window, pixels),
            begin, end, to);
  }

  void compute(const AxisClass& h, const AxisClass& w, const Window<T>& window,
               const WindowFunctions<T>& tiles, index_t begin, index_t end, T* to) const {
    for (index_t u = begin; u < end;) {
      const bool pair = tiles.pair && h.spacing == 1 && u + 1 < end;
      (pair ? tiles.pair : tiles.one)(window, find_rows(h, w, u, pair ? 2 : 1, to), 0, w.out_count);
      u += pair ? 2 : 1, to += (pair ? 2 : 1) * window.out_row;
    }
  }

  // Source rows under `count` output rows from u; several only where the rows of a class are adjacent.
  WindowRows<T> find_rows(const AxisClass& h, const AxisClass& w, index_t u, index_t count, T* to) const {
    const index_t first = h.source(h.stride * u), step = h.src_step * h.spacing;
    const index_t positions = (count - 1) * h.stride + h.taps;
    const auto [begin, end] = range_inside(h.src_size, step, first, w.taps > 0 && h.taps > 0 ? positions : 0);
    const T* const column = lines_ + w.src_start * kL;
    for (index_t t = begin; t < end; ++t) table_[t] = column + (first + t * step) * source_.width * kL;
    return {table_, begin, end, to};
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Classes rows_, columns_;
  const Image source_, result_;
  const TransposedLayout layout_;
  T *lines_, *sums_, *pack_to_, *bias_;
  const T* packed_;  // the task's weights: kept since the filter was prepared, or packed by the task
  Repeat<T>* repeats_;
  const T** table_;
  const T* weights_ = nullptr;
  const S* planes_[kL] = {};
  EvenPlanes<S> results_{};
  index_t first_ = 0, loaded_ = 0;  // of the results' channels, and the end of the source rows in lines_
  int valid_ = 0, sources_ = 0;     // channels of the line of results, and of the source's
};

}  // namespace
