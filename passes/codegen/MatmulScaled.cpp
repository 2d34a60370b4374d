//===- MatmulScaled.cpp - products of integers that share scales -----------===//
//
// Block floating point: 256 neighbours along the reduction, of a row or of a
// column, become integers under one scale, so large that the sum of 256
// products fits 32 bits. Integers of 16 bits are multiplied in pairs, with
// AVX512-VNNI at twice the rate of f32, with AVX2 at up to that. Both errors
// together are smaller than that of one rounding to bf16, measured by a block's
// norm.
//
// Codes of a block become such integers without being floats in between. Their
// pairs are the first and third of four, the second and fourth, as they are cut
// out of words; the left side is staged in the same order.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/ScaledIntegers.h"

namespace mlir::dsc {

constexpr double kLargest = 2894; // kScaledSteps n (n + 1) < 2^31: codes may come out one greater

/// Writes elements [k, end) of a row into `rowFloats`, behind the row's last one zeros; the greatest magnitude, as
/// bits. `part` divides their number.
Value MatmulEmitter::gatherScaledRow(ArrayRef<Index> row, Value k, Value end, int64_t part) {
  Type f32 = kernel.getF32Type();
  Value filled = end, count = kernel.sub(end, k);
  if (staticDepth() % part) {
    filled = kernel.min(end, depth);
    kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, depth, end), [&] {
      Value none = constantVector(kernel, f32, kernel.getF32FloatAttr(0), lanes);
      for (int64_t i = part; i > 0; i -= lanes)
        vector::StoreOp::create(kernel, none, rowFloats, ValueRange{kernel.sub(count, kernel.constantIndex(i))});
    });
  }
  int64_t width = std::min(kernel.kernelLanes(*op->getParentRegion()), lanes);
  SmallVector<Index> at(batch);
  llvm::append_range(at, row);
  at.emplace_back();
  kernel.vectorLoop(k, filled, width, [&](Value element) {
    at.back() = Index::lanes(element);
    Value value = stagedValue(at, f32), position = kernel.sub(element, k);
    if (kernel.isVector(value))
      vector::StoreOp::create(kernel, value, rowFloats, ValueRange{position});
    else
      memref::StoreOp::create(kernel, value, rowFloats, ValueRange{position});
  });
  SmallVector<Value> none{noMagnitude(kernel, lanes)};
  Value most = kernel.forLoop(kernel.constantIndex(0), count, part, none, [&](Value first, ValueRange carried) {
    Value inner = carried[0];
    for (int64_t i = 0; i < part; i += lanes)
      inner = greaterMagnitude(kernel, inner, loadRowFloats(first, i));
    return SmallVector<Value>{inner};
  })[0];
  return greatestMagnitude(kernel, most);
}

Value MatmulEmitter::loadRowFloats(Value first, int64_t offset) {
  return vector::LoadOp::create(kernel, vectorOf(lanes, accType), rowFloats,
                                ValueRange{kernel.add(first, kernel.constantIndex(offset))});
}

Value MatmulEmitter::inOrderOfCodes(Value integers) {
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < lanes; i += 4)
    order.append({i, i + 2, i + 1, i + 3});
  return vector::ShuffleOp::create(kernel, integers, integers, order);
}

std::array<Value, 2> MatmulEmitter::codeWords(Value codes) {
  Type word = kernel.getI16Type();
  Value words = bitcast(codes, 2 * lanes, word);
  auto all = [&](int64_t value) { return constantVector(kernel, word, kernel.getIntegerAttr(word, value), 2 * lanes); };
  return {arith::AndIOp::create(kernel, words, all(255)), arith::ShRUIOp::create(kernel, words, all(8))};
}

