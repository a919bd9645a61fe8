#include "buffer.hpp"

#ifdef DEPTHWISE_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#endif

namespace depthwise {

Buffer allocate(index_t bytes) {
  constexpr index_t kPage = 4096;
  const index_t size = (bytes + kPage - 1) / kPage * kPage;
  Buffer buffer(static_cast<std::byte*>(std::aligned_alloc(kPage, size)));
  if (buffer) bound(buffer.get(), bytes, size);
  return buffer;
}

void bound([[maybe_unused]] std::byte* buffer, [[maybe_unused]] index_t bytes,
           [[maybe_unused]] index_t size) {
#ifdef DEPTHWISE_ADDRESS_SANITIZER
  ASAN_UNPOISON_MEMORY_REGION(buffer, bytes);
  ASAN_POISON_MEMORY_REGION(buffer + bytes, size - bytes);
#endif
}

}  // namespace depthwise
