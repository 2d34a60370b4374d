//===- RangeModels.cpp - ranges of linalg and tensor operations -----------===//

#include "passes/RangeModels.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"

namespace mlir::dsc {

Bounds boundsOfCaptured(Value value) {
  auto op = value.getDefiningOp<RangeOpInterface>();
  if (!op || op->getNumOperands() != 0)
    return {};
  return op.inferRanges({})[cast<OpResult>(value).getResultNumber()];
}

namespace {

using Operands = ArrayRef<Bounds>;

double times(double a, double b) { return a == 0 || b == 0 ? 0 : a * b; }

double sizeOf(int64_t size) { return ShapedType::isDynamic(size) ? kInfinity : static_cast<double>(size); }

//===----------------------------------------------------------------------===//
// linalg
//===----------------------------------------------------------------------===//

/// The body of a generic operation on intervals. A row of every value in it is what it takes along the last dimension
/// of the first result.
class Body {
public:
  Body(linalg::GenericOp op, Operands operands) : op(op), operands(operands) {
    SmallVector<int64_t> loops = op.getStaticLoopRanges();
    AffineMap first = op.getIndexingMapMatchingResult(op->getResult(0));
    if (first.getNumResults())
      if (auto loop = dyn_cast<AffineDimExpr>(first.getResults().back()))
        row = loop.getPosition();
    rowSize = row ? sizeOf(loops[*row]) : first.getNumResults() ? kInfinity : 1;
    count = 1;
    for (auto [size, kind] : llvm::zip_equal(loops, op.getIteratorTypesArray()))
      if (kind == utils::IteratorType::reduction)
        count = times(count, sizeOf(size));
  }

  SmallVector<Bounds> results() {
    unsigned inputs = op.getNumDpsInputs();
    SmallVector<Bounds> starts;
    for (OpOperand &init : op.getDpsInitsMutable())
      starts.push_back(asRead(init));
    if (op.getNumReductionLoops() == 0)
      return evaluate(starts);
    SmallVector<Bounds> results = reduce(starts);
    evaluate(SmallVector<Bounds>(starts.size())); // what is added must not depend on any total
    for (auto [i, result] : llvm::enumerate(results)) {
      BlockArgument total = op.getBody()->getArgument(inputs + i);
      if (std::optional<Bounds> added = addedTo(total))
        result = totalOf(starts[i], *added, total.getType());
      result = result.withoutNorm();
    }
    return results;
  }

private:
  /// Rows of an operand that are rows of the result keep their norm.
  Bounds asRead(OpOperand &operand) {
    Bounds bounds = operands[operand.getOperandNumber()];
    AffineMap map = op.getMatchingIndexingMap(&operand);
    bool rows =
        row && map.getNumResults() && map.getResults().back() == getAffineDimExpr(*row, op.getContext()) &&
        llvm::none_of(map.getResults().drop_back(), [&](AffineExpr index) { return index.isFunctionOfDim(*row); });
    return tightened(rows ? bounds : bounds.withoutNorm(), getElementTypeOrSelf(operand.get()));
  }

  Bounds tightened(const Bounds &bounds, Type element) const {
    return isa<FloatType>(element) ? bounds.tightened(element, rowSize) : bounds.withoutNorm();
  }

  Bounds get(Value value) const {
    auto it = values.find(value);
    return it == values.end() ? tightened(boundsOfCaptured(value), value.getType()) : it->second;
  }

  /// What the body yields when its outputs hold `totals`.
  SmallVector<Bounds> evaluate(Operands totals) {
    for (OpOperand *input : op.getDpsInputOperands())
      values[op.getMatchingBlockArgument(input)] = asRead(*input);
    for (auto [argument, total] : llvm::zip_equal(op.getRegionOutputArgs(), totals))
      values[argument] = total;
    for (Operation &inner : op.getBody()->without_terminator()) {
      auto ranged = dyn_cast<RangeOpInterface>(inner);
      SmallVector<Bounds> known =
          ranged ? ranged.inferRanges(llvm::map_to_vector(inner.getOperands(), [&](Value v) { return get(v); }))
                 : SmallVector<Bounds>(inner.getNumResults());
      for (auto [result, bounds] : llvm::zip_equal(inner.getResults(), known))
        values[result] = tightened(bounds, result.getType());
    }
    SmallVector<Bounds> yielded;
    AffineMap first = op.getIndexingMapMatchingResult(op->getResult(0));
    for (auto [i, value] : llvm::enumerate(op.getBody()->getTerminator()->getOperands())) {
      bool alike = op.getIndexingMapMatchingResult(op->getResult(i)) == first && first.isProjectedPermutation();
      yielded.push_back(alike ? get(value) : get(value).withoutNorm());
    }
    return yielded;
  }

