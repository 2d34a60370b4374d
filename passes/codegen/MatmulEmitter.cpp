//===- MatmulEmitter.cpp - register-tiled matrix product ------------------===//
//
// Rows beyond the end are computed from the last row and not stored; columns
// beyond the end are masked.
//
//===----------------------------------------------------------------------===//

#include "passes/codegen/MatmulEmitter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/DotProducts.h"

namespace mlir::dsc {

MatmulShape matmulShape(MatmulOp op, DimsAnalysis &dims) {
  MatmulShape shape;
  Dims lhs = dims.get(op.getLhs()), result = dims.get(op.getResult());
  bool shared = op.getPackedColumns() || cast<RankedTensorType>(op.getRhs().getType()).getRank() == 2;
  Dims leading(result.begin(), result.end() - 2);
  (shared ? shape.rows : shape.batch) = leading;
  shape.rows.push_back(result[result.size() - 2]);
  shape.columns = result.back();
  shape.depth = op.getDepth(lhs);
  return shape;
}

Type accumulatorOf(MatmulOp op) {
  Type element = getElementTypeOrSelf(op.getLhs()), result = getElementTypeOrSelf(op.getResult());
  return element.isInteger(8) ? result : defaultAccumulatorType(element);
}

/// Adjacent elements along the reduction that lie together in the right side.
int64_t groupOf(MatmulOp op) {
  auto rhs = cast<RankedTensorType>(op.getRhs().getType());
  return op.getPackedColumns() && rhs.getRank() == 4 ? rhs.getDimSize(3) : 1;
}

int64_t runOf(MatmulOp op) {
  auto source = op.getRhs().getDefiningOp<KernelOpInterface>();
  return source && op.getPackedColumns() ? source.getRunLength(cast<OpResult>(op.getRhs()).getResultNumber()) : 0;
}

int64_t runsTogether(MatmulOp op) {
  if (!runOf(op))
    return 1;
  auto result = cast<OpResult>(op.getRhs());
  return cast<KernelOpInterface>(result.getOwner()).getRunsTogether(result.getResultNumber());
}

std::optional<RunCodes> runCodesOf(MatmulOp op) {
  if (!runOf(op))
    return std::nullopt;
  auto result = cast<OpResult>(op.getRhs());
  return cast<KernelOpInterface>(result.getOwner()).getRunCodes(result.getResultNumber());
}

MatmulEmitter::MatmulEmitter(MatmulOp op, KernelBuilder &kernel, const MatmulPlan &plan)
    : MatmulPlan(plan), op(op), kernel(kernel), shape(matmulShape(op, kernel.dims)), accType(accumulatorOf(op)),
      runCodes(runCodesOf(op)), together(runsTogether(op)) {
  for (AffineExpr size : shape.rows)
    rowSizes.push_back(kernel.materialize(size));
  rows = kernel.materialize(elementCount(shape.rows, op.getContext()));
  columns = kernel.materialize(shape.columns);
  depth = kernel.materialize(shape.depth);
  auto constant = dyn_cast<AffineConstantExpr>(shape.columns);
  masksColumns = !constant || constant.getValue() % (vectors * lanes) != 0;
  if (stageType)
    stage = kernel.allocate(stageType);
  if (op.getPackedRows())
    stage = memref::CollapseShapeOp::create(kernel, kernel.buffers.lookup(op.getLhs()), packedTiles());
  if (rhsStageType)
    rhsStage = kernel.allocate(rhsStageType);
  else if (run)
    runSums = kernel.allocate(MemRefType::get({tilesPerWorkgroup * tileRows, staticDepth() / run},
                                              codes && runCodes->zero ? Type(kernel.getI32Type()) : accType));
  if (codes) {
    lhsScales = kernel.allocate(MemRefType::get({tilesPerWorkgroup * tileRows, staticDepth() / run}, accType));
    rowFloats = kernel.allocate(MemRefType::get({run}, accType));
  }
  if (scaled) {
    int64_t blocks = llvm::divideCeil(staticDepth(), kScaledSteps);
    lhsScales = kernel.allocate(MemRefType::get({tilesPerWorkgroup * tileRows, blocks}, accType));
    rhsScales = kernel.allocate(MemRefType::get({block ? block / kScaledSteps : blocks, vectors * lanes}, accType));
    rowFloats = kernel.allocate(MemRefType::get({kScaledSteps}, accType));
    integerRows = kernel.allocate(MemRefType::get({tileRows, kScaledSteps}, kernel.getI16Type()));
  }
  if (block || tiles)
    partial = kernel.allocate(MemRefType::get({(block ? tilesPerWorkgroup : 1) * tileRows, vectors * lanes}, accType));
  if (tiles && staticDepth() % chunk())
    lastChunk = kernel.allocate(
        MemRefType::get({kMachineTileRows, vectors * lanes * group}, getElementTypeOrSelf(op.getRhs())));
}

Value MatmulEmitter::multiplyAdd(Value a, Value b, Value acc) {
  if (dots)
    return multiplyGroups(kernel, a, b, acc);
  if (isa<FloatType>(accType))
    return vector::FMAOp::create(kernel, a, b, acc);
  return arith::AddIOp::create(kernel, arith::MulIOp::create(kernel, a, b), acc);
}

Value MatmulEmitter::addValues(Value a, Value b) {
  return isa<FloatType>(accType) ? Value(arith::AddFOp::create(kernel, a, b))
                                 : Value(arith::AddIOp::create(kernel, a, b));
}

/// Rows [firstRow, firstRow + tileRows); `checked` ones may lie beyond the end.
MatmulEmitter::Tile MatmulEmitter::tileAt(Value firstRow, Value column, bool checked) {
  Tile tile;
  tile.column = column;
  Value lastRow = kernel.sub(rows, kernel.constantIndex(1));
  for (int64_t r = 0; r < tileRows; ++r) {
    Value row = kernel.add(firstRow, kernel.constantIndex(r));
    tile.rowNumbers.push_back(row);
    tile.rowIndices.push_back(rowIndex(checked ? kernel.min(row, lastRow) : row));
  }
  tile.masks = columnMasks(column);
  return tile;
}

SmallVector<Value> MatmulEmitter::columnMasks(Value column) {
  SmallVector<Value> masks(vectors);
  for (int64_t v = 0; v < vectors && masksColumns; ++v) {
    Value left = kernel.sub(columns, kernel.add(column, kernel.constantIndex(v * lanes)));
    masks[v] = vector::CreateMaskOp::create(kernel, vectorOf(lanes, kernel.getI1Type()), ValueRange{left});
  }
  return masks;
}

/// Adds the products of the group at `k`.
void MatmulEmitter::addStep(const Tile &tile, Value k, MutableArrayRef<Value> acc) {
  SmallVector<SmallVector<Value>> right;
  for (int64_t v = 0; v < vectors; ++v)
    right.push_back(loadRhs(tile.column, v, k, tile.masks[v]));
  for (int64_t r = 0; r < tileRows; ++r)
    for (auto [i, left] : llvm::enumerate(loadLhs(tile, r, k))) {
      MutableArrayRef<Value> sums = acc.slice(r * vectors, vectors);
      if (dots)
        multiplyGroups(kernel, left, llvm::map_to_vector(right, [i = i](auto &member) { return member[i]; }), sums);
      else
        for (int64_t v = 0; v < vectors; ++v)
          sums[v] = multiplyAdd(left, right[v][i], sums[v]);
    }
}

/// `sums` (of row r and column vector v at r * vectors + v) plus the products of k in [begin, end), whole groups.
SmallVector<Value> MatmulEmitter::accumulate(const Tile &tile, Value begin, Value end, ArrayRef<Value> sums) {
  if (scaled)
    return accumulateScaled(tile, begin, end, sums);
  Prefetch next = prefetchAfter(tile, begin, end);
  stageK = begin;
  stageBlock = block ? kernel.floorDiv(begin, block) : begin;
  // acc[u][r][v], u being the position of k within an unrolled step
  int64_t perStep = tileRows * vectors;
  SmallVector<Value> start(sums);
  start.resize(unroll * perStep, kernel.splat(kernel.zero(accType)));
  int64_t steps = stepsPerTurn(), stride = steps * group;
  Value whole =
      kernel.add(begin, kernel.mul(kernel.floorDiv(kernel.sub(end, begin), stride), kernel.constantIndex(stride)));
  SmallVector<Value> acc = kernel.forLoop(begin, whole, stride, start, [&](Value k, ValueRange carried) {
    SmallVector<Value> values(carried);
    prefetchTurn(tile, next, k, kernel.floorDiv(kernel.sub(k, begin), stride));
    for (int64_t i = 0; i < steps; ++i) {
      int64_t u = i % unroll;
      addStep(tile, kernel.add(k, kernel.constantIndex(i * group)),
              MutableArrayRef(values).slice(u * perStep, perStep));
    }
    return values;
  });
  // Independent sums are added in pairs, then what the unrolled loop left over.
  for (int64_t stride = 1; stride < unroll; stride *= 2)
    for (int64_t u = 0; u + stride < unroll; u += 2 * stride)
      for (int64_t i = 0; i < perStep; ++i)
        acc[u * perStep + i] = addValues(acc[u * perStep + i], acc[(u + stride) * perStep + i]);
  acc.resize(perStep);
  return kernel.forLoop(whole, end, group, acc, [&](Value k, ValueRange carried) {
    SmallVector<Value> values(carried);
    addStep(tile, k, values);
    return values;
  });
}

/// `sums` plus all products with a right side in runs, some of which are read together.
SmallVector<Value> MatmulEmitter::accumulateRuns(const Tile &tile, ArrayRef<Value> sums) {
  stageK = stageBlock = kernel.constantIndex(0);
  Value count = kernel.floorDiv(depth, run);
  return kernel.forLoop(kernel.constantIndex(0), count, together, sums, [&](Value number, ValueRange carried) {
    prefetchResults(tile, kernel.floorDiv(number, together));
    SmallVector<Value> acc(carried);
    SmallVector<SmallVector<ScaledRun>> right;
    for (int64_t v = 0; v < vectors; ++v)
      right.push_back(runsAt(tile.column, v, number));
    codes ? addCodes(tile, number, right, acc) : addRuns(tile, number, right, acc);
    return acc;
  });
}

/// Adds the products with runs from number `first` on, `right[v]` of each vector of columns: a run's sum is scaled
/// once, and what the offset adds is the run's sum of the left side.
void MatmulEmitter::addRuns(const Tile &tile, Value first, ArrayRef<SmallVector<ScaledRun>> right,
                            MutableArrayRef<Value> acc) {
  auto number = [&](int64_t j) { return kernel.add(first, kernel.constantIndex(right[0][j].number)); };
  int64_t runs = tileRows > 1 ? 1 : std::min(together, kRunsAtOnce); // one row's few sums would wait for one another
  auto sumAt = [&](int64_t j, int64_t r, int64_t v) { return (j % runs * tileRows + r) * vectors + v; };
  for (int64_t j0 = 0; j0 < together; j0 += runs) {
    SmallVector<Value> inner(runs * tileRows * vectors, kernel.splat(kernel.zero(accType)));
    inner = forFours(inner, [&](Value i, ValueRange carried) {
      SmallVector<Value> next(carried);
      for (int64_t j = j0; j < j0 + runs; ++j)
        for (int64_t member = 0; member < 4; ++member) {
          Value inRun = kernel.add(kernel.mul(i, kernel.constantIndex(4)), kernel.constantIndex(member));
          Value k = kernel.add(kernel.mul(number(j), kernel.constantIndex(run)), inRun);
          auto quants =
              llvm::map_to_vector(right, [&](ArrayRef<ScaledRun> part) -> Value { return part[j].quant(i, member); });
          for (int64_t r = 0; r < tileRows; ++r) {
            Value left = loadLhs(tile, r, k).front();
            for (int64_t v = 0; v < vectors; ++v) {
              Value &sum = next[sumAt(j, r, v)];
              sum = multiplyAdd(quants[v], left, sum);
            }
          }
        }
      return next;
    });
    for (int64_t j = j0; j < j0 + runs; ++j)
      for (int64_t r = 0; r < tileRows; ++r) {
        Value row = kernel.sub(tile.rowNumbers[r], stageBegin);
        Value total = memref::LoadOp::create(kernel, runSums, ValueRange{row, number(j)});
        for (int64_t v = 0; v < vectors; ++v) {
          const ScaledRun &part = right[v][j];
          Value &sum = acc[r * vectors + v];
          sum = multiplyAdd(inner[sumAt(j, r, v)], part.scale, sum);
          if (part.offset)
            sum = multiplyAdd(kernel.splat(total), part.offset, sum);
        }
      }
  }
}

/// Fetches where row `number` of a tile's results goes, during its last products: stores that miss would hold up the
/// next tile, and all rows at once would hold up what the products read.
void MatmulEmitter::prefetchResults(const Tile &tile, Value number) {
  if (tileRows == 1)
    return;
  Value count = kernel.constantIndex(tileRows);
  kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, number, count), [&] {
    Value last = kernel.sub(rows, kernel.constantIndex(1));
    SmallVector<Index> at(batch);
    llvm::append_range(at, rowIndex(kernel.min(kernel.add(tile.rowNumbers[0], number), last)));
    at.emplace_back();
    for (int64_t v = 0; v < vectors; ++v) {
      at.back() = Index::lanes(kernel.add(tile.column, kernel.constantIndex(v * lanes)));
      kernel.prefetchOutputs(at);
    }
  });
}

