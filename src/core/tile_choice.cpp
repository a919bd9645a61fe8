#include "tile_choice.hpp"

#include <numeric>

namespace depthwise {

AxisClass widest(const Spec& s, const Axis& axis, Dilation dilation) {
  AxisClass c = class_count(s.op, axis, dilation) > 0 ? axis_class(s.op, axis, dilation, 0) : AxisClass{};
  c.stride = std::max<index_t>(c.stride, 1);
  c.spacing = std::max<index_t>(c.spacing, 1);
  c.taps = axis.kernel;
  if (s.op == Op::grad_input)
    c.taps = ceil_div(axis.kernel, axis.stride / std::gcd(axis.stride, axis.dilation));
  c.out_count = std::max<index_t>(c.out_count, 1);
  return c;
}

index_t most_rows(index_t steps_per_row) {
  constexpr index_t kMaxTaskSteps = 64 << 20;
  return std::max<index_t>(1, kMaxTaskSteps / std::max<index_t>(steps_per_row, 1));
}

index_t choose_rows(const Problem& p, index_t least, index_t other_tasks, index_t steps_per_row) {
  const index_t wanted = ceil_div(kTasks, std::max<index_t>(other_tasks, 1));
  index_t rows = std::max(ceil_div(p.h.out_count, wanted), std::min<index_t>(p.h.out_count, least));
  rows = std::min(std::max<index_t>(rows, 1), most_rows(steps_per_row));
  return ceil_div(p.h.out_count, ceil_div(p.h.out_count, rows));  // even shares
}

index_t choose_packed_rows(const Problem& p, index_t other_tasks, index_t steps_per_row) {
  return choose_rows(p, 4 * p.h.taps, other_tasks, steps_per_row);
}

index_t choose_units(index_t units, index_t tasks, index_t steps_per_unit) {
  constexpr index_t kWorthwhile = 1 << 17;
  const index_t spare = std::max<index_t>(tasks / kTasks, 1);
  return std::clamp<index_t>(std::min(spare, kWorthwhile / std::max<index_t>(steps_per_unit, 1)), 1,
                             std::max<index_t>(units, 1));
}

int choose_pixels(index_t columns) {
  struct Width {
    int pixels;
    double cost;
  };
  constexpr Width widths[] = {{7, 1.0}, {8, 1.0}, {6, 1.03}, {4, 1.12}};
  int best = 4;
  double least = 1e300;
  for (const Width& w : widths) {
    const double cost = static_cast<double>(ceil_div(columns, w.pixels) * w.pixels) * w.cost;
    if (cost < least) least = cost, best = w.pixels;
  }
  return best;
}

}  // namespace depthwise
