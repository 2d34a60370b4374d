//===- DimsAnalysis.cpp - sizes of every tensor in the module's symbols ---===//

#include "passes/DimsAnalysis.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/DestinationStyleOpInterface.h"
#include "mlir/Interfaces/FunctionInterfaces.h"

namespace mlir::dsc {

DimsAnalysis::DimsAnalysis(ModuleOp module) : context(module.getContext()), module(module) {
  if (auto stored = module->getAttrOfType<ArrayAttr>(kSymbolsAttr))
    for (auto name : stored.getAsRange<StringAttr>())
      names.push_back(name.str());
}

void DimsAnalysis::store(ModuleOp module) const {
  SmallVector<StringRef> refs(names.begin(), names.end());
  module->setAttr(kSymbolsAttr, Builder(context).getStrArrayAttr(refs));
}

AffineExpr DimsAnalysis::symbol(StringRef name, bool create) {
  auto it = llvm::find(names, name);
  if (it == names.end()) {
    if (!create)
      return {};
    names.push_back(name.str());
    return getAffineSymbolExpr(names.size() - 1, context);
  }
  return getAffineSymbolExpr(it - names.begin(), context);
}

SmallVector<Value> DimsAnalysis::materializeSymbols(OpBuilder &b, Location loc) const {
  SmallVector<Value> values;
  for (const std::string &name : names)
    values.push_back(DimOp::create(b, loc, b.getIndexType(), name, nullptr, nullptr, nullptr));
  return values;
}

Value DimsAnalysis::materialize(OpBuilder &b, Location loc, AffineExpr expr) const {
  SmallVector<Value> values(names.size());
  expr.walk([&](AffineExpr e) {
    if (auto s = dyn_cast<AffineSymbolExpr>(e))
      if (!values[s.getPosition()])
        values[s.getPosition()] =
            DimOp::create(b, loc, b.getIndexType(), names[s.getPosition()], nullptr, nullptr, nullptr);
  });
  return expandExpr(b, loc, expr, {}, values);
}

Dims DimsAnalysis::get(Value tensor) {
  auto it = cache.find(tensor);
  if (it != cache.end())
    return it->second;
  Dims dims = compute(tensor);
  auto type = cast<RankedTensorType>(tensor.getType());
  dims.resize(type.getRank());
  for (auto [i, size] : llvm::enumerate(type.getShape())) // the type knows best
    if (!ShapedType::isDynamic(size))
      dims[i] = getAffineConstantExpr(size, context);
  return cache[tensor] = std::move(dims);
}

Dims DimsAnalysis::fromAttr(RankedTensorType type, DimsAttr attr) {
  Dims dims(type.getRank());
  if (!attr || static_cast<int64_t>(attr.getNames().size()) != type.getRank())
    return dims;
  for (auto [dim, name] : llvm::zip_equal(dims, attr.getNames()))
    if (name.getValue() != "_")
      dim = parseExpr(context, name.getValue(), [&](StringRef s) { return symbol(s); });
  return dims;
}

static Value yieldedValue(OpResult result) {
  auto dispatch = cast<DispatchOp>(result.getOwner());
  return dispatch.getBody().front().getTerminator()->getOperand(result.getResultNumber());
}

Dims DimsAnalysis::compute(Value tensor) {
  auto type = cast<RankedTensorType>(tensor.getType());
  Builder b(context);
  auto fromOffsets = [&](ArrayRef<OpFoldResult> sizes) {
    Dims dims;
    for (OpFoldResult size : sizes)
      dims.push_back(isa<Attribute>(size) ? b.getAffineConstantExpr(cast<IntegerAttr>(cast<Attribute>(size)).getInt())
                                          : getIndex(cast<Value>(size)));
    return dims;
  };

  if (auto argument = dyn_cast<BlockArgument>(tensor)) {
    Operation *parent = argument.getOwner()->getParentOp();
    if (auto function = dyn_cast<FunctionOpInterface>(parent))
      return fromAttr(type, function.getArgAttrOfType<DimsAttr>(argument.getArgNumber(), kDimsAttr));
    if (auto dispatch = dyn_cast<DispatchOp>(parent))
      return get(dispatch.getInputs()[argument.getArgNumber()]);
    return Dims(type.getRank());
  }

  auto result = cast<OpResult>(tensor);
  Operation *op = result.getOwner();
  if (auto interface = dyn_cast<DimsOpInterface>(op)) {
    SmallVector<Dims> operands, results;
    for (Value operand : op->getOperands())
      operands.push_back(isa<RankedTensorType>(operand.getType()) ? get(operand) : Dims());
    for (const Dims &dims : operands)
      if (llvm::is_contained(dims, AffineExpr()))
        return Dims(type.getRank());
    interface.inferResultDims(operands, results);
    return results[result.getResultNumber()];
  }
  if (isa<DispatchOp>(op))
    return get(yieldedValue(result));
  if (auto launch = dyn_cast<LaunchOp>(op)) {
    auto kernel = module.lookupSymbol<func::FuncOp>(cast<FlatSymbolRefAttr>(launch.getKernels()[0]).getAttr());
    if (!kernel || result.getResultNumber() >= kernel.getNumResults())
      return Dims(type.getRank());
    return fromAttr(type, kernel.getResultAttrOfType<DimsAttr>(result.getResultNumber(), kDimsAttr));
  }
  if (auto destination = dyn_cast<DestinationStyleOpInterface>(op))
    return get(destination.getTiedOpOperand(result)->get());
  if (auto empty = dyn_cast<tensor::EmptyOp>(op))
    return fromOffsets(empty.getMixedSizes());
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
    Dims all = fromOffsets(slice.getMixedSizes()), dims;
    llvm::SmallBitVector dropped = slice.getDroppedDims();
    for (auto [i, dim] : llvm::enumerate(all))
      if (!dropped.test(i))
        dims.push_back(dim);
    return dims;
  }
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op))
    return fromOffsets(expand.getMixedOutputShape());
  if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    Dims dims;
    Dims source = get(collapse.getSrc());
    for (const ReassociationIndices &group : collapse.getReassociationIndices()) {
      AffineExpr size = b.getAffineConstantExpr(1);
      for (int64_t i : group) // the op's verifier lets negative ones pass
        size = size && i >= 0 && i < static_cast<int64_t>(source.size()) && source[i] ? size * source[i] : AffineExpr();
      dims.push_back(size);
    }
    return dims;
  }
  if (auto concat = dyn_cast<tensor::ConcatOp>(op)) {
    Dims dims = get(concat.getInputs().front());
    for (Value input : concat.getInputs().drop_front()) {
      AffineExpr &size = dims[concat.getDim()], other = get(input)[concat.getDim()];
      size = size && other ? size + other : AffineExpr();
    }
    return dims;
  }
  if (auto castOp = dyn_cast<tensor::CastOp>(op))
    return isa<RankedTensorType>(castOp.getSource().getType()) ? get(castOp.getSource()) : Dims(type.getRank());
  if (op->hasTrait<OpTrait::Elementwise>())
    for (Value operand : op->getOperands())
      if (isa<RankedTensorType>(operand.getType()))
        return get(operand);
  return Dims(type.getRank());
}

