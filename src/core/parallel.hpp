// A fork-safe pool: the caller works too, any number of callers at once, nested calls included.
#pragma once

#include <cstdint>

namespace depthwise {

// Calls body(context, i) once for every i in [0, count), on up to `threads` threads. A body that returns
// false stops the loop: items not begun are left out. Returns whether all were run. Bodies must not throw.
//
// poll(poll_context), if given, is called on the calling thread about every 20 ms; false stops the loop too.
struct Loop {
  bool (*body)(void* context, std::int64_t item);
  void* context;
  std::int64_t count;
  bool (*poll)(void* poll_context) = nullptr;
  void* poll_context = nullptr;
};

bool parallel_for(const Loop& loop, int threads);

}  // namespace depthwise
