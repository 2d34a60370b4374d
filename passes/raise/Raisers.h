//===- Raisers.h - patterns of terms that are dsc operations --------------===//
#pragma once
#include "passes/raise/Terms.h"

namespace mlir::dsc {

/// What a value is, as a dsc operation before the one that makes it, or null.
Value raiseNorm(Terms &terms, Value root);
Value raiseRope(Terms &terms, Value root);

/// What became of a product of weights and values.
struct AttentionFound {
  Value replacement;
  std::string problem; // why it is not an attention, for a softmax between two products
};
AttentionFound raiseAttention(Terms &terms, MatmulOp root);

} // namespace mlir::dsc
