// Taps that lie outside the image under every output: kernels larger than the image have many, and none of
// them matters while all are finite.
#pragma once

#include "spec.hpp"

namespace depthwise {

// The axis with the taps that some output has over the image, and those between; all of them where there are
// none. The others count as Axis::taps_before and taps_after.
Axis clip_taps(const Axis& axis);

// Whether the weights that the axes leave out are finite: a zero of the padding times one that is not is NaN.
bool left_out_are_finite(const Spec& spec, const void* filter);

// Whether all weights of a filter are.
bool filter_is_finite(const Spec& spec, const void* filter);

}  // namespace depthwise
