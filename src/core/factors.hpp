// Filters of rank 1: each [kh, kw] plane as the product of a column and a row.
#pragma once

#include <cstddef>
#include <vector>

#include "task.hpp"

namespace depthwise {

// Every weight w of a plane with factors u and v satisfies |w - u*v| <= kFactorTolerance * eps * |w|, or
// both lie below the smallest normal number; eps is that of the compute type.
inline constexpr double kFactorTolerance = 16;

struct Factors {
  std::vector<std::byte> values;
  index_t row_offset = 0;  // bytes
  bool shared = false;
  double residual = 0;   // the largest |w - u*v|
  index_t refused = -1;  // the first plane that is not of rank 1, or -1

  bool found() const { return refused < 0; }
  FactorView view() const { return {values.data(), values.data() + row_offset, shared}; }
};

// The factors of a filter [kh, kw, C, M] of the spec's dtype. Stops at the first plane that has none.
Factors factorise(const Spec& spec, const void* filter);

}  // namespace depthwise
