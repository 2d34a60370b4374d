//===- AttentionFewRows.cpp - attention with lanes along a head -----------===//
//
// Every row of keys and values is read once, as vectors. What lanes hold of
// the scores of as many keys is added up by halves: each step of a tree leaves
// half as many vectors, each with the sums of twice as many keys. A register
// tile is `tileRows` rows by `tileColumns` elements of a head.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/AttentionEmitter.h"

namespace mlir::dsc {
namespace {

struct FewRowsEmitter : AttentionEmitter {
  Value queries, sums, weights; // [row, depth], the same, [row, key]
  Value splitEnd;
  Value max, total; // [row, lane]; `total` in parts, one per lane
  Value rescale;    // the same: the largest of a block in parts, then the factor of what was summed before

  FewRowsEmitter(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan)
      : AttentionEmitter(op, kernel, plan) {
    int64_t rows = llvm::alignTo(plan.rows(), plan.tileRows);
    queries = allocate({rows, plan.paddedDepth()});
    sums = allocate({rows, plan.paddedDepth()});
    weights = allocate({rows, plan.keys});
    max = allocate({rows, plan.lanes});
    total = allocate({rows, plan.lanes});
    rescale = allocate({rows, plan.lanes});
  }

  /// End of the keys that a row sees in this split.
  Value seen(Value row) { return kernel.min(visible(row), splitEnd); }

  SmallVector<Value> tileRows(Value firstRow) {
    SmallVector<Value> rows;
    for (int64_t r = 0; r < plan.tileRows; ++r)
      rows.push_back(kernel.add(firstRow, constant(r)));
    return rows;
  }

  /// Lane `l` of the result is lane `from(l)` of the operands, which are seen as one vector.
  Value shuffle(Value x, Value y, function_ref<int64_t(int64_t)> from) {
    SmallVector<int64_t> lanes = llvm::map_to_vector(llvm::seq(plan.lanes), from);
    return vector::ShuffleOp::create(kernel, x, y, lanes);
  }

  /// Lane `l` becomes the sum of lanes `l` and `l ^ stride`: of `x` where l has no bit of `stride`, else of `y`.
  Value addHalves(Value x, Value y, int64_t stride) {
    Value own = shuffle(x, y, [&](int64_t l) { return l & stride ? plan.lanes + l : l; });
    Value other = shuffle(x, y, [&](int64_t l) { return l & stride ? plan.lanes + l - stride : l + stride; });
    return arith::AddFOp::create(kernel, own, other);
  }
  /// Vector `i` holds parts of key `i` in lanes that agree in all bits below `stride`.
  Value addTree(SmallVector<Value> vectors, int64_t stride) {
    for (; vectors.size() > 1; stride *= 2) {
      for (size_t i = 0; i < vectors.size(); i += 2)
        vectors[i / 2] = addHalves(vectors[i], vectors[i + 1], stride);
      vectors.resize(vectors.size() / 2);
    }
    return vectors[0];
  }
  Value largestLane(Value value) {
    for (int64_t stride = plan.lanes / 2; stride; stride /= 2)
      value = larger(value, shuffle(value, value, [&](int64_t l) { return l ^ stride; }));
    return value;
  }

  void start(Value row) {
    storeQuery(row, queries, row);
    kernel.width = plan.lanes;
    kernel.forLoop(zero, constant(plan.paddedDepth()), plan.lanes,
                   [&](Value depth) { storeVector(vectorConstant(0), sums, row, depth); });
    storeVector(vectorConstant(lowest), max, row, zero);
    storeVector(vectorConstant(0), total, row, zero);
    kernel.width = 1;
  }

  /// Keys that meet a tile of rows at once: there is room for as many sums as of values.
  int64_t keysTogether() const { return std::min<int64_t>(plan.lanes, llvm::bit_floor<uint64_t>(plan.vectors())); }

