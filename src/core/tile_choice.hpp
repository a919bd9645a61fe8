// How rules cut the work of a problem into tiles and tasks.
#pragma once

#include <algorithm>

#include "plan.hpp"

namespace depthwise {

inline index_t ceil_div(index_t a, index_t b) { return (a + b - 1) / b; }

// Tasks that a problem should offer, so that threads find work and an interrupt is noticed.
inline constexpr index_t kTasks = 16;

// The class with the most destinations and the most taps of one axis: what scratch must hold.
AxisClass widest(const Spec& s, const Axis& axis, Dilation dilation);

struct Problem {
  const Spec& spec;
  AxisClass h, w;
  index_t channels;  // of the result

  explicit Problem(const Spec& s, Dilation columns = Dilation::keep)
      : spec(s),
        h(widest(s, s.h, Dilation::split)),
        w(widest(s, s.w, columns)),
        channels(s.op == Op::grad_input ? s.channels : s.out_channels()) {}
};

// Halves `columns` until scratch(columns) fits into `bytes`, but not below `least`.
template <class Scratch>
void fit_columns(Tile& tile, index_t bytes, index_t least, const Scratch& scratch) {
  while (tile.columns > least && scratch(tile) > bytes)
    tile.columns = std::max(least, ceil_div(tile.columns, 2));
}

// Rows that a task may have, so that an interrupt is noticed.
index_t most_rows(index_t steps_per_row);

// Rows of a task: all of them, unless there would be too few tasks or too much work in one, but not fewer
// than `least`.
index_t choose_rows(const Problem& p, index_t least, index_t other_tasks, index_t steps_per_row);

// A task repacks the rows that its neighbour above ends with, so short ones are avoided.
index_t choose_packed_rows(const Problem& p, index_t other_tasks, index_t steps_per_row);

// Units of a task: several where they are small, so that what does not depend on the unit is done once.
index_t choose_units(index_t units, index_t tasks, index_t steps_per_unit);

// Outputs of a row in registers: the width that covers the row with the fewest wasted outputs.
int choose_pixels(index_t columns);

}  // namespace depthwise
