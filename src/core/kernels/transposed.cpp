#include "transposed.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(transposed, Transposed<S>)
