// Calls that Python has resolved before, found again by the values of their arguments.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <vector>

#include "py_plan.hpp"

namespace depthwise::bindings {

// Of one public function, which checks arguments and finds the plan for them; what it found is remembered for
// calls with arrays of the same shapes and dtypes and with equal settings: integers, strings, None, and
// tuples and lists of them. Nothing else is remembered, so that no float or bool passes for an equal integer.
class Calls {
 public:
  // What the function returns; or None, with nothing done, for a call that is not remembered, or that the
  // function has something to say about.
  nanobind::any recall(nanobind::handle a, nanobind::handle b, nanobind::handle bias, nanobind::handle out,
                       nanobind::handle settings) const;
  void remember(nanobind::handle plan, int threads, nanobind::handle a, nanobind::handle b,
                nanobind::handle bias, nanobind::handle settings);

 private:
  struct Call {
    std::vector<index_t> key;
    nanobind::object plan;
    int threads = 0;
  };

  // A call has one slot, and takes the place of the call that was there.
  static constexpr std::size_t kSlots = 256;
  std::array<Call, kSlots> calls_;
};

}  // namespace depthwise::bindings
