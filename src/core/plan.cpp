#include "plan.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "clip.hpp"
#include "kernels/direct_layout.hpp"
#include "patches.hpp"
#include "separable_rules.hpp"
#include "tile_choice.hpp"

namespace depthwise {
namespace {

constexpr KernelInfo kInfos[kKernels] = {
#define DEPTHWISE_KERNEL(op, algorithm, name, type) {Op::op, Algorithm::algorithm, #name},
#include "kernels/kernels.def"
#undef DEPTHWISE_KERNEL
};

// Sizes stay far below 2^63 in every product of two that the kernels form.
constexpr index_t kMaxSize = index_t{1} << 48;

void check_axis(const Axis& a, const char* name) {
  const auto bad = [&](const char* what) { throw std::invalid_argument(std::string(name) + ": " + what); };
  for (const index_t size : {a.in, a.out, a.kernel, a.pad})
    if (size < 0 || size > kMaxSize) bad("size out of range");
  if (a.stride < 1 || a.dilation < 1) bad("stride and dilation must be positive");
  if (a.kernel > 1 && a.dilation > kMaxSize / a.kernel) bad("dilated kernel out of range");
  if (a.out > 1 && a.stride > kMaxSize / a.out) bad("strided output out of range");
}

// A stride over one output and a dilation of one tap have no effect; gone, they cost nothing and overflow
// nothing. A single tap is taken with the stride's steps, so that what lies between is never read.
void normalise(Axis& a) {
  if (a.out <= 1) a.stride = 1;
  if (a.kernel <= 1) a.dilation = a.stride;
}

// Without the zeros, so that no part of the product overflows either.
void check_product(std::initializer_list<index_t> sizes) {
  index_t product = 1;
  for (const index_t size : sizes) {
    if (size < 0 || size > kMaxSize / product) throw std::invalid_argument("an array has too many elements");
    product *= std::max<index_t>(size, 1);
  }
}

void check_work(const Spec& s) {
  constexpr index_t kMaxWork = index_t{1} << 62;
  if (s.h.kernel * s.w.kernel > kMaxWork / std::max<index_t>(s.output_elements(), 1))
    throw std::invalid_argument("the operation has too many multiply-adds");
}

void check(const Spec& s) {
  check_axis(s.h, "height");
  check_axis(s.w, "width");
  check_product({s.batch, s.h.in, s.w.in, s.channels});
  check_product({s.batch, s.h.out, s.w.out, s.channels, s.multiplier});
  check_product({s.h.kernel, s.w.kernel, s.channels, s.multiplier});
  check_work(s);
}

// A border that no tap sees, or that has no pixel to show, is none.
void normalise_border(Spec& s) {
  const bool seen = s.h.reaches_outside() || s.w.reaches_outside();
  if (!seen || s.h.in == 0 || s.w.in == 0) s.border = Border::constant;
}

bool needs_patches(const Spec& s) {
  return s.border != Border::constant || s.input != Storage::same || s.output != Storage::same;
}

// Nothing to read or nothing to sum: the generic kernel writes what zeros give, whatever the algorithm.
bool degenerate(const Spec& s) {
  for (const index_t size :
       {s.batch, s.h.in, s.w.in, s.h.out, s.w.out, s.h.kernel, s.w.kernel, s.channels, s.multiplier})
    if (size == 0) return true;
  return false;
}

// Sizes and steps beyond every array's: sums that the kernels' rules form of them could overflow. The generic
// kernel's rule forms none.
bool vast(const Spec& s) {
  constexpr double kMostPositions = 0x1p44;  // 64 TiB of float32
  const auto reach = [](const Axis& a) {
    return static_cast<double>(a.in) + static_cast<double>(a.pad) +
           static_cast<double>(a.stride) * static_cast<double>(a.out) +
           static_cast<double>(a.dilation) * static_cast<double>(a.kernel);
  };
  return reach(s.h) * reach(s.w) * static_cast<double>(s.channels) * static_cast<double>(s.multiplier) >
         kMostPositions;
}

// Whether no kernel but the generic one is asked, whatever the algorithm.
bool generic_only(const Spec& s) { return degenerate(s) || vast(s); }

// The most destinations that any class of the axis has.
index_t class_size(const Spec& spec, const Axis& axis, Dilation dilation) {
  return class_count(spec.op, axis, dilation) > 0 ? axis_class(spec.op, axis, dilation, 0).out_count : 0;
}

void cut(Plan& plan) {
  const Spec& s = plan.spec;
  const Rule& r = plan.rule;
  plan.unit_blocks = ceil_div(r.units, r.tile.units);
  if (s.op == Op::grad_filter) return;
  plan.row_classes = r.whole || r.tile.all_rows ? 1 : class_count(s.op, s.h, r.rows);
  plan.column_classes = r.whole || r.tile.all_columns ? 1 : class_count(s.op, s.w, r.columns);
  plan.row_blocks = ceil_div(class_size(s, s.h, r.rows), r.tile.rows);
  plan.column_blocks = ceil_div(class_size(s, s.w, r.columns), r.tile.columns);
}

// The registry's rows that may be taken, in order: of the operation, and of the kernel or the algorithm asked
// for.
std::vector<KernelId> candidates(const Spec& spec, const std::string& kernel) {
  std::vector<KernelId> rows;
  const bool generic = generic_only(spec), any = generic || spec.algorithm == Algorithm::automatic;
  for (int i = 0; i < kKernels; ++i) {
    const KernelInfo& info = kInfos[i];
    if (info.op != spec.op || (!kernel.empty() && kernel != info.name)) continue;
    if (generic && info.name != std::string("generic")) continue;
    const bool automatic = any && (info.algorithm != Algorithm::separable || !kernel.empty());
    if (automatic || spec.algorithm == info.algorithm) rows.push_back(static_cast<KernelId>(i));
  }
  return rows;
}

bool known(Op op, const std::string& kernel) {
  return std::any_of(std::begin(kInfos), std::end(kInfos),
                     [&](const KernelInfo& info) { return info.op == op && info.name == kernel; });
}

[[noreturn]] void refuse(const Spec& spec, const std::string& kernel, const std::string& refusal) {
  const std::string reason = refusal.empty() ? "" : ": " + refusal;
  if (kernel.empty())
    throw std::invalid_argument("algorithm \"" + std::string(algorithm_name(spec.algorithm)) +
                                "\" does not compute this problem" +
                                (refusal.empty() ? ": it has no kernel for the operation" : reason));
  throw std::invalid_argument(known(spec.op, kernel)
                                  ? "kernel " + kernel + " does not apply to this problem" + reason
                                  : "no kernel named '" + kernel + "' for this operation");
}

}  // namespace

const char* algorithm_name(Algorithm algorithm) { return kAlgorithmNames[static_cast<int>(algorithm)]; }

const KernelInfo& kernel_info(KernelId kernel) { return kInfos[static_cast<int>(kernel)]; }

bool has_kernel(const Spec& spec, const std::string& kernel, const Isa& isa) {
  const std::vector<KernelId> rows = candidates(spec, kernel);
  return std::any_of(rows.begin(), rows.end(),
                     [&](KernelId id) { return kernel_rule(id, spec, isa.kernels->vector_bytes).applies; });
}

void join_rows(Plan& plan) {
  const bool transforms = plan.rule.tile.fft_h.size > 0;  // whose tiles are of the size that it is
  if (plan.spec.op != Op::grad_filter && !transforms)
    plan.rule.tile.rows = std::max(plan.spec.h.in, plan.spec.h.out);
  plan.rule.parts = 1;
  plan.coarse = nullptr;
  cut(plan);
}

namespace {

// The first row of the registry that wants the problem or, where a kernel or an algorithm is asked for,
// computes it.
void choose_kernel(Plan& plan, const std::string& kernel) {
  const Spec& spec = plan.spec;
  const std::vector<KernelId> rows = candidates(spec, kernel);
  for (const bool forced : {false, true}) {
    if (forced && kernel.empty() && spec.algorithm == Algorithm::automatic) break;
    for (const KernelId id : rows) {
      plan.rule = kernel_rule(id, spec, plan.isa->kernels->vector_bytes);
      if (!plan.rule.applies || !(plan.rule.preferred || forced)) continue;
      plan.kernel = id;
      cut(plan);
      return;
    }
  }
  refuse(spec, kernel, plan.rule.refusal);
}

// For the ISA asked for or, where none is and no kernel either, the best one, unless a narrower one beats it.
void choose_isa_and_kernel(Plan& plan, const std::string& kernel, const std::string& isa) {
  plan.isa = &choose_isa(isa);
  choose_kernel(plan, kernel);
  const bool direct = kernel_info(plan.kernel).algorithm == Algorithm::direct;
  if (!direct || !kernel.empty() || asks_for_isa(isa)) return;
  for (const Isa& other : compiled_isas()) {
    if (!other.supported) continue;
    Plan narrow = plan;
    narrow.isa = &other;
    choose_kernel(narrow, kernel);
    if (narrow.rule.beats_wider) plan = narrow;
  }
}

// The plan whose tasks have the rule's coarse units, if it has any.
std::shared_ptr<const Plan> coarse_plan(const Plan& plan) {
  if (plan.rule.coarse_units <= plan.rule.tile.units) return nullptr;
  Plan coarse = plan;
  coarse.rule.tile.units = plan.rule.coarse_units;
  coarse.rule.scratch_bytes = plan.rule.coarse_scratch_bytes;
  cut(coarse);
  return std::make_shared<const Plan>(std::move(coarse));
}

// The plan for filters of rank 1, where "auto" would take it; `all` has the taps that may be left out, too.
std::shared_ptr<const Plan> separable_plan(const Spec& s, const Spec& all, const std::string& isa) {
  if (s.algorithm != Algorithm::automatic || s.op == Op::grad_filter || generic_only(s)) return nullptr;
  Plan plan{.spec = s,
            .kernel = s.op == Op::forward ? KernelId::forward_separable : KernelId::grad_input_separable,
            .isa = &choose_isa(isa)};
  plan.rule = kernel_rule(plan.kernel, s, plan.isa->kernels->vector_bytes);
  if (!plan.rule.applies || !separable_pays(all)) return nullptr;
  cut(plan);
  return std::make_shared<const Plan>(std::move(plan));
}

bool is_separable(const Plan& plan) { return kernel_info(plan.kernel).algorithm == Algorithm::separable; }

// Whether the kernel itself finds what the border shows, and converts integers.
bool reads_all(const Plan& plan) {
  const Spec& s = plan.spec;
  const bool transforms = kernel_info(plan.kernel).algorithm == Algorithm::fft;
  return is_separable(plan) ||
         (transforms && s.op == Op::forward && s.input == Storage::same && s.output == Storage::same);
}

bool is_generic(const Plan& plan) { return kernel_info(plan.kernel).name == std::string("generic"); }

Spec resolved(Spec spec) {
  check(spec);
  normalise(spec.h);
  normalise(spec.w);
  normalise_border(spec);
  return spec;
}

// Without the taps that read nothing but zeros of the padding.
Spec clipped(Spec spec) {
  if (spec.op == Op::grad_filter || degenerate(spec) || needs_patches(spec)) return spec;
  for (Axis* axis : {&spec.h, &spec.w}) {
    *axis = clip_taps(*axis);
    normalise(*axis);
  }
  return spec;
}

// Of `all`, or of what is left of it without some taps.
Plan plan_of(const Spec& spec, const Spec& all, const std::string& kernel, const std::string& isa) {
  Plan plan;
  plan.spec = spec;
  choose_isa_and_kernel(plan, kernel, isa);
  if (!needs_patches(spec)) plan.coarse = coarse_plan(plan);
  if (kernel.empty()) plan.if_separable = separable_plan(spec, all, isa);
  if (reads_all(plan)) return plan;
  // The generic kernel reads borders and integers itself, and does so where there are no patches.
  if (needs_patches(spec) && !generic_only(spec) && !(is_generic(plan) && !kernel.empty())) {
    plan.patches = make_patches(plan, kernel);
    if (!plan.patches) {
      choose_kernel(plan, "generic");
    } else if (plan.in_place() == 0) {  // then it is the pieces' plan that says how
      plan.kernel = plan.patches->plans.front().kernel;
      plan.rule = plan.patches->plans.front().rule;
    }
  }
  return plan;
}

}  // namespace

Plan make_plan(const Spec& spec, const std::string& kernel, const std::string& isa) {
  const Spec all = resolved(spec), fewer = clipped(all);
  Plan plan = plan_of(fewer, all, kernel, isa);
  if (fewer.h.kernel < all.h.kernel || fewer.w.kernel < all.w.kernel)
    plan.whole = std::make_shared<const Plan>(plan_of(all, all, kernel, isa));
  return plan;
}

Plan make_whole_plan(const Spec& spec, const std::string& kernel, const std::string& isa) {
  const Spec all = resolved(spec);
  return plan_of(all, all, kernel, isa);
}

index_t Plan::in_place() const { return patches->inner_rows.size() * patches->inner_columns.size(); }

index_t Plan::lanes() const { return isa->kernels->vector_bytes / compute_bytes(spec.dtype); }

index_t Plan::lead(const Operands& operands) const { return direct_lead(spec, rule.tile, operands, lanes()); }

bool Plan::takes_lead(index_t lead) const {
  return lead == 0 || direct_takes_lead(spec, rule.tile, lead, lanes());
}

index_t Plan::scratch_bytes() const {
  return std::max(rule.scratch_bytes, patches ? patches->scratch_bytes : 0);
}

namespace {

// Leaves a task the destinations that lie within `inner`; all of them when fewer than `least` do, which the
// patches then compute anew.
void clip(const AxisClass& c, const Run& inner, index_t least, index_t& begin, index_t& end) {
  const auto first_from = [&](index_t position) {
    return position <= c.out_start ? 0 : ceil_div(position - c.out_start, c.out_step);
  };
  const index_t low = std::max(begin, first_from(inner.begin)), high = std::min(end, first_from(inner.end));
  if (low >= high) {
    end = begin;
  } else if (high - low >= least) {
    begin = low, end = high;
  }
}

}  // namespace

// Units run fastest; `sums` holds an offset until the caller adds where the partial sums lie.
Task Plan::grad_filter_task(index_t index) const {
  const index_t unit = index % unit_blocks, part = index / unit_blocks;
  Task t{};
  t.spec = &spec;
  t.tile = &rule.tile;
  t.h = axis_class(spec.op, spec.h, rule.rows, 0);
  t.w = axis_class(spec.op, spec.w, rule.columns, 0);
  t.parts = rule.parts;
  t.block_begin = rule.blocks * part / rule.parts;
  t.block_end = rule.blocks * (part + 1) / rule.parts;
  t.sums_offset = index * rule.sums_bytes;
  t.sums_step = unit_blocks * rule.sums_bytes;
  t.unit_begin = unit * rule.tile.units;
  t.unit_end = std::min(t.unit_begin + rule.tile.units, rule.units);
  return t;
}

Task Plan::reduce_task(index_t unit) const {
  Task t = grad_filter_task(unit);
  t.reduce = true;
  return t;
}

// Even shares where rows are shared out: the first ones have one more where they do not come out even.
std::pair<index_t, index_t> Plan::rows_of(index_t block, index_t blocks, index_t count) const {
  const bool even = rule.most_rows > 0;
  const index_t size = even ? count / blocks : rule.tile.rows, larger = even ? count % blocks : 0;
  const auto begin = [&](index_t i) { return std::min(i * size + std::min(i, larger), count); };
  return {begin(block), begin(block + 1)};
}

Task Plan::task(index_t index, index_t rows) const {
  if (spec.op == Op::grad_filter) return grad_filter_task(index);
  const auto next = [&index](index_t count) {
    const index_t i = index % count;
    index /= count;
    return i;
  };
  const index_t unit = next(unit_blocks), column = next(column_blocks), row = next(rows);
  const index_t column_class = next(column_classes), row_class = next(row_classes);
  Task t{};
  t.spec = &spec;
  t.tile = &rule.tile;
  t.h = axis_class(spec.op, spec.h, rule.rows, row_class);
  t.w = axis_class(spec.op, spec.w, rule.columns, column_class);
  t.batch = index;
  std::tie(t.row_begin, t.row_end) = rows_of(row, rows, t.h.out_count);
  t.column_begin = std::min(column * rule.tile.columns, t.w.out_count);
  t.column_end = std::min(t.column_begin + rule.tile.columns, t.w.out_count);
  if (patches && !rule.whole) {
    if (!rule.tile.all_rows) clip(t.h, patches->inner_rows, 1, t.row_begin, t.row_end);
    if (!rule.tile.all_columns)
      clip(t.w, patches->inner_columns, rule.tile.pixels, t.column_begin, t.column_end);
  }
  t.unit_begin = unit * rule.tile.units;
  t.unit_end = std::min(t.unit_begin + rule.tile.units, rule.units);
  return t;
}

index_t Plan::steps() const {
  return spec.multiply_adds() + 4 * (spec.input_elements() + spec.output_elements());
}

int Plan::threads(int available, index_t handover) const {
  const index_t items = tasks() + (patches ? patches->tasks() : 0);
  return static_cast<int>(std::clamp<index_t>(std::min(steps() / handover, items), 1, available));
}

bool Plan::worth_waking() const {
  constexpr index_t kLeastSteps = 2'000'000;  // some 40 microseconds: waking takes 10 to 20 of them
  return steps() >= kLeastSteps;
}

index_t Plan::block_rows(index_t blocks) const {
  return rule.most_rows > 0 ? ceil_div(class_size(spec, spec.h, rule.rows), blocks) : rule.tile.rows;
}

Plan::Share Plan::for_threads(int used) const {
  constexpr index_t kManyTasks = 3;  // for a thread: whether they share out evenly does not matter
  const Plan& few = coarse ? *coarse : *this;
  if (const index_t blocks = few.even_blocks(used); blocks > 0) return {&few, blocks};
  const index_t tasks = few.tasks();
  const Plan& chosen = tasks % used == 0 || tasks >= kManyTasks * used ? few : *this;
  return {&chosen, chosen.row_blocks};
}

// Threads that divide the channels among them write parts of the same cache lines, pixel after pixel, and
// read pixels by short runs; those that divide the rows do neither.
index_t Plan::even_blocks(int used) const {
  if (rule.most_rows == 0 || unit_blocks != 1) return 0;
  const index_t others = spec.batch * row_classes * column_classes * column_blocks,
                rows = class_size(spec, spec.h, rule.rows), least = ceil_div(rows, rule.most_rows);
  if (used == 1 || others == 0) return std::max<index_t>(least, 1);
  const index_t step = used / std::gcd(index_t{used}, others),
                blocks = ceil_div(std::max(row_blocks, least), step) * step;
  // A thread that has a row more than the others keeps them waiting.
  return ceil_div(rows, blocks) * blocks - rows <= rows / 5 ? blocks : 0;
}

}  // namespace depthwise
