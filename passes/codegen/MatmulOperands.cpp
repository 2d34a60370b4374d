//===- MatmulOperands.cpp - how a product reads its operands --------------===//
//
// Panels are read as one stream, widened or decoded in registers. A staged
// left side lies row by row in memory near the thread, already in the form
// that the instruction reads; a staged right side is one tile of columns.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/codegen/MatmulEmitter.h"

namespace mlir::dsc {

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
  if (group > 1)
    return loadGroup(kernel.floorDiv(column, vectors * lanes), v, kernel.floorDiv(k, group));
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

SmallVector<Value> MatmulEmitter::loadGroup(Value panel, int64_t v, Value step) {
  Value buffer = kernel.buffers.lookup(op.getRhs());
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0}, {1}, {2, 3}});
  Type element = getElementTypeOrSelf(op.getRhs());
  Value value = vector::LoadOp::create(kernel, vectorOf(lanes * group, element), flat,
                                       ValueRange{panel, step, kernel.constantIndex(v * lanes * group)});
  if (dots)
    return {value};
  Value pairs = bitcast(value, lanes, kernel.getI32Type());
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

SmallVector<Value> MatmulEmitter::stageIndex(Value row, Value k) {
  return {stageBlock, kernel.sub(row, stageBegin), kernel.sub(k, stageK)};
}

/// What row `row` (number `r` of its tile) multiplies the right side's elements with.
SmallVector<Value> MatmulEmitter::loadLhs(ArrayRef<Index> index, Value row, Value k) {
  if (dots) {
    Type element = cast<MemRefType>(stage.getType()).getElementType();
    Value members = vector::LoadOp::create(kernel, vectorOf(group, element), stage, stageIndex(row, k));
    Value bits = vector::ExtractOp::create(kernel, bitcast(members, 1, kernel.getI32Type()), ArrayRef<int64_t>{0});
    return {bitcast(kernel.splat(bits), lanes * group, element)};
  }
  SmallVector<Value> values;
  for (int64_t i = 0; i < group; ++i) {
    Value at = kernel.add(k, kernel.constantIndex(i));
    if (stage) {
      Value value = memref::LoadOp::create(kernel, stage, stageIndex(row, at));
      values.push_back(kernel.splat(value));
      continue;
    }
    SmallVector<Index> point(batch);
    llvm::append_range(point, index);
    point.push_back(Index::uniform(at));
    if (op.getTransposeLhs())
      std::swap(point[point.size() - 1], point[point.size() - 2]);
    values.push_back(kernel.splat(kernel.convert(kernel.pull(op.getLhs(), point), accType)));
  }
  return values;
}

/// Writes rows [begin, end) of the left side into `stage`, whole tiles of them; behind the last element of a row come
/// zeros.
void MatmulEmitter::fillStage(Value begin, Value end) {
  Type element = cast<MemRefType>(stage.getType()).getElementType();
  int64_t width = std::min(kernel.kernelLanes(*op->getParentRegion()), kernel.lanesOf(element));
  Value zero = kernel.constantIndex(0), last = kernel.sub(rows, kernel.constantIndex(1));
  Value tiles = kernel.floorDiv(kernel.add(kernel.sub(end, begin), kernel.constantIndex(tileRows - 1)), tileRows);
  int64_t length = block ? block : cast<MemRefType>(stage.getType()).getShape().back();
  kernel.forLoop(zero, kernel.mul(tiles, kernel.constantIndex(tileRows)), 1, [&](Value i) {
    SmallVector<Index> index = rowIndex(kernel.min(kernel.add(begin, i), last));
    kernel.forLoop(zero, depth, length, [&](Value blockBegin) {
      Value number = kernel.floorDiv(blockBegin, length);
      Value blockEnd = kernel.min(kernel.add(blockBegin, kernel.constantIndex(length)), depth);
      kernel.vectorLoop(blockBegin, blockEnd, width, [&](Value k) {
        SmallVector<Index> at(batch);
        llvm::append_range(at, index);
        at.push_back(Index::lanes(k));
        Value value = kernel.splat(kernel.convert(kernel.pull(op.getLhs(), at), element));
        if (dots && element.isInteger(8)) // the instruction multiplies unsigned by signed
          value = arith::XOrIOp::create(kernel, value, kernel.splat(kernel.constant(element, -128)));
        if (kernel.mask)
          value = arith::SelectOp::create(kernel, kernel.mask, value, kernel.splat(kernel.zero(element)));
        vector::StoreOp::create(kernel, value, stage, ValueRange{number, i, kernel.sub(k, blockBegin)});
      });
    });
    if (runSums)
      sumRuns(i);
  });
}

