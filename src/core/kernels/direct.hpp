// Channels in the vector lanes, straight from the image and the filter where they lie: nothing is packed.
//
// For float32 and float64 with channels adjacent. Columns are taken in blocks whose kernel rows stay in the
// first-level cache on the way down the image; a tile that reaches over the left or right edge reads zeros
// there.
#pragma once

#include "generic.hpp"

namespace {

using depthwise::AxisClass;
using depthwise::Op;
using depthwise::Spec;
using depthwise::Task;

// One row of outputs against the source rows under it: table[r] is the pixel that output column 0 reads
// first, with weights[r*weight_row + k*weight_step] for tap k. That pixel is source column first_source;
// column_step elements on lies the one source_step further.
template <class T>
struct DirectRow {
  const T* const* table;
  index_t count;
  const T* weights;
  index_t weight_row, weight_step;
  index_t taps, stride, spacing, column_step;
  index_t first_source, source_step, source_size;
  T* out;
  index_t out_step, begin, end, channels;
};

// A tile's inputs where some lie outside the image: each is read at a column inside, and then masked to 0.
template <class T, int Inputs>
struct EdgeInputs {
  index_t offset[Inputs];
  vec<T> mask[Inputs];

  // Input i is source column first + position(i)*source_step.
  template <class Position>
  DEPTHWISE_INLINE EdgeInputs(const DirectRow<T>& row, index_t first, const Position& position) {
    for (int i = 0; i < Inputs; ++i) {
      const index_t source = first + position(i) * row.source_step, last = row.source_size - 1;
      const index_t read = source < 0 ? 0 : source > last ? last : source;
      offset[i] = (read - first) * row.channels;
      mask[i] = (vec<T>)(simd::index_vec<T>{} - (read == source ? 1 : 0));
    }
  }
};

template <class T>
DEPTHWISE_INLINE vec<T> masked(vec<T> x, vec<T> mask) {
  return (vec<T>)((simd::index_vec<T>)x & (simd::index_vec<T>)mask);
}

// Adjacent taps: each input of the row is loaded once, for all the outputs that it touches.
template <class T, int Taps, int Stride, int Pixels, class Load>
DEPTHWISE_INLINE void direct_adjacent(const DirectRow<T>& row, const T* w, const Load& load,
                                      vec<T> (&acc)[Pixels]) {
  vec<T> weights[Taps];
#pragma GCC unroll 8
  for (int k = 0; k < Taps; ++k, w += row.weight_step) weights[k] = simd::load(w);
#pragma GCC unroll 32
  for (int i = 0; i < (Pixels - 1) * Stride + Taps; ++i) {
    const vec<T> input = load(i);
#pragma GCC unroll 8
    for (int k = 0; k < Taps; ++k)
      if (i >= k && (i - k) % Stride == 0 && (i - k) / Stride < Pixels)
        acc[(i - k) / Stride] = simd::fma(input, weights[k], acc[(i - k) / Stride]);
  }
}

// Calls body(c, acc) for each vector of channels and stores the sums; the last vector overlaps its neighbour.
template <class T, int Pixels, class Body>
DEPTHWISE_INLINE void each_channel_vector(const DirectRow<T>& row, index_t column, const Body& body) {
  T* const out = row.out + column * row.out_step;
  for (index_t channel = 0; channel < row.channels; channel += kLanes<T>) {
    const index_t c = channel + kLanes<T> <= row.channels ? channel : row.channels - kLanes<T>;
    vec<T> acc[Pixels] = {};
    body(c, acc);
    T* to = out + c;
#pragma GCC unroll 16
    for (int p = 0; p < Pixels; ++p, to += row.out_step) simd::store(to, acc[p]);
  }
}

template <class T, int Taps, int Stride, int Pixels>
DEPTHWISE_INLINE void interior_tile(const DirectRow<T>& row, index_t column) {
  const index_t offset = column * row.stride * row.column_step;
  each_channel_vector<T, Pixels>(row, column, [&](index_t c, vec<T>(&acc)[Pixels]) {
    const T* w = row.weights + c;
    for (index_t r = 0; r < row.count; ++r, w += row.weight_row) {
      const T* x = row.table[r] + offset + c;
      if constexpr (Taps > 0) {
        const auto load = [&](int) {
          opaque(x);
          const vec<T> input = simd::load(x);
          x += row.column_step;
          return input;
        };
        direct_adjacent<T, Taps, Stride, Pixels>(row, w, load, acc);
      } else {
        const index_t pixel_step = row.stride * row.column_step;
        for (index_t k = 0; k < row.taps; ++k, x += row.spacing * row.column_step) {
          const vec<T> weight = simd::load(w + k * row.weight_step);
          const T* from = x;
#pragma GCC unroll 16
          for (int p = 0; p < Pixels; ++p, from += pixel_step) {
            opaque(from);
            acc[p] = simd::fma(simd::load(from), weight, acc[p]);
          }
        }
      }
    }
  });
}

template <class T, int Taps, int Stride, int Pixels>
DEPTHWISE_INLINE void edge_tile(const DirectRow<T>& row, index_t column) {
  const index_t offset = column * row.stride * row.column_step;
  const index_t first = row.first_source + column * row.stride * row.source_step;
  if constexpr (Taps > 0) {
    const EdgeInputs<T, (Pixels - 1) * Stride + Taps> inputs(row, first, [](int i) { return i; });
    each_channel_vector<T, Pixels>(row, column, [&](index_t c, vec<T>(&acc)[Pixels]) {
      const T* w = row.weights + c;
      for (index_t r = 0; r < row.count; ++r, w += row.weight_row) {
        const T* x = row.table[r] + offset + c;
        const auto load = [&](int i) { return masked<T>(simd::load(x + inputs.offset[i]), inputs.mask[i]); };
        direct_adjacent<T, Taps, Stride, Pixels>(row, w, load, acc);
      }
    });
  } else {
    const index_t low = -first,
                  high = row.source_size - first;  // source columns inside, from the tile's first
    each_channel_vector<T, Pixels>(row, column, [&](index_t c, vec<T>(&acc)[Pixels]) {
      const T* w = row.weights + c;
      for (index_t r = 0; r < row.count; ++r, w += row.weight_row)
        for (index_t k = 0; k < row.taps; ++k) {
          const vec<T> weight = simd::load(w + k * row.weight_step);
          const T* x = row.table[r] + offset + c;
#pragma GCC unroll 16
          for (int p = 0; p < Pixels; ++p) {
            const index_t at = p * row.stride + k * row.spacing, source = at * row.source_step;
            if (source >= low && source < high)  // a finite weight against 0 adds nothing
              acc[p] = simd::fma(simd::load(x + at * row.column_step), weight, acc[p]);
          }
        }
    });
  }
}

// Columns [begin, end), at least Pixels of them; the last tile overlaps its neighbour.
template <class T, int Taps, int Stride, int Pixels>
void direct_row(const DirectRow<T>& row) {
  const index_t span = (Pixels - 1) * row.stride + (row.taps - 1) * row.spacing, step = row.source_step;
  for (index_t column = row.begin; column < row.end; column += Pixels) {
    const index_t from = column + Pixels <= row.end ? column : row.end - Pixels;
    const index_t source = row.first_source + from * row.stride * step;
    if (source >= 0 && source + span * step < row.source_size)
      interior_tile<T, Taps, Stride, Pixels>(row, from);
    else
      edge_tile<T, Taps, Stride, Pixels>(row, from);
  }
}

template <class T>
using DirectRowFunction = void (*)(const DirectRow<T>&);

template <class T, int Pixels>
DirectRowFunction<T> direct_row_of(index_t stride, index_t taps, index_t spacing) {
  if (spacing == 1 && stride == 1 && taps == 3) return direct_row<T, 3, 1, Pixels>;
  if (spacing == 1 && stride == 1 && taps == 5) return direct_row<T, 5, 1, Pixels>;
  if (spacing == 1 && stride == 1 && taps == 7) return direct_row<T, 7, 1, Pixels>;
  if (spacing == 1 && stride == 2 && taps == 3) return direct_row<T, 3, 2, Pixels>;
  if (spacing == 1 && stride == 2 && taps == 5) return direct_row<T, 5, 2, Pixels>;
  return direct_row<T, 0, 0, Pixels>;
}

template <class T>
DirectRowFunction<T> direct_row_function(index_t stride, index_t taps, index_t spacing, int pixels) {
  switch (pixels) {
    case 4: return direct_row_of<T, 4>(stride, taps, spacing);
    case 6: return direct_row_of<T, 6>(stride, taps, spacing);
    case 7: return direct_row_of<T, 7>(stride, taps, spacing);
    default: return direct_row_of<T, 8>(stride, taps, spacing);
  }
}

template <class S>
class Direct {
 public:
  explicit Direct(const Task& task)
      : task_(task),
        spec_(*task.spec),
        h_(task.h),
        w_(task.w),
        source_(spec_.op == Op::grad_input ? output_image(spec_) : input_image(spec_)),
        result_(spec_.op == Op::grad_input ? input_image(spec_) : output_image(spec_)),
        rows_(reinterpret_cast<const T**>(task.scratch)) {}

