// The pool under load: every item once, many callers, nested calls, growth, failures, stops, forks. Run it
// under a thread sanitizer too: results are written without atomics on purpose, so that a missing
// happens-before is a report.
#include "parallel.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "check.hpp"
#include "problems.hpp"

namespace {

using depthwise::Loop;
using depthwise::parallel_for;

// Runs `count` items on `threads` threads, each of which writes its own slot, and checks every slot.
void run_squares(std::int64_t count, int threads) {
  std::vector<std::int64_t> squares(count, -1);
  const auto square = [](void* context, std::int64_t i) {
    (*static_cast<std::vector<std::int64_t>*>(context))[i] += i * i + 1;
    return true;
  };
  CHECK(parallel_for({square, &squares, count}, threads));
  for (std::int64_t i = 0; i < count; ++i) CHECK(squares[i] == i * i);
}

void every_item_runs_once() {
  for (const int threads : {-1, 0, 1, 2, 3, 8, 1000})
    for (const std::int64_t count : {0, 1, 2, 7, 64, 1000, 200'001}) run_squares(count, threads);
}

void many_callers_at_once() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 16; ++caller)
    callers.emplace_back([caller] {
      for (int round = 0; round < 200; ++round)
        run_squares(1 + (caller * 31 + round) % 97, 1 + (caller + round) % 5);
    });
  for (std::thread& caller : callers) caller.join();
}

// All in progress at once, more than the pool keeps an eye on: the first item of each waits for them all.
void many_loops_in_progress() {
  constexpr int kLoops = 100;
  struct Context {
    std::atomic<int>* begun;
    std::int64_t runs[4];
  };
  const auto body = [](void* pointer, std::int64_t i) {
    Context& context = *static_cast<Context*>(pointer);
    ++context.runs[i];
    if (i == 0) ++*context.begun;
    while (i == 0 && *context.begun < kLoops) std::this_thread::yield();
    return true;
  };
  std::atomic<int> begun{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < kLoops; ++caller)
    callers.emplace_back([&] {
      Context context{&begun, {}};
      CHECK(parallel_for({body, &context, 4}, 2));
      for (const std::int64_t runs : context.runs) CHECK(runs == 1);
    });
  for (std::thread& caller : callers) caller.join();
}

void run_short_loop() {
  Loop loop{[](void*, std::int64_t) { return true; }, nullptr, 2};
  loop.wakes = false;
  CHECK(parallel_for(loop, 2));
}

// How many of two items, which take their time, ran on other threads than the caller's.
int items_elsewhere(bool wakes) {
  const auto body = [](void* context, std::int64_t i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    static_cast<std::thread::id*>(context)[i] = std::this_thread::get_id();
    return true;
  };
  std::thread::id ran[2];
  Loop loop{body, ran, 2};
  loop.wakes = wakes;
  CHECK(parallel_for(loop, 2));
  return (ran[0] != std::this_thread::get_id()) + (ran[1] != std::this_thread::get_id());
}

// The first of several takes its items alone; those that follow are helped, as are long ones.
void short_loops_wake_nobody_unless_on_end() {
  constexpr int kTries = 100;
  const auto after_a_rest = [](bool wakes) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return items_elsewhere(wakes);
  };
  const auto sometimes = [](const auto& holds) {
    int tries = 0;
    while (tries < kTries && !holds()) ++tries;
    return tries < kTries;
  };
  CHECK(sometimes([&] { return after_a_rest(true) > 0; }));
  CHECK(sometimes([&] { return after_a_rest(false) == 0; }));
  CHECK(sometimes([&] {
    after_a_rest(false);
    for (int i = 0; i < 50; ++i) run_short_loop();
    return items_elsewhere(false) > 0;
  }));
}

void calls_may_nest() {
  const auto inner = [](void*, std::int64_t i) {
    run_squares(10 + i, 3);
    return true;
  };
  for (int round = 0; round < 50; ++round) CHECK(parallel_for({inner, nullptr, 20}, 4));
}

void a_false_body_stops_the_loop() {
  constexpr std::int64_t kCount = 1'000'000;
  for (const int threads : {1, 4}) {
    std::atomic<std::int64_t> runs{0};
    const auto body = [](void* context, std::int64_t) {
      return static_cast<std::atomic<std::int64_t>*>(context)->fetch_add(1) < 100;
    };
    CHECK(!parallel_for({body, &runs, kCount}, threads));
    CHECK(runs.load() > 100 && runs.load() < kCount);
  }
}

void a_false_poll_stops_the_loop() {
  const auto nap = [](void*, std::int64_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return true;
  };
  const auto give_up = [](void* polls) { return ++*static_cast<int*>(polls) < 2; };
  for (const int threads : {1, 4}) {
    int polls = 0;  // plain: only the calling thread polls
    CHECK(!parallel_for({nap, nullptr, 1'000'000, give_up, &polls}, threads));
    CHECK(polls == 2);
  }
}

// Loops that want more and more workers, from several callers at once.
void the_pool_grows_under_load() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([caller] {
      for (int threads = 2; threads <= 24; ++threads) run_squares(threads * 3 + caller, threads);
    });
  for (std::thread& caller : callers) caller.join();
}

