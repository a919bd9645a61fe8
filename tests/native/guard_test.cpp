// Every array against a protected page, at its end and at its beginning: an access outside is a crash. All
// kernels, ISAs and dtypes, over sizes around the vector widths.
//
//   guard_test [EVERY]     only every so manieth problem, for slow machines
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "check.hpp"
#include "problems.hpp"

namespace {

using namespace depthwise;
using namespace depthwise::testing;

enum class Side { end, beginning };

// Memory for `capacity` bytes between two pages that may not be touched; an array lies at either side of it.
class Guarded {
 public:
  explicit Guarded(index_t capacity) {
    const index_t page = sysconf(_SC_PAGESIZE);
    size_ = (capacity + page - 1) / page * page;
    void* const all = mmap(nullptr, size_ + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED);
    first_ = static_cast<unsigned char*>(all) + page;
    CHECK(mprotect(first_, size_, PROT_READ | PROT_WRITE) == 0);
  }

  unsigned char* place(index_t bytes, Side side) const {
    CHECK(bytes <= size_);
    return side == Side::end ? first_ + size_ - bytes : first_;
  }

  unsigned char* place(const Bytes& data, Side side) const {
    unsigned char* const to = place(static_cast<index_t>(data.size()), side);
    std::copy(data.begin(), data.end(), to);
    return to;
  }

 private:
  index_t size_;
  unsigned char* first_;
};

constexpr index_t kCapacity = 1 << 20;

void run_guarded(const Plan& plan, const Problem& p, const Bytes& expected, Side side) {
  static const Guarded a(kCapacity), b(kCapacity), bias(kCapacity), out(kCapacity);
  unsigned char* const result = out.place(static_cast<index_t>(expected.size()), side);
  std::fill_n(result, expected.size(), 0xff);
  const void* const shift = p.spec.has_bias ? bias.place(p.bias, side) : nullptr;
  CHECK(execute(plan, {a.place(p.a, side), b.place(p.b, side), shift, result}, 1));
  CHECK(std::equal(expected.begin(), expected.end(), result));
}

int check_problem(const Spec& spec) {
  const Problem problem = make_problem(spec, {.seed = 1, .products = true});
  int runs = 0;
  for (const Isa& isa : compiled_isas())
    if (isa.supported)
      run_kernels(problem, isa, {1}, [&](const Plan& plan) {
        const Bytes expected = run_checked(plan, problem, 1, {});
        for (const Side side : {Side::end, Side::beginning})
          run_guarded(plan, problem, expected, side), ++runs;
      });
  return runs;
}

// Calls visit(spec) for every problem of the table.
template <class Visit>
void for_each_spec(Op op, DType dtype, Layout layout, const Visit& visit) {
  struct Window {
    index_t kernel, stride, dilation, pad;
  };
  constexpr Window kWindows[] = {{1, 1, 1, 0}, {3, 1, 1, 1}, {3, 2, 1, 0}, {5, 1, 1, 2},
                                 {7, 2, 1, 3}, {3, 1, 2, 2}, {2, 3, 1, 0}};
  for (const Window& window : kWindows)
    for (const index_t width : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 34})
      for (const index_t channels : {1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33})
        for (const index_t multiplier : {1, 3}) {
          const auto axis = [&window](index_t in) {
            const index_t room = in + 2 * window.pad - (window.kernel - 1) * window.dilation - 1;
            return Axis{in,
                        room < 0 ? 0 : room / window.stride + 1,
                        window.kernel,
                        window.stride,
                        window.dilation,
                        window.pad};
          };
          Spec s;
          s.op = op, s.dtype = dtype, s.layout = layout;
          s.has_bias = op == Op::forward && channels % 2 == 1;
          s.batch = 1, s.channels = channels, s.multiplier = multiplier;
          s.h = axis(3), s.w = axis(width);
          visit(s);
        }
}

}  // namespace

int main(int argc, char** argv) {
  const int every = argc > 1 ? std::atoi(argv[1]) : 1;
  CHECK(every > 0);
  long runs = 0, seen = 0;
  for (int op = 0; op < kOps; ++op)
    for (int dtype = 0; dtype < kDTypes; ++dtype)
      for (const Layout layout : {Layout::nhwc, Layout::nchw})
        for_each_spec(static_cast<Op>(op), static_cast<DType>(dtype), layout, [&](const Spec& spec) {
          if (seen++ % every == 0) runs += check_problem(spec);
        });
  std::printf("guard: passed, %ld runs between protected pages\n", runs);
}
