//===- OrderKernels.cpp - scans, sorts and scatters -----------------------===//
//
// Elements that depend on those before them: rows, or columns of a scatter,
// run beside each other, what is in them in order.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

/// `lhs op rhs` of floats or signed integers, booleans being one bit; null for `set`.
Value combine(KernelBuilder &kernel, StringRef kind, Value lhs, Value rhs) {
  Type element = getElementTypeOrSelf(lhs);
  bool isFloat = isa<FloatType>(element), isBool = element.isInteger(1);
  if (kind == "add")
    return isFloat  ? Value(arith::AddFOp::create(kernel, lhs, rhs))
           : isBool ? Value(arith::OrIOp::create(kernel, lhs, rhs))
                    : Value(arith::AddIOp::create(kernel, lhs, rhs));
  if (kind == "mul")
    return isFloat  ? Value(arith::MulFOp::create(kernel, lhs, rhs))
           : isBool ? Value(arith::AndIOp::create(kernel, lhs, rhs))
                    : Value(arith::MulIOp::create(kernel, lhs, rhs));
  if (kind == "max")
    return isFloat  ? Value(arith::MaximumFOp::create(kernel, lhs, rhs))
           : isBool ? Value(arith::OrIOp::create(kernel, lhs, rhs))
                    : Value(arith::MaxSIOp::create(kernel, lhs, rhs));
  if (kind == "min")
    return isFloat  ? Value(arith::MinimumFOp::create(kernel, lhs, rhs))
           : isBool ? Value(arith::AndIOp::create(kernel, lhs, rhs))
                    : Value(arith::MinSIOp::create(kernel, lhs, rhs));
  if (kind == "logaddexp") {
    // max + log1p(exp(min - max)); two equal infinities would give inf - inf.
    Value top = arith::MaximumFOp::create(kernel, lhs, rhs), low = arith::MinimumFOp::create(kernel, lhs, rhs);
    Value grown = math::Log1pOp::create(kernel, math::ExpOp::create(kernel, arith::SubFOp::create(kernel, low, top)));
    Value equal = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, low, top);
    Value doubled = arith::AddFOp::create(kernel, top, kernel.constant(element, 0.6931471805599453));
    Value sum = arith::AddFOp::create(kernel, top, grown);
    return arith::SelectOp::create(kernel, equal, doubled, sum);
  }
  return rhs;
}

/// Rows are all dimensions but the last.
template <typename Model, typename ConcreteOp>
struct OrderedRowModel : KernelOpInterface::ExternalModel<Model, ConcreteOp> {
  bool isMain(Operation *) const { return true; }
  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &dims) const {
    return longRowVariant(op->getContext(), target, dims.get(op->getOperand(0)).back());
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims rows = dims.get(op->getOperand(0));
    rows.pop_back();
    return elementCount(rows, op->getContext()).ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    ArrayRef<int64_t> threads = variant.getThreads();
    if (!threads.empty() && (threads[0] != 1 || threads[1] < 32))
      return op->emitOpError("needs one team of at least 32 threads for a row, got: ") << threads;
    Dims rows = kernel.dims.get(op->getOperand(0));
    rows.pop_back();
    forRows(kernel, rows, variant.getWorkgroup()[0],
            [&](ArrayRef<Value> row) { Model::emitRow(cast<ConcreteOp>(op), kernel, row); });
    return success();
  }
  static SmallVector<Index> at(ArrayRef<Value> row, Value column) {
    SmallVector<Index> index(llvm::map_range(row, Index::uniform));
    index.push_back(Index::lanes(column)); // one lane: threads have columns of their own
    return index;
  }
};

struct ScanModel : OrderedRowModel<ScanModel, ScanOp> {
  bool readsOnce(Operation *, unsigned) const { return true; }

