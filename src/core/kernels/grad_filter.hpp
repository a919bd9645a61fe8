// The filter gradient: blocks of input and gradient rows are packed, and every tap sums their products.
//
// A task owns its units' sums, so nothing is shared between threads. A block's sums run plainly, blocks are
// added with compensation, and the parts of a unit that several tasks summed are added in order: the result
// does not depend on the number of threads, and its error does not grow with the batch.
#pragma once

#include "flat_pack.hpp"
#include "generic.hpp"
#include "grad_layout.hpp"
#include "grad_tile.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::GradBlocks;
using depthwise::GradLayout;
using depthwise::Spec;
using depthwise::Task;

// kLines: channels in the lanes; else a row's columns, and its channels where they are few.
template <class S, Layout kLayout, bool kLines>
class GradFilter {
 public:
  explicit GradFilter(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        layout_(grad_layout(spec_, *task.tile, h_, w_, kLines, kV)),
        blocks_(grad_blocks(spec_, *task.tile, class_count(spec_.op, spec_.h, depthwise::Dilation::split),
                            h_.out_count)),
        x_image_(input_image(spec_)),
        grad_image_(output_image(spec_)),
        unit_(task.unit_begin) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t elements) {
      T* const part = at;
      at += elements;
      return part;
    };
    ring_ = take(layout_.slots * layout_.x_row);
    zeros_ = take(layout_.x_row);
    grad_ = take(task.tile->rows * layout_.outputs * layout_.grad_row);
    sums_ = take(layout_.sums);
    totals_ = take(layout_.sums);
    lost_ = take(layout_.sums);
    x_rows_ = reinterpret_cast<const T**>(at);
    grad_rows_ = x_rows_ + task.tile->rows * h_.taps;
    offsets_ = reinterpret_cast<index_t*>(grad_rows_ + task.tile->rows * layout_.outputs);
  }

  void run() {
    clear(totals_, layout_.sums);
    clear(lost_, layout_.sums);
    if (task_.reduce) {
      for (index_t p = 0; p < task_.parts; ++p)
        add_compensated(reinterpret_cast<const T*>(task_.sums + task_.sums_offset + p * task_.sums_step),
                        layout_.sums, totals_, lost_);
      return write();
    }
    clear(zeros_, layout_.x_row);
    find_offsets();
    for (index_t block = task_.block_begin; block < task_.block_end; ++block) {
      enter(block);
      if (rows_ > 0) sum_block();
    }
    if (task_.parts == 1) return write();
    T* to = reinterpret_cast<T*>(task_.sums + task_.sums_offset);
    for (index_t i = 0; i < layout_.sums; ++i) to[i] = totals_[i];
  }

 private:
  using T = compute_t<S>;
  static constexpr int kV = kLanes<T>, kL = kLine<T>;
  static constexpr int kMaxVectors = kLines ? kL / kV : 1;

  static void clear(T* to, index_t elements) {
    for (index_t i = 0; i < elements; ++i) to[i] = 0;
  }

  index_t lane() const { return unit_ * kL; }
  int valid() const {
    const index_t rest = grad_image_.channels - lane();
    return static_cast<int>(rest < kL ? rest : kL);
  }

  void find_offsets() {
    for (index_t k = 0; k < w_.taps; ++k) {
      const index_t position = w_.spacing * k;
      offsets_[k] = kLines ? position * kL
                           : position % w_.stride * layout_.segment + position / w_.stride * layout_.pixel;
    }
  }

  // Decodes a block and, where it does not follow its predecessor in the same image and columns, starts anew.
  void enter(index_t block) {
    const index_t row_block = block % blocks_.row_blocks, strip = block / blocks_.row_blocks;
    const index_t column_block = strip % blocks_.column_blocks, image = strip / blocks_.column_blocks;
    if (strip != strip_) {
      strip_ = strip;
      batch_ = image / blocks_.classes;
      h_ = axis_class(spec_.op, spec_.h, depthwise::Dilation::split, image % blocks_.classes);
      column_ = column_block * task_.tile->columns;
      const index_t rest = spec_.w.out - column_;
      columns_ = rest < task_.tile->columns ? rest : task_.tile->columns;
      find_columns();
      clear(ring_, layout_.slots * layout_.x_row);
      clear(grad_, task_.tile->rows * layout_.outputs * layout_.grad_row);
      packed_ = h_.stride * row_block * task_.tile->rows;
    }
    row_ = row_block * task_.tile->rows;
    const index_t rest = h_.out_count - row_;
    rows_ = rest < task_.tile->rows ? rest : task_.tile->rows;
  }

  void find_columns() {
    first_column_ = w_.source(w_.stride * column_);
    const index_t step = w_.src_step, count = w_.span(columns_);
    const auto ceil_div = [step](index_t a) { return a <= 0 ? 0 : (a + step - 1) / step; };
    const index_t begin = ceil_div(-first_column_), end = ceil_div(w_.src_size - first_column_);
    inside_end_ = end < count ? end : count;
    inside_begin_ = begin < inside_end_ ? begin : inside_end_;
  }

  void sum_block() {
    const index_t begin = h_.stride * row_, end = begin + (rows_ - 1) * h_.stride + h_.taps;
    for (packed_ = packed_ > begin ? packed_ : begin; packed_ < end; ++packed_)
      if (h_.inside(h_.source(packed_))) pack_input(packed_);
    for (index_t j = 0; j < rows_; ++j) pack_gradient(j);
    const bool holed = grad_finite_ && (w_.taps == 7 || w_.taps > 8);
    find_rows(holed);
    for (index_t o = 0; o < layout_.outputs; ++o) {
      if constexpr (kLines)
        sum_lines(holed);
      else
        sum_flat(o, holed);
    }
    add_compensated(sums_, layout_.sums, totals_, lost_);
  }

  T* slot(index_t position) const { return ring_ + position % layout_.slots * layout_.x_row; }
  T* grad_row(index_t j, index_t o) const { return grad_ + (j * layout_.outputs + o) * layout_.grad_row; }

  static bool finite(const T* from, index_t elements) {
    vec<T> probe = {};
    index_t i = 0;
    for (; i + kV <= elements; i += kV) probe += simd::load(from + i) * T(0);
    T sum = 0;
    for (int l = 0; l < kV; ++l) sum += probe[l];
    for (; i < elements; ++i) sum += from[i] * T(0);
    return sum == 0;
  }

  void pack_input(index_t position) {
    const index_t column = first_column_ + w_.src_step * inside_begin_, count = inside_end_ - inside_begin_;
    const S* data = static_cast<const S*>(task_.operands.a);
    if constexpr (kLines) {
      const Lanes lanes = spec_.multiplier == 1 ? Lanes::same : Lanes::repeated;
      LineSource<S, kLayout>{data, x_image_, lanes, spec_.multiplier}.pack(
          batch_, h_.source(position), column, w_.src_step, count, lane(), valid(), 0,
          slot(position) + inside_begin_ * kL);
    } else {
      const index_t plane = kLayout == Layout::nchw ? unit_ * x_image_.channel_step : 0;
      const S* first = data + batch_ * x_image_.batch_step + h_.source(position) * x_image_.row_step +
                       column * x_image_.column_step + plane;
      const index_t repeat = kLayout == Layout::nhwc ? spec_.multiplier : 1;
      const FlatRow<S> row{data + x_image_.batch_step * spec_.batch,
                           w_.src_step * x_image_.column_step,
                           inside_begin_,
                           inside_end_,
                           repeat,
                           1};
      pack_flat(row, first, {w_.stride, layout_.phases, layout_.segment, layout_.pixel}, slot(position));
      input_finite_ = input_finite_ && finite(slot(position), layout_.x_row);
    }
  }

  void pack_gradient(index_t j) {
    const index_t row = h_.out_start + h_.out_step * (row_ + j);
    const S* data = static_cast<const S*>(task_.operands.b);
    for (index_t o = 0; o < layout_.outputs; ++o) {
      if constexpr (kLines) {
        LineSource<S, kLayout>{data, grad_image_, Lanes::same, 1}.pack(batch_, row, column_, 1, columns_,
                                                                       lane(), valid(), 0, grad_row(j, o));
      } else {
        const index_t plane =
            kLayout == Layout::nchw ? (unit_ * layout_.outputs + o) * grad_image_.channel_step : 0;
        const S* first = data + batch_ * grad_image_.batch_step + row * grad_image_.row_step +
                         column_ * grad_image_.column_step + plane;
        pack_contiguous(first, data + grad_image_.batch_step * spec_.batch, columns_ * layout_.pixel,
                        grad_row(j, o));
      }
      grad_finite_ = grad_finite_ && finite(grad_row(j, o), columns_ * layout_.pixel);
    }
  }

  // Input rows outside the image are null when that may drop them: zeros against a finite gradient.
  void find_rows(bool holed) {
    for (index_t j = 0; j < rows_; ++j) {
      for (index_t t = 0; t < h_.taps; ++t) {
        const index_t position = h_.stride * (row_ + j) + t;
        const bool inside = h_.inside(h_.source(position));
        x_rows_[j * h_.taps + t] = inside ? slot(position) : holed ? nullptr : zeros_;
      }
      for (index_t o = 0; o < layout_.outputs; ++o) grad_rows_[o * task_.tile->rows + j] = grad_row(j, o);
    }
  }

  GradBlock<T> block() const {
    GradBlock<T> b{};
    b.x = x_rows_;
    b.x_rows_step = h_.taps;
    b.offsets = offsets_;
    b.grad = grad_rows_;
    b.rows = rows_;
    b.sums = sums_;
    b.sum_row = w_.taps * layout_.tap;
    b.sum_step = layout_.tap;
    return b;
  }

  void sum_lines(bool holed) const {
    GradBlock<T> b = block();
    b.x_step = w_.stride * kL;
    b.grad_step = kL;
    b.steps = columns_;
    b.lanes = kL;
    grad_taps<T, kMaxVectors>(b, h_.taps, w_.taps, holed);
  }

  // Vectors p, p + period, ... of a row share their channels. The last vector may be partial: its gradient
  // lanes past the end are 0, which drops them unless the input there is not finite.
  void sum_flat(index_t o, bool holed) const {
    const index_t elements = columns_ * layout_.pixel, period = task_.tile->period;
    const index_t vectors = input_finite_ ? (elements + kV - 1) / kV : elements / kV;
    const index_t taps = h_.taps * w_.taps * layout_.tap;
    for (index_t p = 0; p < period; ++p) {
      GradBlock<T> b = block();
      b.grad += o * task_.tile->rows;
      b.sums += o * taps + p * kV;
      b.x_step = b.grad_step = period * kV;
      b.steps = p < vectors ? (vectors - p + period - 1) / period : 0;
      b.lanes = kV;
      shift(b, p * kV);
      grad_taps<T, kMaxVectors>(b, h_.taps, w_.taps, holed);
      shift(b, -p * kV);
    }
    if (vectors * kV < elements) sum_tail(o, vectors * kV, elements);
  }

  // Moves the block's rows along by `elements`.
  void shift(const GradBlock<T>& b, index_t elements) const {
    for (index_t i = 0; i < rows_ * h_.taps; ++i)
      if (x_rows_[i]) x_rows_[i] += elements;
    const T** rows = const_cast<const T**>(b.grad);
    for (index_t j = 0; j < rows_; ++j) rows[j] += elements;
  }

  void sum_tail(index_t o, index_t begin, index_t end) const {
    const index_t lane = begin % (task_.tile->period * kV);
    for (index_t j = 0; j < rows_; ++j)
      for (index_t t = 0; t < h_.taps; ++t)
        for (index_t k = 0; k < w_.taps && x_rows_[j * h_.taps + t]; ++k)
          for (index_t i = begin; i < end; ++i) {
            T& sum = sums_[((o * h_.taps + t) * w_.taps + k) * layout_.tap + lane + i - begin];
            sum = simd::fma(x_rows_[j * h_.taps + t][offsets_[k] + i], grad_row(j, o)[i], sum);
          }
  }

  void write() const {
    const index_t taps = spec_.h.kernel * spec_.w.kernel, channels = grad_image_.channels;
    S* const filter = static_cast<S*>(task_.operands.out);
    for (index_t o = 0; o < layout_.outputs; ++o)
      for (index_t t = 0; t < taps; ++t) {
        const T* total = totals_ + (o * taps + t) * layout_.tap;
        S* to = filter + t * channels;
        if constexpr (kLines) {
          for (int v = 0; v < valid(); v += kV)
            simd::store_n(to + lane() + v, simd::load(total + v), valid() - v);
        } else {
          const index_t first = kLayout == Layout::nchw ? unit_ * layout_.outputs + o : 0;
          for (index_t c = 0; c < layout_.pixel; ++c) {
            T sum = 0;
            for (index_t i = c; i < layout_.tap; i += layout_.pixel) sum += total[i];
            simd::store_one(to + first + c, sum);
          }
        }
      }
  }

  const Task& task_;
  const Spec& spec_;
  AxisClass h_;
  const AxisClass& w_;
  const GradLayout layout_;
  const GradBlocks blocks_;
  const Image x_image_, grad_image_;
  const index_t unit_;
  T *ring_, *zeros_, *grad_, *sums_, *totals_, *lost_;
  const T** x_rows_;
  const T** grad_rows_;
  index_t* offsets_;
  index_t strip_ = -1, batch_ = 0, column_ = 0, columns_ = 0, row_ = 0, rows_ = 0, packed_ = 0;
  index_t first_column_ = 0, inside_begin_ = 0, inside_end_ = 0;
  bool input_finite_ = true, grad_finite_ = true;
};

// One filter tap at a time, whatever the problem.
template <class S>
class GenericGradFilter {
 public:
  explicit GenericGradFilter(const Task& task)
      : task_(task), spec_(*task.spec), x_image_(input_image(spec_)), grad_image_(output_image(spec_)) {}

  void run() const {
    const index_t channels = grad_image_.channels;
    S* to = static_cast<S*>(task_.operands.out);
    for (index_t t = 0; t < spec_.h.kernel; ++t)
      for (index_t k = 0; k < spec_.w.kernel; ++k, to += channels)
        for (index_t o = task_.unit_begin; o < task_.unit_end; ++o) simd::store_one(to + o, sum(t, k, o));
  }

 private:
  using T = compute_t<S>;

  // Rows are added with compensation, as in the other kernels.
  T sum(index_t t, index_t k, index_t o) const {
    T total = 0, lost = 0;
    for (index_t n = 0; n < spec_.batch; ++n)
      for (index_t i = 0; i < spec_.h.out; ++i) {
        const T y = row_sum(n, i, t, k, o) - lost, next = total + y, error = (next - total) - y;
        lost = error == error ? error : 0;
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