  /// A vector of scores of a row, from `block` + `key` on: -inf of what the row does not see.
  Value finished(Value row, Value block, Value key, Value score) {
    auto flags = VectorType::get({plan.lanes}, kernel.getI1Type());
    auto before = [&](Value position) {
      Value count = kernel.sub(kernel.sub(position, block), key);
      return vector::CreateMaskOp::create(kernel, flags, ValueRange{count});
    };
    Value valid = before(seen(row));
    if (op.getWindow()) // not early, and valid
      valid = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, before(firstVisible(row)), valid);
    score = finishScore(score);
    if (op.getMask()) {
      kernel.mask = valid;
      score = arith::AddFOp::create(kernel, score, maskOf(row, kernel.add(block, key)));
      kernel.mask = {};
    }
    return arith::SelectOp::create(kernel, valid, score, vectorConstant(-std::numeric_limits<double>::infinity()));
  }

  /// Scores of a tile of rows and as many keys as a vector has lanes, from `block` + `key` on; all exist if `whole`.
  /// The largest of each row, beginning with `largest`.
  SmallVector<Value> score(Value firstRow, Value block, Value key, bool whole, ValueRange largest) {
    SmallVector<Value> rows = tileRows(firstRow);
    int64_t together = keysTogether();
    Value last = kernel.sub(keys, one), begin = kernel.add(block, key);
    SmallVector<SmallVector<Value>> parts(plan.tileRows);
    kernel.width = plan.lanes;
    SmallVector<Value> initial(plan.tileRows * together, vectorConstant(0));
    for (int64_t first = 0; first < plan.lanes; first += together) {
      SmallVector<Value> positions;
      for (int64_t i = 0; i < together; ++i) {
        Value position = kernel.add(begin, constant(first + i));
        positions.push_back(whole ? position : kernel.min(position, last));
        for (int64_t depth = 0; depth < plan.depth; depth += kvLine())
          prefetchKv(1, positions.back(), Index::lanes(constant(depth))); // what accumulate() reads next
      }
      SmallVector<Value> products =
          kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, initial, [&](Value depth, ValueRange carried) {
            SmallVector<Value> next(carried), left;
            for (Value row : rows)
              left.push_back(loadVector(queries, row, depth));
            for (auto [i, position] : llvm::enumerate(positions)) {
              Value right = readKv(0, position, Index::lanes(depth));
              for (int64_t r = 0; r < plan.tileRows; ++r) {
                Value &sum = next[r * together + i];
                sum = vector::FMAOp::create(kernel, left[r], right, sum);
              }
            }
            return next;
          });
      for (int64_t r = 0; r < plan.tileRows; ++r)
        parts[r].push_back(addTree(SmallVector<Value>(ArrayRef(products).slice(r * together, together)), 1));
    }
    SmallVector<Value> next;
    for (int64_t r = 0; r < plan.tileRows; ++r) {
      Value scores = finished(rows[r], block, key, addTree(parts[r], together));
      storeVector(scores, weights, rows[r], key);
      next.push_back(larger(scores, largest[r]));
    }
    kernel.width = 1;
    return next;
  }

  /// The scores of a tile of rows and `count` keys; the largest in each lane go to `rescale`.
  void scoreTile(Value firstRow, Value block, Value count) {
    SmallVector<Value> rows = tileRows(firstRow), largest;
    kernel.width = plan.lanes;
    for (Value row : rows)
      largest.push_back(loadVector(max, row, zero));
    kernel.width = 1;
    Value whole = kernel.mul(kernel.floorDiv(count, plan.lanes), constant(plan.lanes));
    largest = kernel.forLoop(zero, whole, plan.lanes, largest,
                             [&](Value key, ValueRange carried) { return score(firstRow, block, key, true, carried); });
    largest = kernel.forLoop(whole, count, plan.lanes, largest, [&](Value key, ValueRange carried) {
      return score(firstRow, block, key, false, carried);
    });
    kernel.width = plan.lanes;
    for (auto [row, value] : llvm::zip_equal(rows, largest))
      storeVector(value, rescale, row, zero);
    kernel.width = 1;
  }