/// What one turn of a tile's loop, which begins at `k`, fetches of all that comes later.
void MatmulEmitter::prefetchTurn(const Tile &tile, const Prefetch &next, Value k, Value turn) {
  prefetchStage(tile, k);
  if (tile.fetchesResults)
    prefetchResults(tile, turn);
  prefetchNext(next, turn);
}

void MatmulEmitter::prefetchNext(const Prefetch &next, Value turn) {
  if (!next.panels)
    return;
  Value at = kernel.add(next.first, kernel.mul(turn, next.perTurn));
  int64_t perLine = kLineBytes * 8 / std::max(8u, cast<MemRefType>(next.panels.getType()).getElementTypeBitWidth());
  for (int64_t line = 0; line < next.lines; ++line)
    memref::PrefetchOp::create(kernel, next.panels, ValueRange{kernel.add(at, kernel.constantIndex(line * perLine))},
                               /*isWrite=*/false, /*localityHint=*/2, /*isDataCache=*/true);
}

/// Hands a row's sums to whoever reads the result.
void MatmulEmitter::finishRow(const Tile &tile, ArrayRef<Index> row, ArrayRef<Value> sums) {
  Type resultType = getElementTypeOrSelf(op.getResult());
  for (auto [v, sum] : llvm::enumerate(sums)) {
    kernel.mask = tile.masks[v];
    Index columnIndex = Index::lanes(kernel.add(tile.column, kernel.constantIndex(v * lanes)));
    Value value = sum;
    if (op.getBias())
      value = addValues(value, kernel.splat(kernel.convert(kernel.pull(op.getBias(), {columnIndex}), accType)));
    kernel.current[op.getResult()] = kernel.convert(value, resultType);
    SmallVector<Index> at(batch);
    llvm::append_range(at, row);
    at.push_back(columnIndex);
    kernel.storeOutputs(at);
  }
  kernel.mask = {};
}

