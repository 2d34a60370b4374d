//===- MatmulCodes.cpp - products with integer codes as they are stored ---===//
//
// Where few rows meet weights in blocks, decoding a code costs more than
// multiplying it. Here codes stay integers, and elements of the left side
// become integers that share a scale over the run of codes. Sums of their
// products are exact and scaled once per run; all that is rounded is the left
// side, by 1/32638 of the greatest of 16 or 32 neighbours at most.
//
// AVX512-VNNI multiplies bytes, four at a time: the integers are split into an
// upper and a lower one. AVX2 multiplies pairs of 16 bits: codes are split into
// the first and third of four, and the second and fourth.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/ScaledIntegers.h"

namespace mlir::dsc {

constexpr int64_t kLowerBits = 7;
constexpr double kLargestOfBytes = (127 << kLowerBits) + 63; // an upper part of 127, a lower one from -64 to 63
constexpr double kLargestOfWords = 32767;

/// Where the parts of row `r` of a tile lie, for run `number`: first the upper bytes, then the lower ones; or words, of
/// every four neighbours the first, third, second and fourth.
Value MatmulEmitter::codeStageAt(Value r, Value number) {
  Value at = kernel.add(kernel.mul(number, kernel.constantIndex(tileRows)), r);
  return kernel.mul(at, kernel.constantIndex(codeParts() * run));
}

/// Writes a vector of integers, which begins at element `first` of its run, to the stage's place for that run.
void MatmulEmitter::storeCodeFactors(Value integers, Value tile, Value at, int64_t first) {
  auto all = [&](int32_t value) {
    return constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(value), lanes);
  };
  auto store = [&](Value part, Type element, int64_t offset) {
    part = arith::TruncIOp::create(kernel, vectorOf(lanes, element), part);
    Value to = kernel.add(at, kernel.constantIndex(offset + first));
    vector::StoreOp::create(kernel, part, stage, ValueRange{kernel.constantIndex(0), tile, to});
  };
  if (!codeBytes)
    return store(inOrderOfCodes(integers), kernel.getI16Type(), 0);
  Value rounded = arith::AddIOp::create(kernel, integers, all(1 << (kLowerBits - 1)));
  Value upper = arith::ShRSIOp::create(kernel, rounded, all(kLowerBits));
  store(upper, kernel.getI8Type(), 0);
  store(arith::SubIOp::create(kernel, integers, arith::ShLIOp::create(kernel, upper, all(kLowerBits))),
        kernel.getI8Type(), run);
}

/// As `fillStage`, for integers; `runSums` are of them: times -zero, or scaled where an offset is added.
void MatmulEmitter::fillCodeStage(Value begin, Value end) {
  VectorType words = vectorOf(lanes, kernel.getI32Type());
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  kernel.forLoop(zero, tiles, 1, [&](Value tile) {
    Value first = kernel.mul(tile, kernel.constantIndex(tileRows));
    kernel.forLoop(zero, kernel.constantIndex(tileRows), 1, [&](Value r) {
      Value row = kernel.add(first, r);
      SmallVector<Index> at = rowIndex(kernel.min(kernel.add(begin, row), last));
      kernel.forLoop(zero, depth, run, [&](Value k) {
        Value number = kernel.floorDiv(k, run);
        Value most = gatherScaledRow(at, k, kernel.add(k, kernel.constantIndex(run)), run);
        auto [scale, factor] = scaleOf(kernel, most, codeBytes ? kLargestOfBytes : kLargestOfWords);
        memref::StoreOp::create(kernel, scale, lhsScales, ValueRange{row, number});
        Value factors = vector::BroadcastOp::create(kernel, vectorOf(lanes, factor.getType()), factor);
        Value total = arith::ConstantOp::create(kernel, kernel.getZeroAttr(words)), to = codeStageAt(r, number);
        for (int64_t i = 0; i < run / lanes; ++i) {
          Value integers = scaledIntegers(kernel, loadRowFloats(zero, i * lanes), factors);
          total = arith::AddIOp::create(kernel, total, integers);
          storeCodeFactors(integers, tile, to, i * lanes);
        }
        Value sum = vector::ReductionOp::create(kernel, vector::CombiningKind::ADD, total);
        if (runCodes->zero)
          sum = arith::MulIOp::create(
              kernel, sum,
              arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(-static_cast<int32_t>(runCodes->zero))));
        else
          sum = arith::MulFOp::create(kernel, arith::SIToFPOp::create(kernel, accType, sum), scale);
        memref::StoreOp::create(kernel, sum, runSums, ValueRange{row, number});
      });
    });
  });
}

