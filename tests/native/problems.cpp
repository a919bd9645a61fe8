#include "problems.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#include "border.hpp"
#include "check.hpp"

namespace depthwise::testing {
namespace {

// Smallest and largest sizes of an axis and its taps.
struct Sizes {
  index_t in_least = 0, in_most = 24, kernel_least = 1, kernel_most = 7, stride_least = 1, stride_most = 3;
};

Axis draw_axis(Choices& choices, const Sizes& sizes = {}) {
  for (;;) {
    Axis a{.in = choices.draw(sizes.in_least, sizes.in_most),
           .kernel = choices.draw(sizes.kernel_least, sizes.kernel_most),
           .stride = choices.draw(sizes.stride_least, sizes.stride_most),
           .dilation = choices.draw(1, 3)};
    const index_t reach = (a.kernel - 1) * a.dilation + 1;
    a.pad = choices.draw(0, reach);
    const index_t room = a.pad + a.in + choices.draw(0, reach) - reach;
    if (room < 0) {
      if (a.in > 0) continue;
      a.kernel = a.pad = 0;  // where choices have run out
      return a;
    }
    a.out = room / a.stride + 1;
    return a;
  }
}

// Calls product(input, filter, output) with the indices of the three arrays' elements for every product of
// the sum.
template <class Product>
void for_each_product(const Spec& s, const Product& product) {
  const Image in = input_image(s), out = output_image(s);
  for (index_t b = 0; b < s.batch; ++b)
    for (index_t i = 0; i < s.h.out; ++i)
      for (index_t j = 0; j < s.w.out; ++j)
        for (index_t u = 0; u < s.h.kernel; ++u)
          for (index_t v = 0; v < s.w.kernel; ++v) {
            const index_t row = map_border(s.border, s.h.stride * i + s.h.dilation * u - s.h.pad, s.h.in);
            const index_t column = map_border(s.border, s.w.stride * j + s.w.dilation * v - s.w.pad, s.w.in);
            if (row < 0 || column < 0) continue;
            for (index_t o = 0; o < s.out_channels(); ++o)
              product(b * in.batch_step + row * in.row_step + column * in.column_step +
                          o / s.multiplier * in.channel_step,
                      (u * s.w.kernel + v) * s.out_channels() + o,
                      b * out.batch_step + i * out.row_step + j * out.column_step + o * out.channel_step);
          }
}

std::vector<double> decode_all(const Bytes& data, Storage storage, DType dtype) {
  std::vector<double> values(data.size() / storage_bytes(storage, dtype));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = decode(data.data(), element(storage, dtype), static_cast<index_t>(i));
  return values;
}

Storage result_storage(const Spec& s) { return s.op == Op::forward ? s.output : Storage::same; }

Element result_element(const Spec& s) { return element(result_storage(s), s.dtype); }

// The operations read an image of the spec's input storage first, but for the input gradient.
Storage first_storage(const Spec& s) { return s.op == Op::grad_input ? Storage::same : s.input; }

double activated(Activation activation, double x) {
  const double gate = std::clamp(x + 3, 0.0, 6.0);
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return std::max(x, 0.0);
    case Activation::relu6: return std::clamp(x, 0.0, 6.0);
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::hard_swish: return x * gate / 6;
  }
  std::abort();
}

void finish(const Problem& p, Sums& sums) {
  const Spec& s = p.spec;
  const std::vector<double> bias = decode_all(p.bias, Storage::same, s.dtype);
  const index_t channels = s.out_channels(), plane = s.h.out * s.w.out;
  for (std::size_t i = 0; i < sums.values.size(); ++i) {
    const index_t at = static_cast<index_t>(i);
    if (s.has_bias) {
      const double b = bias[s.layout == Layout::nhwc ? at % channels : at / plane % channels];
      sums.values[i] += b;
      sums.magnitudes[i] += std::abs(b);
    }
    sums.values[i] = activated(s.activation, sums.values[i]);
  }
}

Sums define(const Problem& p) {
  const Spec& s = p.spec;
  Sums sums{std::vector<double>(result_elements(s)), std::vector<double>(result_elements(s))};
  const std::vector<double> a = decode_all(p.a, first_storage(s), s.dtype),
                            b = decode_all(p.b, Storage::same, s.dtype);
  const auto add = [&](index_t result, index_t left, index_t right) {
    const double product = a[left] * b[right];
    sums.values[result] += product;
    sums.magnitudes[result] += std::abs(product);
  };
  for_each_product(s, [&](index_t input, index_t filter, index_t output) {
    if (s.op == Op::forward) add(output, input, filter);
    if (s.op == Op::grad_input) add(input, output, filter);
    if (s.op == Op::grad_filter) add(filter, input, output);
  });
  if (s.op == Op::forward) finish(p, sums);
  return sums;
}

[[noreturn]] void report(const Plan& plan, int threads, index_t element, double got, double expected) {
  const Spec& s = plan.spec;
  std::printf(
      "%s on %s, %d threads: op %d dtype %d layout %d border %d storage %d %d activation %d bias %d "
      "batch %lld channels %lld multiplier %lld\n",
      kernel_info(plan.kernel).name, plan.isa->name, threads, static_cast<int>(s.op),
      static_cast<int>(s.dtype), static_cast<int>(s.layout), static_cast<int>(s.border),
      static_cast<int>(s.input), static_cast<int>(s.output), static_cast<int>(s.activation), s.has_bias,
      static_cast<long long>(s.batch), static_cast<long long>(s.channels),
      static_cast<long long>(s.multiplier));
  for (const Axis& a : {s.h, s.w})
    std::printf("  in %lld out %lld kernel %lld stride %lld dilation %lld pad %lld\n",
                static_cast<long long>(a.in), static_cast<long long>(a.out), static_cast<long long>(a.kernel),
                static_cast<long long>(a.stride), static_cast<long long>(a.dilation),
                static_cast<long long>(a.pad));
  std::printf("  element %lld: got %.17g, expected %.17g\n", static_cast<long long>(element), got, expected);
  std::fflush(stdout);
  std::abort();
}

// The largest 2-norm of one channel of one image.
double channel_norm(const std::vector<double>& data, const Image& image) {
  const index_t elements = std::ssize(data);
  const index_t images = image.batch_step > 0 ? elements / image.batch_step : 0;
  double largest = 0;
  for (index_t n = 0; n < images; ++n)
    for (index_t c = 0; c < image.channels; ++c) {
      double squares = 0;
      for (index_t i = 0; i < image.height; ++i)
        for (index_t j = 0; j < image.width; ++j) {
          const index_t at = n * image.batch_step + i * image.row_step + j * image.column_step;
          squares += std::pow(data[at + c * image.channel_step], 2);
        }
      largest = std::max(largest, squares);
    }
  return std::sqrt(largest);
}

double norms(const Problem& p) {
  const Spec& s = p.spec;
  const Image first = s.op == Op::grad_input ? output_image(s) : input_image(s);
  const Image filter(Layout::nhwc, s.h.kernel, s.w.kernel, s.out_channels());
  const Image second = s.op == Op::grad_filter ? output_image(s) : filter;
  const index_t sums = s.op == Op::forward ? 1 : s.op == Op::grad_input ? s.multiplier : s.batch;
  return static_cast<double>(sums) * channel_norm(decode_all(p.a, first_storage(s), s.dtype), first) *
         channel_norm(decode_all(p.b, Storage::same, s.dtype), second);
}

// How far the sum itself may be off, in roundings of the compute type.
double sum_error(const Plan& plan, const Problem& p, std::size_t i) {
  const Spec& s = plan.spec;
  const index_t terms = s.op == Op::grad_filter ? s.batch * s.h.out * s.w.out
                                                : s.h.kernel * s.w.kernel * s.multiplier + s.has_bias;
  const double magnitude = p.sums.magnitudes[i], direct = 2 * static_cast<double>(terms) * magnitude;
  switch (s.algorithm == Algorithm::fft ? s.algorithm : kernel_info(plan.kernel).algorithm) {
    case Algorithm::fft: return std::max(direct, 64 * p.norms + 4 * magnitude);
    // Sums of columns, sums of rows, and what the factors lack.
    case Algorithm::separable: return 2 * static_cast<double>(s.h.kernel + s.w.kernel + 20) * magnitude;
    default: return direct;
  }
}

// As integers of the output are stored: the exact value within their range.
double saturated(Storage storage, double exact) {
  constexpr double kLeast[kStorages] = {-HUGE_VAL, 0, -32768, 0},
                   kMost[kStorages] = {HUGE_VAL, 255, 32767, 65535};
  return std::clamp(exact, kLeast[static_cast<int>(storage)], kMost[static_cast<int>(storage)]);
}

// Against the sums in double: the roundings of one sum in the compute type, magnified by the activation's
// slope, those of the activation, and of one store.
void check_values(const Plan& plan, int threads, const Problem& p, const Bytes& result) {
  constexpr double kStored[kDTypes] = {0x1p-11, 0x1p-8, 0x1p-24, 0x1p-53};
  constexpr double kSummed[kDTypes] = {0x1p-24, 0x1p-24, 0x1p-24, 0x1p-53};
  constexpr double kSlope[] = {1, 1, 1, 1.1, 1.5}, kActivated[] = {0, 0, 0, 8, 4};
  const Spec& s = p.spec;
  const int dtype = static_cast<int>(s.dtype), activation = static_cast<int>(s.activation);
  const double smallest = s.dtype == DType::f16 ? 0x1p-24 : 0x1p-126;  // where rounding is no longer relative
  for (std::size_t i = 0; i < p.sums.values.size(); ++i) {
    const double exact = saturated(result_storage(s), p.sums.values[i]);
    const double got = decode(result.data(), result_element(s), static_cast<index_t>(i));
    const double summed = kSlope[activation] * kSummed[dtype] * sum_error(plan, p, i) +
                          kActivated[activation] * kSummed[dtype] * std::abs(exact);
    const double stored =
        result_storage(s) == Storage::same ? 1.01 * kStored[dtype] * (std::abs(exact) + summed) : 0.5;
    if (!(std::abs(got - exact) <= summed + stored + smallest))
      report(plan, threads, static_cast<index_t>(i), got, exact);
  }
}

// Same bits, whatever the kernel, its tiles and the threads; a NaN is a NaN.
void check_bits(const Plan& plan, int threads, const Bytes& result, const Bytes& expected) {
  const Element kind = result_element(plan.spec);
  const index_t size = storage_bytes(result_storage(plan.spec), plan.spec.dtype);
  for (auto at = result.begin();;) {
    const auto [a, b] = std::mismatch(at, result.end(), expected.begin() + (at - result.begin()));
    if (a == result.end()) return;
    const index_t element = (a - result.begin()) / size;
    const double got = decode(result.data(), kind, element), wanted = decode(expected.data(), kind, element);
    if (!std::isnan(got) || !std::isnan(wanted)) report(plan, threads, element, got, wanted);
    at = result.begin() + (element + 1) * size;
  }
}

}  // namespace

