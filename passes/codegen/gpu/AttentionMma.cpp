//===- AttentionMma.cpp - attention by mma.sync ---------------------------===//
//
// A block holds queries of some positions and of all heads that read the same
// keys, 16 rows per warp, and walks over tiles of keys and values, copying one
// while it computes with the one before (Dao 2023, FlashAttention-2). Weights go
// from the sums of the first product to the operands of the second without
// leaving their lane. What splits of the keys leave is merged by a second launch.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/gpu/AttentionBlock.h"
#include "passes/codegen/gpu/Mma.h"

namespace mlir::dsc {

FloatType attentionFactorType(AttentionOp op) {
  Type query = getElementTypeOrSelf(op.getQuery());
  Type stored = getElementTypeOrSelf(op.getCache() ? op.getCache() : op.getKey());
  if (cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3) % 16 != 0 || !(query.isF32() || query.isF16() || query.isBF16()))
    return {};
  bool rounded = query.isF16() || query.isBF16() || mayRoundFactors(op.getPrecision());
  if (!rounded)
    return {};
  // Halves as they are stored are multiplied as they are.
  return stored.isF16() ? cast<FloatType>(stored) : FloatType(BFloat16Type::get(op.getContext()));
}

namespace {

constexpr int64_t kPanel = kTileRowBytes / 2; // elements of a head in one row of a tile in shared memory

class MmaAttention : AttentionEmitter {
public:
  MmaAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, int64_t warps)
      : AttentionEmitter(op, kernel, plan), factor(attentionFactorType(op)), threads(warps * kWarp),
        blockRows(warps * 16), panels(llvm::divideCeil(plan.depth, kPanel)) {}

  void run() {
    memory = dynamicSharedMemory(kernel, queryBytes() + kStages * 2 * tileBytes());
    thread = Int{&kernel, threadNumber(kernel)}.asI32();
    lane = thread % kWarp;
    warp = thread / kWarp;
    Int split = locate();
    copyQueries();

    // Keys that any row of the block sees, and of those the part of the split.
    Int end = at(visible(constant(plan.rows() - 1))), begin = at(firstVisible(zero));
    Int first = begin / plan.keys, tiles = (end + (plan.keys - 1)) / plan.keys - first;
    tiles = {&kernel, clampToZero(tiles)};
    if (plan.splits > 1) {
      Int part = (tiles + (plan.splits - 1)) / plan.splits;
      first = first + split * part;
      tiles = {&kernel, clampToZero(min(tiles - split * part, part))};
    }
    kernel.ifThen(at(zero) < tiles, [&] { copyTile(first, word(0)); });
    NVVM::CpAsyncCommitGroupOp::create(kernel);

    int64_t sums = plan.depth / 8 * 4;
    SmallVector<Value> state(sums, floatConstant(0)); // sums, then the largest score and the sum of weights of two rows
    state.append(2, floatConstant(lowest));
    state.append(2, floatConstant(0));
    state = kernel.forLoop(zero, tiles, 1, state, [&](Value i, ValueRange carried) {
      Int number{&kernel, i};
      Int next = number + 1;
      kernel.ifThen(next < tiles, [&] { copyTile(first + next, (next % kStages).asI32()); });
      NVVM::CpAsyncCommitGroupOp::create(kernel);
      NVVM::CpAsyncWaitGroupOp::create(kernel, 1);
      barrier(kernel);
      SmallVector<Value> after = step((first + number) * plan.keys, (number % kStages).asI32(), carried);
      barrier(kernel); // before the tile's place is filled again
      return after;
    });
    finish(split, state);
  }

private:
  static constexpr int64_t kStages = 2;

