// The filter gradient: every tap sums the products of the positions that it reads with the gradient.
//
// A task owns its units' sums, so nothing is shared between threads. A block's sums run plainly, blocks are
// added with compensation, and the parts of a unit that several tasks summed are added in order: the result
// does not depend on the number of threads, and its error does not grow with the batch.
//
// Only products inside the image are summed, and some lanes multiply zeros with what lies beside a row. Where
// that could matter, with something infinite or NaN, the sums show it, and the channel is done again one
// product at a time, with the padding.
#pragma once

#include "flat_pack.hpp"
#include "generic.hpp"
#include "grad_layout.hpp"
#include "grad_strip.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Dilation;
using depthwise::GradBlocks;
using depthwise::GradForm;
using depthwise::GradLayout;
using depthwise::smaller;
using depthwise::Spec;
using depthwise::Task;

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

template <class S, Layout kLayout, GradForm kForm>
class GradFilter {
 public:
  explicit GradFilter(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        layout_(grad_layout(spec_, *task.tile, h_, w_, kForm, kV)),
        blocks_(grad_blocks(spec_, *task.tile, h_, w_, class_count(spec_.op, spec_.h, Dilation::split),
                            class_count(spec_.op, spec_.w, kColumns))),
        x_image_(input_image(spec_)),
        grad_image_(output_image(spec_)),
        units_(task.unit_end - task.unit_begin) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t elements) {
      T* const part = at;
      at += elements;
      return part;
    };
    x_panel_ = take(task.tile->images * layout_.x_rows * layout_.x_row);
    grad_panel_ = take(task.tile->images * layout_.grad_rows * layout_.grad_row);
    sums_ = take(layout_.running * layout_.sums);
    totals_ = take(units_ * layout_.sums);
    lost_ = take(units_ * layout_.sums);
    runs_ = reinterpret_cast<GradRun<T>*>(at);
    offsets_ = reinterpret_cast<index_t*>(runs_ + task.tile->images);
  }

  void run() {
    const index_t all = units_ * layout_.sums;
    clear(totals_, 2 * all);
    if (task_.reduce) {
      for (index_t p = 0; p < task_.parts; ++p)
        add_compensated(reinterpret_cast<const T*>(task_.sums + task_.sums_offset + p * task_.sums_step), all,
                        totals_, lost_);
      return write();
    }
    if constexpr (kDirect) {
      sum_in_place();
    } else {
      for (index_t block = task_.block_begin; block < task_.block_end; ++block)
        if (enter(block))
          for (unit_ = task_.unit_begin; unit_ < task_.unit_end; ++unit_) sum_unit();
    }
    if (task_.parts == 1) return write();
    T* to = reinterpret_cast<T*>(task_.sums + task_.sums_offset);
    for (index_t i = 0; i < all; ++i) to[i] = totals_[i];
  }

 private:
  using T = compute_t<S>;
  static constexpr int kV = kLanes<T>, kL = kLine<T>;
  static constexpr bool kFlat = kForm == GradForm::flat, kDirect = kForm == GradForm::direct;
  static constexpr Dilation kColumns = kFlat ? Dilation::keep : Dilation::split;

  static void clear(T* to, index_t elements) {
    for (index_t i = 0; i < elements; ++i) to[i] = 0;
  }
  static index_t clamp(index_t x, index_t most) { return x < 0 ? 0 : smaller(x, most); }

  // Decodes a block; false when no tap reads anything in it.
  bool enter(index_t block) {
    const auto next = [&block](index_t count) {
      const index_t i = block % count;
      block /= count;
      return i;
    };
    const depthwise::Tile& tile = *task_.tile;
    const index_t row_block = next(blocks_.row_blocks), column_block = next(blocks_.column_blocks);
    w_ = axis_class(spec_.op, spec_.w, kColumns, next(blocks_.column_classes));
    h_ = axis_class(spec_.op, spec_.h, Dilation::split, next(blocks_.row_classes));
    batch_ = block * tile.images;
    images_ = smaller(tile.images, spec_.batch - batch_);
    column_ = column_block * tile.columns;
    columns_ = smaller(tile.columns, w_.out_count - column_);
    if (columns_ <= 0) return false;
    columns_inside_ = range_inside(w_, w_.stride * column_, w_.span(columns_));
    find_rows(row_block * tile.rows, tile.rows);
    if (begin_ >= end_ || columns_inside_.begin >= columns_inside_.end) return false;
    find_offsets();
    if (kFlat && column_ != cleared_) {  // margins and slack stay 0
      clear(x_panel_, grad_panel_elements(layout_, tile));
      cleared_ = column_;
    }
    find_runs();
    return true;
  }

  // The block's positions inside the image, and the gradient rows that meet them.
  void find_rows(index_t begin, index_t count) {
    const Range inside = range_inside(h_, 0, h_.span(h_.out_count));
    begin_ = inside.begin + begin;
    end_ = smaller(begin_ + count, inside.end);
    const index_t first = begin_ - h_.taps + h_.stride;  // ceil((begin - taps + 1) / stride)
    grad_begin_ = first <= 0 ? 0 : first / h_.stride;
    grad_end_ = smaller((end_ - 1) / h_.stride + 1, h_.out_count);
  }

  void find_offsets() {
    for (index_t k = 0; k < w_.taps; ++k) {
      const index_t position = w_.spacing * k;
      offsets_[k] = kDirect  ? position * w_.src_step * x_image_.column_step
                    : !kFlat ? position * kL
                             : position % w_.stride * layout_.segment + position / w_.stride * layout_.pixel;
    }
  }

  const S* input_row(index_t image, index_t position) const {
    return static_cast<const S*>(task_.operands.a) + (batch_ + image) * x_image_.batch_step +
           h_.source(position) * x_image_.row_step;
  }
  const S* gradient_row(index_t image, index_t u) const {
    return static_cast<const S*>(task_.operands.b) + (batch_ + image) * grad_image_.batch_step +
           (h_.out_start + h_.out_step * u) * grad_image_.row_step +
           (w_.out_start + w_.out_step * column_) * grad_image_.column_step;
  }
  T* packed_input(index_t image, index_t position) const {
    return x_panel_ + (image * layout_.x_rows + position - begin_) * layout_.x_row;
  }
  T* packed_gradient(index_t image, index_t u) const {
    return grad_panel_ + (image * layout_.grad_rows + u - grad_begin_) * layout_.grad_row;
  }

  void find_runs() {
    for (index_t i = 0; i < images_; ++i) {
      GradRun<T>& run = runs_[i];
      run.begin = begin_, run.end = end_;
      if constexpr (kDirect && sizeof(S) == sizeof(T)) {
        run.x = input_row(i, 0) + w_.source(w_.stride * column_) * x_image_.column_step;
        run.grad = gradient_row(i, 0);
        run.next_x = reinterpret_cast<std::uintptr_t>(run.x + begin_ * h_.src_step * x_image_.row_step);
        run.next_grad = reinterpret_cast<std::uintptr_t>(gradient_row(i, grad_begin_));
      } else {
        run.x = packed_input(i, 0) - (kFlat ? 0 : columns_inside_.begin * kL);
        run.grad = packed_gradient(i, 0);
      }
    }
  }

  // What follows the current unit in its block, or else the first unit of the next block, roughly.
  void find_next() {
    const bool last = unit_ + 1 == task_.unit_end;
    const index_t unit = last ? task_.unit_begin : unit_ + 1,
                  rows = blocks_.row_blocks > 1 ? task_.tile->rows : 0;
    const index_t images = last && rows == 0 ? task_.tile->images : 0;
    const index_t u = last && rows > 0 ? rows / h_.stride : 0, position = begin_ + u * h_.stride;
    const index_t column = w_.source(w_.stride * column_ + columns_inside_.begin);
    const auto address = [](const S* p) { return reinterpret_cast<std::uintptr_t>(p); };
    for (index_t i = 0; i < images_; ++i) {
      runs_[i].next_x = address(input_row(i + images, position) + column * x_image_.column_step +
                                unit_offset(unit, x_image_, spec_.multiplier));
      runs_[i].next_grad =
          address(gradient_row(i + images, grad_begin_ + u) + unit_offset(unit, grad_image_, 1));
    }
  }

  // Where a unit's channels begin; `repeat` output channels share one of the image.
  index_t unit_offset(index_t unit, const Image& image, index_t repeat) const {
    if (kFlat)
      return kLayout == Layout::nchw ? unit * image.channels / x_image_.channels * image.channel_step : 0;
    return unit * kL / repeat * image.channel_step;
  }

  void sum_unit() {
    find_next();
    const index_t at = (unit_ - task_.unit_begin) * layout_.sums;
    clear(sums_, layout_.sums);
    for (index_t i = 0; i < images_; ++i) pack_input(i);
    for (index_t o = 0; o < layout_.outputs; ++o) {
      for (index_t i = 0; i < images_; ++i) pack_gradient(i, o);
      if constexpr (kFlat)
        sum_flat(o);
      else
        for (int v = 0; v < kL; v += kV)
          if (lane() + v < grad_image_.channels) sum_lines(v);
    }
    add_compensated(sums_, layout_.sums, totals_ + at, lost_ + at);
  }

  index_t lane() const { return unit_ * kL; }
  int valid() const { return static_cast<int>(smaller(grad_image_.channels - lane(), kL)); }

  void pack_input(index_t image) const {
    const index_t begin = columns_inside_.begin, count = columns_inside_.end - begin;
    const index_t column = w_.source(w_.stride * column_) + w_.src_step * begin;
    const S* data = static_cast<const S*>(task_.operands.a);
    if constexpr (kFlat) {
      const index_t plane = kLayout == Layout::nchw ? unit_ * x_image_.channel_step : 0;
      const FlatRow<S> row{data + x_image_.batch_step * spec_.batch,
                           w_.src_step * x_image_.column_step,
                           begin,
                           columns_inside_.end,
                           kLayout == Layout::nhwc ? spec_.multiplier : 1,
                           1};
      pack_flat(row, input_row(image, begin_) + column * x_image_.column_step + plane,
                {w_.stride, layout_.phases, layout_.segment, layout_.pixel}, packed_input(image, begin_),
                end_ - begin_, h_.src_step * x_image_.row_step, layout_.x_row);
    } else {
      const Lanes lanes = spec_.multiplier == 1 ? Lanes::same : Lanes::repeated;
      const LineSource<S, kLayout> source{data, x_image_, lanes, spec_.multiplier};
      const bool adjacent = kLayout == Layout::nchw && count == spec_.w.in && w_.src_step == 1 &&
                            h_.src_step == 1 &&
                            layout_.x_row == count * kL;  // rows follow each other, here and there
      const index_t rows = adjacent ? end_ - begin_ : 1;
      for (index_t p = begin_; p < end_; p += rows)
        source.pack(batch_ + image, h_.source(p), column, w_.src_step, rows * count, lane(), valid(), 0,
                    packed_input(image, p));
    }
  }

  void pack_gradient(index_t image, index_t o) const {
    const S* data = static_cast<const S*>(task_.operands.b);
    const bool adjacent = kLayout == Layout::nchw && columns_ == spec_.w.out && w_.out_step == 1 &&
                          h_.out_step == 1 && layout_.grad_row == columns_ * kL;
    const index_t rows = !kFlat && adjacent ? grad_end_ - grad_begin_ : 1;
    for (index_t u = grad_begin_; u < grad_end_; u += rows) {
      if constexpr (kFlat) {
        const index_t plane =
            kLayout == Layout::nchw ? (unit_ * layout_.outputs + o) * grad_image_.channel_step : 0;
        pack_contiguous(gradient_row(image, u) + plane, data + grad_image_.batch_step * spec_.batch,
                        columns_ * layout_.pixel, packed_gradient(image, u));
      } else {
        LineSource<S, kLayout>{data, grad_image_, Lanes::same, 1}.pack(
            batch_ + image, h_.out_start + h_.out_step * u, w_.out_start + w_.out_step * column_, w_.out_step,
            rows * columns_, lane(), valid(), 0, packed_gradient(image, u));
      }
    }
  }

  GradBlock<T> block() const {
    GradBlock<T> b{};
    b.runs = runs_;
    b.run_count = images_;
    b.stride = h_.stride;
    b.grad_begin = grad_begin_, b.grad_end = grad_end_;
    b.x_row = kDirect ? h_.src_step * x_image_.row_step : layout_.x_row;
    b.grad_row = kDirect ? h_.out_step * grad_image_.row_step : layout_.grad_row;
    constexpr index_t bytes = sizeof(S);
    const bool planes =
        !kFlat && kLayout == Layout::nchw;  // a unit's planes are adjacent: fetched line by line
    b.next_x_row = planes ? spec_.w.in * kL * bytes : h_.src_step * x_image_.row_step * bytes;
    b.next_grad_row = planes ? spec_.w.out * kL * bytes : h_.out_step * grad_image_.row_step * bytes;
    b.offsets = offsets_;
    b.sums = sums_;
    b.sum_row = w_.taps * layout_.tap;
    b.sum_step = layout_.tap;
    return b;
  }

  index_t taps_from(index_t j) const { return clamp(columns_inside_.begin - w_.stride * j, w_.taps); }
  index_t taps_end(index_t j) const { return clamp(columns_inside_.end - w_.stride * j, w_.taps); }

  // How many columns from j on, at most `most`, the same taps read inside the image.
  index_t alike(index_t j, index_t most) const {
    const index_t from = taps_from(j), end = taps_end(j), last = smaller(columns_, j + most);
    index_t i = j + 1;
    while (i < last && taps_from(i) == from && taps_end(i) == end) ++i;
    return i - j;
  }

  // A strip of one column would load and store its sums for every column.
  bool strips() const {
    return kStripColumns > 1 && h_.taps == 3 && w_.taps == 3 && h_.stride == w_.stride && w_.stride <= 2;
  }

  // The sums of the block's columns, from column j of the panel on.
  void add_columns(const GradBlock<T>& b, index_t j) const {
    if constexpr (kStripColumns > 1)
      if (strips())
        return grad_strips<T>(b, columns_inside_.begin - w_.stride * j, columns_inside_.end - w_.stride * j);
    grad_taps<T>(b, h_.taps, taps_from(j), taps_end(j));
  }

  // Columns with the same taps go together; strips know of edges.
  void sum_lines(int v) const {
    GradBlock<T> b = block();
    b.pixel = kL;
    b.x_step = w_.stride * kL;
    b.grad_step = kL;
    constexpr bool planes = kLayout == Layout::nchw;
    b.next_pixel = w_.src_step * static_cast<index_t>(sizeof(S)) * (planes ? kL : x_image_.column_step);
    b.next_x_step = w_.stride * b.next_pixel;
    b.next_grad_step =
        w_.out_step * static_cast<index_t>(sizeof(S)) * (planes ? kL : grad_image_.column_step);
    b.sums += v;
    for (index_t j = 0; j < columns_; j += b.columns) {
      b.next_x_first = j * b.next_x_step;
      b.next_grad_first = j * b.next_grad_step;
      b.columns = strips() ? columns_ : alike(j, columns_);
      b.x_first = v + j * b.x_step;
      b.grad_first = v + j * b.grad_step;
      add_columns(b, j);
    }
  }

  // In the order of memory: all channels of a few columns, then the next columns. Sums run over several
  // blocks where these are small.
  void sum_in_place() {
    constexpr index_t kPositions = 512;
    const index_t all = units_ * layout_.sums;
    clear(sums_, all);
    index_t positions = 0;
    for (index_t block = task_.block_begin; block < task_.block_end; ++block) {
      if (enter(block)) {
        sum_block();
        positions += (end_ - begin_) * columns_;
      }
      if (positions < kPositions && block + 1 < task_.block_end) continue;
      add_compensated(sums_, all, totals_, lost_);
      clear(sums_, all);
      positions = 0;
    }
  }

  void sum_block() const {
    constexpr index_t kColumns = 8;  // whose lines stay in the first-level cache
    GradBlock<T> b = block();
    b.pixel = w_.src_step * x_image_.column_step;
    b.x_step = w_.stride * b.pixel;
    b.grad_step = w_.out_step * grad_image_.column_step;
    b.next_pixel = b.pixel * static_cast<index_t>(sizeof(S));
    b.next_x_step = b.x_step * static_cast<index_t>(sizeof(S));
    b.next_grad_step = b.grad_step * static_cast<index_t>(sizeof(S));
    for (index_t j = 0; j < columns_; j += b.columns) {
      b.columns = strips() ? smaller(kColumns, columns_ - j) : alike(j, kColumns);
      sum_columns(b, j);
    }
  }

  // All channels of the block's columns, from j on. What follows, a few lines ahead, is fetched.
  void sum_columns(GradBlock<T> b, index_t j) const {
    constexpr index_t kLines = 3, lines = kL / kV;
    const index_t first = task_.unit_begin * kL,
                  channels = smaller(task_.unit_end * kL, grad_image_.channels),
                  vectors = (channels - first + kV - 1) / kV;
    T* const sums = b.sums;
    for (index_t i = 0; i < vectors; ++i) {
      const index_t channel = smaller(first + i * kV, grad_image_.channels - kV);
      const index_t next = i + kLines * lines, chunks = next / vectors, ahead = (next % vectors - i) * kV;
      constexpr index_t bytes = sizeof(S);
      b.x_first = channel + j * b.x_step;
      b.grad_first = channel + j * b.grad_step;
      b.next_x_first = (b.x_first + chunks * b.columns * b.x_step + ahead) * bytes;
      b.next_grad_first = (b.grad_first + chunks * b.columns * b.grad_step + ahead) * bytes;
      b.sums = sums + i / lines * layout_.sums + i % lines * kV;
      add_columns(b, j);
    }
  }

  // Vectors p, p + period, ... of a row share their channels.
  void sum_flat(index_t o) const {
    const index_t period = task_.tile->period, vectors = (columns_ * layout_.pixel + kV - 1) / kV;
    GradBlock<T> b = block();
    b.x_step = b.grad_step = period * kV;
    b.next_grad_step = b.grad_step * static_cast<index_t>(sizeof(S));
    b.next_x_step = b.next_grad_step * w_.stride;
    b.sums += o * h_.taps * w_.taps * layout_.tap;
    for (index_t p = 0; p < period && p < vectors; ++p, b.sums += kV) {
      b.columns = (vectors - p + period - 1) / period;
      b.x_first = b.grad_first = p * kV;
      grad_taps<T>(b, h_.taps, 0, w_.taps);
    }
  }

  // Some gradient may meet padding alone, and then no sum tells whether it is finite.
  static bool all_seen(const depthwise::Axis& a) {
    const auto seen = [&a](index_t i) {
      const index_t first = a.stride * i - a.pad,
                    before = first < 0 ? (-first + a.dilation - 1) / a.dilation : 0;
      return before < a.kernel && first + before * a.dilation < a.in;
    };
    bool all = true;
    for (index_t i = 0; i < a.out; ++i) all = all && seen(i);
    return all;
  }

  void write() const {
    const bool seen = all_seen(spec_.h) && all_seen(spec_.w);
    const bool planes = kFlat && kLayout == Layout::nchw && layout_.outputs == 1;
    for (index_t unit = 0; unit < units_; unit += planes ? kV : 1) {
      if (planes)
        write_planes(unit, seen);
      else if constexpr (kFlat)
        write_flat(unit, seen);
      else
        write_lines(unit, seen);
    }
  }

  // A channel whose sums are `probe`, 0 where all are finite, is done again unless padding cannot matter.
  void check(index_t channel, T probe, bool seen) const {
    const GenericGradFilter<S> exact(task_);
    if (probe != 0 || !(seen || exact.finite(channel))) exact.run_channel(channel);
  }

  void write_lines(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel, channels = grad_image_.channels;
    const index_t first = (task_.unit_begin + unit) * kL;
    for (index_t v = 0; v < kL && first + v < channels; v += kV) {
      const int count = static_cast<int>(smaller(channels - first - v, kV)), skip = kDirect ? kV - count : 0;
      const T* total = totals_ + unit * layout_.sums + v;
      S* to = static_cast<S*>(task_.operands.out) + first + v;
      vec<T> probe = {};
      for (index_t t = 0; t < taps; ++t, to += channels, total += layout_.tap) {
        const vec<T> sum = skip > 0 ? simd::load_n(total + skip, count) : simd::load(total);
        probe += sum * T(0);
        simd::store_n(to, sum, count);
      }
      for (int i = 0; i < count; ++i) check(first + v + i, probe[i], seen);
    }
  }

  void write_flat(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel;
    for (index_t o = 0; o < layout_.outputs; ++o)
      for (index_t c = 0; c < layout_.pixel; ++c) {
        const index_t channel = ((task_.unit_begin + unit) * layout_.outputs + o) * layout_.pixel + c;
        S* to = static_cast<S*>(task_.operands.out) + channel;
        const T* total = totals_ + unit * layout_.sums + o * taps * layout_.tap;
        T probe = 0;
        for (index_t t = 0; t < taps; ++t, to += grad_image_.channels, total += layout_.tap) {
          const T sum = sum_channel(total, c);
          probe += sum * T(0);
          simd::store_one(to, sum);
        }
        check(channel, probe, seen);
      }
  }

  // A vector of planes at once, each one's lanes brought into a lane of their own.
  void write_planes(index_t unit, bool seen) const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel, first = task_.unit_begin + unit;
    const int count = static_cast<int>(smaller(units_ - unit, kV));
    S* to = static_cast<S*>(task_.operands.out) + first;
    const T* total = totals_ + unit * layout_.sums;
    vec<T> probe = {};
    for (index_t t = 0; t < taps; ++t, to += grad_image_.channels, total += layout_.tap) {
      vec<T> lanes[kV] = {};
      for (int i = 0; i < count; ++i) lanes[i] = simd::load(total + i * layout_.sums);
      transpose<T>(lanes);
#pragma GCC unroll 4
      for (int half = kV / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
      probe += lanes[0] * T(0);
      simd::store_n(to, lanes[0], count);
    }
    for (int i = 0; i < count; ++i) check(first + i, probe[i], seen);
  }

  T sum_channel(const T* total, index_t c) const {
    T sum = 0;
    for (index_t i = c; i < layout_.tap; i += layout_.pixel) sum += total[i];
    return sum;
  }

  const Task& task_;
  const Spec& spec_;
  AxisClass h_, w_;
  const GradLayout layout_;
  const GradBlocks blocks_;
  const Image x_image_, grad_image_;
  const index_t units_;
  T *x_panel_, *grad_panel_, *sums_, *totals_, *lost_;
  GradRun<T>* runs_;
  index_t* offsets_;
  index_t unit_ = 0, batch_ = 0, images_ = 0, cleared_ = -1;
  index_t column_ = 0, columns_ = 0, begin_ = 0, end_ = 0, grad_begin_ = 0, grad_end_ = 0;
  Range columns_inside_{};
};

}  // namespace
