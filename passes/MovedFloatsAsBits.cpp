//===- MovedFloatsAsBits.cpp - 16-bit floats that only move as integers ----===//
//
// Where a target has no such type, LLVM keeps a scalar as f32 from one block to
// another, splits a masked access into scalars, and calls compiler-rt for every
// conversion. Where it has one, conversions flush subnormals (vcvtneps2bf16).
//
//===----------------------------------------------------------------------===//

#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_MOVEDFLOATSASBITSPASS
#include "passes/Passes.h.inc"

namespace {

/// Of 16-bit floats, the integers of the same bits, else null.
Type bitsType(Type type) {
  if (!isa<FloatType>(getElementTypeOrSelf(type)) || getElementTypeOrSelf(type).getIntOrFloatBitWidth() != 16)
    return {};
  Type bits = IntegerType::get(type.getContext(), 16);
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.clone(bits);
  return bits;
}

/// Makes `value` integers; its uses read them as floats again.
void becomeBits(OpBuilder &b, Location loc, Value value) {
  Type floats = value.getType(), bits = bitsType(floats);
  if (!bits)
    return;
  auto cast = LLVM::BitcastOp::create(b, loc, floats, value);
  value.setType(bits);
  value.replaceAllUsesExcept(cast, cast);
}

struct MovedFloatsAsBitsPass : impl::MovedFloatsAsBitsPassBase<MovedFloatsAsBitsPass> {
  using MovedFloatsAsBitsPassBase::MovedFloatsAsBitsPassBase;
  void runOnOperation() override {
    auto target = getOperation()->getAttrOfType<TargetAttr>(kTargetAttr);
    if (target && target.isGpu()) // they have both types
      return;
    getOperation()->walk([](LLVM::LLVMFuncOp function) {
      for (Block &block : llvm::drop_begin(function.getBlocks(), function.isExternal() ? 0 : 1))
        for (Value argument : block.getArguments()) {
          OpBuilder b = OpBuilder::atBlockBegin(&block);
          becomeBits(b, argument.getLoc(), argument);
        }
    });
    getOperation()->walk([](Operation *op) {
      if (!isa<LLVM::LoadOp, LLVM::StoreOp, LLVM::MaskedLoadOp, LLVM::MaskedStoreOp, LLVM::masked_gather,
               LLVM::masked_scatter, LLVM::SelectOp, LLVM::InsertElementOp, LLVM::ExtractElementOp,
               LLVM::ShuffleVectorOp, LLVM::BrOp, LLVM::CondBrOp, LLVM::SwitchOp>(op))
        return;
      OpBuilder b(op);
      for (OpOperand &operand : op->getOpOperands())
        if (Type bits = bitsType(operand.get().getType()))
          operand.set(LLVM::BitcastOp::create(b, op->getLoc(), bits, operand.get()));
      b.setInsertionPointAfter(op);
      for (Value result : op->getResults())
        becomeBits(b, op->getLoc(), result);
    });
  }
};

} // namespace
} // namespace mlir::dsc
