//===- MatmulOperands.cpp - how a product reads its operands --------------===//
//
// Panels are read as one stream, widened or decoded in registers. A staged
// left side lies row by row in memory near the thread, already in the form
// that the instruction reads; a staged right side is one tile of columns.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/codegen/MatmulEmitter.h"

namespace mlir::dsc {

constexpr int64_t kStreamAhead = 4096; // bytes: what memory delivers while a line is on its way

constexpr int64_t kStageAhead = 1024; // bytes: what a thread multiplies while the second-level cache answers

constexpr int64_t kStepsAhead = 8; // vectors of a row that are fetched before they are staged

/// Elements of the right side that one step of `group` reductions multiplies, per member of the group: column vector
/// `v` of the tile at `column`. Dots take the group whole.
SmallVector<Value> MatmulEmitter::loadRhs(Value column, int64_t v, Value k, Value columnMask) {
  Value offset = kernel.constantIndex(v * lanes);
  if (rhsStage) {
    Type element = cast<MemRefType>(rhsStage.getType()).getElementType();
    Value at = kernel.floorDiv(kernel.sub(k, rhsBegin), group);
    return {vector::LoadOp::create(kernel, vectorOf(lanes * group, element), rhsStage,
                                   ValueRange{at, kernel.constantIndex(v * lanes * group)})};
  }
  if (group > 1) {
    Value panel = kernel.floorDiv(column, vectors * lanes), step = kernel.floorDiv(k, group);
    if (!dots)
      return widened(loadGroup(panel, v, step));
    Value members = loadGroup(panel, v, step);
    if (stage && getElementTypeOrSelf(stage.getType()) != getElementTypeOrSelf(members)) // bytes by words
      members = kernel.convert(members, getElementTypeOrSelf(stage.getType()));
    return {members};
  }
  Index depthIndex = Index::uniform(k);
  SmallVector<Index> at;
  if (op.getPackedColumns()) {
    at = {Index::uniform(kernel.floorDiv(column, vectors * lanes)), depthIndex, Index::lanes(offset)};
  } else {
    at = batch;
    Index lanesIndex = Index::lanes(kernel.add(column, offset));
    at.push_back(op.getTransposeRhs() ? lanesIndex : depthIndex);
    at.push_back(op.getTransposeRhs() ? depthIndex : lanesIndex);
    kernel.mask = columnMask;
  }
  Value value = kernel.convert(kernel.pull(op.getRhs(), at), accType);
  kernel.mask = {};
  return {kernel.splat(value)};
}

Value MatmulEmitter::loadGroup(Value panel, int64_t v, Value step) {
  Value buffer = kernel.buffers.lookup(op.getRhs());
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0}, {1}, {2, 3}});
  Type element = getElementTypeOrSelf(op.getRhs());
  return vector::LoadOp::create(kernel, vectorOf(lanes * group, element), flat,
                                ValueRange{panel, step, kernel.constantIndex(v * lanes * group)});
}

/// The members of groups of two, widened.
SmallVector<Value> MatmulEmitter::widened(Value groups) {
  Type element = getElementTypeOrSelf(op.getRhs());
  Value pairs = bitcast(groups, lanes, kernel.getI32Type());
  auto bits = [&](int32_t pattern) {
    return Value(arith::ConstantOp::create(
        kernel, DenseElementsAttr::get(vectorOf(lanes, kernel.getI32Type()), kernel.getI32IntegerAttr(pattern))));
  };
  if (element.isF16()) {
    auto half = [&](Value word) {
      Value low = arith::TruncIOp::create(kernel, vectorOf(lanes, kernel.getI16Type()), word);
      return kernel.convert(bitcast(low, lanes, element), accType);
    };
    return {half(pairs), half(arith::ShRUIOp::create(kernel, pairs, bits(16)))};
  }
  // Two bf16 in 32 bits: each is the upper half of an f32.
  Value even = arith::ShLIOp::create(kernel, pairs, bits(16));
  Value odd = arith::AndIOp::create(kernel, pairs, bits(-65536));
  return {bitcast(even, lanes, accType), bitcast(odd, lanes, accType)};
}

/// Where row `r` of the tile that begins at `firstRow` has its elements of step `k`.
SmallVector<Value> MatmulEmitter::stageIndex(Value firstRow, int64_t r, Value k) {
  if (op.getPackedRows()) {
    Value step = kernel.mul(k, kernel.constantIndex(tileRows));
    return {kernel.floorDiv(firstRow, tileRows), kernel.add(step, kernel.constantIndex(r * (dots ? group : 1)))};
  }
  Value tile = kernel.floorDiv(kernel.sub(firstRow, stageBegin), tileRows);
  Value step = kernel.mul(kernel.sub(k, stageK), kernel.constantIndex(tileRows));
  return {stageBlock, tile, kernel.add(step, kernel.constantIndex(r * (dots ? group : 1)))};
}

