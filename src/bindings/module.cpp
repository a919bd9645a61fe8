// depthwise._native: plans on NumPy arrays. Semantics live in _spec.py; here sizes are given and arrays are
// checked.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <optional>

#include "arrays.hpp"
#include "execute.hpp"
#include "factors.hpp"
#include "gil.hpp"
#include "parallel.hpp"
#include "patches.hpp"
#include "plan_arguments.hpp"
#include "xla_ffi.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace depthwise::bindings {
namespace {

// In the generated stub: dict[str, Any].
using Record = nb::typed<nb::dict, nb::str, nb::any>;

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

// What a plan computed from a filter; of use to that plan only.
struct Prepared {
  const void* plan;
  std::unique_ptr<std::byte[]> memory;
  std::byte* data;  // aligned to lines of the cache; null without spectra
  index_t bytes;
  std::optional<Factors> factors;
};

class PyPlan {
 public:
  PyPlan(int op, int dtype, int layout, index_t batch, index_t channels, index_t multiplier,
         const AxisNumbers& h, const AxisNumbers& w, int activation, bool has_bias, int border, int input,
         int output, const std::string& algorithm, const std::optional<std::string>& kernel,
         const std::optional<std::string>& isa) {
    const Spec s = to_spec({op, dtype, layout, batch, channels, multiplier, h, w, activation, has_bias,
                            border, input, output, algorithm});
    plan_ = make_plan(s, kernel.value_or(""), isa.value_or(""));
    shapes_ = operand_shapes(s);
  }

  // `prepared` stands for the filter `b`, which must be the one that it was prepared from.
  nb::any run(nb::handle a, nb::handle b, nb::handle bias, nb::handle out, int num_threads,
              const Prepared* prepared) const {
    const Spec& s = plan_.spec;
    const Element own = element(Storage::same, s.dtype);
    const Input first(a.ptr(), s.op == Op::grad_input ? "grad" : "input", element(s.input, s.dtype),
                      shapes_.first.data(), 4);
    const Input second(b.ptr(), s.op == Op::grad_filter ? "grad" : "filter", own, shapes_.second.data(), 4);
    if (s.has_bias == bias.is_none())
      throw nb::value_error("bias must be given exactly when the plan has one");
    const index_t outputs = s.out_channels();
    std::optional<Input> third;
    if (s.has_bias) third.emplace(bias.ptr(), "bias", own, &outputs, 1);
    const auto result = nb::steal<nb::any>(output(out.ptr(), element(s.output, s.dtype), shapes_.result));
    if (!out.is_none()) {
      if (first.overlaps(out.ptr())) throw nb::value_error("out overlaps the first array in memory");
      if (second.overlaps(out.ptr())) throw nb::value_error("out overlaps the second array in memory");
      if (third && third->overlaps(out.ptr())) throw nb::value_error("out overlaps bias in memory");
    }
    compute({first.data(), second.data(), third ? third->data() : nullptr, output_data(result.ptr())},
            num_threads, prepared);
    return result;
  }

  // The same on contiguous, aligned memory of the plan's shapes and dtypes, for which the caller answers:
  // nothing is checked. 0 stands for no bias.
  void run_at(std::uintptr_t a, std::uintptr_t b, std::uintptr_t bias, std::uintptr_t out, int num_threads,
              const Prepared* prepared) const {
    compute({reinterpret_cast<const void*>(a), reinterpret_cast<const void*>(b),
             reinterpret_cast<const void*>(bias), reinterpret_cast<void*>(out)},
            num_threads, prepared);
  }

  // Of spectra or of factors, whichever a filter turns out to have.
  index_t prepared_bytes() const {
    const Spec& s = plan_.spec;
    const index_t factors = (s.h.kernel + s.w.kernel) * s.out_channels() * compute_bytes(s.dtype);
    return std::max(plan_.prepared_bytes(), plan_.if_rank_1() ? factors : 0);
  }

  bool depends_on_filter() const { return plan_.if_separable != nullptr; }

  // The algorithm of a run with this filter.
  std::string algorithm(nb::handle filter) const {
    const Input second(filter.ptr(), "filter", element(Storage::same, plan_.spec.dtype),
                       shapes_.second.data(), 4);
    const bool separable = depends_on_filter() && factorise(plan_.spec, second.data()).found();
    return algorithm_name(separable ? Algorithm::separable : kernel_info(plan_.kernel).algorithm);
  }

