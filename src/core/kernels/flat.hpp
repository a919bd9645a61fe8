// A row in the vector lanes: packs blocks of source rows, split by stride phase, and runs the flat tiles on
// them.
#pragma once

#include "activation.hpp"
#include "flat_layout.hpp"
#include "flat_pack.hpp"
#include "flat_tile.hpp"
#include "image_tile.hpp"
#include "line_store.hpp"
#include "plane_strip.hpp"
#include "plane_tile.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::FlatLayout;
using depthwise::kFlatMaxRows;
using depthwise::Op;
using depthwise::Spec;
using depthwise::takes_strips;
using depthwise::Task;

template <class S, Layout kLayout>
class Flat {
 public:
  explicit Flat(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        layout_(flat_layout(spec_, *task.tile, h_, w_)),
        columns_(task.column_end - task.column_begin),
        elements_(columns_ * layout_.pixel),
        period_(task.tile->period) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t elements) {
      T* const part = at;
      at += elements;
      return part;
    };
    panel_ = take(layout_.panel + kV);
    weights_ = take(layout_.weights);
    bias_ = take(layout_.outputs * period_ * kV);
    staged_ = take((h_.taps * w_.taps + 1) * kV);
    sums_ = take(kFlatMaxRows * layout_.result);
    offsets_ = reinterpret_cast<index_t*>(at);
  }

  void run() {
    find_inside();
    find_offsets();
    choose_tiles();
    panel_ += (kV - source_row_.begin / w_.stride * layout_.pixel % kV) % kV;  // aligns what is packed
    if (!task_.operands.bias) fill(bias_, layout_.outputs * period_ * kV, -T(0));
    for (unit_ = task_.unit_begin; unit_ < task_.unit_end;) {
      find_unit();
      if constexpr (kReadsImages && kLayout == Layout::nchw) {
        const index_t planes = images_ ? run_planes() : 0;
        unit_ += planes;
        if (planes > 0) continue;
      }
      if (task_.operands.bias) load_bias();
      if constexpr (kLayout == Layout::nhwc)
        finite_ = load_weights();
      else
        finite_ = layout_.outputs * layout_.subrows == 1 ? take_plane_weights() : load_plane_weights();
      run_unit();
      ++unit_;
    }
  }

 private:
  using T = compute_t<S>;
  static constexpr int kV = kLanes<T>;
  static constexpr bool kReadsImages = kImages && sizeof(S) == sizeof(T);

  static void fill(T* to, index_t elements, T value) {
    for (index_t i = 0; i < elements; ++i) to[i] = value;
  }
  static void clear(T* to, index_t elements) { fill(to, elements, 0); }

  // Columns of packed rows outside the source stay 0 for the whole task.
  void find_inside() {
    first_column_ = w_.source(w_.stride * task_.column_begin);
    const Range inside = range_inside(w_, w_.stride * task_.column_begin, w_.span(columns_));
    source_row_.array_end = static_cast<const S*>(task_.operands.a) + source_.batch_step * spec_.batch;
    source_row_.step = w_.src_step * source_.column_step;
    source_row_.begin = inside.begin, source_row_.end = inside.end;
    source_row_.repeat = kLayout == Layout::nhwc && spec_.op == Op::forward ? spec_.multiplier : 1;
    source_row_.channel_step = kLayout == Layout::nhwc ? layout_.subrows : 1;
    split_ = {w_.stride, layout_.phases, layout_.segment, layout_.pixel};
    rows_inside_ = range_inside(h_, 0, h_.stride * (task_.row_end - 1) + h_.taps);
  }

  void find_offsets() {
    for (index_t k = 0; k < w_.taps; ++k) {
      const index_t position = w_.spacing * k;
      offsets_[k] = position % w_.stride * layout_.segment + position / w_.stride * layout_.pixel;
    }
  }

  // What does not change from block to block.
  void choose_tiles() {
    shared_ = flat_shares_rows(layout_, static_cast<int>(period_), h_, w_);
    if constexpr (kLayout == Layout::nhwc)
      choose_flat_tiles();
    else
      choose_plane_tiles();
    result_row_step_ = h_.out_step * result_.row_step;
    block_.weights = weights_;
    block_.stride = h_.stride, block_.kernel_rows = h_.taps, block_.subrows = layout_.subrows,
    block_.taps = w_.taps;
    block_.tap_step = w_.stride == 1 ? w_.spacing * layout_.pixel : layout_.pixel;
    block_.phase = layout_.segment;
    block_.offsets = offsets_;
    adjacent_rows_ =
        kLayout == Layout::nchw && columns_ == result_.width && h_.out_step == 1 && w_.out_step == 1;
    strips_ = kReadsImages && kLayout == Layout::nchw && takes_strips(h_, w_, kV, sizeof(T));
    images_ = kReadsImages && reads_images();
    copies_ = sizeof(S) == sizeof(T) && !task_.operands.bias &&
              spec_.activation == depthwise::Activation::none && w_.out_step == 1;
    plain_ = copies_ && (elements_ >= period_ * kV || (kLayout == Layout::nchw && kMaskedLanes && shared_));
  }

  // Whether images are read where they lie: not where rows evict each other from the cache, nor, under 3x3
  // taps and by tiles, where they are so short that most of their vectors reach over an end.
  bool reads_images() const {
    constexpr index_t kLeastPatterns = 6;
    const index_t row_bytes = h_.src_step * source_.row_step * static_cast<index_t>(sizeof(S)),
                  narrow = columns_ < kV && kLayout == Layout::nchw;
    const bool halved = kLayout == Layout::nchw && w_.stride == 2 && w_.spacing == 1,
               tiles = h_.taps == 3 && w_.taps == 3 && h_.stride == w_.stride && (w_.stride == 1 || halved) &&
                       task_.row_end - task_.row_begin >= kImageRows,
               adjacent = w_.src_step == 1 && w_.out_step == 1 && source_row_.repeat == 1 &&
                          layout_.outputs * layout_.subrows == 1;
    return (tiles || strips_) && adjacent && row_bytes % depthwise::kWayBytes != 0 &&
           (narrow ? adjacent_rows_ : elements_ >= (period_ > 1 ? kLeastPatterns * period_ : 1) * kV);
  }

  void choose_flat_tiles() {
    tiles_ = shared_ ? flat_function<T>(h_.stride, h_.taps, w_.taps, static_cast<int>(period_))
                     : flat_rows_for<T>(static_cast<int>(period_));
    tile_rows_ = !shared_ ? 1 : elements_ <= kV && period_ == 1 ? 8 : kFlatRows;
    constexpr index_t kLongRow = 2;  // patterns
    const index_t row_bytes = h_.src_step * source_.row_step * static_cast<index_t>(sizeof(S));
    in_place_ = kMaskedLanes && sizeof(S) == sizeof(T) && shared_ && h_.stride == 1 &&
                source_row_.repeat == 1 && source_row_.step == layout_.pixel && w_.taps <= kMaskedTaps &&
                elements_ >= kLongRow * period_ * kV && row_bytes % depthwise::kWayBytes != 0;
    output_weights_ = w_.taps * h_.taps * layout_.subrows * period_ * kV;
  }

  // The image is read in place where lanes outside it can be masked and nothing needs to be converted, if
  // that pays: rows are shifted in registers, or long, so that few of their tiles reach over an edge.
  void choose_plane_tiles() {
    constexpr index_t kLongRow = 48;
    const bool seven = h_.taps == 7 && h_.stride == 2 && w_.stride == 2 && w_.spacing == 1;
    const bool one_vector = columns_ <= kV, three = w_.taps == 3;
    // How far taps reach into the vector behind those that begin under the outputs; half ones may be used.
    const bool near = (w_.stride == 2 ? w_.taps - 2 : (w_.taps - 1) * w_.spacing) <= kV / 2;
    shared_ = h_.taps == w_.taps && (shared_ || (seven && layout_.subrows == 1));
    const bool pays =
        w_.stride == 2 ? near : columns_ > kLongRow || (one_vector ? three || near : three && near);
    in_place_ = kMaskedLanes && sizeof(S) == sizeof(T) && shared_ && w_.src_step == 1 && pays;
    tiles_ = shared_ ? plane_function<T>(h_.stride, h_.taps, columns_) : plane_rows<T>;
    tile_rows_ = !shared_ ? 1 : elements_ <= kV ? 7 : kPlaneRows;
    output_weights_ = w_.taps * h_.taps * layout_.subrows;
  }

  // Lane i of the pattern belongs to this result channel; patterns of one output follow each other.
  index_t result_channel(index_t output, index_t i) const {
    return kLayout == Layout::nhwc ? i % layout_.pixel : unit_ * layout_.outputs + output;
  }

  void load_bias() {
    const S* bias = static_cast<const S*>(task_.operands.bias);
    const index_t pattern = period_ * kV;
    for (index_t o = 0; o < layout_.outputs; ++o)
      for (index_t i = 0; i < pattern; ++i)
        bias_[o * pattern + i] = simd::load_one(bias + result_channel(o, i));
  }

  // Weights of one output: [tap][kernel row][subrow][pattern]. Whether all are finite.
  bool load_weights() {
    const index_t outputs = spec_.channels * spec_.multiplier,
                  row_step = h_.tap_step * spec_.w.filter_taps() * outputs;
    const S* filter = static_cast<const S*>(task_.operands.b);
    filter += spec_.tap(h_.tap_start, w_.tap_start) * outputs;
    T* to = weights_;
    T probe = 0;
    for (index_t o = 0; o < layout_.outputs; ++o) {
      const S* column = filter;
      for (index_t k = 0; k < w_.taps; ++k, column += w_.tap_step * outputs) {
        const S* tap = column;
        for (index_t t = 0; t < h_.taps; ++t, tap += row_step)
          for (index_t q = 0; q < layout_.subrows; ++q, to += period_ * kV) probe += load_tap(tap + q, to);
      }
    }
    return probe == 0;
  }

  // Weights of planes: [output][kernel row][subrow][tap], one scalar each.
  bool load_plane_weights() {
    const index_t outputs = spec_.channels * spec_.multiplier,
                  row_step = h_.tap_step * spec_.w.filter_taps() * outputs;
    const S* filter = static_cast<const S*>(task_.operands.b);
    filter += spec_.tap(h_.tap_start, w_.tap_start) * outputs;
    T* to = weights_;
    T probe = 0;
    for (index_t o = 0; o < layout_.outputs; ++o) {
      const S* row = filter + result_channel(o, 0) * layout_.subrows;
      for (index_t t = 0; t < h_.taps; ++t, row += row_step)
        for (index_t q = 0; q < layout_.subrows; ++q)
          for (index_t k = 0; k < w_.taps; ++k, ++to) {
            *to = simd::load_one(row + q + k * w_.tap_step * outputs);
            probe += *to * T(0);
          }
    }
    return probe == 0;
  }

  // The same for planes with one filter each: takes a vector of planes from the filter at a time, since the
  // taps of one are far apart.
  bool take_plane_weights() {
    const index_t taps = h_.taps * w_.taps;
    if (unit_ >= staged_end_) stage_weights();
    const T* from = staged_ + (unit_ - staged_begin_);
    for (index_t i = 0; i < taps; ++i, from += kV) weights_[i] = *from;
    return *from == 0;
  }

  // Behind the taps follows what is 0 where all of a plane's weights are finite.
  void stage_weights() {
    const index_t channels = spec_.channels, row_step = h_.tap_step * spec_.w.filter_taps() * channels;
    staged_begin_ = unit_;
    staged_end_ = smaller(unit_ + kV, channels);
    const int count = static_cast<int>(staged_end_ - staged_begin_);
    const S* row =
        static_cast<const S*>(task_.operands.b) + spec_.tap(h_.tap_start, w_.tap_start) * channels + unit_;
    T* to = staged_;
    vec<T> probe = {};
    for (index_t t = 0; t < h_.taps; ++t, row += row_step) {
      const S* tap = row;
      for (index_t k = 0; k < w_.taps; ++k, tap += w_.tap_step * channels, to += kV) {
        const vec<T> weights = simd::load_n(tap, count);
        simd::store(to, weights);
        probe += weights * T(0);
      }
    }
    simd::store(to, probe);
  }

  // Returns 0 where the weights are finite.
  DEPTHWISE_INLINE T load_tap(const S* tap, T* to) const {
    T probe = 0;
    for (index_t i = 0; i < layout_.pixel; ++i) {
      to[i] = simd::load_one(tap + i * layout_.subrows);
      probe += to[i] * T(0);
    }
    for (index_t i = layout_.pixel; i < period_ * kV; ++i) to[i] = to[i - layout_.pixel];
    return probe;
  }

  // Output rows go by blocks of rows_at_once, whose source rows are all packed first.
  void run_unit() {
    if constexpr (kMaskedLanes && sizeof(S) == sizeof(T)) {
      if (in_place_ && finite_) return run_in_place();
    }
    if constexpr (kReadsImages && kLayout == Layout::nhwc)
      if (images_ && finite_) return run_images(1, weights_, task_.operands.bias ? bias_ : nullptr);
    if (!cleared_) clear(panel_, layout_.panel);
    cleared_ = true;
    block_.pitch = layout_.pitch;
    block_.masked = false;
    origin_ = panel_;
    const index_t at_once = task_.tile->rows_at_once;
    for (index_t u = task_.row_begin; u < task_.row_end; u += at_once) {
      const index_t count = smaller(at_once, task_.row_end - u);
      pack_rows(h_.stride * u, h_.stride * (u + count - 1) + h_.taps);
      for (index_t o = 0; o < layout_.outputs; ++o) compute_rows(u, count, o);
    }
  }

  void run_in_place() {
    const index_t u = task_.row_begin, row_step = source_.row_step;
    block_.pitch = h_.src_step * row_step;
    block_.masked = true;
    block_.low = source_row_.begin * layout_.pixel, block_.high = source_row_.end * layout_.pixel;
    const index_t position = h_.stride * u;
    block_.first = rows_inside_.begin - position, block_.last = rows_inside_.end - position;
    origin_ = unit_source_ - block_.low + h_.source(position) * row_step;
    for (index_t o = 0; o < layout_.outputs; ++o) compute_rows(u, task_.row_end - u, o);
  }

  // The planes from the current one on whose weights are staged together. How many that were: none where a
  // tap on zeros could make a NaN.
  index_t run_planes() {
    if (unit_ >= staged_end_) stage_weights();
    const index_t lane = unit_ - staged_begin_, planes = smaller(staged_end_, task_.unit_end) - unit_;
    const T* const probe = staged_ + h_.taps * w_.taps * kV + lane;
    for (index_t i = 0; i < planes; ++i)
      if (probe[i] != 0) return 0;
    const S* bias = static_cast<const S*>(task_.operands.bias);
    run_images(planes, staged_ + lane, bias ? bias + unit_ : nullptr);
    return planes;
  }

  void run_images(index_t planes, const T* weights, const T* bias) const {
    if constexpr (kReadsImages) {
      const index_t row = task_.row_begin, position = h_.stride * row, row_step = source_.row_step,
                    low = source_row_.begin;
      const Images<T> images{.source = unit_source_ - low * layout_.pixel + h_.source(position) * row_step,
                             .row_step = h_.src_step * row_step,
                             .plane_step = source_.channel_step,
                             .tap_step = w_.spacing * layout_.pixel,
                             .first = rows_inside_.begin - position,
                             .last = rows_inside_.end - position,
                             .low = low * layout_.pixel,
                             .high = source_row_.end * layout_.pixel,
                             .weights = weights,
                             .patterns = kLayout == Layout::nhwc,
                             .period = period_,
                             .out = result_row(row, 0),
                             .out_row = result_row_step_,
                             .out_plane = result_.channel_step,
                             .rows = task_.row_end - row,
                             .elements = elements_,
                             .planes = planes,
                             .planes_behind = kLayout == Layout::nchw ? task_.unit_end - unit_ - planes : 0,
                             .bias = bias,
                             .activation = spec_.activation,
                             .stream = streams()};
      if constexpr (kLayout == Layout::nchw) {
        if (strips_) return run_strips(images);
        if (w_.stride == 2) return compute_images<2>(images);
      }
      compute_images<1>(images);
    }
  }

  void run_strips(const Images<T>& images) const {
    if (w_.taps == 3)
      w_.stride == 2 ? compute_strips<3, 2>(images) : compute_strips<3, 1>(images);
    else
      w_.stride == 2 ? compute_strips<5, 2>(images) : compute_strips<5, 1>(images);
  }

  // Whether sums of planes may go past the caches: nothing reads them here again, and rows are whole lines
  // that do not evict each other.
  bool streams() const {
    const auto aligned = [](index_t bytes) { return bytes % kLineBytes == 0; };
    constexpr auto size = static_cast<index_t>(sizeof(T));
    return kLayout == Layout::nchw && task_.tile->stream && copies_ && aligned(result_row_step_ * size) &&
           result_row_step_ * size % (depthwise::kWayBytes / 2) != 0 &&
           aligned(result_.channel_step * size) && aligned(reinterpret_cast<index_t>(task_.operands.out)) &&
           aligned(task_.column_begin * size);
  }

  // The task's part of the source and of the result, in the current unit.
  void find_unit() {
    const index_t planes = kLayout == Layout::nchw ? unit_ : 0;
    unit_source_ = static_cast<const S*>(task_.operands.a) + task_.batch * source_.batch_step +
                   planes * layout_.subrows * source_.channel_step +
                   (first_column_ + w_.src_step * source_row_.begin) * source_.column_step;
    unit_result_ = static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
                   planes * layout_.outputs * result_.channel_step + h_.out_start * result_.row_step +
                   (w_.out_start + w_.out_step * task_.column_begin) * result_.column_step;
  }

  // Any-height tiles skip rows outside the source, unless a tap on their zeros could make a NaN.
  void pack_rows(index_t begin, index_t end) {
    const index_t first = larger(rows_inside_.begin, begin), last = smaller(rows_inside_.end, end);
    block_.first = finite_ ? first - begin : 0;
    block_.last = finite_ ? larger(first, last) - begin : end - begin;
    clear_rows(begin, first, last, end);
    const index_t plane = kLayout == Layout::nchw ? source_.channel_step : 1;
    const index_t row_step = layout_.subrows * layout_.pitch;
    const S* from = unit_source_ + h_.source(first) * source_.row_step;
    T* to = panel_ + (first - begin) * row_step;
    for (index_t q = 0; q < layout_.subrows; ++q, to += layout_.pitch, from += plane)
      pack_flat(source_row_, from, split_, to, last - first, h_.src_step * source_.row_step, row_step);
  }

  // Rows of zeros stay so while each block is the whole of its unit.
  void clear_rows(index_t begin, index_t first, index_t last, index_t end) {
    const bool read = (kLayout == Layout::nhwc && shared_) || !finite_,
               stay = task_.row_end - task_.row_begin <= task_.tile->rows_at_once;
    if (!read || stay) return;
    const index_t row_step = layout_.subrows * layout_.pitch;
    for (index_t p = begin; p < end; ++p)
      if (p < first || p >= last) clear(panel_ + (p - begin) * row_step, row_step);
  }

  S* result_row(index_t u, index_t o) const {
    return unit_result_ + o * result_.channel_step + u * result_row_step_;
  }

  // Plain sums go straight to the result where whole tiles fit into it; anything else passes through scratch.
  void compute_rows(index_t u, index_t count, index_t o) {
    block_.weights = weights_ + o * output_weights_;
    if constexpr (sizeof(S) == sizeof(T)) {
      if (plain_ && count >= tile_rows_) {
        compute(0, count, elements_, result_row(u, o), result_row_step_);
        return;
      }
    }
    const index_t elements = larger(elements_, period_ * kV);
    const index_t at_once = tile_rows_ == 7 ? 7 : kFlatMaxRows;
    for (index_t i = 0; i < count; i += at_once) {
      const index_t rows = smaller(at_once, count - i);
      compute(i, larger(rows, tile_rows_), elements, sums_, layout_.result);
      finish_rows(u + i, rows, count - i, o);
    }
  }

  DEPTHWISE_INLINE void compute(index_t first_row, index_t rows, index_t elements, T* out, index_t out_row) {
    const index_t positions = first_row * h_.stride;
    FlatBlock<T>& b = block_;
    b.source = origin_ + positions * layout_.subrows * b.pitch;
    const index_t first = b.first, last = b.last;
    b.first -= positions, b.last -= positions;
    b.out = out, b.out_row = out_row, b.rows = rows, b.elements = elements;
    tiles_(b);
    b.first = first, b.last = last;
  }

  // What a vector spills past the end of a row is overwritten by the rows after it, where the block has them.
  void finish_rows(index_t u, index_t rows, index_t rows_left, index_t o) const {
    const index_t rest = adjacent_rows_ ? elements_ : 0;
    index_t room = elements_ + (rows_left - 1) * rest;
    S* to = result_row(u, o);
    const index_t to_step = result_row_step_;
    const T* from = sums_;
    if constexpr (sizeof(S) == sizeof(T)) {
      const index_t whole = (elements_ + kV - 1) / kV * kV;
      for (; copies_ && rows > 0 && room >= whole;
           --rows, room -= rest, from += layout_.result, to += to_step)
        for (index_t i = 0; i < elements_; i += kV) simd::store(to + i, simd::load(from + i));
    }
    for (; rows > 0; --rows, room -= rest, from += layout_.result, to += to_step)
      finish_row(from, to, room, o);
  }

  void finish_row(const T* from, S* to, index_t room, index_t o) const {
    const Epilogue<T> finish{bias_ + o * period_ * kV, spec_.activation};
    index_t lane = 0;
    for (index_t i = 0; i < elements_; i += kV, lane = lane + kV < period_ * kV ? lane + kV : 0) {
      const int count = static_cast<int>(room - i >= kV ? kV : smaller(elements_ - i, kV));
      const vec<T> result = finish(simd::load(from + i), static_cast<int>(lane));
      if (w_.out_step == 1)
        simd::store_n(to + i, result, count);
      else
        store_apart(result, to, i, static_cast<int>(smaller(elements_ - i, kV)));
    }
  }

  void store_apart(vec<T> result, S* to, index_t i, int count) const {
    if (layout_.pixel == 1) {
      const index_t step = w_.out_step * result_.column_step;
      for (int j = 0; j < count; ++j) simd::store_one(to + (i + j) * step, static_cast<T>(result[j]));
      return;
    }
    for (int j = 0; j < count; ++j) {
      const index_t pixel = (i + j) / layout_.pixel, channel = (i + j) % layout_.pixel;
      simd::store_one(to + pixel * w_.out_step * result_.column_step + channel, static_cast<T>(result[j]));
    }
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const FlatLayout layout_;
  const index_t columns_, elements_, period_;
  T *panel_, *weights_, *bias_, *staged_, *sums_;
  index_t staged_begin_ = 0, staged_end_ = 0;  // units whose weights are staged
  index_t* offsets_;
  FlatBlock<T> block_{};
  const T* origin_ = nullptr;  // of the block's first source row
  const S* unit_source_ = nullptr;
  S* unit_result_ = nullptr;
  index_t result_row_step_ = 0, output_weights_ = 0;
  FlatFunction<T> tiles_ = nullptr;
  index_t tile_rows_ = 1, unit_ = 0, first_column_ = 0;
  Range rows_inside_{};
  FlatRow<S> source_row_{};
  FlatPanel split_{};
  bool finite_ = true, shared_ = false, adjacent_rows_ = false, copies_ = false, plain_ = false;
  bool in_place_ = false, images_ = false, strips_ = false, cleared_ = false;
};

// Planes, of a task that may compute all classes of their rows.
template <class S>
class FlatPlanes {
 public:
  explicit FlatPlanes(const Task& task) : task_(task) {}

  void run() const {
    if (!task_.tile->all_rows) return Flat<S, Layout::nchw>(task_).run();
    const Spec& s = *task_.spec;
    constexpr auto split = depthwise::Dilation::split;
    Task part = task_;
    for (index_t r = 0, n = class_count(s.op, s.h, split); r < n; ++r) {
      part.h = axis_class(s.op, s.h, split, r);
      part.row_begin = 0, part.row_end = part.h.out_count;
      Flat<S, Layout::nchw>(part).run();
    }
  }

 private:
  const Task& task_;
};

}  // namespace
