//===- AttentionTiles.h - what attention of many rows keeps near ----------===//
//
// Tiles of queries, keys and values of a block, scores, and what is known of
// who sees what. Lanes lie along queries; with dot products they hold pairs, of
// bf16 or of integers. Those share a scale in each query, in each key, in each
// element of a block's values, and in all weights of a query and a block.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/AttentionEmitter.h"
#include "passes/codegen/ScaledIntegers.h"

namespace mlir::dsc {

struct AttentionTiles : AttentionEmitter {
  Value queries, sums, weights, rows;        // [tile * depth, column], the same, [key, column], [row, depth]
  Value max, total, limits, starts;          // [tile, column]; the keys that a row sees lie between the last two
  Value maskRows, masks;                     // [row, key] and [key, row] of a tile, or one row for all
  Value staged[2];                           // keys and values of a block, where they must be converted
  Value rowHalves, pairs;                    // with dots: [row, depth], [key / 2, column] of two weights each
  Value queryScales, keyScales, valueScales; // of integers: [tile, column], [0, key], [0, depth]
  Value greatestValue;                       // the greatest magnitude of a block's values, as bits

  AttentionTiles(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan)
      : AttentionEmitter(op, kernel, plan) {
    int64_t tiles = llvm::divideCeil(plan.rows(), plan.tileColumns), columns = plan.tileColumns;
    queries = plan.dots ? allocate({tiles * queryRows(), columns}, kernel.getI32Type())
                        : allocate({tiles * queryRows(), columns});
    sums = allocate({tiles * plan.paddedDepth(), columns});
    weights = allocate({plan.keys, columns});
    rows = allocate({columns, plan.paddedDepth()});
    max = allocate({tiles, columns});
    total = allocate({tiles, columns});
    limits = allocate({tiles, columns}, kernel.getI32Type());
    if (op.getWindow())
      starts = allocate({tiles, columns}, kernel.getI32Type());
    if (op.getMask()) {
      int64_t keys = llvm::alignTo(plan.keys, plan.lanes);
      maskRows = allocate({sameForAllRows() ? 1 : columns, keys});
      if (!sameForAllRows())
        masks = allocate({keys, columns});
    }
    if (plan.scaled) {
      queryScales = allocate({tiles, columns});
      keyScales = allocate({1, plan.keys});
      valueScales = allocate({1, plan.paddedDepth()});
      greatestValue = allocate({1}, kernel.getI32Type());
    }
    if (plan.dots) {
      Type half = halfType();
      rowHalves = allocate({columns, plan.pairedDepth()}, half);
      pairs = allocate({plan.keys / 2, columns}, kernel.getI32Type());
      staged[0] = allocate({plan.keys, plan.paddedDepth()}, half);
      staged[1] = allocate({plan.keys / 2, 2 * plan.paddedDepth()}, half);
      return;
    }
    for (int64_t plane : {0, 1})
      if (Value tensor = op.getCache() ? op.getCache()
                         : plane == 0  ? op.getKey()
                                       : op.getValue();
          !kernel.buffers.contains(tensor) || getElementTypeOrSelf(tensor) != type)
        staged[plane] = allocate({plan.keys, plan.paddedDepth()});
  }

  /// Keys of a block that a tile meets, and how many of them every row of the tile sees.
  struct Block {
    Value tile, first, count, seenByAll;
    bool masked; // some row sees less than `count`
    Value whole; // or none does where this holds, and `count` is all of the block
  };

  /// Rows of a tile in `queries`.
  int64_t queryRows() const { return plan.dots ? plan.pairedDepth() / 2 : plan.paddedDepth(); }
  Value column(int64_t v) { return constant(v * plan.lanes); }
  Value depthRow(Value tile, Value depth) { return kernel.add(kernel.mul(tile, constant(plan.paddedDepth())), depth); }
  SmallVector<Value> loadVectors(Value buffer, Value row) {
    SmallVector<Value> values;
    for (int64_t v = 0; v < plan.vectors(); ++v)
      values.push_back(loadVector(buffer, row, column(v)));
    return values;
  }
  void storeVectors(ArrayRef<Value> values, Value buffer, Value row) {
    for (auto [v, value] : llvm::enumerate(values))
      storeVector(value, buffer, row, column(v));
  }

  // The sum of all products fits 32 bits.
  double largestOfQueries() const { return std::floor(std::sqrt(kMostOfSum / plan.depth)); }
  double largestOfValues() const { return std::floor(kMostOfSum / (plan.keys * kLargestWeight)); }
  static constexpr double kMostOfSum = 0x7fffffff, kLargestWeight = 8191, kInfinity = 0x7f800000;