/// Hands the sums of a tile to whoever reads the result.
void MatmulEmitter::finish(const Tile &tile, ArrayRef<Value> sums, bool checked) {
  for (int64_t r = 0; r < tileRows; ++r) {
    auto storeRow = [&] { finishRow(tile, tile.rowIndices[r], sums.slice(r * vectors, vectors)); };
    if (!checked)
      storeRow();
    else
      kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, tile.rowNumbers[r], rows), storeRow);
  }
}

/// Calls `body(first row, checked)` for the tiles of rows [begin, end).
void MatmulEmitter::forTiles(Value begin, Value end, function_ref<void(Value, bool)> body) {
  Value count = kernel.mul(kernel.floorDiv(kernel.sub(end, begin), tileRows), kernel.constantIndex(tileRows));
  Value whole = kernel.add(begin, count);
  kernel.forLoop(begin, whole, tileRows, [&](Value row) { body(row, false); });
  if (tileRows > 1)
    kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, whole, end), [&] { body(whole, true); });
}

/// The rows of a workgroup by one tile of columns.
void MatmulEmitter::columnTile(Value column, Value rowBegin, Value rowEnd) {
  kernel.width = lanes;
  // Groups are whole: the last one is padded with zeros on both sides.
  int64_t together = scaled ? kScaledPart : group;
  Value zero = kernel.constantIndex(0);
  Value end = kernel.mul(kernel.floorDiv(kernel.add(depth, kernel.constantIndex(together - 1)), together),
                         kernel.constantIndex(together));
  SmallVector<Value> start, first = startOf(column);
  for (int64_t i = 0; i < tileRows * vectors; ++i)
    start.push_back(first[i % vectors]);
  if (!partial) {
    if (rhsStage)
      fillRhsStage(column, zero, end);
    auto body = [&](Value row, bool checked) {
      Tile tile = tileAt(row, column, checked);
      tile.fetchesResults = true;
      finish(tile, run && !rhsStage ? accumulateRuns(tile, start) : accumulate(tile, zero, end, start), checked);
    };
    if (run && !rhsStage) // long, and so few rows that a check of each is nothing: written once
      kernel.forLoop(rowBegin, rowEnd, tileRows, [&](Value row) { body(row, tileRows > 1); });
    else
      forTiles(rowBegin, rowEnd, body);
    kernel.width = 1;
    return;
  }
  auto sumsAt = [&](Value row) {
    SmallVector<SmallVector<Value>> at;
    for (int64_t i = 0; i < tileRows * vectors; ++i)
      at.push_back({kernel.add(kernel.sub(row, rowBegin), kernel.constantIndex(i / vectors)),
                    kernel.constantIndex(i % vectors * lanes)});
    return at;
  };
  auto load = [&](Value row) {
    return llvm::map_to_vector(sumsAt(row), [&](ArrayRef<Value> at) {
      return Value(vector::LoadOp::create(kernel, vectorOf(lanes, accType), partial, at));
    });
  };
  auto store = [&](Value row, ArrayRef<Value> sums) {
    for (auto [at, sum] : llvm::zip_equal(sumsAt(row), sums))
      vector::StoreOp::create(kernel, sum, partial, at);
  };
  auto forAllTiles = [&](function_ref<void(Value)> body) { // the last one, too, is whole in the stage
    kernel.forLoop(rowBegin, rowEnd, tileRows, body);
  };
  forAllTiles([&](Value row) { store(row, start); });
  Value lastBlock =
      kernel.mul(kernel.floorDiv(kernel.sub(end, kernel.constantIndex(1)), block), kernel.constantIndex(block));
  kernel.forLoop(zero, lastBlock, block, [&](Value k) {
    Value next = kernel.add(k, kernel.constantIndex(block));
    if (rhsStage)
      fillRhsStage(column, k, next);
    forAllTiles([&](Value row) { store(row, accumulate(tileAt(row, column, /*checked=*/true), k, next, load(row))); });
  });
  if (rhsStage)
    fillRhsStage(column, lastBlock, end);
  forTiles(rowBegin, rowEnd, [&](Value row, bool checked) {
    Tile tile = tileAt(row, column, checked);
    tile.fetchesResults = true;
    finish(tile, accumulate(tile, lastBlock, end, load(row)), checked);
  });
  kernel.width = 1;
}

