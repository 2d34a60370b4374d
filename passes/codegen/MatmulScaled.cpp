//===- MatmulScaled.cpp - products of integers that share scales -----------===//
//
// Block floating point: 128 neighbours along the reduction, of a row or of a
// column, become integers under one scale, so large that the sum of 128
// products fits 32 bits. Integers of 16 bits are multiplied in pairs, with
// AVX512-VNNI at twice the rate of f32, with AVX2 at up to that. Both errors
// together are smaller than that of one rounding to bf16, measured by a block's
// norm.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/ScaledIntegers.h"

namespace mlir::dsc {

constexpr double kLargest = 4095; // the greatest integer n with kScaledSteps n^2 < 2^31
/// Writes `steps` elements of a row from `k` on into `lines`, behind the last one zeros; the greatest magnitude, as
/// bits.
Value MatmulEmitter::gatherScaledRow(ArrayRef<Index> row, Value k, int64_t steps) {
  Type f32 = kernel.getF32Type();
  auto loadLine = [&](int64_t i) {
    return vector::LoadOp::create(kernel, vectorOf(lanes, f32), lines,
                                  ValueRange{kernel.constantIndex(i), kernel.constantIndex(0)});
  };
  int64_t count = steps / lanes;
  if (staticDepth() % steps)
    for (int64_t i = 0; i < count; ++i)
      vector::StoreOp::create(kernel, constantVector(kernel, f32, kernel.getF32FloatAttr(0), lanes), lines,
                              ValueRange{kernel.constantIndex(i), kernel.constantIndex(0)});
  Value flat = memref::CollapseShapeOp::create(kernel, lines, SmallVector<ReassociationIndices>{{0, 1}});
  int64_t width = std::min(kernel.kernelLanes(*op->getParentRegion()), lanes);
  Value end = kernel.add(k, kernel.constantIndex(steps));
  if (staticDepth() % steps)
    end = kernel.min(end, depth);
  SmallVector<Index> at(batch);
  llvm::append_range(at, row);
  at.emplace_back();
  kernel.vectorLoop(k, end, width, [&](Value element) {
    at.back() = Index::lanes(element);
    Value value = stagedValue(at, f32);
    SmallVector<Value> position{kernel.sub(element, k)};
    if (kernel.isVector(value))
      vector::StoreOp::create(kernel, value, flat, position);
    else
      memref::StoreOp::create(kernel, value, flat, position);
  });
  Value most = noMagnitude(kernel, lanes);
  for (int64_t i = 0; i < count; ++i)
    most = greaterMagnitude(kernel, most, loadLine(i));
  return greatestMagnitude(kernel, most);
}

/// As `fillStage`, for integers under scales.
void MatmulEmitter::fillScaledStage(Value begin, Value end) {
  Type element = kernel.getI16Type();
  int64_t length = block ? block : llvm::alignTo(staticDepth(), kScaledSteps), together = 2 * lanes;
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  kernel.forLoop(zero, tiles, 1, [&](Value tile) {
    Value first = kernel.mul(tile, kernel.constantIndex(tileRows));
    kernel.forLoop(zero, depth, kScaledSteps, [&](Value k) {
      kernel.forLoop(zero, kernel.constantIndex(tileRows), 1, [&](Value r) {
        Value row = kernel.add(first, r);
        Value most = gatherScaledRow(rowIndex(kernel.min(kernel.add(begin, row), last)), k, kScaledSteps);
        auto [scale, factor] = scaleOf(kernel, most, kLargest);
        memref::StoreOp::create(kernel, scale, lhsScales, ValueRange{row, kernel.floorDiv(k, kScaledSteps)});
        Value factors = vector::BroadcastOp::create(kernel, vectorOf(lanes, factor.getType()), factor);
        for (int64_t i = 0; i < kScaledSteps / lanes; ++i) {
          Value line = vector::LoadOp::create(kernel, vectorOf(lanes, factor.getType()), lines,
                                              ValueRange{kernel.constantIndex(i), zero});
          Value integers =
              arith::TruncIOp::create(kernel, vectorOf(lanes, element), scaledIntegers(kernel, line, factors));
          vector::StoreOp::create(kernel, integers, integerRows, ValueRange{r, kernel.constantIndex(i * lanes)});
        }
      });
      Value number = kernel.floorDiv(k, length);
      Value inBlock = kernel.sub(k, kernel.mul(number, kernel.constantIndex(length)));
      int64_t outer = std::exchange(kernel.width, together);
      kernel.forLoop(zero, kernel.constantIndex(kScaledSteps), together, [&](Value part) {
        SmallVector<Value> values;
        for (int64_t r = 0; r < tileRows; ++r)
          values.push_back(vector::LoadOp::create(kernel, vectorOf(together, element), integerRows,
                                                  ValueRange{kernel.constantIndex(r), part}));
        storeInterleaved(values, number, tile, kernel.add(inBlock, part));
      });
      kernel.width = outer;
    });
  });
}

/// Decodes elements [begin, end) of the reduction for the tile at `column` to integers under scales, whole blocks of
/// them.
void MatmulEmitter::fillScaledRhsStage(Value column, Value begin, Value end) {
  rhsBegin = begin;
  Type f32 = kernel.getF32Type();
  VectorType floats = vectorOf(lanes, f32);
  Value zero = kernel.constantIndex(0);
  auto storeLine = [&](Value value, Value number) {
    vector::StoreOp::create(kernel, value, lines, ValueRange{number, zero});
  };
  kernel.forLoop(begin, end, kScaledSteps, [&](Value k) {
    Value last = kernel.add(k, kernel.constantIndex(kScaledSteps));
    if (staticDepth() % kScaledSteps)
      last = kernel.min(last, depth);
    for (int64_t v = 0; v < vectors; ++v) {
      if (staticDepth() % kScaledSteps)
        kernel.forLoop(zero, kernel.constantIndex(kScaledSteps), 1, [&](Value line) {
          storeLine(constantVector(kernel, f32, kernel.getF32FloatAttr(0), lanes), line);
        });
      SmallVector<Value> none{noMagnitude(kernel, lanes)};
      // Floats first: how great they are decides about their scale.
      Value most = kernel.forLoop(k, last, run ? run : group, none, [&](Value at, ValueRange carried) {
        Value inner = carried[0], line = kernel.sub(at, k);
        auto keep = [&](Value value, int64_t i) {
          inner = greaterMagnitude(kernel, inner, value);
          storeLine(value, kernel.add(line, kernel.constantIndex(i)));
        };
        if (!run)
          for (auto [i, value] :
               llvm::enumerate(loadWidened(kernel.floorDiv(column, vectors * lanes), v, kernel.floorDiv(at, group))))
            keep(value, i);
        ScaledRun part = run ? runAt(column, v, kernel.floorDiv(at, run)) : ScaledRun();
        for (int64_t i = 0; i < run; ++i)
          keep(runValue(part, i), i);
        return SmallVector<Value>{inner};
      })[0];
      auto [scale, factor] = scaleOf(kernel, most, kLargest);
      vector::StoreOp::create(
          kernel, scale, rhsScales,
          ValueRange{kernel.floorDiv(kernel.sub(k, begin), kScaledSteps), kernel.constantIndex(v * lanes)});
      Value firstPair = kernel.floorDiv(kernel.sub(k, begin), group), factors = factor;
      kernel.forLoop(zero, kernel.constantIndex(kScaledSteps), group, [&](Value line) {
        auto integers = [&](int64_t i) {
          Value value = vector::LoadOp::create(kernel, floats, lines,
                                               ValueRange{kernel.add(line, kernel.constantIndex(i)), zero});
          return scaledIntegers(kernel, value, factors);
        };
        Value even = integers(0), pairs = pairsOf(kernel, even, integers(1));
        vector::StoreOp::create(
            kernel, bitcast(pairs, lanes * group, kernel.getI16Type()), rhsStage,
            ValueRange{kernel.add(firstPair, kernel.floorDiv(line, group)), kernel.constantIndex(v * lanes * group)});
      });
    }
  });
}

/// `sums` plus the products of k in [begin, end), whole blocks of integers: the sum of each is scaled once.
SmallVector<Value> MatmulEmitter::accumulateScaled(const Tile &tile, Value begin, Value end, ArrayRef<Value> sums) {
  Prefetch next = prefetchAfter(tile, begin, end);
  stageK = begin;
  stageBlock = block ? kernel.floorDiv(begin, block) : begin;
  int64_t steps = stepsPerTurn(), stride = steps * group;
  Value none = constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(0), lanes);
  return kernel.forLoop(begin, end, kScaledSteps, sums, [&](Value first, ValueRange carried) {
    SmallVector<Value> start(sums.size(), none);
    Value last = kernel.min(kernel.add(first, kernel.constantIndex(kScaledSteps)), end);
    SmallVector<Value> integers = kernel.forLoop(first, last, stride, start, [&](Value k, ValueRange inner) {
      SmallVector<Value> acc(inner);
      prefetchTurn(tile, next, k, kernel.floorDiv(kernel.sub(k, begin), stride));
      for (int64_t i = 0; i < steps; ++i)
        addStep(tile, kernel.add(k, kernel.constantIndex(i * group)), acc);
      return acc;
    });
    SmallVector<Value> acc(carried);
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
      Value left = memref::LoadOp::create(kernel, lhsScales, ValueRange{row, kernel.floorDiv(first, kScaledSteps)});
      for (int64_t v = 0; v < vectors; ++v) {
        Value right = vector::LoadOp::create(
            kernel, vectorOf(lanes, accType), rhsScales,
            ValueRange{kernel.floorDiv(kernel.sub(first, rhsBegin), kScaledSteps), kernel.constantIndex(v * lanes)});
        Value scale = arith::MulFOp::create(kernel, right, kernel.splat(left));
        Value &sum = acc[r * vectors + v];
        Value product = arith::SIToFPOp::create(kernel, sum.getType(), integers[r * vectors + v]);
        sum = vector::FMAOp::create(kernel, product, scale, sum);
      }
    }
    return acc;
  });
}

} // namespace mlir::dsc