/// The sum of every run of staged row `row`.
void MatmulEmitter::sumRuns(Value row) {
  int64_t width = std::min(lanes, run);
  Value zero = kernel.constantIndex(0);
  kernel.forLoop(zero, kernel.floorDiv(depth, run), 1, [&](Value number) {
    Value first = kernel.mul(number, kernel.constantIndex(run)), sum;
    for (int64_t i = 0; i < run; i += width) {
      Value part = vector::LoadOp::create(kernel, vectorOf(width, accType), stage,
                                          ValueRange{zero, row, kernel.add(first, kernel.constantIndex(i))});
      sum = sum ? addValues(sum, part) : part;
    }
    memref::StoreOp::create(kernel, kernel.reduce(vector::CombiningKind::ADD, sum), runSums, ValueRange{row, number});
  });
}

ScaledRun MatmulEmitter::runAt(Value column, int64_t v, Value number) {
  auto result = cast<OpResult>(op.getRhs());
  return cast<KernelOpInterface>(result.getOwner())
      .pullRun(kernel, result.getResultNumber(), kernel.floorDiv(column, vectors * lanes), number,
               kernel.constantIndex(v * lanes));
}

/// Decodes elements [begin, end) of the reduction for the tile at `column`, whole runs of them.
void MatmulEmitter::fillRhsStage(Value column, Value begin, Value end) {
  rhsBegin = begin;
  Type element = cast<MemRefType>(rhsStage.getType()).getElementType();
  kernel.forLoop(begin, end, run, [&](Value k) {
    Value at = kernel.floorDiv(kernel.sub(k, begin), group);
    for (int64_t v = 0; v < vectors; ++v) {
      ScaledRun part = runAt(column, v, kernel.floorDiv(k, run));
      for (int64_t i = 0; i < run; i += group) {
        SmallVector<Value> members;
        for (int64_t j = i; j < i + group; ++j) {
          Value quant = part.quant(j);
          members.push_back(kernel.convert(part.offset
                                               ? Value(vector::FMAOp::create(kernel, quant, part.scale, part.offset))
                                               : Value(arith::MulFOp::create(kernel, quant, part.scale)),
                                           element));
        }
        Value value = group == 1 ? members[0] : Value(vector::InterleaveOp::create(kernel, members[0], members[1]));
        vector::StoreOp::create(
            kernel, value, rhsStage,
            ValueRange{kernel.add(at, kernel.constantIndex(i / group)), kernel.constantIndex(v * lanes * group)});
      }
    }
  });
}

/// What the sums of a tile begin with: 0, or what takes the unsigned bias of staged bytes out again.
SmallVector<Value> MatmulEmitter::startOf(Value column) {
  Value zero = kernel.splat(kernel.zero(accType));
  SmallVector<Value> start(vectors, zero);
  if (!dots || isa<FloatType>(accType))
    return start;
  Type byte = kernel.getI8Type();
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
  if (!buffer || !stage || tilesPerWorkgroup < 2 || unroll > 1)
    return {};
  auto type = cast<MemRefType>(buffer.getType());
  int64_t panel = vectors * lanes * group, steps = type.getDimSize(1);
  int64_t perStep = llvm::divideCeil(panel, tilesPerWorkgroup);
  SmallVector<ReassociationIndices> all(1);
  for (int64_t i = 0; i < type.getRank(); ++i)
    all[0].push_back(i);
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, all);
  Value at = kernel.add(kernel.mul(kernel.floorDiv(tile.column, vectors * lanes), kernel.constantIndex(steps)),
                        kernel.floorDiv(end, group));
  Value share = kernel.mul(kernel.floorDiv(kernel.sub(end, begin), group), kernel.constantIndex(perStep));
  Value number = kernel.floorDiv(kernel.sub(tile.rowNumbers[0], stageBegin), tileRows);
  Value first = kernel.add(kernel.mul(at, kernel.constantIndex(panel)), kernel.mul(number, share));
  return {flat, kernel.min(first, kernel.sub(kernel.constantIndex(type.getNumElements()), share)), perStep};
}

} // namespace mlir::dsc
