// Channels in the vector lanes: packs a ring of source rows, one line of channels wide, and runs the tiles on
// it.
//
// Packing brings any layout, storage type and multiplier to one form, reads each source line once, and keeps
// the hot rows in adjacent cache lines where channel strides of a power of two would evict each other.
#pragma once

#include "line_layout.hpp"
#include "line_store.hpp"
#include "range.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::LineLayout;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Task;

template <class S, Layout kLayout>
class Lines {
 public:
  explicit Lines(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        source_{static_cast<const S*>(task.operands.a),
                spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_), lanes_of(spec_),
                spec_.multiplier},
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        layout_(line_layout(spec_, *task.tile, h_, w_)),
        columns_(task.column_end - task.column_begin),
        plain_(!task.operands.bias && spec_.activation == depthwise::Activation::none) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t lines) {
      T* const part = at;
      at += lines * kLine<T>;
      return part;
    };
    ring_ = take(layout_.ring);
    zeros_ = take(layout_.zeros);
    weights_ = take(layout_.weights);
    bias_ = take(layout_.bias);
    row_ = take(layout_.result);
    table_ = reinterpret_cast<const T**>(take(layout_.table));
  }

  void run() {
    find_columns();
    for (index_t unit = task_.unit_begin; unit < task_.unit_end; ++unit) {
      lane_ = unit * kL;
      const index_t rest = result_.channels - lane_;
      valid_ = static_cast<int>(rest < kL ? rest : kL);
      load_bias();
      finite_ = load_weights();
      if (!finite_) clear(zeros_, layout_.zeros), clear_margins();
      describe();
      run_blocks();
    }
  }

 private:
  using T = compute_t<S>;
  static constexpr int kL = kLine<T>;

  static Lanes lanes_of(const Spec& spec) {
    if (spec.multiplier == 1) return Lanes::same;
    return spec.op == Op::forward ? Lanes::repeated : Lanes::spread;
  }

  static void clear(T* to, index_t lines) {
    for (index_t i = 0; i < lines * kL; i += kLanes<T>) simd::store(to + i, vec<T>{});
  }

  // Which columns of the panel lie inside the source. The others are read only when a tap on zeros could make
  // a NaN.
  void find_columns() {
    first_column_ = w_.source(w_.stride * task_.column_begin);
    inside_ = range_inside(w_, w_.stride * task_.column_begin, layout_.panel_columns);
  }

  void clear_margins() const {
    for (index_t row = 0; row < layout_.slots * layout_.subrows; ++row) {
      T* const first = ring_ + row * layout_.panel_columns * kL;
      clear(first, inside_.begin);
      clear(first + inside_.end * kL, layout_.panel_columns - inside_.end);
    }
  }

  // -0 is the neutral element of addition: it leaves a sum of -0 alone.
  void load_bias() const {
    const S* bias = static_cast<const S*>(task_.operands.bias);
    for (int v = 0; v < kL; v += kLanes<T>)
      simd::store(bias_ + v, bias && valid_ > v ? simd::load_n(bias + lane_ + v, valid_ - v) : -vec<T>{});
  }

  // From the weights of one vector of channels to the next one's.
  index_t weight_vector() const { return h_.taps * layout_.subrows * w_.taps * kLanes<T>; }

  // Weights: [vector of channels][kernel row][subrow][tap][lane]. Whether all are finite, so that taps on
  // zeros can be skipped.
  bool load_weights() const {
    T* to = weights_;
    for (index_t t = 0; t < h_.taps; ++t)
      for (index_t q = 0; q < layout_.subrows; ++q)
        for (index_t k = 0; k < w_.taps; ++k, to += kLanes<T>)
          load_tap(h_.tap_start + h_.tap_step * t, q, w_.tap_start + w_.tap_step * k, to);
    vec<T> probe = {};
    for (const T *w = weights_, *end = w + kParts<T> * weight_vector(); w < end; w += kLanes<T>)
      probe += simd::load(w) * T(0);
    return simd::all_zero<T>(probe);
  }

  void load_tap(index_t row, index_t q, index_t column, T* to) const {
    const index_t outputs = spec_.channels * spec_.multiplier;
    const S* tap = static_cast<const S*>(task_.operands.b) + spec_.tap(row, column) * outputs;
#pragma GCC unroll 8
    for (int v = 0; v < kL; v += kLanes<T>, to += weight_vector())
      if (layout_.subrows == 1)
        simd::store(to, valid_ > v ? simd::load_n(tap + lane_ + v, valid_ - v) : vec<T>{});
      else
        for (int l = 0; l < kLanes<T>; ++l)
          to[l] = v + l < valid_ ? simd::load_one(tap + (lane_ + v + l) * spec_.multiplier + q) : 0;
  }

  void describe() {
    window_ = {.taps = w_.taps,
               .stride = w_.stride,
               .spacing = w_.spacing,
               .inside_begin = finite_ ? inside_.begin : 0,
               .inside_end = finite_ ? inside_.end : layout_.panel_columns,
               .pixel_step = kL,
               .row_taps = h_.taps * layout_.subrows,
               .row_stride = h_.stride * layout_.subrows,
               .weights = weights_,
               .weight_vector = weight_vector(),
               .weight_row = w_.taps * kLanes<T>,
               .weight_step = kLanes<T>,
               .out_step = kL,
               .out_row = columns_ * kL,
               .columns = columns_,
               .channels = kL,
               .fetch_ahead = 0,
               .stream = false};
    if constexpr (kLayout == Layout::nhwc && sizeof(S) == sizeof(T)) {
      in_place_ = plain_ && valid_ == kL;
      if (in_place_) {
        window_.out_step = w_.out_step * result_.column_step;
        window_.out_row = h_.out_step * result_.row_step;
      }
    }
    compute_ = DEPTHWISE_SYMBOL(windows)(window_, task_.tile->pixels);
  }

  // Output rows go by blocks of rows_at_once; row u reads positions stride*u to stride*u + taps.
  void run_blocks() {
    const index_t at_once = task_.tile->rows_at_once;
    index_t packed = h_.stride * task_.row_begin;
    RingSlot head{layout_.slots, 0};  // of the block's first position
    for (index_t u = task_.row_begin; u < task_.row_end; u += at_once) {
      const index_t count = task_.row_end - u < at_once ? task_.row_end - u : at_once;
      const index_t begin = h_.stride * u, end = begin + (count - 1) * h_.stride + h_.taps;
      packed = packed > begin ? packed : begin;
      pack_rows(packed, end, head.ahead(packed - begin));
      packed = end;
      find_rows(u, count, head);
      compute_block(u, count);
      if (u + at_once < task_.row_end) head = head.ahead(at_once * h_.stride);
    }
  }

  T* slot_row(RingSlot at, index_t q) const {
    return ring_ + (at.slot * layout_.subrows + q) * layout_.panel_columns * kL;
  }

  void pack_rows(index_t begin, index_t end, RingSlot at) const {
    const index_t column = first_column_ + w_.src_step * inside_.begin, count = inside_.end - inside_.begin;
    for (index_t position = begin; position < end; ++position, at = at.ahead(1)) {
      const index_t row = h_.source(position);
      if (!h_.inside(row)) continue;
      for (index_t q = 0; q < layout_.subrows; ++q)
        source_.pack(task_.batch, row, column, w_.src_step, count, lane_, valid_, q,
                     slot_row(at, q) + inside_.begin * kL);
    }
  }

  // The table of source rows under the block. Those outside the source are left out at its ends, or are rows
  // of zeros when a tap on zeros could make a NaN.
  void find_rows(index_t u, index_t count, RingSlot slot) {
    const index_t first = h_.stride * u, positions = (count - 1) * h_.stride + h_.taps;
    for (index_t t = 0; t < positions; ++t, slot = slot.ahead(t < positions ? 1 : 0)) {
      const bool inside = h_.inside(h_.source(first + t));
      for (index_t q = 0; q < layout_.subrows; ++q)
        table_[t * layout_.subrows + q] = inside ? slot_row(slot, q) : zeros_;
    }
  }

  // Rows of the table under `count` output rows from u on that are to be read: [begin, end), counted from u's
  // first.
  WindowRows<T> rows_under(index_t u, index_t count, index_t table_row, T* out) const {
    const index_t first = h_.stride * u, positions = (count - 1) * h_.stride + h_.taps;
    index_t begin = 0, end = w_.taps > 0 && h_.taps > 0 ? positions : 0;
    while (finite_ && begin < end && !h_.inside(h_.source(first + begin))) ++begin;
    while (finite_ && begin < end && !h_.inside(h_.source(first + end - 1))) --end;
    const index_t q = layout_.subrows;
    return {table_ + table_row * h_.stride * q, begin * q, end * q, out};
  }

  S* result_row(index_t u) const {
    return static_cast<S*>(task_.operands.out) + task_.batch * result_.batch_step +
           (h_.out_start + h_.out_step * u) * result_.row_step +
           (w_.out_start + w_.out_step * task_.column_begin) * result_.column_step +
           lane_ * result_.channel_step;
  }

  // Plain sums of whole lines go straight to the result; anything else passes through rows of scratch.
  void compute_block(index_t u, index_t count) const {
    T* out = row_;
    if constexpr (sizeof(S) == sizeof(T))
      if (in_place_) out = result_row(u);
    for (index_t i = 0; i < count;) {
      const bool pair = compute_.pair && i + 1 < count;
      const index_t rows = pair ? 2 : 1;
      (pair ? compute_.pair : compute_.one)(window_, rows_under(u + i, rows, i, out + i * window_.out_row), 0,
                                            columns_);
      i += rows;
    }
    if (!in_place_) store_block(u, count);
  }

  void store_block(index_t u, index_t count) const {
    const index_t out_step = w_.out_step * result_.column_step;
    const Epilogue<T> finish{bias_, spec_.activation};
    for (index_t i = 0; i < count; ++i) {
      const T* const from = row_ + i * window_.out_row;
      if constexpr (kLayout == Layout::nhwc)
        store_channels<S>(from, columns_, result_row(u + i), out_step, valid_, finish);
      else
        store_planes<S>(from, columns_, result_row(u + i), out_step, result_.channel_step, valid_, finish);
    }
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const LineSource<S, kLayout> source_;
  const Image result_;
  const LineLayout layout_;
  const index_t columns_;
  const bool plain_;
  T *ring_, *zeros_, *weights_, *bias_, *row_;
  const T** table_;
  Window<T> window_{};
  WindowFunctions<T> compute_{};
  bool in_place_ = false;
  index_t lane_ = 0, first_column_ = 0;
  Range inside_{};
  int valid_ = 0;
  bool finite_ = true;
};

}  // namespace
