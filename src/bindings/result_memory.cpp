#include "result_memory.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <utility>

namespace depthwise::bindings {
namespace {

ResultMemory kept;

}  // namespace

ResultMemory take_memory(std::size_t bytes) {
  if (kept.bytes >= bytes) return std::exchange(kept, {});
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  const std::size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* const data = whole < bytes ? nullptr : std::aligned_alloc(kHugePage, whole);
#ifdef MADV_HUGEPAGE
  if (data) madvise(data, whole, MADV_HUGEPAGE);
#endif
  return {data, data ? whole : 0};
}

void return_memory(ResultMemory memory) {
  if (memory.bytes <= kMostKept) std::swap(kept, memory);
  std::free(memory.data);
}

}  // namespace depthwise::bindings
