//===- AttentionManyRows.cpp - attention with lanes along queries ---------===//
//
// Scores lie transposed, one row per key: maxima and sums of a query are
// vertical, and both products multiply a scalar of the cache, read where it
// is, into vectors of queries or weights. A register tile is `tileRows` keys
// or elements of a head by `tileColumns` queries.
//
// With dot products, lanes hold pairs: of adjacent elements of a query, and of
// the weights of adjacent keys. Keys and values are staged as pairs. Weights
// that are integers are relative to the greatest of their block, not of all
// before, so that a block far below loses no digits.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/AttentionTiles.h"
#include "passes/codegen/DotProducts.h"

namespace mlir::dsc {
namespace {

struct ManyRowsEmitter : AttentionTiles {
  using AttentionTiles::AttentionTiles;

  void start(Value tile) {
    Value firstRow = kernel.mul(tile, constant(plan.tileColumns));
    kernel.forLoop(zero, constant(plan.tileColumns), 1, [&](Value i) {
      Value row = kernel.add(firstRow, i);
      storeQuery(row, rows, i);
      if (plan.dots)
        storeHalves(constant(plan.paddedDepth()), [&](Value depth) { return loadVector(rows, i, depth); }, rowHalves, i,
                    queryScales, {tile, i});
      Value limit = arith::IndexCastOp::create(kernel, kernel.getI32Type(), visible(row));
      memref::StoreOp::create(kernel, limit, limits, ValueRange{tile, i});
      if (starts) {
        Value start = arith::IndexCastOp::create(kernel, kernel.getI32Type(), firstVisible(row));
        memref::StoreOp::create(kernel, start, starts, ValueRange{tile, i});
      }
    });
    Value base = depthRow(tile, zero);
    if (plan.dots)
      transposePairs(tile);
    else
      transpose(rows, queries, zero, base, plan.tileColumns, plan.paddedDepth());
    kernel.width = plan.lanes;
    SmallVector<Value> zeros(plan.vectors(), vectorConstant(0)), lows(plan.vectors(), vectorConstant(lowest));
    kernel.forLoop(base, kernel.add(base, constant(plan.paddedDepth())), 1,
                   [&](Value row) { storeVectors(zeros, sums, row); });
    storeVectors(lows, max, tile);
    storeVectors(zeros, total, tile);
    kernel.width = 1;
  }

  /// What the mask adds to the scores of a block.
  void readMask(const Block &block) {
    Value firstRow = kernel.mul(block.tile, constant(plan.tileColumns));
    kernel.width = 1;
    kernel.forLoop(zero, constant(sameForAllRows() ? 1 : plan.tileColumns), 1, [&](Value i) {
      kernel.vectorLoop(zero, kernel.min(block.count, kernel.sub(keys, block.first)), plan.lanes, [&](Value key) {
        Value added = maskOf(kernel.add(firstRow, i), kernel.add(block.first, key));
        kernel.mask = {};
        storeVector(added, maskRows, i, key);
      });
    });
    if (masks)
      transpose(maskRows, masks, zero, zero, plan.tileColumns, llvm::alignTo(plan.keys, plan.lanes));
    kernel.width = plan.lanes;
  }

  /// What sums of products begin with.
  Value noSum() {
    return plan.scaled ? arith::ConstantOp::create(kernel, kernel.getZeroAttr(words())) : vectorConstant(0);
  }
  Value scaledSum(Value integers, Value scale) {
    return arith::MulFOp::create(kernel, arith::SIToFPOp::create(kernel, scale.getType(), integers), scale);
  }

  /// Keys that a turn of a loop weighs: of a block, so many that each has a score.
  int64_t keysTogether() {
    return !plan.dots ? 1 : plan.scaled && plan.tileRows % 4 == 0 && plan.keys % 4 == 0 ? 4 : 2;
  }

