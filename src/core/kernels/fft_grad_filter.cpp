#include "fft_grad_filter.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(fft_grad_filter_nhwc, FftGradFilter<S, Layout::nhwc>)
DEPTHWISE_INSTANCE(fft_grad_filter_nchw, FftGradFilter<S, Layout::nchw>)
