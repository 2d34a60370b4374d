//===- DscChecks.h - what verifiers of dsc ops ask ------------------------===//
#pragma once
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Operation.h"
#include "mlir/IR/TypeUtilities.h"

namespace mlir::dsc {

inline RankedTensorType tensorType(Value value) { return cast<RankedTensorType>(value.getType()); }

inline LogicalResult checkRank(Operation *op, llvm::StringRef what, Value value, int64_t rank) {
  if (tensorType(value).getRank() == rank)
    return success();
  return op->emitOpError() << what << " must have rank " << rank << ", got: " << value.getType();
}

/// Two sizes that must agree; a dynamic one agrees with everything.
inline LogicalResult checkSize(Operation *op, llvm::StringRef what, int64_t lhs, int64_t rhs) {
  if (ShapedType::isDynamic(lhs) || ShapedType::isDynamic(rhs) || lhs == rhs)
    return success();
  return op->emitOpError() << what << " must match, got: " << lhs << " != " << rhs;
}

inline LogicalResult checkElementTypes(Operation *op, Value lhs, Value rhs) {
  Type left = getElementTypeOrSelf(lhs), right = getElementTypeOrSelf(rhs);
  if (left == right)
    return success();
  return op->emitOpError() << "element types must match, got: " << left << " != " << right;
}

} // namespace mlir::dsc
