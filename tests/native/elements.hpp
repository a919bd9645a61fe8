// Elements of the storage types as numbers, and arrays of them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "kernel_table.hpp"

namespace depthwise::testing {

using Bytes = std::vector<unsigned char>;

inline double decode_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  if (exponent == 31)
    magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return bits >> 15 ? -magnitude : magnitude;
}

template <class T>
T element(const unsigned char* data, index_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<index_t>(sizeof(T)), sizeof(T));
  return value;
}

inline double decode(const unsigned char* data, Element kind, index_t i) {
  switch (kind) {
    case Element::f16: return decode_f16(element<std::uint16_t>(data, i));
    case Element::bf16: return std::bit_cast<float>(std::uint32_t{element<std::uint16_t>(data, i)} << 16);
    case Element::f32: return element<float>(data, i);
    case Element::f64: return element<double>(data, i);
    case Element::u8: return data[i];
    case Element::i16: return element<std::int16_t>(data, i);
    case Element::u16: return element<std::uint16_t>(data, i);
  }
  std::abort();
}

inline double decode(const unsigned char* data, DType dtype, index_t i) {
  return decode(data, static_cast<Element>(dtype), i);
}

// A value whose mantissa may lose bits, but whose exponent all types have; infinities and NaN stay what they
// are.
inline void encode(double value, DType dtype, unsigned char* to) {
  const float narrow = static_cast<float>(value);
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(narrow);
  const auto bf16 = static_cast<std::uint16_t>(bits >> 16 | (std::isnan(value) ? 0x40 : 0));
  // float32's exponent is biased by 127, float16's by 15; ten bits of the mantissa remain.
  auto f16 = static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)));
  if (!std::isfinite(value))
    f16 = static_cast<std::uint16_t>((bits >> 16 & 0x8000) | (std::isnan(value) ? 0x7e00 : 0x7c00));
  if (value == 0) f16 = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const void* const sources[kDTypes] = {&f16, &bf16, &narrow, &value};
  std::memcpy(to, sources[static_cast<int>(dtype)], dtype_bytes(dtype));
}

// A small fast generator (splitmix64, by Sebastiano Vigna), for values only.
class Values {
 public:
  explicit Values(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
  }

  // Of either sign, of magnitude in [0.25, 4), with a random mantissa.
  double number() {
    const std::uint64_t b = bits();
    const double value = std::ldexp(1 + static_cast<double>(b >> 12) * 0x1p-52, static_cast<int>(b & 3) - 2);
    return b & 4 ? value : -value;
  }

  // One in sixteen is a zero of either sign, infinite or NaN.
  double special() {
    const std::uint64_t b = bits();
    constexpr double kSpecial[] = {0.0, -0.0, std::numeric_limits<double>::infinity(),
                                   -std::numeric_limits<double>::infinity(),
                                   std::numeric_limits<double>::quiet_NaN()};
    return b % 16 ? number() : kSpecial[b / 16 % std::size(kSpecial)];
  }

 private:
  std::uint64_t state_;
};

inline Bytes draw_values(Values& values, DType dtype, index_t count, bool special = false) {
  Bytes data(count * dtype_bytes(dtype));
  for (index_t i = 0; i < count; ++i)
    encode(special ? values.special() : values.number(), dtype, data.data() + i * dtype_bytes(dtype));
  return data;
}

inline Bytes draw_bytes(Values& values, index_t count) {
  Bytes data(count);
  for (unsigned char& byte : data) byte = static_cast<unsigned char>(values.bits());
  return data;
}

// Filters [kh, kw, planes] whose planes are products of a column and a row, exactly: of small integers.
inline Bytes draw_products(Values& values, DType dtype, index_t kh, index_t kw, index_t planes) {
  constexpr double kFactors[] = {1, -1, 2, -2, 3, -3, 0};
  const auto draw = [&](index_t count) {
    std::vector<double> factors(count);
    for (double& f : factors) f = kFactors[values.bits() % std::size(kFactors)];
    return factors;
  };
  const std::vector<double> columns = draw(kh * planes), rows = draw(kw * planes);
  Bytes data(kh * kw * planes * dtype_bytes(dtype));
  for (index_t i = 0; i < kh * kw * planes; ++i) {
    const index_t plane = i % planes, row = i / planes / kw, column = i / planes % kw;
    encode(columns[row * planes + plane] * rows[column * planes + plane], dtype,
           data.data() + i * dtype_bytes(dtype));
  }
  return data;
}

}  // namespace depthwise::testing
