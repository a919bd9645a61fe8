// The fastest multiply-add loop that this ISA allows, to measure the machine against.
#pragma once

#include "line_tile.hpp"

namespace {

// Runs `rounds` x 12 independent vector multiply-adds; returns how many scalar multiply-adds that was.
template <class T>
std::int64_t peak(std::int64_t rounds) {
  constexpr int chains = 12;
  vec<T> acc[chains] = {};
  vec<T> x = simd::broadcast(T(0.5)), y = x;
  __asm__ volatile("" : "+" DEPTHWISE_VECTOR_REGISTER(x), "+" DEPTHWISE_VECTOR_REGISTER(y));
  for (int c = 0; c < chains; ++c) __asm__ volatile("" : "+" DEPTHWISE_VECTOR_REGISTER(acc[c]));
  for (std::int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 12
    for (int c = 0; c < chains; ++c) acc[c] = simd::fma(x, y, acc[c]);
  for (int c = 0; c < chains; ++c) __asm__ volatile("" ::DEPTHWISE_VECTOR_REGISTER(acc[c]));
  return rounds * chains * kLanes<T>;
}

}  // namespace
