//===- MatmulWgmma.cpp - matrix products by wgmma and TMA (sm_90a) --------===//
//
// Persistent blocks. One warpgroup copies slices of both factors to a ring in
// shared memory, as far ahead as there is room; each other warpgroup multiplies
// 64 rows of the slice with all its columns. Codes of 8 bits are summed up by the
// instruction within a slice only, which keeps fewer bits of sums than f32 has
// (DeepSeek-V3, arXiv 2412.19437, section 3.3.2). Barriers say which places of the
// ring are full and which are free, across tiles: the first slices of the next
// tile arrive while the results of this one leave, by TMA too where they can.
// Blocks of a cluster have the same columns: each copies a part of their slice to
// all, so a place is free once the warps of all blocks have left it.
//
// Fragments, and descriptors of matrices in shared memory, as in PTX ISA,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/gpu/Async.h"
#include "passes/codegen/gpu/MatmulBlock.h"
#include "passes/codegen/gpu/Wgmma.h"

namespace mlir::dsc {
namespace {

// As kProducerRegisters and kConsumerRegisters, where the copying warpgroup reads scales too.
constexpr int64_t kHelperRegisters = 80, kHelpedRegisters = 208;

// Warps beside the one that copies, which read scales. Each waits for the barriers of its own slices only, at most
// 2 * kHelpers - 1 apart (across tiles); a ring of fewer places could turn twice in between, which parities do not
// tell.
constexpr int64_t kHelpers = kWarpgroup / kWarp - 1, kFewestHelpedStages = 2 * kHelpers - 1;

// Results leave in panels of 64 rows of 128 bytes.
constexpr int64_t kPanelBytes = kGroupRows * kTileRowBytes;

class WgmmaEmitter final : MatmulBlock {
public:
  WgmmaEmitter(MatmulOp op, KernelBuilder &kernel, VariantAttr variant)
      : MatmulBlock(op, kernel, variant), codes(codeFactors(op)), elementBytes(codes ? 1 : 2),
        sliceDepth(kTileRowBytes / elementBytes), blockRows(variant.getWorkgroup()[0]),
        blockColumns(variant.getWorkgroup()[1]), stages(variant.getUnroll()), groups(blockRows / kGroupRows),
        cluster(variant.getCluster()), sharedColumns(blockColumns / cluster), full{kernel, {}}, empty{kernel, {}} {
    int64_t taken = kBarrierBytes + stages * (stageBytes() + scaleBytes());
    places = placesOfPanels((kMostSharedBytes - taken) / (groups * kPanelBytes));
    sharedBytes = taken + groups * places * kPanelBytes;
  }

  void run() {
    Value memory = dynamicSharedMemory(kernel, sharedBytes);
    ring = behind(kernel, memory, word(kBarrierBytes));
    panels = behind(kernel, ring, word(stages * stageBytes()));
    scaleRing = behind(kernel, panels, word(groups * places * kPanelBytes));
    full.first = memory;
    empty.first = behind(kernel, memory, word(stages * 8));
    maps[0] = mapOf(false);
    maps[1] = mapOf(true);
    if (places)
      resultMap = mapOfResult();
    slices = (depth + (sliceDepth - 1)) / sliceDepth;
    kernel.ifThen(thread == 0, [&] {
      for (int64_t i = 0; i < stages; ++i) {
        full.init(word(i), scaleBytes() ? 2 : 1);
        empty.init(word(i), groups * (kWarpgroup / kWarp) * cluster);
      }
      publishBarriers(kernel);
    });
    if (cluster > 1)
      clusterBarrier(kernel);
    else
      barrier(kernel);

    Int group = thread / kWarpgroup;
    kernel.ifThen(group == groups, [&] {
      setRegisters(kernel, scaleBytes() ? kHelperRegisters : kProducerRegisters, /*more=*/false);
      kernel.ifThen(thread == groups * kWarpgroup, [&] { copyTiles(); });
      if (scaleBytes()) {
        Int helper = (thread - groups * kWarpgroup) / kWarp;
        kernel.ifThen(word(0) < helper, [&] { copyScales(helper - 1); });
      }
    });
    kernel.ifThen(group < groups, [&] {
      setRegisters(kernel, scaleBytes() ? kHelpedRegisters : kConsumerRegisters, /*more=*/true);
      multiplyTiles(group);
    });
    if (cluster > 1)
      clusterBarrier(kernel); // others may still arrive at this block's barriers
  }

private:
  int64_t stageBytes() const { return (blockRows + blockColumns) * kTileRowBytes; }
  /// Whether the lines of a factor have a scale for each of several parts.
  bool scalesChange(bool rhs) const { return codes && codes->format(rhs).block != staticDepth(); }
  int64_t scaleBytes() const { return scalesChange(false) || scalesChange(true) ? (blockRows + blockColumns) * 4 : 0; }
  Int scaleBegin(Int stage, bool rhs) { return stage * scaleBytes() + (rhs ? blockRows * 4 : 0); }

