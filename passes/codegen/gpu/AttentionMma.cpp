//===- AttentionMma.cpp - attention by mma.sync ---------------------------===//
//
// All warps copy a tile of keys and values while they compute with the one
// before. What splits of the keys leave is merged by a second launch.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/codegen/gpu/AttentionBlock.h"
#include "passes/codegen/gpu/Mma.h"

namespace mlir::dsc {
namespace {

class MmaAttention : AttentionBlock {
public:
  MmaAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, int64_t warps)
      : AttentionBlock(op, kernel, plan, warps), threads(warps * kWarp) {}

  void run() {
    queries = memory = dynamicSharedMemory(kernel, queryBytes() + kStages * 2 * tileBytes());
    locate();
    copyQueries(threads);
    kernel.ifThen(at(zero) < tiles, [&] { copyTile(firstTile, word(0)); });
    commitChunks(kernel);
    SmallVector<Value> state = kernel.forLoop(zero, tiles, 1, startState(), [&](Value i, ValueRange carried) {
      Int number{&kernel, i};
      Int next = number + 1;
      kernel.ifThen(next < tiles, [&] { copyTile(firstTile + next, (next % kStages).asI32()); });
      commitChunks(kernel);
      waitForChunks(kernel, 1);
      barrier(kernel);
      Int stage = (number % kStages).asI32();
      SmallVector<Value> after(carried), weights = scores(stage);
      updateState((firstTile + number) * plan.keys, weights, after);
      addValues(stage, weights, MutableArrayRef(after).drop_back(4));
      barrier(kernel); // before the tile's place is filled again
      return after;
    });
    finish(state);
  }

private:
  Int tileBegin(Int stage, int64_t plane) { return (stage * 2 + plane) * tileBytes() + queryBytes(); }

  /// Starts to copy tile `number` of keys and values.
  void copyTile(Int number, Int stage) {
    Int chunk = thread % kTileChunks, line = thread / kTileChunks;
    int64_t perTurn = threads / kTileChunks;
    for (int64_t plane : {0, 1})
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t i = 0; i < plan.keys; i += perTurn) {
          Int key = number * plan.keys + (line.asIndex() + i), depth = chunk.asIndex() * 8 + panel * kPanel;
          Int place =
              tileBegin(stage, plane) + panel * (plan.keys * kTileRowBytes) + swizzled(line, chunk) + i * kTileRowBytes;
          copyKv(plane, key, depth, behind(kernel, memory, place));
        }
  }

  void copyKv(int64_t plane, Int key, Int depth, Value target) {
    Int exists = key < at(keys);
    if (plan.depth % kPanel != 0)
      exists = exists.with(arith::AndIOp::create(kernel, exists, depth < plan.depth));
    Value tensor = op.getCache() ? op.getCache() : plane == 0 ? op.getKey() : op.getValue();
    Value buffer = kernel.buffers.lookup(tensor);
    if (buffer && getElementTypeOrSelf(tensor) == factor) {
      Int line = op.getCache() ? ((at(batch) * 2 + plane) * kvHeads(op) + at(kvHead)) * at(kernel.size(tensor, 3)) + key
                               : (at(batch) * at(kernel.size(tensor, 1)) + key) * kvHeads(op) + at(kvHead);
      return copyChunk(kernel, target, globalPointer(kernel, buffer), (line * plan.depth + depth) * 2, exists);
    }
    Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(VectorType::get({8}, factor)));
    Value chunk = ifElse(kernel, exists, none, [&] {
      kernel.width = 8;
      Value value = kernel.convert(readKv(plane, key, Index::lanes(depth)), factor);
      kernel.width = 1;
      return value;
    });
    LLVM::StoreOp::create(kernel, chunk, target, kChunkBytes);
  }

  /// Scores of a tile, from key `first` on: [8 keys, 4].
  SmallVector<Value> scores(Int stage) {
    int64_t wide = plan.keys / 8;
    SmallVector<Value> sums(wide * 4, floatConstant(0));
    Int low = lane % 8, half = (lane / 8) % 2, quarter = lane / 16;
    Int rowPlace = (warp * 16 + half * 8 + low) * kTileRowBytes;
    Int keyPlace = tileBegin(stage, 0) + (quarter * 8 + low) * kTileRowBytes;
    for (int64_t k = 0; k < plan.depth; k += 16) {
      int64_t panel = k / kPanel, chunk = k % kPanel / 8;
      Int left = rowPlace + ((quarter + chunk) ^ low) * kChunkBytes + panel * blockRows * kTileRowBytes;
      Int right = keyPlace + ((half + chunk) ^ low) * kChunkBytes + panel * plan.keys * kTileRowBytes;
      SmallVector<Value> queries = loadMatrices(kernel, behind(kernel, memory, left));
      for (int64_t j = 0; j < wide; j += 2) {
        SmallVector<Value> both = loadMatrices(kernel, behind(kernel, memory, right + j * 8 * kTileRowBytes));
        for (int64_t n : {0, 1})
          multiplyFragments(kernel, factor, queries, ArrayRef(both).slice(2 * n, 2),
                            MutableArrayRef(sums).slice((j + n) * 4, 4));
      }
    }
    return sums;
  }

  /// sums += weights * values.
  void addValues(Int stage, ArrayRef<Value> weights, MutableArrayRef<Value> sums) {
    Int low = lane % 8, half = (lane / 8) % 2, quarter = lane / 16;
    Int keyPlace = tileBegin(stage, 1) + (half * 8 + low) * kTileRowBytes;
    for (int64_t k = 0; k < plan.keys; k += 16) {
      SmallVector<Value> left = packWeights(weights, k);
      for (int64_t d = 0; d < plan.depth; d += 16) {
        int64_t panel = d / kPanel, chunk = d % kPanel / 8;
        Int place = keyPlace + ((quarter + chunk) ^ low) * kChunkBytes + (panel * plan.keys + k) * kTileRowBytes;
        SmallVector<Value> both = loadMatrices(kernel, behind(kernel, memory, place), /*transposed=*/true);
        for (int64_t n : {0, 1})
          multiplyFragments(kernel, factor, left, ArrayRef(both).slice(2 * n, 2), sums.slice((d / 8 + n) * 4, 4));
      }
    }
  }

  int64_t threads;
  Value memory;
};

} // namespace

LogicalResult emitAttentionMma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant) {
  ArrayRef<int64_t> threads = variant.getThreads();
  if (threads.size() != 2 || threads[1] != kWarp || plan.rows() > threads[0] * 16 || plan.keys % 16 != 0 ||
      plan.keys % (threads[0] * kWarp / kTileChunks) != 0)
    return op.emitOpError("instruction \"mma\" needs a warp for every 16 rows, and keys in multiples of 16 and of the "
                          "lines that the block copies at once, got: ")
           << variant;
  MmaAttention(op, kernel, plan, threads[0]).run();
  return success();
}

} // namespace mlir::dsc
