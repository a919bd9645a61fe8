// One problem, fully resolved: sizes, strides and options, no arrays.
#pragma once

#include <cstddef>
#include <cstdint>

namespace depthwise {

using index_t = std::int64_t;

enum class Op : std::uint8_t { forward, grad_input, grad_filter };
enum class DType : std::uint8_t { f16, bf16, f32, f64 };
enum class Layout : std::uint8_t { nhwc, nchw };
enum class Activation : std::uint8_t { none, relu, relu6, silu, hard_swish };
enum class Algorithm : std::uint8_t { automatic, direct, fft, separable };
// What lies outside the image, by numpy.pad's names.
enum class Border : std::uint8_t { constant, reflect, symmetric, edge, wrap };
// What an image is stored as: the spec's dtype, or integers, which are computed in it.
enum class Storage : std::uint8_t { same, u8, i16, u16 };

inline constexpr int kOps = 3;
inline constexpr int kDTypes = 4;
inline constexpr int kAlgorithms = 4;
inline constexpr const char* kAlgorithmNames[kAlgorithms] = {"auto", "direct", "fft", "separable"};
inline constexpr int kBorders = 5;
inline constexpr int kStorages = 4;

// One spatial axis. `in` and `out` are the forward operation's sizes, whatever the op.
struct Axis {
  index_t in = 0, out = 0, kernel = 0, stride = 1, dilation = 1, pad = 0;
  // Taps of the filter before and after the `kernel` that are taken.
  index_t taps_before = 0, taps_after = 0;

  __attribute__((always_inline)) index_t filter_taps() const { return taps_before + kernel + taps_after; }

  // The positions that taps read go from -pad to here, at least to the end of the image.
  __attribute__((always_inline)) index_t shown_end() const {
    const index_t end = stride * (out - 1) + dilation * (kernel - 1) - pad + 1;
    return out > 0 && kernel > 0 && end > in ? end : in;
  }
  // Whether a tap reads outside the image.
  __attribute__((always_inline)) bool reaches_outside() const { return pad > 0 || shown_end() > in; }
};

struct Spec {
  Op op = Op::forward;
  DType dtype = DType::f32;
  Layout layout = Layout::nhwc;
  Activation activation = Activation::none;
  Algorithm algorithm = Algorithm::automatic;  // that the caller asks for
  Border border = Border::constant;
  Storage input = Storage::same, output = Storage::same;  // of the forward operation's images
  bool has_bias = false;
  index_t batch = 0, channels = 0, multiplier = 0;
  Axis h, w;

  index_t out_channels() const { return channels * multiplier; }
  index_t input_elements() const { return batch * h.in * w.in * channels; }
  index_t output_elements() const { return batch * h.out * w.out * out_channels(); }
  index_t filter_elements() const { return h.filter_taps() * w.filter_taps() * out_channels(); }
  index_t multiply_adds() const { return output_elements() * h.kernel * w.kernel; }
  // Where a tap of the kernel lies among the filter's.
  __attribute__((always_inline)) index_t tap(index_t row, index_t column) const {
    return (h.taps_before + row) * w.filter_taps() + w.taps_before + column;
  }
};

// Where the elements of a 4-D array lie: offsets in elements from index to index.
struct Image {
  index_t height, width, channels;
  index_t batch_step, row_step, column_step, channel_step;

  // always_inline: kernels are compiled with other flags and must not share an emitted copy.
  __attribute__((always_inline)) Image(Layout layout, index_t h, index_t w, index_t c)
      : height(h),
        width(w),
        channels(c),
        batch_step(h * w * c),
        row_step(layout == Layout::nhwc ? w * c : w),
        column_step(layout == Layout::nhwc ? c : 1),
        channel_step(layout == Layout::nhwc ? 1 : h * w) {}
};

__attribute__((always_inline)) inline Image input_image(const Spec& s) {
  return Image(s.layout, s.h.in, s.w.in, s.channels);
}
__attribute__((always_inline)) inline Image output_image(const Spec& s) {
  return Image(s.layout, s.h.out, s.w.out, s.channels * s.multiplier);
}

__attribute__((always_inline)) inline index_t dtype_bytes(DType dtype) {
  constexpr index_t bytes[kDTypes] = {2, 2, 4, 8};
  return bytes[static_cast<int>(dtype)];
}

__attribute__((always_inline)) inline index_t storage_bytes(Storage storage, DType dtype) {
  return storage == Storage::same ? dtype_bytes(dtype) : storage == Storage::u8 ? 1 : 2;
}

// Half precision is stored in 16 bits and computed in float32.
__attribute__((always_inline)) inline index_t compute_bytes(DType dtype) {
  return dtype == DType::f64 ? 8 : 4;
}

}  // namespace depthwise
