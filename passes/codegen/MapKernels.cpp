//===- MapKernels.cpp - operations whose value is known at any index ------===//
//
// linalg.generic without reductions, fills, packing, slices, concatenation,
// constants, and the dsc ops that only move or decode data.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/Matchers.h"
#include "passes/codegen/KernelPlan.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

//===----------------------------------------------------------------------===//
// linalg.generic
//===----------------------------------------------------------------------===//

SmallVector<Value> emitGenericBody(KernelBuilder &kernel, linalg::GenericOp op, ValueRange arguments,
                                   ArrayRef<Index> iteration) {
  IRMapping map;
  Block &body = op.getRegion().front();
  map.map(body.getArguments(), arguments);
  auto lookup = [&](Value v) { return map.contains(v) ? map.lookup(v) : kernel.scalar(v); };
  for (Operation &inner : body.without_terminator()) {
    if (auto index = dyn_cast<linalg::IndexOp>(inner)) {
      map.map(index.getResult(), kernel.indexValue(iteration[index.getDim()]));
      continue;
    }
    if (auto extract = dyn_cast<tensor::ExtractOp>(inner)) {
      SmallVector<Index> indices;
      for (Value i : extract.getIndices()) {
        Value value = lookup(i);
        indices.push_back(kernel.isVector(value) ? Index::vector(value) : Index::uniform(value));
      }
      map.map(extract.getResult(), kernel.pull(extract.getTensor(), indices));
      continue;
    }
    SmallVector<Value> operands = llvm::map_to_vector(inner.getOperands(), lookup);
    map.map(inner.getResult(0), kernel.cloneElementwise(&inner, operands));
  }
  return llvm::map_to_vector(body.getTerminator()->getOperands(), lookup);
}

namespace {

struct GenericModel : KernelOpInterface::ExternalModel<GenericModel, linalg::GenericOp> {
  static linalg::GenericOp get(Operation *op) { return cast<linalg::GenericOp>(op); }

  bool isMain(Operation *op) const { return get(op).getNumReductionLoops() > 0; }

  bool isPointwise(Operation *op) const {
    linalg::GenericOp generic = get(op);
    return !isMain(op) && generic.getBody()->getOps<linalg::IndexOp>().empty() &&
           generic.getBody()->getOps<tensor::ExtractOp>().empty() &&
           llvm::all_of(generic.getIndexingMapsArray(),
                        [](AffineMap map) { return map.isIdentity() || map.getNumResults() == 0; });
  }

  bool readsAtIndex(Operation *op, unsigned operand) const {
    linalg::GenericOp generic = get(op);
    if (isMain(op))
      return false;
    OpOperand *initial = generic.getDpsInitOperand(0);
    return generic.getMatchingIndexingMap(&op->getOpOperand(operand)).isIdentity() &&
           generic.getMatchingIndexingMap(initial).isIdentity();
  }

  bool readsOnce(Operation *op, unsigned operand) const {
    linalg::GenericOp generic = get(op);
    if (operand >= generic.getNumDpsInputs())
      return false;
    // A permutation of the whole iteration space visits every element once.
    return generic.getMatchingIndexingMap(&op->getOpOperand(operand)).isPermutation();
  }

  /// Where all operands of full rank agree on a dimension, that one.
  int64_t getContiguousDim(Operation *op, unsigned result) const {
    linalg::GenericOp generic = get(op);
    int64_t last = cast<RankedTensorType>(op->getResult(result).getType()).getRank() - 1, common = -1;
    for (OpOperand *operand : generic.getDpsInputOperands()) {
      AffineMap map = generic.getMatchingIndexingMap(operand);
      if (map.getNumResults() != generic.getNumLoops())
        continue;
      if (!map.isPermutation() || !generic.getMatchingIndexingMap(generic.getDpsInitOperand(0)).isIdentity())
        return last;
      int64_t dim = map.getNumResults() ? map.getDimPosition(contiguousDim(operand->get())) : last;
      if (common >= 0 && dim != common)
        return last;
      common = dim;
    }
    return common < 0 ? last : common;
  }

