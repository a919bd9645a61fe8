// When each kernel applies, when it is preferred, and how it cuts the work. The measurements behind the
// choices are in docs/performance.md; `depthwise bench choices` checks them against the alternatives.
#include "rules.hpp"

#include <algorithm>
#include <numeric>

#include "fft_rules.hpp"
#include "kernels/flat_layout.hpp"
#include "kernels/line_layout.hpp"
#include "separable_rules.hpp"

namespace depthwise {
namespace {

Rule lines_rule(const Spec& spec) {
  Rule r;
  // Packing brings the pixels of a residue together; a plane's rows are packed as they lie.
  r.columns = spec.layout == Layout::nhwc ? Dilation::split : Dilation::keep;
  const Problem p(spec, r.columns);
  const index_t line = kLineBytes / compute_bytes(spec.dtype);
  r.units = ceil_div(p.channels, line);
  const auto scratch = [&](const Tile& t) { return line_scratch_bytes(line_layout(spec, t, p.h, p.w)); };
  r.tile.columns = p.w.out_count;
  fit_columns(r.tile, caches().l1 / 2, 16, scratch);
  r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));
  r.tile.pixels = choose_pixels(r.tile.columns);
  if (r.tile.columns < p.w.out_count)
    r.tile.columns = ceil_div(r.tile.columns, r.tile.pixels) * r.tile.pixels;
  const index_t blocks = ceil_div(p.w.out_count, r.tile.columns) * spec.batch * r.units;
  const index_t steps = r.tile.columns * line * p.h.taps * p.w.taps;
  r.tile.rows = choose_packed_rows(p, blocks, steps);
  r.tile.units = choose_units(r.units, blocks * ceil_div(p.h.out_count, r.tile.rows), steps * r.tile.rows);
  for (Tile taller = r.tile; taller.rows_at_once < r.tile.rows; r.tile = taller) {
    ++taller.rows_at_once;
    if (scratch(taller) > caches().l1 * 3 / 4) break;
  }
  r.scratch_bytes = scratch(r.tile);
  r.applies = r.scratch_bytes <= kMaxScratchBytes && p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

Rule flat_rule(const Spec& spec, int vector_bytes) {
  const Problem p(spec);
  const bool nhwc = spec.layout == Layout::nhwc;
  const index_t lanes = vector_bytes / compute_bytes(spec.dtype),
                pixel = nhwc ? std::max<index_t>(p.channels, 1) : 1;
  Rule r;
  r.tile.period = static_cast<int>(std::min<index_t>(pixel / std::gcd(pixel, lanes), 99));
  r.units = nhwc ? 1 : spec.channels;
  const auto scratch = [&](const Tile& t) { return flat_scratch_bytes(spec, t, p.h, p.w); };
  r.tile.columns = p.w.out_count;
  // Rows packed again for the next block, and padding, are few against this many.
  r.tile.rows_at_once =
      static_cast<int>(std::clamp<index_t>(4 * p.h.taps, 8, std::max<index_t>(8, p.h.out_count)));
  // Rows as long as the second-level cache allows, which the processor fetches ahead.
  const index_t room = std::min(caches().l2, kMaxScratchBytes) / 2;
  fit_columns(r.tile, room, ceil_div(16 * lanes * r.tile.period, pixel), scratch);
  r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));  // even shares
  const index_t blocks = ceil_div(p.w.out_count, r.tile.columns) * spec.batch * r.units;
  const index_t steps = r.tile.columns * pixel * p.h.taps * p.w.taps * (nhwc ? 1 : spec.multiplier);
  const int tile_rows = nhwc ? 8 : vector_bytes == kLineBytes ? 7 : 4;  // whole tiles
  r.tile.rows = choose_packed_rows(p, blocks, steps);
  if (nhwc) r.tile.rows = std::min(ceil_div(r.tile.rows, tile_rows) * tile_rows, p.h.out_count);
  r.tile.units = choose_units(r.units, blocks * ceil_div(p.h.out_count, r.tile.rows), steps * r.tile.rows);
  r.tile.rows_at_once = tile_rows;
  for (Tile taller = r.tile; taller.rows_at_once < r.tile.rows; r.tile = taller) {
    taller.rows_at_once += tile_rows;
    if (scratch(taller) > caches().l1 * 3 / 4) break;
  }
  r.tile.stream = beyond_caches(spec);
  r.scratch_bytes = scratch(r.tile);
  const bool tiles = r.tile.period == 1 || r.tile.period == 3 || r.tile.period == 5 || r.tile.period == 7;
  r.applies = tiles && r.scratch_bytes <= kMaxScratchBytes && p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

Rule generic_rule(const Spec& spec) {
  const Problem p(spec);
  Rule r;
  r.applies = r.preferred = true;
  r.rows = r.columns = Dilation::keep;
  r.units = p.channels;
  r.tile.units = std::max<index_t>(p.channels, 1);
  r.tile.columns = std::min<index_t>(p.w.out_count, 64);
  r.reason = "no vector kernel fits its rows into the scratch";
  return r;
}

