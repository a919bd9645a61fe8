// Every kernel of the registry on every ISA of this machine and every dtype, on random problems: within
// rounding of sums in double, or of the algorithm, and bit for bit the same for any number of threads.
// Direct kernels also give bit for bit what the generic one of the same ISA gives, but for the filter
// gradient, which each sums in an order of its own.
//
//   kernels_test [PROBLEMS] [SEED]
//
// It goes on beyond PROBLEMS, at most eight times as far, until every kernel has had one on every ISA.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <utility>

#include "check.hpp"
#include "problems.hpp"

namespace {

using namespace depthwise;
using namespace depthwise::testing;

using Counts = std::map<std::pair<std::string, std::string>, int>;  // (ISA, kernel) -> problems

void count_kernels(const Problem& problem, const Isa& isa, Counts& counts) {
  run_kernels(problem, isa, {1, 3}, [&](const Plan& plan) {
    const KernelInfo& info = kernel_info(plan.kernel);
    CHECK(std::string(last_run().kernel) == info.name && std::string(last_run().isa) == isa.name);
    ++counts[{isa.name, std::to_string(static_cast<int>(info.op)) + " " + info.name}];
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 480;
  const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 0) : std::random_device{}();
  std::printf("kernels_test %d %llu\n", problems, static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  RandomChoices choices(seed);
  const auto isas = std::count_if(compiled_isas().begin(), compiled_isas().end(),
                                  [](const Isa& isa) { return isa.supported; });
  const std::size_t all = static_cast<std::size_t>(isas) * kKernels;
  Counts counts;
  for (int i = 0; i < problems || (counts.size() < all && i < 8 * problems); ++i) {
    Spec spec = i % 4 == 0 ? draw_wide_spec(choices) : draw_spec(choices);
    draw_storage(choices, spec);
    const Problem problem = make_problem(spec, {.seed = static_cast<std::uint64_t>(choices.draw(0, 1L << 62)),
                                                .special = choices.draw(0, 4) == 0,
                                                .products = choices.draw(0, 2) == 0});
    for (const Isa& isa : compiled_isas())
      if (isa.supported) count_kernels(problem, isa, counts);
  }
  for (const auto& [key, count] : counts)
    std::printf("%-8s op %-24s %d\n", key.first.c_str(), key.second.c_str(), count);
  CHECK(counts.size() == all);
  std::puts("kernels: passed");
}