  Type halfType() { return plan.scaled ? Type(kernel.getI16Type()) : Type(kernel.getBF16Type()); }
  VectorType halves() { return VectorType::get({2 * plan.lanes}, halfType()); }
  VectorType words() { return VectorType::get({plan.lanes}, kernel.getI32Type()); }
  Value asHalves(Value words) { return vector::BitCastOp::create(kernel, halves(), words); }
  Value asWords(Value halves) { return vector::BitCastOp::create(kernel, words(), halves); }
  SmallVector<Value> loadPairs(Value buffer, Value row) {
    SmallVector<Value> values;
    for (int64_t v = 0; v < plan.vectors(); ++v)
      values.push_back(asHalves(vector::LoadOp::create(kernel, words(), buffer, ValueRange{row, column(v)})));
    return values;
  }
  /// Lane by lane, `even` and `odd` rounded; or integers, of floats times `factor`.
  Value pairWords(Value even, Value odd, Value factor) {
    if (plan.scaled)
      return pairsOf(kernel, scaledIntegers(kernel, even, factor), scaledIntegers(kernel, odd, factor));
    Type half = kernel.getBF16Type();
    return asWords(vector::InterleaveOp::create(kernel, kernel.convert(even, half), kernel.convert(odd, half)));
  }
  /// A staged pair for all lanes, as words.
  Value readPair(int64_t plane, Value row, Value element) {
    auto two = VectorType::get({2}, halfType()), one = VectorType::get({1}, kernel.getI32Type());
    Value pair = vector::LoadOp::create(kernel, two, staged[plane], ValueRange{row, element});
    Value word = vector::ExtractOp::create(kernel, vector::BitCastOp::create(kernel, one, pair), ArrayRef<int64_t>{0});
    return kernel.splat(word);
  }

  /// An element of keys or values for all lanes.
  Value readScalar(int64_t plane, const Block &block, Value key, Value depth) {
    if (staged[plane])
      return kernel.splat(loadScalar(staged[plane], {key, depth}));
    Value position = kernel.add(block.first, key);
    if (block.masked)
      position = kernel.min(position, kernel.sub(keys, one));
    return readKv(plane, position, uniform(depth));
  }

  /// Zero behind the last element of a vector that isn't whole.
  Value orZero(Value value) {
    return kernel.mask ? Value(arith::SelectOp::create(kernel, kernel.mask, value, vectorConstant(0))) : value;
  }
  /// A scale for all of `most`, which goes where `store` says; the factor for all lanes.
  Value scaleTo(Value most, double largest, function_ref<void(Value)> store) {
    auto [scale, factor] = scaleOf(kernel, most, largest);
    store(scale);
    return kernel.isVector(factor) ? factor
                                   : vector::BroadcastOp::create(kernel, VectorType::get({plan.lanes}, type), factor);
  }
  /// Elements [0, end) that `read` gives as halves, in row `row` of `to`; of integers, the scale goes to `scales`.
  void storeHalves(Value end, function_ref<Value(Value)> read, Value to, Value row, Value scales, ValueRange scaleAt) {
    Value factor;
    if (plan.scaled) {
      Value most = kernel.vectorLoop(zero, end, plan.lanes, noMagnitude(kernel, plan.lanes),
                                     [&](Value depth, ValueRange carried) {
                                       Value value = orZero(read(depth));
                                       return SmallVector<Value>{greaterMagnitude(kernel, carried[0], value)};
                                     })[0];
      factor = scaleTo(greatestMagnitude(kernel, most), largestOfQueries(),
                       [&](Value scale) { memref::StoreOp::create(kernel, scale, scales, scaleAt); });
    }
    kernel.vectorLoop(zero, end, plan.lanes, [&](Value depth) {
      Value value = read(depth), half;
      if (plan.scaled)
        half = arith::TruncIOp::create(kernel, VectorType::get({plan.lanes}, halfType()),
                                       scaledIntegers(kernel, orZero(value), factor));
      else
        half = kernel.convert(value, halfType());
      vector::StoreOp::create(kernel, half, to, ValueRange{row, depth});
    });
  }

