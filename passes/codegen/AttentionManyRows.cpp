//===- AttentionManyRows.cpp - attention with lanes along queries ---------===//
//
// Scores lie transposed, one row per key: maxima and sums of a query are
// vertical, and both products multiply a scalar of the cache, read where it
// is, into vectors of queries or weights. A register tile is `tileRows` keys
// or elements of a head by `tileColumns` queries.
//
// With dot products, lanes hold pairs of bf16: of adjacent elements of a query,
// and of the weights of adjacent keys. Keys and values are staged as pairs.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/AttentionTiles.h"

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
        kernel.vectorLoop(zero, constant(plan.paddedDepth()), plan.lanes, [&](Value depth) {
          Value half = kernel.convert(loadVector(rows, i, depth), kernel.getBF16Type());
          vector::StoreOp::create(kernel, half, rowHalves, ValueRange{i, depth});
        });
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

  /// Stores the scores of all keys of a block; the largest ones, beginning with `largest`.
  SmallVector<Value> score(const Block &block, SmallVector<Value> largest) {
    int64_t vectors = plan.vectors();
    return kernel.forLoop(zero, block.count, plan.tileRows, largest, [&](Value firstKey, ValueRange carried) {
      SmallVector<Value> keyNumbers, initial(plan.tileRows * vectors, vectorConstant(0));
      for (int64_t r = 0; r < plan.tileRows; ++r)
        keyNumbers.push_back(kernel.add(firstKey, constant(r)));
      int64_t step = plan.dots ? 2 : 1;
      Value firstQuery = kernel.mul(block.tile, constant(queryRows()));
      SmallVector<Value> scores =
          kernel.forLoop(zero, constant(plan.depth), step, initial, [&](Value depth, ValueRange acc) {
            Value row = kernel.add(firstQuery, kernel.floorDiv(depth, step));
            SmallVector<Value> next, query = plan.dots ? loadPairs(queries, row) : loadVectors(queries, row);
            for (auto [r, key] : llvm::enumerate(keyNumbers)) {
              Value left = plan.dots ? asHalves(readPair(0, key, depth)) : readScalar(0, block, key, depth);
              for (int64_t v = 0; v < vectors; ++v) {
                Value sum = acc[r * vectors + v];
                next.push_back(plan.dots ? multiplyGroups(kernel, left, query[v], sum)
                                         : Value(vector::FMAOp::create(kernel, left, query[v], sum)));
              }
            }
            return next;
          });
      SmallVector<Value> most(carried);
      for (auto [r, key] : llvm::enumerate(keyNumbers)) {
        MutableArrayRef<Value> row = MutableArrayRef(scores).slice(r * vectors, vectors);
        for (auto [v, value] : llvm::enumerate(row)) {
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

  /// Scores become weights relative to the largest so far; the factor of what was summed before.
  SmallVector<Value> normalize(const Block &block) {
    SmallVector<Value> before = loadVectors(max, block.tile), after = score(block, before), factor;
    storeVectors(after, max, block.tile);
    SmallVector<Value> summed = loadVectors(total, block.tile);
    for (int64_t v = 0; v < plan.vectors(); ++v) {
      factor.push_back(exponential(arith::SubFOp::create(kernel, before[v], after[v])));
      summed[v] = arith::MulFOp::create(kernel, summed[v], factor[v]);
    }
    auto weigh = [&](Value key, MutableArrayRef<Value> sum) {
      SmallVector<Value> values = loadVectors(weights, key);
      for (int64_t v = 0; v < plan.vectors(); ++v) {
        values[v] = exponential(arith::SubFOp::create(kernel, values[v], after[v]));
        sum[v] = arith::AddFOp::create(kernel, sum[v], values[v]);
      }
      return values;
    };
    summed = kernel.forLoop(zero, block.count, plan.dots ? 2 : 1, summed, [&](Value key, ValueRange carried) {
      SmallVector<Value> sum(carried), values = weigh(key, sum);
      if (!plan.dots) {
        storeVectors(values, weights, key);
        return sum;
      }
      // The key behind the last one has a score of -inf.
      SmallVector<Value> others = weigh(kernel.add(key, one), sum);
      for (int64_t v = 0; v < plan.vectors(); ++v)
        vector::StoreOp::create(kernel, asWords(interleave(values[v], others[v])), pairs,
                                ValueRange{kernel.floorDiv(key, 2), column(v)});
      return sum;
    });
    storeVectors(summed, total, block.tile);
    return factor;
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
  void accumulate(const Block &block, ArrayRef<Value> factor, Value depth, int64_t count) {
    int64_t vectors = plan.vectors();
    SmallVector<Value> depths, initial;
    for (int64_t r = 0; r < count; ++r) {
      depths.push_back(kernel.add(depth, constant(r)));
      for (auto [v, sum] : llvm::enumerate(loadVectors(sums, depthRow(block.tile, depths[r]))))
        initial.push_back(arith::MulFOp::create(kernel, sum, factor[v]));
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

  void meet(const Block &block) {
    kernel.width = plan.lanes;
    if (maskRows)
      readMask(block);
    SmallVector<Value> factor = normalize(block);
    int64_t rest = plan.depth % plan.tileRows;
    kernel.forLoop(zero, constant(plan.depth - rest), plan.tileRows,
                   [&](Value depth) { accumulate(block, factor, depth, plan.tileRows); });
    if (rest)
      accumulate(block, factor, constant(plan.depth - rest), rest);
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
        auto branch = scf::IfOp::create(kernel, whole, /*withElseRegion=*/true);
        OpBuilder::InsertionGuard guard(kernel);
        kernel.setInsertionPointToStart(branch.thenBlock());
        meet({tile, first, constant(plan.keys), constant(plan.keys), /*masked=*/false});
        kernel.setInsertionPointToStart(branch.elseBlock());
        meet({tile, first, seenByAny, seenByAll, /*masked=*/true});
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
