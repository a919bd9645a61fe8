// Where a sleeping thread wakes.
//
// Linux likes to wake a thread where it is woken from when no other CPU seems idle, and in a virtual machine
// those that sleep do not: the waker then has the work done before the other thread first runs, time after
// time. So a thread that is about to be woken is kept away from its waker's CPU until it runs.
#pragma once

#ifdef __linux__
#include <sched.h>
#endif

namespace depthwise {

// Of one thread. The caller sees to it that no two members run at once.
class WakePlace {
 public:
  void begin();         // on the thread
  void avoid_caller();  // by its waker, while it sleeps
  void restore();       // on the thread, once it is awake: it may run wherever it might before

 private:
#ifdef __linux__
  int thread_ = 0;
  bool kept_away_ = false;
  cpu_set_t allowed_;
#endif
};

}  // namespace depthwise
