//===- MatmulEmitter.cpp - register-tiled matrix product ------------------===//
//
// One form for all right sides: for every group of k, the tile's columns are
// loaded as vectors and every row's scalar is multiplied in. Packed panels make
// those loads one stream; a staged left side lies row by row in memory near the
// thread, already in the form that the instruction reads. Rows beyond the end
// are computed from the last row and not stored; columns beyond the end are
// masked.
//
//===----------------------------------------------------------------------===//

#include "passes/codegen/MatmulEmitter.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

namespace mlir::dsc {

MatmulShape matmulShape(MatmulOp op, DimsAnalysis &dims) {
  MatmulShape shape;
  Dims lhs = dims.get(op.getLhs()), result = dims.get(op.getResult());
  bool shared = op.getPackedColumns() || cast<RankedTensorType>(op.getRhs().getType()).getRank() == 2;
  Dims leading(result.begin(), result.end() - 2);
  (shared ? shape.rows : shape.batch) = leading;
  shape.rows.push_back(result[result.size() - 2]);
  shape.columns = result.back();
  shape.depth = lhs[lhs.size() - (op.getTransposeLhs() ? 2 : 1)];
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

namespace {

constexpr int64_t kStepsPerTurn = 4;

struct MatmulEmitter : MatmulPlan {
  MatmulEmitter(MatmulOp op, KernelBuilder &kernel, const MatmulPlan &plan)
      : MatmulPlan(plan), op(op), kernel(kernel), shape(matmulShape(op, kernel.dims)), accType(accumulatorOf(op)) {
    for (AffineExpr size : shape.rows)
      rowSizes.push_back(kernel.materialize(size));
    rows = kernel.materialize(elementCount(shape.rows, op.getContext()));
    columns = kernel.materialize(shape.columns);
    depth = kernel.materialize(shape.depth);
    auto constant = dyn_cast<AffineConstantExpr>(shape.columns);
    masksColumns = !constant || constant.getValue() % (vectors * lanes) != 0;
    if (stageType)
      stage = allocate(stageType);
    if (block)
      partial = allocate(MemRefType::get({tilesPerWorkgroup * tileRows, vectors * lanes}, accType));
  }

  MatmulOp op;
  KernelBuilder &kernel;
  MatmulShape shape;
  Type accType;
  SmallVector<Index> batch;
  SmallVector<Value> rowSizes;
  Value rows, columns, depth;
  bool masksColumns;
  Value stage, stageBegin;  // the left side from row `stageBegin` on
  Value stageBlock, stageK; // the block of k that is read, and its first k
  Value partial;            // sums of the workgroup's rows by one tile of columns

  Value allocate(MemRefType type) { return memref::AllocaOp::create(kernel, type, kernel.getI64IntegerAttr(64)); }

  SmallVector<Index> rowIndex(Value row) {
    return llvm::map_to_vector(kernel.delinearize(row, rowSizes), [](Value v) { return Index::uniform(v); });
  }

  VectorType vectorOf(int64_t count, Type type) { return VectorType::get({count}, type); }
  Value bitcast(Value value, int64_t count, Type type) {
    return vector::BitCastOp::create(kernel, vectorOf(count, type), value);
  }

  Value multiplyAdd(Value a, Value b, Value acc) {
    if (dots) {
      std::string bits = "." + std::to_string(lanes * 32);
      std::string name = (isa<FloatType>(accType) ? "llvm.x86.avx512bf16.dpbf16ps" : "llvm.x86.avx512.vpdpbusd") + bits;
      return LLVM::CallIntrinsicOp::create(kernel, acc.getType(), kernel.getStringAttr(name), ValueRange{acc, a, b})
          .getResults();
    }
    if (isa<FloatType>(accType))
      return vector::FMAOp::create(kernel, a, b, acc);
    return arith::AddIOp::create(kernel, arith::MulIOp::create(kernel, a, b), acc);
  }
  Value addValues(Value a, Value b) {
    return isa<FloatType>(accType) ? Value(arith::AddFOp::create(kernel, a, b))
                                   : Value(arith::AddIOp::create(kernel, a, b));
  }

  /// Elements of the right side that one step of `group` reductions multiplies, per member of the group: column vector
  /// `v` of the tile at `column`. Dots take the group whole.
  SmallVector<Value> loadRhs(Value column, int64_t v, Value k, Value columnMask) {
    Value offset = kernel.constantIndex(v * lanes);
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

  SmallVector<Value> loadGroup(Value panel, int64_t v, Value step) {
    Value buffer = kernel.buffers.lookup(op.getRhs());
    Value flat = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0}, {1}, {2, 3}});
    Type element = getElementTypeOrSelf(op.getRhs());
    Value value = vector::LoadOp::create(kernel, vectorOf(lanes * group, element), flat,
                                         ValueRange{panel, step, kernel.constantIndex(v * lanes * group)});
    if (dots)
      return {value};
    // Two bf16 in 32 bits: each is the upper half of an f32.
    Value pairs = bitcast(value, lanes, kernel.getI32Type());
    auto bits = [&](int32_t pattern) {
      return Value(arith::ConstantOp::create(
          kernel, DenseElementsAttr::get(vectorOf(lanes, kernel.getI32Type()), kernel.getI32IntegerAttr(pattern))));
    };
    Value even = arith::ShLIOp::create(kernel, pairs, bits(16));
    Value odd = arith::AndIOp::create(kernel, pairs, bits(-65536));
    return {bitcast(even, lanes, accType), bitcast(odd, lanes, accType)};
  }

  SmallVector<Value> stageIndex(Value row, Value k) {
    return {stageBlock, kernel.sub(row, stageBegin), kernel.sub(k, stageK)};
  }

  /// What row `row` (number `r` of its tile) multiplies the right side's elements with.
  SmallVector<Value> loadLhs(ArrayRef<Index> index, Value row, Value k) {
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
  void fillStage(Value begin, Value end) {
    stageBegin = begin;
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
    });
  }

