// The one table of an ISA: the functions of the registry's rows, which the other sources of this folder
// define, each compiled with that ISA's flags and DEPTHWISE_ISA set to its name.
#include "../kernel_table.hpp"
#include "instance.hpp"
#include "peak.hpp"
#include "pieces.hpp"

#define DEPTHWISE_KERNEL(op, algorithm, name, instance)                \
  void DEPTHWISE_SYMBOL(instance##_f16)(const depthwise::Task& task);  \
  void DEPTHWISE_SYMBOL(instance##_bf16)(const depthwise::Task& task); \
  void DEPTHWISE_SYMBOL(instance##_f32)(const depthwise::Task& task);  \
  void DEPTHWISE_SYMBOL(instance##_f64)(const depthwise::Task& task);
#include "kernels.def"
#undef DEPTHWISE_KERNEL

extern const depthwise::KernelTable DEPTHWISE_SYMBOL(kernels);
const depthwise::KernelTable DEPTHWISE_SYMBOL(kernels) = {
    {
#define DEPTHWISE_KERNEL(op, algorithm, name, instance)                                                   \
  {DEPTHWISE_SYMBOL(instance##_f16), DEPTHWISE_SYMBOL(instance##_bf16), DEPTHWISE_SYMBOL(instance##_f32), \
   DEPTHWISE_SYMBOL(instance##_f64)},
#include "kernels.def"
#undef DEPTHWISE_KERNEL
    },
    kPieceFunctions,
    peak<float>,
    peak<double>,
    simd::kVectorBytes,
};
