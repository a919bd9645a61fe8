#include "fft_tables.hpp"

#include <atomic>
#include <vector>

#include "kernels/fft_roots.hpp"

namespace depthwise {
namespace {

struct Tables {
  std::vector<float> f32;
  std::vector<double> f64;
};

std::vector<double> roots_of(const FftAxis& axis) {
  std::vector<double> table(2 * axis.size * axis.passes);
  index_t n = axis.size;
  for (int i = 0; i < axis.passes; n /= axis.radix[i], ++i) {
    auto to = table.begin() + 2 * axis.size * i;
    const index_t s = axis.size / n;
    for (index_t p = 0; p < n / axis.radix[i]; ++p)
      for (int k = 1; k < axis.radix[i]; ++k, to += 2) {
        const Root r = unit_root(s * p * k, axis.size);
        to[0] = r.re, to[1] = r.im;
      }
  }
  return table;
}

// Never freed: plans that point to them may outlive main. The radices follow from the size.
std::atomic<const Tables*> g_tables[kLongestFft + 1];

const Tables& tables_of(const FftAxis& axis) {
  std::atomic<const Tables*>& made = g_tables[axis.size];
  const Tables* found = made.load(std::memory_order_acquire);
  if (found) return *found;
  std::vector<double> roots = roots_of(axis);
  const auto* const fresh = new Tables{{roots.begin(), roots.end()}, std::move(roots)};
  if (made.compare_exchange_strong(found, fresh)) return *fresh;
  delete fresh;
  return *found;
}

}  // namespace

void find_roots(FftAxis& axis) {
  const Tables& tables = tables_of(axis);
  axis.roots_f32 = tables.f32.data(), axis.roots_f64 = tables.f64.data();
}

}  // namespace depthwise
