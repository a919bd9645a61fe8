#include "window_choice.hpp"

depthwise::WindowFunctions<float> DEPTHWISE_SYMBOL(repeated_windows)(const Window<float>& b, int pixels) {
  return window_functions<Repeated<float>>(b, pixels);
}
depthwise::WindowFunctions<double> DEPTHWISE_SYMBOL(repeated_windows)(const Window<double>& b, int pixels) {
  return window_functions<Repeated<double>>(b, pixels);
}