  /// Stores the scores of all keys of a block; the largest ones, beginning with `largest`.
  SmallVector<Value> score(const Block &block, SmallVector<Value> largest) {
    int64_t vectors = plan.vectors();
    SmallVector<Value> ofQueries = plan.scaled ? loadVectors(queryScales, block.tile) : SmallVector<Value>();
    return kernel.forLoop(zero, block.count, plan.tileRows, largest, [&](Value firstKey, ValueRange carried) {
      SmallVector<Value> keyNumbers, initial(plan.tileRows * vectors, noSum());
      for (int64_t r = 0; r < plan.tileRows; ++r)
        keyNumbers.push_back(kernel.add(firstKey, constant(r)));
      int64_t step = plan.dots ? 2 : 1, together = plan.scaled && plan.depth % (4 * step) == 0 ? 4 : 1;
      Value firstQuery = kernel.mul(block.tile, constant(queryRows()));
      SmallVector<Value> scores =
          kernel.forLoop(zero, constant(plan.depth), step * together, initial, [&](Value first, ValueRange carried) {
            SmallVector<Value> acc(carried);
            for (int64_t i = 0; i < together; ++i) {
              Value depth = kernel.add(first, constant(i * step));
              Value row = kernel.add(firstQuery, kernel.floorDiv(depth, step));
              SmallVector<Value> query = plan.dots ? loadPairs(queries, row) : loadVectors(queries, row);
              for (auto [r, key] : llvm::enumerate(keyNumbers)) {
                Value left = plan.dots ? asHalves(readPair(0, key, depth)) : readScalar(0, block, key, depth);
                MutableArrayRef<Value> ofKey = MutableArrayRef(acc).slice(r * vectors, vectors);
                if (plan.dots)
                  multiplyGroups(kernel, left, query, ofKey);
                else
                  for (auto [vector, sum] : llvm::zip_equal(query, ofKey))
                    sum = vector::FMAOp::create(kernel, left, vector, sum);
              }
            }
            return acc;
          });
      SmallVector<Value> most(carried);
      for (auto [r, key] : llvm::enumerate(keyNumbers)) {
        MutableArrayRef<Value> row = MutableArrayRef(scores).slice(r * vectors, vectors);
        Value ofKey = plan.scaled ? kernel.splat(loadScalar(keyScales, {zero, key})) : Value();
        for (auto [v, value] : llvm::enumerate(row)) {
          if (plan.scaled)
            value = scaledSum(value, arith::MulFOp::create(kernel, ofQueries[v], ofKey));
          value = finishScore(value);
          if (maskRows) {
            Value added = masks ? loadVector(masks, key, column(v)) : kernel.splat(loadScalar(maskRows, {zero, key}));
            value = arith::AddFOp::create(kernel, value, added);
          }
        }
        if (block.masked)
          for (auto [value, mask] : llvm::zip_equal(row, seen(block, key)))
            value =
                arith::SelectOp::create(kernel, mask, value, vectorConstant(-std::numeric_limits<double>::infinity()));
        storeVectors(row, weights, key);
        for (int64_t v = 0; v < vectors; ++v)
          most[v] = larger(row[v], most[v]);
      }
      return most;
    });
  }

