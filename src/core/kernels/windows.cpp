#include "phase_tile.hpp"
#include "window_choice.hpp"

depthwise::WindowFunctions<float> DEPTHWISE_SYMBOL(windows)(const Window<float>& b, int pixels) {
  return window_functions<Adjacent<float>>(b, pixels);
}
depthwise::WindowFunctions<double> DEPTHWISE_SYMBOL(windows)(const Window<double>& b, int pixels) {
  return window_functions<Adjacent<double>>(b, pixels);
}
depthwise::WindowFunction<float> DEPTHWISE_SYMBOL(phases)(const Window<float>& b, int pixels) {
  return phase_function(b, pixels);
}
depthwise::WindowFunction<double> DEPTHWISE_SYMBOL(phases)(const Window<double>& b, int pixels) {
  return phase_function(b, pixels);
}
