//===- Wgmma.cpp - the matrix instruction of four warps (sm_90a) ----------===//

#include "passes/codegen/gpu/Wgmma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

namespace mlir::dsc {

LogicalResult needHopper(Operation *op, VariantAttr variant) {
  auto target = op->getParentOfType<ModuleOp>()->getAttrOfType<TargetAttr>(kTargetAttr);
  if (target && target.getCpu() == "sm_90a")
    return success();
  return op->emitOpError("instruction \"") << variant.getInstruction() << "\" needs the target sm_90a, got: " << target;
}

void setRegisters(KernelBuilder &kernel, int64_t count, bool more) {
  auto action = more ? NVVM::SetMaxRegisterAction::increase : NVVM::SetMaxRegisterAction::decrease;
  NVVM::SetMaxRegisterOp::create(kernel, kernel.getI32IntegerAttr(count),
                                 NVVM::SetMaxRegisterActionAttr::get(kernel.getContext(), action));
}

void fenceAsync(KernelBuilder &kernel) {
  MLIRContext *context = kernel.getContext();
  NVVM::FenceProxyOp::create(kernel, NVVM::ProxyKindAttr::get(context, NVVM::ProxyKind::async_shared),
                             NVVM::SharedSpaceAttr::get(context, NVVM::SharedSpace::shared_cta));
}

static Int descriptor(KernelBuilder &kernel, Value memory, Int offset, int64_t leading, int64_t stride) {
  constexpr int64_t kSwizzle128 = int64_t(1) << 62, kUnit = 16; // bytes
  Value pointer = behind(kernel, memory, offset);
  Int address{&kernel, LLVM::PtrToIntOp::create(kernel, kernel.getI64Type(), pointer)};
  return (address & 0x3ffff) / kUnit + (kSwizzle128 | (stride / kUnit) << 32 | (leading / kUnit) << 16);
}

Int matrixAlongRows(KernelBuilder &kernel, Value memory, Int offset) {
  constexpr int64_t kUnused = 16;
  return descriptor(kernel, memory, offset, kUnused, 8 * kTileRowBytes);
}

Int matrixAlongColumns(KernelBuilder &kernel, Value memory, Int offset, int64_t panelBytes) {
  return descriptor(kernel, memory, offset, panelBytes, 8 * kTileRowBytes);
}

static Type sumsType(KernelBuilder &kernel, int64_t columns) {
  return LLVM::LLVMStructType::getLiteral(kernel.getContext(), SmallVector<Type>(columns / 2, kernel.getF32Type()));
}

Value wgmmaZero(KernelBuilder &kernel, int64_t columns) {
  return LLVM::ZeroOp::create(kernel, sumsType(kernel, columns));
}

Value wgmmaPack(KernelBuilder &kernel, ArrayRef<Value> sums) {
  Value all = LLVM::PoisonOp::create(kernel, sumsType(kernel, sums.size() * 2));
  for (auto [i, sum] : llvm::enumerate(sums))
    all = LLVM::InsertValueOp::create(kernel, all, sum, i);
  return all;
}

SmallVector<Value> wgmmaSums(KernelBuilder &kernel, Value sums, int64_t columns) {
  SmallVector<Value> all;
  for (int64_t i = 0; i < columns / 2; ++i)
    all.push_back(LLVM::ExtractValueOp::create(kernel, sums, i));
  return all;
}

static Value inlineAssembly(KernelBuilder &kernel, Type result, ArrayRef<Value> operands, StringRef text,
                            StringRef constraints) {
  return LLVM::InlineAsmOp::create(kernel, result, operands, text, constraints, /*has_side_effects=*/true,
                                   /*is_align_stack=*/false, LLVM::TailCallKind::None,
                                   LLVM::AsmDialectAttr::get(kernel.getContext(), LLVM::AsmDialect::AD_ATT),
                                   ArrayAttr())
      .getRes();
}

void wgmmaFence(KernelBuilder &kernel) { NVVM::WgmmaFenceAlignedOp::create(kernel); }

Value wgmmaFence(KernelBuilder &kernel, Value sums, int64_t columns, MutableArrayRef<Value> words) {
  SmallVector<Value> through = wgmmaSums(kernel, sums, columns);
  llvm::append_range(through, words);
  std::string results, ties;
  SmallVector<Type> types;
  for (auto [i, value] : llvm::enumerate(through)) {
    results += (i ? "," : "") + std::string(value.getType().isF32() ? "=f" : "=r");
    ties += "," + std::to_string(i);
    types.push_back(value.getType());
  }
  auto all = LLVM::LLVMStructType::getLiteral(kernel.getContext(), types);
  Value after = inlineAssembly(kernel, all, through, "wgmma.fence.sync.aligned;", results + ties);
  for (auto [i, value] : llvm::enumerate(through))
    value = LLVM::ExtractValueOp::create(kernel, after, i);
  llvm::copy(ArrayRef(through).drop_front(columns / 2), words.begin());
  return wgmmaPack(kernel, ArrayRef(through).take_front(columns / 2));
}

Value wgmma(KernelBuilder &kernel, FloatType leftType, FloatType rightType, Value sums, Int left, Int right,
            int64_t columns) {
  auto kind = [](FloatType type) {
    return isa<Float8E4M3FNType>(type) ? NVVM::WGMMATypes::e4m3
           : isa<Float8E5M2Type>(type) ? NVVM::WGMMATypes::e5m2
           : type.isF16()              ? NVVM::WGMMATypes::f16
                                       : NVVM::WGMMATypes::bf16;
  };
  int64_t depth = 256 / leftType.getWidth();
  auto scale = sums ? NVVM::WGMMAScaleOut::one : NVVM::WGMMAScaleOut::zero;
  if (!sums)
    sums = LLVM::PoisonOp::create(kernel, sumsType(kernel, columns));
  return NVVM::WgmmaMmaAsyncOp::create(kernel, sums.getType(), sums, left, right,
                                       NVVM::MMAShapeAttr::get(kernel.getContext(), kGroupRows, columns, depth),
                                       kind(leftType), kind(rightType), NVVM::WGMMATypes::f32, scale,
                                       NVVM::WGMMAScaleIn::one, NVVM::WGMMAScaleIn::one, NVVM::MMALayout::row,
                                       NVVM::MMALayout::col, NVVM::MMAIntOverflowAttr());
}

Value wgmmaFromRegisters(KernelBuilder &kernel, FloatType type, Value sums, ArrayRef<Value> left, Int right,
                         int64_t columns) {
  // The operation of NVVM has descriptors for both sides only.
  int64_t count = columns / 2;
  std::string text, constraints;
  llvm::raw_string_ostream code(text), kinds(constraints);
  StringRef kind = type.isF16() ? "f16" : "bf16";
  code << "wgmma.mma_async.sync.aligned.m64n" << columns << "k16.f32." << kind << "." << kind << " {";
  for (int64_t i = 0; i < count; ++i)
    code << (i ? ", $" : "$") << i;
  code << "}, {$" << count << ", $" << count + 1 << ", $" << count + 2 << ", $" << count + 3 << "}, $" << count + 4
       << ", 1, 1, 1, 1;";
  for (int64_t i = 0; i < count; ++i)
    kinds << "=f,";
  kinds << "r,r,r,r,l";
  SmallVector<Value> operands(left);
  operands.push_back(right);
  for (int64_t i = 0; i < count; ++i) {
    kinds << "," << i;
    operands.push_back(LLVM::ExtractValueOp::create(kernel, sums, i));
  }
  return inlineAssembly(kernel, sums.getType(), operands, text, constraints);
}

void wgmmaWait(KernelBuilder &kernel) {
  NVVM::WgmmaGroupSyncAlignedOp::create(kernel);
  NVVM::WgmmaWaitGroupSyncOp::create(kernel, 0);
}

} // namespace mlir::dsc
