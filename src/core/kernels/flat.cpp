#include "flat.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(flat_nhwc, Flat<S, Layout::nhwc>)
DEPTHWISE_INSTANCE(flat_nchw, FlatPlanes<S>)
