//===- MatmulKernel.cpp - register-tiled matrix product -------------------===//
//
// One form for all right sides: for every k, the tile's columns are loaded as
// vectors and every row's scalar is multiplied in. Packed panels make those
// loads one stream. Rows beyond the end are computed from the last row and not
// stored; columns beyond the end are masked.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

/// Sizes of the product: leading dims are rows unless the right side has them too.
struct Shape {
  Dims batch, rows; // rows: every dimension that is a row of one matrix
  AffineExpr columns, depth;
  bool sharedRhs;
};

Shape shapeOf(MatmulOp op, DimsAnalysis &dims) {
  Shape shape;
  Dims lhs = dims.get(op.getLhs()), result = dims.get(op.getResult());
  shape.sharedRhs = op.getPackedColumns() || cast<RankedTensorType>(op.getRhs().getType()).getRank() == 2;
  Dims leading(result.begin(), result.end() - 2);
  (shape.sharedRhs ? shape.rows : shape.batch) = leading;
  shape.rows.push_back(result[result.size() - 2]);
  shape.columns = result.back();
  shape.depth = lhs[lhs.size() - (op.getTransposeLhs() ? 2 : 1)];
  return shape;
}

struct MatmulEmitter {
  MatmulOp op;
  KernelBuilder &kernel;
  Shape shape;
  Type accType;
  int64_t lanes, vectors, tileRows, unroll;
  SmallVector<Index> batch;
  SmallVector<Value> rowSizes;
  Value rows, columns, depth;
  bool masksColumns;

  SmallVector<Index> rowIndex(Value row) {
    return llvm::map_to_vector(kernel.delinearize(row, rowSizes), [](Value v) { return Index::uniform(v); });
  }

  Value multiplyAdd(Value a, Value b, Value acc) {
    if (isa<FloatType>(accType))
      return vector::FMAOp::create(kernel, a, b, acc);
    return arith::AddIOp::create(kernel, arith::MulIOp::create(kernel, a, b), acc);
  }
  Value addValues(Value a, Value b) {
    return isa<FloatType>(accType) ? Value(arith::AddFOp::create(kernel, a, b))
                                   : Value(arith::AddIOp::create(kernel, a, b));
  }

  /// Column vector `v` of the tile at `column`, for one k.
  Value loadRhs(Value column, int64_t v, Value k, Value columnMask) {
    Value offset = kernel.constantIndex(v * lanes);
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
    return kernel.splat(value);
  }

  Value loadLhs(ArrayRef<Index> row, Value k) {
    SmallVector<Index> at(batch);
    llvm::append_range(at, row);
    at.push_back(Index::uniform(k));
    if (op.getTransposeLhs())
      std::swap(at[at.size() - 1], at[at.size() - 2]);
    return kernel.splat(kernel.convert(kernel.pull(op.getLhs(), at), accType));
  }

