#include "grad_filter.hpp"

#include "instance.hpp"

DEPTHWISE_INSTANCE(grad_filter_flat_nhwc, GradFilter<S, Layout::nhwc, GradForm::flat>)
DEPTHWISE_INSTANCE(grad_filter_flat_nchw, GradFilter<S, Layout::nchw, GradForm::flat>)
DEPTHWISE_INSTANCE(grad_filter_direct, GradFilter<S, Layout::nhwc, GradForm::direct>)
DEPTHWISE_INSTANCE(grad_filter_lines_nhwc, GradFilter<S, Layout::nhwc, GradForm::lines>)
DEPTHWISE_INSTANCE(grad_filter_lines_nchw, GradFilter<S, Layout::nchw, GradForm::lines>)
DEPTHWISE_INSTANCE(generic_grad_filter, GenericGradFilter<S>)
