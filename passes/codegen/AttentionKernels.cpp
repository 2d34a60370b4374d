//===- AttentionKernels.cpp - attention over keys and values, and its cache ===//
//
// Blocks of queries meet blocks of keys (Dao 2022) under an online softmax
// (Milakov and Gimelshein 2018): no row of scores is ever stored. Query heads
// that share keys are rows of one block, and both products are register tiles.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

/// What a schedule decides, for a group of query heads that read the same keys.
struct Tiling {
  int64_t tileRows, keys, positions, heads, lanes, depth;

  static constexpr int64_t vectors = 2; // of scores, and of sums, that a register tile is wide
  int64_t panel() const { return vectors * lanes; }
  int64_t paddedDepth() const { return llvm::alignTo(depth, lanes); }
  /// Rows of a workgroup: query heads change fastest.
  int64_t rows() const { return llvm::alignTo(positions * heads, tileRows); }
  /// Elements of queries, sums, weights, one panel of keys, and the state of each row.
  int64_t scratch() const { return rows() * (2 * paddedDepth() + keys + 3) + paddedDepth() * panel(); }
};

struct AttentionEmitter {
  AttentionOp op;
  KernelBuilder &kernel;
  Type type; // of scores and sums
  Tiling tiling;
  Value batch, kvHead, firstHead, firstPosition, positions, keys, zero, one;
  Value queries, sums, weights, panel, max, total, rescale; // scratch
  static constexpr double lowest = -std::numeric_limits<float>::max();

  static Index uniform(Value value) { return Index::uniform(value); }
  Value constant(int64_t value) { return kernel.constantIndex(value); }
  Value clampToZero(Value value) { return arith::MaxSIOp::create(kernel, value, zero); }
  Value vectorConstant(double value) { return kernel.splat(kernel.constant(type, value)); }

  Value scratch(ArrayRef<int64_t> shape) {
    OpBuilder::InsertionGuard guard(kernel);
    kernel.setInsertionPointToStart(&kernel.getInsertionBlock()->getParent()->getParentOfType<func::FuncOp>().front());
    return kernel.allocate(MemRefType::get(shape, type));
  }
  Value loadVector(Value buffer, Value row, Value column) {
    return vector::LoadOp::create(kernel, kernel.vectorType(type), buffer, ValueRange{row, column});
  }
  void storeVector(Value value, Value buffer, Value row, Value column) {
    vector::StoreOp::create(kernel, value, buffer, ValueRange{row, column});
  }
  Value loadScalar(Value buffer, ValueRange at) { return memref::LoadOp::create(kernel, buffer, at); }

  Value readKv(int64_t plane, Value position, Value depth) {
    SmallVector<Index> at{uniform(batch), uniform(position), uniform(kvHead), Index::lanes(depth)};
    Value tensor = plane == 0 ? op.getKey() : op.getValue();
    if (op.getCache()) {
      tensor = op.getCache();
      at = {uniform(batch), uniform(constant(plane)), uniform(kvHead), uniform(position), Index::lanes(depth)};
    }
    return kernel.splat(kernel.convert(kernel.pull(tensor, at), type));
  }

  /// Number of keys in row `batch`.
  Value keyCount() {
    if (!op.getCache())
      return kernel.size(op.getKey(), 1);
    Value length = kernel.pull(op.getLengths(), {uniform(batch)});
    length = arith::IndexCastOp::create(kernel, kernel.getIndexType(), length);
    return clampToZero(kernel.min(length, kernel.size(op.getCache(), 3)));
  }

  /// Position of a row; rows beyond the end repeat the last position and are not stored.
  Value positionOf(Value row) {
    Value position = kernel.add(firstPosition, kernel.floorDiv(row, tiling.heads));
    return kernel.min(position, kernel.sub(positions, one));
  }
  Value headOf(Value row) {
    return kernel.add(firstHead, kernel.createOrFold<arith::RemUIOp>(row, constant(tiling.heads)));
  }
  /// Number of keys that a row sees; grows with the row.
  Value visible(Value row) {
    if (!op.getCausal())
      return keys;
    Value limit = kernel.add(kernel.sub(keys, positions), kernel.add(positionOf(row), one));
    return clampToZero(kernel.min(limit, keys));
  }

