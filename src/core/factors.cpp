#include "factors.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace depthwise {
namespace {

struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};

float widen(float x) { return x; }
double widen(double x) { return x; }
float widen(BF16 x) { return std::bit_cast<float>(std::uint32_t{x.bits} << 16); }
float widen(F16 x) {
  const int exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
  const float infinite = fraction ? std::numeric_limits<float>::quiet_NaN() : HUGE_VALF;
  const float magnitude = exponent == 31 ? infinite
                          : exponent     ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25)
                                         : std::ldexp(static_cast<float>(fraction), -24);
  return x.bits >> 15 ? -magnitude : magnitude;
}

template <class S>
class Factoriser {
 public:
  Factoriser(const Spec& spec, const void* filter)
      : filter_(static_cast<const S*>(filter)),
        kh_(spec.h.filter_taps()),
        kw_(spec.w.filter_taps()),
        planes_(spec.out_channels()) {}

  Factors run() {
    Factors f;
    f.shared = planes_are_equal();
    const index_t outputs = f.shared ? 1 : planes_;
    f.row_offset = kh_ * outputs * static_cast<index_t>(sizeof(T));
    f.values.resize(f.row_offset + kw_ * outputs * static_cast<index_t>(sizeof(T)));
    T* const column = reinterpret_cast<T*>(f.values.data());
    T* const row = reinterpret_cast<T*>(f.values.data() + f.row_offset);
    for (index_t p = 0; p < outputs && f.found(); ++p)
      if (!factorise_plane(p, column + p, row + p, outputs, f.residual)) f.refused = p;
    return f;
  }

 private:
  using T = decltype(widen(S{}));

  // Bits, not values: planes with NaN are equal too, and are refused as the first of them.
  bool planes_are_equal() const {
    for (index_t t = 0; t < kh_ * kw_; ++t) {
      const S* const tap = filter_ + t * planes_;
      if (planes_ > 1 && std::memcmp(tap, tap + 1, (planes_ - 1) * sizeof(S)) != 0) return false;
    }
    return true;
  }

  T weight(index_t i, index_t j, index_t plane) const {
    return widen(filter_[(i * kw_ + j) * planes_ + plane]);
  }

  // The column and the row through the largest weight, the row divided by it: no factor of a weight is larger
  // than the weights of its plane, and none of the row than 1.
  bool factorise_plane(index_t plane, T* column, T* row, index_t step, double& residual) const {
    index_t top = 0, left = 0;
    T largest = 0;
    for (index_t i = 0; i < kh_; ++i)
      for (index_t j = 0; j < kw_; ++j)
        if (const T w = std::abs(weight(i, j, plane)); !(w <= largest)) largest = w, top = i, left = j;
    const T pivot = weight(top, left, plane);
    for (index_t i = 0; i < kh_; ++i) column[i * step] = weight(i, left, plane);
    for (index_t j = 0; j < kw_; ++j) row[j * step] = largest == 0 ? 0 : weight(top, j, plane) / pivot;
    return is_product(plane, column, row, step, residual);
  }

  bool is_product(index_t plane, const T* column, const T* row, index_t step, double& residual) const {
    constexpr T eps = std::numeric_limits<T>::epsilon(), least = std::numeric_limits<T>::min();
    bool close = true;
    for (index_t i = 0; i < kh_; ++i)
      for (index_t j = 0; j < kw_; ++j) {
        const T w = weight(i, j, plane), rest = std::abs(std::fma(-column[i * step], row[j * step], w));
        close = close && rest <= T(kFactorTolerance) * eps * std::abs(w) + least;
        if (!(rest <= residual) && residual == residual) residual = rest;  // once NaN, it stays
      }
    return close;
  }

  const S* filter_;
  index_t kh_, kw_, planes_;
};

}  // namespace

Factors factorise(const Spec& spec, const void* filter) {
  switch (spec.dtype) {
    case DType::f16: return Factoriser<F16>(spec, filter).run();
    case DType::bf16: return Factoriser<BF16>(spec, filter).run();
    case DType::f32: return Factoriser<float>(spec, filter).run();
    case DType::f64: return Factoriser<double>(spec, filter).run();
  }
  return {};
}

}  // namespace depthwise