  /// What the sums of a tile begin with: 0, or what takes the unsigned bias of staged bytes out again.
  SmallVector<Value> startOf(Value column) {
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

  /// One tile of rows and columns.
  struct Tile {
    SmallVector<Value> rowNumbers;
    SmallVector<SmallVector<Index>> rowIndices;
    SmallVector<Value> masks; // of columns
    Value column;
  };

  /// Rows [firstRow, firstRow + tileRows); `checked` ones may lie beyond the end.
  Tile tileAt(Value firstRow, Value column, bool checked) {
    Tile tile;
    tile.column = column;
    Value lastRow = kernel.sub(rows, kernel.constantIndex(1));
    for (int64_t r = 0; r < tileRows; ++r) {
      Value row = kernel.add(firstRow, kernel.constantIndex(r));
      tile.rowNumbers.push_back(row);
      tile.rowIndices.push_back(rowIndex(checked ? kernel.min(row, lastRow) : row));
    }
    tile.masks.resize(vectors);
    if (masksColumns)
      for (int64_t v = 0; v < vectors; ++v) {
        Value left = kernel.sub(columns, kernel.add(column, kernel.constantIndex(v * lanes)));
        tile.masks[v] =
            vector::CreateMaskOp::create(kernel, VectorType::get({lanes}, kernel.getI1Type()), ValueRange{left});
      }
    return tile;
  }

  /// What the workgroup reads next of the panels, seen as one row: its tiles of rows share the work of fetching it.
  struct Prefetch {
    Value panels, first;
    int64_t perStep;
  };

  Prefetch prefetchAfter(const Tile &tile, Value begin, Value end) {
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

  /// `sums` (of row r and column vector v at r * vectors + v) plus the products of k in [begin, end), whole groups.
  SmallVector<Value> accumulate(const Tile &tile, Value begin, Value end, ArrayRef<Value> sums) {
    Prefetch next = prefetchAfter(tile, begin, end);
    stageK = begin;
    stageBlock = block ? kernel.floorDiv(begin, block) : begin;
    // acc[u][r][v], u being the position of k within an unrolled step
    int64_t perStep = tileRows * vectors;
    SmallVector<Value> start(sums);
    start.resize(unroll * perStep, kernel.splat(kernel.zero(accType)));
    auto step = [&](Value k, MutableArrayRef<Value> acc) {
      SmallVector<SmallVector<Value>> right;
      for (int64_t v = 0; v < vectors; ++v)
        right.push_back(loadRhs(tile.column, v, k, tile.masks[v]));
      for (int64_t r = 0; r < tileRows; ++r)
        for (auto [i, left] : llvm::enumerate(loadLhs(tile.rowIndices[r], tile.rowNumbers[r], k)))
          for (int64_t v = 0; v < vectors; ++v)
            acc[r * vectors + v] = multiplyAdd(left, right[v][i], acc[r * vectors + v]);
    };
    // One sum per accumulator: several steps per turn, so that counting does not compete with multiplying.
    int64_t steps = unroll > 1 ? unroll : kStepsPerTurn, stride = steps * group;
    Value whole =
        kernel.add(begin, kernel.mul(kernel.floorDiv(kernel.sub(end, begin), stride), kernel.constantIndex(stride)));
    SmallVector<Value> acc = kernel.forLoop(begin, whole, stride, start, [&](Value k, ValueRange carried) {
      SmallVector<Value> values(carried);
      if (next.panels) {
        Value turn = kernel.floorDiv(kernel.sub(k, begin), group);
        Value at = kernel.add(next.first, kernel.mul(turn, kernel.constantIndex(next.perStep)));
        memref::PrefetchOp::create(kernel, next.panels, ValueRange{at}, /*isWrite=*/false, /*localityHint=*/2,
                                   /*isDataCache=*/true);
      }
      for (int64_t i = 0; i < steps; ++i) {
        int64_t u = i % unroll;
        step(kernel.add(k, kernel.constantIndex(i * group)), MutableArrayRef(values).slice(u * perStep, perStep));
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
      step(k, values);
      return values;
    });
  }

  /// Hands the sums of a tile to whoever reads the result.
  void finish(const Tile &tile, ArrayRef<Value> sums, bool checked) {
    Type resultType = getElementTypeOrSelf(op.getResult());
    for (int64_t r = 0; r < tileRows; ++r) {
      auto storeRow = [&] {
        for (int64_t v = 0; v < vectors; ++v) {
          kernel.mask = tile.masks[v];
          Index columnIndex = Index::lanes(kernel.add(tile.column, kernel.constantIndex(v * lanes)));
          Value value = sums[r * vectors + v];
          if (op.getBias())
            value = addValues(value, kernel.splat(kernel.convert(kernel.pull(op.getBias(), {columnIndex}), accType)));
          kernel.current[op.getResult()] = kernel.convert(value, resultType);
          SmallVector<Index> at(batch);
          llvm::append_range(at, tile.rowIndices[r]);
          at.push_back(columnIndex);
          kernel.storeOutputs(at);
        }
        kernel.mask = {};
      };
      if (!checked)
        storeRow();
      else
        kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, tile.rowNumbers[r], rows), storeRow);
    }
  }

  /// Calls `body(first row, checked)` for the tiles of rows [begin, end).
  void forTiles(Value begin, Value end, function_ref<void(Value, bool)> body) {
    Value count = kernel.mul(kernel.floorDiv(kernel.sub(end, begin), tileRows), kernel.constantIndex(tileRows));
    Value whole = kernel.add(begin, count);
    kernel.forLoop(begin, whole, tileRows, [&](Value row) { body(row, false); });
    if (tileRows > 1)
      kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, whole, end), [&] { body(whole, true); });
  }

  /// The rows of a workgroup by one tile of columns.
  void columnTile(Value column, Value rowBegin, Value rowEnd) {
    kernel.width = lanes;
    // Groups are whole: the last one is padded with zeros on both sides.
    Value zero = kernel.constantIndex(0);
    Value end = kernel.mul(kernel.floorDiv(kernel.add(depth, kernel.constantIndex(group - 1)), group),
                           kernel.constantIndex(group));
    SmallVector<Value> start, first = startOf(column);
    for (int64_t i = 0; i < tileRows * vectors; ++i)
      start.push_back(first[i % vectors]);
    if (!partial) {
      forTiles(rowBegin, rowEnd, [&](Value row, bool checked) {
        Tile tile = tileAt(row, column, checked);
        finish(tile, accumulate(tile, zero, end, start), checked);
      });
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
      forAllTiles(
          [&](Value row) { store(row, accumulate(tileAt(row, column, /*checked=*/true), k, next, load(row))); });
    });
    forTiles(rowBegin, rowEnd, [&](Value row, bool checked) {
      Tile tile = tileAt(row, column, checked);
      finish(tile, accumulate(tile, lastBlock, end, load(row)), checked);
    });
    kernel.width = 1;
  }

  void workgroup() {
    int64_t workgroupRows = variant.getWorkgroup()[0], workgroupColumns = variant.getWorkgroup()[1];
    // Row blocks change fastest: neighbours share the columns, which stay in cache.
    auto blocks = [&](Value size, int64_t block) {
      return kernel.floorDiv(kernel.add(size, kernel.constantIndex(block - 1)), block);
    };
    SmallVector<Value> grid;
    for (AffineExpr size : shape.batch)
      grid.push_back(kernel.materialize(size));
    grid.push_back(blocks(columns, workgroupColumns));
    grid.push_back(blocks(rows, workgroupRows));
    SmallVector<Value> position = kernel.delinearize(kernel.workgroup, grid);
    for (size_t i = 0; i < shape.batch.size(); ++i)
      batch.push_back(Index::uniform(position[i]));
    auto range = [&](Value block, int64_t size, Value limit) {
      Value begin = kernel.mul(block, kernel.constantIndex(size));
      return std::pair(begin, kernel.min(kernel.add(begin, kernel.constantIndex(size)), limit));
    };
    auto [rowBegin, rowEnd] = range(position.back(), workgroupRows, rows);
    auto [columnBegin, columnEnd] = range(position[position.size() - 2], workgroupColumns, columns);
    if (stage)
      fillStage(rowBegin, rowEnd);
    kernel.forLoop(columnBegin, columnEnd, lanes * vectors,
                   [&, rowBegin = rowBegin, rowEnd = rowEnd](Value column) { columnTile(column, rowBegin, rowEnd); });
  }
};

} // namespace

void emitMatmul(MatmulOp op, KernelBuilder &kernel, const MatmulPlan &plan) {
  MatmulEmitter(op, kernel, plan).workgroup();
}

} // namespace mlir::dsc
