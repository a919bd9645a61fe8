// When filters of rank 1 are summed by columns and rows, and how that work is cut.
#pragma once

#include "plan.hpp"

namespace depthwise {

Rule separable_rule(const Spec& spec);

}  // namespace depthwise
