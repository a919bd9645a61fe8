#include "parallel.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "wake_place.hpp"

namespace depthwise {
namespace {

using Clock = std::chrono::steady_clock;

// How long an idle worker spins for the next job before it sleeps: waking costs more than many convolutions.
constexpr std::chrono::microseconds kSpin{60};
constexpr std::chrono::milliseconds kPoll{20};
constexpr int kMaxThreads = 128;
constexpr int kSpinsBeforeYield = 2000;
constexpr int kLooksPerClock = 16;
constexpr int kCacheLine = 64;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Between the looks of one who waits: the `looks`-th.
void relax(int looks) { looks < kSpinsBeforeYield ? relax() : std::this_thread::yield(); }

// Asks the caller's poll every kPoll.
bool keep_going(const Loop& loop, Clock::time_point& last) {
  const auto now = Clock::now();
  if (now - last < kPoll) return true;
  last = now;
  return loop.poll(loop.poll_context);
}

bool serial(const Loop& loop) {
  Clock::time_point last = loop.poll && loop.count > 1 ? Clock::now() : Clock::time_point{};
  for (std::int64_t item = 0; item < loop.count; ++item) {
    if (!loop.body(loop.context, item)) return false;
    if (loop.poll && loop.count > 1 && !keep_going(loop, last)) return false;
  }
  return true;
}

// The items are cut into one range a thread, so that a thread meets the same memory on every call. Who is
// done with his own takes from the ends of the others', so that these go on with what lies next to them. The
// last one of a thread that is at work is left to it for as long as an item takes: results that change
// threads from call to call travel between the caches, which costs more than to wait.
class Job {
 public:
  void begin(const Loop& loop, int threads) {
    loop_ = loop, ranges_ = threads;
    step_ = (loop.count - 1) / kMostSteps + 1;
    const std::int64_t steps = (loop.count - 1) / step_ + 1;
    stopped_.store(false, std::memory_order_relaxed);
    for (int i = 0; i < threads; ++i) parts_[i].set(steps * i / threads, steps * (i + 1) / threads);
  }

  void work(int thread, bool caller) {
    Clock::time_point polled = caller && loop_.poll ? Clock::now() : Clock::time_point{};
    const auto poll = [&] {
      if (caller && loop_.poll && !keep_going(loop_, polled)) stop();
    };
    const auto run = [&](std::int64_t step) {
      const std::int64_t end = std::min((step + 1) * step_, loop_.count);
      for (std::int64_t item = step * step_; item < end && !stopped(); ++item) {
        if (!loop_.body(loop_.context, item)) stop();
        poll();
      }
    };
    const auto start = Clock::now();
    std::int64_t done = 0;
    for (std::int64_t step; !stopped() && (step = parts_[thread].first()) >= 0; ++done) run(step);
    const auto help = [&](bool last) {
      for (int i = 1; i < ranges_; ++i) {
        Part& part = parts_[(thread + i) % ranges_];
        for (std::int64_t step; !stopped() && (step = part.last(last)) >= 0;) run(step);
      }
    };
    help(false);
    if (done > 0) wait_for_others((Clock::now() - start) / done, poll);
    help(true);
  }

  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::int64_t kMostSteps = 1 << 16;  // so that both ends of a range fit into one word

  // The steps that nobody has taken: from the low half of a word up to its high half.
  class alignas(kCacheLine) Part {
   public:
    void set(std::int64_t begin, std::int64_t end) {
      begin_ = begin;
      range_.store(static_cast<std::uint64_t>(end) << 32 | static_cast<std::uint64_t>(begin),
                   std::memory_order_relaxed);
    }

    bool empty() const { return left(range_.load(std::memory_order_relaxed)) <= 0; }

    // What its own thread takes next, or -1.
    std::int64_t first() {
      const std::uint64_t old = range_.fetch_add(1, std::memory_order_relaxed);
      return left(old) > 0 ? begin(old) : -1;
    }

