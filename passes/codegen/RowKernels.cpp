//===- RowKernels.cpp - normalizations and softmax: one row at a time -----===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

ScheduleAttr rowVariant(MLIRContext *context, TargetAttr target, AffineExpr columns, int64_t rowsPerWorkgroup,
                        int64_t fewestThreads) {
  int64_t lanes = target.getVectorBytes() / 4;
  if (!target.isGpu())
    return singleVariant(context, {1, lanes}, {rowsPerWorkgroup});
  // A thread takes a vector or more of a row, a block has 256 threads; rows of unknown length are taken for long.
  constexpr int64_t kThreads = 256;
  auto constant = dyn_cast<AffineConstantExpr>(columns);
  int64_t vectors = constant ? llvm::divideCeil(std::max<int64_t>(1, constant.getValue()), lanes) : kThreads;
  int64_t threads = std::clamp<int64_t>(llvm::PowerOf2Ceil(vectors), fewestThreads, kThreads);
  // Half as many do, if that leaves few of them without work in the last turn.
  while (threads > fewestThreads && threads > 32 && vectors <= threads / 2 * 3)
    threads /= 2;
  int64_t teams = threads > 32 ? 1 : kThreads / threads;
  return ScheduleAttr::get(context, VariantAttr::get(context, 0, {1, lanes}, {teams}, /*unroll=*/1, /*depth=*/0,
                                                     /*stage=*/{}, "fma", {teams, threads}));
}

ScheduleAttr singleVariant(MLIRContext *context, ArrayRef<int64_t> tile, ArrayRef<int64_t> workgroup) {
  return ScheduleAttr::get(
      context, VariantAttr::get(context, 0, tile, workgroup, /*unroll=*/1, /*depth=*/0, /*stage=*/{}, "fma"));
}

ScheduleAttr longRowVariant(MLIRContext *context, TargetAttr target, AffineExpr columns) {
  if (!target.isGpu())
    return singleVariant(context, {1}, {1});
  constexpr int64_t kMostThreads = 512; // of twice as many each would have 32 registers
  auto constant = dyn_cast<AffineConstantExpr>(columns);
  int64_t vectors = constant ? llvm::divideCeil(constant.getValue(), target.getVectorBytes() / 4) : kMostThreads;
  int64_t threads = std::clamp<int64_t>(llvm::PowerOf2Ceil(vectors), 32, kMostThreads);
  return ScheduleAttr::get(
      context, VariantAttr::get(context, 0, {1}, {1}, /*unroll=*/1, /*depth=*/0, /*stage=*/{}, "fma", {1, threads}));
}

void forRows(KernelBuilder &kernel, ArrayRef<AffineExpr> sizes, int64_t rowsPerWorkgroup,
             function_ref<void(ArrayRef<Value>)> body) {
  SmallVector<Value> extents;
  Value rows = kernel.constantIndex(1);
  for (AffineExpr size : sizes) {
    extents.push_back(kernel.materialize(size));
    rows = kernel.mul(rows, extents.back());
  }
  Value begin = kernel.mul(kernel.workgroup, kernel.constantIndex(rowsPerWorkgroup));
  Value end = kernel.min(kernel.add(begin, kernel.constantIndex(rowsPerWorkgroup)), rows);
  // A GPU's teams take turns.
  int64_t teams = kernel.team.teams;
  Value first = teams > 1 ? kernel.add(begin, kernel.team.team) : begin;
  if (teams == rowsPerWorkgroup && kernel.team.shares())
    return kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, first, rows),
                         [&] { body(kernel.delinearize(first, extents)); });
  kernel.forLoop(first, end, teams, [&](Value row) { body(kernel.delinearize(row, extents)); });
}