  void start(Value rows) {
    kernel.forLoop(zero, rows, 1, [&](Value row) {
      SmallVector<Index> at{uniform(batch), uniform(positionOf(row)), uniform(headOf(row)), {}};
      kernel.vectorLoop(zero, constant(tiling.depth), tiling.lanes, [&](Value depth) {
        at[3] = Index::lanes(depth);
        Value query = kernel.splat(kernel.convert(kernel.pull(op.getQuery(), at), type));
        query = arith::MulFOp::create(kernel, query, vectorConstant(op.getScale().convertToFloat()));
        kernel.store(query, queries, {uniform(row), Index::lanes(depth)});
      });
      kernel.width = tiling.lanes;
      kernel.forLoop(zero, constant(tiling.paddedDepth()), tiling.lanes,
                     [&](Value depth) { storeVector(vectorConstant(0), sums, row, depth); });
      kernel.width = 1;
      memref::StoreOp::create(kernel, kernel.constant(type, lowest), max, row);
      memref::StoreOp::create(kernel, kernel.zero(type), total, row);
    });
  }

  /// Keys [first, first + panel), transposed: one row per element of a head.
  void transposeKeys(Value first) {
    Value lastKey = kernel.sub(keys, one);
    kernel.forLoop(zero, constant(tiling.panel()), tiling.lanes, [&](Value column) {
      kernel.vectorLoop(zero, constant(tiling.depth), tiling.lanes, [&](Value depth) {
        SmallVector<Value> rows;
        for (int64_t i = 0; i < tiling.lanes; ++i) {
          Value key = kernel.add(kernel.add(first, column), constant(i));
          rows.push_back(readKv(0, kernel.min(key, lastKey), depth));
        }
        for (auto [i, row] : llvm::enumerate(transposeSquare(kernel, rows)))
          storeVector(row, panel, kernel.add(depth, constant(i)), column);
      });
    });
  }

  /// Scores of a tile of rows and the panel of keys, into the weights at `column`.
  void score(Value firstRow, Value column) {
    kernel.width = tiling.lanes;
    int64_t vectors = tiling.vectors;
    SmallVector<Value> rows;
    for (int64_t r = 0; r < tiling.tileRows; ++r)
      rows.push_back(kernel.add(firstRow, constant(r)));
    SmallVector<Value> initial(tiling.tileRows * vectors, vectorConstant(0));
    SmallVector<Value> scores =
        kernel.forLoop(zero, constant(tiling.depth), 1, initial, [&](Value depth, ValueRange carried) {
          SmallVector<Value> next, right;
          for (int64_t v = 0; v < vectors; ++v)
            right.push_back(loadVector(panel, depth, constant(v * tiling.lanes)));
          for (int64_t r = 0; r < tiling.tileRows; ++r) {
            Value left = kernel.splat(loadScalar(queries, {rows[r], depth}));
            for (int64_t v = 0; v < vectors; ++v)
              next.push_back(vector::FMAOp::create(kernel, left, right[v], carried[r * vectors + v]));
          }
          return next;
        });
    for (int64_t r = 0; r < tiling.tileRows; ++r)
      for (int64_t v = 0; v < vectors; ++v)
        storeVector(scores[r * vectors + v], weights, rows[r], kernel.add(column, constant(v * tiling.lanes)));
    kernel.width = 1;
  }

