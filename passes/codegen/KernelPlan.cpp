//===- KernelPlan.cpp - what phases before codegen ask about a kernel -----===//

#include "passes/codegen/KernelPlan.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "passes/codegen/Kernels.h"

#include "passes/codegen/KernelInterfaces.cpp.inc"

namespace mlir::dsc {

KernelOpInterface findMainOp(Region &region) {
  for (auto op : region.getOps<KernelOpInterface>())
    if (op.isMain())
      return op;
  return {};
}

bool isFlatMap(Region &region) {
  for (Operation &op : region.front().without_terminator()) {
    auto kernelOp = dyn_cast<KernelOpInterface>(op);
    bool shaped = llvm::any_of(op.getResultTypes(), llvm::IsaPred<ShapedType>);
    if (shaped && (!kernelOp || !kernelOp.isPointwise()))
      return false;
  }
  return true;
}

int64_t contiguousDim(Value tensor) {
  if (auto op = tensor.getDefiningOp<KernelOpInterface>())
    return op.getContiguousDim(cast<OpResult>(tensor).getResultNumber());
  return cast<RankedTensorType>(tensor.getType()).getRank() - 1;
}

std::optional<int64_t> transposedDim(Region &region) {
  OperandRange results = region.front().getTerminator()->getOperands();
  if (results.size() != 1 || findMainOp(region))
    return std::nullopt;
  int64_t rank = cast<RankedTensorType>(results[0].getType()).getRank();
  int64_t dim = rank < 2 ? rank - 1 : contiguousDim(results[0]);
  return dim == rank - 1 ? std::nullopt : std::optional(dim);
}

linalg::PackOp wordPack(Region &region) {
  OperandRange results = region.front().getTerminator()->getOperands();
  auto pack = results.size() == 1 ? results[0].getDefiningOp<linalg::PackOp>() : linalg::PackOp();
  if (!pack || findMainOp(region) || pack.getSourceRank() != 2 || pack.getInnerDimsPos().size() != 2)
    return {};
  auto source = cast<RankedTensorType>(pack.getSource().getType());
  int64_t panel = pack.getStaticInnerTiles()[0], group = pack.getStaticInnerTiles()[1];
  int64_t rows = pack.getInnerDimsPos()[0], depth = pack.getInnerDimsPos()[1];
  bool panels = source.hasStaticShape() && panel > 0 && panel % 16 == 0 && contiguousDim(pack.getSource()) == depth &&
                (pack.getOuterDimsPerm().empty() ? 0 : pack.getOuterDimsPerm()[0]) == rows;
  bool words = group > 1 && group * source.getElementTypeBitWidth() == 32 && source.getDimSize(depth) % group == 0;
  return panels && words ? pack : linalg::PackOp();
}

MemRefType bufferType(Type tensorType) {
  auto type = cast<RankedTensorType>(tensorType);
  Type element = type.getElementType();
  if (element.isInteger(1))
    element = IntegerType::get(type.getContext(), 8);
  return MemRefType::get(type.getShape(), element);
}

ScheduleAttr defaultSchedule(Region &region, TargetAttr target, DimsAnalysis &dims) {
  if (KernelOpInterface main = findMainOp(region))
    return main.getDefaultSchedule(target, dims);
  // Enough work per workgroup to be worth a thread: 16 Ki elements, or 16 rows of up to 4 Ki.
  int64_t lanes = target.getVectorBytes() / 4;
  if (target.isGpu()) {
    // Blocks of 256 threads: two vectors for each, or rows of one vector per thread.
    auto flat = [&](int64_t threads, ArrayRef<int64_t> workgroup, ArrayRef<int64_t> tile) {
      return ScheduleAttr::get(region.getContext(),
                               VariantAttr::get(region.getContext(), 0, tile, workgroup, /*unroll=*/1, /*depth=*/0,
                                                /*stage=*/{}, "fma", {256 / threads, threads}));
    };
    if (isFlatMap(region))
      return flat(256, {512 * lanes}, {lanes});
    Dims sizes = dims.get(region.front().getTerminator()->getOperand(0));
    auto columns = sizes.empty() ? AffineConstantExpr() : dyn_cast<AffineConstantExpr>(sizes.back());
    int64_t vectors = columns ? llvm::divideCeil(std::max<int64_t>(1, columns.getValue()), lanes) : 256;
    int64_t threads = std::min<int64_t>(256, llvm::PowerOf2Ceil(vectors));
    return flat(threads, {256 / threads, threads * lanes}, {1, lanes});
  }
  if (isFlatMap(region))
    return singleVariant(region.getContext(), {lanes}, {16384});
  // Square tiles are transposed in registers; a workgroup reads long runs of few rows.
  if (transposedDim(region) || wordPack(region))
    return singleVariant(region.getContext(), {lanes, lanes}, {512, 32});
  return singleVariant(region.getContext(), {1, lanes}, {16, 4096});
}

static LogicalResult verifyVariant(Operation *op, Region &region, VariantAttr variant, TargetAttr target,
                                   DimsAnalysis &dims) {
  VariantAttr expected = defaultSchedule(region, target, dims).getVariants().back();
  if (variant.getTile().size() != expected.getTile().size() ||
      variant.getWorkgroup().size() != expected.getWorkgroup().size())
    return op->emitOpError("schedule needs ")
           << expected.getTile().size() << " tile and " << expected.getWorkgroup().size()
           << " workgroup sizes, got: " << variant.getTile().size() << " and " << variant.getWorkgroup().size();
  KernelOpInterface main = findMainOp(region);
  ArrayRef<int64_t> threads = variant.getThreads();
  // Teams beyond a warp combine values at a barrier of the block, which teams do not reach equally often.
  if (main && variant.getInstruction() == "fma" && threads.size() == 2 && threads[0] > 1 && threads[1] > 32)
    return op->emitOpError("schedule may have several teams of at most 32 threads, or one team, got: ")
           << threads[0] << " of " << threads[1];
  if (variant.getCluster() > 1 && !variant.getInstruction().starts_with("wgmma"))
    return op->emitOpError("schedule has clusters, which need the instruction \"wgmma\", got: ")
           << variant.getCluster() << " blocks";
  for (int64_t operand : variant.getStage())
    if (!main || operand >= main->getNumOperands() || !main.canStage(operand))
      return op->emitOpError("schedule stages operand ") << operand << ", which its loop nest cannot";
  return success();
}

LogicalResult verifySchedule(DispatchOp dispatch, TargetAttr target, DimsAnalysis &dims) {
  ArrayRef<VariantAttr> variants = dispatch.getSchedule()->getVariants();
  for (VariantAttr variant : variants)
    if (failed(verifyVariant(dispatch, dispatch.getBody(), variant, target, dims)))
      return failure();
  KernelOpInterface main = findMainOp(dispatch.getBody());
  if (variants.size() > 1 && (!main || !main.getRows(dims)))
    return dispatch.emitOpError("has no rows to choose a variant by, but its schedule has ")
           << variants.size() << " variants";
  return success();
}

LogicalResult verifyKernel(func::FuncOp kernel, TargetAttr target, DimsAnalysis &dims) {
  auto notTensor = [](Type type) { return !isa<RankedTensorType>(type); };
  if (!llvm::hasSingleElement(kernel.getBody()) || llvm::any_of(kernel.getArgumentTypes(), notTensor) ||
      llvm::any_of(kernel.getResultTypes(), notTensor))
    return kernel.emitOpError("is no kernel: needs one block, and ranked tensors as arguments and results");
  auto variant = kernel->getAttrOfType<VariantAttr>(kScheduleAttr);
  if (!variant)
    return kernel.emitOpError("needs a schedule of one variant");
  if (auto tied = kernel->getAttrOfType<DenseI64ArrayAttr>(kTiedAttr)) {
    bool inRange = tied.size() == kernel.getNumResults() && llvm::all_of(tied.asArrayRef(), [&](int64_t argument) {
                     return argument >= -1 && argument < kernel.getNumArguments();
                   });
    if (!inRange)
      return kernel.emitOpError("ties its ")
             << kernel.getNumResults() << " results to arguments that it lacks: " << tied;
  }
  return verifyVariant(kernel, kernel.getBody(), variant, target, dims);
}

/// Leaves what was decided: the reasons differ between operations that are otherwise the same kernel.
static void dropReason(PrecisionOpInterface op) {
  PrecisionAttr old = op.getPrecisionDecision();
  if (!old)
    return;
  auto decision = PrecisionAttr::get(op.getContext(), old.getLhs(), old.getRhs(), old.getAcc(), old.getResult(),
                                     old.getScales(), old.getStorage(), StringAttr());
  auto nothing = PrecisionAttr::get(op.getContext(), Type(), Type(), Type(), Type(), {}, StringAttr(), StringAttr());
  op.setPrecisionDecision(decision == nothing ? PrecisionAttr() : decision);
}

func::FuncOp kernelOf(DispatchOp dispatch, StringRef name, DimsAnalysis &dims) {
  OpBuilder b(dispatch.getContext());
  auto type = b.getFunctionType(dispatch.getInputs().getTypes(), dispatch.getResultTypes());
  auto kernel = func::FuncOp::create(b, dispatch.getLoc(), name, type);
  kernel.setPrivate();
  kernel->setAttr(kKernelAttr, b.getUnitAttr());
  if (dispatch.getTied())
    kernel->setAttr(kTiedAttr, dispatch.getTiedAttr());
  for (auto [i, input] : llvm::enumerate(dispatch.getInputs()))
    kernel.setArgAttr(i, kDimsAttr, dims.getAttr(input));
  for (auto [i, result] : llvm::enumerate(dispatch.getResults()))
    kernel.setResultAttr(i, kDimsAttr, dims.getAttr(result));
  IRMapping map;
  dispatch.getBody().cloneInto(&kernel.getBody(), map);
  kernel.walk(dropReason);
  Operation *yield = kernel.front().getTerminator();
  b.setInsertionPoint(yield);
  func::ReturnOp::create(b, yield->getLoc(), yield->getOperands());
  yield->erase();
  return kernel;
}

PartialResults partialResults(Region &region, VariantAttr variant, DimsAnalysis &dims) {
  KernelOpInterface main = findMainOp(region);
  return main ? main.getPartialResults(variant, dims) : PartialResults();
}

MemRefType bufferType(const PartialResults &partial) {
  SmallVector<int64_t> shape;
  for (AffineExpr size : partial.sizes) {
    auto constant = dyn_cast<AffineConstantExpr>(size);
    shape.push_back(constant ? constant.getValue() : ShapedType::kDynamic);
  }
  return MemRefType::get(shape, partial.element);
}

AffineExpr workgroupCount(Region &region, VariantAttr variant, DimsAnalysis &dims) {
  if (KernelOpInterface main = findMainOp(region))
    return main.getWorkgroups(variant, dims);
  MLIRContext *context = region.getContext();
  Dims sizes = dims.get(region.front().getTerminator()->getOperand(0));
  if (sizes.empty())
    return getAffineConstantExpr(1, context);
  ArrayRef<int64_t> block = variant.getWorkgroup();
  if (isFlatMap(region))
    return elementCount(sizes, context).ceilDiv(block.back());
  AffineExpr columns = sizes.pop_back_val();
  if (!variant.getThreads().empty())
    return elementCount(sizes, context).ceilDiv(block[0]) * columns.ceilDiv(block[1]);
  if (wordPack(region))
    return sizes[0] * sizes[1].ceilDiv(block[0]) * sizes[2].ceilDiv(llvm::alignTo(block[1], 16));
  if (std::optional<int64_t> dim = transposedDim(region)) {
    AffineExpr run = sizes[*dim];
    sizes.erase(sizes.begin() + *dim);
    return elementCount(sizes, context) * run.ceilDiv(block[0]) * columns.ceilDiv(block[1]);
  }
  return elementCount(sizes, context).ceilDiv(block[0]) * columns.ceilDiv(block[1]);
}

void registerKernelModels(DialectRegistry &registry) {
  registry.addExtension(
      +[](MLIRContext *context, DscDialect *, arith::ArithDialect *, linalg::LinalgDialect *, tensor::TensorDialect *) {
        registerMapModels(context);
        registerDequantizeModel(context);
        registerPackBlocksModel(context);
        registerRowModels(context);
        registerMatmulModel(context);
        registerAttentionModels(context);
        registerOrderModels(context);
      });
}

} // namespace mlir::dsc
