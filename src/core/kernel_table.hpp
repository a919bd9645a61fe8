// What one ISA's translation unit offers: a function for each registry row and dtype.
#pragma once

#include "task.hpp"

namespace depthwise {

enum class KernelId : int {
#define DEPTHWISE_KERNEL(op, algorithm, name, type) op##_##name,
#include "kernels/kernels.def"
#undef DEPTHWISE_KERNEL
  count
};

inline constexpr int kKernels = static_cast<int>(KernelId::count);

struct KernelTable {
  KernelFunction run[kKernels][kDTypes];
  std::int64_t (*peak_f32)(std::int64_t rounds);
  std::int64_t (*peak_f64)(std::int64_t rounds);
  int vector_bytes;
};

}  // namespace depthwise
