//===- AttentionBlock.cpp - what kernels of attention share on a GPU ------===//

#include "passes/codegen/gpu/AttentionBlock.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace mlir::dsc {

FloatType attentionFactorType(AttentionOp op) {
  Type query = getElementTypeOrSelf(op.getQuery());
  Type stored = getElementTypeOrSelf(op.getCache() ? op.getCache() : op.getKey());
  if (cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3) % 16 != 0 ||
      !(query.isF32() || query.isF16() || query.isBF16()))
    return {};
  bool rounded = query.isF16() || query.isBF16() || mayRoundFactors(op.getPrecision());
  if (!rounded)
    return {};
  // Halves as they are stored are multiplied as they are.
  return stored.isF16() ? cast<FloatType>(stored) : FloatType(BFloat16Type::get(op.getContext()));
}

AttentionBlock::AttentionBlock(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, int64_t warps)
    : AttentionEmitter(op, kernel, plan), factor(attentionFactorType(op)), blockRows(warps * 16),
      panels(llvm::divideCeil(plan.depth, kPanel)) {
  thread = Int{&kernel, threadNumber(kernel)}.asI32();
  lane = thread % kWarp;
  warp = thread / kWarp;
}

Int AttentionBlock::word(int64_t value) {
  return {&kernel, arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(value))};
}

void AttentionBlock::locate() {
  int64_t shares = groupSize(op) / plan.heads;
  Value blocks = ceilDiv(positions, plan.positions);
  SmallVector<Value> where = kernel.delinearize(
      kernel.workgroup, {blocks, kernel.size(op.getQuery(), 0), constant(kvHeads(op) * shares), constant(plan.splits)});
  Value block = kernel.sub(kernel.sub(blocks, one), where[0]);
  Int head = at(where[2]);
  place(kernel.mul(block, constant(plan.positions)), where[1], head / shares, head % shares);
  split = at(where[3]);
  // Tiles of keys that any row of the block sees, and of those the part of the split.
  Int end = at(visible(constant(plan.rows() - 1))), begin = at(firstVisible(zero));
  firstTile = begin / plan.keys;
  tiles = at(clampToZero((end + (plan.keys - 1)) / plan.keys - firstTile));
  if (plan.splits > 1) {
    Int part = (tiles + (plan.splits - 1)) / plan.splits;
    firstTile = firstTile + split * part;
    tiles = at(clampToZero(min(tiles - split * part, part)));
  }
}

void AttentionBlock::copyQueries(int64_t threads) {
  double scale = op.getScale().convertToDouble();
  scale = op.getSoftCap() ? scale / op.getSoftCap()->convertToDouble() : scale * kLog2e;
  int64_t chunks = panels * kTileChunks;
  kernel.forLoop(thread.asIndex(), constant(blockRows * chunks), threads, [&](Value i) {
    Int row = at(i) / chunks, chunk = at(i) % chunks, depth = chunk * 8;
    VectorType vector = VectorType::get({8}, factor);
    Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(vector));
    // Rows beyond the last repeat one and are not stored.
    Value used = min(row, at(constant(plan.rows() - 1)));
    Value query = ifElse(kernel, depth < plan.depth, none, [&] {
      kernel.width = 8;
      SmallVector<Index> place{uniform(batch), uniform(positionOf(used)), uniform(headOf(used)), Index::lanes(depth)};
      Value value = kernel.splat(kernel.convert(kernel.pull(op.getQuery(), place), type));
      value = arith::MulFOp::create(kernel, value, vectorConstant(scale));
      if (factor.isF16()) { // an infinite factor would make NaN of what f32 holds
        constexpr double kLargest = 65504;
        value = arith::MaximumFOp::create(kernel, value, vectorConstant(-kLargest));
        value = arith::MinimumFOp::create(kernel, value, vectorConstant(kLargest));
      }
      value = kernel.convert(value, factor);
      kernel.width = 1;
      return value;
    });
    Int panel = chunk / kTileChunks;
    Int offset = panel * (blockRows * kTileRowBytes) + swizzled(row, chunk % kTileChunks);
    LLVM::StoreOp::create(kernel, query, behind(kernel, queries, offset.asI32()), kChunkBytes);
  });
}

SmallVector<Value> AttentionBlock::startState() {
  SmallVector<Value> state(plan.depth / 8 * 4, floatConstant(0));
  state.append(2, floatConstant(lowest));
  state.append(2, floatConstant(0));
  return state;
}