  Value factorTensor(bool rhs) { return codes ? codes->side(rhs).getBlocks() : Value(rhs ? op.getRhs() : op.getLhs()); }
  FloatType factorType(bool rhs) {
    if (!codes)
      return type;
    MLIRContext *context = op.getContext();
    bool wide = codes->format(rhs).codes == BlockCodes::E4M3;
    return wide ? cast<FloatType>(Float8E4M3FNType::get(context)) : cast<FloatType>(Float8E5M2Type::get(context));
  }

  /// How many panels of results a warpgroup has room for, of at most `most`: they take turns evenly in every tile. None
  /// where TMA cannot write the results.
  int64_t placesOfPanels(int64_t most) const {
    if (kernel.outputs.size() != 1)
      return 0;
    auto buffer = cast<MemRefType>(kernel.outputs[0].second.getType());
    auto columns = dyn_cast<AffineConstantExpr>(shape.columns);
    if (!isa<FloatType>(buffer.getElementType()) || !buffer.getLayout().isIdentity() || !columns)
      return 0;
    int64_t bytes = buffer.getElementTypeBitWidth() / 8, tileBytes = blockColumns * bytes;
    if (bytes < 2 || bytes > 4 || columns.getValue() * bytes % kChunkBytes || tileBytes % kTileRowBytes)
      return 0;
    int64_t count = tileBytes / kTileRowBytes;
    while (most > 0 && count % most)
      --most;
    return std::max<int64_t>(most, 0);
  }
  int64_t resultBytes() const {
    return cast<MemRefType>(kernel.outputs[0].second.getType()).getElementTypeBitWidth() / 8;
  }
  Value mapOfResult() {
    AffineExpr lines = elementCount(shape.rows, op.getContext()), bytes = shape.columns * resultBytes();
    return mapOf(kernel.outputs[0].second,
                 {{shape.columns, lines}, {bytes}, {kTileRowBytes / resultBytes(), kGroupRows}});
  }
  Value mapOf(bool rhs) {
    AffineExpr lines = rhs ? shape.columns : elementCount(shape.rows, op.getContext()),
               bytes = shape.depth * elementBytes;
    return mapOf(kernel.buffers.lookup(factorTensor(rhs)),
                 {{shape.depth, lines}, {bytes}, {sliceDepth, rhs ? sharedColumns : blockRows}});
  }
  /// With the batch as one more dimension of the map, if there is one.
  Value mapOf(Value buffer, TensorMap map) {
    if (!shape.batch.empty()) {
      map.strides.push_back(map.sizes[1] * map.strides[0]);
      map.sizes.push_back(elementCount(shape.batch, op.getContext()));
      map.box.push_back(1);
    }
    return tensorMapOf(kernel, buffer, map);
  }
  /// Where a box of such a map begins.
  SmallVector<Value> boxAt(Int first, Int line) {
    SmallVector<Value> at{first.asI32(), line.asI32()};
    if (!shape.batch.empty())
      at.push_back(batchNumber.asI32());
    return at;
  }

  /// Walks over this block's tiles. `slice` counts all slices so far: `body` gets those of a tile.
  void forTiles(function_ref<void(Int)> body) {
    Int blocks = blockCount(kernel);
    Int first{&kernel, kernel.firstWorkgroup}, count{&kernel, kernel.endWorkgroup};
    Int turns = (count - first + (blocks - 1)) / blocks;
    kernel.forLoop(constant(0), turns, 1, [&](Value turn) {
      Int number{&kernel, turn};
      locate(first + number * blocks);
      body(number * slices);
    });
  }
  Int place(Int slice) { return (slice % stages).asI32(); }
  Int parity(Int slice) { return (slice / stages % 2).asI32(); }