  /// A row's scores of the keys from `block` on become weights relative to the row's maximum so far.
  void normalize(Value row, Value block) {
    kernel.width = tiling.lanes;
    Value left = kernel.sub(visible(row), block), before = loadScalar(max, row);
    Value masked = vectorConstant(-std::numeric_limits<double>::infinity()), largest;
    SmallVector<Value> scores;
    for (int64_t column = 0; column < tiling.keys; column += tiling.lanes) {
      Value valid = vector::CreateMaskOp::create(kernel, VectorType::get({tiling.lanes}, kernel.getI1Type()),
                                                 ValueRange{kernel.sub(left, constant(column))});
      Value score = arith::SelectOp::create(kernel, valid, loadVector(weights, row, constant(column)), masked);
      largest = largest ? Value(arith::MaximumFOp::create(kernel, largest, score)) : score;
      scores.push_back(score);
    }
    Value after =
        arith::MaximumFOp::create(kernel, before, kernel.reduce(vector::CombiningKind::MAXIMUMF, largest)).getResult();
    Value sum;
    for (auto [i, score] : llvm::enumerate(scores)) {
      Value weight = math::ExpOp::create(kernel, arith::SubFOp::create(kernel, score, kernel.splat(after)));
      storeVector(weight, weights, row, constant(i * tiling.lanes));
      sum = sum ? Value(arith::AddFOp::create(kernel, sum, weight)) : weight;
    }
    Value factor = math::ExpOp::create(kernel, arith::SubFOp::create(kernel, before, after));
    Value scaled = arith::MulFOp::create(kernel, loadScalar(total, row), factor);
    memref::StoreOp::create(
        kernel, arith::AddFOp::create(kernel, scaled, kernel.reduce(vector::CombiningKind::ADD, sum)), total, row);
    memref::StoreOp::create(kernel, factor, rescale, row);
    memref::StoreOp::create(kernel, after, max, row);
    kernel.width = 1;
  }