  void run() {
    if constexpr (sizeof(S) == sizeof(T)) {
      if (!finite_filter()) return run_generic();
      row_.table = rows_;
      row_.weight_row = h_.tap_step * spec_.w.kernel * spec_.channels;
      row_.weight_step = w_.tap_step * spec_.channels;
      row_.taps = w_.taps, row_.stride = w_.stride, row_.spacing = w_.spacing;
      row_.column_step = w_.src_step * source_.column_step;
      row_.first_source = w_.src_start, row_.source_step = w_.src_step, row_.source_size = w_.src_size;
      row_.out_step = w_.out_step * result_.column_step;
      row_.begin = task_.column_begin, row_.end = task_.column_end;
      row_.channels = spec_.channels;
      const DirectRowFunction<T> compute =
          direct_row_function<T>(w_.stride, w_.taps, w_.spacing, task_.tile->pixels);
      for (index_t u = task_.row_begin; u < task_.row_end; ++u) {
        find_rows(u);
        compute(row_);
        finish(u);
      }
    }
  }

 private:
  using T = compute_t<S>;

  bool finite_filter() const {
    const T* filter = static_cast<const T*>(task_.operands.b);
    const index_t count = spec_.h.kernel * spec_.w.kernel * spec_.channels;
    vec<T> probe = {};
    for (index_t i = 0; i + kLanes<T> <= count; i += kLanes<T>) probe += simd::load(filter + i) * T(0);
    probe += simd::load(filter + count - kLanes<T>) * T(0);
    T sum = 0;
    for (int i = 0; i < kLanes<T>; ++i) sum += probe[i];
    return sum == 0;
  }

