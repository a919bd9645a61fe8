// Compiled once for each ISA, with that ISA's flags and DEPTHWISE_ISA set to its name. Exports one table.
#include "../kernel_table.hpp"
#include "direct.hpp"
#include "fft.hpp"
#include "fft_grad_filter.hpp"
#include "flat.hpp"
#include "generic.hpp"
#include "grad_filter.hpp"
#include "lines.hpp"
#include "peak.hpp"
#include "pieces.hpp"
#include "separable.hpp"

namespace {

template <class Kernel>
void run_kernel(const Task& task) {
  Kernel(task).run();
}

#define DEPTHWISE_STRIP(...) __VA_ARGS__
#define DEPTHWISE_KERNEL(op, algorithm, name, type) \
  struct op##_##name {                              \
    template <class S>                              \
    static void run(const Task& task) {             \
      run_kernel<DEPTHWISE_STRIP type>(task);       \
    }                                               \
  };
#include "kernels.def"
#undef DEPTHWISE_KERNEL

}  // namespace

#define DEPTHWISE_CAT_(a, b) a##b
#define DEPTHWISE_CAT(a, b) DEPTHWISE_CAT_(a, b)

extern const depthwise::KernelTable DEPTHWISE_CAT(depthwise_kernels_, DEPTHWISE_ISA);
const depthwise::KernelTable DEPTHWISE_CAT(depthwise_kernels_, DEPTHWISE_ISA) = {
    {
#define DEPTHWISE_KERNEL(op, algorithm, name, type)                                    \
  {op##_##name::run<simd::f16>, op##_##name::run<simd::bf16>, op##_##name::run<float>, \
   op##_##name::run<double>},
#include "kernels.def"
#undef DEPTHWISE_KERNEL
    },
    kPieceFunctions,
    peak<float>,
    peak<double>,
    simd::kVectorBytes,
};