  Value pull(Operation *op, KernelBuilder &kernel, unsigned result, ArrayRef<Index> index) const {
    linalg::GenericOp generic = get(op);
    AffineMap out = generic.getIndexingMapMatchingResult(op->getResult(result));
    // A flat kernel has one index for tensors of any rank.
    bool flat = index.size() != out.getNumResults();
    SmallVector<Index> iteration(index);
    if (!flat) {
      iteration.resize(generic.getNumLoops());
      for (auto [expr, i] : llvm::zip_equal(out.getResults(), index))
        if (auto dim = dyn_cast<AffineDimExpr>(expr)) // else a dimension of size 1
          iteration[dim.getPosition()] = i;
    }
    SmallVector<Value> arguments;
    Block &body = generic.getRegion().front();
    for (OpOperand &operand : op->getOpOperands()) {
      if (body.getArgument(operand.getOperandNumber()).use_empty()) {
        arguments.push_back({});
        continue;
      }
      AffineMap map = generic.getMatchingIndexingMap(&operand);
      if (isa<FloatType, IntegerType, IndexType>(operand.get().getType())) {
        arguments.push_back(kernel.scalar(operand.get()));
        continue;
      }
      SmallVector<Index> at;
      if (flat && map.getNumResults() > 0)
        at.assign(index.begin(), index.end());
      else
        for (AffineExpr expr : map.getResults())
          at.push_back(kernel.apply(expr, iteration));
      arguments.push_back(kernel.pull(operand.get(), at));
    }
    return emitGenericBody(kernel, generic, arguments, iteration)[result];
  }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &dims) const {
    return reductionSchedule(get(op), target, dims);
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    return reductionWorkgroups(get(op), variant, dims);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    return emitReduction(get(op), kernel, variant);
  }
};

struct FillModel : KernelOpInterface::ExternalModel<FillModel, linalg::FillOp> {
  bool isPointwise(Operation *) const { return true; }
  bool isInline(Operation *) const { return true; }
  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index>) const {
    return kernel.scalar(cast<linalg::FillOp>(op).getInputs()[0]);
  }
};

struct EmptyModel : KernelOpInterface::ExternalModel<EmptyModel, tensor::EmptyOp> {
  bool isPointwise(Operation *) const { return true; }
  bool isInline(Operation *) const { return true; }
  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index>) const {
    return kernel.zero(getElementTypeOrSelf(op->getResult(0)));
  }
};

struct ConstantModel : KernelOpInterface::ExternalModel<ConstantModel, arith::ConstantOp> {
  bool isPointwise(Operation *op) const {
    auto elements = dyn_cast<SplatElementsAttr>(cast<arith::ConstantOp>(op).getValue());
    return static_cast<bool>(elements);
  }
  bool isInline(Operation *) const { return true; }
  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto elements = cast<DenseElementsAttr>(cast<arith::ConstantOp>(op).getValue());
    if (elements.isSplat())
      return arith::ConstantOp::create(kernel, cast<TypedAttr>(elements.getSplatValue<Attribute>()));
    return kernel.load(constantBuffer(kernel, elements), elements.getElementType(), index);
  }
};

//===----------------------------------------------------------------------===//
// Moving data
//===----------------------------------------------------------------------===//

