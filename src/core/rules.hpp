// The rules of the registry's rows, by the file that they are in, and what they share.
#pragma once

#include "tile_choice.hpp"

namespace depthwise {

// direct_rules.cpp: channels in the lanes, the image in place.
Rule nhwc_direct(const Spec& spec, int vector_bytes);
Rule nhwc_direct_multiplier(const Spec& spec, int vector_bytes);

// grad_filter_rules.cpp: rows packed with channels in the lanes or, with `lines` false, as they lie; images
// in place; and any.
Rule grad_filter_packed(const Spec& spec, int vector_bytes, bool lines);
Rule grad_filter_nhwc_direct(const Spec& spec, int vector_bytes);
Rule grad_filter_generic(const Spec& spec);

// plane_rules.cpp: NCHW.
Rule nchw_transposed(const Spec& spec, int vector_bytes);
Rule nchw_small_planes(const Spec& spec, int vector_bytes);
Rule nchw_planes(const Spec& spec, int vector_bytes);

// rules.cpp: of any operation, rows packed with channels in the lanes or, with `lines` false, as they lie.
Rule vector_rule(const Spec& spec, int vector_bytes, bool lines);

inline constexpr int kAvx2Bytes = 32;

inline index_t image_bytes(const Spec& spec) {
  return (spec.input_elements() + spec.output_elements()) * dtype_bytes(spec.dtype);
}
// Measured: beyond so much, fetching and streaming stores gain more than they cost.
inline constexpr index_t kCachedBytes = 16 << 20;
inline bool beyond_caches(const Spec& spec) { return image_bytes(spec) > kCachedBytes; }

// Whether pixels that share a set of the first-level cache evict each other before a tile has read them, by
// measurement: where a set holds 8 lines, but not where it holds 12.
inline bool few_ways() { return caches().l1 <= 8 * kWayBytes; }

// Whether elements are computed as they are stored.
inline bool as_stored(const Spec& spec) { return dtype_bytes(spec.dtype) == compute_bytes(spec.dtype); }

// Shares of the lanes that do useful work.
inline double lane_use(index_t count, index_t lanes) {
  return static_cast<double>(count) / static_cast<double>(ceil_div(count, lanes) * lanes);
}
inline double line_use(const Spec& spec) {
  return lane_use(Problem(spec).channels, kLineBytes / compute_bytes(spec.dtype));
}

// Lines of channels of a task, the weights of so many taps of which leave most of the second-level cache to
// the image.
inline index_t most_units(index_t taps) {
  return std::max<index_t>(1, caches().l2 / 4 / (taps * kLineBytes));
}

// Whether AVX2's kernels beat those of vectors twice as wide, by measurement, for channels that fill one of
// its vectors but none of these.
bool narrow_channels_pay(const Spec& spec, int vector_bytes);

}  // namespace depthwise
