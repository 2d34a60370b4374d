//===- MatmulWgmma.cpp - matrix products by wgmma and TMA (sm_90a) --------===//
//
// Persistent blocks. One warpgroup copies slices of both factors to a ring in
// shared memory, as far ahead as there is room; each other warpgroup multiplies
// 64 rows of the slice with all its columns. Barriers say which places of the
// ring are full and which are free, across tiles: the first slices of the next
// tile arrive while the results of this one leave.
//
// Fragments, and descriptors of matrices in shared memory, as in PTX ISA,
// "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions".
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "passes/codegen/gpu/Async.h"
#include "passes/codegen/gpu/MatmulBlock.h"
#include "passes/codegen/gpu/Wgmma.h"

namespace mlir::dsc {
namespace {

constexpr int64_t kDepth = kTileRowBytes / 2; // elements of a slice along the reduction

class WgmmaEmitter : MatmulBlock {
public:
  WgmmaEmitter(MatmulOp op, KernelBuilder &kernel, VariantAttr variant)
      : MatmulBlock(op, kernel, variant), blockRows(variant.getWorkgroup()[0]), blockColumns(variant.getWorkgroup()[1]),
        stages(variant.getUnroll()), groups(blockRows / kGroupRows), full{kernel, {}}, empty{kernel, {}} {}

  void run() {
    Value memory = dynamicSharedMemory(kernel, kBarrierBytes + stages * stageBytes());
    ring = behind(kernel, memory, word(kBarrierBytes));
    full.first = memory;
    empty.first = behind(kernel, memory, word(stages * 8));
    maps[0] = mapOf(false);
    maps[1] = mapOf(true);
    slices = (depth + (kDepth - 1)) / kDepth;
    kernel.ifThen(thread == 0, [&] {
      for (int64_t i = 0; i < stages; ++i) {
        full.init(word(i), 1);
        empty.init(word(i), groups * (kWarpgroup / kWarp));
      }
      NVVM::FenceMbarrierInitOp::create(kernel);
    });
    barrier(kernel);

    Int group = thread / kWarpgroup;
    kernel.ifThen(group == groups, [&] {
      setRegisters(kernel, kProducerRegisters, /*more=*/false);
      kernel.ifThen(thread == groups * kWarpgroup, [&] { copyTiles(); });
    });
    kernel.ifThen(group < groups, [&] {
      setRegisters(kernel, kConsumerRegisters, /*more=*/true);
      multiplyTiles(group);
    });
  }

private:
  int64_t stageBytes() const { return (blockRows + blockColumns) * kTileRowBytes; }

  Value mapOf(bool rhs) {
    MLIRContext *context = op.getContext();
    AffineExpr lines = rhs ? shape.columns : elementCount(shape.rows, context), bytes = shape.depth * 2;
    TensorMap map{{shape.depth, lines}, {bytes}, {kDepth, rhs ? blockColumns : blockRows}};
    if (!shape.batch.empty()) {
      map.sizes.push_back(elementCount(shape.batch, context));
      map.strides.push_back(lines * bytes);
      map.box.push_back(1);
    }
    return tensorMapOf(kernel, kernel.buffers.lookup(rhs ? op.getRhs() : op.getLhs()), map);
  }

  /// Walks over this block's tiles. `slice` counts all slices so far: `body` gets those of a tile.
  void forTiles(function_ref<void(Int)> body) {
    Int blocks = Int{&kernel, NVVM::GridDimXOp::create(kernel, kernel.getI32Type())}.asIndex();
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
        Value done = full.at(where), k = (slice * kDepth).asI32();
        for (bool rhs : {false, true}) {
          SmallVector<Value> at{k, (rhs ? firstColumn : firstRow).asI32()};
          if (!shape.batch.empty())
            at.push_back(batchNumber.asI32());
          copyBox(kernel, behind(kernel, ring, stageBegin(where, rhs)), maps[rhs], at, done);
        }
      });
    });
  }
  Int stageBegin(Int stage, bool rhs) { return stage * stageBytes() + (rhs ? blockRows * kTileRowBytes : 0); }

  void multiplyTiles(Int group) {
    Int warp = thread / kWarp % (kWarpgroup / kWarp), lane = thread % kWarp;
    forTiles([&](Int before) {
      Value start = wgmmaZero(kernel, blockColumns);
      Value sums = kernel.forLoop(constant(0), slices, 1, start, [&](Value i, ValueRange carried) {
        Int number = before + Int{&kernel, i}, where = place(number);
        full.wait(where, parity(number));
        Value next = multiplySlice(group, where, carried[0]);
        kernel.ifThen(lane == 0, [&] { empty.arrive(where); });
        return SmallVector<Value>{next};
      })[0];
      Int row = firstRow + (group * kGroupRows + warp * 16 + lane / 4).asIndex();
      Int column = firstColumn + (lane.asIndex() % 4) * 2;
      for (int64_t half : {0, 1}) {
        Int here = row + half * 8;
        SmallVector<Index> at = rowIndex(here);
        for (int64_t j = 0; j < blockColumns; j += 8) {
          auto sum = [&](int64_t n) { return LLVM::ExtractValueOp::create(kernel, sums, j / 2 + half * 2 + n); };
          finishPair(at, here, column + j, sum(0), sum(1));
        }
      }
    });
  }

  Value multiplySlice(Int group, Int stage, Value sums) {
    sums = wgmmaFence(kernel, sums, blockColumns);
    Int left = stageBegin(stage, false) + group * kGroupRows * kTileRowBytes, right = stageBegin(stage, true);
    for (int64_t k = 0; k < kDepth; k += 16)
      sums = wgmma(kernel, type, sums, matrixAlongRows(kernel, ring, left + k * 2),
                   matrixAlongRows(kernel, ring, right + k * 2), blockColumns);
    wgmmaWait(kernel);
    return sums;
  }

  int64_t blockRows, blockColumns, stages, groups;
  Barriers full, empty;
  Value ring, maps[2];
  Int slices;
};

} // namespace

LogicalResult emitMatmulWgmma(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  ArrayRef<int64_t> tile = variant.getTile(), block = variant.getWorkgroup(), threads = variant.getThreads();
  if (!canUseWgmma(op) || !kernel.buffers.contains(op.getLhs()) || !kernel.buffers.contains(op.getRhs()))
    return op.emitOpError("instruction \"wgmma\" needs factors of bf16 or f16 whose lines along the reduction lie in "
                          "memory, a multiple of eight elements long");
  bool fits = threads.size() == 2 && threads[1] == kWarpgroup && tile[0] == kGroupRows && block[0] % kGroupRows == 0 &&
              block[0] / kGroupRows + 1 == threads[0] && threads[0] <= 3 && tile[1] == block[1] && block[1] % 8 == 0 &&
              block[1] <= 256;
  if (!fits || variant.getDepth() != kDepth || variant.getUnroll() < 2)
    return op.emitOpError(
               "instruction \"wgmma\" needs tiles of 64 rows and the workgroup's columns, up to 256, one for "
               "each warpgroup but one, at most two; depth ")
           << kDepth << " and two or more stages, got: " << variant;
  kernelFunction(kernel)->setAttr(kBlocksPerSmAttr, kernel.getI64IntegerAttr(1));
  WgmmaEmitter(op, kernel, variant).run();
  return success();
}

} // namespace mlir::dsc