  /// A row's scores of the keys from `block` on become weights relative to the row's maximum so far.
  void normalize(Value row, Value count) {
    kernel.width = plan.lanes;
    Value before = loadVector(max, row, zero), after = largestLane(loadVector(rescale, row, zero));
    Value factor = exponential(arith::SubFOp::create(kernel, before, after));
    Value sum = arith::MulFOp::create(kernel, loadVector(total, row, zero), factor);
    sum = kernel.forLoop(zero, count, plan.lanes, sum, [&](Value key, ValueRange carried) {
      Value weight = exponential(arith::SubFOp::create(kernel, loadVector(weights, row, key), after));
      storeVector(weight, weights, row, key);
      return SmallVector<Value>{arith::AddFOp::create(kernel, carried[0], weight)};
    })[0];
    storeVector(sum, total, row, zero);
    storeVector(factor, rescale, row, zero);
    storeVector(after, max, row, zero);
    kernel.width = 1;
  }

  /// Adds weighted values to `vectors` vectors of the sums of a tile of rows, at `depth`; the last may be masked.
  void accumulate(Value firstRow, Value block, Value depth, int64_t vectors, Value mask) {
    kernel.width = plan.lanes;
    SmallVector<Value> rows = tileRows(firstRow), initial;
    auto columnAt = [&](int64_t v) { return kernel.add(depth, constant(v * plan.lanes)); };
    for (Value row : rows) {
      Value factor = loadVector(rescale, row, zero);
      for (int64_t v = 0; v < vectors; ++v)
        initial.push_back(arith::MulFOp::create(kernel, loadVector(sums, row, columnAt(v)), factor));
    }
    Value blockEnd = kernel.min(kernel.add(block, constant(plan.keys)), splitEnd);
    auto step = [&](Value key, ValueRange carried, bool checked) {
      Value position = kernel.add(block, key);
      SmallVector<Value> next(carried), left, isSeen;
      for (Value row : rows) {
        left.push_back(kernel.splat(loadScalar(weights, {row, key})));
        if (checked)
          isSeen.push_back(isLess(position, visible(row)));
      }
      for (int64_t v = 0; v < vectors; ++v) {
        kernel.mask = v + 1 == vectors ? mask : Value();
        Value right = readKv(1, position, Index::lanes(columnAt(v)));
        if (v * plan.lanes % kvLine() == 0)
          prefetchKv(0, kernel.add(blockEnd, key), Index::lanes(columnAt(v))); // what score() reads next
        kernel.mask = {};
        for (int64_t r = 0; r < plan.tileRows; ++r) {
          Value value = checked ? arith::SelectOp::create(kernel, isSeen[r], right, vectorConstant(0)) : right;
          Value &sum = next[r * vectors + v];
          sum = vector::FMAOp::create(kernel, left[r], value, sum);
        }
      }
      return next;
    };
    auto end = [&](Value row) { return kernel.min(clampToZero(kernel.sub(seen(row), block)), constant(plan.keys)); };
    Value seenByAll = end(rows.front());
    SmallVector<Value> added = kernel.forLoop(zero, seenByAll, 1, initial,
                                              [&](Value key, ValueRange carried) { return step(key, carried, false); });
    // What a row does not see may be anything, and 0 times NaN is NaN.
    if (op.getCausal())
      added = kernel.forLoop(seenByAll, end(rows.back()), 1, added,
                             [&](Value key, ValueRange carried) { return step(key, carried, true); });
    for (int64_t r = 0; r < plan.tileRows; ++r)
      for (int64_t v = 0; v < vectors; ++v)
        storeVector(added[r * vectors + v], sums, rows[r], columnAt(v));
    kernel.width = 1;
  }

