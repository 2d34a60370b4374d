//===- KernelPlan.cpp - what phases before codegen ask about a kernel -----===//

#include "passes/codegen/KernelPlan.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/codegen/Kernels.h"

#include "passes/codegen/KernelInterfaces.cpp.inc"

namespace mlir::dsc {

KernelOpInterface findMainOp(Region &region) {
  for (auto op : region.getOps<KernelOpInterface>())
    if (op.isMain())
      return op;
  return {};
}

bool isFlatMap(Region &region) {
  for (Operation &op : region.front().without_terminator()) {
    auto kernelOp = dyn_cast<KernelOpInterface>(op);
    bool shaped = llvm::any_of(op.getResultTypes(), llvm::IsaPred<ShapedType>);
    if (shaped && (!kernelOp || !kernelOp.isPointwise()))
      return false;
  }
  return true;
}

MemRefType bufferType(Type tensorType) {
  auto type = cast<RankedTensorType>(tensorType);
  Type element = type.getElementType();
  if (element.isInteger(1))
    element = IntegerType::get(type.getContext(), 8);
  return MemRefType::get(type.getShape(), element);
}

ScheduleAttr defaultSchedule(Region &region, TargetAttr target, DimsAnalysis &dims) {
  if (KernelOpInterface main = findMainOp(region))
    return main.getDefaultSchedule(target, dims);
  // Enough work per workgroup to be worth a thread: 16 Ki elements, or 16 rows of up to 4 Ki.
  int64_t lanes = target.getVectorBytes() / 4;
  if (isFlatMap(region))
    return singleVariant(region.getContext(), {lanes}, {16384});
  return singleVariant(region.getContext(), {1, lanes}, {16, 4096});
}

LogicalResult verifySchedule(DispatchOp dispatch, TargetAttr target, DimsAnalysis &dims) {
  ArrayRef<VariantAttr> variants = dispatch.getSchedule()->getVariants();
  VariantAttr expected = defaultSchedule(dispatch.getBody(), target, dims).getVariants().back();
  for (VariantAttr variant : variants)
    if (variant.getTile().size() != expected.getTile().size() ||
        variant.getWorkgroup().size() != expected.getWorkgroup().size())
      return dispatch.emitOpError("schedule needs ")
             << expected.getTile().size() << " tile and " << expected.getWorkgroup().size()
             << " workgroup sizes, got: " << variant.getTile().size() << " and " << variant.getWorkgroup().size();
  KernelOpInterface main = findMainOp(dispatch.getBody());
  if (variants.size() > 1 && (!main || !main.getRows(dims)))
    return dispatch.emitOpError("has no rows to choose a variant by, but its schedule has ")
           << variants.size() << " variants";
  return success();
}

AffineExpr workgroupCount(Region &region, VariantAttr variant, DimsAnalysis &dims) {
  if (KernelOpInterface main = findMainOp(region))
    return main.getWorkgroups(variant, dims);
  MLIRContext *context = region.getContext();
  Dims sizes = dims.get(region.front().getTerminator()->getOperand(0));
  if (sizes.empty())
    return getAffineConstantExpr(1, context);
  ArrayRef<int64_t> block = variant.getWorkgroup();
  if (isFlatMap(region))
    return elementCount(sizes, context).ceilDiv(block.back());
  AffineExpr columns = sizes.pop_back_val();
  return elementCount(sizes, context).ceilDiv(block[0]) * columns.ceilDiv(block[1]);
}

void registerKernelModels(DialectRegistry &registry) {
  registry.addExtension(
      +[](MLIRContext *context, DscDialect *, arith::ArithDialect *, linalg::LinalgDialect *, tensor::TensorDialect *) {
        registerMapModels(context);
        registerDequantizeModel(context);
        registerRowModels(context);
        registerMatmulModel(context);
        registerAttentionModels(context);
      });
}

} // namespace mlir::dsc
