//===- Kernels.h - what the kernel models share ---------------------------===//
#pragma once
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/KernelBuilder.h"

namespace mlir::dsc {

/// The scalar body of a generic on scalars or vectors; its yielded values.
SmallVector<Value> emitGenericBody(KernelBuilder &kernel, linalg::GenericOp op, ValueRange arguments,
                                   ArrayRef<Index> iteration);

/// A read that happens only where `condition` holds; zero elsewhere.
Value guardedPull(KernelBuilder &kernel, Value tensor, ArrayRef<Index> index, Value condition);

/// Buffer of a constant in the object's read-only data.
Value constantBuffer(KernelBuilder &kernel, DenseElementsAttr elements);

// Kernels of generics with reductions (ReductionKernels.cpp).
ScheduleAttr reductionSchedule(linalg::GenericOp op, TargetAttr target, DimsAnalysis &dims);
AffineExpr reductionWorkgroups(linalg::GenericOp op, VariantAttr variant, DimsAnalysis &dims);
LogicalResult emitReduction(linalg::GenericOp op, KernelBuilder &kernel, VariantAttr variant);

/// Rows of a square matrix, one per vector, to its columns: each round interleaves row i with row i + n / 2.
SmallVector<Value> transposeSquare(KernelBuilder &kernel, SmallVector<Value> rows);

/// Whether a decision allows both operands of products to be rounded to bf16.
bool mayRoundFactors(std::optional<PrecisionAttr> precision);

/// Whether dot products of bf16 are faster than widening and multiplying. Intel's cores with matrix tiles run them at
/// half the rate of the latter; where a hypervisor hides the tiles, they show by their arithmetic in f16, which AMD's
/// Zen 4 and 5, at twice the rate, lack.
bool hasFastBf16Dots(TargetAttr target);

/// A line of the CPU's caches.
constexpr int64_t kLineBytes = 64;

/// Adjacent bytes that the CPU's dot products multiply together: four with AVX512-VNNI; two with AVX2, widened to 16
/// bits; 1, it has none.
int64_t bytesOfDots(TargetAttr target);

/// Elements along the reduction whose 8-bit products a GPU sums up before they are scaled.
constexpr int64_t kCodeSlice = 128;

/// Whether a GPU can multiply codes of this format, `depth` of them in a line: 8-bit floats with a scale for whole
/// slices, or one for all.
bool multipliesCodes(const BlockFormat &format, int64_t depth);

/// The parts of a weight in panels of blocks (PackBlocksKernel.cpp), as described at dsc.pack_blocks.
int64_t blockRunLength(DequantizeOp op);
int64_t blockRunsTogether(DequantizeOp op);
std::optional<RunCodes> blockRunCodes(DequantizeOp op);
/// Runs that are multiplied or converted at a time, of those that are read together.
constexpr int64_t kRunsAtOnce = 4;
SmallVector<ScaledRun> pullBlockRuns(DequantizeOp op, KernelBuilder &kernel, Value panel, Value run, Value lane);

/// One variant for all sizes.
ScheduleAttr singleVariant(MLIRContext *context, ArrayRef<int64_t> tile, ArrayRef<int64_t> workgroup);

/// One variant for rows of `columns` elements: `rowsPerWorkgroup` on a CPU; on a GPU one per team of at least
/// `fewestThreads` threads, a warp where they combine values.
ScheduleAttr rowVariant(MLIRContext *context, TargetAttr target, AffineExpr columns, int64_t rowsPerWorkgroup,
                        int64_t fewestThreads = 32);

/// One variant for rows that depend on each other's elements: a workgroup is a row, a GPU's block shares it.
ScheduleAttr longRowVariant(MLIRContext *context, TargetAttr target, AffineExpr columns);

/// Calls `body(row indices)` for the workgroup's share of `rows` rows, whose
/// sizes are `sizes`.
void forRows(KernelBuilder &kernel, ArrayRef<AffineExpr> sizes, int64_t rowsPerWorkgroup,
             function_ref<void(ArrayRef<Value>)> body);

/// Writes the positions of a row in order to the result.
void emitSortedRow(SortOp op, KernelBuilder &kernel, ArrayRef<Value> row);

void registerMapModels(MLIRContext *context);
void registerDequantizeModel(MLIRContext *context);
void registerPackBlocksModel(MLIRContext *context);
void registerRowModels(MLIRContext *context);
void registerMatmulModel(MLIRContext *context);
void registerAttentionModels(MLIRContext *context);
void registerOrderModels(MLIRContext *context);

} // namespace mlir::dsc
