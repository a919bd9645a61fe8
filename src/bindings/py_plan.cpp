#include "py_plan.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "arrays.hpp"
#include "execute.hpp"
#include "gil.hpp"
#include "patches.hpp"

namespace nb = nanobind;

namespace depthwise::bindings {
namespace {

// Signals reach Python on its main thread only.
bool check_signals(void*) {
  const PyGILState_STATE gil = PyGILState_Ensure();
  const bool go_on = PyErr_CheckSignals() == 0;
  PyGILState_Release(gil);
  return go_on;
}

bool on_main_thread() {
  const nb::object threading = nb::module_::import_("threading");
  return nb::cast<unsigned long>(threading.attr("main_thread")().attr("ident")) ==
         PyThread_get_thread_ident();
}

// Whether a user could want to interrupt it.
bool is_long(const Plan& plan) {
  constexpr index_t kSteps = 10'000'000;
  return plan.spec.multiply_adds() + plan.spec.input_elements() + plan.spec.output_elements() > kSteps;
}

}  // namespace

PyPlan::PyPlan(int op, int dtype, int layout, index_t batch, index_t channels, index_t multiplier,
               const AxisNumbers& h, const AxisNumbers& w, int activation, bool has_bias, int border,
               int input, int output, const std::string& algorithm, const std::optional<std::string>& kernel,
               const std::optional<std::string>& isa) {
  const Spec s = to_spec({op, dtype, layout, batch, channels, multiplier, h, w, activation, has_bias, border,
                          input, output, algorithm});
  plan_ = make_plan(s, kernel.value_or(""), isa.value_or(""));
  shapes_ = operand_shapes(s);
}

nb::any PyPlan::run(nb::handle a, nb::handle b, nb::handle bias, nb::handle out, int num_threads,
                    const Prepared* prepared) const {
  const Spec& s = plan_.spec;
  const Element own = element(Storage::same, s.dtype);
  const Input first(a.ptr(), s.op == Op::grad_input ? "grad" : "input", element(s.input, s.dtype),
                    shapes_.first.data(), 4);
  const Input second(b.ptr(), s.op == Op::grad_filter ? "grad" : "filter", own, shapes_.second.data(), 4);
  if (s.has_bias == bias.is_none()) throw nb::value_error("bias must be given exactly when the plan has one");
  const index_t outputs = s.out_channels();
  std::optional<Input> third;
  if (s.has_bias) third.emplace(bias.ptr(), "bias", own, &outputs, 1);
  const auto result = nb::steal<nb::any>(
      output(out.ptr(), element(s.output, s.dtype), shapes_.result, first, plan_.lies_as_image()));
  if (!out.is_none()) {
    if (first.overlaps(out.ptr())) throw nb::value_error("out overlaps the first array in memory");
    if (second.overlaps(out.ptr())) throw nb::value_error("out overlaps the second array in memory");
    if (third && third->overlaps(out.ptr())) throw nb::value_error("out overlaps bias in memory");
  }
  compute({first.data(), second.data(), third ? third->data() : nullptr, output_data(result.ptr())},
          num_threads, prepared);
  return result;
}

void PyPlan::run_at(std::uintptr_t a, std::uintptr_t b, std::uintptr_t bias, std::uintptr_t out,
                    int num_threads, const Prepared* prepared) const {
  compute({reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b),
           reinterpret_cast<const void*>(bias), reinterpret_cast<void*>(out)},
          num_threads, prepared);
}

std::string PyPlan::algorithm(nb::handle filter) const {
  const Input second(filter.ptr(), "filter", element(Storage::same, plan_.spec.dtype), shapes_.second.data(),
                     4);
  const bool separable = depends_on_filter() && factorise(plan_.spec, second.data()).found();
  return algorithm_name(separable ? Algorithm::separable : kernel_info(plan_.kernel).algorithm);
}

std::unique_ptr<Prepared> PyPlan::prepare(nb::handle filter, int num_threads) const {
  if (prepared_bytes() == 0) return nullptr;
  const Input second(filter.ptr(), "filter", element(Storage::same, plan_.spec.dtype), shapes_.second.data(),
                     4);
  const GilRelease release;
  return std::make_unique<Prepared>(plan_, second.data(), num_threads);
}

Record PyPlan::describe(int num_threads) const {
  const int threads = threads_for(plan_, num_threads);
  const auto [chosen, row_blocks] = plan_.for_threads(threads);
  const Plan& plan = *chosen;
  const Spec& s = plan.spec;
  const Tile& t = plan.rule.tile;
  nb::dict d;
  d["kernel"] = kernel_info(plan_.kernel).name;
  d["algorithm"] = algorithm_name(kernel_info(plan_.kernel).algorithm);
  d["isa"] = plan_.isa->name;
  d["tile"] = std::to_string(plan.block_rows(row_blocks)) + " rows x " + std::to_string(t.columns) +
              " columns x " + std::to_string(t.units) + " units";
  d["threads"] = threads;
  d["scratch_bytes"] = plan.scratch_bytes();
  d["multiply_adds"] = s.multiply_adds();
  d["bytes"] = s.input_elements() * storage_bytes(s.input, s.dtype) +
               s.output_elements() * storage_bytes(s.output, s.dtype) +
               s.filter_elements() * dtype_bytes(s.dtype);
  d["copies"] = copies();
  d["tasks"] = plan.tasks(row_blocks) + (plan_.patches ? plan_.patches->tasks() : 0);
  d["reason"] = std::string(plan_.rule.reason) +
                (depends_on_filter() ? "; separable instead if every plane of the filter is of rank 1" : "");
  return d;
}

// What is copied piece by piece, in words.
std::string PyPlan::copies() const {
  if (!plan_.patches) return "";
  const Patches& p = *plan_.patches;
  index_t rows = 0, columns = 0;
  for (const Strip& s : p.strips)
    rows = std::max(rows, s.tile_rows), columns = std::max(columns, s.tile_columns);
  return std::to_string(p.tiles() * p.channel_blocks) + " tiles of at most " + std::to_string(rows) +
         " rows x " + std::to_string(columns) + " columns x " + std::to_string(p.channels) + " channels";
}

void PyPlan::compute(Operands operands, int num_threads, const Prepared* prepared) const {
  if (prepared && &prepared->plan() != &plan_) throw nb::value_error("prepared belongs to another plan");
  operands.prepared = prepared;
  bool finished;
  {
    const auto poll = is_long(plan_) && on_main_thread() ? check_signals : nullptr;
    const GilRelease release;
    finished = execute(plan_, operands, num_threads, poll, nullptr);
  }
  if (!finished) throw nb::python_error();
}

}  // namespace depthwise::bindings