  /// The same where a condition says at run time whether scores are masked.
  SmallVector<Value> scoreWhere(const Block &block, ArrayRef<Value> largest) {
    auto branch = scf::IfOp::create(kernel, ValueRange(largest).getTypes(), block.whole, /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(kernel);
    kernel.setInsertionPointToStart(branch.thenBlock());
    Block all{block.tile, block.first, constant(plan.keys), constant(plan.keys), /*masked=*/false, {}};
    scf::YieldOp::create(kernel, score(all, SmallVector<Value>(largest)));
    kernel.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(kernel, score(block, SmallVector<Value>(largest)));
    return branch.getResults();
  }

  /// Factors of sums, for the queries of each vector.
  struct Factors {
    SmallVector<Value> before, block; // of what was summed before, and of the block's sum
  };

  /// Scores become weights relative to the largest so far, or to the block's largest if they are integers.
  Factors normalize(const Block &block) {
    SmallVector<Value> before = loadVectors(max, block.tile), start = before;
    if (plan.scaled)
      llvm::fill(start, vectorConstant(lowest));
    SmallVector<Value> largest = block.whole ? scoreWhere(block, start) : score(block, start), after = largest;
    Factors factors;
    for (int64_t v = 0; v < plan.vectors(); ++v) {
      if (plan.scaled) {
        after[v] = larger(largest[v], before[v]);
        factors.block.push_back(exponential(arith::SubFOp::create(kernel, largest[v], after[v])));
      }
      factors.before.push_back(exponential(arith::SubFOp::create(kernel, before[v], after[v])));
    }
    storeVectors(after, max, block.tile);
    SmallVector<Value> summed = loadVectors(total, block.tile), noWeight(plan.vectors(), vectorConstant(0));
    for (int64_t v = 0; v < plan.vectors(); ++v)
      summed[v] = arith::MulFOp::create(kernel, summed[v], factors.before[v]);
    auto weigh = [&](Value key, MutableArrayRef<Value> sum) {
      SmallVector<Value> values = loadVectors(weights, key);
      for (int64_t v = 0; v < plan.vectors(); ++v) {
        values[v] = exponential(arith::SubFOp::create(kernel, values[v], largest[v]));
        sum[v] = arith::AddFOp::create(kernel, sum[v], values[v]);
      }
      return values;
    };
    Value toIntegers = vectorConstant(kLargestWeight);
    SmallVector<Value> ofBlock = kernel.forLoop(
        zero, block.count, keysTogether(), plan.scaled ? noWeight : summed, [&](Value first, ValueRange carried) {
          SmallVector<Value> sum(carried);
          if (!plan.dots) {
            storeVectors(weigh(first, sum), weights, first);
            return sum;
          }
          // Keys behind the last one have a score of -inf.
          for (int64_t i = 0; i < keysTogether(); i += 2) {
            Value key = kernel.add(first, constant(i));
            SmallVector<Value> values = weigh(key, sum), others = weigh(kernel.add(key, one), sum);
            for (int64_t v = 0; v < plan.vectors(); ++v)
              vector::StoreOp::create(kernel, pairWords(values[v], others[v], toIntegers), pairs,
                                      ValueRange{kernel.floorDiv(key, 2), column(v)});
          }
          return sum;
        });
    for (int64_t v = 0; v < plan.vectors(); ++v)
      summed[v] = plan.scaled ? vector::FMAOp::create(kernel, ofBlock[v], factors.block[v], summed[v]) : ofBlock[v];
    storeVectors(summed, total, block.tile);
    return factors;
  }

  /// `acc` plus the weighted values of one key; where `checked`, for the queries that see it.
  SmallVector<Value> addKey(const Block &block, ArrayRef<Value> depths, Value key, ValueRange acc, bool checked) {
    SmallVector<Value> next, weight = loadVectors(weights, key), mask;
    if (checked)
      mask = seen(block, key);
    for (auto [r, depth] : llvm::enumerate(depths)) {
      Value left = readScalar(1, block, key, depth);
      for (int64_t v = 0; v < plan.vectors(); ++v) {
        Value sum = acc[r * plan.vectors() + v], added = vector::FMAOp::create(kernel, left, weight[v], sum);
        next.push_back(checked ? Value(arith::SelectOp::create(kernel, mask[v], added, sum)) : added);
      }
    }
    return next;
  }

  /// The same of two keys.
  SmallVector<Value> addPair(const Block &block, ArrayRef<Value> depths, Value pair, ValueRange acc, bool checked) {
    SmallVector<Value> next, weight = loadPairs(pairs, pair), masks[2];
    Value parts[2];
    if (checked)
      for (int64_t i : {0, 1}) {
        masks[i] = seen(block, kernel.add(kernel.mul(pair, constant(2)), constant(i)));
        parts[i] = kernel.splat(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(i ? 0xffff0000 : 0xffff)));
      }
    for (auto [r, depth] : llvm::enumerate(depths)) {
      Value left = readPair(1, pair, kernel.mul(depth, constant(2)));
      for (int64_t v = 0; v < plan.vectors(); ++v) {
        Value sum = acc[r * plan.vectors() + v];
        if (!checked)
          sum = multiplyGroups(kernel, asHalves(left), weight[v], sum);
        for (int64_t i = 0; checked && i < 2; ++i) {
          Value only = asHalves(arith::AndIOp::create(kernel, left, parts[i]));
          sum = arith::SelectOp::create(kernel, masks[i][v], multiplyGroups(kernel, only, weight[v], sum), sum);
        }
        next.push_back(sum);
      }
    }
    return next;
  }

