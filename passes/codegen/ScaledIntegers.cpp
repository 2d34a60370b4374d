//===- ScaledIntegers.cpp - floats as integers under scales ---------------===//

#include "passes/codegen/ScaledIntegers.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

namespace mlir::dsc {

constexpr double kSmallestScaled = 1e-33; // the greatest integer divided by it is finite

bool multipliesPairs(TargetAttr target) {
  return target.hasFeature(target.getVectorBytes() == 32 ? "avx2" : "avx512vnni");
}

Value constantVector(KernelBuilder &kernel, Type element, Attribute value, int64_t lanes) {
  return arith::ConstantOp::create(kernel, DenseElementsAttr::get(VectorType::get({lanes}, element), value));
}

static int64_t lanesIn(Value vector) { return cast<VectorType>(vector.getType()).getNumElements(); }

static Value words(KernelBuilder &kernel, int32_t value, int64_t lanes) {
  return constantVector(kernel, kernel.getI32Type(), kernel.getI32IntegerAttr(value), lanes);
}

Value noMagnitude(KernelBuilder &kernel, int64_t lanes) { return words(kernel, 0, lanes); }

Value greaterMagnitude(KernelBuilder &kernel, Value most, Value value) {
  int64_t lanes = lanesIn(value);
  Value bits = arith::BitcastOp::create(kernel, VectorType::get({lanes}, kernel.getI32Type()), value);
  return arith::MaxUIOp::create(kernel, most, arith::AndIOp::create(kernel, bits, words(kernel, 0x7fffffff, lanes)));
}

Value greatestMagnitude(KernelBuilder &kernel, Value most) {
  return vector::ReductionOp::create(kernel, vector::CombiningKind::MAXUI, most);
}

std::pair<Value, Value> scaleOf(KernelBuilder &kernel, Value most, double largest) {
  auto constant = [&](double value) -> Value {
    FloatAttr attr = kernel.getF32FloatAttr(value);
    if (kernel.isVector(most))
      return constantVector(kernel, kernel.getF32Type(), attr, lanesIn(most));
    return arith::ConstantOp::create(kernel, attr);
  };
  Value smallest = constant(kSmallestScaled);
  most = arith::MaxUIOp::create(kernel, most, arith::BitcastOp::create(kernel, most.getType(), smallest));
  Value magnitude = arith::BitcastOp::create(kernel, smallest.getType(), most);
  return {arith::MulFOp::create(kernel, magnitude, constant(1 / largest)),
          arith::DivFOp::create(kernel, constant(largest), magnitude)};
}

Value scaledIntegers(KernelBuilder &kernel, Value value, Value factor) {
  int64_t lanes = lanesIn(value);
  auto type = VectorType::get({lanes}, kernel.getI32Type());
  SmallVector<Value> operands{arith::MulFOp::create(kernel, value, factor)};
  StringRef name = "llvm.x86.avx.cvt.ps2dq.256";
  if (lanes == 16) {
    name = "llvm.x86.avx512.mask.cvtps2dq.512";
    operands.push_back(arith::ConstantOp::create(kernel, kernel.getZeroAttr(type)));
    operands.push_back(arith::ConstantOp::create(kernel, kernel.getIntegerAttr(kernel.getI16Type(), -1)));
    // The current mode of rounding, to nearest.
    operands.push_back(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(4)));
  }
  return LLVM::CallIntrinsicOp::create(kernel, type, kernel.getStringAttr(name), operands).getResults();
}

Value roundedProduct(KernelBuilder &kernel, Value a, Value b) {
  StringRef name = lanesIn(a) == 32 ? "llvm.x86.avx512.pmul.hr.sw.512" : "llvm.x86.avx2.pmul.hr.sw";
  return LLVM::CallIntrinsicOp::create(kernel, a.getType(), kernel.getStringAttr(name), ValueRange{a, b}).getResults();
}

Value pairsOf(KernelBuilder &kernel, Value even, Value odd) {
  int64_t lanes = lanesIn(even);
  Value low = arith::AndIOp::create(kernel, even, words(kernel, 0xffff, lanes));
  return arith::OrIOp::create(kernel, low, arith::ShLIOp::create(kernel, odd, words(kernel, 16, lanes)));
}

} // namespace mlir::dsc