  Int at(Value index) { return {&kernel, index}; }
  Int word(int64_t value) { return {&kernel, arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(value))}; }
  Value floatConstant(double value) { return kernel.constant(type, value); }
  int64_t queryBytes() const { return panels * blockRows * kTileRowBytes; }
  int64_t tileBytes() const { return panels * plan.keys * kTileRowBytes; } // of keys, and as many of values

  /// Blocks with more keys come first. Returns the split.
  Int locate() {
    int64_t shares = groupSize(op) / plan.heads;
    Value blocks = ceilDiv(positions, plan.positions);
    SmallVector<Value> where = kernel.delinearize(
        kernel.workgroup, {blocks, kernel.size(op.getQuery(), 0), constant(kvHeads(op) * shares), constant(plan.splits)});
    Value block = kernel.sub(kernel.sub(blocks, one), where[0]);
    Int head = at(where[2]);
    place(kernel.mul(block, constant(plan.positions)), where[1], head / shares, head % shares);
    return at(where[3]);
  }

  /// Queries as factors, such that powers of two of scores are weights.
  void copyQueries() {
    double scale = op.getScale().convertToDouble();
    scale = op.getSoftCap() ? scale / op.getSoftCap()->convertToDouble() : scale * kLog2e;
    int64_t chunks = panels * kTileChunks;
    kernel.forLoop(thread.asIndex(), constant(blockRows * chunks), threads, [&](Value i) {
      Int row = at(i) / chunks, chunk = at(i) % chunks, depth = chunk * 8;
      VectorType vector = VectorType::get({8}, factor);
      Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(vector));
      // Rows beyond the last repeat one and are not stored.
      Value used = min(row, at(constant(plan.rows() - 1)));
      auto branch = scf::IfOp::create(kernel, vector, depth < plan.depth, /*withElseRegion=*/true);
      {
        OpBuilder::InsertionGuard guard(kernel);
        kernel.setInsertionPointToStart(branch.elseBlock());
        scf::YieldOp::create(kernel, none);
        kernel.setInsertionPointToStart(branch.thenBlock());
        kernel.width = 8;
        SmallVector<Index> place{uniform(batch), uniform(positionOf(used)), uniform(headOf(used)), Index::lanes(depth)};
        Value query = kernel.splat(kernel.convert(kernel.pull(op.getQuery(), place), type));
        query = kernel.convert(arith::MulFOp::create(kernel, query, vectorConstant(scale)), factor);
        scf::YieldOp::create(kernel, query);
        kernel.width = 1;
      }
      Int panel = chunk / kTileChunks;
      Int offset = panel * (blockRows * kTileRowBytes) + swizzled(row, chunk % kTileChunks);
      LLVM::StoreOp::create(kernel, branch.getResult(0), behind(kernel, memory, offset.asI32()), kChunkBytes);
    });
  }

  Int tileBegin(Int stage, int64_t plane) { return (stage * 2 + plane) * tileBytes() + queryBytes(); }

  /// Starts to copy tile `number` of keys and values.
  void copyTile(Int number, Int stage) {
    Int chunk = thread % kTileChunks, line = thread / kTileChunks;
    int64_t perTurn = threads / kTileChunks;
    for (int64_t plane : {0, 1})
      for (int64_t panel = 0; panel < panels; ++panel)
        for (int64_t i = 0; i < plan.keys; i += perTurn) {
          Int key = number * plan.keys + (line.asIndex() + i), depth = chunk.asIndex() * 8 + panel * kPanel;
          Int place = tileBegin(stage, plane) + panel * (plan.keys * kTileRowBytes) + swizzled(line, chunk) +
                      i * kTileRowBytes;
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
    VectorType vector = VectorType::get({8}, factor);
    auto branch = scf::IfOp::create(kernel, vector, exists, /*withElseRegion=*/true);
    {
      OpBuilder::InsertionGuard guard(kernel);
      kernel.setInsertionPointToStart(branch.elseBlock());
      scf::YieldOp::create(kernel, Value(arith::ConstantOp::create(kernel, kernel.getZeroAttr(vector))));
      kernel.setInsertionPointToStart(branch.thenBlock());
      kernel.width = 8;
      scf::YieldOp::create(kernel, kernel.convert(readKv(plane, key, Index::lanes(depth)), factor));
      kernel.width = 1;
    }
    LLVM::StoreOp::create(kernel, branch.getResult(0), target, kChunkBytes);
  }

  /// The two rows of the block that this lane holds sums of.
  Int rowOf(int64_t half) { return (warp * 16 + lane / 4).asIndex() + half * 8; }

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

  /// Caps, masks and hides scores.
  void finishScores(Int first, MutableArrayRef<Value> sums) {
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
    Int end = first + plan.keys, leastEnd = at(visible(zero)), greatestFirst = at(firstVisible(constant(plan.rows() - 1)));
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
  Value combineRow(vector::CombiningKind kind, Value value) {
    kernel.team = {1, 4, {}, kernel.constantIndex(0)};
    Value all = reduceTeam(kernel, kind, value);
    kernel.team = Team();
    return all;
  }
  Value power(Value x) {
    return LLVM::CallIntrinsicOp::create(kernel, kernel.getF32Type(), kernel.getStringAttr("llvm.nvvm.ex2.approx.ftz.f"),
                                         ValueRange{x})
        .getResults();
  }
  Value packed(Value low, Value high) {
    Value pair = vector::FromElementsOp::create(kernel, VectorType::get({2}, type), ValueRange{low, high});
    pair = arith::TruncFOp::create(kernel, VectorType::get({2}, factor), pair);
    return LLVM::BitcastOp::create(kernel, kernel.getI32Type(), pair);
  }

  /// One tile under the online softmax.
  SmallVector<Value> step(Int first, Int stage, ValueRange carried) {
    SmallVector<Value> state(carried), weights = scores(stage);
    finishScores(first, weights);
    int64_t sums = state.size() - 4;
    for (int64_t half : {0, 1}) {
      Value &largest = state[sums + half], &total = state[sums + 2 + half], before = largest, sum;
      for (int64_t i = half * 2; i < static_cast<int64_t>(weights.size()); i += 4)
        for (int64_t n : {0, 1})
          largest = arith::MaxNumFOp::create(kernel, largest, weights[i + n]);
      largest = combineRow(vector::CombiningKind::MAXNUMF, largest);
      for (int64_t i = half * 2; i < static_cast<int64_t>(weights.size()); i += 4)
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
    addValues(stage, weights, MutableArrayRef(state).take_front(sums));
    return state;
  }

  /// sums += weights * values.
  void addValues(Int stage, ArrayRef<Value> weights, MutableArrayRef<Value> sums) {
    Int low = lane % 8, half = (lane / 8) % 2, quarter = lane / 16;
    Int keyPlace = tileBegin(stage, 1) + (half * 8 + low) * kTileRowBytes;
    for (int64_t k = 0; k < plan.keys; k += 16) {
      ArrayRef<Value> w = weights.slice(k / 8 * 4, 8);
      Value left[] = {packed(w[0], w[1]), packed(w[2], w[3]), packed(w[4], w[5]), packed(w[6], w[7])};
      for (int64_t d = 0; d < plan.depth; d += 16) {
        int64_t panel = d / kPanel, chunk = d % kPanel / 8;
        Int place = keyPlace + ((quarter + chunk) ^ low) * kChunkBytes + (panel * plan.keys + k) * kTileRowBytes;
        SmallVector<Value> both = loadMatrices(kernel, behind(kernel, memory, place), /*transposed=*/true);
        for (int64_t n : {0, 1})
          multiplyFragments(kernel, factor, left, ArrayRef(both).slice(2 * n, 2), sums.slice((d / 8 + n) * 4, 4));
      }
    }
  }

  void finish(Int split, ArrayRef<Value> state) {
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
          Value pair = vector::FromElementsOp::create(
              kernel, kernel.vectorType(type), ValueRange{state[d / 2 + half * 2], state[d / 2 + half * 2 + 1]});
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

  FloatType factor;
  int64_t threads, blockRows, panels;
  Value memory;
  Int thread, lane, warp; // i32
};

} // namespace

ScheduleAttr gpuAttentionSchedule(AttentionOp op) {
  constexpr int64_t kWarps = 4, kKeys = 64, kSplits = 16, kFewRows = 16;
  MLIRContext *context = op.getContext();
  int64_t group = groupSize(op), depth = cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3);
  int64_t keys = depth > 128 ? kKeys / 2 : kKeys, heads = group;
  while (group % heads != 0 || heads > kWarps * 16)
    --heads;
  auto variant = [&](int64_t maxRows, int64_t positions, int64_t heads, int64_t splits) {
    return VariantAttr::get(context, maxRows, {16, keys}, {positions, heads, splits}, /*unroll=*/1, /*depth=*/keys,
                            /*stage=*/{}, "mma", {kWarps, kWarp});
  };
  // Few rows leave most of the GPU without work unless the keys are split.
  int64_t few = std::max<int64_t>(1, kFewRows / heads);
  return ScheduleAttr::get(context, {variant(few, few, heads, kSplits), variant(0, kWarps * 16 / heads, heads, 1)});
}

LogicalResult emitAttentionMma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant) {
  ArrayRef<int64_t> threads = variant.getThreads();
  if (!attentionFactorType(op))
    return op.emitOpError("instruction \"mma\" needs heads of a multiple of 16 elements of f16 or bf16, or a precision "
                          "that allows to round them");
  if (threads.size() != 2 || threads[1] != kWarp || plan.rows() > threads[0] * 16 || plan.keys % 16 != 0 ||
      plan.keys % (threads[0] * kWarp / kTileChunks) != 0)
    return op.emitOpError("instruction \"mma\" needs a warp for every 16 rows, and keys in multiples of 16 and of the "
                          "lines that the block copies at once, got: ")
           << variant;
  if (plan.splits > 1 && (variant.getMaxRows() == 0 || variant.getMaxRows() > plan.positions))
    return op.emitOpError("splits keys only if max_rows is at most the workgroup's ") << plan.positions << " positions";
  kernel.team = Team();
  MmaAttention(op, kernel, plan, threads[0]).run();
  return success();
}

} // namespace mlir::dsc
