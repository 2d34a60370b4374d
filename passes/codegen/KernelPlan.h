//===- KernelPlan.h - what phases before codegen ask about a kernel -------===//
#pragma once
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "passes/DimsAnalysis.h"
#include "passes/codegen/KernelInterfaces.h"

namespace mlir::dsc {

/// The operation that writes the loop nest of a dispatch or kernel, or null.
KernelOpInterface findMainOp(Region &region);

/// Whether a region without a main operation can walk its results as one row.
bool isFlatMap(Region &region);

/// Dimension along which the operands of `tensor` lie contiguously in memory.
int64_t contiguousDim(Value tensor);

/// That dimension of a map's only result if it is not the last: the map is a transpose, whatever else it computes.
std::optional<int64_t> transposedDim(Region &region);

/// The pack that makes a region's only result, if groups of contiguous elements stay together in it as words of 32
/// bits: words are transposed.
linalg::PackOp wordPack(Region &region);

/// Rows of the panels that a product would like its left side in, 0: as it is. A weight can be stored so.
int64_t preferredRowPanel(MatmulOp op, TargetAttr target);

/// Buffer of a tensor: contiguous, booleans as bytes.
MemRefType bufferType(Type tensorType);

/// Default schedule of a dispatch region.
ScheduleAttr defaultSchedule(Region &region, TargetAttr target, DimsAnalysis &dims);

/// The region of a dispatch as a kernel function on tensors, with names for all sizes.
func::FuncOp kernelOf(DispatchOp dispatch, StringRef name, DimsAnalysis &dims);

/// Whether a user's schedule has the sizes that the region's loop nest needs.
LogicalResult verifySchedule(DispatchOp dispatch, TargetAttr target, DimsAnalysis &dims);

/// Whether a kernel function on tensors is what --dsc-outline-kernels makes: one block, ties in range, and a
/// schedule of one variant with the sizes that its loop nest needs.
LogicalResult verifyKernel(func::FuncOp kernel, TargetAttr target, DimsAnalysis &dims);

/// What the workgroups of a region leave to a second launch; no element type if there is none.
PartialResults partialResults(Region &region, VariantAttr variant, DimsAnalysis &dims);

/// Buffer of partial results.
MemRefType bufferType(const PartialResults &partial);

/// Number of workgroups that a region needs under `variant`.
AffineExpr workgroupCount(Region &region, VariantAttr variant, DimsAnalysis &dims);

} // namespace mlir::dsc
