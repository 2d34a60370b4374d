//===- AttentionWgmma.cpp - attention by wgmma and TMA (sm_90a) -----------===//
//
// One warpgroup copies tiles of keys and values to a ring in shared memory; two
// others hold 64 rows each, so that one multiplies while the other computes
// weights (Shah et al. 2024, FlashAttention-3). Weights are the left operand in
// registers. Values lie along their own columns: the right operand is transposed
// as it is read.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/codegen/gpu/Async.h"
#include "passes/codegen/gpu/AttentionBlock.h"
#include "passes/codegen/gpu/Wgmma.h"

namespace mlir::dsc {
namespace {

class WgmmaAttention : AttentionBlock {
public:
  WgmmaAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan)
      : AttentionBlock(op, kernel, plan, kGroups * kWarpgroup / kWarp), full{kernel, {}}, empty{kernel, {}} {}

  void run() {
    Value memory = dynamicSharedMemory(kernel, kBarrierBytes + queryBytes() + kStages * 2 * tileBytes());
    full.first = memory;
    empty.first = behind(kernel, memory, word(kStages * 2 * 8));
    queries = behind(kernel, memory, word(kBarrierBytes));
    ring = behind(kernel, queries, word(queryBytes()));
    for (int64_t plane : {0, 1})
      maps[plane] = op.getCache() && plane ? maps[0] : mapOf(plane);
    locate();
    kernel.ifThen(thread == 0, [&] {
      for (int64_t i = 0; i < 2 * kStages; ++i) {
        full.init(word(i), 1);
        empty.init(word(i), kGroups * kWarpgroup / kWarp);
      }
      publishBarriers(kernel);
    });
    copyQueries((kGroups + 1) * kWarpgroup);
    fenceAsync(kernel); // wgmma reads what was stored
    barrier(kernel);

    Int group = thread / kWarpgroup;
    kernel.ifThen(group == kGroups, [&] {
      setRegisters(kernel, kProducerRegisters, /*more=*/false);
      kernel.ifThen(thread == kGroups * kWarpgroup, [&] { copyTiles(); });
    });
    kernel.ifThen(group < kGroups, [&] {
      setRegisters(kernel, kConsumerRegisters, /*more=*/true);
      attend(group);
    });
  }

private:
  static constexpr int64_t kGroups = 2;

  /// Keys (plane 0) and values of all rows and heads; a cache is one tensor.
  Value mapOf(int64_t plane) {
    MLIRContext *context = op.getContext();
    Value tensor = op.getCache() ? op.getCache() : plane ? op.getValue() : op.getKey();
    Dims sizes = kernel.dims.get(tensor);
    AffineExpr row = getAffineConstantExpr(plan.depth * 2, context);
    TensorMap map;
    if (op.getCache()) // [b, 2, heads, capacity, d]
      map = {{sizes[4], sizes[3], sizes[0] * sizes[1] * sizes[2]}, {row, sizes[3] * row}, {kPanel, plan.keys, 1}};
    else // [b, t, heads, d]
      map = {{sizes[3], sizes[2], sizes[1], sizes[0]},
             {row, sizes[2] * row, sizes[1] * sizes[2] * row},
             {kPanel, 1, plan.keys, 1}};
    return tensorMapOf(kernel, kernel.buffers.lookup(tensor), map);
  }

  /// A place of the ring: of tile `number`, its keys or values.
  Int slot(Int number, int64_t plane) { return (number % kStages).asI32() * 2 + plane; }
  Int parity(Int number) { return (number / kStages % 2).asI32(); }
  Int placeOf(Int slot) { return slot * tileBytes(); }

  void copyTiles() {
    kernel.forLoop(zero, tiles, 1, [&](Value i) {
      Int number = at(i), key = ((firstTile + number) * plan.keys).asI32();
      for (int64_t plane : {0, 1}) {
        Int where = slot(number, plane);
        empty.wait(where, parity(number) ^ 1);
        full.expect(where, tileBytes());
        Int head = at(kvHead), row = at(batch);
        for (int64_t panel = 0; panel < panels; ++panel) {
          SmallVector<Value> from{word(panel * kPanel)};
          if (op.getCache())
            from.append({key, ((row * 2 + plane) * kvHeads(op) + head).asI32()});
          else
            from.append({head.asI32(), key, row.asI32()});
          Value target = behind(kernel, ring, placeOf(where) + panel * plan.keys * kTileRowBytes);
          copyBox(kernel, target, maps[plane], from, full.at(where));
        }
      }
    });
  }

