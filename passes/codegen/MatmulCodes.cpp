//===- MatmulCodes.cpp - products with integer codes as they are stored ---===//
//
// Where few rows meet weights in blocks, decoding a code costs more than
// multiplying it. Here codes stay integers, and elements of the left side
// become integers that share a scale over the run of codes. Sums of their
// products are exact and scaled once per run; all that is rounded is the left
// side, by 1/32638 of the greatest of 16 or 32 neighbours at most (1/16766 for
// up to two rows with AVX2 and codes of 5 or 6 bits).
//
// Bytes are multiplied four at a time, so the integers are split into an upper
// and a lower one. AVX512-VNNI adds the products to 32 bits, AVX2 to 16, which
// hold a run's sum where codes have up to 6 bits and the integers 14 or 15. For
// codes of 8 bits, and for more than two rows, AVX2 multiplies pairs of words:
// codes are split into the first and third of four, and the second and fourth.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/DotProducts.h"
#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/ScaledIntegers.h"

namespace mlir::dsc {

constexpr int64_t kLowerBits = 7;
constexpr int64_t kLargestUpper = 127, kLargestLower = 1 << (kLowerBits - 1); // a lower part is from -64 to 63

/// How large upper parts may be where `run` of them meet codes of `bits` bits.
static int64_t largestUpper(int64_t run, int64_t bits, int64_t lanes) {
  int64_t inWords = 32767 / (2 * ((1 << bits) - 1) * (run / 4)); // AVX2 adds two products to a word
  return lanes == 16 ? kLargestUpper : std::min(kLargestUpper, inWords);
}

bool multipliesCodeBytes(int64_t run, RunCodes codes, int64_t lanes, int64_t rows) {
  if (lanes != 16 && rows > 2) // sums of both parts would leave AVX2 room for one vector of codes
    return false;
  return largestUpper(run, codes.bits, lanes) >= kLargestLower;
}

/// Where the parts of row `r` of a tile lie, for run `number`: first the upper bytes, then the lower ones; or words, of
/// every four neighbours the first, third, second and fourth.
Value MatmulEmitter::codeStageAt(Value r, Value number) {
  Value at = kernel.add(kernel.mul(number, kernel.constantIndex(tileRows)), r);
  return kernel.mul(at, kernel.constantIndex(codeParts() * run));
}

/// Writes a run's integers, in vectors of 32 bits, to the stage's place for it.
void MatmulEmitter::storeCodeFactors(SmallVector<Value> integers, Value tile, Value at) {
  for (int64_t width = 2 * lanes; integers.size() > 1; width *= 2) { // one vector: narrow types are packed whole
    for (size_t i = 0; i < integers.size(); i += 2)
      integers[i / 2] = vector::ShuffleOp::create(kernel, integers[i], integers[i + 1],
                                                  llvm::to_vector(llvm::seq<int64_t>(0, width)));
    integers.resize(integers.size() / 2);
  }
  Type word = kernel.getI16Type();
  auto all = [&](int64_t value) { return constantVector(kernel, word, kernel.getIntegerAttr(word, value), run); };
  auto store = [&](Value part, int64_t offset) {
    Value to = kernel.add(at, kernel.constantIndex(offset));
    vector::StoreOp::create(kernel, part, stage, ValueRange{kernel.constantIndex(0), tile, to});
  };
  auto bytes = [&](Value words) { return arith::TruncIOp::create(kernel, vectorOf(run, kernel.getI8Type()), words); };
  Value words = arith::TruncIOp::create(kernel, vectorOf(run, word), integers[0]);
  if (!codeBytes)
    return store(words, 0);
  Value rounded = arith::AddIOp::create(kernel, words, all(kLargestLower));
  Value upper = arith::ShRSIOp::create(kernel, rounded, all(kLowerBits));
  store(bytes(upper), 0);
  store(bytes(arith::SubIOp::create(kernel, words, arith::ShLIOp::create(kernel, upper, all(kLowerBits)))), run);
}

/// As `fillStage`, for integers; `runSums` are of them: times -zero, or scaled where an offset is added.
void MatmulEmitter::fillCodeStage(Value begin, Value end) {
  VectorType words = vectorOf(lanes, kernel.getI32Type());
  double largest = codeBytes ? (largestUpper(run, runCodes->bits, lanes) << kLowerBits) + kLargestLower - 1 : 32767;
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
        auto [scale, factor] = scaleOf(kernel, most, largest);
        memref::StoreOp::create(kernel, scale, lhsScales, ValueRange{row, number});
        Value factors = vector::BroadcastOp::create(kernel, vectorOf(lanes, factor.getType()), factor);
        Value total = arith::ConstantOp::create(kernel, kernel.getZeroAttr(words)), to = codeStageAt(r, number);
        SmallVector<Value> parts;
        for (int64_t i = 0; i < run / lanes; ++i) {
          Value integers = scaledIntegers(kernel, loadRowFloats(zero, i * lanes), factors);
          total = arith::AddIOp::create(kernel, total, integers);
          parts.push_back(codeBytes ? integers : inOrderOfCodes(integers));
        }
        storeCodeFactors(parts, tile, to);
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

/// Adds products of vectors of codes with `left` to their sums.
void MatmulEmitter::multiplyCodes(ArrayRef<Value> codes, Value left, MutableArrayRef<Value> sums) {
  if (codeBytes && lanes == 8)
    return multiplyBytes(kernel, codes, left, sums);
  if (!codeBytes)
    return multiplyGroups(kernel, left, codes, sums);
  for (auto [vector, sum] : llvm::zip_equal(codes, sums))
    sum = multiplyGroups(kernel, vector, left, sum);
}

/// The sum of a run's products, 32 bits, of the sums with its upper and its lower parts, or of the only one.
Value MatmulEmitter::joinCodeSums(ArrayRef<Value> sums) {
  if (!codeBytes)
    return sums[0];
  if (lanes == 16) {
    Value bits = constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(kLowerBits), lanes);
    return arith::AddIOp::create(kernel, arith::ShLIOp::create(kernel, sums[0], bits), sums[1]);
  }
  Type word = kernel.getI16Type();
  auto times = [&](int64_t value, Value sum, Value more) {
    return multiplyGroups(kernel, sum, constantVector(kernel, word, kernel.getIntegerAttr(word, value), 2 * lanes),
                          more);
  };
  Value none = constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(0), lanes);
  return times(1, sums[1], times(1 << kLowerBits, sums[0], none));
}

