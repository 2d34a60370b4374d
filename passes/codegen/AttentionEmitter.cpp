//===- AttentionEmitter.cpp - what the loop nests of attention share ------===//

#include "passes/codegen/AttentionEmitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"

namespace mlir::dsc {

int64_t kvHeads(AttentionOp op) {
  Value source = op.getCache() ? op.getCache() : op.getKey();
  return cast<RankedTensorType>(source.getType()).getDimSize(2);
}

int64_t groupSize(AttentionOp op) {
  return cast<RankedTensorType>(op.getQuery().getType()).getDimSize(2) / kvHeads(op);
}

AttentionEmitter::AttentionEmitter(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan)
    : op(op), kernel(kernel), type(defaultAccumulatorType(getElementTypeOrSelf(op.getQuery()))), plan(plan),
      zero(constant(0)), one(constant(1)), positions(kernel.size(op.getQuery(), 1)) {}

Value AttentionEmitter::clampToZero(Value value) { return arith::MaxSIOp::create(kernel, value, zero); }

Value AttentionEmitter::isLess(Value lhs, Value rhs) {
  return arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, lhs, rhs);
}

Value AttentionEmitter::allocate(ArrayRef<int64_t> shape, Type element) {
  return kernel.allocate(MemRefType::get(shape, element ? element : type));
}

Value AttentionEmitter::loadVector(Value buffer, Value row, Value column) {
  return vector::LoadOp::create(kernel, kernel.vectorType(type), buffer, ValueRange{row, column});
}

void AttentionEmitter::storeVector(Value value, Value buffer, Value row, Value column) {
  vector::StoreOp::create(kernel, value, buffer, ValueRange{row, column});
}

Value AttentionEmitter::loadScalar(Value buffer, ValueRange at) { return memref::LoadOp::create(kernel, buffer, at); }

Value AttentionEmitter::larger(Value lhs, Value rhs) {
  Value greater = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OGT, lhs, rhs);
  return arith::SelectOp::create(kernel, greater, lhs, rhs);
}

Value AttentionEmitter::orOne(Value sum) {
  auto constant = [&](double value) {
    Value scalar = kernel.constant(type, value);
    return kernel.isVector(sum) ? kernel.splat(scalar) : scalar;
  };
  Value empty = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, sum, constant(0));
  return arith::SelectOp::create(kernel, empty, constant(1), sum);
}

Value AttentionEmitter::exponential(Value x) {
  if (!type.isF32())
    return math::Exp2Op::create(kernel, x);
  // (2^f - 1) / f on |f| <= 1/2: our own Remez fit, error 2^-28 of 2^f.
  static constexpr double coefficients[] = {0.6931472028570784,   0.2402264791334071,    0.05550332467939088,
                                            0.009618437377036299, 0.0013398875420926868, 0.0001535335908982241};
  // x + this - this is the nearest integer n; the low bits of x + this are those of 2^n.
  Value rounder = vectorConstant(0x1.8p23 + 127);
  Value shifted = arith::AddFOp::create(kernel, x, rounder);
  Value f = arith::SubFOp::create(kernel, x, arith::SubFOp::create(kernel, shifted, rounder));
  Value power = vectorConstant(coefficients[5]);
  for (int64_t i = 4; i >= 0; --i)
    power = vector::FMAOp::create(kernel, power, f, vectorConstant(coefficients[i]));
  power = vector::FMAOp::create(kernel, power, f, vectorConstant(1));
  Type integers = kernel.vectorType(kernel.getI32Type());
  Value exponentAt = arith::ConstantOp::create(
      kernel, DenseElementsAttr::get(cast<ShapedType>(integers), kernel.getI32IntegerAttr(23)));
  Value bits = arith::ShLIOp::create(kernel, arith::BitcastOp::create(kernel, integers, shifted), exponentAt);
  power = arith::MulFOp::create(kernel, power, arith::BitcastOp::create(kernel, x.getType(), bits));
  Value tiny = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OLT, x, vectorConstant(-125));
  return arith::SelectOp::create(kernel, tiny, vectorConstant(0), power);
}

void AttentionEmitter::place(Value position, Value row, Value head, Value share) {
  firstPosition = position;
  batch = row;
  kvHead = head;
  firstHead = kernel.add(kernel.mul(kvHead, constant(groupSize(op))), kernel.mul(share, constant(plan.heads)));
  keys = keyCount();
}

std::pair<Value, SmallVector<Index>> AttentionEmitter::kvAt(int64_t plane, Value position, Index depth) {
  if (op.getCache())
    return {op.getCache(), {uniform(batch), uniform(constant(plane)), uniform(kvHead), uniform(position), depth}};
  return {plane == 0 ? op.getKey() : op.getValue(), {uniform(batch), uniform(position), uniform(kvHead), depth}};
}

Value AttentionEmitter::readKv(int64_t plane, Value position, Index depth) {
  auto [tensor, at] = kvAt(plane, position, depth);
  return kernel.splat(kernel.convert(kernel.pull(tensor, at), type));
}