  /// What any number of steps gives: an interval that a step does not leave, else what a step gives of any total.
  SmallVector<Bounds> reduce(Operands starts) {
    SmallVector<Bounds> kept(starts), next = evaluate(starts);
    for (auto [total, step] : llvm::zip_equal(kept, next))
      total = either(total, step).withoutNorm();
    next = evaluate(kept);
    bool stays = llvm::all_of(llvm::zip_equal(kept, next), [](auto pair) {
      auto [total, step] = pair;
      return total.lo <= step.lo && step.hi <= total.hi;
    });
    if (!stays) {
      next = evaluate(SmallVector<Bounds>(starts.size()));
      for (auto [total, step, start] : llvm::zip_equal(kept, next, starts))
        total = either(step, start);
    }
    // Behind at least one step a total is what a step gives.
    return count >= 1 && count < kInfinity ? next : kept;
  }

  /// The bounds of what every step adds to a total, if the body does nothing else with it.
  std::optional<Bounds> addedTo(BlockArgument total) {
    if (!total.hasOneUse())
      return std::nullopt;
    Operation *user = *total.getUsers().begin();
    Value yielded = op.getBody()->getTerminator()->getOperand(total.getArgNumber() - op.getNumDpsInputs());
    if (user->getNumResults() != 1 || user->getResult(0) != yielded || !yielded.hasOneUse())
      return std::nullopt;
    if (auto add = dyn_cast<arith::AddFOp>(user))
      return get(add.getLhs() == total ? add.getRhs() : add.getLhs());
    if (auto subtract = dyn_cast<arith::SubFOp>(user); subtract && subtract.getLhs() == total)
      return -get(subtract.getRhs());
    if (auto fma = dyn_cast<math::FmaOp>(user); fma && fma.getC() == total)
      return (get(fma.getA()) * get(fma.getB())).rounded(total.getType());
    return std::nullopt;
  }

  Bounds totalOf(const Bounds &start, const Bounds &added, Type type) const {
    Bounds total = start.withoutNorm() + sum(added, count, type);
    double error = times(gammaOf(std::min(count, kLongestSum) + 1, unitRoundoff(type)), start.magnitude());
    return (error > 0 ? total.perturbed(error) : total).rounded(type);
  }

  linalg::GenericOp op;
  Operands operands;
  std::optional<unsigned> row; // the loop along the last dimension
  double rowSize, count;
  DenseMap<Value, Bounds> values;
};

struct GenericRange : RangeOpInterface::ExternalModel<GenericRange, linalg::GenericOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto generic = cast<linalg::GenericOp>(op);
    return generic.getNumResults() ? Body(generic, operands).results() : SmallVector<Bounds>();
  }
};

/// Positions of a loop.
struct IndexRange : RangeOpInterface::ExternalModel<IndexRange, linalg::IndexOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands) const {
    auto structured = op->getParentOfType<linalg::LinalgOp>();
    double size = sizeOf(structured.getStaticLoopRanges()[cast<linalg::IndexOp>(op).getDim()]);
    return {{0, std::max(0.0, size - 1), kInfinity}};
  }
};

//===----------------------------------------------------------------------===//
// Elements that move
//===----------------------------------------------------------------------===//

/// All operands' elements, whose rows do not stay.
template <typename OpT> struct AnyElement : RangeOpInterface::ExternalModel<AnyElement<OpT>, OpT> {
  SmallVector<Bounds> inferRanges(Operation *, Operands operands) const {
    if (operands.empty())
      return {Bounds()};
    Bounds result = operands[0];
    for (const Bounds &operand : operands.drop_front())
      result = either(result, operand);
    return {result.withoutNorm()};
  }
};