  /// Rows [firstRow, firstRow + count) by one tile of columns; `checked` rows may lie beyond the end.
  void tile(Value firstRow, int64_t count, Value column, bool checked) {
    kernel.width = lanes;
    SmallVector<Value> rowNumbers;
    SmallVector<SmallVector<Index>> rowIndices;
    Value lastRow = kernel.sub(rows, kernel.constantIndex(1));
    for (int64_t r = 0; r < count; ++r) {
      rowNumbers.push_back(kernel.add(firstRow, kernel.constantIndex(r)));
      rowIndices.push_back(rowIndex(checked ? kernel.min(rowNumbers[r], lastRow) : rowNumbers[r]));
    }
    SmallVector<Value> masks(vectors);
    if (masksColumns)
      for (int64_t v = 0; v < vectors; ++v) {
        Value left = kernel.sub(columns, kernel.add(column, kernel.constantIndex(v * lanes)));
        masks[v] = vector::CreateMaskOp::create(kernel, VectorType::get({lanes}, kernel.getI1Type()), ValueRange{left});
      }

    // accumulators[u][r][v], u being the position of k within an unrolled step
    int64_t perStep = count * vectors;
    SmallVector<Value> start(unroll * perStep, kernel.splat(kernel.zero(accType)));
    auto step = [&](Value k, MutableArrayRef<Value> acc) {
      SmallVector<Value> right;
      for (int64_t v = 0; v < vectors; ++v)
        right.push_back(loadRhs(column, v, k, masks[v]));
      for (int64_t r = 0; r < count; ++r) {
        Value left = loadLhs(rowIndices[r], k);
        for (int64_t v = 0; v < vectors; ++v)
          acc[r * vectors + v] = multiplyAdd(left, right[v], acc[r * vectors + v]);
      }
    };
    Value zero = kernel.constantIndex(0);
    Value whole = kernel.mul(kernel.floorDiv(depth, unroll), kernel.constantIndex(unroll));
    SmallVector<Value> acc = kernel.forLoop(zero, whole, unroll, start, [&](Value k, ValueRange carried) {
      SmallVector<Value> values(carried);
      for (int64_t u = 0; u < unroll; ++u)
        step(kernel.add(k, kernel.constantIndex(u)), MutableArrayRef(values).slice(u * perStep, perStep));
      return values;
    });
    // Independent sums are added in pairs, then what the unrolled loop left over.
    for (int64_t stride = 1; stride < unroll; stride *= 2)
      for (int64_t u = 0; u + stride < unroll; u += 2 * stride)
        for (int64_t i = 0; i < perStep; ++i)
          acc[u * perStep + i] = addValues(acc[u * perStep + i], acc[(u + stride) * perStep + i]);
    acc.resize(perStep);
    if (unroll > 1)
      acc = kernel.forLoop(whole, depth, 1, acc, [&](Value k, ValueRange carried) {
        SmallVector<Value> values(carried);
        step(k, values);
        return values;
      });

    Type resultType = getElementTypeOrSelf(op.getResult());
    for (int64_t r = 0; r < count; ++r) {
      auto storeRow = [&] {
        for (int64_t v = 0; v < vectors; ++v) {
          kernel.mask = masks[v];
          Index columnIndex = Index::lanes(kernel.add(column, kernel.constantIndex(v * lanes)));
          Value value = acc[r * vectors + v];
          if (op.getBias())
            value = addValues(value, kernel.splat(kernel.convert(kernel.pull(op.getBias(), {columnIndex}), accType)));
          kernel.current[op.getResult()] = kernel.convert(value, resultType);
          SmallVector<Index> at(batch);
          llvm::append_range(at, rowIndices[r]);
          at.push_back(columnIndex);
          kernel.storeOutputs(at);
        }
        kernel.mask = {};
      };
      if (!checked)
        storeRow();
      else
        kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, rowNumbers[r], rows), storeRow);
    }
    kernel.width = 1;
  }

  void workgroup(int64_t workgroupRows, int64_t workgroupColumns) {
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
    kernel.forLoop(columnBegin, columnEnd, lanes * vectors, [&, rowBegin = rowBegin, rowEnd = rowEnd](Value column) {
      if (tileRows == 1) {
        kernel.forLoop(rowBegin, rowEnd, 1, [&](Value row) { tile(row, 1, column, /*checked=*/false); });
        return;
      }
      Value count = kernel.sub(rowEnd, rowBegin);
      Value whole = kernel.mul(kernel.floorDiv(count, tileRows), kernel.constantIndex(tileRows));
      Value wholeEnd = kernel.add(rowBegin, whole);
      kernel.forLoop(rowBegin, wholeEnd, tileRows, [&](Value row) { tile(row, tileRows, column, false); });
      kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, wholeEnd, rowEnd),
                    [&] { tile(wholeEnd, tileRows, column, true); });
    });
  }
};

