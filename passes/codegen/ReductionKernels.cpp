//===- ReductionKernels.cpp - linalg.generic with reduction loops ---------===//
//
// A reduction with a known combiner over the last loop keeps one partial result
// per lane; one whose last loop is parallel keeps a vector of results. All
// others run in order, one element at a time.
//
//===----------------------------------------------------------------------===//

#include "mlir/Analysis/SliceAnalysis.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Linalg/Transforms/Transforms.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

/// Sizes of the loops, read off the operands that use them directly.
static Dims loopSizes(linalg::GenericOp op, DimsAnalysis &dims) {
  Dims sizes(op.getNumLoops());
  for (OpOperand &operand : op->getOpOperands()) {
    if (!isa<RankedTensorType>(operand.get().getType()))
      continue;
    Dims shape = dims.get(operand.get());
    for (auto [i, expr] : llvm::enumerate(op.getMatchingIndexingMap(&operand).getResults()))
      if (auto dim = dyn_cast<AffineDimExpr>(expr))
        sizes[dim.getPosition()] = shape[i];
  }
  return sizes;
}

/// Loops that results are indexed by, in the order of the result's dimensions; -1 for a kept dimension of size 1.
static SmallVector<int64_t> resultLoops(linalg::GenericOp op) {
  SmallVector<int64_t> loops;
  for (AffineExpr expr : op.getMatchingIndexingMap(op.getDpsInitOperand(0)).getResults())
    loops.push_back(isa<AffineDimExpr>(expr) ? cast<AffineDimExpr>(expr).getPosition() : -1);
  return loops;
}

/// The combiner of every result, when each body is combine(f(inputs), accumulator).
static std::optional<SmallVector<vector::CombiningKind>> findCombiners(linalg::GenericOp op) {
  SmallVector<vector::CombiningKind> kinds;
  for (unsigned i = 0; i < op.getNumDpsInits(); ++i) {
    SmallVector<Operation *> combiners;
    auto arguments = op.getRegionOutputArgs();
    if (!matchReduction(arguments, i, combiners) || combiners.size() != 1)
      return std::nullopt;
    std::optional<vector::CombiningKind> kind = linalg::getCombinerOpKind(combiners[0]);
    if (!kind)
      return std::nullopt;
    kinds.push_back(*kind);
  }
  return kinds;
}

/// The workgroup takes rows of results; with a parallel last loop a row is the last result dimension.
static bool lastLoopIsParallel(linalg::GenericOp op) {
  SmallVector<int64_t> loops = resultLoops(op);
  return !loops.empty() && loops.back() == static_cast<int64_t>(op.getNumLoops()) - 1;
}

ScheduleAttr reductionSchedule(linalg::GenericOp op, TargetAttr target, DimsAnalysis &dims) {
  AffineExpr columns = op.getNumLoops() ? loopSizes(op, dims).back() : getAffineConstantExpr(1, op.getContext());
  bool shared = lastLoopIsParallel(op) ||
                (op.getIteratorTypesArray().back() == utils::IteratorType::reduction && findCombiners(op).has_value());
  // In order means by one thread.
  return shared || !target.isGpu() ? rowVariant(op.getContext(), target, columns, 16)
                                   : singleVariant(op.getContext(), {1, target.getVectorBytes() / 4}, {1});
}

AffineExpr reductionWorkgroups(linalg::GenericOp op, VariantAttr variant, DimsAnalysis &dims) {
  Dims rows = dims.get(op.getDpsInitOperand(0)->get());
  if (lastLoopIsParallel(op))
    rows.pop_back();
  return elementCount(rows, op.getContext()).ceilDiv(variant.getWorkgroup()[0]);
}

static Value neutralElement(KernelBuilder &kernel, vector::CombiningKind kind, Type type) {
  using vector::CombiningKind;
  unsigned bits = type.getIntOrFloatBitWidth();
  auto integer = [&](APInt value) -> Value {
    return arith::ConstantOp::create(kernel, kernel.getIntegerAttr(type, value));
  };
  double infinity = std::numeric_limits<double>::infinity();
  switch (kind) {
  case CombiningKind::MUL:
    return kernel.constant(type, 1);
  case CombiningKind::MAXNUMF:
  case CombiningKind::MAXIMUMF:
    return kernel.constant(type, -infinity);
  case CombiningKind::MINNUMF:
  case CombiningKind::MINIMUMF:
    return kernel.constant(type, infinity);
  case CombiningKind::MAXSI:
    return integer(APInt::getSignedMinValue(bits));
  case CombiningKind::MINSI:
    return integer(APInt::getSignedMaxValue(bits));
  case CombiningKind::MINUI:
  case CombiningKind::AND:
    return integer(APInt::getAllOnes(bits));
  default:
    return kernel.zero(type);
  }
}

namespace {
struct ReductionEmitter {
  linalg::GenericOp op;
  KernelBuilder &kernel;
  SmallVector<Value> sizes;
  SmallVector<unsigned> reduced;
  SmallVector<Index> iteration;

  ReductionEmitter(linalg::GenericOp op, KernelBuilder &kernel) : op(op), kernel(kernel), iteration(op.getNumLoops()) {
    for (AffineExpr size : loopSizes(op, kernel.dims))
      sizes.push_back(kernel.materialize(size));
    op.getReductionDims(reduced);
  }

