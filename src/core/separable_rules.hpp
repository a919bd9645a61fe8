// When filters of rank 1 are summed by columns and rows, and how that work is cut.
#pragma once

#include "plan.hpp"

namespace depthwise {

Rule separable_rule(const Spec& spec);

// Whether two passes of kh + kw taps beat one of kh * kw, of all taps that the caller gave.
bool separable_pays(const Spec& spec);

}  // namespace depthwise