index_t result_elements(const Spec& s) {
  const index_t counts[kOps] = {s.output_elements(), s.input_elements(), s.filter_elements()};
  return counts[static_cast<int>(s.op)];
}

Spec draw_spec(Choices& choices) {
  constexpr index_t kChannels[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67, 0};
  Spec s;
  s.op = static_cast<Op>(choices.draw(0, kOps - 1));
  s.dtype = static_cast<DType>(choices.draw(0, kDTypes - 1));
  s.layout = static_cast<Layout>(choices.draw(0, 1));
  s.batch = choices.draw(1, 2);
  s.channels = kChannels[choices.draw(0, std::size(kChannels) - 1)];
  s.multiplier = choices.draw(0, 1) ? 1 : choices.draw(0, 9);
  s.h = draw_axis(choices);
  s.w = draw_axis(choices);
  // Where the image has pixels to show.
  if (s.h.in > 0 && s.w.in > 0) s.border = static_cast<Border>(choices.draw(0, kBorders - 1));
  if (s.op == Op::forward && choices.draw(0, 3) == 3) {
    s.has_bias = choices.draw(0, 1);
    s.activation = static_cast<Activation>(choices.draw(0, 4));
  }
  return s;
}

Spec draw_wide_spec(Choices& choices) {
  Spec s = draw_spec(choices);
  s.channels = choices.draw(1, 9);
  s.multiplier = 1;
  const index_t stride = choices.draw(1, 2);  // tiles for such rows are those of equal strides
  s.h = draw_axis(choices, {7 * stride, 24 * stride, 3, 3, stride, stride});
  s.w = draw_axis(choices, {40 * stride, 90 * stride, 3, 3, stride, stride});
  return s;
}