  /// The body at the current iteration with the given accumulators.
  SmallVector<Value> step(ValueRange accumulators) {
    SmallVector<Value> arguments;
    Block &body = op.getRegion().front();
    for (OpOperand *operand : op.getDpsInputOperands()) {
      if (body.getArgument(operand->getOperandNumber()).use_empty()) {
        arguments.push_back({});
        continue;
      }
      if (!isa<RankedTensorType>(operand->get().getType())) {
        arguments.push_back(kernel.scalar(operand->get()));
        continue;
      }
      SmallVector<Index> at;
      for (AffineExpr expr : op.getMatchingIndexingMap(operand).getResults())
        at.push_back(kernel.apply(expr, iteration));
      arguments.push_back(kernel.pull(operand->get(), at));
    }
    llvm::append_range(arguments, accumulators);
    return emitGenericBody(kernel, op, arguments, iteration);
  }

  /// Runs reduction loops [depth, end) around `inner`.
  SmallVector<Value> loops(ArrayRef<unsigned> rest, ValueRange carried,
                           function_ref<SmallVector<Value>(ValueRange)> inner) {
    if (rest.empty())
      return inner(carried);
    return kernel.forLoop(kernel.constantIndex(0), sizes[rest[0]], 1, carried, [&](Value i, ValueRange values) {
      iteration[rest[0]] = Index::uniform(i);
      return loops(rest.drop_front(), values, inner);
    });
  }

  SmallVector<Value> initial(ArrayRef<Index> at) {
    return llvm::map_to_vector(op.getDpsInits(), [&](Value v) { return kernel.splat(kernel.pull(v, at)); });
  }

  void finish(ArrayRef<Index> at, ValueRange results) {
    for (auto [result, value] : llvm::zip_equal(op.getResults(), results))
      kernel.current[result] = value;
    kernel.storeOutputs(at);
  }

  /// Partial results per lane over the last loop.
  void horizontal(ArrayRef<Index> at, ArrayRef<vector::CombiningKind> kinds, int64_t lanes) {
    SmallVector<Value> neutral, start;
    for (auto [kind, value] : llvm::zip_equal(kinds, op.getDpsInits()))
      neutral.push_back(neutralElement(kernel, kind, getElementTypeOrSelf(value)));
    kernel.width = lanes;
    for (Value v : neutral)
      start.push_back(kernel.splat(v));
    kernel.width = 1;
    unsigned last = reduced.back();
    ArrayRef<unsigned> outer = ArrayRef(reduced).drop_back();
    SmallVector<Value> partial = loops(outer, start, [&](ValueRange carried) {
      return kernel.vectorLoop(kernel.constantIndex(0), sizes[last], lanes, carried, [&](Value i, ValueRange values) {
        iteration[last] = Index::lanes(i);
        SmallVector<Value> next = step(values);
        for (auto [value, old] : llvm::zip_equal(next, values)) {
          value = kernel.splat(value);
          if (kernel.mask) // lanes beyond the end keep what they have
            value = arith::SelectOp::create(kernel, kernel.mask, value, old);
        }
        return next;
      });
    });
    SmallVector<Value> results = initial(at);
    for (auto [result, kind, lanesValue] : llvm::zip_equal(results, kinds, partial))
      result = vector::makeArithReduction(kernel, kernel.getLoc(), kind, result, kernel.reduce(kind, lanesValue));
    finish(at, results);
  }
};
} // namespace

LogicalResult emitReduction(linalg::GenericOp op, KernelBuilder &kernel, VariantAttr variant) {
  for (OpOperand &initial : op.getDpsInitsMutable())
    for (AffineExpr expr : op.getMatchingIndexingMap(&initial).getResults())
      if (!isa<AffineDimExpr>(expr) && expr != getAffineConstantExpr(0, op.getContext()))
        return op.emitOpError("reduction results must be indexed by loops or 0, got: ")
               << AffineMapAttr::get(op.getMatchingIndexingMap(&initial));
  SmallVector<int64_t> loops = resultLoops(op);
  for (auto [loop, kind] : llvm::enumerate(op.getIteratorTypesArray()))
    if ((kind == utils::IteratorType::parallel) != llvm::is_contained(loops, static_cast<int64_t>(loop)))
      return op.emitOpError("results of a reduction must be indexed by its parallel loops and no others, not so: loop ")
             << loop;
  ReductionEmitter emitter(op, kernel);
  int64_t lanes = kernel.lanesOver(emitter.sizes.back(), kernel.kernelLanes(*op->getParentRegion()));
  bool parallel = lastLoopIsParallel(op);
  auto combiners = findCombiners(op);
  bool last = !emitter.reduced.empty() && emitter.reduced.back() == op.getNumLoops() - 1;

  Dims rows = kernel.dims.get(op.getDpsInitOperand(0)->get());
  if (parallel)
    rows.pop_back();
  forRows(kernel, rows, variant.getWorkgroup()[0], [&](ArrayRef<Value> row) {
    SmallVector<Index> at;
    for (auto [value, loop] : llvm::zip(row, loops)) {
      at.push_back(Index::uniform(value));
      if (loop >= 0)
        emitter.iteration[loop] = at.back();
    }
    auto inOrder = [&](ValueRange carried) {
      SmallVector<Value> next = emitter.step(carried);
      for (Value &value : next)
        value = kernel.splat(value);
      return next;
    };
    if (parallel) {
      kernel.vectorLoop(kernel.constantIndex(0), emitter.sizes[loops.back()], lanes, [&](Value j) {
        SmallVector<Index> here(at);
        here.push_back(Index::lanes(j));
        emitter.iteration[loops.back()] = here.back();
        emitter.finish(here, emitter.loops(emitter.reduced, emitter.initial(here), inOrder));
      });
    } else if (combiners && last) {
      emitter.horizontal(at, *combiners, lanes);
    } else {
      emitter.finish(at, emitter.loops(emitter.reduced, emitter.initial(at), inOrder));
    }
  });
  return success();
}

} // namespace mlir::dsc