/// What four codes in each lane are multiplied as, by each part of the left side: all of them by its upper and its
/// lower bytes, or the first and third by the words that stand in front, and the other two by those behind.
std::array<Value, 2> MatmulEmitter::codeFactors(Value codes) {
  if (codeBytes) {
    Value bytes = bitcast(codes, 4 * lanes, kernel.getI8Type());
    return {bytes, bytes};
  }
  return codeWords(codes);
}

/// As `accumulateRuns`, for codes.
SmallVector<Value> MatmulEmitter::accumulateCodes(const Tile &tile, ArrayRef<Value> sums) {
  stageK = stageBlock = kernel.constantIndex(0);
  VectorType words = vectorOf(lanes, kernel.getI32Type());
  Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(words));
  Value bits = constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(kLowerBits), lanes);
  Value tileNumber = stageIndex(tile.rowNumbers[0], 0, stageK)[1];
  Value count = kernel.floorDiv(depth, run);
  return kernel.forLoop(kernel.constantIndex(0), count, 1, sums, [&](Value number, ValueRange carried) {
    prefetchResults(tile, number);
    SmallVector<ScaledRun> right;
    for (int64_t v = 0; v < vectors; ++v)
      right.push_back(runAt(tile.column, v, number));
    SmallVector<Value> totals, lower(carried.size(), none), upper(lower);
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
      totals.push_back(kernel.splat(memref::LoadOp::create(kernel, runSums, ValueRange{row, number})));
      if (runCodes->zero)
        std::fill_n(lower.begin() + r * vectors, vectors, totals[r]);
    }
    for (int64_t i = 0; i < run / 4; ++i) {
      auto factors = llvm::map_to_vector(right, [&](const ScaledRun &part) { return codeFactors(part.codes(i)); });
      for (int64_t r = 0; r < tileRows; ++r)
        for (int64_t part = 0; part < 2; ++part) {
          int64_t offset = codeBytes ? part * run + 4 * i : 4 * i + 2 * part;
          Value at = kernel.add(codeStageAt(kernel.constantIndex(r), number), kernel.constantIndex(offset));
          Value left = splatMembers({stageBlock, tileNumber, at}, codeBytes ? 4 : 2);
          for (int64_t v = 0; v < vectors; ++v) {
            Value &sum = (codeBytes && part == 0 ? upper : lower)[r * vectors + v];
            sum = multiplyGroups(kernel, factors[v][part], left, sum);
          }
        }
    }
    SmallVector<Value> acc(carried);
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
      Value left = kernel.splat(memref::LoadOp::create(kernel, lhsScales, ValueRange{row, number}));
      for (int64_t v = 0; v < vectors; ++v) {
        int64_t at = r * vectors + v;
        Value whole = lower[at];
        if (codeBytes)
          whole = arith::AddIOp::create(kernel, arith::ShLIOp::create(kernel, upper[at], bits), whole);
        Value scale = arith::MulFOp::create(kernel, right[v].scale, left);
        acc[at] =
            vector::FMAOp::create(kernel, arith::SIToFPOp::create(kernel, acc[at].getType(), whole), scale, acc[at]);
        if (!runCodes->zero)
          acc[at] = vector::FMAOp::create(kernel, totals[r], right[v].offset, acc[at]);
      }
    }
    return acc;
  });
}

} // namespace mlir::dsc
