//===- Async.cpp - copies by TMA and barriers in shared memory (sm_90) ----===//

#include "passes/codegen/gpu/Async.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

namespace mlir::dsc {

constexpr unsigned kClusterSpace = 7; // of addresses: shared memory of all blocks of a cluster

Value tensorMapOf(KernelBuilder &kernel, Value buffer, const TensorMap &map) {
  func::FuncOp function = kernelFunction(kernel);
  auto argument = cast<BlockArgument>(buffer);
  auto named = [&](StringRef name, Attribute value) { return kernel.getNamedAttr(name, value); };
  auto list = [&](const Dims &exprs) {
    SmallVector<Attribute> names;
    for (AffineExpr expr : exprs)
      names.push_back(kernel.getStringAttr(kernel.dims.print(expr)));
    return kernel.getArrayAttr(names);
  };
  auto description = kernel.getDictionaryAttr(
      {named("buffer", kernel.getI64IntegerAttr(argument.getArgNumber())),
       named("element", TypeAttr::get(cast<MemRefType>(buffer.getType()).getElementType())),
       named("sizes", list(map.sizes)), named("strides", list(map.strides)),
       named("box", kernel.getDenseI64ArrayAttr(map.box)), named("swizzle", kernel.getI64IntegerAttr(kTileRowBytes))});
  unsigned position = function.getNumArguments();
  auto attributes = kernel.getDictionaryAttr({named(kTensorMapAttr, description)});
  (void)function.insertArgument(position, LLVM::LLVMPointerType::get(kernel.getContext()), attributes, kernel.getLoc());
  return function.getArgument(position);
}

static Value word(KernelBuilder &kernel, int64_t value) {
  return arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(value));
}

void Barriers::init(Int number, int64_t arrivals) {
  NVVM::MBarrierInitOp::create(kernel, at(number), word(kernel, arrivals), Value());
}

void publishBarriers(KernelBuilder &kernel) { NVVM::FenceMbarrierInitOp::create(kernel); }

void Barriers::wait(Int number, Int parity) {
  constexpr int64_t kTicks = 10000000; // of one attempt, in nanoseconds: it is repeated
  NVVM::MBarrierTryWaitParityOp::create(kernel, at(number), parity, word(kernel, kTicks));
}

void Barriers::arrive(Int number) {
  NVVM::MBarrierArriveOp::create(kernel, kernel.getI64Type(), at(number), Value(),
                                 NVVM::MemScopeKindAttr::get(kernel.getContext(), NVVM::MemScopeKind::CTA));
}

void Barriers::arriveAt(Int number, Int block) {
  auto space = LLVM::LLVMPointerType::get(kernel.getContext(), kClusterSpace);
  Value there = NVVM::MapaOp::create(kernel, space, at(number), block);
  NVVM::MBarrierArriveOp::create(kernel, Type(), there, Value(),
                                 NVVM::MemScopeKindAttr::get(kernel.getContext(), NVVM::MemScopeKind::CLUSTER));
}

void Barriers::expect(Int number, int64_t bytes) {
  NVVM::MBarrierArriveExpectTxOp::create(kernel, Type(), at(number), word(kernel, bytes),
                                         NVVM::MemScopeKindAttr::get(kernel.getContext(), NVVM::MemScopeKind::CTA),
                                         kernel.getBoolAttr(false), Value());
}

void copyBox(KernelBuilder &kernel, Value target, Value map, ValueRange coordinates, Value barrier, int64_t cluster) {
  auto space = LLVM::LLVMPointerType::get(kernel.getContext(), kClusterSpace);
  Value there = LLVM::AddrSpaceCastOp::create(kernel, space, target), all;
  if (cluster > 1)
    all = arith::ConstantOp::create(kernel, kernel.getI16IntegerAttr((1 << cluster) - 1));
  NVVM::CpAsyncBulkTensorGlobalToSharedClusterOp::create(
      kernel, there, map, coordinates, barrier, ValueRange(), all, Value(),
      NVVM::TMALoadModeAttr::get(kernel.getContext(), NVVM::TMALoadMode::TILE), kernel.getBoolAttr(false),
      NVVM::CTAGroupKindAttr(), Value());
}

Int blockOfCluster(KernelBuilder &kernel) { return {&kernel, NVVM::ClusterId::create(kernel, kernel.getI32Type())}; }

void clusterBarrier(KernelBuilder &kernel) {
  NVVM::ClusterArriveOp::create(kernel, UnitAttr());
  NVVM::ClusterWaitOp::create(kernel, UnitAttr());
}

void copyBoxBack(KernelBuilder &kernel, Value source, Value map, ValueRange coordinates) {
  NVVM::CpAsyncBulkTensorSharedCTAToGlobalOp::create(kernel, map, source, coordinates, Value(),
                                                     NVVM::TMAStoreMode::TILE, Value());
  NVVM::CpAsyncBulkCommitGroupOp::create(kernel);
}

void waitForReads(KernelBuilder &kernel, int64_t pending) {
  NVVM::CpAsyncBulkWaitGroupOp::create(kernel, kernel.getI32IntegerAttr(pending), kernel.getUnitAttr());
}

} // namespace mlir::dsc