/// The first operand's elements; sizes and positions follow it.
template <typename OpT, bool keepsRows>
struct FirstElements : RangeOpInterface::ExternalModel<FirstElements<OpT, keepsRows>, OpT> {
  SmallVector<Bounds> inferRanges(Operation *, Operands operands) const {
    return {keepsRows ? operands[0] : operands[0].withoutNorm()};
  }
};

/// A part of a row has no larger norm.
struct ExtractSliceRange : RangeOpInterface::ExternalModel<ExtractSliceRange, tensor::ExtractSliceOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto slice = cast<tensor::ExtractSliceOp>(op);
    int64_t rank = slice.getSourceType().getRank();
    return {rank && !slice.getDroppedDims().test(rank - 1) ? operands[0] : operands[0].withoutNorm()};
  }
};

struct InsertSliceRange : RangeOpInterface::ExternalModel<InsertSliceRange, tensor::InsertSliceOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto insert = cast<tensor::InsertSliceOp>(op);
    Bounds result = mixed(operands[0], operands[1]);
    return {insert.getSourceType().getRank() == insert.getDestType().getRank() ? result : result.withoutNorm()};
  }
};

struct ConcatRange : RangeOpInterface::ExternalModel<ConcatRange, tensor::ConcatOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto concat = cast<tensor::ConcatOp>(op);
    bool longer = static_cast<int64_t>(concat.getDim()) == concat.getResultType().getRank() - 1;
    Bounds result = operands[0];
    for (const Bounds &operand : operands.drop_front())
      result = longer ? mixed(result, operand) : either(result, operand);
    return {result};
  }
};

struct PadRange : RangeOpInterface::ExternalModel<PadRange, tensor::PadOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto pad = cast<tensor::PadOp>(op);
    Value value = pad.getConstantPaddingValue();
    Bounds padding = value ? boundsOfCaptured(value) : Bounds();
    Bounds result = either(operands[0], padding);
    result.norm = padding.magnitude() == 0 ? operands[0].norm : kInfinity;
    return {result};
  }
};

/// Rows that are joined; rows that are split have no larger norm.
struct CollapseRange : RangeOpInterface::ExternalModel<CollapseRange, tensor::CollapseShapeOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    auto collapse = cast<tensor::CollapseShapeOp>(op);
    Bounds result = operands[0];
    SmallVector<ReassociationIndices> groups = collapse.getReassociationIndices();
    double rows = 1;
    if (groups.empty())
      return {result.withoutNorm()};
    for (int64_t dim : ArrayRef(groups.back()).drop_back())
      rows = times(rows, sizeOf(collapse.getSrcType().getDimSize(dim)));
    result.norm = times(std::sqrt(rows), result.norm) * (1 + 0x1p-40);
    return {result};
  }
};

} // namespace

void registerRangeModels(DialectRegistry &registry) {
  registerScalarRangeModels(registry);
  registry.addExtension(+[](MLIRContext *context, DscDialect *, linalg::LinalgDialect *) {
    linalg::GenericOp::attachInterface<GenericRange>(*context);
    linalg::IndexOp::attachInterface<IndexRange>(*context);
    linalg::FillOp::attachInterface<FirstElements<linalg::FillOp, false>>(*context);
  });
  registry.addExtension(+[](MLIRContext *context, DscDialect *, tensor::TensorDialect *) {
    tensor::CastOp::attachInterface<FirstElements<tensor::CastOp, true>>(*context);
    tensor::ExpandShapeOp::attachInterface<FirstElements<tensor::ExpandShapeOp, true>>(*context);
    tensor::ReshapeOp::attachInterface<FirstElements<tensor::ReshapeOp, false>>(*context);
    tensor::ExtractOp::attachInterface<FirstElements<tensor::ExtractOp, false>>(*context);
    tensor::SplatOp::attachInterface<FirstElements<tensor::SplatOp, false>>(*context);
    tensor::FromElementsOp::attachInterface<AnyElement<tensor::FromElementsOp>>(*context);
    tensor::CollapseShapeOp::attachInterface<CollapseRange>(*context);
    tensor::ExtractSliceOp::attachInterface<ExtractSliceRange>(*context);
    tensor::InsertSliceOp::attachInterface<InsertSliceRange>(*context);
    tensor::ConcatOp::attachInterface<ConcatRange>(*context);
    tensor::PadOp::attachInterface<PadRange>(*context);
  });
}

} // namespace mlir::dsc
