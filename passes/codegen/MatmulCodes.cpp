//===- MatmulCodes.cpp - products with integer codes as they are stored ---===//
//
// Where few rows meet weights in blocks, decoding a code costs more than
// multiplying it. Here codes stay bytes: AVX512-VNNI multiplies four of them at
// a time. Elements of the left side become integers of 15 bits that share a
// scale over the run of codes, each split into an upper and a lower byte. Sums
// of their products are exact and scaled once per run; all that is rounded is
// the left side, by 1/32638 of the greatest of 16 or 32 neighbours at most.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/MatmulEmitter.h"

namespace mlir::dsc {

constexpr int64_t kLowerBits = 7;
constexpr double kLargestOfBytes = (127 << kLowerBits) + 63; // an upper part of 127, a lower one from -64 to 63

/// Where the parts of row `r` of a tile lie, for run `number`: first the upper bytes, then the lower ones.
Value MatmulEmitter::codeStageAt(Value r, Value number) {
  Value at = kernel.add(kernel.mul(number, kernel.constantIndex(tileRows)), r);
  return kernel.mul(at, kernel.constantIndex(2 * run));
}

/// As `fillStage`, for bytes; `runSums` are of the integers: times -zero, or scaled where an offset is added.
void MatmulEmitter::fillCodeStage(Value begin, Value end) {
  VectorType words = vectorOf(lanes, kernel.getI32Type());
  auto all = [&](int64_t value) -> Value {
    return arith::ConstantOp::create(kernel, DenseElementsAttr::get(words, kernel.getI32IntegerAttr(value)));
  };
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  kernel.forLoop(zero, tiles, 1, [&](Value tile) {
    Value first = kernel.mul(tile, kernel.constantIndex(tileRows));
    kernel.forLoop(zero, kernel.constantIndex(tileRows), 1, [&](Value r) {
      Value row = kernel.add(first, r);
      SmallVector<Index> at = rowIndex(kernel.min(kernel.add(begin, row), last));
      kernel.forLoop(zero, depth, run, [&](Value k) {
        Value number = kernel.floorDiv(k, run);
        auto [scale, factor] = scaleOf(gatherScaledRow(at, k, run), kLargestOfBytes);
        memref::StoreOp::create(kernel, scale, lhsScales, ValueRange{row, number});
        Value factors = vector::BroadcastOp::create(kernel, vectorOf(lanes, factor.getType()), factor);
        Value total = all(0), upperAt = codeStageAt(r, number);
        for (int64_t i = 0; i < run / lanes; ++i) {
          Value line = vector::LoadOp::create(kernel, vectorOf(lanes, factor.getType()), lines,
                                              ValueRange{kernel.constantIndex(i), zero});
          Value integers = scaledIntegers(line, factors);
          total = arith::AddIOp::create(kernel, total, integers);
          Value rounded = arith::AddIOp::create(kernel, integers, all(1 << (kLowerBits - 1)));
          Value upper = arith::ShRSIOp::create(kernel, rounded, all(kLowerBits));
          Value lower = arith::SubIOp::create(kernel, integers, arith::ShLIOp::create(kernel, upper, all(kLowerBits)));
          for (int64_t part = 0; part < 2; ++part) {
            VectorType type = vectorOf(lanes, kernel.getI8Type());
            Value bytes = arith::TruncIOp::create(kernel, type, part == 0 ? upper : lower);
            Value to = kernel.add(upperAt, kernel.constantIndex(part * run + i * lanes));
            vector::StoreOp::create(kernel, bytes, stage, ValueRange{zero, tile, to});
          }
        }
        Value sum = vector::ReductionOp::create(kernel, vector::CombiningKind::ADD, total);
        if (codeZero)
          sum = arith::MulIOp::create(
              kernel, sum,
              arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(-static_cast<int32_t>(codeZero))));
        else
          sum = arith::MulFOp::create(kernel, arith::SIToFPOp::create(kernel, accType, sum), scale);
        memref::StoreOp::create(kernel, sum, runSums, ValueRange{row, number});
      });
    });
  });
}

/// As `accumulateRuns`, for codes.
SmallVector<Value> MatmulEmitter::accumulateCodes(const Tile &tile, ArrayRef<Value> sums) {
  stageK = stageBlock = kernel.constantIndex(0);
  VectorType words = vectorOf(lanes, kernel.getI32Type());
  Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(words));
  Value bits = arith::ConstantOp::create(kernel, DenseElementsAttr::get(words, kernel.getI32IntegerAttr(kLowerBits)));
  Value tileNumber = stageIndex(tile.rowNumbers[0], 0, stageK)[1];
  Value count = kernel.floorDiv(depth, run);
  return kernel.forLoop(kernel.constantIndex(0), count, 1, sums, [&](Value number, ValueRange carried) {
    prefetchResults(tile, number);
    SmallVector<ScaledRun> right;
    for (int64_t v = 0; v < vectors; ++v)
      right.push_back(runAt(tile.column, v, number));
    SmallVector<Value> totals, upper(carried.size(), none), lower(upper);
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
      totals.push_back(kernel.splat(memref::LoadOp::create(kernel, runSums, ValueRange{row, number})));
      if (codeZero)
        std::fill_n(lower.begin() + r * vectors, vectors, totals[r]);
    }
    for (int64_t i = 0; i < run / 4; ++i) {
      SmallVector<Value> codes = llvm::map_to_vector(
          right, [&](const ScaledRun &part) { return bitcast(part.codes(i), 4 * lanes, kernel.getI8Type()); });
      for (int64_t r = 0; r < tileRows; ++r)
        for (int64_t part = 0; part < 2; ++part) {
          Value at = kernel.add(codeStageAt(kernel.constantIndex(r), number), kernel.constantIndex(part * run + 4 * i));
          Value left = splatMembers({stageBlock, tileNumber, at}, 4);
          for (int64_t v = 0; v < vectors; ++v) {
            Value &sum = (part == 0 ? upper : lower)[r * vectors + v];
            sum = multiplyGroups(kernel, codes[v], left, sum);
          }
        }
    }
    SmallVector<Value> acc(carried);
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
      Value left = kernel.splat(memref::LoadOp::create(kernel, lhsScales, ValueRange{row, number}));
      for (int64_t v = 0; v < vectors; ++v) {
        int64_t at = r * vectors + v;
        Value whole = arith::AddIOp::create(kernel, arith::ShLIOp::create(kernel, upper[at], bits), lower[at]);
        Value scale = arith::MulFOp::create(kernel, right[v].scale, left);
        acc[at] =
            vector::FMAOp::create(kernel, arith::SIToFPOp::create(kernel, acc[at].getType(), whole), scale, acc[at]);
        if (!codeZero)
          acc[at] = vector::FMAOp::create(kernel, totals[r], right[v].offset, acc[at]);
      }
    }
    return acc;
  });
}

} // namespace mlir::dsc