  /// Adds weighted values to `vectors` vectors of the sums of a tile of rows, at `depth`; the last may be masked.
  void accumulate(Value firstRow, Value block, Value depth, int64_t vectors, Value mask) {
    kernel.width = tiling.lanes;
    SmallVector<Value> rows, initial;
    auto columnAt = [&](int64_t v) { return kernel.add(depth, constant(v * tiling.lanes)); };
    for (int64_t r = 0; r < tiling.tileRows; ++r) {
      rows.push_back(kernel.add(firstRow, constant(r)));
      Value factor = kernel.splat(loadScalar(rescale, rows[r]));
      for (int64_t v = 0; v < vectors; ++v)
        initial.push_back(arith::MulFOp::create(kernel, loadVector(sums, rows[r], columnAt(v)), factor));
    }
    auto step = [&](Value key, ValueRange carried, bool checked) {
      Value position = kernel.add(block, key);
      SmallVector<Value> next, right;
      for (int64_t v = 0; v < vectors; ++v) {
        kernel.mask = v + 1 == vectors ? mask : Value();
        right.push_back(readKv(1, position, columnAt(v)));
      }
      kernel.mask = {};
      for (int64_t r = 0; r < tiling.tileRows; ++r) {
        Value left = kernel.splat(loadScalar(weights, {rows[r], key})), seen;
        if (checked)
          seen = arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, position, visible(rows[r]));
        for (int64_t v = 0; v < vectors; ++v) {
          Value value = right[v];
          if (checked)
            value = arith::SelectOp::create(kernel, seen, value, vectorConstant(0));
          next.push_back(vector::FMAOp::create(kernel, left, value, carried[r * vectors + v]));
        }
      }
      return next;
    };
    auto end = [&](Value row) {
      return kernel.min(clampToZero(kernel.sub(visible(row), block)), constant(tiling.keys));
    };
    Value seenByAll = end(rows.front());
    SmallVector<Value> added = kernel.forLoop(zero, seenByAll, 1, initial,
                                              [&](Value key, ValueRange carried) { return step(key, carried, false); });
    // What a row does not see may be anything, and 0 times NaN is NaN.
    if (op.getCausal())
      added = kernel.forLoop(seenByAll, end(rows.back()), 1, added,
                             [&](Value key, ValueRange carried) { return step(key, carried, true); });
    for (int64_t r = 0; r < tiling.tileRows; ++r)
      for (int64_t v = 0; v < vectors; ++v)
        storeVector(added[r * vectors + v], sums, rows[r], columnAt(v));
    kernel.width = 1;
  }

  void accumulateRows(Value firstRow, Value block) {
    int64_t step = tiling.vectors * tiling.lanes, whole = tiling.depth / step * step;
    kernel.forLoop(zero, constant(whole), step,
                   [&](Value depth) { accumulate(firstRow, block, depth, tiling.vectors, {}); });
    if (whole == tiling.depth)
      return;
    int64_t left = tiling.depth - whole, vectors = llvm::divideCeil(left, tiling.lanes);
    Value mask;
    if (left % tiling.lanes)
      mask = vector::CreateMaskOp::create(kernel, VectorType::get({tiling.lanes}, kernel.getI1Type()),
                                          ValueRange{constant(left % tiling.lanes)});
    accumulate(firstRow, block, constant(whole), vectors, mask);
  }

  void finish(Value row) {
    // A query that sees nothing gives zeros, not 0 / 0.
    Value sum = loadScalar(total, row);
    Value empty = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, sum, kernel.zero(type));
    Value divisor = arith::SelectOp::create(kernel, empty, kernel.constant(type, 1), sum);
    SmallVector<Index> at{uniform(batch), uniform(positionOf(row)), uniform(headOf(row)), {}};
    kernel.vectorLoop(zero, constant(tiling.depth), tiling.lanes, [&](Value depth) {
      Value value = arith::DivFOp::create(kernel, loadVector(sums, row, depth), kernel.splat(divisor));
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      at[3] = Index::lanes(depth);
      kernel.storeOutputs(at);
    });
  }

  void workgroup(int64_t group, Value kvHeads) {
    zero = constant(0);
    one = constant(1);
    positions = kernel.size(op.getQuery(), 1);
    Value blocks = kernel.floorDiv(kernel.add(positions, constant(tiling.positions - 1)), tiling.positions);
    SmallVector<Value> place = kernel.delinearize(
        kernel.workgroup, {blocks, kernel.size(op.getQuery(), 0), kvHeads, constant(group / tiling.heads)});
    batch = place[1];
    kvHead = place[2];
    firstHead = kernel.add(kernel.mul(kvHead, constant(group)), kernel.mul(place[3], constant(tiling.heads)));
    // The last positions see most: they begin first, so that threads end together.
    firstPosition = kernel.mul(kernel.sub(kernel.sub(blocks, one), place[0]), constant(tiling.positions));
    keys = keyCount();

    int64_t rowCount = tiling.rows(), depth = tiling.paddedDepth();
    queries = scratch({rowCount, depth});
    sums = scratch({rowCount, depth});
    weights = scratch({rowCount, tiling.keys});
    panel = scratch({depth, tiling.panel()});
    max = scratch({rowCount});
    total = scratch({rowCount});
    rescale = scratch({rowCount});

    Value count = kernel.mul(kernel.min(kernel.sub(positions, firstPosition), constant(tiling.positions)),
                             constant(tiling.heads));
    Value rows = kernel.mul(kernel.floorDiv(kernel.add(count, constant(tiling.tileRows - 1)), tiling.tileRows),
                            constant(tiling.tileRows));
    start(rows);
    auto tilesThatSee = [&](Value key, function_ref<void(Value)> body) {
      kernel.forLoop(zero, rows, tiling.tileRows, [&](Value row) {
        Value last = visible(kernel.add(row, constant(tiling.tileRows - 1)));
        kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, key, last), [&] { body(row); });
      });
    };
    Value end = visible(kernel.sub(rows, one));
    kernel.forLoop(zero, end, tiling.keys, [&](Value block) {
      Value blockEnd = kernel.min(kernel.sub(end, block), constant(tiling.keys));
      kernel.forLoop(zero, blockEnd, tiling.panel(), [&](Value column) {
        Value first = kernel.add(block, column);
        transposeKeys(first);
        tilesThatSee(first, [&](Value row) { score(row, column); });
      });
      tilesThatSee(block, [&](Value row) {
        kernel.forLoop(row, kernel.add(row, constant(tiling.tileRows)), 1, [&](Value r) { normalize(r, block); });
        accumulateRows(row, block);
      });
    });
    kernel.forLoop(zero, count, 1, [&](Value row) { finish(row); });
  }
};

