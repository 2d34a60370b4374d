//===- KernelIndices.cpp - indices of lanes, and what divides them --------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Utils/StaticValueUtils.h"
#include "passes/codegen/KernelBuilder.h"
#include <numeric>

namespace mlir::dsc {

Value KernelBuilder::indexValue(const Index &index) {
  if (index.kind != Index::Lanes || width == 1)
    return index.value;
  Value steps = vector::StepOp::create(*this, VectorType::get({width}, getIndexType()));
  return arith::AddIOp::create(*this, splat(index.value), steps);
}

/// The largest divisor of `width` that is seen to divide a value.
static int64_t knownDivisor(Value value, int64_t width) {
  if (std::optional<int64_t> constant = getConstantIntValue(value))
    return std::gcd(*constant, width);
  auto both = [&](Value lhs, Value rhs) { return std::gcd(knownDivisor(lhs, width), knownDivisor(rhs, width)); };
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto loop = dyn_cast<scf::ForOp>(argument.getOwner()->getParentOp());
    return loop && argument == loop.getInductionVar() ? both(loop.getLowerBound(), loop.getStep()) : 1;
  }
  Operation *op = value.getDefiningOp();
  if (auto difference = dyn_cast<arith::SubIOp>(op)) { // x - x % n
    auto rest = difference.getRhs().getDefiningOp<arith::RemUIOp>();
    if (rest && rest.getLhs() == difference.getLhs())
      return knownDivisor(rest.getRhs(), width);
  }
  if (isa<arith::AddIOp, arith::SubIOp, arith::MinSIOp, arith::MaxSIOp, arith::RemUIOp>(op))
    return both(op->getOperand(0), op->getOperand(1));
  if (auto product = dyn_cast<arith::MulIOp>(op))
    return std::gcd(knownDivisor(product.getLhs(), width) * knownDivisor(product.getRhs(), width), width);
  return 1;
}

int64_t KernelBuilder::lanesOver(Value end, int64_t lanes) const {
  return team.shares() && knownDivisor(end, lanes) != lanes ? 1 : lanes;
}

bool KernelBuilder::isAligned(const Index &index) const {
  return index.kind == Index::Lanes && knownDivisor(index.value, width) == width;
}

Index KernelBuilder::apply(AffineExpr expr, ArrayRef<Index> indices) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return Index::uniform(constantIndex(constant.getValue()));
  if (auto dim = dyn_cast<AffineDimExpr>(expr))
    return indices[dim.getPosition()];
  auto binary = cast<AffineBinaryOpExpr>(expr);
  Index lhs = apply(binary.getLHS(), indices), rhs = apply(binary.getRHS(), indices);
  bool uniform = lhs.kind == Index::Uniform && rhs.kind == Index::Uniform;
  if (expr.getKind() == AffineExprKind::Add && !uniform) {
    if (lhs.kind == Index::Lanes && rhs.kind == Index::Uniform)
      return Index::lanes(add(lhs.value, rhs.value));
    if (lhs.kind == Index::Uniform && rhs.kind == Index::Lanes)
      return Index::lanes(add(lhs.value, rhs.value));
  }
  // Lanes that begin at a multiple of their number are in one block of a multiple of it.
  auto block = dyn_cast<AffineConstantExpr>(binary.getRHS());
  if (gpu && block && width > 1 && block.getValue() % width == 0 && isAligned(lhs)) {
    Value quotient = createOrFold<arith::FloorDivSIOp>(lhs.value, rhs.value);
    if (expr.getKind() == AffineExprKind::FloorDiv)
      return Index::uniform(quotient);
    if (expr.getKind() == AffineExprKind::Mod)
      return Index::lanes(sub(lhs.value, mul(quotient, rhs.value)));
  }
  Value left = indexValue(lhs), right = indexValue(rhs);
  if (!uniform) {
    left = splat(left);
    right = splat(right);
  }
  Value result;
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    result = add(left, right);
    break;
  case AffineExprKind::Mul:
    result = mul(left, right);
    break;
  case AffineExprKind::FloorDiv:
    result = createOrFold<arith::FloorDivSIOp>(left, right);
    break;
  case AffineExprKind::CeilDiv:
    result = createOrFold<arith::CeilDivSIOp>(left, right);
    break;
  default: { // a floor modulo: the sign is that of the divisor, which is positive
    Value quotient = createOrFold<arith::FloorDivSIOp>(left, right);
    result = sub(left, mul(quotient, right));
    break;
  }
  }
  return uniform ? Index::uniform(result) : Index::vector(result);
}

/// Bytes that the address is known to be a multiple of, on a GPU, which loads as much at once. On a CPU the element's
/// own alignment is as good.
llvm::MaybeAlign KernelBuilder::alignmentAt(Value buffer, ArrayRef<Index> index) const {
  auto type = cast<MemRefType>(buffer.getType());
  int64_t columns = type.getShape().back(), divisor = knownDivisor(index.back().value, width);
  if (type.getRank() > 1)
    divisor = std::gcd(divisor, ShapedType::isDynamic(columns) ? 1 : columns);
  int64_t bytes = divisor * type.getElementTypeBitWidth() / 8;
  if (!gpu || bytes == 0 || !llvm::isPowerOf2_64(bytes))
    return {};
  return llvm::Align(std::min<int64_t>(bytes, 16));
}

} // namespace mlir::dsc
