// Every kernel of the registry on every ISA of this machine and every dtype, on random problems: within
// rounding of sums in double, and bit for bit the same for any number of threads; but for the filter
// gradient, whose kernels sum in orders of their own, also bit for bit what the generic kernel of the same
// ISA gives.
//
//   kernels_test [PROBLEMS] [SEED]
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "execute.hpp"

namespace {

using namespace depthwise;

using Random = std::mt19937_64;
using Bytes = std::vector<unsigned char>;

index_t draw(Random& random, index_t low, index_t high) {
  return std::uniform_int_distribution<index_t>(low, high)(random);
}

Axis draw_axis(Random& random) {
  for (;;) {
    Axis a{.in = draw(random, 0, 24),
           .kernel = draw(random, 1, 7),
           .stride = draw(random, 1, 3),
           .dilation = draw(random, 1, 3)};
    const index_t reach = (a.kernel - 1) * a.dilation + 1;
    a.pad = draw(random, 0, reach);
    const index_t room = a.pad + a.in + draw(random, 0, reach) - reach;
    if (room < 0) continue;
    a.out = room / a.stride + 1;
    return a;
  }
}

Spec draw_spec(Random& random) {
  constexpr index_t kChannels[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67};
  Spec s;
  s.op = static_cast<Op>(draw(random, 0, kOps - 1));
  s.dtype = static_cast<DType>(draw(random, 0, kDTypes - 1));
  s.layout = static_cast<Layout>(draw(random, 0, 1));
  s.batch = draw(random, 1, 2);
  s.channels = kChannels[draw(random, 0, std::size(kChannels) - 1)];
  s.multiplier = draw(random, 0, 1) ? 1 : draw(random, 2, 9);
  s.h = draw_axis(random);
  s.w = draw_axis(random);
  return s;
}

// ---- elements
// ------------------------------------------------------------------------------------------------

double decode_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25) : std::ldexp(mantissa, -24);
  return bits >> 15 ? -magnitude : magnitude;
}

template <class T>
T element(const Bytes& data, index_t i) {
  T value;
  std::memcpy(&value, data.data() + i * sizeof(T), sizeof(T));
  return value;
}

double decode(const Bytes& data, DType dtype, index_t i) {
  switch (dtype) {
    case DType::f16: return decode_f16(element<std::uint16_t>(data, i));
    case DType::bf16: return std::bit_cast<float>(std::uint32_t{element<std::uint16_t>(data, i)} << 16);
    case DType::f32: return element<float>(data, i);
    case DType::f64: return element<double>(data, i);
  }
  std::abort();
}

// Values of either sign with magnitude in [0.25, 4) and a random mantissa.
Bytes draw_values(Random& random, DType dtype, index_t count) {
  Bytes data(count * dtype_bytes(dtype));
  for (index_t i = 0; i < count; ++i) {
    const double value = std::ldexp(1 + std::uniform_real_distribution<>()(random), draw(random, -2, 1));
    const double signed_value = draw(random, 0, 1) ? value : -value;
    const float narrow = static_cast<float>(signed_value);
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(narrow);
    const auto bf16 = static_cast<std::uint16_t>(bits >> 16);
    // float32's exponent is biased by 127, float16's by 15; ten bits of the mantissa remain.
    const auto f16 =
        static_cast<std::uint16_t>((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10)));
    const void* const sources[kDTypes] = {&f16, &bf16, &narrow, &signed_value};
    std::memcpy(data.data() + i * dtype_bytes(dtype), sources[static_cast<int>(dtype)], dtype_bytes(dtype));
  }
  return data;
}

// ---- the definition
// ------------------------------------------------------------------------------------------

struct Sums {
  std::vector<double> values, magnitudes;  // sum of a*b, and of |a*b|: the scale of its rounding
};

index_t result_elements(const Spec& s) {
  const index_t counts[kOps] = {s.output_elements(), s.input_elements(), s.filter_elements()};
  return counts[static_cast<int>(s.op)];
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
            const index_t row = s.h.stride * i + s.h.dilation * u - s.h.pad;
            const index_t column = s.w.stride * j + s.w.dilation * v - s.w.pad;
            if (row < 0 || row >= s.h.in || column < 0 || column >= s.w.in) continue;
            for (index_t o = 0; o < s.out_channels(); ++o)
              product(b * in.batch_step + row * in.row_step + column * in.column_step +
                          o / s.multiplier * in.channel_step,
                      (u * s.w.kernel + v) * s.out_channels() + o,
                      b * out.batch_step + i * out.row_step + j * out.column_step + o * out.channel_step);
          }
}

Sums define(const Spec& s, const Bytes& a, const Bytes& b) {
  Sums sums{std::vector<double>(result_elements(s)), std::vector<double>(result_elements(s))};
  const auto add = [&](index_t result, index_t left, index_t right) {
    const double product = decode(a, s.dtype, left) * decode(b, s.dtype, right);
    sums.values[result] += product;
    sums.magnitudes[result] += std::abs(product);
  };
  for_each_product(s, [&](index_t input, index_t filter, index_t output) {
    if (s.op == Op::forward) add(output, input, filter);
    if (s.op == Op::grad_input) add(input, output, filter);
    if (s.op == Op::grad_filter) add(filter, input, output);
  });
  return sums;
}

// ---- the comparison
// ------------------------------------------------------------------------------------------

struct Problem {
  Spec spec;
  Bytes a, b;
  Sums sums;
};