/// Fetches what the tile reads of the stage some turns after the one at `k`; near the end of the last tile, what lies
/// behind it.
void MatmulEmitter::prefetchStage(const Tile &tile, Value k) {
  if (!stage || tileRows == 1)
    return;
  int64_t bytes = std::max(8u, cast<MemRefType>(stage.getType()).getElementTypeBitWidth()) / 8;
  SmallVector<Value> at = stageIndex(tile.rowNumbers[0], 0, k);
  Value first = at.back();
  for (int64_t line = 0; line < llvm::divideCeil(stepsPerTurn() * group * tileRows * bytes, kLineBytes); ++line) {
    at.back() = kernel.add(first, kernel.constantIndex((kStageAhead + line * kLineBytes) / bytes));
    memref::PrefetchOp::create(kernel, stage, at, /*isWrite=*/false, /*localityHint=*/3, /*isDataCache=*/true);
  }
}

/// `count` staged elements, 32 bits together, for every lane.
Value MatmulEmitter::splatMembers(ArrayRef<Value> at, int64_t count) {
  Type element = cast<MemRefType>(stage.getType()).getElementType();
  Value members = vector::LoadOp::create(kernel, vectorOf(count, element), stage, at);
  Value bits = vector::ExtractOp::create(kernel, bitcast(members, 1, kernel.getI32Type()), ArrayRef<int64_t>{0});
  return bitcast(kernel.splat(bits), lanes * count, element);
}

/// What row `r` of a tile multiplies the right side's elements with.
SmallVector<Value> MatmulEmitter::loadLhs(const Tile &tile, int64_t r, Value k) {
  if (dots)
    return {splatMembers(stageIndex(tile.rowNumbers[0], r, k), group)};
  SmallVector<Value> values;
  for (int64_t i = 0; i < group; ++i) {
    Value at = kernel.add(k, kernel.constantIndex(i));
    if (stage) {
      Value value = memref::LoadOp::create(kernel, stage, stageIndex(tile.rowNumbers[0], r, at));
      values.push_back(kernel.splat(value));
      continue;
    }
    SmallVector<Index> point(batch);
    llvm::append_range(point, tile.rowIndices[r]);
    point.push_back(Index::uniform(at));
    if (op.getTransposeLhs())
      std::swap(point[point.size() - 1], point[point.size() - 2]);
    values.push_back(kernel.splat(kernel.convert(kernel.pull(op.getLhs(), point), accType)));
  }
  return values;
}

/// Writes rows [begin, end) of the left side into `stage`, whole tiles of them; behind the last element of a row come
/// zeros. The rows of a tile are interleaved: what the instruction reads for one step lies side by side.
void MatmulEmitter::fillStage(Value begin, Value end) {
  Type element = cast<MemRefType>(stage.getType()).getElementType();
  int64_t width = std::min(kernel.kernelLanes(*op->getParentRegion()), kernel.lanesOf(element));
  int64_t length = block ? block : cast<RankedTensorType>(op.getLhs().getType()).getShape().back();
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  kernel.forLoop(zero, tiles, 1, [&](Value tile) {
    Value first = kernel.mul(tile, kernel.constantIndex(tileRows));
    SmallVector<SmallVector<Index>> rowIndices;
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.add(first, kernel.constantIndex(r));
      rowIndices.push_back(rowIndex(kernel.min(kernel.add(begin, row), last)));
      if (runSums)
        kernel.forLoop(zero, kernel.floorDiv(depth, run), 1, [&](Value number) {
          memref::StoreOp::create(kernel, kernel.zero(accType), runSums, ValueRange{row, number});
        });
    }
    kernel.forLoop(zero, depth, length, [&](Value blockBegin) {
      Value number = kernel.floorDiv(blockBegin, length);
      Value blockEnd = kernel.min(kernel.add(blockBegin, kernel.constantIndex(length)), depth);
      kernel.vectorLoop(blockBegin, blockEnd, width, [&](Value k) {
        SmallVector<Value> values;
        for (int64_t r = 0; r < tileRows; ++r) {
          SmallVector<Index> at(batch);
          llvm::append_range(at, rowIndices[r]);
          at.push_back(Index::lanes(k));
          values.push_back(stagedValue(at, element));
          if (tileRows > 1) {
            at.back() = Index::lanes(kernel.add(k, kernel.constantIndex(kStepsAhead * width)));
            kernel.prefetch(op.getLhs(), at);
          }
          if (runSums)
            addToRun(kernel.add(first, kernel.constantIndex(r)), k, values.back());
        }
        storeInterleaved(values, number, tile, kernel.sub(k, blockBegin));
      });
    });
  });
}

