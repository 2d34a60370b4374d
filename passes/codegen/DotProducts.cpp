//===- DotProducts.cpp - instructions that multiply groups ----------------===//

#include "passes/codegen/DotProducts.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "llvm/Support/FormatVariadic.h"

namespace mlir::dsc {

/// AVX2 multiplies by one instruction and adds by another.
static bool addsApart(Value sum) { return cast<VectorType>(sum.getType()).getNumElements() == 8; }

static Value call(KernelBuilder &kernel, StringRef name, Type result, ValueRange operands) {
  return LLVM::CallIntrinsicOp::create(kernel, result, kernel.getStringAttr(name), operands).getResults();
}

Value multiplyGroups(KernelBuilder &kernel, Value a, Value b, Value sum) {
  Type type = sum.getType();
  if (addsApart(sum))
    return arith::AddIOp::create(kernel, sum, call(kernel, "llvm.x86.avx2.pmadd.wd", type, {a, b}));
  Type element = getElementTypeOrSelf(a);
  StringRef name = element.isBF16()        ? "llvm.x86.avx512bf16.dpbf16ps.512"
                   : element.isInteger(16) ? "llvm.x86.avx512.vpdpwssd.512"
                                           : "llvm.x86.avx512.vpdpbusd.512";
  return call(kernel, name, type, {sum, a, b});
}

/// Products of `shared` with two vectors, before either is added. In the order that LLVM chooses, each sum behind its
/// product, a loop of five rows by two vectors takes 1.06 times as long on Zen 3: its four pipes, of which two
/// multiply, are fed unevenly.
static void multiplyTwice(KernelBuilder &kernel, StringRef multiply, StringRef add, Value shared,
                          ArrayRef<Value> vectors, MutableArrayRef<Value> sums) {
  Type type = sums[0].getType();
  // The second product replaces `shared`. Of bytes it is the signed operand.
  std::string text =
      llvm::formatv("{0} $1, $7, $0\n\t{0} $1, $8, $1\n\t{1} $0, $2, $2\n\t{1} $1, $3, $3", multiply, add);
  StringRef constraints = "=&x,=&x,=&x,=&x,1,2,3,x,x";
  auto results = LLVM::LLVMStructType::getLiteral(kernel.getContext(), {type, type, type, type});
  auto both = LLVM::InlineAsmOp::create(
      kernel, results,
      ValueRange{vector::BitCastOp::create(kernel, cast<VectorType>(type), shared), sums[0], sums[1], vectors[0],
                 vectors[1]},
      text, constraints, /*has_side_effects=*/false, /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None,
      LLVM::AsmDialectAttr::get(kernel.getContext(), LLVM::AsmDialect::AD_ATT), /*operand_attrs=*/nullptr);
  for (int64_t i : {0, 1})
    sums[i] = LLVM::ExtractValueOp::create(kernel, both.getRes(), ArrayRef<int64_t>{2 + i});
}

void multiplyGroups(KernelBuilder &kernel, Value left, ArrayRef<Value> right, MutableArrayRef<Value> sums) {
  if (addsApart(sums[0]))
    for (; sums.size() > 1; right = right.drop_front(2), sums = sums.drop_front(2))
      multiplyTwice(kernel, "vpmaddwd", "vpaddd", left, right, sums);
  for (auto [vector, sum] : llvm::zip_equal(right, sums))
    sum = multiplyGroups(kernel, left, vector, sum);
}

void multiplyBytes(KernelBuilder &kernel, ArrayRef<Value> codes, Value right, MutableArrayRef<Value> sums) {
  for (; sums.size() > 1; codes = codes.drop_front(2), sums = sums.drop_front(2))
    multiplyTwice(kernel, "vpmaddubsw", "vpaddw", right, codes, sums);
  for (auto [vector, sum] : llvm::zip_equal(codes, sums))
    sum = arith::AddIOp::create(kernel, sum, call(kernel, "llvm.x86.avx2.pmadd.ub.sw", sum.getType(), {vector, right}));
}

} // namespace mlir::dsc