/// As `addRuns`, for codes.
void MatmulEmitter::addCodes(const Tile &tile, Value first, ArrayRef<SmallVector<ScaledRun>> right,
                             MutableArrayRef<Value> acc) {
  Value tileNumber = stageIndex(tile.rowNumbers[0], 0, stageK)[1];
  auto runNumber = [&](int64_t j) { return kernel.add(first, kernel.constantIndex(right[0][j].number)); };
  // Sums of as many vectors and runs as half of the registers hold: runs that share words meet them together.
  int64_t parts = codeBytes ? 2 : 1, most = lanes; // AVX-512 has twice as many registers, too
  int64_t fit = std::max<int64_t>(1, most / (parts * tileRows));
  int64_t runs = tileRows > 1 ? 1 : std::min({fit, together, kRunsAtOnce});
  int64_t wide = std::min(fit / runs, vectors);
  wide = vectors % wide ? 1 : wide;
  auto sumAt = [&](int64_t j, int64_t r, int64_t part) { return ((j % runs * tileRows + r) * parts + part) * wide; };
  auto addFour = [&](Value i, int64_t v0, int64_t j0, MutableArrayRef<Value> sums) {
    for (int64_t j = j0; j < j0 + runs; ++j) {
      auto factors = llvm::map_to_vector(right.slice(v0, wide),
                                         [&](ArrayRef<ScaledRun> part) { return codeFactors(part[j].codes(i)); });
      for (int64_t r = 0; r < tileRows; ++r)
        for (int64_t half = 0; half < 2; ++half) {
          Value offset = kernel.add(kernel.mul(i, kernel.constantIndex(4)),
                                    kernel.constantIndex(codeBytes ? half * run : 2 * half));
          Value at = kernel.add(codeStageAt(kernel.constantIndex(r), runNumber(j)), offset);
          Value left = splatMembers({stageBlock, tileNumber, at}, codeBytes ? 4 : 2);
          multiplyCodes(llvm::map_to_vector(factors, [&](auto &factor) { return factor[half]; }), left,
                        sums.slice(sumAt(j, r, half % parts), wide));
        }
    }
  };
  Type sumType =
      codeBytes && lanes == 8 ? vectorOf(2 * lanes, kernel.getI16Type()) : vectorOf(lanes, kernel.getI32Type());
  Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(sumType));
  for (int64_t v0 = 0; v0 < vectors; v0 += wide)
    for (int64_t j0 = 0; j0 < together; j0 += runs) {
      SmallVector<Value> sums(runs * tileRows * wide * parts, none);
      sums = forFours(sums, [&](Value i, ValueRange carried) {
        SmallVector<Value> next(carried);
        addFour(i, v0, j0, next);
        return next;
      });
      for (int64_t j = j0; j < j0 + runs; ++j)
        for (int64_t r = 0; r < tileRows; ++r) {
          SmallVector<Value> at{kernel.sub(tile.rowNumbers[r], stageBegin), runNumber(j)};
          Value left = kernel.splat(memref::LoadOp::create(kernel, lhsScales, at));
          Value total = kernel.splat(memref::LoadOp::create(kernel, runSums, at));
          for (int64_t v = v0; v < v0 + wide; ++v) {
            const ScaledRun &part = right[v][j];
            Value &sum = acc[r * vectors + v];
            SmallVector<Value> ofParts;
            for (int64_t i = 0; i < parts; ++i)
              ofParts.push_back(sums[sumAt(j, r, i) + v - v0]);
            Value whole = joinCodeSums(ofParts);
            if (runCodes->zero)
              whole = arith::AddIOp::create(kernel, whole, total);
            Value scale = arith::MulFOp::create(kernel, part.scale, left);
            sum = vector::FMAOp::create(kernel, arith::SIToFPOp::create(kernel, sum.getType(), whole), scale, sum);
            if (!runCodes->zero)
              sum = vector::FMAOp::create(kernel, total, part.offset, sum);
          }
        }
    }
}

} // namespace mlir::dsc