struct MatmulModel : KernelOpInterface::ExternalModel<MatmulModel, MatmulOp> {
  static Type accumulator(MatmulOp op) { return defaultAccumulatorType(getElementTypeOrSelf(op.getLhs())); }

  bool isMain(Operation *) const { return true; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    auto matmul = cast<MatmulOp>(op);
    unsigned bits = std::max(8u, accumulator(matmul).getIntOrFloatBitWidth());
    int64_t lanes = target.getVectorBytes() * 8 / bits;
    int64_t panel = 2 * lanes;
    if (matmul.getPackedColumns())
      panel = cast<RankedTensorType>(matmul.getRhs().getType()).getDimSize(2);
    int64_t vectors = std::max<int64_t>(1, panel / lanes);
    // Accumulators, one vector per column and one for the row's scalar fill the registers,
    // less two that LLVM wants for itself (12 x 32 f32 on AVX-512 is measured best).
    int64_t rows = std::max<int64_t>(1, (target.getVectorRegisters() - 4 - vectors) / vectors);
    rows = std::max<int64_t>(1, std::min<int64_t>(rows, 12));
    MLIRContext *context = op->getContext();
    // One row leaves room for four independent sums, which hide the latency of the multiply-add.
    auto single = VariantAttr::get(context, 1, {1, panel}, {1, panel}, 4);
    auto many = VariantAttr::get(context, 0, {rows, panel}, {rows * 8, panel * 2}, 1);
    return ScheduleAttr::get(context, {single, many});
  }
  AffineExpr getRows(Operation *op, DimsAnalysis &dims) const {
    return elementCount(shapeOf(cast<MatmulOp>(op), dims).rows, op->getContext());
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Shape shape = shapeOf(cast<MatmulOp>(op), dims);
    AffineExpr rows = elementCount(shape.rows, op->getContext());
    return elementCount(shape.batch, op->getContext()) * shape.columns.ceilDiv(variant.getWorkgroup()[1]) *
           rows.ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto matmul = cast<MatmulOp>(op);
    Type accType = accumulator(matmul);
    int64_t lanes = kernel.lanesOf(accType);
    int64_t panel = variant.getTile()[1];
    lanes = std::max<int64_t>(2, std::min(lanes, panel)); // one column would be a scalar
    if (panel % lanes != 0 || variant.getWorkgroup()[1] % panel != 0)
      return op->emitOpError("tile columns must be a multiple of ")
             << lanes << " and divide the workgroup's, got: " << panel << " and " << variant.getWorkgroup()[1];
    if (matmul.getPackedColumns() && cast<RankedTensorType>(matmul.getRhs().getType()).getDimSize(2) != panel)
      return op->emitOpError("tile columns must be the panel's, got: ")
             << panel << " and " << cast<RankedTensorType>(matmul.getRhs().getType()).getDimSize(2);
    MatmulEmitter emitter{matmul,
                          kernel,
                          shapeOf(matmul, kernel.dims),
                          accType,
                          lanes,
                          panel / lanes,
                          variant.getTile()[0],
                          variant.getUnroll(),
                          {},
                          {},
                          {},
                          {},
                          {},
                          true};
    for (AffineExpr size : emitter.shape.rows)
      emitter.rowSizes.push_back(kernel.materialize(size));
    emitter.rows = kernel.materialize(elementCount(emitter.shape.rows, op->getContext()));
    emitter.columns = kernel.materialize(emitter.shape.columns);
    emitter.depth = kernel.materialize(emitter.shape.depth);
    auto columns = dyn_cast<AffineConstantExpr>(emitter.shape.columns);
    emitter.masksColumns = !columns || columns.getValue() % panel != 0;
    emitter.workgroup(variant.getWorkgroup()[0], variant.getWorkgroup()[1]);
    return success();
  }
};

} // namespace

void registerMatmulModel(MLIRContext *context) { MatmulOp::attachInterface<MatmulModel>(*context); }

} // namespace mlir::dsc
