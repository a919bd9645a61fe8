#include "fft.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(fft_nhwc, Fft<S, Layout::nhwc>)
DEPTHWISE_INSTANCE(fft_nchw, Fft<S, Layout::nchw>)