/// Caps, masks and hides scores.
void AttentionBlock::finishScores(Int first, MutableArrayRef<Value> sums) {
  Int column = first + (lane.asIndex() % 4) * 2;
  if (op.getSoftCap())
    for (Value &sum : sums)
      sum = finishScore(sum);
  if (op.getMask())
    for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
      // A key beyond the last is hidden anyway: read the last one's.
      Int key = min(column + (i / 4 * 8 + i % 2), at(keys) - 1);
      Value row = min(rowOf(i % 4 / 2), at(constant(plan.rows() - 1)));
      sums[i] = arith::AddFOp::create(kernel, sums[i], maskOf(row, key));
    }
  // Only tiles at the edge of what is seen hide anything.
  Int end = first + plan.keys, leastEnd = at(visible(zero)),
      greatestFirst = at(firstVisible(constant(plan.rows() - 1)));
  Value hides = arith::OrIOp::create(kernel, leastEnd < end, first < greatestFirst);
  auto branch = scf::IfOp::create(kernel, ValueRange(sums).getTypes(), hides, /*withElseRegion=*/true);
  {
    OpBuilder::InsertionGuard guard(kernel);
    kernel.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(kernel, ValueRange(sums));
    kernel.setInsertionPointToStart(branch.thenBlock());
    SmallVector<Value> hidden;
    Value nothing = floatConstant(-INFINITY);
    Int ends[2], firsts[2];
    for (int64_t half : {0, 1}) {
      Value row = min(rowOf(half), at(constant(plan.rows() - 1)));
      ends[half] = at(visible(row));
      firsts[half] = at(firstVisible(row));
    }
    for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
      Int key = column + (i / 4 * 8 + i % 2);
      Value seen = key < ends[i % 4 / 2];
      if (op.getWindow())
        seen = arith::AndIOp::create(kernel, seen, firsts[i % 4 / 2] < key + 1);
      hidden.push_back(arith::SelectOp::create(kernel, seen, sums[i], nothing));
    }
    scf::YieldOp::create(kernel, hidden);
  }
  llvm::copy(branch.getResults(), sums.begin());
}

/// Combines the four lanes that hold a row.
Value AttentionBlock::combineRow(vector::CombiningKind kind, Value value) {
  kernel.team = {1, 4, {}, kernel.constantIndex(0)};
  Value all = reduceTeam(kernel, kind, value);
  kernel.team = Team();
  return all;
}

Value AttentionBlock::power(Value x) {
  return LLVM::CallIntrinsicOp::create(kernel, kernel.getF32Type(), kernel.getStringAttr("llvm.nvvm.ex2.approx.ftz.f"),
                                       ValueRange{x})
      .getResults();
}
void AttentionBlock::updateState(Int first, MutableArrayRef<Value> weights, MutableArrayRef<Value> state) {
  finishScores(first, weights);
  int64_t sums = state.size() - 4, count = weights.size();
  for (int64_t half : {0, 1}) {
    Value &largest = state[sums + half], &total = state[sums + 2 + half], before = largest, sum;
    for (int64_t i = half * 2; i < count; i += 4)
      for (int64_t n : {0, 1})
        largest = arith::MaxNumFOp::create(kernel, largest, weights[i + n]);
    largest = combineRow(vector::CombiningKind::MAXNUMF, largest);
    for (int64_t i = half * 2; i < count; i += 4)
      for (int64_t n : {0, 1}) {
        weights[i + n] = power(arith::SubFOp::create(kernel, weights[i + n], largest));
        sum = sum ? Value(arith::AddFOp::create(kernel, sum, weights[i + n])) : weights[i + n];
      }
    Value shrink = power(arith::SubFOp::create(kernel, before, largest));
    total = arith::AddFOp::create(kernel, arith::MulFOp::create(kernel, total, shrink), sum);
    for (int64_t i = half * 2; i < sums; i += 4)
      for (int64_t n : {0, 1})
        state[i + n] = arith::MulFOp::create(kernel, state[i + n], shrink);
  }
}

SmallVector<Value> AttentionBlock::packWeights(ArrayRef<Value> weights, int64_t k) {
  SmallVector<Value> words;
  for (int64_t i = 0; i < 8; i += 2) {
    ArrayRef<Value> two = weights.slice(k / 8 * 4 + i, 2);
    Value pair = vector::FromElementsOp::create(kernel, VectorType::get({2}, type), ValueRange{two[0], two[1]});
    pair = arith::TruncFOp::create(kernel, VectorType::get({2}, factor), pair);
    words.push_back(LLVM::BitcastOp::create(kernel, kernel.getI32Type(), pair));
  }
  return words;
}

