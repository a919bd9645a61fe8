// Runs a plan on arrays. No Python in it.
#pragma once

#include "plan.hpp"

namespace depthwise {

// Threads that a call uses when it does not say: set_threads(), else default_threads().
int current_threads();
void set_threads(int threads);

// Threads that a run of the plan takes when it may have so many; 0 stands for current_threads().
int threads_for(const Plan& plan, int threads);

// Computes the plan's result, with `operands.factors` if the filter has been factored. `threads` 0 stands for
// current_threads(). poll as for parallel_for. Returns false when poll stopped it: the result is then
// incomplete. Throws std::bad_alloc without scratch.
bool execute(const Plan& plan, const Operands& operands, int threads, bool (*poll)(void*) = nullptr,
             void* poll_context = nullptr);

// Computes plan.prepared_bytes() from the filter for runs of this plan with it, which then find them in
// operands.prepared. Returns false where there is nothing to keep of this filter. Throws std::bad_alloc
// without scratch.
bool prepare(const Plan& plan, const void* filter, std::byte* to, int threads);

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
