// What a kernel cannot compute in place: results that see the image's border, and images of integers. They
// are cut into tiles, and what a tile reads is gathered into the thread's scratch, converted and with its
// border; there it is a plain problem without padding, which a plan of its own solves.
#pragma once

#include <memory>
#include <vector>

#include "plan.hpp"

namespace depthwise {

// A rectangle of the result, cut into tiles. Rows and columns count within a class of the axis.
struct Strip {
  AxisClass h, w;
  Run rows, columns;
  index_t tile_rows = 0, tile_columns = 0;
  // Input gradient: for each tile, the positions that show it, in pieces.
  std::vector<std::vector<Run>> row_runs{}, column_runs{};

  index_t row_tiles() const { return (rows.size() + tile_rows - 1) / tile_rows; }
  index_t column_tiles() const { return (columns.size() + tile_columns - 1) / tile_columns; }
  Run tile_row(index_t i) const { return rows.part(i, tile_rows); }
  Run tile_column(index_t i) const { return columns.part(i, tile_columns); }
};

// One axis of the problem that a piece is, and the position of the whole that its first source stands for.
struct PieceAxis {
  Axis axis;
  index_t source;
};
PieceAxis forward_piece(const AxisClass& c, Run outputs);
PieceAxis grad_input_piece(const Axis& a, Run positions);

// Where each part of a thread's scratch begins, in bytes, and where the kernel's own does. `second` holds the
// second operand; `sums` and `totals` what folds onto a row of tiles and onto a tile, or, of the filter
// gradient, `sums` what its additions lost.
struct PieceLayout {
  index_t source, second, result, sums, totals, kernel;
};

struct Patches {
  Spec spec;  // of the whole problem
  const Isa* isa = nullptr;
  DType dtype{};                  // in which pieces are computed
  Run inner_rows, inner_columns;  // results that kernels compute in place
  index_t channels = 0, channel_blocks = 0;
  std::vector<Strip> strips;
  std::vector<index_t> first_tile;  // of each strip and, at the end, the number of tiles
  std::vector<Plan> plans;          // of every piece that occurs
  index_t scratch_bytes = 0;
  // Filter gradient: tasks that share a block of channels, and bytes of one block's sums.
  index_t parts = 1, sums_bytes = 0;

  index_t tiles() const { return first_tile.back(); }
  index_t tasks() const { return (spec.op == Op::grad_filter ? parts : tiles()) * channel_blocks; }
  index_t partial_bytes() const { return parts * channel_blocks * sums_bytes; }
  index_t channel_count(index_t block) const { return std::min(channels, spec.channels - block * channels); }
  PieceLayout layout(const Strip& strip, index_t block_channels) const;
  Spec piece(const Axis& h, const Axis& w, index_t block_channels) const;
  const Plan* find(const Spec& piece) const;
};

// The patches of a problem whose other results `plan` computes; null where none fits into the scratch,
// or where listing its pieces would take long.
std::shared_ptr<const Patches> make_patches(const Plan& plan, const std::string& kernel);

// Computes task `index`, or adds up the sums of a block of channels. `sums` keeps those of all tasks.
void run_patch(const Patches& patches, const Operands& operands, index_t index, std::byte* scratch,
               std::byte* sums);
void reduce_patch(const Patches& patches, const Operands& operands, index_t block, std::byte* scratch,
                  std::byte* sums);

}  // namespace depthwise