  /// Adds the weighted values of a block to elements [depth, depth + count) of the sums.
  void accumulate(const Block &block, const Factors &factors, Value depth, int64_t count) {
    if (plan.scaled)
      return accumulateScaled(block, factors, depth, count);
    int64_t vectors = plan.vectors();
    SmallVector<Value> depths, initial;
    for (int64_t r = 0; r < count; ++r) {
      depths.push_back(kernel.add(depth, constant(r)));
      for (auto [v, sum] : llvm::enumerate(loadVectors(sums, depthRow(block.tile, depths[r]))))
        initial.push_back(arith::MulFOp::create(kernel, sum, factors.before[v]));
    }
    auto step = [&](Value key, ValueRange acc, bool checked) {
      return plan.dots ? addPair(block, depths, key, acc, checked) : addKey(block, depths, key, acc, checked);
    };
    int64_t each = plan.dots ? 2 : 1;
    // What a row does not see may be anything, and 0 times NaN is NaN.
    bool checks = block.masked && op.getCausal();
    Value unchecked = checks ? kernel.floorDiv(block.seenByAll, each) : ceilDiv(block.seenByAll, each);
    SmallVector<Value> added = kernel.forLoop(zero, unchecked, 1, initial,
                                              [&](Value i, ValueRange carried) { return step(i, carried, false); });
    if (checks)
      added = kernel.forLoop(unchecked, ceilDiv(block.count, each), 1, added,
                             [&](Value i, ValueRange carried) { return step(i, carried, true); });
    for (int64_t r = 0; r < count; ++r)
      storeVectors(ArrayRef(added).slice(r * vectors, vectors), sums, depthRow(block.tile, depths[r]));
  }

  /// The same of integers: what a query does not see has a weight of 0.
  void accumulateScaled(const Block &block, const Factors &factors, Value depth, int64_t count) {
    int64_t vectors = plan.vectors();
    SmallVector<Value> initial(count * vectors, noSum());
    int64_t together = keysTogether() / 2;
    SmallVector<Value> added =
        kernel.forLoop(zero, ceilDiv(block.count, 2), together, initial, [&](Value first, ValueRange carried) {
          SmallVector<Value> acc(carried);
          for (int64_t i = 0; i < together; ++i) {
            Value pair = kernel.add(first, constant(i));
            SmallVector<Value> weight = loadPairs(pairs, pair);
            for (int64_t r = 0; r < count; ++r) {
              Value element = kernel.mul(kernel.add(depth, constant(r)), constant(2));
              Value left = asHalves(readPair(1, pair, element));
              multiplyGroups(kernel, left, weight, MutableArrayRef(acc).slice(r * vectors, vectors));
            }
          }
          return acc;
        });
    for (int64_t r = 0; r < count; ++r) {
      Value at = kernel.add(depth, constant(r)), row = depthRow(block.tile, at);
      Value scale = arith::MulFOp::create(kernel, kernel.splat(loadScalar(valueScales, {zero, at})),
                                          vectorConstant(1 / kLargestWeight));
      SmallVector<Value> values = loadVectors(sums, row);
      for (int64_t v = 0; v < vectors; ++v) {
        Value before = arith::MulFOp::create(kernel, values[v], factors.before[v]);
        Value sum = scaledSum(added[r * vectors + v], scale);
        values[v] = vector::FMAOp::create(kernel, sum, factors.block[v], before);
      }
      storeVectors(values, sums, row);
    }
  }

