#include "execute.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "clip.hpp"
#include "parallel.hpp"
#include "patches.hpp"

namespace depthwise {
namespace {

std::atomic<int> g_threads{0};
thread_local LastRun t_last_run;

// Where a thread keeps its scratch and the size of it; the buffer is freed as the thread ends. In
// thread_local objects they would be as well, but without memory to make or to register these a process is
// aborted.
struct ScratchKeys {
  pthread_key_t buffer{}, size{};
  const bool made = pthread_key_create(&buffer, std::free) == 0 && pthread_key_create(&size, nullptr) == 0;
};

// One buffer a thread, kept between calls; null when there is no memory.
std::byte* thread_scratch(index_t bytes) {
  static const ScratchKeys keys;
  if (!keys.made) return nullptr;
  const auto keep = [](std::byte* buffer, index_t size) {
    return pthread_setspecific(keys.buffer, buffer) == 0 &&
           pthread_setspecific(keys.size, reinterpret_cast<const void*>(size)) == 0;
  };
  auto* buffer = static_cast<std::byte*>(pthread_getspecific(keys.buffer));
  auto size = reinterpret_cast<index_t>(pthread_getspecific(keys.size));
  if (size < bytes) {
    std::free(buffer);
    buffer = allocate(bytes).release();
    size = bytes;
    if (!buffer || !keep(buffer, size)) {
      std::free(buffer);
      keep(nullptr, 0);
      return nullptr;
    }
  }
  bound(buffer, bytes, size);  // although an earlier call may have had more
  return buffer;
}

struct Call {
  const Plan* plan;
  index_t row_blocks;
  Operands operands;
  KernelFunction kernel;
  std::byte* sums;
  const std::byte* prepared;
  std::byte* prepare_to = nullptr;
  index_t prepare_lead = 0;
  std::atomic<bool> out_of_memory{false};
};

KernelFunction kernel_of(const Plan& plan) {
  return plan.isa->kernels->run[static_cast<int>(plan.kernel)][static_cast<int>(plan.spec.dtype)];
}

// The scratch of the calling thread, or null after a note that there is no memory for it.
std::byte* scratch_of(Call& call) {
  std::byte* const scratch = thread_scratch(std::max<index_t>(call.plan->scratch_bytes(), 1));
  if (!scratch) call.out_of_memory = true;
  return scratch;
}

bool run_one(Call& call, Task task) {
  task.sums = call.sums;
  task.prepared = call.prepared;
  task.operands = call.operands;
  task.scratch = scratch_of(call);
  if (!task.scratch) return false;
  call.kernel(task);
  return true;
}

bool run_task(void* context, std::int64_t index) {
  Call& call = *static_cast<Call*>(context);
  const Task task = call.plan->task(index, call.row_blocks);
  const bool empty = call.plan->spec.op != Op::grad_filter &&
                     (task.row_begin >= task.row_end || task.column_begin >= task.column_end);
  return empty || run_one(call, task);
}

bool run_prepare_task(void* context, std::int64_t unit) {
  Call& call = *static_cast<Call*>(context);
  Task task = call.plan->task(unit);
  task.prepare_to = call.prepare_to;
  task.prepare_lead = call.prepare_lead;
  return run_one(call, task);
}

bool run_reduce_task(void* context, std::int64_t unit) {
  Call& call = *static_cast<Call*>(context);
  return run_one(call, call.plan->reduce_task(unit));
}

bool run_patch_task(void* context, std::int64_t index) {
  Call& call = *static_cast<Call*>(context);
  std::byte* const scratch = scratch_of(call);
  if (scratch) run_patch(*call.plan->patches, call.operands, index, scratch, call.sums);
  return scratch != nullptr;
}

bool run_patch_reduction(void* context, std::int64_t block) {
  Call& call = *static_cast<Call*>(context);
  std::byte* const scratch = scratch_of(call);
  if (scratch) reduce_patch(*call.plan->patches, call.operands, block, scratch, call.sums);
  return scratch != nullptr;
}

// Results in place first: the patches compute anew what tiles may have spilled over the edge of these. `all`
// is what their loops have in common.
bool run_all(Call& call, Loop all, int threads) {
  const Plan& plan = *call.plan;
  all.context = &call;
  const auto loop = [&all](bool (*body)(void*, std::int64_t), index_t count, int used) {
    all.body = body, all.count = count;
    return count == 0 || parallel_for(all, used);
  };
  if (!loop(run_task, plan.tasks(call.row_blocks), threads)) return false;
  if (!plan.patches) return !call.sums || loop(run_reduce_task, plan.unit_blocks, 1);
  if (!loop(run_patch_task, plan.patches->tasks(), threads)) return false;
  return !call.sums || loop(run_patch_reduction, plan.patches->channel_blocks, 1);
}

// Bytes between the places in a cache line where a prepared filter's vectors may begin: those at which memory
// from malloc() lies.
constexpr index_t kLeadBytes = 16;

// Of a plan's weights for all such places.
index_t most_weights(const Plan& plan) {
  const index_t vector = plan.lanes() * dtype_bytes(plan.spec.dtype),
                places = plan.rule.tile.fit == Fit::channels ? 1 : vector / kLeadBytes;
  return places * plan.prepared_bytes();
}

// The direct kernels see whether weights are finite as they pack them; of what takes the whole plan this one
// has no use.
bool worth_keeping(const Plan& plan, const void* filter) {
  const bool direct = kernel_info(plan.kernel).algorithm == Algorithm::direct;
  return direct ? filter_is_finite(plan.spec, filter) : !plan.whole || left_out_are_finite(plan.spec, filter);
}

// The filter's weights as the plan's kernel reads them, for vectors that begin `lead` channels in. Throws
// std::bad_alloc without memory or scratch.
Buffer packed(const Plan& plan, const void* filter, index_t lead, int threads) {
  Buffer memory = allocate(plan.prepared_bytes());
  if (!memory) throw std::bad_alloc();
  Call call{&plan, plan.row_blocks, {nullptr, filter, nullptr, nullptr}, kernel_of(plan), nullptr, nullptr};
  call.prepare_to = memory.get();
  call.prepare_lead = lead;
  parallel_for({run_prepare_task, &call, plan.unit_blocks}, threads_for(plan, threads));
  if (call.out_of_memory) throw std::bad_alloc();
  return memory;
}

bool execute_plan(const Plan& given, const Operands& operands, int threads, bool (*poll)(void*),
                  void* poll_context) {
  const int used = threads_for(given, threads);
  const auto [chosen, row_blocks] = given.for_threads(used);
  const Plan& plan = *chosen;
  t_last_run = {kernel_info(plan.kernel).name, plan.isa->name, used};
  const index_t sum_bytes = plan.patches ? plan.patches->partial_bytes() : plan.partial_bytes();
  const Buffer sums = sum_bytes > 0 ? allocate(sum_bytes) : Buffer();
  if (sum_bytes > 0 && !sums) throw std::bad_alloc();
  const std::byte* const kept =
      operands.prepared ? operands.prepared->weights(plan.lead(operands), operands.b, threads) : nullptr;
  const bool prepares = !kept && plan.rule.prepare && plan.prepared_bytes() > 0;
  const Buffer own = prepares ? packed(plan, operands.b, 0, used) : Buffer();
  Call call{&plan, row_blocks, operands, kernel_of(plan), sums.get(), prepares ? own.get() : kept};
  const Loop all{.poll = poll, .poll_context = poll_context, .wakes = plan.worth_waking()};
  const bool finished = run_all(call, all, used);
  if (call.out_of_memory) throw std::bad_alloc();
  return finished;
}

bool execute_factors(const Plan& plan, Operands operands, const Factors& factors, int threads,
                     bool (*poll)(void*), void* poll_context) {
  const FactorView view = factors.view();
  operands.b = &view;
  return execute_plan(plan, operands, threads, poll, poll_context);
}

[[noreturn]] void refuse_filter(const Spec& spec, const Factors& factors) {
  const index_t plane = factors.refused;
  const std::string where = factors.shared ? "each plane"
                                           : "plane [:, :, " + std::to_string(plane / spec.multiplier) +
                                                 ", " + std::to_string(plane % spec.multiplier) + "]";
  char residual[32];
  std::snprintf(residual, sizeof residual, "%.3g", factors.residual);
  throw std::invalid_argument("filter must be of rank 1 for algorithm \"separable\", but " + where +
                              " differs from the product of a column and a row by up to " + residual);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The shortest of several timings of `threads` bodies at once.
template <class Body>
double best_seconds(int threads, const Body& body) {
  const auto call = [](void* context, std::int64_t i) {
    (*static_cast<const Body*>(context))(i);
    return true;
  };
  double best = 1e300;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    parallel_for({call, const_cast<Body*>(&body), threads}, threads);
    best = std::min(best, seconds_since(start));
  }
  return best;
}

}  // namespace

int current_threads() {
  int n = g_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = default_threads();
    g_threads.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_threads(int threads) { g_threads.store(threads, std::memory_order_relaxed); }

const LastRun& last_run() { return t_last_run; }

int threads_for(const Plan& plan, int threads) {
  return plan.threads(threads > 0 ? threads : current_threads(), least_handover());
}

Prepared::Prepared(const Plan& plan, const void* filter, int threads) : plan_(plan) {
  if (plan.if_rank_1()) factors_ = factorise(plan.spec, filter);
  if (factors_ && factors_->found()) return;
  has_weights_ = plan.prepared_bytes() > 0 && worth_keeping(plan, filter);
  weights(0, filter, threads);
}

index_t Prepared::bytes() const {
  const index_t factors = factors_ ? static_cast<index_t>(factors_->values.size()) : 0;
  return factors + (has_weights_ ? most_weights(plan_) : 0);
}

index_t Prepared::most_bytes(const Plan& plan) {
  const Spec& s = plan.spec;
  const index_t factors = (s.h.filter_taps() + s.w.filter_taps()) * s.out_channels() * compute_bytes(s.dtype);
  return std::max(most_weights(plan), plan.if_rank_1() ? factors : 0);
}

const std::byte* Prepared::weights(index_t lead, const void* filter, int threads) const {
  const index_t bytes = lead * dtype_bytes(plan_.spec.dtype), place = bytes / kLeadBytes;
  if (!has_weights_ || bytes % kLeadBytes != 0 || !plan_.takes_lead(lead)) return nullptr;
  std::atomic<std::byte*>& data = packings_[place].data;
  std::byte* first = data.load(std::memory_order_acquire);
  if (first) return first;
  Buffer own = packed(plan_, filter, lead, threads);
  return data.compare_exchange_strong(first, own.get()) ? own.release() : first;
}

bool execute(const Plan& plan, const Operands& operands, int threads, bool (*poll)(void*),
             void* poll_context) {
  const Prepared* const known = operands.prepared;
  if (plan.whole && !(known && known->has_weights()) && !left_out_are_finite(plan.spec, operands.b)) {
    const Operands all{operands.a, operands.b, operands.bias, operands.out};
    return execute(*plan.whole, all, threads, poll, poll_context);
  }
  const Plan* const separable = plan.if_rank_1();
  if (!separable) return execute_plan(plan, operands, threads, poll, poll_context);
  const Factors own = known && known->factors() ? Factors{} : factorise(plan.spec, operands.b);
  const Factors& factors = known && known->factors() ? *known->factors() : own;
  if (factors.found()) return execute_factors(*separable, operands, factors, threads, poll, poll_context);
  if (separable == &plan) refuse_filter(plan.spec, factors);
  return execute_plan(plan, operands, threads, poll, poll_context);
}

double measure_fma_peak(const Isa& isa, DType dtype, int threads) {
  const auto peak = dtype == DType::f64 ? isa.kernels->peak_f64 : isa.kernels->peak_f32;
  constexpr std::int64_t rounds = 100'000;
  std::int64_t multiply_adds = 0;
  const double seconds = best_seconds(threads, [&](std::int64_t i) {
    const std::int64_t n = peak(rounds);
    if (i == 0) multiply_adds = n;
  });
  return 2.0 * static_cast<double>(multiply_adds) * threads / seconds;
}

double measure_copy_bandwidth(index_t bytes, int threads) {
  const index_t share = std::max<index_t>(bytes / 2 / threads, 1);
  std::vector<Buffer> from, to;
  for (int i = 0; i < threads; ++i) {
    from.push_back(allocate(share));
    to.push_back(allocate(share));
    if (!from.back() || !to.back()) throw std::bad_alloc();
    std::memset(from.back().get(), 1, share);
    std::memset(to.back().get(), 0, share);
  }
  const index_t repeats = std::max<index_t>(1, (1 << 20) / share);
  const double seconds = best_seconds(threads, [&](std::int64_t i) {
    for (index_t r = 0; r < repeats; ++r) std::memcpy(to[i].get(), from[i].get(), share);
  });
  return 2.0 * static_cast<double>(share * repeats) * threads / seconds;
}

}  // namespace depthwise