  // What runs with this filter share, or None when there is nothing: its factors, or that it has none, and
  // unless it has some its spectra.
  std::unique_ptr<Prepared> prepare(nb::handle filter, int num_threads) const {
    if (prepared_bytes() == 0) return nullptr;
    const Input second(filter.ptr(), "filter", element(Storage::same, plan_.spec.dtype),
                       shapes_.second.data(), 4);
    const GilRelease release;
    std::unique_ptr<Prepared> kept(new Prepared{this, nullptr, nullptr, 0, std::nullopt});
    if (plan_.if_rank_1()) {
      kept->factors = factorise(plan_.spec, second.data());
      kept->bytes = static_cast<index_t>(kept->factors->values.size());
      if (kept->factors->found()) return kept;
    }
    if (plan_.prepared_bytes() > 0) keep_spectra(*kept, second.data(), num_threads);
    return kept;
  }

  Record describe(int num_threads) const {
    const int threads = plan_.threads(num_threads > 0 ? num_threads : current_threads());
    const Plan& plan = plan_.for_threads(threads);
    const Spec& s = plan.spec;
    const Tile& t = plan.rule.tile;
    nb::dict d;
    d["kernel"] = kernel_info(plan_.kernel).name;
    d["algorithm"] = algorithm_name(kernel_info(plan_.kernel).algorithm);
    d["isa"] = plan_.isa->name;
    d["tile"] = std::to_string(t.rows) + " rows x " + std::to_string(t.columns) + " columns x " +
                std::to_string(t.units) + " units";
    d["threads"] = threads;
    d["scratch_bytes"] = plan.scratch_bytes();
    d["multiply_adds"] = s.multiply_adds();
    d["bytes"] = s.input_elements() * storage_bytes(s.input, s.dtype) +
                 s.output_elements() * storage_bytes(s.output, s.dtype) +
                 s.filter_elements() * dtype_bytes(s.dtype);
    d["copies"] = copies();
    d["tasks"] = plan.tasks() + (plan_.patches ? plan_.patches->tasks() : 0);
    d["reason"] =
        std::string(plan_.rule.reason) +
        (depends_on_filter() ? "; separable instead if every plane of the filter is of rank 1" : "");
    return d;
  }

 private:
  // What is copied piece by piece, in words.
  std::string copies() const {
    if (!plan_.patches) return "";
    const Patches& p = *plan_.patches;
    index_t rows = 0, columns = 0;
    for (const Strip& s : p.strips)
      rows = std::max(rows, s.tile_rows), columns = std::max(columns, s.tile_columns);
    return std::to_string(p.tiles() * p.channel_blocks) + " tiles of at most " + std::to_string(rows) +
           " rows x " + std::to_string(columns) + " columns x " + std::to_string(p.channels) + " channels";
  }

  void keep_spectra(Prepared& kept, const void* filter, int num_threads) const {
    const index_t bytes = plan_.prepared_bytes();
    kept.memory = std::make_unique_for_overwrite<std::byte[]>(bytes + kLineBytes);
    kept.data =
        kept.memory.get() + (kLineBytes - reinterpret_cast<std::uintptr_t>(kept.memory.get()) % kLineBytes);
    kept.bytes += bytes;
    depthwise::prepare(plan_, {nullptr, filter, nullptr, nullptr}, kept.data, num_threads);
  }

  void compute(Operands operands, int num_threads, const Prepared* prepared) const {
    if (prepared && prepared->plan != this) throw nb::value_error("prepared belongs to another plan");
    if (prepared) {
      operands.prepared = prepared->data;
      operands.factors = prepared->factors ? &*prepared->factors : nullptr;
    }
    bool finished;
    {
      const auto poll = is_long(plan_) && on_main_thread() ? check_signals : nullptr;
      const GilRelease release;
      finished = execute(plan_, operands, num_threads, poll, nullptr);
    }
    if (!finished) throw nb::python_error();
  }

  Plan plan_;
  Shapes shapes_;
};

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
      .def_ro("bytes", &Prepared::bytes);
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
      .def_prop_ro("prepared_bytes", &PyPlan::prepared_bytes, "Bytes that prepare() keeps.")
      .def_prop_ro("depends_on_filter", &PyPlan::depends_on_filter, "Whether the algorithm does.")
      .def("algorithm", &PyPlan::algorithm, "filter"_a, "The algorithm of a run with this filter.")
      .def("describe", &PyPlan::describe, "num_threads"_a = 0);
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
