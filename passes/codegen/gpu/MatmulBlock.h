//===- MatmulBlock.h - matrix products by the blocks of a GPU -------------===//
#pragma once
#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {

/// Variants of a product on a GPU.
ScheduleAttr gpuMatmulSchedule(MatmulOp op, TargetAttr target, DimsAnalysis &dims);

/// Writes the kernel of one variant.
LogicalResult emitGpuMatmul(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);

/// The operands of a product of codes of 8 bits under scales; none if they are not both such that `multipliesCodes`.
struct CodeFactors {
  DequantizeOp lhs, rhs;
  BlockFormat lhsFormat, rhsFormat;

  DequantizeOp side(bool right) const { return right ? rhs : lhs; }
  const BlockFormat &format(bool right) const { return right ? rhsFormat : lhsFormat; }
};
std::optional<CodeFactors> codeFactors(MatmulOp op);

/// What the matrix instructions multiply for a product: bf16 or f16, null where neither may stand for its operands.
FloatType matrixFactorType(MatmulOp op);

/// One block's part of a product: where it lies, what it reads and how its sums leave.
class MatmulBlock {
public:
  MatmulBlock(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);

protected:
  ~MatmulBlock() = default;

  /// One of the two factors, seen as lines (rows of the left side, columns of the right one) along the reduction.
  struct Factor {
    Value tensor;
    bool direct;   // lines lie contiguously in memory as the instruction wants them
    Value pointer; // of the batch's first element, if direct
    Int first, lines;
  };

  Factor factor(bool rhs);
  /// Goes to a workgroup: sets where its tile lies.
  void locate(Int number);
  /// Eight elements of a line from `k` on as the instruction's type, zeros beyond the ends.
  Value pullChunk(bool rhs, Int line, Int k);
  /// Where a factor's line has element `k`.
  SmallVector<Index> pullIndex(bool rhs, Int line, Index k);
  /// The indices of a row of the result, without the column.
  SmallVector<Index> rowIndex(Int row);
  /// Hands out the sums of two adjacent columns, if the row and they exist.
  void finishPair(ArrayRef<Index> at, Int row, Int column, Value first, Value second);
  /// Hands out sums at a column: as many as `kernel.width` lanes.
  void finish(ArrayRef<Index> at, Int column, Value sums);
  /// Makes the results at `place` of what `finish` has put into `kernel.current`, and writes them.
  virtual void leave(ArrayRef<Index> place) { kernel.storeOutputs(place); }

  Int constant(int64_t value) { return {&kernel, kernel.constantIndex(value)}; }
  Int word(int64_t value) { return {&kernel, arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(value))}; }
  std::optional<int64_t> staticDepth() const {
    auto known = dyn_cast<AffineConstantExpr>(shape.depth);
    return known ? std::optional(known.getValue()) : std::nullopt;
  }

  MatmulOp op;
  KernelBuilder &kernel;
  VariantAttr variant;
  MatmulShape shape;
  FloatType type;
  Type accType;
  Int rows, columns, depth;
  SmallVector<Value> rowSizes;
  SmallVector<Index> batch;
  Int batchNumber;
  Int firstRow, firstColumn; // of the block
  Int thread;                // i32
};

/// Whether both factors can be copied by TMA and multiplied by wgmma of 16 bits.
bool canUseWgmma(MatmulOp op);

/// Products by the matrix instruction of four warps (wgmma), operands in shared memory by TMA: of bf16 and f16, or of
/// codes of 8 bits under scales (instruction "wgmma8").
LogicalResult emitMatmulWgmma(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);
/// Products by the matrix instruction of a warp (mma.sync), operands in shared memory.
LogicalResult emitMatmulMma(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);
/// Products of one row: every warp takes columns and reads them once.
LogicalResult emitMatmulRow(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);
/// Products of anything: every thread takes a tile of the result.
LogicalResult emitMatmulThreads(MatmulOp op, KernelBuilder &kernel, VariantAttr variant);

} // namespace mlir::dsc