  void copyTiles() {
    forTiles([&](Int before) {
      kernel.forLoop(constant(0), slices, 1, [&](Value i) {
        Int slice{&kernel, i}, number = before + slice, where = place(number);
        empty.wait(where, parity(number) ^ 1);
        full.expect(where, stageBytes());
        Value done = full.at(where);
        copyBox(kernel, behind(kernel, ring, stageBegin(where, false)), maps[0], boxAt(slice * sliceDepth, firstRow),
                done);
        Int part = cluster > 1 ? blockOfCluster(kernel) * sharedColumns : word(0);
        copyBox(kernel, behind(kernel, ring, stageBegin(where, true) + part * kTileRowBytes), maps[1],
                boxAt(slice * sliceDepth, firstColumn + part.asIndex()), done, cluster);
      });
    });
  }
  /// Three warps take a slice each, as reading its scales takes longer than multiplying it.
  void copyScales(Int helper) {
    Int lane = thread % kWarp;
    forTiles([&](Int before) {
      kernel.forLoop(helper.asIndex(), slices, kHelpers, [&](Value i) {
        Int slice{&kernel, i}, number = before + slice, where = place(number);
        SmallVector<std::pair<Int, Value>> read; // the place of a scale, and the scale
        for (bool rhs : {false, true})
          for (int64_t line = 0; scalesChange(rhs) && line < (rhs ? blockColumns : blockRows); line += kWarp) {
            Int mine = (lane + line).asIndex();
            read.push_back({scaleBegin(where, rhs) + (lane + line) * 4,
                            scaleOf(rhs, (rhs ? firstColumn : firstRow) + mine, slice)});
          }
        empty.wait(where, parity(number) ^ 1);
        for (auto [at, scale] : read)
          LLVM::StoreOp::create(kernel, scale, behind(kernel, scaleRing, at));
        syncWarp(kernel);
        kernel.ifThen(lane == 0, [&] { full.arrive(where); });
      });
    });
  }

  /// What a line's codes of a slice are multiplied with; of lines behind the last one, what those of the last are.
  Value scaleOf(bool rhs, Int line, Int slice) {
    Int last = (rhs ? columns : rows) - 1;
    Int part = scalesChange(rhs) ? slice / (codes->format(rhs).block / sliceDepth) : constant(0);
    return kernel.pull(codes->side(rhs).getScales(), pullIndex(rhs, min(line, last), Index::uniform(part)));
  }

  Int stageBegin(Int stage, bool rhs) { return stage * stageBytes() + (rhs ? blockRows * kTileRowBytes : 0); }

  void multiplyTiles(Int group) {
    Int warp = thread / kWarp % (kWarpgroup / kWarp), lane = thread % kWarp;
    rowOfGroup = warp * 16 + lane / 4;
    forTiles([&](Int before) {
      row = firstRow + (group * kGroupRows + rowOfGroup).asIndex();
      column = firstColumn + (lane.asIndex() % 4) * 2;
      Value start = wgmmaZero(kernel, blockColumns);
      Value sums = kernel.forLoop(constant(0), slices, 1, start, [&](Value i, ValueRange carried) {
        Int slice{&kernel, i}, number = before + slice, where = place(number);
        full.wait(where, parity(number));
        Value next = multiplySlice(group, where, codes ? Value() : carried[0]);
        if (codes)
          next = scaled(next, scalesOfSlice(group * kGroupRows + rowOfGroup, lane % 4 * 2, where), carried[0]);
        if (scaleBytes())
          syncWarp(kernel); // all lanes have read their scales
        leavePlace(lane, where);
        return SmallVector<Value>{next};
      })[0];
      if (codes)
        sums = scaled(sums, scalesOfLines(), Value());
      finishTile(group, sums);
    });
    if (places)
      kernel.ifThen(thread % kWarpgroup == 0, [&] { waitForReads(kernel, 0); });
  }

