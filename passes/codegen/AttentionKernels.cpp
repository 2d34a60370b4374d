//===- AttentionKernels.cpp - attention over keys and values, and its cache ===//
//
// Which of the two loop nests of attention runs, and how large its parts are.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/codegen/AttentionEmitter.h"
#include "passes/codegen/ScaledIntegers.h"
#include "passes/codegen/gpu/AttentionBlock.h"

namespace mlir::dsc {
namespace {

struct AttentionModel : KernelOpInterface::ExternalModel<AttentionModel, AttentionOp> {
  static Type accumulator(AttentionOp op) { return defaultAccumulatorType(getElementTypeOrSelf(op.getQuery())); }

  bool isMain(Operation *) const { return true; }
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  /// One position, a few, and many.
  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    auto attention = cast<AttentionOp>(op);
    if (target.isGpu())
      return gpuAttentionSchedule(attention, target);
    MLIRContext *context = op->getContext();
    int64_t lanes = lanesOf(attention, target.getVectorBytes());
    int64_t group = groupSize(attention), registers = target.getVectorRegisters();
    auto few = [&](int64_t positions) {
      // A vector of keys or values serves all rows of a tile. Beside their sums lie a factor of each row, the vector
      // and one more: LLVM stores a sum in every step where none is left.
      int64_t most = registers >= 32 ? 6 : 4, rows = positions * group;
      int64_t tileRows = llvm::divideCeil(rows, llvm::divideCeil(rows, most));
      int64_t all = llvm::divideCeil(depthOf(attention), lanes), room = (registers - 2 - tileRows) / tileRows;
      int64_t vectors = llvm::divideCeil(all, llvm::divideCeil(all, room));
      // Blocks are short: what is fetched for the next one is to stay near.
      return VariantAttr::get(context, positions, {tileRows, vectors * lanes}, {positions, group, kSplits},
                              /*unroll=*/1, /*depth=*/lanes < 16 ? 32 : 128, /*stage=*/{}, "fma");
    };
    // Three vectors of queries by eight keys leave room for what is multiplied; AVX2 needs a register for products.
    // Where keys and values are rounded first, two tiles share that work, or 192 rows that of integers.
    StringRef instruction = instructionFor(attention, target, lanes);
    int64_t vectors = instruction != "fma" && registers < 32 ? 2 : 3, heads = group;
    int64_t tiles = instruction == "bfp" ? kScaledRows / (vectors * lanes) : instruction == "dot" ? 2 : 1;
    while (group % heads != 0 || heads > vectors * lanes)
      --heads;
    auto many = [&](int64_t tiles) {
      return VariantAttr::get(context, 0, {registers >= 32 ? 8 : 4, vectors * lanes},
                              {std::max<int64_t>(1, tiles * vectors * lanes / heads), heads, 1}, /*unroll=*/1,
                              /*depth=*/64, /*stage=*/{}, instruction);
    };
    while (tiles > 1 &&
           scratchBytes(attention, planOf(attention, target.getVectorBytes(), many(tiles)), false) > kMaxScratchBytes)
      --tiles;
    return ScheduleAttr::get(context, {few(1), few(8), many(tiles)});
  }
  /// What many rows multiply with where pairs of 16 bits may be.
  static StringRef instructionFor(AttentionOp op, TargetAttr target, int64_t lanes) {
    if (!hasPairs(op) || !mayRoundFactors(op.getPrecision()))
      return "fma";
    if (lanes == 16 && hasFastBf16Dots(target))
      return "dot";
    bool integers = multipliesPairs(target) && !target.isStrict() && depthOf(op) <= kMostScaledDepth;
    return integers ? "bfp" : "fma";
  }
  static bool hasPairs(AttentionOp op) { return accumulator(op).isF32() && depthOf(op) % 2 == 0; }
  AffineExpr getRows(Operation *op, DimsAnalysis &dims) const { return dims.get(cast<AttentionOp>(op).getQuery())[1]; }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims query = dims.get(cast<AttentionOp>(op).getQuery());
    return query[1].ceilDiv(variant.getWorkgroup()[0]) * query[0] * query[2].floorDiv(variant.getWorkgroup()[1]) *
           variant.getWorkgroup()[2];
  }
  PartialResults getPartialResults(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    auto attention = cast<AttentionOp>(op);
    ArrayRef<int64_t> workgroup = variant.getWorkgroup();
    if (workgroup.size() < 3 || workgroup[2] == 1)
      return {};
    Dims query = dims.get(attention.getQuery());
    auto constant = [&](int64_t value) { return getAffineConstantExpr(value, op->getContext()); };
    // Behind the sums of each row, its largest score and the sum of its weights.
    Dims sizes{query[0], constant(workgroup[2]), constant(workgroup[0]), query[2], constant(depthOf(attention) + 2)};
    return {accumulator(attention), sizes, query[0] * query[1]};
  }
  LogicalResult emitMerge(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto attention = cast<AttentionOp>(op);
    AttentionPlan plan = planOf(attention, kernel.vectorBytes, variant);
    plan.positions = 1;
    plan.heads = groupSize(attention) * kvHeads(attention);
    emitAttentionMerge(attention, kernel, plan);
    return success();
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto attention = cast<AttentionOp>(op);
    AttentionPlan plan = planOf(attention, kernel.vectorBytes, variant);
    int64_t lanes = plan.lanes, group = groupSize(attention);
    if (kernel.gpu && group % plan.heads == 0)
      return emitGpuAttention(attention, kernel, plan, variant);
    bool few = variant.getMaxRows() > 0;
    int64_t multiple = few ? lanes : plan.tileRows;
    if (plan.tileColumns % lanes != 0)
      return op->emitOpError("tile columns must be a multiple of ") << lanes << ", got: " << plan.tileColumns;
    if (plan.keys <= 0 || plan.keys % multiple != 0)
      return op->emitOpError("depth must be a multiple of ") << multiple << ", got: " << plan.keys;
    if (group % plan.heads != 0)
      return op->emitOpError("workgroup heads must divide the ")
             << group << " that read the same keys, got: " << plan.heads;
    if (plan.splits > 1 && (!few || variant.getMaxRows() > plan.positions))
      return op->emitOpError("splits keys only if max_rows is at most the workgroup's ")
             << plan.positions << " positions";
    if (!llvm::is_contained({"fma", "dot", "bfp"}, variant.getInstruction()))
      return op->emitOpError("has no instruction \"") << variant.getInstruction() << "\"";
    auto target = op->getParentOfType<ModuleOp>()->getAttrOfType<TargetAttr>(kTargetAttr);
    bool has = plan.scaled ? multipliesPairs(target) : lanes == 16;
    if (plan.dots && (few || plan.tileRows % 2 != 0 || !hasPairs(attention) || !has))
      return op->emitOpError("instruction \"")
             << variant.getInstruction()
             << "\" needs 16 lanes of f32, or for \"bfp\" avx512vnni or avx2, an even size of heads, an even number of "
                "tile rows and no max_rows, got: "
             << variant;
    if (plan.scaled && (plan.keys > kMostScaledKeys || plan.depth > kMostScaledDepth))
      return op->emitOpError("instruction \"bfp\" takes at most ")
             << kMostScaledKeys << " keys of " << kMostScaledDepth << " elements, got: " << plan.keys << " and "
             << plan.depth;
    int64_t bytes = scratchBytes(attention, plan, few);
    if (bytes > kMaxScratchBytes)
      return op->emitOpError("needs ") << bytes << " bytes of scratch, the most is " << kMaxScratchBytes;
    (few ? emitAttentionOfFewRows : emitAttentionOfManyRows)(attention, kernel, plan);
    return success();
  }

