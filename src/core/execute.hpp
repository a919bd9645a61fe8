// Runs a plan on arrays. No Python in it.
#pragma once

#include <array>
#include <atomic>
#include <optional>

#include "buffer.hpp"
#include "factors.hpp"
#include "plan.hpp"

namespace depthwise {

// Threads that a call uses when it does not say: set_threads(), else default_threads().
int current_threads();
void set_threads(int threads);

// Threads that a run of the plan takes when it may have so many; 0 stands for current_threads().
int threads_for(const Plan& plan, int threads);

// Computes the plan's result. `threads` 0 stands for current_threads(). poll as for parallel_for. Returns
// false when poll stopped it: the result is then incomplete. Throws std::bad_alloc without scratch.
bool execute(const Plan& plan, const Operands& operands, int threads, bool (*poll)(void*) = nullptr,
             void* poll_context = nullptr);

// What runs of a plan with one filter share, as their `operands.prepared`: its factors, or that it has none,
// and unless it has some its weights as the kernel reads them. Those for vectors that begin at channel 0 are
// computed at once, others when they are first wanted: a set for each of the places in a cache line where
// memory may begin.
class Prepared {
 public:
  // Throws std::bad_alloc without memory or scratch.
  Prepared(const Plan& plan, const void* filter, int threads);

  const Plan& plan() const { return plan_; }
  // That it keeps, at most.
  index_t bytes() const;
  // That it may keep of the plan's filters, at most.
  static index_t most_bytes(const Plan& plan);
  // What factorise() found, if the plan has use for it.
  const Factors* factors() const { return factors_ ? &*factors_ : nullptr; }
  // Whether weights are kept, so that they are known to be finite where this matters.
  bool has_weights() const { return has_weights_; }
  // Those for vectors that begin `lead` channels in; null where none are kept. Throws std::bad_alloc as
  // above.
  const std::byte* weights(index_t lead, const void* filter, int threads) const;

 private:
  // Made by whoever is first to want it: no lock, which a child process could find taken for ever.
  struct Packing {
    std::atomic<std::byte*> data{nullptr};

    ~Packing() { Buffer(data.load()); }
  };

  const Plan& plan_;
  std::optional<Factors> factors_;
  bool has_weights_ = false;
  mutable std::array<Packing, 4> packings_;
};

// What the calling thread's last execute() ran.
struct LastRun {
  const char* kernel = nullptr;
  const char* isa = nullptr;
  int threads = 0;
};
const LastRun& last_run();

// Measured speed of this machine: multiply-adds a second counted as two operations each, and bytes a second
// read plus written by a copy that touches `bytes` in all.
double measure_fma_peak(const Isa& isa, DType dtype, int threads);
double measure_copy_bandwidth(index_t bytes, int threads);

}  // namespace depthwise