void AttentionEmitter::prefetchKv(int64_t plane, Value position, Index depth) {
  auto [tensor, at] = kvAt(plane, position, depth);
  kernel.prefetch(tensor, at);
}

int64_t AttentionEmitter::kvLine() {
  Value source = op.getCache() ? op.getCache() : op.getKey();
  return kLineBytes * 8 / getElementTypeOrSelf(source).getIntOrFloatBitWidth();
}

Value AttentionEmitter::keyCount() {
  if (!op.getCache())
    return kernel.size(op.getKey(), 1);
  Value length = kernel.pull(op.getLengths(), {uniform(batch)});
  length = arith::IndexCastOp::create(kernel, kernel.getIndexType(), length);
  return clampToZero(kernel.min(length, kernel.size(op.getCache(), 3)));
}

Value AttentionEmitter::positionOf(Value row) {
  Value position = kernel.add(firstPosition, kernel.floorDiv(row, plan.heads));
  return kernel.min(position, kernel.sub(positions, one));
}

Value AttentionEmitter::headOf(Value row) {
  return kernel.add(firstHead, kernel.createOrFold<arith::RemUIOp>(row, constant(plan.heads)));
}

Value AttentionEmitter::visible(Value row) {
  if (!op.getCausal())
    return keys;
  Value limit = kernel.add(kernel.sub(keys, positions), kernel.add(positionOf(row), one));
  return clampToZero(kernel.min(limit, keys));
}

Value AttentionEmitter::firstVisible(Value row) {
  if (!op.getWindow())
    return zero;
  Value own = kernel.add(kernel.sub(keys, positions), positionOf(row));
  return clampToZero(kernel.sub(own, constant(*op.getWindow() - 1)));
}

Value AttentionEmitter::finishScore(Value product) {
  if (!op.getSoftCap())
    return product;
  Value cap = vectorConstant(op.getSoftCap()->convertToDouble() * kLog2e);
  return arith::MulFOp::create(kernel, math::TanhOp::create(kernel, product), cap);
}

bool AttentionEmitter::sameForAllRows() {
  auto mask = cast<RankedTensorType>(op.getMask().getType());
  return mask.getDimSize(1) == 1 && mask.getDimSize(2) == 1;
}

Value AttentionEmitter::maskOf(Value row, Value position) {
  auto mask = cast<RankedTensorType>(op.getMask().getType());
  SmallVector<Index> at{uniform(batch), uniform(headOf(row)), uniform(positionOf(row)), Index::lanes(position)};
  for (auto [index, size] : llvm::zip_equal(at, mask.getShape()))
    if (size == 1)
      index = uniform(zero);
  Value value = kernel.splat(kernel.pull(op.getMask(), at)), hidden = vectorConstant(-INFINITY);
  if (mask.getElementType().isInteger(1))
    return arith::SelectOp::create(kernel, value, vectorConstant(0), hidden);
  value = kernel.convert(value, type);
  // The lowest numbers hide all keys alike, -infinity each of them: only those are weights of zero in any case.
  Value isHidden = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, value, hidden);
  value = arith::MulFOp::create(kernel, value, vectorConstant(kLog2e));
  value = arith::MaximumFOp::create(kernel, value, vectorConstant(lowest));
  return arith::SelectOp::create(kernel, isHidden, hidden, value);
}

void AttentionEmitter::storeQuery(Value row, Value buffer, Value bufferRow) {
  SmallVector<Index> at{uniform(batch), uniform(positionOf(row)), uniform(headOf(row)), {}};
  double scale = op.getScale().convertToDouble();
  scale = op.getSoftCap() ? scale / op.getSoftCap()->convertToDouble() : scale * kLog2e;
  kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, [&](Value depth) {
    at[3] = Index::lanes(depth);
    Value query = kernel.splat(kernel.convert(kernel.pull(op.getQuery(), at), type));
    query = arith::MulFOp::create(kernel, query, vectorConstant(scale));
    if (Value mask = std::exchange(kernel.mask, Value()))
      query = arith::SelectOp::create(kernel, mask, query, vectorConstant(0));
    storeVector(query, buffer, bufferRow, depth);
  });
}

SmallVector<Index> AttentionEmitter::partialIndex(Value split, Value row, Index depth) {
  return {uniform(batch), uniform(split), uniform(positionOf(row)), uniform(headOf(row)), depth};
}

void AttentionEmitter::storeResult(Value row, function_ref<Value(Value)> valueAt) {
  SmallVector<Index> at{uniform(batch), uniform(positionOf(row)), uniform(headOf(row)), {}};
  kernel.vectorLoop(zero, constant(plan.depth), plan.lanes, [&](Value depth) {
    kernel.current[op.getResult()] = kernel.convert(valueAt(depth), getElementTypeOrSelf(op.getType()));
    at[3] = Index::lanes(depth);
    kernel.storeOutputs(at);
  });
}

} // namespace mlir::dsc
