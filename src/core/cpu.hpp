// The ISAs compiled in, those this machine can run, and the processors this process may use.
#pragma once

#include <string>
#include <vector>

#include "kernel_table.hpp"

namespace depthwise {

struct Isa {
  const char* name;
  const KernelTable* kernels;
  bool supported;
};

// Every ISA compiled in, best first.
const std::vector<Isa>& compiled_isas();

// The ISA named, or for an empty name the one that DEPTHWISE_ISA asks for, else the best that runs here.
// Throws std::invalid_argument for a name that is unknown or does not run here.
const Isa& choose_isa(const std::string& name);
// Whether the name or DEPTHWISE_ISA asks for one.
bool asks_for_isa(const std::string& name);

// CPUs by affinity mask and cgroup quota, at least 1.
int available_cpus();

// DEPTHWISE_NUM_THREADS, else OMP_NUM_THREADS, else available_cpus().
int default_threads();

// Bytes of the data caches of one core.
struct Caches {
  index_t l1 = 32 << 10, l2 = 512 << 10;
};
const Caches& caches();

}  // namespace depthwise
