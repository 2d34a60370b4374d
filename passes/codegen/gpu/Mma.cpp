//===- Mma.cpp - fragments of a warp's matrix instruction -----------------===//

#include "passes/codegen/gpu/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"

namespace mlir::dsc {

static Type fourOf(Type type) {
  return LLVM::LLVMStructType::getLiteral(type.getContext(), SmallVector<Type>(4, type));
}

SmallVector<Value> loadMatrices(KernelBuilder &kernel, Value pointer, bool transposed) {
  auto layout = transposed ? NVVM::MMALayout::col : NVVM::MMALayout::row;
  auto shape = NVVM::LdStMatrixShapeAttr::get(kernel.getContext(), 8, 8);
  Value matrices = NVVM::LdMatrixOp::create(kernel, fourOf(kernel.getI32Type()), pointer, 4, layout, shape,
                                            NVVM::LdStMatrixEltType::B16);
  SmallVector<Value> words;
  for (int64_t i = 0; i < 4; ++i)
    words.push_back(LLVM::ExtractValueOp::create(kernel, matrices, i));
  return words;
}

void multiplyFragments(KernelBuilder &kernel, FloatType type, ArrayRef<Value> left, ArrayRef<Value> right,
                       MutableArrayRef<Value> sums) {
  auto operands = [&](ArrayRef<Value> words) {
    SmallVector<Value> values(words);
    if (type.isF16()) // which the operation wants as vectors
      for (Value &value : values)
        value = LLVM::BitcastOp::create(kernel, VectorType::get({2}, type), value);
    return values;
  };
  auto kind = type.isF16() ? NVVM::MMATypes::f16 : NVVM::MMATypes::bf16;
  Value product = NVVM::MmaOp::create(kernel, fourOf(kernel.getF32Type()), operands(left), operands(right),
                                      ValueRange(sums), ArrayRef<int64_t>{16, 8, 16}, std::nullopt, std::nullopt,
                                      std::array<NVVM::MMATypes, 2>{kind, kind},
                                      std::array<NVVM::MMALayout, 2>{NVVM::MMALayout::row, NVVM::MMALayout::col});
  for (int64_t i = 0; i < 4; ++i)
    sums[i] = LLVM::ExtractValueOp::create(kernel, product, i);
}

void copyChunk(KernelBuilder &kernel, Value target, Value source, Int offset, Int exists) {
  auto bytes = [&](int64_t n) { return Int{&kernel, arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(n))}; };
  // Nothing is read then, but the address must still be one.
  Int place = select(exists, offset, offset.constant(0)).as(kernel.getI64Type());
  NVVM::CpAsyncOp::create(kernel, target, behind(kernel, source, place), kChunkBytes, NVVM::LoadCacheModifierKind::CG,
                          select(exists, bytes(kChunkBytes), bytes(0)));
}

void commitChunks(KernelBuilder &kernel) { NVVM::CpAsyncCommitGroupOp::create(kernel); }

void waitForChunks(KernelBuilder &kernel, int64_t pending) { NVVM::CpAsyncWaitGroupOp::create(kernel, pending); }

} // namespace mlir::dsc