void MatmulEmitter::workgroup() {
  if (tiles)
    configureTiles();
  int64_t workgroupRows = variant.getWorkgroup()[0], workgroupColumns = variant.getWorkgroup()[1];
  // Column blocks change fastest: they share the rows, which stay staged from one to the next.
  auto blocks = [&](Value size, int64_t block) {
    return kernel.floorDiv(kernel.add(size, kernel.constantIndex(block - 1)), block);
  };
  SmallVector<Value> grid;
  for (AffineExpr size : shape.batch)
    grid.push_back(kernel.materialize(size));
  grid.push_back(blocks(rows, workgroupRows));
  grid.push_back(blocks(columns, workgroupColumns));
  SmallVector<Value> position = kernel.delinearize(kernel.workgroup, grid);
  for (size_t i = 0; i < shape.batch.size(); ++i)
    batch.push_back(Index::uniform(position[i]));
  auto range = [&](Value block, int64_t size, Value limit) {
    Value begin = kernel.mul(block, kernel.constantIndex(size));
    return std::pair(begin, kernel.min(kernel.add(begin, kernel.constantIndex(size)), limit));
  };
  auto [columnBegin, columnEnd] = range(position.back(), workgroupColumns, columns);
  // Whole tiles of rows, as many for one workgroup as for another, or one more.
  Value rowTiles = blocks(rows, tileRows), rowBlock = position[position.size() - 2];
  auto firstRow = [&](Value block) {
    Value tiles = kernel.createOrFold<arith::DivUIOp>(kernel.mul(block, rowTiles), blocks(rows, workgroupRows));
    return kernel.min(kernel.mul(tiles, kernel.constantIndex(tileRows)), rows);
  };
  Value rowBegin = firstRow(rowBlock), rowEnd = firstRow(kernel.add(rowBlock, kernel.constantIndex(1)));
  if (stage) {
    stageBegin = rowBegin;
    Value one = kernel.constantIndex(1), sharers = kernel.floorDiv(kernel.sub(rowEnd, rowBegin), tileRows);
    Value perTurn = kernel.constantIndex(stepsPerTurn() * vectors * lanes * group);
    tileShare = kernel.createOrFold<arith::CeilDivUIOp>(perTurn, kernel.createOrFold<arith::MaxUIOp>(sharers, one));
    auto equal = [&](Value a, Value b) -> Value {
      return arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq, a, b);
    };
    Value otherRows = equal(position.back(), kernel.constantIndex(0));
    Value first = equal(kernel.workgroup, kernel.firstWorkgroup);
    if (stageType)
      kernel.ifThen(arith::OrIOp::create(kernel, otherRows, first), [&] {
        tiles    ? fillTileStage(rowBegin, rowEnd)
        : scaled ? fillScaledStage(rowBegin, rowEnd)
        : codes  ? fillCodeStage(rowBegin, rowEnd)
                 : fillStage(rowBegin, rowEnd);
      });
  }
  kernel.forLoop(columnBegin, columnEnd, lanes * vectors, [&](Value column) {
    tiles ? tileColumns(column, rowBegin, rowEnd) : columnTile(column, rowBegin, rowEnd);
  });
}

} // namespace mlir::dsc
