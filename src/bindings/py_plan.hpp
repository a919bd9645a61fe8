// Plans as Python knows them: on NumPy arrays, with the GIL released while they run.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <optional>
#include <string>

#include "execute.hpp"
#include "plan.hpp"
#include "plan_arguments.hpp"

namespace depthwise::bindings {

// In the generated stub: dict[str, Any].
using Record = nanobind::typed<nanobind::dict, nanobind::str, nanobind::any>;

class PyPlan {
 public:
  PyPlan(int op, int dtype, int layout, index_t batch, index_t channels, index_t multiplier,
         const AxisNumbers& h, const AxisNumbers& w, int activation, bool has_bias, int border, int input,
         int output, const std::string& algorithm, const std::optional<std::string>& kernel,
         const std::optional<std::string>& isa);

  // `prepared` stands for the filter `b`, which must be the one that it was prepared from.
  nanobind::any run(nanobind::handle a, nanobind::handle b, nanobind::handle bias, nanobind::handle out,
                    int num_threads, const Prepared* prepared) const;

  // The same on contiguous, aligned memory of the plan's shapes and dtypes, for which the caller answers:
  // nothing is checked. 0 stands for no bias.
  void run_at(std::uintptr_t a, std::uintptr_t b, std::uintptr_t bias, std::uintptr_t out, int num_threads,
              const Prepared* prepared) const;

  index_t prepared_bytes() const { return Prepared::most_bytes(plan_); }
  bool depends_on_filter() const { return plan_.if_separable != nullptr; }
  // The algorithm of a run with this filter.
  std::string algorithm(nanobind::handle filter) const;
  // What runs with this filter share, or None when there is nothing.
  std::unique_ptr<Prepared> prepare(nanobind::handle filter, int num_threads) const;
  Record describe(int num_threads) const;

 private:
  std::string copies() const;
  void compute(Operands operands, int num_threads, const Prepared* prepared) const;

  Plan plan_;
  Shapes shapes_;
};

}  // namespace depthwise::bindings