/// A vector of the left side as the instruction reads it, zero where the mask is.
Value MatmulEmitter::stagedValue(ArrayRef<Index> at, Type element) {
  Value value = kernel.splat(kernel.convert(kernel.pull(op.getLhs(), at), element));
  if (dots && element.isInteger(8)) // the instruction multiplies unsigned by signed
    value = arith::XOrIOp::create(kernel, value, kernel.splat(kernel.constant(element, -128)));
  if (kernel.mask)
    value = arith::SelectOp::create(kernel, kernel.mask, value, kernel.splat(kernel.zero(element)));
  return value;
}

/// Stores vectors along k, one per row of a tile, so that rows change fastest: in squares, each a transpose.
void MatmulEmitter::storeInterleaved(ArrayRef<Value> values, Value number, Value tile, Value k) {
  int64_t width = kernel.width, together = dots ? group : 1, n = width / together;
  Type element = getElementTypeOrSelf(values[0]);
  auto store = [&](Value value, int64_t step, int64_t row) {
    Value at = kernel.add(kernel.mul(k, kernel.constantIndex(tileRows)),
                          kernel.constantIndex((step * tileRows + row) * together));
    SmallVector<Value> index{number, tile, at};
    if (isa<VectorType>(value.getType()))
      vector::StoreOp::create(kernel, value, stage, index);
    else
      memref::StoreOp::create(kernel, value, stage, index);
  };
  if (tileRows == 1 || n == 1) {
    for (auto [row, value] : llvm::enumerate(values))
      store(value, 0, row);
    return;
  }
  Type word = together == 1 ? element : Type(kernel.getI32Type());
  auto recast = [&](Value value, int64_t count, Type type) {
    return together == 1 ? value : bitcast(value, count, type);
  };
  SmallVector<SmallVector<Value>> squares;
  for (int64_t row = 0; row < tileRows; row += n) {
    SmallVector<Value> square;
    for (int64_t r = row; r < row + n; ++r)
      square.push_back(recast(values[std::min(r, tileRows - 1)], n, word));
    squares.push_back(transposeSquare(kernel, square));
  }
  // What a square has too many of goes where the next step is stored, and behind the last.
  for (int64_t step = 0; step < n; ++step)
    for (auto [i, square] : llvm::enumerate(squares))
      store(recast(square[step], width, element), step, i * n);
}

/// Adds the lanes of a staged vector to the sum of the run that they are in.
void MatmulEmitter::addToRun(Value row, Value k, Value value) {
  SmallVector<Value> at{row, kernel.floorDiv(k, run)};
  Value sum = memref::LoadOp::create(kernel, runSums, at);
  memref::StoreOp::create(kernel, addValues(sum, kernel.reduce(vector::CombiningKind::ADD, value)), runSums, at);
}

/// Runs `number` and those read together with it, of column vector `v` of the tile at `column`.
SmallVector<ScaledRun> MatmulEmitter::runsAt(Value column, int64_t v, Value number) {
  auto result = cast<OpResult>(op.getRhs());
  return cast<KernelOpInterface>(result.getOwner())
      .pullRuns(kernel, result.getResultNumber(), kernel.floorDiv(column, vectors * lanes), number,
                kernel.constantIndex(v * lanes));
}

/// Element 4 `i` + `j` of a run.
Value MatmulEmitter::runValue(const ScaledRun &part, Value i, int64_t j) {
  Value quant = part.quant(i, j);
  if (part.offset)
    return vector::FMAOp::create(kernel, quant, part.scale, part.offset);
  return arith::MulFOp::create(kernel, quant, part.scale);
}

