#include "direct.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(direct, Direct<S, Adjacent>)