    // What another thread takes, or -1; the last one only if its own has not begun, or if `last`.
    std::int64_t last(bool last) {
      std::uint64_t old = range_.load(std::memory_order_relaxed);
      while (left(old) > (last || begin(old) == begin_ ? 0 : 1))
        if (range_.compare_exchange_weak(old, old - (std::uint64_t{1} << 32), std::memory_order_relaxed))
          return end(old) - 1;
      return -1;
    }

   private:
    static std::int64_t begin(std::uint64_t range) { return static_cast<std::uint32_t>(range); }
    static std::int64_t end(std::uint64_t range) { return static_cast<std::int64_t>(range >> 32); }
    static std::int64_t left(std::uint64_t range) { return end(range) - begin(range); }

    std::atomic<std::uint64_t> range_;
    std::int64_t begin_;
  };

  template <class Poll>
  void wait_for_others(Clock::duration at_most, const Poll& poll) const {
    const auto until = Clock::now() + at_most;
    const auto empty = [](const Part& part) { return part.empty(); };
    for (int i = 0; !std::all_of(parts_, parts_ + ranges_, empty) && Clock::now() < until && !stopped();
         ++i) {
      relax(i);
      poll();
    }
  }

  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  Loop loop_;
  std::int64_t step_;  // items that a thread takes at a time
  int ranges_;
  std::atomic<bool> stopped_;
  Part parts_[kMaxThreads];
};

// Where a caller shows the workers its loop. What a worker reads first shares a cache line: handing over
// costs as much as the lines that travel. Whoever holds a seat may touch the job until it says that it is
// done; the caller keeps the slot until all of them have.
class Slot {
 public:
  bool take() {
    return !taken_.load(std::memory_order_relaxed) && !taken_.exchange(true, std::memory_order_acquire);
  }

  void open(const Loop& loop, int threads) {
    job_.begin(loop, threads);
    threads_ = threads;
    done_.store(0, std::memory_order_relaxed);
    seats_.store(threads - 1, std::memory_order_seq_cst);
  }

  // For the caller, once it has opened the slot. Returns whether all items were run.
  bool work() {
    job_.work(0, true);
    const int joined = threads_ - 1 - seats_.exchange(0, std::memory_order_acquire);
    for (int i = 0; done_.load(std::memory_order_acquire) < joined; ++i) relax(i);
    const bool finished = !job_.stopped();
    taken_.store(false, std::memory_order_release);
    return finished;
  }

  bool wants() const { return seats_.load(std::memory_order_seq_cst) > 0; }

  // For a worker. Returns whether there was a seat.
  bool join() {
    int seats = seats_.load(std::memory_order_seq_cst);
    while (seats > 0 && !seats_.compare_exchange_weak(seats, seats - 1, std::memory_order_acquire)) {
    }
    if (seats <= 0) return false;
    job_.work(threads_ - seats, false);
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }

 private:
  alignas(kCacheLine) std::atomic<bool> taken_{false};  // callers alone
  alignas(kCacheLine) std::atomic<int> seats_{0};       // that workers may take
  std::atomic<int> done_{0};                            // workers that have left theirs
  int threads_ = 0;
  Job job_;
};

class Pool {
 public:
  bool run(const Loop& loop, int threads) {
    Slot* const slot = take_slot();
    if (!slot) return serial(loop);
    if (workers_.load(std::memory_order_relaxed) < threads - 1) grow(threads - 1);
    slot->open(loop, threads);
    if (sleepers_.load(std::memory_order_seq_cst) > 0 && (loop.wakes || on_end())) wake(threads - 1);
    return slot->work();
  }

 private:
  // So many loops at once leave no CPU idle: further ones run on their callers' threads alone.
  static constexpr int kSlots = 32;

  Slot* take_slot() {
    const auto slot = std::find_if(std::begin(slots_), std::end(slots_), [](Slot& s) { return s.take(); });
    return slot == std::end(slots_) ? nullptr : slot;
  }

