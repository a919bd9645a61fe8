// The FFT kernels' rules: how a problem is cut into transforms, and when that pays.
#pragma once

#include "plan.hpp"

namespace depthwise {

Rule fft_rule(const Spec& spec, Layout layout, int vector_bytes);

}  // namespace depthwise