struct AttentionModel : KernelOpInterface::ExternalModel<AttentionModel, AttentionOp> {
  static int64_t kvHeads(AttentionOp op) {
    Value source = op.getCache() ? op.getCache() : op.getKey();
    return cast<RankedTensorType>(source.getType()).getDimSize(2);
  }
  static int64_t groupOf(AttentionOp op) {
    return cast<RankedTensorType>(op.getQuery().getType()).getDimSize(2) / kvHeads(op);
  }
  static Type accumulator(AttentionOp op) { return defaultAccumulatorType(getElementTypeOrSelf(op.getQuery())); }
  static int64_t depthOf(AttentionOp op) { return cast<RankedTensorType>(op.getQuery().getType()).getDimSize(3); }

  bool isMain(Operation *) const { return true; }
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    auto attention = cast<AttentionOp>(op);
    int64_t bytes = accumulator(attention).getIntOrFloatBitWidth() / 8, group = groupOf(attention);
    // The register tile is that of a matmul: sums, two vectors of the right side, one scalar of the left.
    int64_t tileRows = std::clamp<int64_t>((target.getVectorRegisters() - 6) / 2, 1, 12);
    auto tiling = [&](int64_t most) {
      Tiling t{tileRows, 64, 1, group, target.getVectorBytes() / bytes, depthOf(attention)};
      auto fits = [&] { return t.scratch() * bytes <= 65536; };
      t.tileRows = std::min(tileRows, most * group);
      while (t.heads > 1 && (group % t.heads != 0 || !fits()))
        --t.heads;
      for (t.positions = std::clamp<int64_t>(48 / t.heads, 1, most); t.positions > 1 && !fits();)
        --t.positions;
      t.tileRows = llvm::divideCeil(t.positions * t.heads, llvm::divideCeil(t.positions * t.heads, tileRows));
      return VariantAttr::get(op->getContext(), most == 1 ? 1 : 0, {t.tileRows, t.keys}, {t.positions, t.heads},
                              /*unroll=*/1,
                              /*depth=*/0, /*stage=*/{}, "fma");
    };
    return ScheduleAttr::get(op->getContext(), {tiling(1), tiling(48)});
  }
  AffineExpr getRows(Operation *op, DimsAnalysis &dims) const { return dims.get(cast<AttentionOp>(op).getQuery())[1]; }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims query = dims.get(cast<AttentionOp>(op).getQuery());
    return query[1].ceilDiv(variant.getWorkgroup()[0]) * query[0] * query[2].floorDiv(variant.getWorkgroup()[1]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto attention = cast<AttentionOp>(op);
    Type type = accumulator(attention);
    Tiling tiling{variant.getTile()[0],      variant.getTile()[1], variant.getWorkgroup()[0],
                  variant.getWorkgroup()[1], kernel.lanesOf(type), depthOf(attention)};
    if (tiling.keys % tiling.panel() != 0)
      return op->emitOpError("tile keys must be a multiple of ") << tiling.panel() << ", got: " << tiling.keys;
    int64_t group = groupOf(attention);
    if (group % tiling.heads != 0)
      return op->emitOpError("workgroup heads must divide the ")
             << group << " that read the same keys, got: " << tiling.heads;
    int64_t bytes = tiling.scratch() * type.getIntOrFloatBitWidth() / 8;
    if (bytes > kMaxScratchBytes)
      return op->emitOpError("needs ") << bytes << " bytes of scratch, the most is " << kMaxScratchBytes;
    AttentionEmitter emitter{attention, kernel, type, tiling};
    emitter.workgroup(group, kernel.constantIndex(kvHeads(attention)));
    return success();
  }

  static constexpr int64_t kMaxScratchBytes = 1 << 20; // of a thread's stack
};

/// Writes rows of keys and values into the buffer that the result shares with the cache.
struct KvAppendModel : KernelOpInterface::ExternalModel<KvAppendModel, KvAppendOp> {
  bool isMain(Operation *) const { return true; }
  bool hasResultAtIndex(Operation *) const { return false; }
  bool readsOnce(Operation *, unsigned operand) const { return operand < 2; }
  int64_t getTiedOperand(Operation *, unsigned) const { return 2; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    return singleVariant(op->getContext(), {1, target.getVectorBytes() / 4}, {64});
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
    int64_t lanes = kernel.lanesOf(getElementTypeOrSelf(append.getKey()));
    Value capacity = kernel.size(append.getCache(), 3), depth = kernel.size(append.getKey(), 3);
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