  /// Says that this warp has read a place of the ring, to all who write it.
  void leavePlace(Int lane, Int where) {
    if (cluster > 1)
      return kernel.ifThen(lane < cluster, [&] { empty.arriveAt(where, lane); });
    kernel.ifThen(lane == 0, [&] { empty.arrive(where); });
  }

  void finishTile(Int group, Value sums) {
    SmallVector<Index> at[] = {rowIndex(row), rowIndex(row + 8)};
    int64_t width = places ? kTileRowBytes / resultBytes() : blockColumns;
    for (int64_t first = 0; first < blockColumns; first += width) {
      if (places)
        openPanel(group, first / width % places);
      for (int64_t half : {0, 1})
        for (int64_t j = first; j < first + width; j += 8) {
          auto sum = [&](int64_t n) { return LLVM::ExtractValueOp::create(kernel, sums, j / 2 + half * 2 + n); };
          half8 = half, columnOfPanel = j - first;
          finishPair(at[half], row + half * 8, column + j, sum(0), sum(1));
        }
      if (places)
        closePanel(group, first);
    }
  }

  void openPanel(Int group, int64_t number) {
    kernel.ifThen(thread % kWarpgroup == 0, [&] { waitForReads(kernel, places - 1); });
    barrier(kernel, group + 1, kWarpgroup);
    panel = behind(kernel, panels, (group * places + number) * kPanelBytes);
  }
  /// Two adjacent results: into the open panel, under the swizzle of its map.
  void leave(ArrayRef<Index> place) override {
    if (!places)
      return MatmulBlock::leave(place);
    Value results = kernel.splat(kernel.pullOutputs(place)[0]);
    Int byte = (thread % 4 * 2 + columnOfPanel) * resultBytes(), line = rowOfGroup + half8 * 8;
    Int at = swizzled(line, byte / kChunkBytes) + byte % kChunkBytes;
    LLVM::StoreOp::create(kernel, results, behind(kernel, panel, at), 2 * resultBytes());
  }
  void closePanel(Int group, int64_t first) {
    fenceAsync(kernel);
    barrier(kernel, group + 1, kWarpgroup);
    kernel.ifThen(thread % kWarpgroup == 0, [&] {
      copyBoxBack(kernel, panel, resultMap, boxAt(firstColumn + first, firstRow + (group * kGroupRows).asIndex()));
    });
  }

  Value multiplySlice(Int group, Int stage, Value sums) {
    if (sums)
      sums = wgmmaFence(kernel, sums, blockColumns);
    else
      wgmmaFence(kernel);
    Int left = stageBegin(stage, false) + group * kGroupRows * kTileRowBytes, right = stageBegin(stage, true);
    constexpr int64_t kStep = 32; // bytes of a row that one instruction multiplies
    for (int64_t k = 0; k < kTileRowBytes; k += kStep)
      sums = wgmma(kernel, factorType(false), factorType(true), sums, matrixAlongRows(kernel, ring, left + k),
                   matrixAlongRows(kernel, ring, right + k), blockColumns);
    wgmmaWait(kernel);
    return sums;
  }

  /// What this thread's rows and columns are multiplied with; empty where that is not done here.
  struct Scales {
    SmallVector<Value> rows, columns;
  };

  /// Of a slice, from shared memory.
  Scales scalesOfSlice(Int row, Int column, Int stage) {
    Scales result;
    auto load = [&](bool rhs, Int line, Type type) {
      return LLVM::LoadOp::create(kernel, type, behind(kernel, scaleRing, scaleBegin(stage, rhs) + line * 4));
    };
    if (scalesChange(false))
      result.rows = {load(false, row, accType), load(false, row + 8, accType)};
    for (int64_t j = 0; scalesChange(true) && j < blockColumns; j += 8) {
      Value pair = load(true, column + j, VectorType::get({2}, accType));
      for (int64_t i : {0, 1})
        result.columns.push_back(vector::ExtractOp::create(kernel, pair, i));
    }
    return result;
  }

  /// Those that do not change along a line.
  Scales scalesOfLines() {
    Scales result;
    if (!scalesChange(false))
      result.rows = {scaleOf(false, row, constant(0)), scaleOf(false, row + 8, constant(0))};
    for (int64_t j = 0; !scalesChange(true) && j < blockColumns; j += 8)
      for (int64_t i : {0, 1})
        result.columns.push_back(scaleOf(true, column + (j + i), constant(0)));
    return result;
  }

