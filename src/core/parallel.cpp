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

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

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

// The items are cut into one range a thread, so that a thread meets the same memory on every call; who is
// done with his own takes from the others.
class Job {
 public:
  Job(const Loop& loop, int threads) : loop_(loop), ranges_(threads) {
    for (int i = 0; i < threads; ++i) {
      next_[i].value.store(loop.count * i / threads, std::memory_order_relaxed);
      end_[i] = loop.count * (i + 1) / threads;
    }
  }

  void work(int thread, bool caller) {
    Clock::time_point last = caller && loop_.poll ? Clock::now() : Clock::time_point{};
    for (int i = 0; i < ranges_; ++i) {
      const int range = (thread + i) % ranges_;
      while (!stopped_.load(std::memory_order_relaxed)) {
        const std::int64_t item = next_[range].value.fetch_add(1, std::memory_order_relaxed);
        if (item >= end_[range]) break;
        if (!loop_.body(loop_.context, item)) stop();
        if (caller && loop_.poll) poll(last);
      }
    }
  }

  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
  int wanted() const { return ranges_ - 1; }

  int joined = 0;               // workers that took part, under the pool's mutex
  std::atomic<int> running{0};  // workers still at it

 private:
  void stop() { stopped_.store(true, std::memory_order_relaxed); }

  void poll(Clock::time_point& last) {
    if (!keep_going(loop_, last)) stop();
  }

  struct alignas(64) Counter {
    std::atomic<std::int64_t> value;
  };

  const Loop loop_;
  const int ranges_;
  Counter next_[kMaxThreads];
  std::int64_t end_[kMaxThreads];
  std::atomic<bool> stopped_{false};
};

class Pool {
 public:
  void run(Job& job) {
    {
      std::lock_guard lock(mutex_);
      grow(job.wanted());
      jobs_.push_back(&job);
      for (int i = 0; i < static_cast<int>(asleep_.size()) && i < job.wanted(); ++i)
        asleep_[i]->avoid_caller();
      pending_.store(static_cast<int>(jobs_.size()), std::memory_order_release);
    }
    if (sleepers_.load(std::memory_order_seq_cst) > 0) wake_.notify_all();
    job.work(0, true);
    {
      std::lock_guard lock(mutex_);
      remove(&job);
    }
    for (int i = 0; job.running.load(std::memory_order_acquire) > 0; ++i)
      i < kSpinsBeforeYield ? relax() : std::this_thread::yield();
  }

 private:
  void grow(int wanted) {
    while (workers_ < wanted) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error&) {
        return;  // the caller alone gets the work done
      }
      ++workers_;
    }
  }

  void remove(Job* job) {
    jobs_.erase(std::remove(jobs_.begin(), jobs_.end(), job), jobs_.end());
    pending_.store(static_cast<int>(jobs_.size()), std::memory_order_release);
  }

  void serve() {
    WakePlace place;
    place.begin();
    for (;;) {
      int thread = 0;
      Job* const job = wait(place, thread);
      job->work(thread, false);
      job->running.fetch_sub(1, std::memory_order_release);
    }
  }

  // Joins the oldest job that still wants workers.
  Job* wait(WakePlace& place, int& thread) {
    for (;;) {
      spin();
      std::unique_lock lock(mutex_);
      if (jobs_.empty()) sleep(lock, place);
      Job* const job = jobs_.front();
      thread = ++job->joined;
      job->running.fetch_add(1, std::memory_order_relaxed);
      if (job->joined == job->wanted()) remove(job);
      return job;
    }
  }

  // Until there is a job.
  void sleep(std::unique_lock<std::mutex>& lock, WakePlace& place) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    asleep_.push_back(&place);
    while (jobs_.empty()) {
      wake_.wait(lock);
      place.restore();
    }
    asleep_.erase(std::find(asleep_.begin(), asleep_.end(), &place));
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

  void spin() const {
    const auto until = Clock::now() + kSpin;
    while (pending_.load(std::memory_order_acquire) == 0 && Clock::now() < until)
      for (int i = 0; i < 16; ++i) relax();
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;
  std::deque<WakePlace*> asleep_;
  std::atomic<int> pending_{0}, sleepers_{0};
  int workers_ = 0;
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

void run_on(const Team& team, Job& job) {
  struct Context {
    const Team& team;
    Job& job;
  } context{team, job};
  const auto body = [](void* pointer) {
    const auto& [team, job] = *static_cast<Context*>(pointer);
    const int thread = team.index();
    job.work(thread, thread == 0);
  };
  team.parallel(body, &context, static_cast<unsigned>(job.wanted() + 1), 0);
}

}  // namespace

bool parallel_for(const Loop& loop, int threads) {
  threads = static_cast<int>(std::min<std::int64_t>({threads, loop.count, kMaxThreads}));
  if (threads <= 1) return serial(loop);
  Job job(loop, threads);
  if (const Team* const team = g_team.load(std::memory_order_acquire))
    run_on(*team, job);
  else
    pool().run(job);
  return !job.stopped();
}

void use_team(const Team& team) {
  forget_threads_in_children();
  g_team.store(new Team(team),
               std::memory_order_release);  // never freed: a loop may be running on the last one
}

bool has_team() { return g_team.load(std::memory_order_acquire) != nullptr; }

}  // namespace depthwise
