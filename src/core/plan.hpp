// From a problem and a machine to a kernel, its tile and the tasks it is cut into. Pure: no arrays, no state.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "cpu.hpp"
#include "kernel_table.hpp"
#include "spec.hpp"

namespace depthwise {

// Scratch that one thread may use, whatever the problem: with direct kernels, and with Fourier transforms.
inline constexpr index_t kMaxScratchBytes = 1 << 20, kMaxFftScratchBytes = 64 << 20;

// A registry row's answer to a problem.
struct Rule {
  bool applies = false;      // the kernel computes this problem
  bool preferred = false;    // and should, unless an earlier row is preferred too
  bool beats_wider = false;  // and does so faster than any kernel of wider vectors
  Tile tile;
  index_t units = 1;  // what Tile::units counts: lines of channels, planes, or channels
  Dilation rows = Dilation::split, columns = Dilation::keep;
  bool whole = false;  // each task computes the destinations of all classes
  index_t scratch_bytes = 0;
  // Units of a task where threads are few, and its scratch; 0 where they are as ever.
  index_t coarse_units = 0, coarse_scratch_bytes = 0;
  // Rows that a task may have where these are shared out among the threads of a run; 0 where they are not.
  index_t most_rows = 0;
  // Filter gradient: blocks of positions, tasks that share a unit's, and bytes of a unit's sums.
  index_t blocks = 0, parts = 1, sums_bytes = 0;
  // What a kernel can compute from the filter beforehand: bytes for a unit, whether a call should, and the
  // scratch that a task needs more for which none did.
  index_t prepared_bytes = 0;
  bool prepare = false;
  index_t unprepared_scratch_bytes = 0;
  const char* reason = "";   // why it should
  const char* refusal = "";  // why it does not apply
};

// In rules.cpp, one case for each row of the registry.
Rule kernel_rule(KernelId kernel, const Spec& spec, int vector_bytes);

// Of a row of the registry. A caller asks for an algorithm by its name.
struct KernelInfo {
  Op op;
  Algorithm algorithm;
  const char* name;
};
const KernelInfo& kernel_info(KernelId kernel);
const char* algorithm_name(Algorithm algorithm);

// Consecutive positions of an axis.
struct Run {
  index_t begin = 0, end = 0;

  index_t size() const { return end - begin; }
  bool empty() const { return begin >= end; }
  Run part(index_t i, index_t length) const {
    return {begin + i * length, std::min(end, begin + (i + 1) * length)};
  }
};

struct Patches;

struct Plan {
  Spec spec;
  KernelId kernel = KernelId::count;
  const Isa* isa = nullptr;
  Rule rule;
  index_t row_classes = 0, column_classes = 0, row_blocks = 0, column_blocks = 0, unit_blocks = 0;
  // What runs instead when every plane of the filter is of rank 1: known once the filter is.
  std::shared_ptr<const Plan> if_separable;
  // The same in fewer tasks, which run faster, where there are such.
  std::shared_ptr<const Plan> coarse;
  // The same with all taps of the filter, where this leaves out some: for weights that are not finite.
  std::shared_ptr<const Plan> whole;
  // What the kernel cannot compute in place; when it is null, the kernel computes everything.
  std::shared_ptr<const Patches> patches;

  // Whether a result is written fastest where it lies as the image does, as far as cache lines go.
  bool lies_as_image() const { return rule.tile.fit != Fit::channels && !rule.tile.stream && !patches; }
  // The plan that takes the filter's factors, if it has any; null where they are of no use.
  const Plan* if_rank_1() const {
    if (if_separable) return if_separable.get();
    return kernel_info(kernel).algorithm == Algorithm::separable ? this : nullptr;
  }
  // Tasks of the kernel in place, of `rows` blocks of rows.
  index_t tasks(index_t rows) const {
    if (patches && in_place() == 0) return 0;
    if (spec.op == Op::grad_filter) return unit_blocks * rule.parts;
    return spec.batch * row_classes * column_classes * rows * column_blocks * unit_blocks;
  }
  index_t tasks() const { return tasks(row_blocks); }
  // The task of one index; units run fastest, so that neighbours read neighbouring memory.
  Task task(index_t index, index_t rows) const;
  Task task(index_t index) const { return task(index, row_blocks); }
  // Rows of the largest of so many blocks.
  index_t block_rows(index_t blocks) const;
  // Which of the `count` rows of a class a block has: from the first on, up to the second.
  std::pair<index_t, index_t> rows_of(index_t block, index_t blocks, index_t count) const;
  // The task that adds up the parts of one block of units, when there are several.
  Task reduce_task(index_t unit) const;
  // What can be computed from the filter alone, once for many runs; 0 when there is nothing. Vectors that
  // begin beside the lines of channels reach into one more.
  index_t prepared_bytes() const {
    const index_t units = unit_blocks * rule.tile.units + (rule.tile.fit == Fit::channels ? 0 : 1);
    return tasks() == 0 ? 0 : units * rule.prepared_bytes;
  }
  // Lanes of a vector of channels.
  index_t lanes() const;
  // Channels before the first with which a vector begins in a run on these operands, and whether vectors may
  // begin so many in.
  index_t lead(const Operands& operands) const;
  bool takes_lead(index_t lead) const;
  index_t partial_bytes() const { return rule.parts > 1 ? rule.parts * unit_blocks * rule.sums_bytes : 0; }
  Task grad_filter_task(index_t index) const;
  // Of one image and channel, the results that the patches leave to the kernel.
  index_t in_place() const;
  index_t scratch_bytes() const;
  // How many of `available` threads this problem is worth, where handing work to one is worth so many
  // multiply-adds; and whether it is worth waking them.
  int threads(int available, index_t handover) const;
  bool worth_waking() const;
  // What it takes, roughly, in multiply-adds.
  index_t steps() const;
  // How a run on `used` threads cuts the work: this plan, or the one of fewer tasks where these keep as many
  // threads busy, in so many blocks of rows.
  struct Share {
    const Plan* plan;
    index_t row_blocks;
  };
  Share for_threads(int used) const;
  // Blocks of rows that so many threads are done with at once, or 0 where rows are not shared out.
  index_t even_blocks(int used) const;
};

// Whether a kernel computes the problem: that of the name, if it is not empty.
bool has_kernel(const Spec& spec, const std::string& kernel, const Isa& isa);

// Makes one task of all rows: for a problem that one thread computes.
void join_rows(Plan& plan);

// `kernel` and `isa` force a choice when not empty. Throws std::invalid_argument when the problem is
// malformed, the kernel unknown or not applicable, no kernel of the algorithm applicable, or the ISA
// unusable.
Plan make_plan(const Spec& spec, const std::string& kernel, const std::string& isa);
// The same without taps left out.
Plan make_whole_plan(const Spec& spec, const std::string& kernel, const std::string& isa);

}  // namespace depthwise
