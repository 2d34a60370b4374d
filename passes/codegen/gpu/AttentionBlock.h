//===- AttentionBlock.h - attention by the blocks of a GPU ----------------===//
#pragma once
#include "passes/codegen/AttentionEmitter.h"

namespace mlir::dsc {

/// What the matrix instructions multiply, or null where neither bf16 nor f16 may stand for the operands.
FloatType attentionFactorType(AttentionOp op);

/// Few positions with split keys, and many.
ScheduleAttr gpuAttentionSchedule(AttentionOp op);

/// Products by the matrix instruction of a warp (mma.sync).
LogicalResult emitAttentionMma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant);

} // namespace mlir::dsc
