#include "wake_place.hpp"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace depthwise {

#ifdef __linux__
void WakePlace::begin() { thread_ = static_cast<int>(syscall(SYS_gettid)); }

void WakePlace::avoid_caller() {
  const int here = sched_getcpu();
  if (kept_away_ || here < 0 || here >= CPU_SETSIZE) return;
  if (sched_getaffinity(thread_, sizeof allowed_, &allowed_) != 0 || !CPU_ISSET(here, &allowed_)) return;
  cpu_set_t others = allowed_;
  CPU_CLR(here, &others);
  kept_away_ = CPU_COUNT(&others) > 0 && sched_setaffinity(thread_, sizeof others, &others) == 0;
}

void WakePlace::restore() {
  if (kept_away_) sched_setaffinity(thread_, sizeof allowed_, &allowed_);
  kept_away_ = false;
}
#else
void WakePlace::begin() {}
void WakePlace::avoid_caller() {}
void WakePlace::restore() {}
#endif

}  // namespace depthwise