// Whether a row's pixels and channels pay as one, by measurement: where channels fill no vector; where they
// do, on AVX2 only under 3x3 taps of stride 1, not for the filter's gradient. `half` says that they fill
// lines by half.
bool flat_rows_pay(const Spec& spec, int vector_bytes, bool half) {
  const bool fill = Problem(spec).channels * compute_bytes(spec.dtype) >= vector_bytes;
  if (!fill) return true;
  if (vector_bytes < kAvx2Bytes) return half;
  const auto three = [](const Axis& a) { return a.kernel == 3 && a.stride == 1; };
  return vector_bytes == kAvx2Bytes && half && three(spec.h) && three(spec.w) && spec.op != Op::grad_filter;
}

Rule nhwc_few_channels(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, false);
  r.applies = r.applies && spec.layout == Layout::nhwc && Problem(spec).channels <= 64;
  const bool repeats = spec.op == Op::forward && spec.multiplier > 1;
  const Rule direct = repeats ? nhwc_direct_multiplier(spec, vector_bytes) : Rule{};
  const bool in_place = direct.applies && direct.preferred;
  const bool half = line_use(spec) < 0.7;
  // Wide enough tiles, and pixels repeated for their outputs in whole vectors.
  const bool whole = repeats && !in_place && r.tile.period <= 3;
  // Measured: outputs read in place fill lanes that are half empty sooner.
  r.preferred = spec.multiplier == 1 ? flat_rows_pay(spec, vector_bytes, half) : whole || (half && !in_place);
  r.beats_wider = narrow_channels_pay(spec, vector_bytes);
  r.reason = "too few channels to fill the lanes: a row's pixels and channels are taken as one";
  return r;
}

Rule nhwc(const Spec& spec, int vector_bytes) {
  Rule r = vector_rule(spec, vector_bytes, true);
  r.applies = r.applies && spec.layout == Layout::nhwc && (spec.op != Op::forward || spec.multiplier == 1);
  r.preferred = true;
  r.reason = "channels fill the lanes";
  return r;
}

Rule nhwc_multiplier(const Spec& spec) {
  Rule r = lines_rule(spec);
  r.applies = r.applies && spec.layout == Layout::nhwc && spec.multiplier != 1;
  r.preferred = true;
  r.reason = "output channels fill the lanes; each input channel is repeated as its rows are packed";
  return r;
}

}  // namespace

Rule vector_rule(const Spec& spec, int vector_bytes, bool lines) {
  if (spec.op == Op::grad_filter) return grad_filter_packed(spec, vector_bytes, lines);
  return lines ? lines_rule(spec) : flat_rule(spec, vector_bytes);
}

Rule kernel_rule(KernelId kernel, const Spec& spec, int vector_bytes) {
  switch (kernel) {
    case KernelId::forward_nhwc_few_channels:
    case KernelId::grad_filter_nhwc_few_channels:
    case KernelId::grad_input_nhwc_few_channels: return nhwc_few_channels(spec, vector_bytes);
    case KernelId::grad_filter_nhwc_direct: return grad_filter_nhwc_direct(spec, vector_bytes);
    case KernelId::forward_nhwc_direct:
    case KernelId::grad_input_nhwc_direct: return nhwc_direct(spec, vector_bytes);
    case KernelId::forward_nhwc_direct_multiplier: return nhwc_direct_multiplier(spec, vector_bytes);
    case KernelId::forward_nhwc:
    case KernelId::grad_filter_nhwc:
    case KernelId::grad_input_nhwc: return nhwc(spec, vector_bytes);
    case KernelId::forward_nhwc_multiplier: return nhwc_multiplier(spec);
    case KernelId::forward_nchw_transposed:
    case KernelId::grad_input_nchw_transposed: return nchw_transposed(spec, vector_bytes);
    case KernelId::forward_nchw_small_planes:
    case KernelId::grad_filter_nchw_small_planes:
    case KernelId::grad_input_nchw_small_planes: return nchw_small_planes(spec, vector_bytes);
    case KernelId::forward_nchw_planes:
    case KernelId::grad_filter_nchw_planes:
    case KernelId::grad_input_nchw_planes: return nchw_planes(spec, vector_bytes);
    case KernelId::forward_separable:
    case KernelId::grad_input_separable: return separable_rule(spec);
    case KernelId::forward_nhwc_fft:
    case KernelId::grad_filter_nhwc_fft:
    case KernelId::grad_input_nhwc_fft: return fft_rule(spec, Layout::nhwc, vector_bytes);
    case KernelId::forward_nchw_fft:
    case KernelId::grad_filter_nchw_fft:
    case KernelId::grad_input_nchw_fft: return fft_rule(spec, Layout::nchw, vector_bytes);
    case KernelId::forward_generic:
    case KernelId::grad_input_generic: return generic_rule(spec);
    case KernelId::grad_filter_generic: return grad_filter_generic(spec);
    case KernelId::count: break;
  }
  return {};
}

}  // namespace depthwise
