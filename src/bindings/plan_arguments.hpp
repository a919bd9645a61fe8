// The arguments of a plan as they cross the boundary: numbers and names, as _spec.Spec.native_arguments lists
// them.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <string_view>

#include "spec.hpp"

namespace depthwise::bindings {

using Shape = std::array<index_t, 4>;
using AxisNumbers = std::array<index_t, 6>;  // in, out, kernel, stride, dilation, pad before

struct PlanArguments {
  index_t op, dtype, layout;
  index_t batch, channels, multiplier;
  AxisNumbers h, w;
  index_t activation;
  bool has_bias;
  index_t border, input, output;
  std::string_view algorithm;
};

template <class Enum>
Enum to_enum(index_t value, int count, const char* name) {
  if (value < 0 || value >= count)
    throw std::invalid_argument(std::string(name) + " has no value " + std::to_string(value));
  return static_cast<Enum>(value);
}

// Throws std::invalid_argument for a number or a name that stands for nothing. Sizes are checked by
// make_plan.
Spec to_spec(const PlanArguments& arguments);

// What an operation reads and writes: its two operands (and a bias of spec.out_channels() elements) and its
// result.
struct Shapes {
  Shape first, second, result;
};
Shapes operand_shapes(const Spec& spec);

}  // namespace depthwise::bindings
