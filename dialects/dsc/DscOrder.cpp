//===- DscOrder.cpp - scan, sort and scatter ------------------------------===//

#include "dialects/dsc/DscChecks.h"
#include "dialects/dsc/DscOps.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace mlir::dsc;

static LogicalResult checkKind(Operation *op, StringRef kind, ArrayRef<StringRef> kinds) {
  if (llvm::is_contained(kinds, kind))
    return success();
  return op->emitOpError("kind must be one of ") << llvm::join(kinds, ", ") << ", got: " << kind;
}

static LogicalResult checkHasDimension(Operation *op, Value input) {
  if (tensorType(input).getRank() > 0)
    return success();
  return op->emitOpError("input must have a dimension, got: ") << input.getType();
}

LogicalResult ScanOp::verify() {
  if (failed(checkHasDimension(*this, getInput())) ||
      failed(checkKind(*this, getKind(), {"add", "mul", "max", "min", "logaddexp"})))
    return failure();
  if (getKind() == "logaddexp" && !isa<FloatType>(getElementTypeOrSelf(getInput())))
    return emitOpError("logaddexp needs floats, got: ") << getInput().getType();
  return success();
}

void ScanOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr ScanOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext());
}

bool SortOp::selects() {
  ArrayRef<int64_t> shape = getType().getShape(), input = tensorType(getInput()).getShape();
  return shape.size() == input.size() && !ShapedType::isDynamic(shape.back()) && shape.back() != input.back();
}

LogicalResult SortOp::verify() {
  if (failed(checkHasDimension(*this, getInput())))
    return failure();
  if (selects()) {
    constexpr int64_t kMostSelected = 256;
    int64_t columns = tensorType(getInput()).getShape().back(), selected = getType().getShape().back();
    if (!ShapedType::isDynamic(columns) && selected > columns)
      return emitOpError("result must have at most as many columns as the input, got: ")
             << selected << " > " << columns;
    if (selected > kMostSelected)
      return emitOpError("result must hold all positions or the first ")
             << kMostSelected << " at most, got: " << selected;
  }
  return checkResultShapes(*this);
}

void SortOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
  if (selects())
    results.back().back() = getAffineConstantExpr(getType().getShape().back(), getContext());
}

AffineExpr SortOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext());
}

LogicalResult ScatterOp::verify() {
  if (failed(checkRank(*this, "input", getInput(), 2)) || failed(checkRank(*this, "indices", getIndices(), 1)) ||
      failed(checkRank(*this, "updates", getUpdates(), 2)) ||
      failed(checkElementTypes(*this, getInput(), getUpdates())) ||
      failed(checkKind(*this, getKind(), {"set", "add", "mul", "max", "min"})))
    return failure();
  RankedTensorType updates = tensorType(getUpdates());
  if (failed(checkSize(*this, "row counts of indices and updates", tensorType(getIndices()).getDimSize(0),
                       updates.getDimSize(0))) ||
      failed(checkSize(*this, "row sizes of input and updates", tensorType(getInput()).getDimSize(1),
                       updates.getDimSize(1))))
    return failure();
  return checkResultShapes(*this);
}

void ScatterOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr ScatterOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[2], getContext());
}
