// The engine as a custom call of XLA, for JAX.
#pragma once

#include "xla_ffi_abi.hpp"

namespace depthwise::bindings {

// An XLA FFI handler. Arguments: the two operands, and the bias where there is one. Result: one array.
// Attributes: `numbers`, the 22 integers of `PlanArguments` in order followed by the number of threads (0:
// the current default), and `algorithm`, its name.
xla::Error* xla_handler(xla::CallFrame* frame) noexcept;

}  // namespace depthwise::bindings
