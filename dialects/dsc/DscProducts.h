//===- DscProducts.h - what ranges and errors of a product follow from ----===//
#pragma once
#include "dialects/dsc/DscOps.h"

namespace mlir::dsc {

/// The factors of one element of a result, rounded to `types`, norms of what it reads of them, and a bound of
/// sum |x_k w_k|.
struct MatmulFactors {
  MatmulFactors(MatmulOp op, const Bounds &lhs, const Bounds &rhs, RoundingTypes types = {});

  double depth, xNorm, wNorm, sum;
  Bounds x, w;
  Type acc;
};

} // namespace mlir::dsc