  void attend(Int group) {
    SmallVector<Value> state = kernel.forLoop(zero, tiles, 1, startState(), [&](Value i, ValueRange carried) {
      Int number = at(i);
      SmallVector<Value> after(carried);
      SmallVector<Value> weights = scores(group, number);
      updateState((firstTile + number) * plan.keys, weights, after);
      addValues(number, weights, MutableArrayRef(after).drop_back(4));
      return after;
    });
    finish(state);
  }

  void release(Int where) {
    kernel.ifThen(lane == 0, [&] { empty.arrive(where); });
  }

  SmallVector<Value> scores(Int group, Int number) {
    Int where = slot(number, 0);
    full.wait(where, parity(number));
    wgmmaFence(kernel);
    Value sums;
    for (int64_t k = 0; k < plan.depth; k += 16) {
      int64_t panel = k / kPanel, inside = k % kPanel * 2;
      Int left = group * kGroupRows * kTileRowBytes + (panel * blockRows * kTileRowBytes + inside);
      Int right = placeOf(where) + (panel * plan.keys * kTileRowBytes + inside);
      sums = wgmma(kernel, factor, factor, sums, matrixAlongRows(kernel, queries, left),
                   matrixAlongRows(kernel, ring, right), plan.keys);
    }
    wgmmaWait(kernel);
    release(where);
    return wgmmaSums(kernel, sums, plan.keys);
  }

  /// Values behind the last key are what somebody left there: a weight of zero does not hide a NaN.
  void clearUnused(Int firstKey, Int where) {
    Int end = firstKey + plan.keys;
    kernel.ifThen(at(keys) < end, [&] {
      VectorType vector = VectorType::get({8}, factor);
      Value zeros = arith::ConstantOp::create(kernel, kernel.getZeroAttr(vector));
      Int begin = placeOf(where) + (at(keys) - firstKey).asI32() * kTileRowBytes;
      constexpr int64_t kThreads = kGroups * kWarpgroup;
      for (int64_t panel = 0; panel < panels; ++panel)
        kernel.forLoop(thread.asIndex(), (end - at(keys)) * kTileChunks, kThreads, [&](Value chunk) {
          Int place = begin + at(chunk).asI32() * kChunkBytes + panel * plan.keys * kTileRowBytes;
          LLVM::StoreOp::create(kernel, zeros, behind(kernel, ring, place), kChunkBytes);
        });
      fenceAsync(kernel);
      // Both warpgroups read all of them.
      barrier(kernel, word(1), kThreads);
    });
  }

  void addValues(Int number, ArrayRef<Value> weights, MutableArrayRef<Value> sums) {
    Int where = slot(number, 1);
    full.wait(where, parity(number));
    if (op.getCache())
      clearUnused((firstTile + number) * plan.keys, where);
    int64_t columns = plan.depth;
    SmallVector<Value> left;
    for (int64_t k = 0; k < plan.keys; k += 16)
      llvm::append_range(left, packWeights(weights, k));
    Value all = wgmmaFence(kernel, wgmmaPack(kernel, sums), columns, left);
    for (int64_t k = 0; k < plan.keys; k += 16) {
      Int right = placeOf(where) + k * kTileRowBytes;
      all = wgmmaFromRegisters(kernel, factor, all, ArrayRef(left).slice(k / 4, 4),
                               matrixAlongColumns(kernel, ring, right, plan.keys * kTileRowBytes), columns);
    }
    wgmmaWait(kernel);
    release(where);
    llvm::copy(wgmmaSums(kernel, all, columns), sums.begin());
  }

  Barriers full, empty;
  Value ring, maps[2];
};

} // namespace

LogicalResult emitAttentionWgmma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan,
                                 VariantAttr variant) {
  ArrayRef<int64_t> threads = variant.getThreads();
  Value source = op.getCache() ? op.getCache() : op.getKey();
  if (!canUseWgmma(op) || !kernel.buffers.contains(source) || variant.getInstruction() != "wgmma")
    return op.emitOpError("instruction \"")
           << variant.getInstruction() << "\" is not known, or keys and values are not stored as they are multiplied";
  if (failed(needHopper(op, variant)))
    return failure();
  if (threads.size() != 2 || threads[0] != 3 || threads[1] != kWarpgroup || plan.rows() > 2 * kGroupRows ||
      plan.keys % 16 != 0 || plan.keys > 256 || plan.splits != 1 || variant.getCluster() != 1)
    return op.emitOpError(
               "instruction \"wgmma\" needs three warpgroups, at most 128 rows, and keys in multiples of 16 up "
               "to 256 without splits or clusters, got: ")
           << variant;
  WgmmaAttention(op, kernel, plan).run();
  return success();
}

} // namespace mlir::dsc
