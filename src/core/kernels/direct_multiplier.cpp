#include "direct.hpp"
#include "instance.hpp"

DEPTHWISE_INSTANCE(direct_multiplier, Direct<S, Repeated>)