AffineExpr DimsAnalysis::getIndex(Value index) {
  APInt constant;
  if (matchPattern(index, m_ConstantInt(&constant)))
    return getAffineConstantExpr(constant.getSExtValue(), context);
  Operation *op = index.getDefiningOp();
  if (!op)
    return {};
  if (auto dim = dyn_cast<DimOp>(op))
    return symbol(dim.getSymbol());
  if (auto dim = dyn_cast<tensor::DimOp>(op)) {
    std::optional<int64_t> position = dim.getConstantIndex();
    auto type = dyn_cast<RankedTensorType>(dim.getSource().getType());
    if (!position || !type || *position < 0 || *position >= type.getRank())
      return {};
    return get(dim.getSource())[*position];
  }
  if (isa<arith::IndexCastOp, arith::IndexCastUIOp>(op))
    return getIndex(op->getOperand(0));
  if (op->getNumOperands() != 2 || op->getNumResults() != 1)
    return {};
  AffineExpr lhs = getIndex(op->getOperand(0)), rhs = getIndex(op->getOperand(1));
  if (!lhs || !rhs)
    return {};
  // Sizes are not negative, so the signed, unsigned and floor divisions agree.
  if (isa<arith::AddIOp>(op))
    return lhs + rhs;
  if (isa<arith::SubIOp>(op))
    return lhs - rhs;
  if (isa<arith::MulIOp>(op))
    return lhs * rhs;
  if (isa<arith::DivSIOp, arith::DivUIOp, arith::FloorDivSIOp>(op))
    return lhs.floorDiv(rhs);
  if (isa<arith::CeilDivSIOp, arith::CeilDivUIOp>(op))
    return lhs.ceilDiv(rhs);
  if (isa<arith::RemSIOp, arith::RemUIOp>(op))
    return lhs % rhs;
  return {};
}

DimsAttr DimsAnalysis::getAttr(Value tensor) {
  return getAttr(get(tensor), cast<RankedTensorType>(tensor.getType()).getShape());
}

DimsAttr DimsAnalysis::getAttr(const Dims &sizes, ArrayRef<int64_t> shape) {
  SmallVector<StringAttr> texts;
  for (auto [dim, size] : llvm::zip_equal(sizes, shape)) {
    if (!dim)
      return {};
    // A dynamic type whose size is known keeps the number as its expression.
    texts.push_back(StringAttr::get(context, ShapedType::isDynamic(size) ? print(dim) : "_"));
  }
  return DimsAttr::get(context, texts);
}

LogicalResult verifySizes(ModuleOp module, DimsAnalysis &dims) {
  auto known = [&](Value value) {
    bool ranked = isa<RankedTensorType>(value.getType());
    return ranked ? !llvm::is_contained(dims.get(value), AffineExpr()) : !isa<TensorType>(value.getType());
  };
  WalkResult walked = module.walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (auto dim = dyn_cast<DimOp>(op); dim && !dims.symbol(dim.getSymbol())) {
      dim.emitOpError("names no dimension of an argument: \"") << dim.getSymbol() << "\"";
      return WalkResult::interrupt();
    }
    SmallVector<Value> values(op->getResults());
    if (auto function = dyn_cast<func::FuncOp>(op); function && !function.isDeclaration())
      llvm::append_range(values, function.getArguments());
    for (Value value : values)
      if (!known(value)) {
        op->emitOpError("has a size that does not follow from the named dimensions: ") << value.getType();
        return WalkResult::interrupt();
      }
    return WalkResult::advance();
  });
  return failure(walked.wasInterrupted());
}

} // namespace mlir::dsc