/// Panels: result[n / t, k, n % t] or result[n / t, k / g, n % t, k % g] from a matrix in either orientation.
struct PackModel : KernelOpInterface::ExternalModel<PackModel, linalg::PackOp> {
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  int64_t getContiguousDim(Operation *op, unsigned) const {
    auto pack = cast<linalg::PackOp>(op);
    int64_t dim = contiguousDim(pack.getSource());
    const auto *tile = llvm::find(pack.getInnerDimsPos(), dim);
    if (tile != pack.getInnerDimsPos().end())
      return pack.getSourceRank() + (tile - pack.getInnerDimsPos().begin());
    ArrayRef<int64_t> outer = pack.getOuterDimsPerm();
    return outer.empty() ? dim : llvm::find(outer, dim) - outer.begin();
  }

  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto pack = cast<linalg::PackOp>(op);
    int64_t rank = pack.getSourceRank();
    // Outer results come in the order of outer_dims_perm; tiles follow.
    SmallVector<Index> at(rank);
    for (int64_t i = 0; i < rank; ++i)
      at[pack.getOuterDimsPerm().empty() ? i : pack.getOuterDimsPerm()[i]] = index[i];
    AffineExpr outer, inner;
    bindDims(kernel.getContext(), outer, inner);
    Value inside;
    for (auto [i, dim] : llvm::enumerate(pack.getInnerDimsPos())) {
      int64_t tile = pack.getStaticInnerTiles()[i];
      at[dim] = kernel.apply(outer * tile + inner, {at[dim], index[rank + i]});
      auto extent = cast<AffineConstantExpr>(kernel.dims.get(pack.getSource())[dim]).getValue();
      if (extent % tile == 0)
        continue;
      // The last panel is padded: clamp the read, then choose.
      Value position = kernel.indexValue(at[dim]), size = kernel.constantIndex(extent - 1);
      if (kernel.isVector(position))
        size = kernel.splat(size);
      Value fits = arith::CmpIOp::create(kernel, arith::CmpIPredicate::sle, position, size);
      if (inside && (kernel.isVector(fits) || kernel.isVector(inside)))
        fits = kernel.splat(fits), inside = kernel.splat(inside);
      inside = inside ? Value(arith::AndIOp::create(kernel, inside, fits)) : fits;
      Value clamped = kernel.min(position, size);
      at[dim] = kernel.isVector(clamped) ? Index::vector(clamped) : Index::uniform(clamped);
    }
    Value value = kernel.pull(pack.getSource(), at);
    if (!inside)
      return value;
    Value padding = kernel.scalar(pack.getPaddingValue());
    if (kernel.isVector(value) || kernel.isVector(inside)) {
      value = kernel.splat(value);
      inside = kernel.splat(inside);
      padding = kernel.splat(padding);
    }
    return arith::SelectOp::create(kernel, inside, value, padding);
  }
};

struct ExtractSliceModel : KernelOpInterface::ExternalModel<ExtractSliceModel, tensor::ExtractSliceOp> {
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto slice = cast<tensor::ExtractSliceOp>(op);
    llvm::SmallBitVector dropped = slice.getDroppedDims();
    auto valueOf = [&](OpFoldResult v) {
      if (auto attr = dyn_cast<Attribute>(v))
        return kernel.constantIndex(cast<IntegerAttr>(attr).getInt());
      return kernel.materialize(kernel.dims.getIndex(cast<Value>(v)));
    };
    SmallVector<Index> at;
    unsigned next = 0;
    AffineExpr i, stride, offset;
    bindDims(kernel.getContext(), i, stride, offset);
    for (auto [dim, start] : llvm::enumerate(slice.getMixedOffsets())) {
      Index begin = Index::uniform(valueOf(start));
      if (dropped.test(dim)) {
        at.push_back(begin);
        continue;
      }
      OpFoldResult step = slice.getMixedStrides()[dim];
      bool unit = isConstantIntValue(step, 1);
      at.push_back(kernel.apply(unit ? i + offset : i * stride + offset,
                                {index[next], unit ? begin : Index::uniform(valueOf(step)), begin}));
      ++next;
    }
    return kernel.pull(slice.getSource(), at);
  }
};

struct ConcatModel : KernelOpInterface::ExternalModel<ConcatModel, tensor::ConcatOp> {
  bool readsOnce(Operation *, unsigned) const { return true; }

  /// Reads every input at an index clamped into it and chooses among them.
  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto concat = cast<tensor::ConcatOp>(op);
    uint64_t dim = concat.getDim();
    Value position = kernel.indexValue(index[dim]), begin = kernel.constantIndex(0), result;
    bool vector = kernel.isVector(position);
    auto shape = [&](Value v) { return vector ? kernel.splat(v) : v; };
    for (Value input : concat.getInputs()) {
      Value length = kernel.size(input, dim);
      Value local = arith::SubIOp::create(kernel, position, shape(begin));
      Value inside = arith::CmpIOp::create(kernel, arith::CmpIPredicate::uge, position, shape(begin));
      Value last = kernel.sub(length, kernel.constantIndex(1));
      Value clamped = arith::MaxSIOp::create(kernel, kernel.min(local, shape(last)), shape(kernel.constantIndex(0)));
      SmallVector<Index> at(index);
      at[dim] = vector ? Index::vector(clamped) : Index::uniform(clamped);
      Value value = pullNonEmpty(kernel, input, at, length);
      if (!result) {
        result = value;
      } else {
        if (kernel.isVector(result) || kernel.isVector(value) || vector) {
          result = kernel.splat(result);
          value = kernel.splat(value);
          inside = kernel.splat(inside);
        }
        result = arith::SelectOp::create(kernel, inside, value, result);
      }
      begin = kernel.add(begin, length);
    }
    return result;
  }

  /// An input of size 0 has no element to read.
  static Value pullNonEmpty(KernelBuilder &kernel, Value input, ArrayRef<Index> at, Value length) {
    APInt constant;
    if (matchPattern(length, m_ConstantInt(&constant)) && constant.isStrictlyPositive())
      return kernel.pull(input, at);
    return guardedPull(kernel, input, at,
                       arith::CmpIOp::create(kernel, arith::CmpIPredicate::sgt, length, kernel.constantIndex(0)));
  }
};

