// Roots of unity, correctly rounded but for the last bit, at compile time and at run time.
#pragma once

#include <cstdint>

namespace {

struct Root {
  double re, im;
};

// cos and sin of x in [0, pi/4], by their Taylor series: the first term left out is below 2^-60.
constexpr Root small_angle(double x) {
  const double y = -x * x;
  double c = 0, s = 0;
  for (int n = 18; n > 0; n -= 2) {
    c = (1 + c) * y / ((n - 1) * n);
    s = (1 + s) * y / (n * (n + 1));
  }
  return {1 + c, x + x * s};
}

// exp(-2*pi*i*k/n), 0 <= k < n: the angle is taken to the first octant in integers, exactly.
constexpr Root unit_root(std::int64_t k, std::int64_t n) {
  constexpr double pi = 3.14159265358979323846;
  const std::int64_t k8 = 8 * k, octant = k8 / n;
  const std::int64_t rest = octant % 2 == 0 ? k8 - octant * n : (octant + 1) * n - k8;
  const Root r = small_angle(static_cast<double>(rest) * (pi / 4) / static_cast<double>(n));
  const bool swapped = octant % 4 == 1 || octant % 4 == 2;
  const double c = swapped ? r.im : r.re, s = swapped ? r.re : r.im;
  return {octant >= 2 && octant < 6 ? -c : c, octant < 4 ? -s : s};
}

}  // namespace
