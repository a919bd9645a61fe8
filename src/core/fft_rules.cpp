#include "fft_rules.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "fft_tables.hpp"
#include "kernels/fft_layout.hpp"
#include "tile_choice.hpp"

namespace depthwise {
namespace {

// All spectra of a filter that is transformed once for many tiles.
constexpr index_t kMaxSpectraBytes = 64 << 20;

// Cycles for a point of a pass in the first-level cache, with lines of 64 bytes; the order is kFftRadices'.
constexpr double kPassCycles[] = {9.5, 8.2, 6.6, 6.2, 5.6, 4.7, 4.6, 4.5};
// What the direct kernels take for a tap of a line, where tiles take two rows under large kernels, and once
// to pack a tap's weights.
constexpr double kDirectCycles = 1.15, kPairCycles = 0.98, kPackCycles = 16;
// By how much a transform must win, since its planes lie in the second-level cache: over 454 problems on two
// ISAs that is within 0.7% of the better of both in the mean.
constexpr double kMargin = 1.7;
constexpr double kSplitCycles = 5, kMultiplyCycles = 6;
// For a tap and a frequency of a row that is not transformed along the other direction.
constexpr double kTapCycles = 4;

// A length whose factors are radices, and what its transform costs.
struct Length {
  FftAxis axis;
  double cycles = 0;
};

// The cheapest passes for `rest`; false when it has another factor.
bool factor(index_t rest, Length& length) {
  if (rest == 1) return true;
  Length best;
  for (std::size_t i = 0; i < std::size(kFftRadices); ++i) {
    Length next;
    if (rest % kFftRadices[i] != 0 || !factor(rest / kFftRadices[i], next)) continue;
    next.cycles += kPassCycles[i];
    if (next.axis.passes == kMaxPasses || (best.cycles > 0 && best.cycles <= next.cycles)) continue;
    next.axis.radix[next.axis.passes++] = kFftRadices[i];
    best = next;
  }
  if (best.cycles == 0) return false;
  length = best;
  return true;
}

const std::vector<Length>& lengths() {
  static const auto& found = *new std::vector<Length>([] {
    std::vector<Length> all;
    for (index_t n = 2; n <= kLongestFft; ++n) {
      index_t rest = n;
      for (const int prime : {2, 3, 5})
        while (rest % prime == 0) rest /= prime;
      Length length;
      if (rest != 1 || !factor(n, length)) continue;
      length.axis.size = n;
      length.cycles *= static_cast<double>(n);
      all.push_back(length);
    }
    return all;
  }());
  return found;
}

// What the tiles of one axis must hold, in all of its classes.
struct Need {
  index_t classes, outputs, stride;  // outputs of a class, at most
  index_t first_tap, taps;
  index_t wrap;  // positions of a single tile that may meet others, because both are zeros
  index_t rows;  // of the source
  double live;   // taps that meet the image, summed over the outputs
};

double live_taps(const AxisClass& c) {
  const index_t outputs = std::min<index_t>(c.out_count, 512);
  double sum = 0;
  for (index_t u = 0; u < outputs; ++u) {
    const index_t from = c.source(c.stride * u);
    const index_t begin = std::max<index_t>(0, ceil_div(std::max<index_t>(-from, 0), c.src_step));
    const index_t end = from >= c.src_size ? 0 : std::min(c.taps, ceil_div(c.src_size - from, c.src_step));
    sum += static_cast<double>(std::max<index_t>(end - begin, 0));
  }
  return outputs > 0 ? sum * static_cast<double>(c.out_count) / static_cast<double>(outputs) : 0;
}

// Positions below and above the image that the class reads, from its first output to its last.
index_t zeros_at_both_ends(const AxisClass& c, index_t first_tap, index_t taps) {
  const index_t from = c.source(first_tap),
                to = c.source((c.out_count - 1) * c.stride + first_tap + taps - 1);
  const index_t below = from < 0 ? ceil_div(-from, c.src_step) : 0;
  const index_t above = to >= c.src_size ? (to - c.src_size) / c.src_step + 1 : 0;
  return std::min(below, above);
}

// Forward, the kernels look up what positions outside the image show.
bool reads_border(const Spec& s) { return s.op == Op::forward && s.border != Border::constant; }

Need need(const Spec& s, const Axis& axis) {
  const Op op = s.op == Op::grad_filter ? Op::forward : s.op;
  Need n{};
  n.classes = class_count(op, axis, Dilation::split);
  const AxisClass first = axis_class(op, axis, Dilation::split, 0);
  n.outputs = first.out_count, n.stride = first.stride;
  n.taps = axis.kernel;
  if (op == Op::grad_input)
    n.taps = ceil_div(axis.kernel, axis.stride / std::gcd(axis.stride, axis.dilation));
  const bool shows_border = reads_border(s);
  if (!shows_border && (op == Op::forward || axis.stride == 1)) {
    // Forward, output j reads stride*j + dilation*t - pad; backward, its taps run the other way.
    const index_t last = op == Op::forward ? axis.stride * (axis.out - 1) : axis.out - 1;
    const index_t low = std::max<index_t>(0, ceil_div(std::max<index_t>(axis.pad - last, 0), axis.dilation));
    const index_t high = std::min(axis.kernel - 1, (axis.in - 1 + axis.pad) / axis.dilation);
    n.first_tap = std::min(op == Op::forward ? low : axis.kernel - 1 - high, axis.kernel - 1);
    n.taps = std::max<index_t>(high - low + 1, 1);
  }
  n.rows = ceil_div(first.src_size, first.src_step);
  constexpr index_t kMostClasses = 64;
  n.wrap = n.classes <= kMostClasses && !shows_border ? n.outputs + n.taps : 0;
  for (index_t k = 0; k < std::min(n.classes, kMostClasses); ++k) {
    const AxisClass c = axis_class(op, axis, Dilation::split, k);
    n.wrap = std::min(n.wrap, c.out_count < n.outputs ? 0 : zeros_at_both_ends(c, n.first_tap, n.taps));
    n.live += shows_border ? static_cast<double>(c.out_count * c.taps) : live_taps(c);
  }
  if (n.classes > kMostClasses) n.live *= static_cast<double>(n.classes) / kMostClasses;
  return n;
}

// One length for the tiles of an axis.
struct Cut {
  FftAxis axis;
  double cycles = 0;  // of a transform
  index_t outputs = 0, tiles = 0;
};

// None that is longer than another of as many tiles without costing less.
std::vector<Cut> cuts(const Need& need) {
  std::vector<Cut> found;
  const index_t span = need.stride * (need.outputs - 1) + need.taps;
  const index_t single = std::max({span - need.wrap, need.taps, span - need.taps + 1});
  for (const Length& length : lengths()) {
    const index_t n = length.axis.size;
    const index_t outputs = n >= single     ? need.outputs
                            : n < need.taps ? 0
                                            : (n - need.taps) / need.stride + 1;
    if (outputs <= 0) continue;
    const index_t tiles = ceil_div(need.outputs, outputs);
    if (found.empty() || found.back().tiles != tiles || length.cycles < found.back().cycles)
      found.push_back({length.axis, length.cycles, ceil_div(need.outputs, tiles), tiles});
    if (n >= single || n >= 8 * need.taps + 256) break;
  }
  return found;
}

// For an axis that is summed tap by tap: halves of it, and halves of these, as far as scratch may hold them.
std::vector<Cut> halves(const Need& need) {
  constexpr index_t kMostTaps = 31, kLeastOutputs = 8, kMostPositions = 1 << 16;
  std::vector<Cut> found;
  if (need.taps > kMostTaps || need.outputs < 1) return found;
  for (index_t tiles = 1;; tiles *= 2) {
    const index_t outputs = ceil_div(need.outputs, tiles);
    FftAxis axis;
    axis.size = need.stride * (outputs - 1) + need.taps;
    axis.taps = need.taps;
    if (axis.size <= kMostPositions) found.push_back({axis, 0, outputs, ceil_div(need.outputs, outputs)});
    if (outputs <= kLeastOutputs) return found;
  }
}

// Cycles of a line of channels, for each tile and once for each unit.
struct Work {
  double tile, unit;
};

Work work(const Spec& s, const Need& need_h, const Cut& h, const Cut& w) {
  const double columns = static_cast<double>(w.axis.size / 2 + 1), rows = static_cast<double>(h.outputs);
  const double row = w.cycles / 2 + kSplitCycles * columns;  // two are transformed at once
  const double column_pass = columns * h.cycles;
  const double multiply =
      columns * (h.axis.transformed() ? static_cast<double>(h.axis.size) * kMultiplyCycles
                                      : rows * static_cast<double>(need_h.taps) * kTapCycles);
  const double loaded = static_cast<double>(std::min(h.axis.size, need_h.rows + 1)) * row,
               outputs = rows * row, taps = static_cast<double>(need_h.taps) * row;
  const double forth = loaded + column_pass;
  if (s.op == Op::grad_filter) return {forth + outputs + column_pass + multiply, column_pass + taps};
  const double sources = s.op == Op::grad_input ? static_cast<double>(s.multiplier) : 1;
  return {sources * (forth + multiply) + column_pass + outputs, sources * (taps + column_pass)};
}

FftAxis axis_of(const Need& need, const Cut& cut) {
  FftAxis axis = cut.axis;
  axis.first_tap = need.first_tap;
  axis.taps = need.taps;
  if (axis.transformed()) find_roots(axis);
  return axis;
}

// The filter's spectrum differs between the phases of the input gradient's stride.
bool one_spectrum(const Spec& s) { return s.op != Op::grad_input || (s.h.stride == 1 && s.w.stride == 1); }

// Tiles that share the lanes where channels fill few.
int lane_group(const Spec& s, index_t columns) {
  const index_t line = kLineBytes / compute_bytes(s.dtype);
  if (s.multiplier != 1 || s.op == Op::grad_filter) return 1;
  return static_cast<int>(std::clamp<index_t>(line / std::max<index_t>(s.channels, 1), 1, columns));
}

// How much longer it takes where a plane, which is read and written by rows and by columns, does not fit into
// the cache: by measurement, little where tiles share the lanes, and so a single spectrum. With a border,
// small scratch counts for more than that.
double beyond_cache(const Spec& s, index_t bytes, index_t cached, int group) {
  if (bytes <= cached) return 1;
  if (s.op == Op::grad_filter || s.border != Border::constant) return 1.6;
  return std::pow(static_cast<double>(bytes) / static_cast<double>(cached), group > 1 ? 0.1 : 0.3);
}

index_t sources(const Spec& s) { return s.op == Op::grad_input ? s.multiplier : 1; }

// `spectra`: of the filter, none where all tiles share one that is made first.
index_t scratch_bytes(const Spec& s, const FftLayout& l, index_t spectra) {
  return s.op == Op::grad_filter ? fft_scratch_bytes(l, 3, 0)
                                 : fft_scratch_bytes(l, 1 + (sources(s) > 1), spectra);
}

// The axes as the transforms see them: `h` across them, `w` along.
struct Axes {
  Need h, w;
  bool turned = false;

