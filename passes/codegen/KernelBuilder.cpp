//===- KernelBuilder.cpp - loops, indices and memory of kernels -----------===//

#include "passes/codegen/KernelBuilder.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/ScopeExit.h"

namespace mlir::dsc {

//===----------------------------------------------------------------------===//
// Index arithmetic
//===----------------------------------------------------------------------===//

static std::optional<int64_t> constantOf(Value value) {
  APInt constant;
  if (matchPattern(value, m_ConstantInt(&constant)))
    return constant.getSExtValue();
  return std::nullopt;
}

Value KernelBuilder::constantIndex(int64_t value) { return arith::ConstantIndexOp::create(*this, value); }

Value KernelBuilder::add(Value lhs, Value rhs) { return createOrFold<arith::AddIOp>(lhs, rhs); }
Value KernelBuilder::sub(Value lhs, Value rhs) { return createOrFold<arith::SubIOp>(lhs, rhs); }
Value KernelBuilder::mul(Value lhs, Value rhs) { return createOrFold<arith::MulIOp>(lhs, rhs); }
Value KernelBuilder::min(Value lhs, Value rhs) { return createOrFold<arith::MinSIOp>(lhs, rhs); }

Value KernelBuilder::floorDiv(Value lhs, int64_t rhs) {
  return rhs == 1 ? lhs : createOrFold<arith::DivUIOp>(lhs, constantIndex(rhs));
}

SmallVector<Value> KernelBuilder::delinearize(Value linear, ArrayRef<Value> sizes) {
  SmallVector<Value> indices(sizes.size());
  for (size_t i = sizes.size(); i-- > 1;) {
    indices[i] = createOrFold<arith::RemUIOp>(linear, sizes[i]);
    linear = createOrFold<arith::DivUIOp>(linear, sizes[i]);
  }
  if (!sizes.empty())
    indices[0] = linear;
  return indices;
}

//===----------------------------------------------------------------------===//
// Loops
//===----------------------------------------------------------------------===//

SmallVector<Value> KernelBuilder::forLoop(Value begin, Value end, int64_t step, ValueRange initial,
                                          function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  auto loop = scf::ForOp::create(*this, begin, end, constantIndex(step), initial);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(loop.getBody());
  SmallVector<Value> carried = body(loop.getInductionVar(), loop.getRegionIterArgs());
  if (!initial.empty()) {
    setInsertionPointToEnd(loop.getBody());
    scf::YieldOp::create(*this, carried);
  }
  return loop.getResults();
}

void KernelBuilder::forLoop(Value begin, Value end, int64_t step, function_ref<void(Value)> body) {
  forLoop(begin, end, step, {}, [&](Value i, ValueRange) {
    body(i);
    return SmallVector<Value>();
  });
}

void KernelBuilder::ifThen(Value condition, function_ref<void()> body) {
  auto branch = scf::IfOp::create(*this, condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(branch.thenBlock());
  body();
}

SmallVector<Value> KernelBuilder::vectorLoop(Value begin, Value end, int64_t lanes, ValueRange initial,
                                             function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  if (team.shares())
    return sharedLoop(begin, end, lanes, initial, body);
  int64_t outerWidth = width;
  Value outerMask = mask;
  auto restore = llvm::make_scope_exit([&] {
    width = outerWidth;
    mask = outerMask;
  });
  width = lanes;
  mask = {};
  std::optional<int64_t> first = constantOf(begin), last = constantOf(end);
  bool whole = first && last && (*last - *first) % lanes == 0;
  Value length = sub(end, begin);
  Value covered = whole ? length : sub(length, createOrFold<arith::RemUIOp>(length, constantIndex(lanes)));
  Value full = add(begin, covered);
  SmallVector<Value> carried = forLoop(begin, full, lanes, initial, body);
  if (whole)
    return carried;

  Value rest = arith::CmpIOp::create(*this, arith::CmpIPredicate::slt, full, end);
  auto branch = scf::IfOp::create(*this, ValueRange(initial).getTypes(), rest,
                                  /*withElseRegion=*/!initial.empty());
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(branch.thenBlock());
  mask = vector::CreateMaskOp::create(*this, VectorType::get({lanes}, getI1Type()), ValueRange{sub(end, full)});
  SmallVector<Value> masked = body(full, carried);
  if (initial.empty())
    return {};
  setInsertionPointToEnd(branch.thenBlock());
  scf::YieldOp::create(*this, masked);
  setInsertionPointToEnd(branch.elseBlock());
  scf::YieldOp::create(*this, carried);
  return branch.getResults();
}

void KernelBuilder::vectorLoop(Value begin, Value end, int64_t lanes, function_ref<void(Value)> body) {
  vectorLoop(begin, end, lanes, {}, [&](Value i, ValueRange) {
    body(i);
    return SmallVector<Value>();
  });
}

//===----------------------------------------------------------------------===//
// Values
//===----------------------------------------------------------------------===//

int64_t KernelBuilder::lanesOf(Type elementType) const {
  int64_t bits = elementType.isIndex() ? 64 : std::max(8u, elementType.getIntOrFloatBitWidth());
  return std::max<int64_t>(1, vectorBytes * 8 / bits);
}

int64_t KernelBuilder::kernelLanes(Region &region) const {
  int64_t lanes = vectorBytes;
  region.walk([&](Operation *op) {
    for (Type type : op->getResultTypes())
      if (auto shaped = dyn_cast<ShapedType>(type))
        lanes = std::min(lanes, lanesOf(shaped.getElementType()));
    for (Type type : op->getOperandTypes())
      if (auto shaped = dyn_cast<ShapedType>(type))
        lanes = std::min(lanes, lanesOf(shaped.getElementType()));
  });
  return lanes;
}

Value KernelBuilder::splat(Value value) {
  if (isVector(value) || width == 1)
    return value;
  return vector::BroadcastOp::create(*this, vectorType(value.getType()), value);
}

Value KernelBuilder::zero(Type elementType) { return arith::ConstantOp::create(*this, getZeroAttr(elementType)); }

Value KernelBuilder::constant(Type elementType, double value) {
  if (isa<FloatType>(elementType))
    return arith::ConstantOp::create(*this, getFloatAttr(elementType, value));
  return arith::ConstantOp::create(*this, getIntegerAttr(elementType, static_cast<int64_t>(value)));
}

Value KernelBuilder::convert(Value value, Type elementType) {
  Type from = getElementTypeOrSelf(value);
  if (from == elementType)
    return value;
  Type to = elementType;
  if (auto vector = dyn_cast<VectorType>(value.getType()))
    to = vector.clone(elementType);
  bool fromFloat = isa<FloatType>(from), toFloat = isa<FloatType>(elementType);
  unsigned fromBits = from.getIntOrFloatBitWidth(), toBits = elementType.getIntOrFloatBitWidth();
  if (fromFloat && toFloat) {
    if (fromBits == toBits) // f16 <-> bf16 through f32, which holds both
      return convert(convert(value, getF32Type()), elementType);
    return fromBits < toBits ? Value(arith::ExtFOp::create(*this, to, value))
                             : Value(arith::TruncFOp::create(*this, to, value));
  }
  if (fromFloat)
    return arith::FPToSIOp::create(*this, to, value);
  if (toFloat)
    return arith::SIToFPOp::create(*this, to, value);
  return fromBits < toBits ? Value(arith::ExtSIOp::create(*this, to, value))
                           : Value(arith::TruncIOp::create(*this, to, value));
}

Value KernelBuilder::scalar(Value value) {
  if (value.getType().isIndex())
    if (AffineExpr expr = dims.getIndex(value))
      return materialize(expr);
  IRMapping map;
  Operation *op = value.getDefiningOp();
  for (Value operand : op->getOperands())
    map.map(operand, scalar(operand));
  return clone(*op, map)->getResult(cast<OpResult>(value).getResultNumber());
}

Value KernelBuilder::cloneElementwise(Operation *op, ValueRange operands) {
  bool anyVector = llvm::any_of(operands, [&](Value v) { return isVector(v); });
  SmallVector<Value> values(operands);
  SmallVector<Type> types(op->getResultTypes());
  if (anyVector) {
    for (Value &value : values)
      value = splat(value);
    for (Type &type : types)
      type = vectorType(type);
  }
  OperationState state(getLoc(), op->getName(), values, types, op->getAttrs());
  return create(state)->getResult(0);
}

Value KernelBuilder::reduce(vector::CombiningKind kind, Value value) {
  Value one = isVector(value) ? Value(vector::ReductionOp::create(*this, kind, value)) : value;
  return team.shares() ? reduceTeam(*this, kind, one) : one;
}

//===----------------------------------------------------------------------===//
// Memory
//===----------------------------------------------------------------------===//

Value KernelBuilder::allocate(MemRefType type) {
  OpBuilder::InsertionGuard guard(*this);
  setInsertionPointToStart(&getInsertionBlock()->getParent()->getParentOfType<func::FuncOp>().front());
  return memref::AllocaOp::create(*this, type, getI64IntegerAttr(64));
}

Value KernelBuilder::pull(Value tensor, ArrayRef<Index> index) {
  if (Value value = current.lookup(tensor))
    return value;
  Type elementType = cast<RankedTensorType>(tensor.getType()).getElementType();
  if (Value buffer = buffers.lookup(tensor))
    return load(buffer, elementType, index);
  return cast<KernelOpInterface>(tensor.getDefiningOp()).pull(*this, cast<OpResult>(tensor).getResultNumber(), index);
}

/// Position of `index` in the buffer seen as one row, and that row.
Value KernelBuilder::linearize(Value buffer, ArrayRef<Index> index, Value &flat) {
  auto type = cast<MemRefType>(buffer.getType());
  SmallVector<ReassociationIndices> all(1);
  for (int64_t i = 0; i < type.getRank(); ++i)
    all[0].push_back(i);
  flat = type.getRank() == 1 ? buffer : Value(memref::CollapseShapeOp::create(*this, buffer, all));
  Value linear = indexValue(index[0]);
  for (size_t i = 1; i < index.size(); ++i) {
    Value size =
        type.isDynamicDim(i) ? Value(memref::DimOp::create(*this, buffer, i)) : constantIndex(type.getDimSize(i));
    Value next = indexValue(index[i]);
    bool vector = isVector(linear) || isVector(next);
    if (vector) {
      linear = splat(linear);
      next = splat(next);
      size = splat(size);
    }
    linear = add(mul(linear, size), next);
  }
  return linear;
}

static bool isContiguous(ArrayRef<Index> index) {
  return !index.empty() && index.back().kind == Index::Lanes &&
         llvm::all_of(index.drop_back(), [](const Index &i) { return i.kind == Index::Uniform; });
}

static SmallVector<Value> bases(ArrayRef<Index> index) {
  return llvm::map_to_vector(index, [](const Index &i) { return i.value; });
}

Value KernelBuilder::load(Value buffer, Type elementType, ArrayRef<Index> index) {
  Type stored = cast<MemRefType>(buffer.getType()).getElementType();
  Value value;
  if (width == 1 || llvm::all_of(index, [](const Index &i) { return i.kind == Index::Uniform; })) {
    value = memref::LoadOp::create(*this, buffer, bases(index));
  } else if (isContiguous(index)) {
    if (mask)
      value = vector::MaskedLoadOp::create(*this, vectorType(stored), buffer, bases(index), mask, splat(zero(stored)));
    else
      value = vector::LoadOp::create(*this, vectorType(stored), buffer, bases(index), /*nontemporal=*/false,
                                     alignmentAt(buffer, index));
  } else {
    Value flat, lanes = mask, position = linearize(buffer, index, flat);
    if (!lanes)
      lanes = splat(arith::ConstantOp::create(*this, getBoolAttr(true)));
    value = vector::GatherOp::create(*this, vectorType(stored), flat, ValueRange{constantIndex(0)}, position, lanes,
                                     splat(zero(stored)));
  }
  if (stored == elementType)
    return value;
  // Booleans are bytes in memory.
  Value none = zero(stored);
  if (isVector(value))
    none = splat(none);
  return arith::CmpIOp::create(*this, arith::CmpIPredicate::ne, value, none);
}

void KernelBuilder::store(Value value, Value buffer, ArrayRef<Index> index) {
  Type stored = cast<MemRefType>(buffer.getType()).getElementType();
  if (getElementTypeOrSelf(value) != stored) {
    Type type = isVector(value) ? Type(vectorType(stored)) : stored;
    value = arith::ExtUIOp::create(*this, type, value);
  }
  bool uniform = llvm::all_of(index, [](const Index &i) { return i.kind == Index::Uniform; });
  if (uniform || width == 1) {
    auto write = [&] { memref::StoreOp::create(*this, value, buffer, bases(index)); };
    if (!uniform || !team.shares())
      return write();
    return ifThen(arith::CmpIOp::create(*this, arith::CmpIPredicate::eq, team.thread, constantIndex(0)), write);
  }
  value = splat(value);
  if (isContiguous(index)) {
    if (mask)
      vector::MaskedStoreOp::create(*this, buffer, bases(index), mask, value);
    else
      vector::StoreOp::create(*this, value, buffer, bases(index), /*nontemporal=*/false, alignmentAt(buffer, index));
    return;
  }
  Value flat, lanes = mask, position = linearize(buffer, index, flat);
  if (!lanes)
    lanes = splat(arith::ConstantOp::create(*this, getBoolAttr(true)));
  vector::ScatterOp::create(*this, Type(), flat, ValueRange{constantIndex(0)}, position, lanes, value);
}

static void prefetchAt(KernelBuilder &b, Value buffer, ArrayRef<Index> index, bool isWrite) {
  if (!isContiguous(index))
    return;
  // Where rows begin at any address, a vector's last element lies in the line that its neighbour has not brought.
  SmallVector<Value> at = bases(index);
  at.back() = b.add(at.back(), b.constantIndex(b.width - 1));
  memref::PrefetchOp::create(b, buffer, at, isWrite, /*localityHint=*/3, /*isDataCache=*/true);
}

void KernelBuilder::prefetchOutputs(ArrayRef<Index> index) {
  SmallVector<Value> tensors;
  for (auto [tensor, buffer] : outputs) {
    prefetchAt(*this, buffer, index, /*isWrite=*/true);
    tensors.push_back(tensor);
  }
  // What is read there too, by those that consume the main operation's result.
  DenseSet<Value> seen(tensors.begin(), tensors.end());
  while (!tensors.empty()) {
    Value tensor = tensors.pop_back_val();
    prefetch(tensor, index);
    auto op = tensor.getDefiningOp<KernelOpInterface>();
    if (!op || op.isMain())
      continue;
    for (auto [number, operand] : llvm::enumerate(op->getOperands()))
      if (isa<RankedTensorType>(operand.getType()) && op.readsAtIndex(number) && seen.insert(operand).second)
        tensors.push_back(operand);
  }
}

void KernelBuilder::prefetch(Value tensor, ArrayRef<Index> index) {
  if (Value buffer = buffers.lookup(tensor))
    prefetchAt(*this, buffer, index, /*isWrite=*/false);
}

SmallVector<Value> KernelBuilder::pullOutputs(ArrayRef<Index> index) {
  SmallVector<Value> values;
  for (auto [tensor, buffer] : outputs)
    values.push_back(pull(tensor, index));
  current.clear();
  return values;
}

void KernelBuilder::storeOutputs(ArrayRef<Index> index) {
  SmallVector<Value> values = pullOutputs(index);
  for (auto [value, output] : llvm::zip_equal(values, outputs))
    store(value, output.second, index);
}

} // namespace mlir::dsc
