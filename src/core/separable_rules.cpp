#include "separable_rules.hpp"

#include "kernels/separable_layout.hpp"
#include "rules.hpp"

namespace depthwise {
namespace {

// Blocks of columns whose sums stay in the second-level cache beside the rows under them, so that rows are as
// long as may be for the processor to fetch ahead, and wide against the columns that neighbouring blocks both
// sum.
void separable_columns(const Spec& spec, const Problem& p, Tile& tile) {
  const index_t sums = kSeparableRows * tile.channels * compute_bytes(spec.dtype),
                shared = p.w.span(1) - p.w.stride;
  const index_t columns = std::max({caches().l2 / 4 / sums - shared, 8 * shared, index_t{16}});
  tile.columns = std::min({columns, p.w.out_count, index_t{1} << 20});
  const auto scratch = [&](Tile t) {
    t.pixels = static_cast<int>(t.columns);
    return separable_scratch_bytes(separable_layout(spec, t, p.h, p.w), spec.dtype);
  };
  fit_columns(tile, kMaxScratchBytes, 1, scratch);
  tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, tile.columns));
  // Blocks that begin on a cache line where the result does.
  const Tile even{.columns = std::min(p.w.out_count, ceil_div(tile.columns, 16) * 16),
                  .channels = tile.channels};
  if (scratch(even) <= kMaxScratchBytes) tile.columns = even.columns;
  tile.pixels = static_cast<int>(tile.columns);
  // Source rows that a block of outputs reads: where they fit, a task takes the whole width.
  const index_t rows = p.h.taps + (kSeparableRows - 1) * p.h.stride,
                row = spec.w.in * (spec.layout == Layout::nhwc ? spec.channels : 1) *
                      storage_bytes(spec.input, spec.dtype);
  if (rows * row <= caches().l2 / 2) tile.columns = p.w.out_count;
}

bool dense(const Axis& a) { return a.stride == 1 && a.dilation == 1; }

// How many times the multiply-adds of two passes a single one must take, by measurement, for planes of so
// many results. The fewer they are, the shorter the rows that two passes sum, where one pass has channels in
// its lanes; it transposes NCHW planes to have them there, unless channels are few. Pixels of few channels
// are no more than rows to either, and two passes find what a border shows, and convert integers, as they
// load. Beyond the caches, whole lines of channels are read faster than they are summed twice, unless the
// results are so many that they go past the caches.
double least_saving(const Spec& spec, index_t results, double pixels) {
  constexpr double kImage = 1 << 18;
  const bool lines = spec.channels * compute_bytes(spec.dtype) >= kLineBytes;
  if (spec.layout == Layout::nchw)
    return lines ? 2.1 + 3500 / pixels : pixels < kImage ? 2.1 + 1500 / pixels : 1.4;
  const index_t bytes = results * dtype_bytes(spec.dtype);
  const bool image = spec.op == Op::forward && dense(spec.h) && dense(spec.w);
  if (image && (!lines || bytes > kStreamedBytes)) return 1.4 + 1600 / pixels;
  return std::max(lines && 2 * bytes > kCachedBytes ? 2.4 : 0, 2 + 1000 / pixels);
}

}  // namespace

// Looking for the factors costs about a tap an output; under a stride the columns between those of the
// outputs are summed, too. What an image is to its result does not count: its padding, its border, its type,
// or the batch. The algorithm, and so the bits, must not depend on those.
bool separable_pays(const Spec& spec) {
  constexpr index_t kLeastTaps = 9, kLeastSteps = 1 << 17;
  const index_t kh = spec.h.kernel, kw = spec.w.kernel, batch = std::max<index_t>(spec.batch, 1);
  if (kh == 1 || kw == 1 || kh * kw < kLeastTaps || spec.multiply_adds() / batch < kLeastSteps) return false;
  const Problem p(spec);
  const bool forward = spec.op == Op::forward;
  const auto positions = [&](const Axis& a) {
    return static_cast<double>(std::max<index_t>(forward ? a.out : a.in, 1));
  };
  const index_t results = (forward ? spec.output_elements() : spec.input_elements()) / batch;
  const double rows = static_cast<double>(p.h.taps), columns = static_cast<double>(p.w.taps),
               two_passes = rows * static_cast<double>(p.w.stride) + columns;
  return rows * columns >= least_saving(spec, results, positions(spec.h) * positions(spec.w)) * two_passes;
}

Rule separable_rule(const Spec& spec) {
  constexpr index_t kChannels = 64;  // of a unit, where those of a pixel are too many
  const Problem p(spec);
  const bool nhwc = spec.layout == Layout::nhwc;
  Rule r;
  for (const index_t channels : {spec.channels, kChannels}) {
    r.tile.channels = nhwc ? std::min(channels, spec.channels) : 1;
    separable_columns(spec, p, r.tile);
    r.scratch_bytes = separable_scratch_bytes(separable_layout(spec, r.tile, p.h, p.w), spec.dtype);
    if (r.scratch_bytes <= kMaxScratchBytes && r.tile.pixels >= std::min<index_t>(16, p.w.out_count)) break;
  }
  r.units = nhwc ? ceil_div(spec.channels, r.tile.channels) * spec.multiplier : spec.out_channels();
  const index_t blocks = ceil_div(p.w.out_count, r.tile.columns) * spec.batch * r.units;
  const index_t steps = r.tile.columns * r.tile.channels * (p.h.taps + p.w.taps);
  r.tile.rows = ceil_div(choose_packed_rows(p, blocks, steps), kSeparableRows) * kSeparableRows;
  // By measurement: whole lines of channels need not be fetched ahead where a set holds 12 lines.
  r.tile.fetch_ahead = few_ways() || r.tile.channels * compute_bytes(spec.dtype) < kLineBytes;
  const bool sums_outputs = spec.op == Op::grad_input && spec.multiplier > 1;
  const bool plain = spec.border == Border::constant && spec.input == Storage::same;
  r.applies = r.scratch_bytes <= kMaxScratchBytes && !sums_outputs && (spec.op == Op::forward || plain);
  r.preferred = true;  // among those that "separable" allows; for "auto", separable_pays() says
  r.reason = "every plane of the filter is of rank 1: columns are summed, then rows";
  r.refusal = sums_outputs ? "the input gradient of several outputs a channel"
                           : "its rows do not fit into the scratch";
  return r;
}

}  // namespace depthwise
