// How the sources that are compiled once for each ISA give their kernels to the table in isa.cpp: as
// functions whose names carry the ISA's name, DEPTHWISE_ISA.
#pragma once

#include "../task.hpp"

#define DEPTHWISE_CAT_(a, isa, b) a##isa##_##b
#define DEPTHWISE_CAT(a, isa, b) DEPTHWISE_CAT_(a, isa, b)
#define DEPTHWISE_SYMBOL(name) DEPTHWISE_CAT(depthwise_, DEPTHWISE_ISA, name)

// Defines the four functions of `name`: those of a class, which is written with the storage type S.
#define DEPTHWISE_INSTANCE(name, ...)                         \
  DEPTHWISE_INSTANCE_OF(name##_f16, simd::f16, __VA_ARGS__)   \
  DEPTHWISE_INSTANCE_OF(name##_bf16, simd::bf16, __VA_ARGS__) \
  DEPTHWISE_INSTANCE_OF(name##_f32, float, __VA_ARGS__)       \
  DEPTHWISE_INSTANCE_OF(name##_f64, double, __VA_ARGS__)
#define DEPTHWISE_INSTANCE_OF(name, type, ...)               \
  void DEPTHWISE_SYMBOL(name)(const depthwise::Task& task) { \
    using S = type;                                          \
    __VA_ARGS__(task).run();                                 \
  }
