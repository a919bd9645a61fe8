// One axis of the tiles that the FFT kernels transform.
#pragma once

#include "spec.hpp"

namespace depthwise {

inline constexpr int kFftRadices[] = {10, 9, 8, 6, 5, 4, 3, 2};
inline constexpr int kMaxPasses = 12;
inline constexpr index_t kLongestFft = 2048;

// Positions of one axis that a tile transforms or, without passes, sums tap by tap. Position e of a tile
// whose first output is u0 is the class's position stride*u0 + first_tap + e; output u of it ends at e =
// stride*(u - u0).
struct FftAxis {
  // Of the transform: at least what a tile reads, less what wraps onto zeros. Else all that a tile reads.
  index_t size = 0;
  // Of the class: those before it, and those after the next `taps`, never meet the image.
  index_t first_tap = 0;
  index_t taps = 0;
  int passes = 0;
  int radix[kMaxPasses] = {};
  // Of 2*size elements for each pass: see fft_tables.hpp.
  const float* roots_f32 = nullptr;
  const double* roots_f64 = nullptr;

  // always_inline: kernels are compiled with other flags and must not share an emitted copy.
  __attribute__((always_inline)) bool transformed() const { return passes > 0; }
};

}  // namespace depthwise
