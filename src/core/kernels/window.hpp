// What the tiles with channels in the vector lanes compute, and the loops for it, which several kernels
// share.
#pragma once

#include "../simd.hpp"
#include "../task.hpp"
#include "instance.hpp"

namespace depthwise {

// What the tiles of a block of output rows and channels share. Source and result are stored as S, sums and
// weights are of the type that it computes in. Output column v reads input position stride*v + spacing*k for
// its tap k; those in [inside_begin, inside_end) exist, pixel_step elements apart.
template <class S>
struct Window {
  index_t taps, stride, spacing, inside_begin, inside_end, pixel_step;
  index_t row_taps, row_stride;
  // Of vector v of channels, tap k of kernel row t is at v*weight_vector + t*weight_row + k*weight_step.
  const simd::compute_t<S>* weights;
  index_t weight_vector, weight_row, weight_step;
  index_t out_step, out_row;      // elements from an output column to the next, and from a row to the next
  index_t columns;                // of the output
  index_t channels;               // at least one vector of them
  index_t fetch_ahead;            // how many tiles ahead of theirs rows are fetched; 0 for not at all
  bool stream;                    // write whole tiles past the caches
  bool whole_lines = false;       // a tile takes all vectors of a line; there are whole lines only
  index_t first_vector = 0;       // where the first vector of channels begins: see inner_channel()
  index_t pad = 0;                // of phases that are computed together: see phase_tile.hpp
  const void* repeats = nullptr;  // where source channels are repeated: the Repeat of every vector
  // What becomes of sums; where they are only stored, `finishes` is false.
  bool finishes = false;
  const S* bias = nullptr;
  Activation activation = Activation::none;
};

// Where rows of a tile start: table[t] is input position 0 under kernel row t of the first output row, for
// begin <= t < end; the second output row starts row_stride further. out is output column 0.
template <class S>
struct WindowRows {
  const S* const* table;
  index_t begin, end;
  S* out;
};

// Computes output columns [begin, end).
template <class S>
using WindowFunction = void (*)(const Window<S>&, const WindowRows<S>&, index_t begin, index_t end);

// The loops for one output row, and those for two and four at once, or null where they do not pay.
template <class S>
struct WindowFunctions {
  WindowFunction<S> one, pair, four = nullptr;
};

}  // namespace depthwise

// The loops where source channels are not repeated, and those where they are, compiled once for all sources
// of an ISA. `pixels` is one of the widths that the plan may choose. Those of phases are for all column
// phases of a strided gradient together, or null.
depthwise::WindowFunctions<float> DEPTHWISE_SYMBOL(windows)(const depthwise::Window<float>& b, int pixels);
depthwise::WindowFunctions<double> DEPTHWISE_SYMBOL(windows)(const depthwise::Window<double>& b, int pixels);
depthwise::WindowFunctions<float> DEPTHWISE_SYMBOL(repeated_windows)(const depthwise::Window<float>& b,
                                                                     int pixels);
depthwise::WindowFunctions<double> DEPTHWISE_SYMBOL(repeated_windows)(const depthwise::Window<double>& b,
                                                                      int pixels);
depthwise::WindowFunction<float> DEPTHWISE_SYMBOL(phases)(const depthwise::Window<float>& b, int pixels);
depthwise::WindowFunction<double> DEPTHWISE_SYMBOL(phases)(const depthwise::Window<double>& b, int pixels);