/// As `fillStage`, for integers under scales.
void MatmulEmitter::fillScaledStage(Value begin, Value end) {
  Type element = kernel.getI16Type();
  int64_t padded = llvm::alignTo(staticDepth(), kScaledPart);
  int64_t length = block ? block : llvm::alignTo(staticDepth(), kScaledSteps), together = 2 * lanes;
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  kernel.forLoop(zero, tiles, 1, [&](Value tile) {
    Value first = kernel.mul(tile, kernel.constantIndex(tileRows));
    kernel.forLoop(zero, depth, kScaledSteps, [&](Value k) {
      Value count = kernel.constantIndex(kScaledSteps);
      if (padded % kScaledSteps)
        count = kernel.min(count, kernel.sub(kernel.constantIndex(padded), k));
      kernel.forLoop(zero, kernel.constantIndex(tileRows), 1, [&](Value r) {
        Value row = kernel.add(first, r);
        SmallVector<Index> at = rowIndex(kernel.min(kernel.add(begin, row), last));
        Value most = gatherScaledRow(at, k, kernel.add(k, count), kScaledPart);
        auto [scale, factor] = scaleOf(kernel, most, kLargest);
        memref::StoreOp::create(kernel, scale, lhsScales, ValueRange{row, kernel.floorDiv(k, kScaledSteps)});
        Value factors = vector::BroadcastOp::create(kernel, vectorOf(lanes, accType), factor);
        kernel.forLoop(zero, count, kScaledPart, [&](Value part) {
          for (int64_t i = 0; i < kScaledPart; i += lanes) {
            Value integers = scaledIntegers(kernel, loadRowFloats(part, i), factors);
            if (runCodes)
              integers = inOrderOfCodes(integers);
            vector::StoreOp::create(kernel, arith::TruncIOp::create(kernel, vectorOf(lanes, element), integers),
                                    integerRows, ValueRange{r, kernel.add(part, kernel.constantIndex(i))});
          }
        });
      });
      Value number = kernel.floorDiv(k, length);
      Value inBlock = kernel.sub(k, kernel.mul(number, kernel.constantIndex(length)));
      int64_t outer = std::exchange(kernel.width, together);
      kernel.forLoop(zero, count, together, [&](Value part) {
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

/// The greatest magnitudes of elements [begin, end) of a vector of columns, or bounds of them, as bits.
Value MatmulEmitter::greatestOfColumns(Value column, int64_t v, Value begin, Value end) {
  SmallVector<Value> none{noMagnitude(kernel, lanes)};
  if (run) // of codes, the least and the greatest that there may be
    return kernel.forLoop(begin, end, run * together, none, [&](Value k, ValueRange carried) {
      Value most = carried[0];
      auto keep = [&](Value value) { most = greaterMagnitude(kernel, most, value); };
      auto times = [&](Value value, double factor) -> Value {
        Value all = constantVector(kernel, accType, kernel.getF32FloatAttr(factor), lanes);
        return arith::MulFOp::create(kernel, value, all);
      };
      for (const ScaledRun &part : runsAt(column, v, kernel.floorDiv(k, run))) {
        for (int64_t i = 0; i < run && !runCodes; ++i)
          keep(runValue(part, kernel.constantIndex(i / 4), i % 4));
        if (runCodes && runCodes->zero) {
          keep(times(part.scale, runCodes->zero));
        } else if (runCodes) {
          keep(part.offset);
          keep(arith::AddFOp::create(kernel, times(part.scale, (1 << runCodes->bits) - 1), part.offset));
        }
      }
      return SmallVector<Value>{most};
    })[0];
  // Floats of 16 bits are ordered as they are.
  Type word = kernel.getI16Type();
  int64_t perTurn = pairsPerTurn();
  Value magnitude = constantVector(kernel, word, kernel.getI16IntegerAttr(0x7fff), lanes * group);
  none[0] = constantVector(kernel, word, kernel.getI16IntegerAttr(0), lanes * group);
  Value most = kernel.forLoop(begin, end, perTurn * group, none, [&](Value k, ValueRange carried) {
    Value inner = carried[0];
    for (int64_t i = 0; i < perTurn; ++i) {
      Value pairs = bitcast(loadPairs(column, v, k, i), lanes * group, word);
      inner = arith::MaxUIOp::create(kernel, inner, arith::AndIOp::create(kernel, pairs, magnitude));
    }
    return SmallVector<Value>{inner};
  })[0];
  SmallVector<Value> members = widened(most);
  return greaterMagnitude(kernel, greaterMagnitude(kernel, noMagnitude(kernel, lanes), members[0]), members[1]);
}

/// Vectors of pairs of 16-bit floats that a loop looks at in each of its turns.
int64_t MatmulEmitter::pairsPerTurn() { return staticDepth() % (4 * group) ? 1 : 4; }

/// Pair `i` from element `k` of the reduction on.
Value MatmulEmitter::loadPairs(Value column, int64_t v, Value k, int64_t i) {
  Value step = kernel.add(kernel.floorDiv(k, group), kernel.constantIndex(i));
  return loadGroup(kernel.floorDiv(column, vectors * lanes), v, step);
}

/// Codes of runs as integers, under the scale that is 1 / `factor`: `store` takes pairs, and which they are, counted
/// from the first of the run that is number 0.
void MatmulEmitter::scaleCodes(ArrayRef<ScaledRun> runs, Value factor, function_ref<void(Value, Value)> store) {
  Type word = kernel.getI16Type();
  auto all = [&](int64_t value) { return constantVector(kernel, word, kernel.getIntegerAttr(word, value), 2 * lanes); };
  auto words = [&](Value value, double more) {
    Value times = constantVector(kernel, accType, kernel.getF32FloatAttr(more), lanes);
    Value integers = scaledIntegers(kernel, value, arith::MulFOp::create(kernel, factor, times));
    return bitcast(pairsOf(kernel, integers, integers), 2 * lanes, word);
  };
  // Two bits more than the result has: the code, shifted to the top of a word, by its step times four.
  int64_t bits = runCodes->bits, zero = runCodes->zero;
  SmallVector<std::pair<Value, Value>> lines;
  for (const ScaledRun &part : runs) {
    Value step = words(part.scale, 4 << bits), begin;
    if (zero) // as many steps as the code of 0, rounded as that one is
      begin = arith::SubIOp::create(kernel, all(2), roundedProduct(kernel, all(zero << (15 - bits)), step));
    else
      begin = arith::AddIOp::create(kernel, all(2), words(part.offset, 4));
    lines.push_back({step, begin});
  }
  forFours([&](Value i) {
    for (auto [part, line] : llvm::zip_equal(runs, lines))
      for (auto [j, codes] : llvm::enumerate(codeWords(part.codes(i)))) {
        Value top = arith::ShLIOp::create(kernel, codes, all(15 - bits));
        Value sum = arith::AddIOp::create(kernel, roundedProduct(kernel, top, line.first), line.second);
        Value pair =
            kernel.add(kernel.mul(i, kernel.constantIndex(2)), kernel.constantIndex(part.number * run / 2 + j));
        store(arith::ShRSIOp::create(kernel, sum, all(2)), pair);
      }
  });
}

/// Converts elements [begin, end) of the reduction for the tile at `column` to integers under scales, whole parts of
/// blocks.
void MatmulEmitter::fillScaledRhsStage(Value column, Value begin, Value end) {
  rhsBegin = begin;
  Type word = kernel.getI16Type();
  bool ragged = staticDepth() % kScaledPart;
  kernel.forLoop(begin, end, kScaledSteps, [&](Value k) {
    Value padded = kernel.min(kernel.add(k, kernel.constantIndex(kScaledSteps)), end), last = padded;
    if (ragged)
      last = kernel.min(padded, kernel.constantIndex(llvm::alignTo(staticDepth(), group)));
    Value number = kernel.floorDiv(kernel.sub(k, begin), kScaledSteps);
    for (int64_t v = 0; v < vectors; ++v) {
      auto [scale, factor] = scaleOf(kernel, greatestOfColumns(column, v, k, last), kLargest);
      vector::StoreOp::create(kernel, scale, rhsScales, ValueRange{number, kernel.constantIndex(v * lanes)});
      Value factors = factor;
      auto store = [&](Value pairs, Value at, Value i) {
        Value step = kernel.add(kernel.floorDiv(kernel.sub(at, begin), group), i);
        vector::StoreOp::create(kernel, pairs, rhsStage, ValueRange{step, kernel.constantIndex(v * lanes * group)});
      };
      auto storeFloats = [&](Value even, Value odd, Value at, int64_t i) {
        even = scaledIntegers(kernel, even, factors);
        Value pairs = pairsOf(kernel, even, scaledIntegers(kernel, odd, factors));
        store(bitcast(pairs, lanes * group, word), at, kernel.constantIndex(i));
      };
      kernel.forLoop(k, last, run ? run * together : pairsPerTurn() * group, [&](Value at) {
        if (!run) {
          for (int64_t i = 0; i < pairsPerTurn(); ++i) {
            SmallVector<Value> members = widened(loadPairs(column, v, at, i));
            storeFloats(members[0], members[1], at, i);
          }
          return;
        }
        SmallVector<ScaledRun> runs = runsAt(column, v, kernel.floorDiv(at, run));
        for (int64_t j = 0; j < together && runCodes; j += kRunsAtOnce)
          scaleCodes(ArrayRef(runs).slice(j, std::min(kRunsAtOnce, together - j)), factors,
                     [&](Value pairs, Value i) { store(pairs, at, i); });
        for (int64_t i = 0; i < run && !runCodes; i += group) { // none of them are read together
          Value four = kernel.constantIndex(i / 4), even = runValue(runs[0], four, i % 4);
          storeFloats(even, runValue(runs[0], four, i % 4 + 1), at, i / group);
        }
      });
      if (ragged)
        kernel.forLoop(last, padded, group, [&](Value at) {
          store(constantVector(kernel, word, kernel.getI16IntegerAttr(0), lanes * group), at, kernel.constantIndex(0));
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