void draw_storage(Choices& choices, Spec& s) {
  const bool integers = compute_bytes(s.dtype) == dtype_bytes(s.dtype) && s.op != Op::grad_input;
  const index_t input = choices.draw(0, 7), output = choices.draw(0, 7);
  if (integers && input < kStorages) s.input = static_cast<Storage>(input);
  if (integers && s.op == Op::forward && output < kStorages) s.output = static_cast<Storage>(output);
}

bool has_own_bits(const KernelInfo& kernel) {
  return kernel.op == Op::grad_filter || kernel.algorithm != Algorithm::direct;
}

Problem make_problem(const Spec& s, const Kind& kind) {
  const index_t first = s.op == Op::grad_input ? s.output_elements() : s.input_elements();
  Values values(kind.seed);
  Problem p{s, {}, {}, {}, kind.special, kind.products && s.op != Op::grad_filter, {}};
  const Storage storage = first_storage(s);
  p.a = storage == Storage::same ? draw_values(values, s.dtype, first, kind.special)
                                 : draw_bytes(values, first * storage_bytes(storage, s.dtype));
  const index_t second = s.op == Op::grad_filter ? s.output_elements() : s.filter_elements();
  p.b = p.products ? draw_products(values, s.dtype, s.h.kernel, s.w.kernel, s.out_channels())
                   : draw_values(values, s.dtype, second, kind.special);
  p.bias = draw_values(values, s.dtype, s.has_bias ? s.out_channels() : 0, kind.special);
  if (kind.special) return p;
  p.sums = define(p);
  p.norms = norms(p);
  return p;
}