  // Whether the last loop that found threads asleep, and was not worth waking them, was a moment ago.
  bool on_end() {
    const auto now = Clock::now().time_since_epoch();
    return now - Clock::duration(last_alone_.exchange(now.count(), std::memory_order_relaxed)) < kSpin;
  }

  void grow(int wanted) {
    std::lock_guard lock(mutex_);
    while (workers_.load(std::memory_order_relaxed) < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // the caller alone gets the work done
      }
      workers_.fetch_add(1, std::memory_order_relaxed);
    }
  }

  void wake(int wanted) {
    {
      std::lock_guard lock(mutex_);
      for (int i = 0; i < static_cast<int>(asleep_.size()) && i < wanted; ++i) asleep_[i]->avoid_caller();
    }
    wake_.notify_all();
  }

  void serve() {
    WakePlace place;
    place.begin();
    for (;;) {
      const auto until = Clock::now() + kSpin;
      bool joined = false;
      while (!joined && Clock::now() < until)
        for (int i = 0; i < kLooksPerClock && !joined; ++i) joined = look();
      if (!joined) sleep(place);
    }
  }

  // Joins a loop if one wants workers.
  bool look() {
    const auto join = [](Slot& s) { return s.join(); };
    if (std::any_of(std::begin(slots_), std::end(slots_), join)) return true;
    relax();
    return false;
  }

  // Until there may be a loop to join.
  void sleep(WakePlace& place) {
    std::unique_lock lock(mutex_);
    asleep_.push_back(&place);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    const auto wanted = [this] {
      return std::any_of(std::begin(slots_), std::end(slots_), [](const Slot& s) { return s.wants(); });
    };
    while (!wanted()) {
      wake_.wait(lock);
      place.restore();
    }
    asleep_.erase(std::find(asleep_.begin(), asleep_.end(), &place));
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  Slot slots_[kSlots];
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<WakePlace*> asleep_;
  std::atomic<int> sleepers_{0}, workers_{0};
  std::atomic<Clock::rep> last_alone_{0};
};

// Never destroyed: workers may outlive main. A forked child has none of the parent's threads, and a mutex
// that some thread of the parent may have held: it starts with a pool of its own.
std::atomic<Pool*> g_pool{nullptr};
std::atomic<const Team*> g_team{nullptr};

void forget_threads() {
  g_pool.store(nullptr);
  g_team.store(nullptr);
}

void forget_threads_in_children() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, forget_threads); });
}

Pool& pool() {
  forget_threads_in_children();
  Pool* p = g_pool.load(std::memory_order_acquire);
  if (p) return *p;
  Pool* const fresh = new Pool;
  if (g_pool.compare_exchange_strong(p, fresh)) return *fresh;
  delete fresh;
  return *p;
}

bool run_on(const Team& team, const Loop& loop, int threads) {
  Job job;
  job.begin(loop, threads);
  struct Context {
    const Team& team;
    Job& job;
  } context{team, job};
  const auto body = [](void* pointer) {
    const auto& [team, job] = *static_cast<Context*>(pointer);
    const int thread = team.index();
    job.work(thread, thread == 0);
  };
  team.parallel(body, &context, static_cast<unsigned>(threads), 0);
  return !job.stopped();
}

}  // namespace

bool parallel_for(const Loop& loop, int threads) {
  threads = static_cast<int>(std::min<std::int64_t>({threads, loop.count, kMaxThreads}));
  if (threads <= 1) return serial(loop);
  const Team* const team = g_team.load(std::memory_order_acquire);
  return team ? run_on(*team, loop, threads) : pool().run(loop, threads);
}

void use_team(const Team& team) {
  forget_threads_in_children();
  g_team.store(new Team(team),
               std::memory_order_release);  // never freed: a loop may be running on the last one
}

bool has_team() { return g_team.load(std::memory_order_acquire) != nullptr; }

std::int64_t least_handover() { return has_team() ? 200'000 : 100'000; }

}  // namespace depthwise
