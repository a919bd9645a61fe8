// Memory of large results. The system maps it anew for each, and clears it page by page as it is written,
// which can take as long as the computation does: so the memory of the last one is kept for the next.
#pragma once

#include <cstddef>

namespace depthwise::bindings {

// Smaller results have memory that malloc keeps itself, and larger ones give theirs back at once.
inline constexpr std::size_t kLeastKept = std::size_t{32} << 20, kMostKept = std::size_t{64} << 20;

struct ResultMemory {
  void* data = nullptr;
  std::size_t bytes = 0;
};

// At least as many bytes, from a cache line on; null when there is no memory. Both are called with the GIL
// held.
ResultMemory take_memory(std::size_t bytes);
void return_memory(ResultMemory memory);

}  // namespace depthwise::bindings