// A body that fails, as it does where there is no memory for its scratch, fails its own loop alone.
void a_loop_that_fails_leaves_others_whole() {
  const auto fail = [](void* context, std::int64_t i) { return i != *static_cast<std::int64_t*>(context); };
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller)
    callers.emplace_back([caller, fail] {
      for (std::int64_t round = 0; round < 100; ++round) {
        if (caller % 2 == 0) run_squares(40 + round, 4);
        if (caller % 2 != 0) CHECK(!parallel_for({fail, &round, 100}, 4));
      }
    });
  for (std::thread& caller : callers) caller.join();
}

// Whole operations, each on as many threads as are set when it begins, while another thread sets them.
void operations_run_while_the_number_of_threads_changes() {
  using namespace depthwise::testing;
  depthwise::Spec spec;
  spec.batch = 2, spec.channels = 24, spec.multiplier = 1;
  spec.h = spec.w = {.in = 40, .out = 40, .kernel = 3, .stride = 1, .dilation = 1, .pad = 1};
  std::atomic<int> running{6};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller)
    callers.emplace_back([&running, spec, caller]() mutable {
      spec.op = static_cast<depthwise::Op>(caller % depthwise::kOps);
      const Problem problem = make_problem(spec, {.seed = static_cast<std::uint64_t>(caller)});
      const depthwise::Plan plan = depthwise::make_plan(spec, "", "");
      const Bytes expected = run_checked(plan, problem, 1, {});
      for (int round = 0; round < 20; ++round) run_checked(plan, problem, 0, expected);
      --running;
    });
  for (int i = 0; running.load() > 0; ++i) {
    depthwise::set_threads(1 + i % 8);
    std::this_thread::yield();
  }
  for (std::thread& caller : callers) caller.join();
}

// All at once, on copies of an image that begin at any place in a cache line where memory may.
void callers_share_a_prepared_filter() {
  using namespace depthwise::testing;
  constexpr int kPlaces = 4, kBytes = 16;
  depthwise::Spec spec;
  spec.batch = spec.multiplier = 1, spec.channels = 272;
  spec.h = spec.w = {.in = 7, .out = 7, .kernel = 5, .stride = 1, .dilation = 1, .pad = 2};
  const Problem problem = make_problem(spec, {.seed = 1});
  const depthwise::Plan plan = depthwise::make_plan(spec, "nhwc_direct", "");
  const Bytes expected = run_checked(plan, problem, 1, {});
  const depthwise::Prepared prepared(plan, problem.b.data(), 1);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 2 * kPlaces; ++caller)
    callers.emplace_back([&, caller] {
      const depthwise::Buffer image =
          depthwise::allocate(static_cast<depthwise::index_t>(problem.a.size()) + kPlaces * kBytes);
      std::byte* const a = image.get() + caller % kPlaces * kBytes;
      std::memcpy(a, problem.a.data(), problem.a.size());
      for (int round = 0; round < 20; ++round) {
        Bytes result(expected.size());
        CHECK(depthwise::execute(plan, {a, problem.b.data(), nullptr, result.data(), &prepared}, 2));
        CHECK(result == expected);
      }
    });
  for (std::thread& caller : callers) caller.join();
}

#if !defined(__SANITIZE_THREAD__)  // the sanitizer's own runtime does not support threads after a fork
void child_computes() {
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    CHECK(!depthwise::has_team());
    run_squares(100, 4);
    std::_Exit(0);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void children_compute_while_the_parent_does() {
  std::atomic<bool> stop{false};
  std::thread busy([&stop] {
    while (!stop.load()) run_squares(50, 4);
  });
  for (int round = 0; round < 200; ++round) child_computes();
  stop.store(true);
  busy.join();
}
#endif

// What OpenMP's entry points do, on threads that are new each time.
thread_local int t_index = 0;

void fake_parallel(void (*body)(void*), void* context, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned index = 1; index < threads; ++index)
    others.emplace_back([=] {
      t_index = static_cast<int>(index);
      body(context);
    });
  const int before = t_index;
  t_index = 0;
  body(context);
  t_index = before;
  for (std::thread& other : others) other.join();
}

void everything_holds_on_a_team() {
  depthwise::use_team({fake_parallel, [] { return t_index; }});
  CHECK(depthwise::has_team());
  every_item_runs_once();
  many_callers_at_once();
  many_loops_in_progress();
  calls_may_nest();
  a_false_body_stops_the_loop();
  a_false_poll_stops_the_loop();
  a_loop_that_fails_leaves_others_whole();
  operations_run_while_the_number_of_threads_changes();
#if !defined(__SANITIZE_THREAD__)
  child_computes();
#endif
}

}  // namespace

int main() {
  every_item_runs_once();
  many_callers_at_once();
  many_loops_in_progress();
  calls_may_nest();
  a_false_body_stops_the_loop();
  a_false_poll_stops_the_loop();
  the_pool_grows_under_load();
  short_loops_wake_nobody_unless_on_end();
  a_loop_that_fails_leaves_others_whole();
  operations_run_while_the_number_of_threads_changes();
  callers_share_a_prepared_filter();
#if !defined(__SANITIZE_THREAD__)
  children_compute_while_the_parent_does();
#endif
  everything_holds_on_a_team();
  std::puts("parallel: passed");
}
