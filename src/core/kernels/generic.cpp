#include "generic.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(generic, Generic<S>)
