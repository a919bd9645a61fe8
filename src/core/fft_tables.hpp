// The roots of unity that the passes of a transform multiply by.
#pragma once

#include "fft_axis.hpp"

namespace depthwise {

// Points the axis to its tables, [pass][butterfly p][output k - 1] of re and im alternating: what output k of
// butterfly p of the pass is multiplied by. They are made once for each size and kept.
void find_roots(FftAxis& axis);

}  // namespace depthwise