struct RopeModel : KernelOpInterface::ExternalModel<RopeModel, RopeOp> {
  /// Lanes of `value`, one for each of the kernel's.
  static Value arrange(KernelBuilder &kernel, Value value, function_ref<int64_t(int64_t)> from) {
    if (!kernel.isVector(value))
      return kernel.splat(value);
    auto lanes = llvm::map_to_vector(llvm::seq<int64_t>(0, kernel.width), from);
    return vector::ShuffleOp::create(kernel, value, value, lanes);
  }

  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto rope = cast<RopeOp>(op);
    int64_t depth = cast<RankedTensorType>(rope.getType()).getDimSize(3), half = depth / 2;
    AffineExpr i = kernel.getAffineDimExpr(0);
    // `pair` is the angle's number; the partner is the other half of the pair.
    Index pair, partner;
    Value position = kernel.indexValue(index[3]);
    auto whole = [&](int64_t value) {
      Value v = kernel.constantIndex(value);
      return kernel.isVector(position) ? kernel.splat(v) : v;
    };
    Value first; // is this the first of its pair?
    bool aligned = kernel.width > 1 && kernel.isAligned(index[3]) && !kernel.mask;
    bool inside = aligned && rope.getInterleaved() && kernel.width % 2 == 0; // lanes hold whole pairs
    if (rope.getInterleaved()) {
      Value bit = arith::AndIOp::create(kernel, position, whole(1));
      first = arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq, bit, whole(0));
      if (inside) {
        pair = Index::lanes(kernel.floorDiv(index[3].value, 2));
      } else {
        pair = kernel.apply(i.floorDiv(2), {index[3]});
        Value other = arith::XOrIOp::create(kernel, position, whole(1));
        partner = kernel.isVector(other) ? Index::vector(other) : Index::uniform(other);
      }
    } else if (aligned && half % kernel.width == 0) { // none straddles the halves
      Value base = index[3].value;
      first = arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, base, kernel.constantIndex(half));
      Value rest = kernel.createOrFold<arith::RemUIOp>(base, kernel.constantIndex(half));
      pair = Index::lanes(rest);
      Value other = arith::SelectOp::create(kernel, first, kernel.add(base, kernel.constantIndex(half)), rest);
      partner = Index::lanes(other);
    } else {
      first = arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, position, whole(half));
      Value up = arith::AddIOp::create(kernel, position, whole(half));
      Value down = arith::SubIOp::create(kernel, position, whole(half));
      Value other = arith::SelectOp::create(kernel, first, up, down);
      Value angle = arith::SelectOp::create(kernel, first, position, down);
      partner = kernel.isVector(other) ? Index::vector(other) : Index::uniform(other);
      pair = kernel.isVector(angle) ? Index::vector(angle) : Index::uniform(angle);
    }
    Type type = defaultAccumulatorType(getElementTypeOrSelf(rope.getType()));
    auto read = [&](Value tensor, ArrayRef<Index> at) { return kernel.convert(kernel.pull(tensor, at), type); };
    auto angle = [&](Value tensor) {
      if (!inside)
        return read(tensor, {index[0], index[1], pair});
      kernel.width /= 2;
      Value value = kernel.splat(read(tensor, {index[0], index[1], pair}));
      kernel.width *= 2;
      return arrange(kernel, value, [](int64_t lane) { return lane / 2; });
    };
    Value x = read(rope.getInput(), index), y;
    if (inside)
      y = arrange(kernel, kernel.splat(x), [](int64_t lane) { return lane ^ 1; });
    else
      y = read(rope.getInput(), {index[0], index[1], index[2], partner});
    Value cos = angle(rope.getCos()), sin = angle(rope.getSin());
    // first: x cos - y sin; second: x cos + y sin.
    Value turned = arith::MulFOp::create(kernel, y, sin);
    Value negated = arith::NegFOp::create(kernel, turned);
    if (kernel.isVector(turned))
      first = kernel.splat(first);
    Value signedTurn = arith::SelectOp::create(kernel, first, negated, turned);
    Value sum = arith::AddFOp::create(kernel, arith::MulFOp::create(kernel, x, cos), signedTurn);
    return kernel.convert(sum, getElementTypeOrSelf(rope.getType()));
  }
};