  /// Memory near the thread: queries, sums and weights, and what is converted of keys, values and rows.
  static int64_t scratchBytes(AttentionOp op, const AttentionPlan &plan, bool few) {
    int64_t rows = llvm::alignTo(plan.rows(), few ? plan.tileRows : plan.tileColumns);
    int64_t elements = rows * (2 * plan.paddedDepth() + plan.keys) +
                       (few ? 0 : (plan.tileColumns + 2 * plan.keys) * plan.paddedDepth());
    if (plan.dots) // pairs of weights, and rows on their way to pairs
      elements += plan.tileColumns * (plan.keys / 2 + plan.pairedDepth());
    if (op.getMask() && !few)
      elements += 2 * plan.tileColumns * llvm::alignTo(plan.keys, plan.lanes);
    return elements * accumulator(op).getIntOrFloatBitWidth() / 8;
  }

  static AttentionPlan planOf(AttentionOp op, int64_t vectorBytes, VariantAttr variant) {
    ArrayRef<int64_t> tile = variant.getTile(), workgroup = variant.getWorkgroup();
    return {tile[0],
            tile[1],
            workgroup[0],
            workgroup[1],
            workgroup[2],
            variant.getDepth(),
            lanesOf(op, vectorBytes),
            depthOf(op),
            variant.getInstruction() == "dot" || variant.getInstruction() == "bfp",
            variant.getInstruction() == "bfp"};
  }
  static int64_t depthOf(AttentionOp op) { return cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3); }
  static int64_t lanesOf(AttentionOp op, int64_t vectorBytes) {
    return std::max<int64_t>(1, vectorBytes * 8 / accumulator(op).getIntOrFloatBitWidth());
  }
  // Their number depends on nothing, so that results are the same for any number of threads.
  static constexpr int64_t kSplits = 8;
  static constexpr int64_t kScaledRows = 192;
  // Integers of more products would have less than ten bits.
  static constexpr int64_t kMostScaledKeys = 128, kMostScaledDepth = 1024;
  static constexpr int64_t kMaxScratchBytes = 1 << 20; // of a thread's stack
};

