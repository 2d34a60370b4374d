//===- MatmulMma.cpp - matrix products by mma.sync ------------------------===//
//
// A block copies slices of both factors to shared memory, several ahead of the
// one that its warps multiply (cp.async; what cannot be copied as it lies is
// computed there). Fragments as in PTX ISA, "Matrix Fragments for
// mma.m16n8k16 with floating point type".
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/codegen/gpu/MatmulBlock.h"
#include "passes/codegen/gpu/Mma.h"

namespace mlir::dsc {
namespace {

constexpr int64_t kDepth = kTileRowBytes / 2; // elements of a slice along the reduction

class MmaEmitter : MatmulBlock {
public:
  MmaEmitter(MatmulOp op, KernelBuilder &kernel, VariantAttr variant)
      : MatmulBlock(op, kernel, variant), tileRows(variant.getTile()[0]), tileColumns(variant.getTile()[1]),
        blockRows(variant.getWorkgroup()[0]), blockColumns(variant.getWorkgroup()[1]), stages(variant.getUnroll()),
        threads(variant.getThreads()[0] * kWarp) {}

  void run() {
    locate({&kernel, kernel.workgroup});
    memory = dynamicSharedMemory(kernel, stages * stageBytes());
    factors[0] = factor(false);
    factors[1] = factor(true);
    lane = thread % kWarp;
    Int warp = thread / kWarp;
    int64_t across = blockColumns / tileColumns;
    warpRow = warp / across * tileRows;
    warpColumn = warp % across * tileColumns;

    Int slices = (depth + (kDepth - 1)) / kDepth;
    for (int64_t i = 0; i + 1 < stages; ++i) {
      Int slice = constant(i);
      kernel.ifThen(slice < slices, [&] { copySlice(slice, word(i)); });
      commitChunks(kernel);
    }
    SmallVector<Value> sums(tileRows / 16 * (tileColumns / 8) * 4, kernel.zero(accType));
    sums = kernel.forLoop(constant(0), slices, 1, sums, [&](Value i, ValueRange carried) {
      Int slice{&kernel, i};
      waitForChunks(kernel, stages - 2);
      barrier(kernel); // all see the slice, and none reads the one whose place is filled next
      Int next = slice + (stages - 1);
      kernel.ifThen(next < slices, [&] { copySlice(next, (next % stages).asI32()); });
      commitChunks(kernel);
      return multiplySlice((slice % stages).asI32(), carried);
    });
    finishTile(sums);
  }

private:
  int64_t stageBytes() const { return (blockRows + blockColumns) * kTileRowBytes; }
  Int stageBegin(Int stage, bool rhs) { return stage * stageBytes() + (rhs ? blockRows * kTileRowBytes : 0); }

  /// Every thread copies chunks of rows that are a multiple of eight apart: their place in the swizzle is the same.
  void copySlice(Int slice, Int stage) {
    for (bool rhs : {false, true}) {
      const Factor &from = factors[rhs];
      int64_t lines = rhs ? blockColumns : blockRows, turns = lines * kTileChunks / threads;
      Int chunk = thread % kTileChunks, line = thread / kTileChunks;
      Int k = slice * kDepth + chunk.asIndex() * 8;
      Int place = stageBegin(stage, rhs) + swizzled(line, chunk);
      for (int64_t i = 0; i < turns; ++i) {
        int64_t step = i * threads / kTileChunks;
        Value target = behind(kernel, memory, place + step * kTileRowBytes);
        Int number = from.first + (line.asIndex() + step);
        if (from.direct)
          copy(from, number, k, target);
        else
          LLVM::StoreOp::create(kernel, pullChunk(rhs, number, k), target, /*alignment=*/kChunkBytes);
      }
    }
  }

  void copy(const Factor &from, Int line, Int k, Value target) {
    Value inside = line < from.lines;
    if (*staticDepth() % kDepth != 0)
      inside = arith::AndIOp::create(kernel, inside, k < depth);
    copyChunk(kernel, target, from.pointer, (line * depth + k) * 2, Int{&kernel, inside});
  }

