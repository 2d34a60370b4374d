//===- MaskedFloatsAsBits.cpp - 16-bit floats under masks as integers -----===//
//
// Where a target has no such type, LLVM splits a masked access into scalars,
// converts each through f32 and calls compiler-rt for it.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_MASKEDFLOATSASBITSPASS
#include "passes/Passes.h.inc"

namespace {

/// Of a vector of 16-bit floats, the integers of the same bits, else null.
Type bitsType(Type type) {
  auto vector = dyn_cast<VectorType>(type);
  if (!vector || !isa<FloatType>(vector.getElementType()) || vector.getElementTypeBitWidth() != 16)
    return {};
  return vector.clone(IntegerType::get(type.getContext(), 16));
}

struct MaskedFloatsAsBitsPass : impl::MaskedFloatsAsBitsPassBase<MaskedFloatsAsBitsPass> {
  using MaskedFloatsAsBitsPassBase::MaskedFloatsAsBitsPassBase;
  void runOnOperation() override {
    getOperation()->walk([](Operation *op) {
      if (!isa<LLVM::MaskedLoadOp, LLVM::MaskedStoreOp, LLVM::masked_gather, LLVM::masked_scatter>(op))
        return;
      OpBuilder b(op);
      for (OpOperand &operand : op->getOpOperands())
        if (Type bits = bitsType(operand.get().getType()))
          operand.set(LLVM::BitcastOp::create(b, op->getLoc(), bits, operand.get()));
      b.setInsertionPointAfter(op);
      for (Value result : op->getResults())
        if (Type bits = bitsType(result.getType())) {
          auto floats = LLVM::BitcastOp::create(b, op->getLoc(), result.getType(), result);
          result.setType(bits);
          result.replaceAllUsesExcept(floats, floats);
        }
    });
  }
};

} // namespace
} // namespace mlir::dsc