  void accumulateRows(Value firstRow, Value block) {
    int64_t step = plan.tileColumns, whole = plan.depth / step * step;
    kernel.forLoop(zero, constant(whole), step,
                   [&](Value depth) { accumulate(firstRow, block, depth, plan.vectors(), {}); });
    if (whole == plan.depth)
      return;
    int64_t left = plan.depth - whole;
    Value mask;
    if (left % plan.lanes)
      mask = vector::CreateMaskOp::create(kernel, VectorType::get({plan.lanes}, kernel.getI1Type()),
                                          ValueRange{constant(left % plan.lanes)});
    accumulate(firstRow, block, constant(whole), llvm::divideCeil(left, plan.lanes), mask);
  }

  /// Where split `split` begins. Those that are not empty are as long, but for whole vectors of keys, at least a
  /// block, and spread evenly among the others: threads take runs of them.
  Value splitBegin(Value split) {
    Value least = kernel.floorDiv(keys, plan.keys);
    Value used = kernel.min(arith::MaxSIOp::create(kernel, least, one), constant(plan.splits));
    Value number = kernel.floorDiv(kernel.mul(split, used), plan.splits);
    Value begin = kernel.createOrFold<arith::DivUIOp>(kernel.mul(number, keys), used);
    return kernel.min(kernel.mul(ceilDiv(begin, plan.lanes), constant(plan.lanes)), keys);
  }

  /// Leaves what a row has to the second launch.
  void storePartial(Value split, Value row) {
    kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, [&](Value depth) {
      kernel.store(loadVector(sums, row, depth), kernel.partial, partialIndex(split, row, Index::lanes(depth)));
    });
    kernel.store(loadScalar(max, {row, zero}), kernel.partial, partialIndex(split, row, uniform(constant(plan.depth))));
    kernel.store(sumOfWeights(row), kernel.partial, partialIndex(split, row, uniform(constant(plan.depth + 1))));
  }

  Value sumOfWeights(Value row) {
    kernel.width = plan.lanes;
    Value sum = kernel.reduce(vector::CombiningKind::ADD, loadVector(total, row, zero));
    kernel.width = 1;
    return sum;
  }

  void finish(Value row) {
    Value divisor = orOne(sumOfWeights(row));
    storeResult(row, [&](Value depth) {
      return arith::DivFOp::create(kernel, loadVector(sums, row, depth), kernel.splat(divisor));
    });
  }

  void workgroup() {
    Value blocks = ceilDiv(positions, plan.positions);
    SmallVector<Value> at =
        kernel.delinearize(kernel.workgroup, {blocks, kernel.size(op.getQuery(), 0), constant(kvHeads(op)),
                                              constant(groupSize(op) / plan.heads), constant(plan.splits)});
    place(kernel.mul(at[0], constant(plan.positions)), at[1], at[2], at[3]);
    Value count =
        kernel.mul(kernel.min(kernel.sub(positions, firstPosition), constant(plan.positions)), constant(plan.heads));
    Value rows = kernel.mul(ceilDiv(count, plan.tileRows), constant(plan.tileRows));
    kernel.forLoop(zero, rows, 1, [&](Value row) { start(row); });
    splitEnd = splitBegin(kernel.add(at[4], one));
    Value end = seen(kernel.sub(rows, one));
    Value begin = splitBegin(at[4]);
    if (op.getWindow()) // rows see nothing before that of the first one
      begin = arith::MaxSIOp::create(kernel, begin, firstVisible(zero));
    kernel.forLoop(begin, end, plan.keys, [&](Value block) {
      Value blockEnd = kernel.min(kernel.sub(end, block), constant(plan.keys));
      kernel.forLoop(zero, rows, plan.tileRows, [&](Value row) {
        scoreTile(row, block, blockEnd);
        kernel.forLoop(row, kernel.add(row, constant(plan.tileRows)), 1, [&](Value r) { normalize(r, blockEnd); });
        accumulateRows(row, block);
      });
    });
    kernel.forLoop(zero, count, 1, [&](Value row) { plan.splits > 1 ? storePartial(at[4], row) : finish(row); });
  }
};

} // namespace

void emitAttentionOfFewRows(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan) {
  FewRowsEmitter(op, kernel, plan).workgroup();
}

} // namespace mlir::dsc
