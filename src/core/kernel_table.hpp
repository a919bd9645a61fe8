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

// What an element of memory is: one of the dtypes, in their order, or an integer.
enum class Element : int { f16, bf16, f32, f64, u8, i16, u16 };
inline constexpr int kElements = 7;

inline Element element(Storage storage, DType dtype) {
  return storage == Storage::same ? static_cast<Element>(dtype)
                                  : static_cast<Element>(kDTypes - 1 + static_cast<int>(storage));
}

// `count` pixels of an axis of `size`, from position `first` on and `step` positions apart, brought together:
// `run` neighbouring elements of each. Pixels of the axis are pixel_step elements apart.
struct GatherRow {
  const void* pixels;
  index_t size, pixel_step, run;
  Border border;
  index_t first, step, count;
  void* to;
};

// `count` pixels of `run` elements, side by side, put pixel_step elements apart.
struct ScatterRow {
  const void* from;
  void* to;
  index_t count, run, pixel_step;
};

// Adds `count` pixels, which stand at the positions from `first` on, to the pixels of the axis that they
// show, of which pixel `begin` is at `to`.
struct FoldRow {
  const void* from;
  void* to;
  index_t count, run, first, size, begin;
  Border border;
};

// What copies pieces of images, converting them; null where no operation needs it.
struct PieceFunctions {
  void (*gather[kElements][kDTypes])(const GatherRow& row);    // from an element to a dtype
  void (*scatter[kDTypes][kElements])(const ScatterRow& row);  // and back
  void (*fold[kDTypes])(const FoldRow& row);
  // Adds sums to totals with compensation; `count` is a multiple of 64 bytes.
  void (*add[kDTypes])(const void* sums, index_t count, void* totals, void* lost);
};

struct KernelTable {
  KernelFunction run[kKernels][kDTypes];
  PieceFunctions pieces;
  std::int64_t (*peak_f32)(std::int64_t rounds);
  std::int64_t (*peak_f64)(std::int64_t rounds);
  int vector_bytes;
};

}  // namespace depthwise
