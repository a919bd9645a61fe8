// When the kernels of the gradient for the filter apply and are preferred, and how they cut the work.
#include <algorithm>
#include <numeric>

#include "kernels/grad_layout.hpp"
#include "rules.hpp"

namespace depthwise {
namespace {

// Rows that a tap walks down at a time, so that beginning a column costs little.
constexpr index_t kGradRows = 8;
// Sums of a task, which stay in the cache beside the block and are added up where tasks share a unit.
constexpr index_t kMaxGradSums = 64 << 10;

// Rows and images of a block of the filter gradient: enough positions that adding its sums up costs little,
// and rows that stay in the cache while every tap passes over them.
template <class Bytes>
void choose_grad_block(Tile& tile, const Problem& p, index_t least, index_t most, const Bytes& bytes) {
  const index_t positions = std::max<index_t>(1, grad_positions(p.h, p.h.out_count));
  const index_t columns = std::max<index_t>(1, tile.columns);
  tile.rows = std::min(positions, std::max(kGradRows, ceil_div(least, columns)));
  while (tile.rows > 1 && bytes(tile) > most) tile.rows = ceil_div(tile.rows, 2);
  tile.rows = ceil_div(positions, ceil_div(positions, tile.rows));  // even shares
  if (tile.rows % p.h.stride != 0 && tile.rows < positions) tile.rows += p.h.stride - tile.rows % p.h.stride;
  if (tile.rows < positions) return;
  for (Tile more = tile; more.images < p.spec.batch && more.images * positions * columns < least;
       tile = more) {
    ++more.images;
    if (bytes(more) > most) break;
  }
}

// Small images together, so that the sums of a channel are loaded and stored for all of them; not so many
// that the threads lack work. Few sums over images beyond the cache gain less than fetching image by image
// does.
index_t images_at_a_time(const Tile& tile, const Problem& p, index_t units) {
  constexpr double kLeastSteps = 200e3, kEnoughTasks = 8;
  const Spec& spec = p.spec;
  const index_t positions = tile.rows * tile.columns, taps = spec.h.kernel * spec.w.kernel;
  const double outputs =
      static_cast<double>(spec.batch) * static_cast<double>(positions) * static_cast<double>(p.channels);
  const double steps = outputs * static_cast<double>(taps);
  const bool cached = 2 * outputs * static_cast<double>(compute_bytes(spec.dtype)) <= caches().l2;
  const index_t most = taps > 9 || cached ? 512 : 128;
  const auto tasks = static_cast<index_t>(std::clamp(steps / kLeastSteps, 1.0, kEnoughTasks));
  const index_t blocks = ceil_div(tasks, std::max<index_t>(1, ceil_div(units, tile.units)));
  return std::clamp<index_t>(std::min(most / positions, spec.batch / blocks), 1,
                             std::max<index_t>(spec.batch, 1));
}

// In place: blocks of whole rows, and as many channels as leave enough tasks. Those of a pixel are adjacent.
void choose_grad_direct(Tile& tile, const Problem& p, index_t units, index_t unit_sums) {
  constexpr index_t kMostRows = 16, kPositions = 2048, kLeastUnits = 8;
  const index_t positions = std::max<index_t>(1, grad_positions(p.h, p.h.out_count));
  tile.columns = std::max<index_t>(1, p.w.out_count);
  // Rows enough that those which two blocks read are few, but not so many that plain sums grow inexact.
  const index_t rows = std::clamp(kPositions / tile.columns, kGradRows, kMostRows);
  tile.rows = ceil_div(positions, ceil_div(positions, rows));
  if (tile.rows % p.h.stride != 0 && tile.rows < positions) tile.rows += p.h.stride - tile.rows % p.h.stride;
  tile.units = std::clamp<index_t>(units / 8, std::min(units, kLeastUnits), std::max<index_t>(1, units));
  tile.units = std::clamp<index_t>(kMaxGradSums / std::max<index_t>(unit_sums, 1), 1, tile.units);
  tile.units = ceil_div(units, ceil_div(units, tile.units));
  if (tile.rows == positions) tile.images = images_at_a_time(tile, p, units);
}

// Enough tasks for the threads: by units alone where there are many, else by parts of the blocks.
Rule grad_filter_rule(const Spec& spec, int vector_bytes, GradForm form) {
  Problem p(spec);
  const bool nhwc = spec.layout == Layout::nhwc, flat = form == GradForm::flat;
  const index_t element = compute_bytes(spec.dtype), lanes = vector_bytes / element,
                line = kLineBytes / element;
  Rule r;
  r.columns = flat ? Dilation::keep : Dilation::split;
  p.w = widest(spec, spec.w, r.columns);
  const index_t pixel = nhwc && flat ? std::max<index_t>(p.channels, 1) : 1;
  r.tile.period = static_cast<int>(std::min<index_t>(pixel / std::gcd(pixel, lanes), 99));
  r.units = !flat ? ceil_div(p.channels, line) : nhwc ? 1 : spec.channels;
  const auto layout = [&](const Tile& t) { return grad_layout(spec, t, p.h, p.w, form, lanes); };
  const auto bytes = [&](const Tile& t) { return grad_panel_elements(layout(t), t) * element; };
  const auto scratch = [&](const Tile& t) { return grad_scratch_bytes(layout(t), t, p.w, spec.dtype); };
  r.tile.columns = p.w.out_count;
  r.tile.rows = 8;
  const auto sums = [&](const Tile& t) { return t.units * layout(t).sums * element; };
  if (form == GradForm::direct) {
    choose_grad_direct(r.tile, p, r.units, sums(r.tile));
  } else {
    const index_t most = caches().l1;
    fit_columns(r.tile, most, 16, bytes);
    r.tile.columns = ceil_div(p.w.out_count, ceil_div(p.w.out_count, r.tile.columns));
    r.tile.units = std::clamp<index_t>(r.units / 8, 1, flat ? 16 : 4);
    while (r.tile.units > 1 && sums(r.tile) > kMaxGradSums) r.tile.units = ceil_div(r.tile.units, 2);
    choose_grad_block(r.tile, p, flat ? 256 * lanes : 512, most, bytes);
  }
  r.blocks = grad_blocks(spec, r.tile, p.h, p.w, class_count(spec.op, spec.h, r.rows),
                         class_count(spec.op, spec.w, r.columns))
                 .count();
  const index_t tasks = std::max<index_t>(1, ceil_div(r.units, r.tile.units));
  const index_t most_parts = std::max<index_t>(2, kMaxScratchBytes / 2 / (tasks * sums(r.tile)));
  r.parts =
      std::clamp<index_t>(std::min(ceil_div(kTasks, tasks), most_parts), 1, std::max<index_t>(r.blocks, 1));
  r.sums_bytes = sums(r.tile);
  r.scratch_bytes = scratch(r.tile);
  r.applies = r.tile.period <= 8 && r.scratch_bytes <= kMaxScratchBytes &&
              p.w.span(r.tile.columns) < kMaxScratchBytes;
  return r;
}

}  // namespace

Rule grad_filter_packed(const Spec& spec, int vector_bytes, bool lines) {
  return grad_filter_rule(spec, vector_bytes, lines ? GradForm::lines : GradForm::flat);
}

Rule grad_filter_nhwc_direct(const Spec& spec, int vector_bytes) {
  const index_t element = compute_bytes(spec.dtype);
  Rule r = grad_filter_rule(spec, vector_bytes, GradForm::direct);
  r.applies = r.applies && spec.layout == Layout::nhwc && spec.multiplier == 1 && as_stored(spec) &&
              spec.channels * element >= vector_bytes;
  // Pixels that share sets of the first-level cache do not stay in it: packed lines do.
  const bool conflict = spec.channels * element % (kWayBytes / 4) == 0;
  const index_t most_taps = vector_bytes == kLineBytes ? 80 : 0;
  r.preferred = !conflict || spec.h.kernel * spec.w.kernel <= most_taps;
  r.beats_wider = narrow_channels_pay(spec, vector_bytes);
  r.reason = "channels fill the lanes, and both images are read in place";
  return r;
}

Rule grad_filter_generic(const Spec& spec) {
  Rule r;
  r.applies = r.preferred = true;
  r.units = spec.out_channels();
  r.reason = "no vector kernel fits its rows into the scratch";
  return r;
}

}  // namespace depthwise