  index_t classes() const { return h.classes * w.classes; }
};

struct Cost {
  double cycles = 0;  // of one line of channels
  index_t scratch_bytes = 0, unprepared_scratch_bytes = 0;
  int group = 1;
  bool shared = false;  // one spectrum for all tiles
};

struct Choice {
  Axes axes{};
  Cut h{}, w{};
  Cost cost{};
};

// An image's bits must not depend on how many images follow it, so the choice does not know the batch.
Cost assess(const Spec& s, const Axes& axes, const Cut& h, const Cut& w, index_t units) {
  // With a border, scratch stays as small as the direct kernels', however small or large the cache.
  const index_t cached = s.border == Border::constant ? caches().l2 : kMaxScratchBytes;
  const index_t images = s.op == Op::grad_filter ? s.batch : 1;
  Cost c;
  c.group = axes.turned ? 1 : lane_group(s, w.tiles);
  const index_t tiles = images * axes.classes() * h.tiles * ceil_div(w.tiles, c.group);
  const FftLayout l = fft_layout(h.axis, w.axis);
  const bool shareable = s.op != Op::grad_filter && one_spectrum(s) &&
                         units * sources(s) * l.filter * kLineBytes <= kMaxSpectraBytes;
  const Work cycles = work(s, axes.h, h, w);
  const bool once = shareable || s.op == Op::grad_filter;
  c.cycles = static_cast<double>(tiles) * cycles.tile + (once ? 1 : static_cast<double>(tiles)) * cycles.unit;
  const bool prepared = shareable && tiles > 1;  // of a batch it always is, but see above
  c.scratch_bytes = scratch_bytes(s, l, prepared ? 0 : 1);
  if (prepared) c.unprepared_scratch_bytes = l.filter * kLineBytes;
  c.cycles *= beyond_cache(s, c.scratch_bytes, cached, c.group);
  if (c.group > 1) c.cycles *= 1.2;  // to bring pixels into lanes and back
  c.shared = shareable && (s.batch > 1 || tiles > 1);
  return c;
}

void choose(const Spec& s, const Axes& axes, const std::vector<Cut>& rows, index_t units, Choice& best) {
  const std::vector<Cut> columns = cuts(axes.w);
  Cost least = best.cost;
  const Cut *best_h = nullptr, *best_w = nullptr;
  for (const Cut& h : rows)
    for (const Cut& w : columns) {
      const Cost cost = assess(s, axes, h, w, units);
      if (cost.scratch_bytes > kMaxFftScratchBytes || (least.cycles > 0 && least.cycles <= cost.cycles))
        continue;
      least = cost, best_h = &h, best_w = &w;
    }
  if (best_h) best = {axes, *best_h, *best_w, least};
}

// Both directions transformed, or the one with more taps and the other summed tap by tap; down the columns of
// NCHW neither loads nor stores are of vectors.
Choice choose(const Spec& s, const Need& h, const Need& w, index_t units) {
  Choice best;
  choose(s, {h, w}, cuts(h), units, best);
  if (s.op == Op::grad_filter) return best;
  if (h.taps <= w.taps)
    choose(s, {h, w}, halves(h), units, best);
  else if (s.layout == Layout::nhwc)
    choose(s, {w, h, true}, halves(w), units, best);
  return best;
}

void set_tile(const Choice& c, Tile& tile) {
  tile.fft_h = axis_of(c.axes.h, c.h), tile.fft_w = axis_of(c.axes.w, c.w);
  tile.turned = c.axes.turned;
  tile.group = c.cost.group;
  const index_t rows = c.h.outputs, columns = c.w.outputs * c.cost.group;
  tile.rows = c.axes.turned ? columns : rows;
  tile.columns = c.axes.turned ? rows : columns;
}

const char* reason(const Choice& c) {
  if (c.h.axis.transformed())
    return "the kernel is large: a transform, a product and a transform back cost less than its taps";
  return c.axes.turned ? "the kernel is long: transforms along its columns cost less than its taps"
                       : "the kernel is long: transforms along its rows cost less than its taps";
}

// Tasks by units where there are many, else by parts of the blocks too.
void share_blocks(const Spec& s, const Choice& best, Rule& r) {
  r.blocks = s.batch * best.axes.classes() * best.h.tiles * best.w.tiles;
  r.sums_bytes = fft_layout(r.tile.fft_h, r.tile.fft_w).plane * kLineBytes;
  r.parts = std::clamp<index_t>(ceil_div(kTasks, r.units), 1, r.blocks);
  r.parts = std::clamp<index_t>(kMaxSpectraBytes / (r.units * r.sums_bytes), 1, r.parts);
}

// What the direct kernels take, for what choose() counts.
double direct_cycles(const Spec& s, const Need& h, const Need& w, int vector_bytes) {
  const double lines = static_cast<double>(s.out_channels() * compute_bytes(s.dtype)) / kLineBytes;
  if (s.op == Op::grad_filter) {
    const double cycles = vector_bytes == kLineBytes ? 1.2 : 1.7;  // by measurement, as kMargin
    return cycles * lines * static_cast<double>(s.batch) * h.live * w.live;
  }
  const double taps = static_cast<double>(h.taps) * static_cast<double>(w.taps);
  const bool pairs = s.layout == Layout::nhwc && s.dtype == DType::f32 && vector_bytes == kLineBytes &&
                     std::min(h.taps, w.taps) >= 5 && s.h.stride == 1 && s.w.stride == 1;
  return lines * ((pairs ? kPairCycles : kDirectCycles) * h.live * w.live + kPackCycles * taps);
}

}  // namespace

Rule fft_rule(const Spec& s, Layout layout, int vector_bytes) {
  Rule r;
  if (s.layout != layout) {
    r.refusal = "the layout is another";
    return r;
  }
  const Need h = need(s, s.h), w = need(s, s.w);
  const index_t channels = s.op == Op::grad_input ? s.channels : s.out_channels();
  const index_t line = kLineBytes / compute_bytes(s.dtype);
  r.units = ceil_div(channels, line);
  r.columns = Dilation::split;
  const Choice best = choose(s, h, w, r.units);
  if (best.cost.cycles == 0) {
    r.refusal = "the transform of a tile that holds the kernel needs too much memory";
    return r;
  }
  r.reason = reason(best);
  set_tile(best, r.tile);
  const FftLayout l = fft_layout(r.tile.fft_h, r.tile.fft_w);
  r.scratch_bytes = best.cost.scratch_bytes;
  r.unprepared_scratch_bytes = best.cost.unprepared_scratch_bytes;
  if (s.op == Op::grad_filter)
    share_blocks(s, best, r);
  else if (one_spectrum(s))
    r.prepared_bytes = sources(s) * l.filter * kLineBytes;
  r.prepare = best.cost.shared;
  r.applies = true;
  // What takes microseconds anyway is not worth a weaker bound.
  constexpr double kLeastCycles = 50'000;
  const double direct = direct_cycles(s, h, w, vector_bytes),
               cycles = best.cost.cycles * static_cast<double>(r.units);
  r.preferred = s.dtype != DType::f64 && direct > kLeastCycles && kMargin * cycles < direct;
  return r;
}

}  // namespace depthwise
