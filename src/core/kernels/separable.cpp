#include "separable.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(separable, Separable<S>)
