// Memory that begins with a page.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "task.hpp"

namespace depthwise {

struct Free {
  void operator()(std::byte* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<std::byte, Free>;

// Null when there is no memory.
Buffer allocate(index_t bytes);

// Under the address sanitizer, makes every byte of a buffer of `size` after the first `bytes` out of bounds.
void bound(std::byte* buffer, index_t bytes, index_t size);

}  // namespace depthwise
