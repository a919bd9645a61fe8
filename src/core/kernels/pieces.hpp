// Pieces of images copied row by row: the functions behind depthwise::PieceFunctions.
#pragma once

#include "../kernel_table.hpp"
#include "gather.hpp"
#include "grad_tile.hpp"

namespace {

using depthwise::FoldRow;
using depthwise::GatherRow;
using depthwise::PieceFunctions;
using depthwise::ScatterRow;

template <class From, class To>
void gather_piece(const GatherRow& r) {
  const BorderRow<From> row{static_cast<const From*>(r.pixels), r.size, r.pixel_step, r.run, r.border};
  gather_row(row, r.first, r.step, r.count, static_cast<To*>(r.to));
}

// Elements of the compute type as what they are stored as.
template <class T>
DEPTHWISE_INLINE void narrow(const T* from, index_t count, T* to) {
  convert(from, count, to);
}
template <class Half>
DEPTHWISE_INLINE void narrow_half(const float* from, index_t count, Half* to) {
  constexpr int lanes = simd::kLanes<float>;
  index_t i = 0;
  for (; i + lanes <= count; i += lanes) simd::store(to + i, simd::load(from + i));
  const int rest = static_cast<int>(count - i);
  if (rest > 0) simd::store_n(to + i, simd::load_n(from + i, rest), rest);
}
DEPTHWISE_INLINE void narrow(const float* from, index_t count, simd::f16* to) {
  narrow_half(from, count, to);
}
DEPTHWISE_INLINE void narrow(const float* from, index_t count, simd::bf16* to) {
  narrow_half(from, count, to);
}
template <class T, class To>
DEPTHWISE_INLINE void narrow(const T* from, index_t count, To* to) {
  saturate(from, count, to);
}

template <class From, class To>
void scatter_piece(const ScatterRow& r) {
  const From* from = static_cast<const From*>(r.from);
  To* to = static_cast<To*>(r.to);
  if (r.pixel_step == r.run) return narrow(from, r.count * r.run, to);
  for (index_t p = 0; p < r.count; ++p, from += r.run, to += r.pixel_step) narrow(from, r.run, to);
}

template <class T>
void fold_piece(const FoldRow& r) {
  const T* from = static_cast<const T*>(r.from);
  for (index_t p = 0; p < r.count; ++p, from += r.run) {
    T* to = static_cast<T*>(r.to) + (map_border(r.border, r.first + p, r.size) - r.begin) * r.run;
    for (index_t i = 0; i < r.run; ++i) to[i] += from[i];
  }
}

template <class T>
void add_piece(const void* sums, index_t count, void* totals, void* lost) {
  add_compensated(static_cast<const T*>(sums), count, static_cast<T*>(totals), static_cast<T*>(lost));
}

constexpr PieceFunctions kPieceFunctions = {
    .gather = {{gather_piece<simd::f16, simd::f16>, nullptr, gather_piece<simd::f16, float>, nullptr},
               {nullptr, gather_piece<simd::bf16, simd::bf16>, gather_piece<simd::bf16, float>, nullptr},
               {nullptr, nullptr, gather_piece<float, float>, nullptr},
               {nullptr, nullptr, nullptr, gather_piece<double, double>},
               {nullptr, nullptr, gather_piece<std::uint8_t, float>, gather_piece<std::uint8_t, double>},
               {nullptr, nullptr, gather_piece<std::int16_t, float>, gather_piece<std::int16_t, double>},
               {nullptr, nullptr, gather_piece<std::uint16_t, float>, gather_piece<std::uint16_t, double>}},
    .scatter = {{scatter_piece<simd::f16, simd::f16>},
                {nullptr, scatter_piece<simd::bf16, simd::bf16>},
                {scatter_piece<float, simd::f16>, scatter_piece<float, simd::bf16>,
                 scatter_piece<float, float>, nullptr, scatter_piece<float, std::uint8_t>,
                 scatter_piece<float, std::int16_t>, scatter_piece<float, std::uint16_t>},
                {nullptr, nullptr, nullptr, scatter_piece<double, double>,
                 scatter_piece<double, std::uint8_t>, scatter_piece<double, std::int16_t>,
                 scatter_piece<double, std::uint16_t>}},
    .fold = {nullptr, nullptr, fold_piece<float>, fold_piece<double>},
    .add = {nullptr, nullptr, add_piece<float>, add_piece<double>},
};

}  // namespace
