// A fork-safe pool: the caller works too, any number of callers at once, nested calls included.
#pragma once

#include <cstdint>

namespace depthwise {

// Calls body(context, i) once for every i in [0, count), on up to `threads` threads. A body that returns
// false stops the loop: items not begun are left out. Returns whether all were run. Bodies must not throw.
//
// poll(poll_context), if given, is called on the calling thread about every 20 ms; false stops the loop too.
struct Loop {
  bool (*body)(void* context, std::int64_t item) = nullptr;
  void* context = nullptr;
  std::int64_t count = 0;
  bool (*poll)(void* poll_context) = nullptr;
  void* poll_context = nullptr;
  bool wakes = true;  // whether it is worth waking threads that sleep, unless it is one of several on end
};

bool parallel_for(const Loop& loop, int threads);

// Threads that another library keeps in this process, as OpenMP's entry points offer them: `parallel` calls
// body(context) on the calling thread and on up to threads - 1 others, and returns when all of them have;
// `index` tells the caller's (0) and the others (below `threads`) apart.
struct Team {
  void (*parallel)(void (*body)(void* context), void* context, unsigned threads, unsigned flags);
  int (*index)();
};

// From now on, loops run on the team instead of the pool: two sets of threads that each wait for work in
// turn take the CPUs from each other. A forked child, where the team's threads are gone, uses a pool again.
void use_team(const Team& team);
bool has_team();

// Multiply-adds of a thread below which handing over their loop does not pay: to one of ours that waits it
// takes a fraction of a microsecond, to a team some microseconds.
std::int64_t least_handover();

}  // namespace depthwise