  // A tap on zeros can make a NaN: then no tap may be left out.
  void run_generic() const {
    Task all = task_;
    all.unit_begin = 0, all.unit_end = spec_.channels;
    Generic<S>(all).run();
  }

  // Kernel rows over the source.
  void find_rows(index_t u) {
    index_t begin = 0, end = w_.taps > 0 ? h_.taps : 0;
    const auto outside = [&](index_t t) { return !h_.inside(h_.source(h_.stride * u + t)); };
    while (begin < end && outside(begin)) ++begin;
    while (begin < end && outside(end - 1)) --end;
    row_.count = end - begin;
    row_.weights = static_cast<const T*>(task_.operands.b) +
                   ((h_.tap_start + h_.tap_step * begin) * spec_.w.kernel + w_.tap_start) * spec_.channels;
    const T* image = static_cast<const T*>(task_.operands.a) + task_.batch * source_.batch_step +
                     w_.src_start * source_.column_step;
    for (index_t t = begin; t < end; ++t)
      rows_[t - begin] = image + h_.source(h_.stride * u + t) * source_.row_step;
    row_.out = result_row(u);
  }

  T* result_row(index_t u) const {
    return static_cast<T*>(task_.operands.out) + task_.batch * result_.batch_step +
           (h_.out_start + h_.out_step * u) * result_.row_step + w_.out_start * result_.column_step;
  }

  // bias and activation, in place while the row is in cache.
  void finish(index_t u) const {
    const T* bias = static_cast<const T*>(task_.operands.bias);
    if (!bias && spec_.activation == depthwise::Activation::none) return;
    for (index_t column = task_.column_begin; column < task_.column_end; ++column) {
      T* const out = result_row(u) + column * w_.out_step * result_.column_step;
      for (index_t c = 0; c < spec_.channels; c += kLanes<T>) {
        const int count = static_cast<int>(spec_.channels - c < kLanes<T> ? spec_.channels - c : kLanes<T>);
        const vec<T> sum = simd::load_n(out + c, count),
                     shift = bias ? simd::load_n(bias + c, count) : -vec<T>{};
        simd::store_n(out + c, activate<T>(sum + shift, spec_.activation), count);
      }
    }
  }

  const Task& task_;
  const Spec& spec_;
  const AxisClass& h_;
  const AxisClass& w_;
  const Image source_, result_;
  const T** rows_;
  DirectRow<T> row_{};
};

}  // namespace