  /// Integers have no NaN: where some value of the block isn't finite, the sums of the queries that see it become NaN.
  void spoil(const Block &block) {
    Value infinity = arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(kInfinity));
    Value greatest = loadScalar(greatestValue, {zero});
    kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::uge, greatest, infinity), [&] {
      kernel.forLoop(zero, block.count, 1, [&](Value key) {
        SmallVector<Value> mask = seen(block, key);
        Value position = kernel.min(kernel.add(block.first, key), kernel.sub(keys, one)), none = vectorConstant(0);
        kernel.forLoop(zero, constant(plan.depth), 1, [&](Value depth) {
          Value row = depthRow(block.tile, depth);
          Value added = arith::MulFOp::create(kernel, readKv(1, position, uniform(depth)), none);
          SmallVector<Value> values = loadVectors(sums, row);
          for (int64_t v = 0; v < plan.vectors(); ++v) {
            Value own = arith::SelectOp::create(kernel, mask[v], added, none);
            values[v] = arith::AddFOp::create(kernel, values[v], own);
          }
          storeVectors(values, sums, row);
        });
      });
    });
  }

  void meet(const Block &block) {
    kernel.width = plan.lanes;
    if (maskRows)
      readMask(block);
    Factors factor = normalize(block);
    int64_t rest = plan.depth % plan.tileRows;
    kernel.forLoop(zero, constant(plan.depth - rest), plan.tileRows,
                   [&](Value depth) { accumulate(block, factor, depth, plan.tileRows); });
    if (rest)
      accumulate(block, factor, constant(plan.depth - rest), rest);
    if (plan.scaled)
      spoil(block);
    kernel.width = 1;
  }

  void finish(Value tile, Value count) {
    kernel.width = plan.lanes;
    SmallVector<Value> factor;
    for (Value sum : loadVectors(total, tile))
      factor.push_back(arith::DivFOp::create(kernel, vectorConstant(1), orOne(sum)));
    Value base = depthRow(tile, zero);
    kernel.forLoop(base, kernel.add(base, constant(plan.paddedDepth())), 1, [&](Value row) {
      SmallVector<Value> values = loadVectors(sums, row);
      for (auto [value, by] : llvm::zip_equal(values, factor))
        value = arith::MulFOp::create(kernel, value, by);
      storeVectors(values, sums, row);
    });
    kernel.width = 1;
    transpose(sums, rows, base, zero, plan.paddedDepth(), plan.tileColumns);
    Value firstRow = kernel.mul(tile, constant(plan.tileColumns));
    kernel.forLoop(zero, kernel.min(kernel.sub(count, firstRow), constant(plan.tileColumns)), 1, [&](Value i) {
      storeResult(kernel.add(firstRow, i), [&](Value depth) { return loadVector(rows, i, depth); });
    });
  }

  void workgroup() {
    Value blocks = ceilDiv(positions, plan.positions);
    SmallVector<Value> at = kernel.delinearize(kernel.workgroup, {kernel.size(op.getQuery(), 0), constant(kvHeads(op)),
                                                                  constant(groupSize(op) / plan.heads), blocks});
    // Short and long rows in turn: any run of workgroups is about as much work as another of its length.
    Value half = kernel.floorDiv(at[3], 2), last = kernel.sub(kernel.sub(blocks, one), half);
    Value even = arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq,
                                       kernel.createOrFold<arith::RemUIOp>(at[3], constant(2)), zero);
    Value block = arith::SelectOp::create(kernel, even, half, last);
    place(kernel.mul(block, constant(plan.positions)), at[0], at[1], at[2]);

    Value count =
        kernel.mul(kernel.min(kernel.sub(positions, firstPosition), constant(plan.positions)), constant(plan.heads));
    Value tiles = ceilDiv(count, plan.tileColumns);
    kernel.forLoop(zero, tiles, 1, [&](Value tile) { start(tile); });
    auto lastRow = [&](Value tile) {
      Value next = kernel.mul(kernel.add(tile, one), constant(plan.tileColumns));
      return kernel.sub(kernel.min(next, count), one);
    };
    Value begin = kernel.mul(kernel.floorDiv(firstVisible(zero), plan.keys), constant(plan.keys));
    kernel.forLoop(begin, visible(lastRow(kernel.sub(tiles, one))), plan.keys, [&](Value first) {
      if (staged[0] || staged[1])
        stage(first, kernel.min(kernel.sub(kernel.add(keys, constant(plan.tileRows)), first), constant(plan.keys)));
      kernel.forLoop(zero, tiles, 1, [&](Value tile) {
        auto keysOf = [&](Value row) {
          return kernel.min(clampToZero(kernel.sub(visible(row), first)), constant(plan.keys));
        };
        Value seenByAll = keysOf(kernel.mul(tile, constant(plan.tileColumns))), seenByAny = keysOf(lastRow(tile));
        Value whole = arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq, seenByAll, constant(plan.keys));
        if (starts) {
          Value late = arith::CmpIOp::create(kernel, arith::CmpIPredicate::sge, first, firstVisible(lastRow(tile)));
          whole = arith::AndIOp::create(kernel, whole, late);
        }
        // With integers only scores depend on it: the rest is written once.
        if (plan.scaled)
          return meet({tile, first, seenByAny, seenByAll, /*masked=*/true, whole});
        auto branch = scf::IfOp::create(kernel, whole, /*withElseRegion=*/true);
        OpBuilder::InsertionGuard guard(kernel);
        kernel.setInsertionPointToStart(branch.thenBlock());
        meet({tile, first, constant(plan.keys), constant(plan.keys), /*masked=*/false, {}});
        kernel.setInsertionPointToStart(branch.elseBlock());
        meet({tile, first, seenByAny, seenByAll, /*masked=*/true, {}});
      });
    });
    kernel.forLoop(zero, tiles, 1, [&](Value tile) { finish(tile, count); });
  }
};

} // namespace

void emitAttentionOfManyRows(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan) {
  ManyRowsEmitter(op, kernel, plan).workgroup();
}

} // namespace mlir::dsc