Value guardedPull(KernelBuilder &kernel, Value tensor, ArrayRef<Index> index, Value condition) {
  // The type of the value is known only once it is made: build aside, then move.
  auto aside = std::make_unique<Block>();
  Value value;
  {
    OpBuilder::InsertionGuard guard(kernel);
    kernel.setInsertionPointToStart(aside.get());
    value = kernel.pull(tensor, index);
    scf::YieldOp::create(kernel, value);
  }
  auto branch = scf::IfOp::create(kernel, value.getType(), condition, /*withElseRegion=*/true);
  branch.thenBlock()->getOperations().splice(branch.thenBlock()->end(), aside->getOperations());
  OpBuilder::InsertionGuard guard(kernel);
  kernel.setInsertionPointToStart(branch.elseBlock());
  Value none = kernel.zero(getElementTypeOrSelf(value));
  scf::YieldOp::create(kernel, kernel.isVector(value) ? kernel.splat(none) : none);
  return branch.getResult(0);
}

namespace {

/// What the two ops share: rows are all dimensions but the last.
template <typename Model, typename ConcreteOp> struct RowModel : KernelOpInterface::ExternalModel<Model, ConcreteOp> {
  bool isMain(Operation *) const { return true; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &dims) const {
    return rowVariant(op->getContext(), target, dims.get(op->getOperand(0)).back(), 8);
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims rows = dims.get(op->getOperand(0));
    rows.pop_back();
    return elementCount(rows, op->getContext()).ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    Dims rows = kernel.dims.get(op->getOperand(0));
    rows.pop_back();
    Type type = defaultAccumulatorType(getElementTypeOrSelf(op->getOperand(0)));
    Value columns = kernel.size(op->getOperand(0), rows.size());
    int64_t lanes = kernel.lanesOver(columns, kernel.kernelLanes(*op->getParentRegion()));
    forRows(kernel, rows, variant.getWorkgroup()[0], [&](ArrayRef<Value> row) {
      SmallVector<Index> at;
      for (Value i : row)
        at.push_back(Index::uniform(i));
      Model::emitRow(cast<ConcreteOp>(op), kernel, at, type, lanes);
    });
    return success();
  }

  /// Combines `value(column)` over a row into one scalar.
  static Value reduceRow(KernelBuilder &kernel, Value columns, int64_t lanes, vector::CombiningKind kind, Value neutral,
                         function_ref<Value(Index)> value) {
    kernel.width = lanes;
    Value start = kernel.splat(neutral);
    kernel.width = 1;
    Value zero = kernel.constantIndex(0);
    SmallVector<Value> total = kernel.vectorLoop(zero, columns, lanes, {start}, [&](Value j, ValueRange carried) {
      Value v = kernel.splat(value(Index::lanes(j)));
      if (kernel.mask)
        v = arith::SelectOp::create(kernel, kernel.mask, v, kernel.splat(neutral));
      return SmallVector<Value>{vector::makeArithReduction(kernel, kernel.getLoc(), kind, carried[0], v)};
    });
    return kernel.reduce(kind, total[0]);
  }

  static SmallVector<Index> atColumn(ArrayRef<Index> row, Index column) {
    SmallVector<Index> at(row);
    at.push_back(column);
    return at;
  }
};

struct RmsNormModel : RowModel<RmsNormModel, RmsNormOp> {
  static void emitRow(RmsNormOp op, KernelBuilder &kernel, ArrayRef<Index> row, Type type, int64_t lanes) {
    Value columns = kernel.size(op.getInput(), row.size());
    auto read = [&](Index j) { return kernel.convert(kernel.pull(op.getInput(), atColumn(row, j)), type); };
    Value squares = reduceRow(kernel, columns, lanes, vector::CombiningKind::ADD, kernel.zero(type), [&](Index j) {
      Value x = read(j);
      return Value(arith::MulFOp::create(kernel, x, x));
    });
    Value count =
        arith::SIToFPOp::create(kernel, type, arith::IndexCastOp::create(kernel, kernel.getI64Type(), columns));
    Value mean = arith::DivFOp::create(kernel, squares, count);
    Value eps = kernel.constant(type, op.getEps().convertToDouble());
    Value root = math::SqrtOp::create(kernel, arith::AddFOp::create(kernel, mean, eps));
    Value scale = arith::DivFOp::create(kernel, kernel.constant(type, 1.0), root);
    kernel.vectorLoop(kernel.constantIndex(0), columns, lanes, [&](Value j) {
      Index column = Index::lanes(j);
      Value weight = kernel.convert(kernel.pull(op.getWeight(), {column}), type);
      Value scaled = arith::MulFOp::create(kernel, read(column), kernel.splat(scale));
      Value value = arith::MulFOp::create(kernel, scaled, kernel.splat(weight));
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      kernel.storeOutputs(atColumn(row, column));
    });
  }
};

struct LayerNormModel : RowModel<LayerNormModel, LayerNormOp> {
  static void emitRow(LayerNormOp op, KernelBuilder &kernel, ArrayRef<Index> row, Type type, int64_t lanes) {
    Value columns = kernel.size(op.getInput(), row.size());
    auto read = [&](Index j) { return kernel.convert(kernel.pull(op.getInput(), atColumn(row, j)), type); };
    Value count =
        arith::SIToFPOp::create(kernel, type, arith::IndexCastOp::create(kernel, kernel.getI64Type(), columns));
    auto meanOf = [&](function_ref<Value(Index)> value) -> Value {
      Value sum = reduceRow(kernel, columns, lanes, vector::CombiningKind::ADD, kernel.zero(type), value);
      return arith::DivFOp::create(kernel, sum, count);
    };
    Value mean = meanOf(read);
    auto centered = [&](Index j) -> Value {
      return arith::SubFOp::create(kernel, kernel.splat(read(j)), kernel.splat(mean));
    };
    // A second pass, not E[x^2] - E[x]^2: that difference cancels.
    Value variance = meanOf([&](Index j) -> Value {
      Value x = centered(j);
      return arith::MulFOp::create(kernel, x, x);
    });
    Value eps = kernel.constant(type, op.getEps().convertToDouble());
    Value root = math::SqrtOp::create(kernel, arith::AddFOp::create(kernel, variance, eps));
    Value scale = arith::DivFOp::create(kernel, kernel.constant(type, 1.0), root);
    kernel.vectorLoop(kernel.constantIndex(0), columns, lanes, [&](Value j) {
      Index column = Index::lanes(j);
      auto parameter = [&](Value tensor) { return kernel.splat(kernel.convert(kernel.pull(tensor, {column}), type)); };
      Value value = arith::MulFOp::create(kernel, centered(column), kernel.splat(scale));
      if (op.getWeight())
        value = arith::MulFOp::create(kernel, value, parameter(op.getWeight()));
      if (op.getBias())
        value = arith::AddFOp::create(kernel, value, parameter(op.getBias()));
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      kernel.storeOutputs(atColumn(row, column));
    });
  }
};

struct SoftmaxModel : RowModel<SoftmaxModel, SoftmaxOp> {
  static void emitRow(SoftmaxOp op, KernelBuilder &kernel, ArrayRef<Index> row, Type type, int64_t lanes) {
    Value columns = kernel.size(op.getInput(), row.size());
    auto read = [&](Index j) {
      return kernel.splat(kernel.convert(kernel.pull(op.getInput(), atColumn(row, j)), type));
    };
    Value lowest = kernel.constant(type, -std::numeric_limits<double>::infinity());
    // MAXIMUMF propagates NaN: a NaN in the row makes the whole row NaN.
    Value max = reduceRow(kernel, columns, lanes, vector::CombiningKind::MAXIMUMF, lowest, read);
    auto exponential = [&](Index j) {
      Value shifted = arith::SubFOp::create(kernel, read(j), kernel.splat(max));
      return Value(math::ExpOp::create(kernel, shifted));
    };
    Value sum = reduceRow(kernel, columns, lanes, vector::CombiningKind::ADD, kernel.zero(type), exponential);
    kernel.vectorLoop(kernel.constantIndex(0), columns, lanes, [&](Value j) {
      Index column = Index::lanes(j);
      Value value = arith::DivFOp::create(kernel, exponential(column), kernel.splat(sum));
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      kernel.storeOutputs(atColumn(row, column));
    });
  }
};

} // namespace

void registerRowModels(MLIRContext *context) {
  RmsNormOp::attachInterface<RmsNormModel>(*context);
  LayerNormOp::attachInterface<LayerNormModel>(*context);
  SoftmaxOp::attachInterface<SoftmaxModel>(*context);
}

} // namespace mlir::dsc
