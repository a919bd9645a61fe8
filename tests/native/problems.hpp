// Problems for the engine's tests and its fuzzer: sizes, values, the sums that define the result, and the
// comparison of a kernel's result with them and with what the other kernels gave.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "choices.hpp"
#include "elements.hpp"
#include "execute.hpp"

namespace depthwise::testing {

struct Sums {
  std::vector<double> values, magnitudes;  // the result, and the sum of |a*b|: the scale of its rounding
};

struct Problem {
  Spec spec;
  Bytes a, b, bias;
  bool special = false;   // infinities and NaN are among the values
  bool products = false;  // every plane of the filter is of rank 1
  Sums sums;              // empty for special values
  double norms = 0;       // products of two channels' 2-norms, for as many as a result sums over: at most
};

index_t result_elements(const Spec& s);

// A sensible problem of a few thousand multiply-adds, any dimension of which may be 0.
Spec draw_spec(Choices& choices);
// Few channels and long rows under 3x3 taps, which some kernels have tiles for.
Spec draw_wide_spec(Choices& choices);

// What the values of a problem are, beside their dtype.
struct Kind {
  std::uint64_t seed = 0;
  bool special = false, products = false;
};

// Integers for images, where the operation takes them.
void draw_storage(Choices& choices, Spec& spec);

// Values for a spec, and the sums that they define.
Problem make_problem(const Spec& spec, const Kind& kind);

// A plan that forces one kernel; nothing where the kernel does not apply.
std::optional<Plan> forced_plan(const Spec& spec, const KernelInfo& kernel, const Isa& isa);

// Whether the kernel adds up in an order of its own, so that its bits are its own too.
bool has_own_bits(const KernelInfo& kernel);

// Runs the plan and ends the program, with what is needed to look into it, where the result is wrong: outside
// the bounds of one sum's roundings, or not bit for bit `expected`, unless that is empty.
Bytes run_checked(const Plan& plan, const Problem& problem, int threads, const Bytes& expected);

// Runs every kernel that applies on one ISA with each number of threads, calls seen(plan) for each kernel,
// and returns how many runs that were.
template <class Seen>
int run_kernels(const Problem& p, const Isa& isa, std::initializer_list<int> threads, const Seen& seen) {
  int runs = 0;
  Bytes summed;
  for (int id = kKernels - 1; id >= 0; --id) {  // the generic kernel is the last row of its op
    const KernelInfo& info = kernel_info(static_cast<KernelId>(id));
    if (info.op != p.spec.op || (info.algorithm == Algorithm::separable && !p.products)) continue;
    const std::optional<Plan> plan = forced_plan(p.spec, info, isa);
    if (!plan) continue;
    Bytes own;
    Bytes& expected = has_own_bits(info) ? own : summed;
    for (const int n : threads) {
      Bytes result = run_checked(*plan, p, n, expected);
      if (expected.empty()) expected = std::move(result);
      ++runs;
    }
    seen(*plan);
  }
  return runs;
}

}  // namespace depthwise::testing
