// Which pixel of the image stands at a position outside it.
#pragma once

#include <cstdint>

#include "spec.hpp"

namespace depthwise {

// The index, of `size` > 0, that the position `at` of an axis shows; -1 where it shows a zero. Positions far
// outside see the image repeated, mirrored each time or not, as numpy.pad repeats it.
static inline __attribute__((always_inline, unused)) index_t map_border(Border border, index_t at,
                                                                        index_t size) {
  if (at >= 0 && at < size) return at;
  if (border == Border::constant) return -1;
  if (border == Border::edge || size == 1) return at < 0 ? 0 : size - 1;
  const index_t mirrored = border == Border::reflect ? size - 1 : size;  // from one image to its mirror image
  const index_t period = border == Border::wrap ? size : 2 * mirrored;
  index_t within = at % period;
  if (within < 0) within += period;
  if (within < size) return within;
  return border == Border::reflect ? period - within : period - 1 - within;
}

// Neighbouring positions show neighbouring pixels, one way or the other, or all the same one.
struct Stretch {
  index_t positions, step;
};

// The stretch from position `at` on, up to a turn, a jump or an end of the image; its pixels are `step`
// apart.
static inline __attribute__((always_inline, unused)) Stretch stretch_from(Border border, index_t at,
                                                                          index_t size) {
  if (at >= 0 && at < size) return {size - at, 1};
  if (border == Border::constant || border == Border::edge || size == 1)
    return {at < 0 ? -at : INT64_MAX - at, 0};
  const index_t pixel = map_border(border, at, size);
  const bool rises = border == Border::wrap || map_border(border, at + 1, size) > pixel ||
                     (pixel == size - 1 && map_border(border, at - 1, size) < pixel);
  const index_t left = rises ? size - pixel : pixel + 1;
  return {at < 0 && left > -at ? -at : left, rises ? 1 : -1};
}

// The first position from `from` on that shows the pixel `index`; it is below `end`, or there is none.
static inline __attribute__((always_inline, unused)) index_t next_shown(Border border, index_t index,
                                                                        index_t size, index_t from,
                                                                        index_t end) {
  const auto next = [from](index_t residue, index_t period) {
    const index_t ahead = (residue - from) % period;
    return from + (ahead < 0 ? ahead + period : ahead);
  };
  if (size == 1 && border != Border::constant) return from;
  switch (border) {
    case Border::constant: return from <= index ? index : end;
    case Border::edge:
      if (index == 0 && from <= 0) return from;
      if (index == size - 1 && from >= index) return from;
      return from <= index ? index : end;
    case Border::wrap: return next(index, size);
    default: break;
  }
  const index_t period = border == Border::reflect ? 2 * (size - 1) : 2 * size;
  const index_t mirrored = border == Border::reflect ? period - index : period - 1 - index;
  const index_t plain = next(index, period), other = next(mirrored, period);
  return plain < other ? plain : other;
}

}  // namespace depthwise