/// Writes rows of keys and values into the buffer that the result shares with the cache.
struct KvAppendModel : KernelOpInterface::ExternalModel<KvAppendModel, KvAppendOp> {
  bool isMain(Operation *) const { return true; }
  bool hasResultAtIndex(Operation *) const { return false; }
  bool readsOnce(Operation *, unsigned operand) const { return operand < 2; }
  int64_t getTiedOperand(Operation *, unsigned) const { return 2; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &dims) const {
    return rowVariant(op->getContext(), target, dims.get(op->getOperand(0)).back(), 64, /*fewestThreads=*/1);
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims rows = dims.get(cast<KvAppendOp>(op).getKey());
    rows.pop_back();
    return elementCount(rows, op->getContext()).ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto append = cast<KvAppendOp>(op);
    Dims rows = kernel.dims.get(append.getKey());
    rows.pop_back();
    Value capacity = kernel.size(append.getCache(), 3), depth = kernel.size(append.getKey(), 3);
    int64_t lanes = kernel.lanesOver(depth, kernel.lanesOf(getElementTypeOrSelf(append.getKey())));
    Value buffer = kernel.outputs[0].second;
    forRows(kernel, rows, variant.getWorkgroup()[0], [&](ArrayRef<Value> row) {
      Value start = kernel.pull(append.getPositions(), {Index::uniform(row[0])});
      start = arith::IndexCastOp::create(kernel, kernel.getIndexType(), start);
      Value position = kernel.add(start, row[1]);
      // One unsigned comparison also keeps negative positions out of memory.
      Value fits = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, position, capacity);
      kernel.ifThen(fits, [&] {
        kernel.vectorLoop(kernel.constantIndex(0), depth, lanes, [&](Value j) {
          SmallVector<Index> from;
          for (Value i : row)
            from.push_back(Index::uniform(i));
          from.push_back(Index::lanes(j));
          const Value planes[] = {append.getKey(), append.getValue()};
          for (auto [plane, source] : llvm::enumerate(planes))
            kernel.store(
                kernel.pull(source, from), buffer,
                {from[0], Index::uniform(kernel.constantIndex(plane)), from[2], Index::uniform(position), from[3]});
        });
      });
    });
    return success();
  }
};

} // namespace

void registerAttentionModels(MLIRContext *context) {
  AttentionOp::attachInterface<AttentionModel>(*context);
  KvAppendOp::attachInterface<KvAppendModel>(*context);
}

} // namespace mlir::dsc
