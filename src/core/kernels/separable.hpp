// Filters of rank 1: sums down the columns of a few output rows into scratch, then along those rows.
//
// Columns go first: the image itself, in cache, is then the ring of rows that the second pass would need,
// what lies outside it is found once a row, and integers are converted as they are loaded.
#pragma once

#include "../border.hpp"
#include "separable_layout.hpp"
#include "separable_store.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Border;
using depthwise::FactorView;
using depthwise::kSeparableRows;
using depthwise::kStreamedBytes;
using depthwise::larger;
using depthwise::map_border;
using depthwise::Op;
using depthwise::SeparableLayout;
using depthwise::smaller;
using depthwise::Spec;
using depthwise::Task;

template <class S, class From>
class SeparablePass {
 public:
  explicit SeparablePass(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        layout_(separable_layout(spec_, *task.tile, h_, w_)),
        factors_(*static_cast<const FactorView*>(task.operands.b)) {
    T* at = reinterpret_cast<T*>(task.scratch);
    const auto take = [&at](index_t elements) {
      T* const part = at;
      at += elements;
      return part;
    };
    sums_ = take(kSeparableRows * layout_.pitch);
    split_ = take(layout_.split);
    results_ = take(layout_.result);
    column_weights_ = take(layout_.column_weights);
    row_weights_ = take(layout_.row_weights);
    bias_ = take(layout_.bias);
    rows_ = reinterpret_cast<const From**>(at);
    groups_ = reinterpret_cast<RowGroup*>(rows_ + (kSeparableRows - 1) * h_.stride + larger(1, h_.taps));
    zeros_ = reinterpret_cast<From*>(groups_ + larger(1, w_.taps));
  }

  void run() {
    if (spec_.border == Border::constant)
      __builtin_memset(zeros_, 0, static_cast<std::size_t>(layout_.zero_bytes));
    for (index_t unit = task_.unit_begin; unit < task_.unit_end; ++unit) {
      find_unit(unit);
      load_weights();
      for (index_t u = task_.row_begin; u < task_.row_end; u += kSeparableRows) run_block(u);
    }
    if (streams_) simd::stream_fence();
  }

 private:
  using T = compute_t<S>;
  static constexpr int kV = kLanes<T>;

  // Rows of the whole width stay together where the cache holds those under a block: memory is then read in
  // order.
  void run_block(index_t u) {
    const index_t wide = task_.tile->pixels;
    for (index_t c = task_.column_begin; c < task_.column_end; c += wide) {
      find_columns(c, smaller(wide, task_.column_end - c));
      run_rows(u);
    }
  }

  // Source columns [first_column_, + reach_) lie under the outputs, of which [inside_begin_, inside_end_) are
  // in the image.
  void find_columns(index_t begin, index_t count) {
    column_begin_ = begin, columns_ = count;
    first_column_ = w_.source(w_.stride * begin);
    reach_ = w_.taps > 0 ? (w_.span(columns_) - 1) * w_.src_step + 1 : 0;
    inside_begin_ = smaller(larger(-first_column_, 0), reach_);
    inside_end_ = larger(inside_begin_, smaller(reach_, w_.src_size - first_column_));
    // Sums are stored to whole lines: those that straddle two cost more than loads that do.
    sums_at_ = sums_ + (kV - inside_begin_ * pixel_ % kV) % kV;
    if (spec_.border == Border::constant) clear_outside();
  }

  // NHWC: a block of channels and one of the outputs of each; NCHW: an output plane.
  void find_unit(index_t unit) {
    const bool nhwc = spec_.layout == Layout::nhwc;
    const index_t multiplier = spec_.multiplier, block = unit / multiplier * task_.tile->channels;
    first_channel_ = nhwc ? block : unit / multiplier;
    first_output_ = first_channel_ * multiplier + unit % multiplier;
    output_step_ = nhwc ? multiplier : 1;
    pixel_ = nhwc ? smaller(task_.tile->channels, spec_.channels - block) : 1;
    source_at_ = static_cast<const From*>(task_.operands.a) + task_.batch * source_.batch_step +
                 first_channel_ * source_.channel_step;
    result_at_ = task_.batch * result_.batch_step + first_output_ * result_.channel_step;
    adjacent_ = pixel_ == source_.column_step;
    finishes_ = task_.operands.bias || spec_.activation != depthwise::Activation::none || w_.out_step != 1 ||
                output_step_ != 1 || pixel_ != result_.column_step;
  }

  void clear_outside() {
    for (index_t r = 0; r < kSeparableRows; ++r) {
      T* const row = sums_at_ + r * layout_.pitch;
      for (index_t i = 0; i < inside_begin_ * pixel_; ++i) row[i] = 0;
      for (index_t i = inside_end_ * pixel_; i < reach_ * pixel_; ++i) row[i] = 0;
    }
  }

  // ---- weights

  void load_weights() {
    uniform_ = factors_.shared || pixel_ == 1;
    const index_t elements = spec_.op == Op::grad_input ? spec_.input_elements() : spec_.output_elements();
    streams_ = uniform_ && spec_.output == Storage::same && sizeof(S) == sizeof(T) &&
               elements * static_cast<index_t>(sizeof(S)) > kStreamedBytes;
    // Loads of half lines are no dearer than multiply-adds: sharing them gains nothing, and takes lines
    // apart.
    constexpr bool shares_loads = simd::kVectorBytes == kLineBytes;
    step_ = uniform_ ? kV : pixel_;
    while (!uniform_ && step_ % kV != 0) step_ += pixel_;
    const index_t shared = uniform_ && pixel_ % kV == 0 ? pixel_ : step_;
    groups_taps_ =
        (shares_loads || !uniform_) && w_.spacing * pixel_ == shared && w_.stride == 1 && w_.src_step == 1;
    if (groups_taps_) step_ = shared;
    pattern_ = pixel_ + kV;
    for (index_t t = 0; t < h_.taps; ++t)
      load_tap(factors_.column, spec_.h.taps_before + h_.tap_start + h_.tap_step * t, column_weights_, t);
    group_taps();
    for (index_t i = 0; i < pattern_ && task_.operands.bias; ++i)
      bias_[i] = simd::load_one(static_cast<const S*>(task_.operands.bias) + output_channel(i));
    for (index_t i = 0; i < pattern_ && !task_.operands.bias; ++i) bias_[i] = -T(0);
  }

  index_t output_channel(index_t lane) const { return first_output_ + lane % pixel_ * output_step_; }

  void load_tap(const void* factor, index_t tap, T* weights, index_t place) const {
    const T* const values = static_cast<const T*>(factor);
    const index_t outputs = factors_.shared ? 1 : spec_.out_channels();
    if (uniform_) {
      weights[place] = values[tap * outputs + (factors_.shared ? 0 : first_output_)];
      return;
    }
    for (index_t i = 0; i < pattern_; ++i)
      weights[place * pattern_ + i] = values[tap * outputs + output_channel(i)];
  }

  // Every sum adds its taps in order, however many channels a unit has. Where a tap reads what its neighbour
  // reads a tile step further on, they go together.
  void group_taps() {
    narrow_ = uniform_ && w_.spacing == 1 && w_.stride == 1 && w_.src_step == 1 && is_narrow(pixel_, w_.taps);
    group_count_ = 0;
    for (index_t k = 0; k < w_.taps;) {
      const index_t left = groups_taps_ ? w_.taps - k : 1, count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      groups_[group_count_++] = {tap_offset(k), k, count};
      for (const index_t end = k + count; k < end; ++k)
        load_tap(factors_.row, spec_.w.taps_before + w_.tap_start + w_.tap_step * k, row_weights_, k);
    }
  }

  index_t tap_offset(index_t k) const {
    const index_t position = w_.spacing * k;
    if (!layout_.split) return position * pixel_;
    return position % w_.stride * layout_.segment + position / w_.stride * pixel_;
  }

  // ---- a block of output rows

  void run_rows(index_t u) {
    const index_t count = (kSeparableRows - 1) * h_.stride + h_.taps, at = first_column_ + inside_begin_;
    for (index_t p = 0; p < count; ++p) {
      const index_t row = map_border(spec_.border, h_.source(h_.stride * u + p), h_.src_size);
      rows_[p] = row < 0 ? zeros_ - at * source_.column_step : source_at_ + row * source_.row_step;
    }
    sum_columns(at);
    if (spec_.border != Border::constant) fill_outside();
    const index_t rows = smaller(kSeparableRows, task_.row_end - u);
    for (index_t r = 0; r < rows; ++r) {
      fetched_ = row_ahead(u, r);
      sum_row(r, u + r);
    }
  }

  // Row r of those that the next block is the first to read, or 0. In the column pass a block reads so many
  // rows at once that the processor fetches few of them ahead.
  std::uintptr_t row_ahead(index_t u, index_t r) const {
    if (!streams_ || !task_.tile->fetch_ahead || !adjacent_ || h_.stride != 1 ||
        u + kSeparableRows >= task_.row_end)
      return 0;
    const index_t row = h_.source(u + kSeparableRows + h_.taps - 1 + r);
    if (row < 0 || row >= h_.src_size) return 0;
    return reinterpret_cast<std::uintptr_t>(source_at_ + row * source_.row_step +
                                            (first_column_ + inside_begin_) * source_.column_step);
  }

  DEPTHWISE_INLINE void fetch_ahead(index_t element, index_t elements) const {
    if (!fetched_) return;
    const std::uintptr_t end = fetched_ + (element + elements) * sizeof(From);
    for (std::uintptr_t at = fetched_ + element * sizeof(From); at < end; at += kLineBytes) simd::fetch(at);
  }

  void sum_columns(index_t at) {
    T* const out = sums_at_ + inside_begin_ * pixel_;
    const index_t inside = inside_end_ - inside_begin_;
    if (adjacent_) return sum_run(at * source_.column_step, inside * pixel_, out);
    for (index_t i = 0; i < inside; ++i) sum_run((at + i) * source_.column_step, pixel_, out + i * pixel_);
  }

  void sum_run(index_t at, index_t n, T* out) {
    if (uniform_)
      sum_run_of<true>(at, n, out);
    else
      sum_run_of<false>(at, n, out);
  }

  template <bool kUniform>
  void sum_run_of(index_t at, index_t n, T* out) {
    constexpr int rows = simd::kRegisters >= 32 ? 8 : 4;
    if (h_.stride != 1 || h_.taps < 2) return run_tiles<1, 8, kUniform>(at, n, out);
    if constexpr (kUniform) {
      if (h_.taps == 3) return run_tiles<rows, 2, true, 3>(at, n, out);
      if (h_.taps == 5) return run_tiles<rows, 2, true, 5>(at, n, out);
      if (h_.taps == 7) return run_tiles<rows, 2, true, 7>(at, n, out);
    }
    if (h_.taps >= rows) return run_tiles<rows, 2, kUniform>(at, n, out);
    if (h_.taps >= 4) return run_tiles<4, 2, kUniform>(at, n, out);
    run_tiles<2, 4, kUniform>(at, n, out);
  }

  ColumnWork<T, From> column_work(index_t row, T* out) const {
    return {rows_ + row * h_.stride, h_.stride, h_.taps, column_weights_, pattern_, out, layout_.pitch};
  }

  template <int kRows, int kVectors, bool kUniform, int kTaps = 0>
  void run_tiles(index_t at, index_t n, T* out) {
    for (index_t r = 0; r < kSeparableRows; r += kRows) {
      const ColumnWork<T, From> b = column_work(r, out + r * layout_.pitch);
      const index_t step = kUniform ? kV : step_;
      index_t e = 0;
      for (; e + kVectors * step <= n; e += kVectors * step)
        for (index_t j = 0; j < step; j += kV)
          column_tile<T, From, kRows, kVectors, kUniform, kTaps>(b, at + e + j, step, weights_at<kUniform>(j),
                                                                 b.out + e + j);
      for (; e + kV <= n; e += kV)
        column_tile<T, From, kRows, 1, kUniform, kTaps>(b, at + e, kV, weights_at<kUniform>(e), b.out + e);
      if (e == n) continue;
      if (n >= kV) {  // once more what overlaps
        e = n - kV;
        column_tile<T, From, kRows, 1, kUniform, kTaps>(b, at + e, kV, weights_at<kUniform>(e), b.out + e);
      } else {
        for (index_t i = 0; i < kRows; ++i)
          simd::store(b.out + i * layout_.pitch, column_rest<kUniform>(r + i, at, 0, n));
      }
    }
  }

  template <bool kUniform>
  const T* weights_at(index_t element) const {
    return kUniform ? column_weights_ : column_weights_ + element % pixel_;
  }

  // Up to a vector of one output row.
  template <bool kUniform>
  vec<T> column_rest(index_t row, index_t at, index_t element, index_t n) const {
    const T* const weights = weights_at<kUniform>(element);
    vec<T> acc = {};
    for (index_t t = 0; t < h_.taps; ++t)
      acc = simd::fma(load_image_n<T>(rows_[row * h_.stride + t] + at + element, n),
                      tap_weight<T, kUniform>(weights, t, pattern_), acc);
    return acc;
  }

  // Columns outside the image show others, most of which have been summed.
  void fill_outside() {
    for (index_t i = 0; i < inside_begin_; ++i) fill_column(i);
    for (index_t i = inside_end_; i < reach_; ++i) fill_column(i);
  }

  void fill_column(index_t i) {
    const index_t shown = map_border(spec_.border, first_column_ + i, w_.src_size), j = shown - first_column_;
    const bool summed = j >= inside_begin_ && j < inside_end_;
    for (index_t r = 0; r < kSeparableRows; ++r) {
      T* const row = sums_at_ + r * layout_.pitch;
      for (index_t e = 0; e < pixel_; e += kV) {
        const index_t n = smaller(kV, pixel_ - e), at = shown * source_.column_step;
        const vec<T> value = summed     ? simd::load(row + j * pixel_ + e)
                             : uniform_ ? column_rest<true>(r, at, e, n)
                                        : column_rest<false>(r, at, e, n);
        simd::store_n(row + i * pixel_ + e, value, static_cast<int>(n));
      }
    }
  }

  // ---- along a row

  void sum_row(index_t r, index_t u) {
    const T* x = sums_at_ + r * layout_.pitch;
    if (layout_.split) x = split_row(x);
    const RowWork<T> b{groups_, group_count_, row_weights_, pattern_, step_};
    if (groups_taps_)
      run_row<true>(b, x, target(u));
    else
      run_row<false>(b, x, target(u));
    if (finishes_) finish_row(result_index(u));
  }

  index_t result_index(index_t u) const {
    return result_at_ + (h_.out_start + h_.out_step * u) * result_.row_step +
           (w_.out_start + w_.out_step * column_begin_) * result_.column_step;
  }

  const T* split_row(const T* x) {
    for (index_t phase = 0; phase < layout_.phases; ++phase) {
      T* to = split_ + phase * layout_.segment;
      for (index_t p = phase * w_.src_step; p < reach_; p += w_.stride * w_.src_step, to += pixel_)
        for (index_t c = 0; c < pixel_; ++c) to[c] = x[p * pixel_ + c];
    }
    return split_;
  }

  // Where a row of sums goes: as it is, to be finished later, or as what the result is stored as.
  struct RowTarget {
    bool plain, streams;
    Storage storage;
    void* to;
    index_t at;
  };

  RowTarget target(index_t u) const {
    if (finishes_) return {true, false, spec_.output, results_, 0};
    return {false, streams_, spec_.output, task_.operands.out, result_index(u)};
  }

  // Elements before the first that lies at a cache line, where the row is stored as it is summed.
  static index_t unaligned_head(const RowTarget& to) {
    if (to.plain || to.storage != Storage::same || sizeof(S) != sizeof(T)) return 0;
    const auto address = reinterpret_cast<std::uintptr_t>(static_cast<T*>(to.to) + to.at);
    return static_cast<index_t>((kLineBytes - address % kLineBytes) % kLineBytes / sizeof(T));
  }

  template <bool kGroups>
  void run_row(const RowWork<T>& b, const T* x, const RowTarget& to) const {
    if (uniform_)
      run_row_of<kGroups, true>(b, x, to);
    else
      run_row_of<kGroups, false>(b, x, to);
  }

  template <bool kGroups, bool kUniform>
  void run_row_of(const RowWork<T>& b, const T* x, const RowTarget& to) const {
    const index_t n = columns_ * pixel_;
    const index_t head = kUniform ? smaller(unaligned_head(to), n) : 0;
    index_t e = run_row_ends<kGroups, kUniform>(b, x, to, 0, head);
    if constexpr (kUniform && !kGroups && sizeof(T) == 4) {
      if (narrow_) e = run_narrow_row(b, x, to, e, n);
    }
    e = run_row_tiles<8, kGroups, kUniform>(b, x, to, e, n);
    e = run_row_tiles<4, kGroups, kUniform>(b, x, to, e, n);
    e = run_row_tiles<2, kGroups, kUniform>(b, x, to, e, n);
    run_row_ends<kGroups, kUniform>(b, x, to, e, n);
  }

  // Vector by vector, the last of which may be a part.
  template <bool kGroups, bool kUniform>
  index_t run_row_ends(const RowWork<T>& b, const T* x, const RowTarget& to, index_t e, index_t n) const {
    for (; e < n; e += kV) {
      vec<T> acc[1] = {};
      row_sums<T, 1, kGroups, kUniform>(b, x + e, kUniform ? b.weights : b.weights + e % pixel_, acc);
      put(to, e, acc[0], smaller(kV, n - e));
    }
    return n;
  }

  index_t run_narrow_row(const RowWork<T>& b, const T* x, const RowTarget& to, index_t e, index_t n) const {
    switch (pixel_) {
      case 1: return run_narrow_tiles<1>(b, x, to, e, n);
      case 2: return run_narrow_tiles<2>(b, x, to, e, n);
      case 3: return run_narrow_tiles<3>(b, x, to, e, n);
      case 4: return run_narrow_tiles<4>(b, x, to, e, n);
      default: return e;
    }
  }

  template <int kPixel>
  index_t run_narrow_tiles(const RowWork<T>& b, const T* x, const RowTarget& to, index_t e, index_t n) const {
    for (; e + kNarrowVectors * kV <= n; e += kNarrowVectors * kV) {
      fetch_ahead(e, kNarrowVectors * kV);
      vec<T> acc[kNarrowVectors] = {};
      narrow_sums<kPixel>(x + e, b.weights, w_.taps, acc);
      put_all(to, e, kV, acc);
    }
    return e;
  }

  template <int kVectors, bool kGroups, bool kUniform>
  index_t run_row_tiles(const RowWork<T>& b, const T* x, const RowTarget& to, index_t e, index_t n) const {
    const index_t step = row_step<kGroups, kUniform>(b);
    for (; e + kVectors * step <= n; e += kVectors * step)
      for (index_t j = e; j < e + step; j += kV) {
        fetch_ahead(e + (j - e) * kVectors, kVectors * kV);
        vec<T> acc[kVectors] = {};
        row_sums<T, kVectors, kGroups, kUniform>(b, x + j, kUniform ? b.weights : b.weights + j % pixel_,
                                                 acc);
        put_all(to, j, step, acc);
      }
    return e;
  }

  template <int kVectors>
  DEPTHWISE_INLINE static void put_all(const RowTarget& to, index_t e, index_t step,
                                       const vec<T> (&x)[kVectors]) {
    const auto each = [&](auto store) __attribute__((always_inline)) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) store(e + v * step, x[v]);
    };
    if (to.plain)
      each([&](index_t i, vec<T> y) { simd::store(static_cast<T*>(to.to) + i, y); });
    else if (to.streams)
      each([&](index_t i, vec<T> y) { simd::stream(static_cast<T*>(to.to) + to.at + i, y); });
    else if (to.storage == Storage::same)
      each([&](index_t i, vec<T> y) { simd::store(static_cast<S*>(to.to) + to.at + i, y); });
    else if (to.storage == Storage::u8)
      store_bytes<kVectors, T>(to.to, to.at + e, step, x);
    else
      each([&](index_t i, vec<T> y) { store_result<S>(to.storage, to.to, to.at + i, y); });
  }

  DEPTHWISE_INLINE static void put(const RowTarget& to, index_t e, vec<T> x, index_t n) {
    if (to.plain)
      simd::store(static_cast<T*>(to.to) + e, x);
    else
      store_result_n<S>(to.storage, to.to, to.at + e, x, n);
  }

  // ---- bias, activation, and results that lie apart

  void finish_row(index_t at) const {
    const Epilogue<T> finish{bias_, spec_.activation};
    const index_t n = columns_ * pixel_, column_step = w_.out_step * result_.column_step;
    for (index_t e = 0; e < n; e += kV)
      simd::store(results_ + e, finish(simd::load(results_ + e), static_cast<int>(e % pixel_)));
    if (column_step == pixel_ && output_step_ == 1) return store_run(0, at, n);
    for (index_t i = 0; i < columns_; ++i) {
      const index_t to = at + i * column_step;
      if (output_step_ == 1) {
        store_run(i * pixel_, to, pixel_);
        continue;
      }
      for (index_t c = 0; c < pixel_; ++c)
        store_result_n<S>(spec_.output, task_.operands.out, to + c * output_step_,
                          simd::broadcast(results_[i * pixel_ + c]), 1);
    }
  }

  void store_run(index_t from, index_t to, index_t n) const {
    for (index_t e = 0; e < n; e += kV)
      store_result_n<S>(spec_.output, task_.operands.out, to + e, simd::load(results_ + from + e),
                        smaller(kV, n - e));
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const SeparableLayout layout_;
  const FactorView factors_;

  T *sums_, *split_, *results_, *column_weights_, *row_weights_, *bias_;
  T* sums_at_ = nullptr;
  const From** rows_;
  RowGroup* groups_;
  From* zeros_;
  const From* source_at_ = nullptr;
  std::uintptr_t fetched_ = 0;
  index_t column_begin_ = 0, columns_ = 0, first_column_ = 0, reach_ = 0, inside_begin_ = 0, inside_end_ = 0;
  index_t first_channel_ = 0, first_output_ = 0, output_step_ = 1, pixel_ = 1, result_at_ = 0;
  index_t step_ = 0, pattern_ = 0, group_count_ = 0;
  bool adjacent_ = false, groups_taps_ = false, narrow_ = false, streams_ = false, finishes_ = false,
       uniform_ = false;
};

template <class S>
class Separable {
 public:
  explicit Separable(const Task& task) : task_(task) {}

  void run() const {
    switch (task_.spec->input) {
      case Storage::same: return SeparablePass<S, S>(task_).run();
      case Storage::u8: return run_integers<std::uint8_t>();
      case Storage::i16: return run_integers<std::int16_t>();
      case Storage::u16: return run_integers<std::uint16_t>();
    }
  }

 private:
  // Integers are computed in float32 or float64.
  template <class From>
  void run_integers() const {
    if constexpr (sizeof(S) >= 4) SeparablePass<S, From>(task_).run();
  }

  const Task& task_;
};

}  // namespace