  static void emitRow(ScanOp op, KernelBuilder &kernel, ArrayRef<Value> row) {
    Type element = getElementTypeOrSelf(op.getType());
    Type type = isa<FloatType>(element) ? defaultAccumulatorType(element) : element;
    Value columns = kernel.size(op.getInput(), row.size()), zero = kernel.constantIndex(0);
    auto run = [&](Value begin, Value end, Value first, Value before, function_ref<void(Value, Value)> each) {
      return kernel.forLoop(begin, end, 1, {before}, [&](Value i, ValueRange carried) {
        Value x = kernel.convert(kernel.pull(op.getInput(), at(row, i)), type);
        Value isFirst = arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq, i, first);
        Value total =
            arith::SelectOp::create(kernel, isFirst, x, combine(kernel, op.getKind(), carried[0], x)).getResult();
        each(i, total);
        return SmallVector<Value>{total};
      })[0];
    };
    auto store = [&](Value i, Value total) {
      kernel.current[op.getResult()] = kernel.convert(total, element);
      kernel.storeOutputs(at(row, i));
    };
    if (!kernel.team.shares()) {
      run(zero, columns, zero, kernel.zero(type), store);
      return;
    }
    // Each thread has a part of the row: its total first, then its elements from the total of all before it on.
    int64_t threads = kernel.team.threads;
    Value part = kernel.floorDiv(kernel.add(columns, kernel.constantIndex(threads - 1)), threads);
    Value begin = kernel.mul(kernel.team.thread, part), end = kernel.min(kernel.add(begin, part), columns);
    Value own = run(begin, end, begin, kernel.zero(type), [](Value, Value) {});
    Value before = beforeInTeam(kernel, own, [&](Value a, Value b) { return combine(kernel, op.getKind(), a, b); });
    run(begin, end, zero, before, store);
  }
};

struct SortModel : OrderedRowModel<SortModel, SortOp> {
  bool hasResultAtIndex(Operation *) const { return false; }

  static void emitRow(SortOp op, KernelBuilder &kernel, ArrayRef<Value> row) { emitSortedRow(op, kernel, row); }
};

/// A workgroup takes a block of columns, and all rows.
struct ScatterModel : KernelOpInterface::ExternalModel<ScatterModel, ScatterOp> {
  bool isMain(Operation *) const { return true; }
  bool hasResultAtIndex(Operation *) const { return false; }
  bool readsOnce(Operation *, unsigned operand) const { return operand != 1; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    int64_t lanes = target.getVectorBytes() / 4;
    return singleVariant(op->getContext(), {1, lanes}, {8 * lanes});
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    return dims.get(op->getOperand(0))[1].ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto scatter = cast<ScatterOp>(op);
    Value buffer = kernel.outputs[0].second, zero = kernel.constantIndex(0);
    Type element = getElementTypeOrSelf(scatter.getType());
    Value rows = kernel.size(scatter.getInput(), 0), columns = kernel.size(scatter.getInput(), 1);
    Value block = kernel.constantIndex(variant.getWorkgroup()[0]);
    Value begin = kernel.mul(kernel.workgroup, block), end = kernel.min(kernel.add(begin, block), columns);
    int64_t lanes = kernel.kernelLanes(*op->getParentRegion());
    auto overColumns = [&](Value row, function_ref<Value(Index)> value) {
      kernel.vectorLoop(begin, end, lanes, [&](Value j) {
        kernel.store(kernel.splat(value(Index::lanes(j))), buffer, {Index::uniform(row), Index::lanes(j)});
      });
    };
    kernel.forLoop(zero, rows, 1, [&](Value i) {
      overColumns(i, [&](Index j) { return kernel.pull(scatter.getInput(), {Index::uniform(i), j}); });
    });
    kernel.forLoop(zero, kernel.size(scatter.getIndices(), 0), 1, [&](Value i) {
      Value position = kernel.pull(scatter.getIndices(), {Index::uniform(i)});
      Value row = arith::IndexCastOp::create(kernel, kernel.getIndexType(), position);
      // One unsigned comparison also refuses negative rows.
      kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, row, rows), [&] {
        overColumns(row, [&](Index j) {
          Value update = kernel.splat(kernel.pull(scatter.getUpdates(), {Index::uniform(i), j}));
          Value old = kernel.load(buffer, element, {Index::uniform(row), j});
          return combine(kernel, scatter.getKind(), old, update);
        });
      });
    });
    return success();
  }
};

} // namespace

void registerOrderModels(MLIRContext *context) {
  ScanOp::attachInterface<ScanModel>(*context);
  SortOp::attachInterface<SortModel>(*context);
  ScatterOp::attachInterface<ScatterModel>(*context);
}

} // namespace mlir::dsc
