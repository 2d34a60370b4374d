//===- MatmulEmitter.h - loop nest of a matrix product --------------------===//
#pragma once
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

/// Sizes of a product: leading dims are rows unless the right side has them too.
struct MatmulShape {
  Dims batch, rows; // rows: every dimension that is a row of one matrix
  AffineExpr columns, depth;
};
MatmulShape matmulShape(MatmulOp op, DimsAnalysis &dims);

/// Type of the sums.
Type accumulatorOf(MatmulOp op);

/// Adjacent elements along the reduction that lie together in the right side.
int64_t groupOf(MatmulOp op);

/// What a schedule means for one product.
struct MatmulPlan {
  int64_t lanes, vectors, tileRows, tilesPerWorkgroup, unroll;
  int64_t block; // steps of the reduction for all rows of a workgroup at a time, 0: all
  int64_t group;
  bool dots; // else multiply-add on widened elements
  VariantAttr variant;
  MemRefType stageType; // [block of k, row, k in the block], or null: the left side is read where it lies
};

/// Writes the loop nest of one workgroup.
void emitMatmul(MatmulOp op, KernelBuilder &kernel, const MatmulPlan &plan);

} // namespace mlir::dsc
