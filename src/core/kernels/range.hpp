// Which positions of an axis class lie inside its source.
#pragma once

#include "../simd.hpp"
#include "../task.hpp"

namespace {

struct Range {
  index_t begin = 0, end = 0;
};

// Of `count` positions, `step` apart in a source of `size` from its index `first` on, those inside.
DEPTHWISE_INLINE Range range_inside(index_t size, index_t step, index_t first, index_t count) {
  const auto ceil_div = [step](index_t a) { return a <= 0 ? 0 : step == 1 ? a : (a + step - 1) / step; };
  const index_t low = ceil_div(-first), high = ceil_div(size - first), end = high < count ? high : count;
  return {low < end ? low : end, end};
}

// Those of the class's positions from `position` on.
DEPTHWISE_INLINE Range range_inside(const depthwise::AxisClass& c, index_t position, index_t count) {
  return range_inside(c.src_size, c.src_step, c.source(position), count);
}

}  // namespace
