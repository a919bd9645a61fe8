#include "cpu.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>

#define DEPTHWISE_ISA_ROW(name, features) extern const depthwise::KernelTable depthwise_##name##_kernels;
#include "isas.def"
#undef DEPTHWISE_ISA_ROW

namespace depthwise {
namespace {

std::vector<Isa> detect_isas() {
#define DEPTHWISE_FEATURE(feature) &&__builtin_cpu_supports(#feature)
#define DEPTHWISE_ISA_ROW(name, features) {#name, &depthwise_##name##_kernels, true features},
  return {
#include "isas.def"
  };
#undef DEPTHWISE_ISA_ROW
#undef DEPTHWISE_FEATURE
}

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

std::string isa_names(bool supported_only) {
  std::string names;
  for (const Isa& isa : compiled_isas())
    if (isa.supported || !supported_only) names += (names.empty() ? "" : ", ") + std::string(isa.name);
  return names;
}

// The quota in CPUs of the files of one cgroup, if there is one.
std::optional<double> read_quota(const std::string& folder, bool v2) {
  double quota = 0, period = 0;
  if (v2) {
    std::string word;
    std::ifstream file(folder + "/cpu.max");
    if (!(file >> word >> period) || word == "max") return std::nullopt;
    quota = std::atof(word.c_str());
  } else if (!(std::ifstream(folder + "/cpu.cfs_quota_us") >> quota) ||
             !(std::ifstream(folder + "/cpu.cfs_period_us") >> period)) {
    return std::nullopt;
  }
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// The tightest quota of this process's cgroup and its parents.
std::optional<double> cgroup_quota() {
  std::optional<double> tightest;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    std::istringstream fields(line);
    std::string id, controllers, path;
    std::getline(fields, id, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (;;) {
      if (const auto quota = read_quota(root + path, v2); quota && (!tightest || *quota < *tightest))
        tightest = quota;
      const auto slash = path.find_last_of('/');
      if (path.empty() || slash == std::string::npos) break;
      path.erase(slash);
    }
  }
  return tightest;
}

// A positive integer from the environment; a list such as "4,2" counts by its first entry, as OpenMP reads
// it.
std::optional<int> threads_from(const char* name) {
  const char* value = environment(name);
  if (!value) return std::nullopt;
  char* end = nullptr;
  const long n = std::strtol(value, &end, 10);
  if (end == value || n < 1) return std::nullopt;
  return static_cast<int>(std::min(n, 1024L));
}

}  // namespace

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = detect_isas();
  return isas;
}

const Isa& choose_isa(const std::string& name) {
  const char* forced = environment("DEPTHWISE_ISA");
  const std::string wanted = !name.empty() ? name
                             : forced      ? forced
                                           : "",
                    source = name.empty() ? "DEPTHWISE_ISA" : "isa";
  for (const Isa& isa : compiled_isas()) {
    if (wanted.empty() ? isa.supported : wanted == isa.name) {
      if (isa.supported) return isa;
      throw std::invalid_argument(source + ": " + wanted + " does not run on this machine; usable are " +
                                  isa_names(true));
    }
  }
  throw std::invalid_argument(source + " must be one of " + isa_names(false) + ", got '" + wanted + "'");
}

bool asks_for_isa(const std::string& name) { return !name.empty() || environment("DEPTHWISE_ISA"); }

int available_cpus() {
  cpu_set_t set;
  int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
  if (const auto quota = cgroup_quota()) cpus = std::min(cpus, static_cast<int>(std::ceil(*quota)));
  return std::max(cpus, 1);
}

int default_threads() {
  if (const auto n = threads_from("DEPTHWISE_NUM_THREADS")) return *n;
  if (const auto n = threads_from("OMP_NUM_THREADS")) return *n;
  return available_cpus();
}

const Caches& caches() {
  static const Caches found = [] {
    Caches c;
    if (const long l1 = sysconf(_SC_LEVEL1_DCACHE_SIZE); l1 > 0) c.l1 = l1;
    if (const long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE); l2 > 0) c.l2 = l2;
    return c;
  }();
  return found;
}

}  // namespace depthwise