  SmallVector<Value> multiplySlice(Int stage, ValueRange carried) {
    SmallVector<Value> sums(carried);
    Int low = lane % 8, half = (lane / 8) % 2, quarter = lane / 16;
    // Rows 0-15 at one chunk, then at the next; of columns 0-7 both chunks, then of 8-15.
    Int rowPlace = stageBegin(stage, false) + (warpRow + half * 8 + low) * kTileRowBytes;
    Int columnPlace = stageBegin(stage, true) + (warpColumn + quarter * 8 + low) * kTileRowBytes;
    int64_t high = tileRows / 16, wide = tileColumns / 8;
    for (int64_t step = 0; step < kDepth / 16; ++step) {
      Int rowChunk = ((quarter + 2 * step) ^ low) * kChunkBytes, columnChunk = ((half + 2 * step) ^ low) * kChunkBytes;
      SmallVector<SmallVector<Value>> left, right;
      for (int64_t i = 0; i < high; ++i)
        left.push_back(loadMatrices(kernel, behind(kernel, memory, rowPlace + rowChunk + i * 16 * kTileRowBytes)));
      for (int64_t j = 0; j < wide; j += 2) {
        Value place = behind(kernel, memory, columnPlace + columnChunk + j * 8 * kTileRowBytes);
        SmallVector<Value> both = loadMatrices(kernel, place);
        right.push_back({both[0], both[1]});
        right.push_back({both[2], both[3]});
      }
      for (int64_t i = 0; i < high; ++i)
        for (int64_t j = 0; j < wide; ++j)
          multiplyFragments(kernel, type, left[i], right[j], MutableArrayRef(sums).slice((i * wide + j) * 4, 4));
    }
    return sums;
  }

  void finishTile(ArrayRef<Value> sums) {
    Int row = firstRow + (warpRow + lane / 4).asIndex();
    Int column = firstColumn + warpColumn.asIndex() + (lane.asIndex() % 4) * 2;
    int64_t wide = tileColumns / 8;
    for (int64_t i = 0; i < tileRows / 8; ++i) {
      Int here = row + i * 8;
      SmallVector<Index> at = rowIndex(here);
      for (int64_t j = 0; j < wide; ++j) {
        ArrayRef<Value> four = sums.slice((i / 2 * wide + j) * 4 + i % 2 * 2, 2);
        finishPair(at, here, column + j * 8, four[0], four[1]);
      }
    }
  }

  int64_t tileRows, tileColumns, blockRows, blockColumns, stages, threads;
  Value memory;
  Factor factors[2];
  Int lane, warpRow, warpColumn; // i32
};

} // namespace

LogicalResult emitMatmulMma(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  ArrayRef<int64_t> tile = variant.getTile(), block = variant.getWorkgroup(), threads = variant.getThreads();
  if (!matrixFactorType(op))
    return op.emitOpError("instruction \"mma\" needs factors of bf16 or f16, or a precision that allows to round them");
  bool fits = threads.size() == 2 && threads[1] == kWarp && tile[0] % 16 == 0 && tile[1] % 16 == 0 &&
              block[0] % tile[0] == 0 && block[1] % tile[1] == 0 &&
              block[0] / tile[0] * (block[1] / tile[1]) == threads[0];
  if (!fits)
    return op.emitOpError(
               "instruction \"mma\" needs tiles of multiples of 16 rows and columns, one for each warp of the "
               "workgroup, got: ")
           << variant;
  int64_t perTurn = threads[0] * kWarp / kTileChunks;
  if (variant.getDepth() != kDepth || variant.getUnroll() < 2 || block[0] % perTurn != 0 || block[1] % perTurn != 0)
    return op.emitOpError("instruction \"mma\" needs depth ")
           << kDepth << ", two or more stages, and rows and columns in multiples of " << perTurn
           << ", got: " << variant;
  MmaEmitter(op, kernel, variant).run();
  return success();
}

} // namespace mlir::dsc
