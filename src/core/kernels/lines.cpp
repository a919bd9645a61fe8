#include "lines.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(lines_nhwc, Lines<S, Layout::nhwc>)
DEPTHWISE_INSTANCE(lines_nchw, Lines<S, Layout::nchw>)
