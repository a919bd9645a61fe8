#include "plan_arguments.hpp"

namespace depthwise::bindings {
namespace {

Axis to_axis(const AxisNumbers& v) { return {v[0], v[1], v[2], v[3], v[4], v[5]}; }

Shape image_shape(const Spec& s, index_t h, index_t w, index_t c) {
  return s.layout == Layout::nhwc ? Shape{s.batch, h, w, c} : Shape{s.batch, c, h, w};
}

Algorithm to_algorithm(std::string_view name) {
  for (int i = 0; i < kAlgorithms; ++i)
    if (name == kAlgorithmNames[i]) return static_cast<Algorithm>(i);
  throw std::invalid_argument("algorithm: there is none named '" + std::string(name) + "'");
}

}  // namespace

Spec to_spec(const PlanArguments& a) {
  Spec s;
  s.op = to_enum<Op>(a.op, kOps, "op");
  s.dtype = to_enum<DType>(a.dtype, kDTypes, "dtype");
  s.layout = to_enum<Layout>(a.layout, 2, "layout");
  s.activation = to_enum<Activation>(a.activation, 5, "activation");
  s.algorithm = to_algorithm(a.algorithm);
  s.border = to_enum<Border>(a.border, kBorders, "border");
  s.input = to_enum<Storage>(a.input, kStorages, "input");
  s.output = to_enum<Storage>(a.output, kStorages, "output");
  const bool integers = s.input != Storage::same || s.output != Storage::same;
  if (integers && (compute_bytes(s.dtype) != dtype_bytes(s.dtype) || s.op == Op::grad_input ||
                   (s.op == Op::grad_filter && s.output != Storage::same)))
    throw std::invalid_argument("images of integers are computed forward, in float32 or float64");
  s.has_bias = a.has_bias;
  s.batch = a.batch, s.channels = a.channels, s.multiplier = a.multiplier;
  s.h = to_axis(a.h), s.w = to_axis(a.w);
  return s;
}

Shapes operand_shapes(const Spec& s) {
  const Shape input = image_shape(s, s.h.in, s.w.in, s.channels);
  const Shape output = image_shape(s, s.h.out, s.w.out, s.out_channels());
  const Shape filter = {s.h.filter_taps(), s.w.filter_taps(), s.channels, s.multiplier};
  switch (s.op) {
    case Op::forward: return {input, filter, output};
    case Op::grad_input: return {output, filter, input};
    case Op::grad_filter: return {input, output, filter};
  }
  throw std::invalid_argument("op has no such value");
}

}  // namespace depthwise::bindings