/// Decodes elements [begin, end) of the reduction for the tile at `column`, whole runs of them.
void MatmulEmitter::fillRhsStage(Value column, Value begin, Value end) {
  if (scaled)
    return fillScaledRhsStage(column, begin, end);
  rhsBegin = begin;
  Type element = cast<MemRefType>(rhsStage.getType()).getElementType();
  kernel.forLoop(begin, end, run * together, [&](Value k) {
    Value at = kernel.floorDiv(kernel.sub(k, begin), group);
    for (int64_t v = 0; v < vectors; ++v) {
      SmallVector<ScaledRun> runs = runsAt(column, v, kernel.floorDiv(k, run));
      auto storeFour = [&](const ScaledRun &part, Value i) {
        Value first = kernel.add(at, kernel.mul(i, kernel.constantIndex(4 / group)));
        for (int64_t j = 0; j < 4; j += group) {
          Value value = kernel.convert(runValue(part, i, j), element);
          if (group == 2)
            value = vector::InterleaveOp::create(kernel, value, kernel.convert(runValue(part, i, j + 1), element));
          Value step = kernel.add(first, kernel.constantIndex((part.number * run + j) / group));
          vector::StoreOp::create(kernel, value, rhsStage, ValueRange{step, kernel.constantIndex(v * lanes * group)});
        }
      };
      for (int64_t r = 0; r < together; r += kRunsAtOnce)
        forFours([&](Value i) {
          for (const ScaledRun &part : ArrayRef(runs).slice(r, std::min(kRunsAtOnce, together - r)))
            storeFour(part, i);
        });
    }
  });
}

/// What the sums of a tile begin with: 0, or what takes the unsigned bias of staged bytes out again.
SmallVector<Value> MatmulEmitter::startOf(Value column) {
  Value zero = kernel.splat(kernel.zero(accType));
  SmallVector<Value> start(vectors, zero);
  Type byte = kernel.getI8Type();
  if (!dots || isa<FloatType>(accType) || getElementTypeOrSelf(stage.getType()) != byte)
    return start;
  Value bias = arith::ConstantOp::create(
      kernel, DenseElementsAttr::get(vectorOf(lanes * group, byte), kernel.getIntegerAttr(byte, -128)));
  Value steps = kernel.mul(kernel.floorDiv(kernel.add(depth, kernel.constantIndex(group - 1)), group),
                           kernel.constantIndex(group));
  SmallVector<Value> sums =
      kernel.forLoop(kernel.constantIndex(0), steps, group, start, [&](Value k, ValueRange carried) {
        SmallVector<Value> next;
        for (int64_t v = 0; v < vectors; ++v)
          next.push_back(multiplyAdd(bias, loadRhs(column, v, k, {})[0], carried[v]));
        return next;
      });
  for (Value &sum : sums)
    sum = arith::SubIOp::create(kernel, zero, sum);
  return sums;
}

MatmulEmitter::Prefetch MatmulEmitter::prefetchAfter(const Tile &tile, Value begin, Value end) {
  Value buffer = op.getPackedColumns() ? kernel.buffers.lookup(op.getRhs()) : Value();
  if (!buffer || !stage || (tilesPerWorkgroup < 2 && tileRows > 1) || (unroll > 1 && tileRows > 1))
    return {};
  auto type = cast<MemRefType>(buffer.getType());
  int64_t panel = vectors * lanes * group, perTurn = stepsPerTurn() * panel;
  int64_t bytes = std::max(8u, type.getElementTypeBitWidth()) / 8;
  SmallVector<ReassociationIndices> all(1);
  for (int64_t i = 0; i < type.getRank(); ++i)
    all[0].push_back(i);
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, all);
  auto element = [&](Value k) {
    Value panels = kernel.mul(kernel.floorDiv(tile.column, vectors * lanes), kernel.constantIndex(type.getDimSize(1)));
    return kernel.mul(kernel.add(panels, kernel.floorDiv(k, group)), kernel.constantIndex(panel));
  };
  if (tileRows == 1) // a stream: the same thread reads on
    return {flat, kernel.add(element(begin), kernel.constantIndex(kStreamAhead / bytes)), kernel.constantIndex(perTurn),
            llvm::divideCeil(perTurn * bytes, kLineBytes)};
  Value share = kernel.mul(kernel.floorDiv(kernel.sub(end, begin), stepsPerTurn() * group), tileShare);
  Value number = kernel.floorDiv(kernel.sub(tile.rowNumbers[0], stageBegin), tileRows);
  Value first = kernel.add(element(end), kernel.mul(number, share));
  // Workgroups are of equal size: most have a tile or two less than fit.
  int64_t sharers = std::max<int64_t>(1, tilesPerWorkgroup * 3 / 4);
  return {flat, kernel.min(first, kernel.sub(kernel.constantIndex(type.getNumElements()), share)), tileShare,
          llvm::divideCeil(perTurn * bytes, kLineBytes * sharers)};
}

} // namespace mlir::dsc