struct EmbeddingModel : KernelOpInterface::ExternalModel<EmbeddingModel, EmbeddingOp> {
  /// Rows may repeat, but decoding a row again is cheaper than decoding the table.
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto embedding = cast<EmbeddingOp>(op);
    Value id = kernel.pull(embedding.getIds(), index.drop_back());
    bool vector = kernel.isVector(id);
    Type type = vector ? Type(kernel.vectorType(kernel.getIndexType())) : kernel.getIndexType();
    Value row = arith::IndexCastOp::create(kernel, type, id);
    Value last = kernel.sub(kernel.size(embedding.getTable(), 0), kernel.constantIndex(1));
    Value zero = kernel.constantIndex(0);
    if (vector) {
      last = kernel.splat(last);
      zero = kernel.splat(zero);
    }
    row = arith::MaxSIOp::create(kernel, kernel.min(row, last), zero);
    return kernel.pull(embedding.getTable(), {vector ? Index::vector(row) : Index::uniform(row), index.back()});
  }
};

} // namespace

Value constantBuffer(KernelBuilder &kernel, DenseElementsAttr elements) {
  auto type = cast<RankedTensorType>(elements.getType());
  Type element = type.getElementType();
  if (element.isInteger(1)) { // booleans are bytes in memory
    SmallVector<APInt> bytes;
    for (bool bit : elements.getValues<bool>())
      bytes.push_back(APInt(8, bit));
    type = type.clone(kernel.getI8Type());
    elements = DenseElementsAttr::get(type, bytes);
  }
  auto function = kernel.getInsertionBlock()->getParent()->getParentOfType<func::FuncOp>();
  auto module = function->getParentOfType<ModuleOp>();
  auto memrefType = MemRefType::get(type.getShape(), type.getElementType());
  // Equal constants share one global.
  for (auto global : module.getOps<memref::GlobalOp>())
    if (global.getInitialValue() == Attribute(elements) && global.getType() == memrefType)
      return memref::GetGlobalOp::create(kernel, memrefType, global.getSymName());
  OpBuilder::InsertionGuard guard(kernel);
  unsigned count = llvm::range_size(module.getOps<memref::GlobalOp>());
  OpBuilder top = OpBuilder::atBlockBegin(module.getBody());
  auto global = memref::GlobalOp::create(top, kernel.getLoc(), "constant_" + std::to_string(count),
                                         top.getStringAttr("private"), memrefType, elements,
                                         /*constant=*/true, top.getI64IntegerAttr(64));
  return memref::GetGlobalOp::create(kernel, memrefType, global.getSymName());
}

void registerMapModels(MLIRContext *context) {
  linalg::GenericOp::attachInterface<GenericModel>(*context);
  linalg::FillOp::attachInterface<FillModel>(*context);
  linalg::PackOp::attachInterface<PackModel>(*context);
  tensor::EmptyOp::attachInterface<EmptyModel>(*context);
  tensor::ExtractSliceOp::attachInterface<ExtractSliceModel>(*context);
  tensor::ConcatOp::attachInterface<ConcatModel>(*context);
  arith::ConstantOp::attachInterface<ConstantModel>(*context);
  RopeOp::attachInterface<RopeModel>(*context);
  EmbeddingOp::attachInterface<EmbeddingModel>(*context);
}

} // namespace mlir::dsc
