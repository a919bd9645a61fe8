// What a fuzzer feeds: bytes become a problem, every kernel that applies computes it on every ISA of the
// machine, and each result is compared with the sums in double and with what the ISA's other kernels gave.
//
// One input in eight is a spec of arbitrary numbers instead: making its plan must refuse it or give one whose
// tasks can be listed, whatever the numbers.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "check.hpp"
#include "problems.hpp"

namespace {

using namespace depthwise;
using namespace depthwise::testing;

// How much work one input may be, so that a fuzzer tries many.
constexpr index_t kMostProducts = 8'000, kMostElements = 1 << 20;

std::int64_t g_runs = 0;

const Isa& draw_isa(Choices& choices) {
  const auto& isas = compiled_isas();
  for (index_t i = choices.draw(0, static_cast<index_t>(isas.size()) - 1);;
       i = (i + 1) % static_cast<index_t>(isas.size()))
    if (isas[static_cast<std::size_t>(i)].supported) return isas[static_cast<std::size_t>(i)];
}

// Small, around a power of two, or anything.
index_t draw_number(Choices& choices) {
  switch (choices.draw(0, 3)) {
    case 0: return choices.draw(0, 15);
    case 1: return choices.draw(0, 1 << 12);
    case 2:
      return static_cast<index_t>((std::uint64_t{1} << choices.draw(0, 63)) +
                                  static_cast<std::uint64_t>(choices.draw(-2, 2)));
    default: return choices.draw(INT64_MIN, INT64_MAX);
  }
}

Axis draw_wild_axis(Choices& choices) {
  Axis a;
  for (index_t* number : {&a.in, &a.out, &a.kernel, &a.stride, &a.dilation, &a.pad})
    *number = draw_number(choices);
  return a;
}

void plan_wild(Choices& choices) {
  Spec s;
  s.op = static_cast<Op>(choices.draw(0, kOps - 1));
  s.dtype = static_cast<DType>(choices.draw(0, kDTypes - 1));
  s.layout = static_cast<Layout>(choices.draw(0, 1));
  s.algorithm = static_cast<Algorithm>(choices.draw(0, kAlgorithms - 1));
  s.border = static_cast<Border>(choices.draw(0, kBorders - 1));
  draw_storage(choices, s);
  for (index_t* number : {&s.batch, &s.channels, &s.multiplier}) *number = draw_number(choices);
  s.h = draw_wild_axis(choices);
  s.w = draw_wild_axis(choices);
  ++g_runs;
  try {
    const Plan plan = make_plan(s, "", draw_isa(choices).name);
    CHECK(plan.tasks() >= 0 && plan.rule.scratch_bytes >= 0 && plan.threads(8, 1) >= 1);
    for (const index_t index : {index_t{0}, plan.tasks() / 2, plan.tasks() - 1})
      if (index >= 0 && index < plan.tasks()) plan.task(index);
  } catch (const std::invalid_argument&) {
  }
}

bool small(const Spec& s) {
  return s.multiply_adds() <= kMostProducts && s.input_elements() <= kMostElements &&
         s.output_elements() <= kMostElements;
}

// Fewer channels, images and outputs, until the work is small.
void shrink(Spec& s) {
  for (index_t* const size : {&s.channels, &s.multiplier, &s.batch})
    while (!small(s) && *size > 1) *size /= 2;
}

// What the package itself would choose, or the algorithm asked for.
void run_chosen(const Problem& problem, Algorithm algorithm, const Isa& isa, int threads) {
  Spec spec = problem.spec;
  spec.algorithm = algorithm;
  try {
    run_checked(make_plan(spec, "", isa.name), problem, threads, {});
    ++g_runs;
  } catch (const std::invalid_argument&) {  // the algorithm does not compute it
  }
}

void run_problem(Choices& choices) {
  Spec spec = draw_spec(choices);
  Kind kind{.special = choices.draw(0, 7) == 7};
  const int threads = static_cast<int>(choices.draw(1, 3));
  kind.seed = static_cast<std::uint64_t>(choices.draw(0, 255));
  kind.products = choices.draw(0, 3) == 3;
  draw_storage(choices, spec);
  const auto algorithm = static_cast<Algorithm>(choices.draw(0, 2));  // separable is forced where it applies
  shrink(spec);
  if (!small(spec)) return;
  const Problem problem = make_problem(spec, kind);
  for (const Isa& isa : compiled_isas()) {
    if (!isa.supported) continue;
    g_runs += run_kernels(problem, isa, {threads}, [](const Plan&) {});
    run_chosen(problem, algorithm, isa, threads);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int registered =
      std::atexit([] { std::printf("kernel runs and plans: %lld\n", static_cast<long long>(g_runs)); });
  CHECK(registered == 0);
  ByteChoices choices(data, size);
  choices.draw(0, 7) == 7 ? plan_wild(choices) : run_problem(choices);
  return 0;
}