  /// The factor of the integers of elements [depth, depth + lanes) of a block's values, whose scales are stored. What
  /// is not finite makes them 0 and shows in `greatestValue`: queries that see it are spoilt later, the others are not.
  Value scaleValues(Value first, Value count, Value depth) {
    Value infinity = constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(kInfinity), plan.lanes);
    SmallVector<Value> none(2, noMagnitude(kernel, plan.lanes));
    SmallVector<Value> most = kernel.forLoop(zero, count, 1, none, [&](Value key, ValueRange carried) {
      Value position = kernel.min(kernel.add(first, key), kernel.sub(keys, one));
      Value value = orZero(readKv(1, position, Index::lanes(depth)));
      Value bits = greaterMagnitude(kernel, none[0], value);
      Value finite = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, bits, infinity);
      bits = arith::MaxUIOp::create(kernel, carried[0], bits);
      value = greaterMagnitude(kernel, carried[1], value);
      return SmallVector<Value>{bits, arith::SelectOp::create(kernel, finite, value, carried[1])};
    });
    Value greatest = loadScalar(greatestValue, {zero});
    greatest = arith::MaxUIOp::create(kernel, greatest, greatestMagnitude(kernel, most[0]));
    memref::StoreOp::create(kernel, greatest, greatestValue, ValueRange{zero});
    return scaleTo(most[1], largestOfValues(), [&](Value scale) { storeVector(scale, valueScales, zero, depth); });
  }

  /// Keys as rows, values as pairs of rows.
  void stagePairs(Value first, Value count) {
    auto position = [&](Value key) { return kernel.min(kernel.add(first, key), kernel.sub(keys, one)); };
    count = kernel.mul(ceilDiv(count, 2), constant(2));
    kernel.forLoop(zero, count, 1, [&](Value key) {
      storeHalves(constant(plan.depth), [&](Value depth) { return readKv(0, position(key), Index::lanes(depth)); },
                  staged[0], key, keyScales, {zero, key});
    });
    if (plan.scaled)
      memref::StoreOp::create(kernel, arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(0)), greatestValue,
                              ValueRange{zero});
    kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, [&](Value depth) {
      Value factor = plan.scaled ? scaleValues(first, count, depth) : Value();
      kernel.forLoop(zero, count, 2, [&](Value key) {
        auto read = [&](Value key) { return orZero(readKv(1, position(key), Index::lanes(depth))); };
        Value even = read(key), words = pairWords(even, read(kernel.add(key, one)), factor);
        vector::StoreOp::create(kernel, asHalves(words), staged[1],
                                ValueRange{kernel.floorDiv(key, 2), kernel.mul(depth, constant(2))});
      });
    });
  }

  void stage(Value first, Value count) {
    if (plan.dots)
      return stagePairs(first, count);
    for (int64_t plane : {0, 1})
      if (staged[plane])
        kernel.forLoop(zero, count, 1, [&](Value key) {
          Value position = kernel.min(kernel.add(first, key), kernel.sub(keys, one));
          kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, [&](Value depth) {
            kernel.store(readKv(plane, position, Index::lanes(depth)), staged[plane],
                         {uniform(key), Index::lanes(depth)});
          });
        });
  }

  /// For the lanes of each vector, whether they see the key.
  SmallVector<Value> seen(const Block &block, Value key) {
    auto vector = VectorType::get({plan.lanes}, kernel.getI32Type());
    Value position = arith::IndexCastOp::create(kernel, kernel.getI32Type(), kernel.add(block.first, key));
    position = vector::BroadcastOp::create(kernel, vector, position);
    SmallVector<Value> found;
    for (int64_t v = 0; v < plan.vectors(); ++v) {
      Value limit = vector::LoadOp::create(kernel, vector, limits, ValueRange{block.tile, column(v)});
      Value isSeen = arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, position, limit);
      if (starts) {
        Value start = vector::LoadOp::create(kernel, vector, starts, ValueRange{block.tile, column(v)});
        Value late = arith::CmpIOp::create(kernel, arith::CmpIPredicate::sge, position, start);
        isSeen = arith::AndIOp::create(kernel, isSeen, late);
      }
      found.push_back(isSeen);
    }
    return found;
  }

  /// Fills tile `tile` of `to` with the transpose of `rows`, or the reverse.
  void transpose(Value from, Value to, Value fromBase, Value toBase, int64_t fromRows, int64_t fromColumns) {
    kernel.width = plan.lanes;
    kernel.forLoop(zero, constant(fromRows), plan.lanes, [&](Value row) {
      kernel.forLoop(zero, constant(fromColumns), plan.lanes, [&](Value column) {
        SmallVector<Value> square;
        for (int64_t i = 0; i < plan.lanes; ++i)
          square.push_back(loadVector(from, kernel.add(fromBase, kernel.add(row, constant(i))), column));
        for (auto [i, vector] : llvm::enumerate(transposeSquare(kernel, square)))
          storeVector(vector, to, kernel.add(toBase, kernel.add(column, constant(i))), row);
      });
    });
    kernel.width = 1;
  }

  /// Fills tile `tile` of the queries with the pairs of `rowHalves`.
  void transposePairs(Value tile) {
    Value base = kernel.mul(tile, constant(queryRows()));
    kernel.forLoop(zero, constant(plan.tileColumns), plan.lanes, [&](Value row) {
      kernel.forLoop(zero, constant(queryRows()), plan.lanes, [&](Value pair) {
        SmallVector<Value> square;
        Value element = kernel.mul(pair, constant(2));
        for (int64_t i = 0; i < plan.lanes; ++i) {
          SmallVector<Value> at{kernel.add(row, constant(i)), element};
          square.push_back(asWords(vector::LoadOp::create(kernel, halves(), rowHalves, at)));
        }
        for (auto [i, vector] : llvm::enumerate(transposeSquare(kernel, square)))
          vector::StoreOp::create(kernel, vector, queries,
                                  ValueRange{kernel.add(base, kernel.add(pair, constant(i))), row});
      });
    });
  }
};

} // namespace mlir::dsc
