// What one call of a kernel computes: one batch item, one pair of axis classes, a block of rows, columns and
// units.
#pragma once

#include "axis_class.hpp"
#include "fft_axis.hpp"
#include "spec.hpp"

namespace depthwise {

// Channels travel in lines of 64 bytes of the compute type, whatever the vector width.
inline constexpr index_t kLineBytes = 64;

// Addresses at this distance fall into the same set of the first-level cache: pixels, or planes, a multiple
// of it apart evict each other, and half or a quarter of it apart they have a half or a quarter of the cache.
inline constexpr index_t kWayBytes = 4096;

// Pixels of a tile of the direct kernel that takes all vectors of a line, and of a narrow one whose vectors
// are lines, unless they are of one pixel.
inline constexpr int kLinePixels = 4, kFewPixels = 2;

// Where vectors of channels begin: at channel 0, or some channels in, where the image's cache lines do, or
// the result's.
enum class Fit { channels, image, result };

// The shape of a kernel's work, chosen by the plan. A unit is a line of channels or an output plane.
struct Tile {
  int pixels = 1;        // line kernels: outputs of a row that one tile holds in registers
  int rows_at_once = 1;  // output rows computed from one state of the packed rows
  int period = 1;        // flat kernels: weight vectors before they repeat
  index_t rows = 1;      // rows of a task
  index_t columns = 1;   // columns of a task
  index_t units = 1;     // units of a task
  int fetch_ahead = 0;   // tiles (separable: blocks) between what is computed and what is fetched; 0: nothing
  bool stream = false;   // direct kernel, and planes: results go past the caches
  bool copies = false;   // direct kernel: rows are copied to where pixels do not evict each other
  bool phases = false;   // direct kernel: a task computes all classes of rows and columns
  bool all_columns = false;  // direct kernel: a task computes all classes of columns, one after the other
  bool all_rows = false;     // planes: a task computes all classes of rows, one after the other
  bool whole_lines = false;  // direct kernel: tiles of kLinePixels, or of one, and of all vectors of a line
  Fit fit = Fit::channels;   // direct kernel: where vectors of channels begin
  index_t images = 1;  // filter gradient: images of a block, all of whose rows it has when there are several
  index_t channels = 1;  // separable kernel: channels of a unit
  FftAxis fft_h, fft_w;  // FFT kernels: the transforms of a tile; that of `fft_w` always is one
  bool turned = false;   // FFT kernels: `fft_w` lies along the image's columns
  int group = 1;         // FFT kernels: tiles side by side that share the lanes, channels adjacent in each
};

// The factors of a filter of rank 1, in the compute type: columns [kh, outputs] and rows [kw, outputs], where
// `outputs` is 1 when all planes are equal.
struct FactorView {
  const void* column;
  const void* row;
  bool shared;
};

class Prepared;

// Of a separable kernel `b` is a FactorView, else the array.
struct Operands {
  const void* a;
  const void* b;
  const void* bias;
  void* out;
  const Prepared* prepared = nullptr;  // what is known of the filter `b`, if it is
};

struct Task {
  const Spec* spec;
  const Tile* tile;
  Operands operands;
  std::byte* scratch;
  AxisClass h, w;
  index_t batch;
  // Filter gradient: the blocks of rows that this task sums, and where its sums go, unless they are the
  // result. With `reduce`, the task adds up the sums of `parts` tasks of its units instead.
  index_t block_begin, block_end, parts;
  index_t sums_offset, sums_step;  // bytes: where this part's sums are kept, and from part to part
  std::byte* sums;                 // where part 0 of unit 0 is kept
  bool reduce;
  // What was computed from the filter beforehand, for operands like these, or null; with `prepare_to`, the
  // task computes it for its units, and for operands whose vectors begin `prepare_lead` channels in.
  const std::byte* prepared;
  std::byte* prepare_to;
  index_t prepare_lead;
  index_t row_begin, row_end, column_begin, column_end, unit_begin, unit_end;
};

using KernelFunction = void (*)(const Task&);

}  // namespace depthwise