std::optional<Plan> forced_plan(const Spec& spec, const KernelInfo& kernel, const Isa& isa) {
  try {
    return make_plan(spec, kernel.name, isa.name);
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

// The same with what a plan keeps of the filter, where it keeps anything.
bool run_prepared(const Plan& plan, Operands operands, int threads) {
  const Prepared prepared(plan, operands.b, threads);
  if (prepared.bytes() == 0) return false;
  operands.prepared = &prepared;
  CHECK(execute(plan, operands, threads));
  return true;
}

Bytes run_checked(const Plan& plan, const Problem& p, int threads, const Bytes& expected) {
  Bytes result(result_elements(p.spec) * storage_bytes(result_storage(p.spec), p.spec.dtype), 0xff);
  const void* const bias = p.spec.has_bias ? p.bias.data() : nullptr;
  Operands operands{p.a.data(), p.b.data(), bias, result.data()};
  CHECK(execute(plan, operands, threads));
  if (!p.special) check_values(plan, threads, p, result);
  if (!expected.empty()) check_bits(plan, threads, result, expected);
  Bytes again(result.size(), 0xff);
  operands.out = again.data();
  if (run_prepared(plan, operands, threads)) check_bits(plan, threads, again, result);
  return result;
}

}  // namespace depthwise::testing