  /// before + sums * scales.
  Value scaled(Value sums, const Scales &scales, Value before) {
    SmallVector<Value> all = wgmmaSums(kernel, sums, blockColumns), old;
    if (before)
      old = wgmmaSums(kernel, before, blockColumns);
    for (auto [i, sum] : llvm::enumerate(all)) {
      Value factor = scales.rows.empty() ? Value() : scales.rows[i / 2 % 2];
      if (!scales.columns.empty()) {
        Value other = scales.columns[i / 4 * 2 + i % 2];
        factor = factor ? Value(arith::MulFOp::create(kernel, factor, other)) : other;
      }
      if (!before)
        sum = factor ? Value(arith::MulFOp::create(kernel, sum, factor)) : sum;
      else
        sum = factor ? Value(math::FmaOp::create(kernel, sum, factor, old[i]))
                     : Value(arith::AddFOp::create(kernel, sum, old[i]));
    }
    return wgmmaPack(kernel, all);
  }

  std::optional<CodeFactors> codes;
  int64_t elementBytes, sliceDepth;
  int64_t blockRows, blockColumns, stages, groups, cluster;
  int64_t sharedColumns;       // of a block's, that it copies for its cluster
  int64_t places, sharedBytes; // panels of results of a warpgroup
  Barriers full, empty;
  Value ring, panels, scaleRing, maps[2], resultMap;
  Int slices, row, column, rowOfGroup; // of this thread's first sum
  // Of the results that leave now.
  Value panel;
  int64_t half8 = 0, columnOfPanel = 0;
};

} // namespace

LogicalResult emitMatmulWgmma(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  ArrayRef<int64_t> tile = variant.getTile(), block = variant.getWorkgroup(), threads = variant.getThreads();
  if (failed(needHopper(op, variant)))
    return failure();
  std::optional<CodeFactors> codes = codeFactors(op);
  bool eight = variant.getInstruction() == "wgmma8";
  if (eight != codes.has_value())
    return op.emitOpError(eight ? "instruction \"wgmma8\" needs factors of 8-bit floats under scales"
                                : "factors of 8-bit floats under scales need the instruction \"wgmma8\"");
  Value lhs = codes ? Value(codes->lhs.getBlocks()) : Value(op.getLhs());
  Value rhs = codes ? Value(codes->rhs.getBlocks()) : Value(op.getRhs());
  bool stored = kernel.buffers.contains(lhs) && kernel.buffers.contains(rhs);
  if (codes && !stored)
    return op.emitOpError("instruction \"wgmma8\" needs codes that lie in memory, not computed in the same dispatch");
  if (!stored || (!codes && !canUseWgmma(op)))
    return op.emitOpError("instruction \"wgmma\" needs factors of bf16 or f16 whose lines along the reduction lie in "
                          "memory, a multiple of eight elements long");
  bool fits = threads.size() == 2 && threads[1] == kWarpgroup && tile[0] == kGroupRows && block[0] % kGroupRows == 0 &&
              block[0] / kGroupRows + 1 == threads[0] && threads[0] <= 3 && tile[1] == block[1] && block[1] % 8 == 0 &&
              block[1] <= (codes ? 128 : 256) && (!codes || block[1] % kWarp == 0);
  int64_t sliceDepth = kTileRowBytes / (codes ? 1 : 2), fewestStages = codes ? kFewestHelpedStages : 2;
  fits &= block[1] % (8 * variant.getCluster()) == 0;
  if (!fits || variant.getDepth() != sliceDepth || variant.getUnroll() < fewestStages)
    return op.emitOpError("instruction \"")
           << variant.getInstruction()
           << "\" needs tiles of 64 rows and the workgroup's columns, up to 256 (of codes up to 128 in multiples of "
              "32), a multiple of 8 for each block of the cluster, one tile for each warpgroup but one, at most two; "
              "depth "
           << sliceDepth << " and at least " << fewestStages << " stages, got: " << variant;
  kernelFunction(kernel)->setAttr(kBlocksPerSmAttr, kernel.getI64IntegerAttr(1));
  WgmmaEmitter(op, kernel, variant).run();
  return success();
}

} // namespace mlir::dsc
