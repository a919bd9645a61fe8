// depthwise._native: plans on NumPy arrays. Semantics live in _spec.py; here sizes are given and arrays are
// checked.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <optional>

#include "arrays.hpp"
#include "calls.hpp"
#include "execute.hpp"
#include "gil.hpp"
#include "parallel.hpp"
#include "py_plan.hpp"
#include "xla_ffi.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace depthwise::bindings {
namespace {

nb::typed<nb::list, Record> kernels() {
  constexpr const char* ops[kOps] = {"forward", "grad_input", "grad_filter"};
  nb::list rows;
  for (int i = 0; i < kKernels; ++i) {
    const KernelInfo& info = kernel_info(static_cast<KernelId>(i));
    nb::dict row;
    row["op"] = ops[static_cast<int>(info.op)];
    row["algorithm"] = algorithm_name(info.algorithm);
    row["name"] = info.name;
    rows.append(row);
  }
  return rows;
}

std::vector<std::string> isa_names(bool supported_only) {
  std::vector<std::string> names;
  for (const Isa& isa : compiled_isas())
    if (isa.supported || !supported_only) names.emplace_back(isa.name);
  return names;
}

Record config() {
  nb::dict d;
  d["isa"] = choose_isa("").name;
  d["isas"] = isa_names(true);
  d["compiled_isas"] = isa_names(false);
  d["num_threads"] = current_threads();
  d["available_cpus"] = available_cpus();
  d["threads"] = has_team() ? "OpenMP's, shared with PyTorch" : "a pool of its own";
  d["l1_bytes"] = caches().l1;
  d["l2_bytes"] = caches().l2;
  d["compiler"] = __VERSION__;
  return d;
}

Record last_run_dict() {
  nb::dict d;
  const LastRun& run = last_run();
  d["kernel"] = run.kernel ? nb::cast(run.kernel) : nb::none();
  d["isa"] = run.isa ? nb::cast(run.isa) : nb::none();
  d["threads"] = run.threads;
  return d;
}

int check_threads(int threads) {
  if (threads < 1) throw nb::value_error("num_threads must be at least 1");
  return threads;
}

}  // namespace
}  // namespace depthwise::bindings

NB_MODULE(_native, m) {
  using namespace depthwise;
  using namespace depthwise::bindings;
  import_numpy();
  nb::set_leak_warnings(false);  // frameworks keep references to functions until the process ends
  nb::class_<Prepared>(m, "Prepared", "What a plan computed from a filter.")
      .def_prop_ro("bytes", &Prepared::bytes, "Bytes that it keeps, at most.");
  nb::class_<PyPlan>(m, "Plan", "One problem, resolved to a kernel and its tasks; immutable.")
      .def(nb::init<int, int, int, index_t, index_t, index_t, const AxisNumbers&, const AxisNumbers&, int,
                    bool, int, int, int, const std::string&, const std::optional<std::string>&,
                    const std::optional<std::string>&>(),
           "op"_a, "dtype"_a, "layout"_a, "batch"_a, "channels"_a, "multiplier"_a, "h"_a, "w"_a,
           "activation"_a = 0, "has_bias"_a = false, "border"_a = 0, "input"_a = 0, "output"_a = 0,
           "algorithm"_a = "auto", "kernel"_a = nb::none(), "isa"_a = nb::none())
      .def("run", &PyPlan::run, "a"_a, "b"_a, "bias"_a = nb::none(), "out"_a = nb::none(),
           "num_threads"_a = 0, "prepared"_a = nb::none())
      .def("run_at", &PyPlan::run_at, "a"_a, "b"_a, "bias"_a, "out"_a, "num_threads"_a,
           "prepared"_a = nb::none(), "`run` on memory at these addresses, unchecked.")
      .def("prepare", &PyPlan::prepare, "filter"_a, "num_threads"_a = 0, nb::keep_alive<0, 1>(),
           "What runs with this filter share, or None.")
      .def_prop_ro("prepared_bytes", &PyPlan::prepared_bytes, "Bytes that prepare() keeps, at most.")
      .def_prop_ro("depends_on_filter", &PyPlan::depends_on_filter, "Whether the algorithm does.")
      .def("algorithm", &PyPlan::algorithm, "filter"_a, "The algorithm of a run with this filter.")
      .def("describe", &PyPlan::describe, "num_threads"_a = 0);
  nb::class_<Calls>(m, "Calls", "Calls of one function that were made before.")
      .def(nb::init<>())
      .def("recall", &Calls::recall, "a"_a, "b"_a, "bias"_a.none(), "out"_a.none(), "settings"_a,
           "What a call like a remembered one returns, or None.")
      .def("remember", &Calls::remember, "plan"_a, "threads"_a, "a"_a, "b"_a, "bias"_a.none(), "settings"_a,
           "Calls on arrays of these shapes and dtypes, with these settings, run this plan.");
  m.def("kernels", &kernels, "The registry's rows, in order of priority.");
  m.def("isas", [] { return isa_names(true); }, "ISAs that run on this machine, best first.");
  m.def("compiled_isas", [] { return isa_names(false); }, "ISAs compiled in, best first.");
  m.def("set_num_threads", [](int n) { set_threads(check_threads(n)); }, "num_threads"_a);
  m.def("get_num_threads", &current_threads);
  m.def(
      "use_team",
      [](std::uintptr_t parallel, std::uintptr_t index) {
        use_team({reinterpret_cast<decltype(Team::parallel)>(parallel),
                  reinterpret_cast<decltype(Team::index)>(index)});
      },
      "parallel"_a, "index"_a,
      "Compute on another library's threads: addresses of its GOMP_parallel and omp_get_thread_num.");
  m.def(
      "same_bytes",
      [](std::uintptr_t a, std::uintptr_t b, std::size_t count) {
        return std::memcmp(reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b), count) == 0;
      },
      "a"_a, "b"_a, "count"_a, "Whether the bytes at two addresses are the same.");
  m.def("config", &config);
#ifdef DEPTHWISE_XLA_FFI
  m.def(
      "xla_handler",
      [] {
        return nb::steal<nb::capsule>(PyCapsule_New(reinterpret_cast<void*>(&xla_handler), nullptr, nullptr));
      },
      "The engine as a handler of XLA's foreign function interface.");
#endif
  m.def("last_run", &last_run_dict, "Kernel, ISA and threads of the calling thread's last run.");
  m.def(
      "measure_fma_peak",
      [](const std::optional<std::string>& isa, int dtype, int threads) {
        const Isa& chosen = choose_isa(isa.value_or(""));
        const DType type = to_enum<DType>(dtype, kDTypes, "dtype");
        check_threads(threads);
        const GilRelease release;
        return measure_fma_peak(chosen, type, threads);
      },
      "isa"_a = nb::none(), "dtype"_a = 2, "threads"_a = 1,
      "Operations a second: two for each multiply-add.");
  m.def(
      "measure_copy_bandwidth",
      [](index_t bytes, int threads) {
        check_threads(threads);
        const GilRelease release;
        return measure_copy_bandwidth(bytes, threads);
      },
      "bytes"_a, "threads"_a = 1,
      "Bytes a second, read plus written, of a copy that touches `bytes` in all.");
}