Problem draw_problem(Random& random) {
  const Spec s = draw_spec(random);
  const index_t first = s.op == Op::grad_input ? s.output_elements() : s.input_elements();
  const index_t second = s.op == Op::grad_filter ? s.output_elements() : s.filter_elements();
  Problem problem{s, draw_values(random, s.dtype, first), draw_values(random, s.dtype, second), {}};
  problem.sums = define(s, problem.a, problem.b);
  return problem;
}

// Ends the program with what is needed to look into a failure.
[[noreturn]] void report(const Plan& plan, int threads, std::size_t element, double got, double exact) {
  const Spec& s = plan.spec;
  std::printf("%s on %s, %d threads: op %d dtype %d layout %d batch %lld channels %lld multiplier %lld\n",
              kernel_info(plan.kernel).name, plan.isa->name, threads, static_cast<int>(s.op),
              static_cast<int>(s.dtype), static_cast<int>(s.layout), static_cast<long long>(s.batch),
              static_cast<long long>(s.channels), static_cast<long long>(s.multiplier));
  for (const Axis& a : {s.h, s.w})
    std::printf("  in %lld out %lld kernel %lld stride %lld dilation %lld pad %lld\n",
                static_cast<long long>(a.in), static_cast<long long>(a.out), static_cast<long long>(a.kernel),
                static_cast<long long>(a.stride), static_cast<long long>(a.dilation),
                static_cast<long long>(a.pad));
  std::printf("  element %zu: got %.17g, expected %.17g\n", element, got, exact);
  std::exit(1);
}

// Against the sums in double: the roundings of one sum in the compute type, and of one store.
void check_values(const Plan& plan, int threads, const Problem& p, const Bytes& result) {
  constexpr double kStored[kDTypes] = {0x1p-11, 0x1p-8, 0x1p-24, 0x1p-53};
  constexpr double kSummed[kDTypes] = {0x1p-24, 0x1p-24, 0x1p-24, 0x1p-53};
  const Spec& s = p.spec;
  const int dtype = static_cast<int>(s.dtype);
  const index_t terms =
      s.op == Op::grad_filter ? s.batch * s.h.out * s.w.out : s.h.kernel * s.w.kernel * s.multiplier;
  for (std::size_t i = 0; i < p.sums.values.size(); ++i) {
    const double exact = p.sums.values[i], got = decode(result, s.dtype, static_cast<index_t>(i));
    const double summed = 2 * static_cast<double>(terms) * kSummed[dtype] * p.sums.magnitudes[i];
    const double bound = summed + 1.01 * kStored[dtype] * (std::abs(exact) + summed);
    if (!(std::abs(got - exact) <= bound)) report(plan, threads, i, got, exact);
  }
}

// Same bits, whatever the kernel, its tiles and the threads.
void check_bits(const Plan& plan, int threads, const Bytes& result, const Bytes& expected) {
  const auto [a, b] = std::mismatch(result.begin(), result.end(), expected.begin());
  if (a == result.end()) return;
  const index_t element = (a - result.begin()) / dtype_bytes(plan.spec.dtype);
  report(plan, threads, element, decode(result, plan.spec.dtype, element),
         decode(expected, plan.spec.dtype, element));
}

Bytes run(const Plan& plan, const Problem& p, int threads) {
  Bytes result(result_elements(p.spec) * dtype_bytes(p.spec.dtype), 0xff);
  CHECK(execute(plan, {p.a.data(), p.b.data(), nullptr, result.data()}, threads));
  return result;
}

using Counts = std::map<std::pair<std::string, std::string>, int>;  // (ISA, kernel) -> problems

// A plan that forces one kernel; nothing where the kernel does not apply.
std::optional<Plan> forced_plan(const Problem& p, const KernelInfo& kernel, const Isa& isa) {
  try {
    return make_plan(p.spec, kernel.name, isa.name);
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

// Runs every kernel that applies on one ISA.
void run_kernels(const Problem& p, const Isa& isa, Counts& counts) {
  Bytes expected;
  for (int id = kKernels - 1; id >= 0; --id) {  // the generic kernel is the last row of its op
    const KernelInfo& info = kernel_info(static_cast<KernelId>(id));
    if (info.op != p.spec.op) continue;
    const std::optional<Plan> plan = forced_plan(p, info, isa);
    if (!plan) continue;
    if (info.op == Op::grad_filter) expected.clear();
    for (const int threads : {1, 3}) {
      const Bytes result = run(*plan, p, threads);
      check_values(*plan, threads, p, result);
      if (expected.empty()) expected = result;
      check_bits(*plan, threads, result, expected);
    }
    CHECK(std::string(last_run().kernel) == info.name && std::string(last_run().isa) == isa.name);
    ++counts[{isa.name, std::to_string(static_cast<int>(info.op)) + " " + info.name}];
  }
}

bool registered(Op op) {
  for (int id = 0; id < kKernels; ++id)
    if (kernel_info(static_cast<KernelId>(id)).op == op) return true;
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 400;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : std::random_device{}();
  std::printf("kernels_test %d %llu\n", problems, static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  Random random(seed);
  Counts counts;
  for (int i = 0; i < problems; ++i) {
    const Problem problem = draw_problem(random);
    if (!registered(problem.spec.op)) continue;
    for (const Isa& isa : compiled_isas())
      if (isa.supported) run_kernels(problem, isa, counts);
  }
  for (const auto& [key, count] : counts)
    std::printf("%-8s op %-24s %d\n", key.first.c_str(), key.second.c_str(), count);
  const auto isas = std::count_if(compiled_isas().begin(), compiled_isas().end(),
                                  [](const Isa& isa) { return isa.supported; });
  CHECK(counts.size() == static_cast<std::size_t>(isas) * kKernels);  // none was left out
  std::puts("kernels: passed");
}
