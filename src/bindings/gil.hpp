// The GIL let go for as long as a computation takes.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace depthwise::bindings {

// While the interpreter shuts down, CPython ends a daemon thread that asks for the GIL by unwinding its
// stack, which C++ frames may not allow. Such a thread has nothing left to do: it waits here for the process
// to end.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    try {
      PyEval_RestoreThread(state_);
    } catch (abi::__forced_unwind&) {
      for (;;) pause();
    }
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* const state_;
};

}  // namespace depthwise::bindings