void AttentionBlock::finish(ArrayRef<Value> state) {
  int64_t sums = state.size() - 4;
  Int column = (lane.asIndex() % 4) * 2;
  for (int64_t half : {0, 1}) {
    Value total = combineRow(vector::CombiningKind::ADD, state[sums + 2 + half]);
    Int row = rowOf(half);
    Int position = at(firstPosition) + row / plan.heads;
    Value exists = arith::AndIOp::create(kernel, row < plan.rows(), position < at(positions));
    kernel.ifThen(exists, [&] {
      for (int64_t d = 0; d < plan.depth; d += 8) {
        kernel.width = 2;
        Value pair = vector::FromElementsOp::create(kernel, kernel.vectorType(type),
                                                    ValueRange{state[d / 2 + half * 2], state[d / 2 + half * 2 + 1]});
        Index depth = Index::lanes(column + d);
        if (plan.splits > 1) {
          kernel.store(pair, kernel.partial, partialIndex(split, row, depth));
        } else {
          pair = arith::DivFOp::create(kernel, pair, kernel.splat(orOne(total)));
          kernel.current[op.getResult()] = kernel.convert(pair, getElementTypeOrSelf(op.getType()));
          kernel.storeOutputs({uniform(batch), uniform(position), uniform(headOf(row)), depth});
        }
        kernel.width = 1;
      }
      if (plan.splits > 1)
        kernel.ifThen(column == 0, [&] {
          kernel.store(state[sums + half], kernel.partial, partialIndex(split, row, uniform(constant(plan.depth))));
          kernel.store(total, kernel.partial, partialIndex(split, row, uniform(constant(plan.depth + 1))));
        });
    });
  }
}

bool canUseWgmma(AttentionOp op) {
  FloatType factor = attentionFactorType(op);
  Value source = op.getCache() ? op.getCache() : op.getKey();
  return factor && getElementTypeOrSelf(source) == factor && isa<BlockArgument>(source) &&
         (op.getCache() || isa<BlockArgument>(op.getValue()));
}

ScheduleAttr gpuAttentionSchedule(AttentionOp op, TargetAttr target) {
  constexpr int64_t kWarps = 4, kSplits = 16, kFewRows = 16, kWarpgroup = 128;
  MLIRContext *context = op.getContext();
  int64_t group = groupSize(op), depth = cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3), heads = group;
  while (group % heads != 0 || heads > kWarps * 16)
    --heads;
  auto variant = [&](int64_t maxRows, ArrayRef<int64_t> tile, int64_t positions, int64_t splits, StringRef instruction,
                     ArrayRef<int64_t> threads) {
    return VariantAttr::get(context, maxRows, tile, {positions, heads, splits}, /*unroll=*/1, /*depth=*/tile[1],
                            /*stage=*/{}, instruction, threads);
  };
  if (!attentionFactorType(op)) {
    while (group % heads != 0 || heads > kWarps)
      --heads;
    return ScheduleAttr::get(context,
                             variant(0, {1, kWarp}, std::max<int64_t>(1, kWarps / heads), 1, "fma", {kWarps, kWarp}));
  }
  // Few rows leave most of the GPU without work unless the keys are split; into how many is not measured yet.
  int64_t few = std::max<int64_t>(1, kFewRows / heads), keys = depth > 128 ? 32 : 64;
  VariantAttr split = variant(few, {16, keys}, few, kSplits, "mma", {kWarps, kWarp});
  if (target.getCpu() == "sm_90a" && canUseWgmma(op))
    return ScheduleAttr::get(context, {split, variant(0, {64, depth > 128 ? 64 : 128}, 2 * kWarps * 16 / heads, 1,
                                                      "wgmma", {3, kWarpgroup})});
  return ScheduleAttr::get(context, {split, variant(0, {16, keys}, kWarps * 16 / heads, 1, "mma", {kWarps, kWarp})});
}

LogicalResult emitGpuAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant) {
  kernel.team = Team(); // threads share more than rows here
  if (variant.getInstruction() == "fma")
    return emitAttentionWarps(op, kernel, plan, variant);
  if (!attentionFactorType(op))
    return op.emitOpError("instruction \"")
           << variant.getInstruction()
           << "\" needs heads of a multiple of 16 elements of f16 or bf16, or a precision that allows to round them";
  if (plan.splits > 1 && (variant.getMaxRows() == 0 || variant.getMaxRows() > plan.positions))
    return op.emitOpError("splits keys only if max_rows is at most the workgroup's ") << plan.positions << " positions";
  return variant.getInstruction() == "mma" ? emitAttentionMma(op, kernel, plan, variant)
                                           : emitAttentionWgmma(op, kernel, plan, variant);
}

} // namespace mlir::dsc
