//===- LegalizePrecision.cpp - make what precisions ask for explicit -------===//
//
// Storage decides the type of an argument; the value that it stands for stays
// what it was, f32 as a rule, so nothing but the argument's first readers
// changes. Activations of 8 bits are rounded by ordinary operations in front
// of the operation that asked for it.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"
#include "passes/Rounding.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_LEGALIZEPRECISIONPASS
#include "passes/Passes.h.inc"

namespace {

/// What an operation that only says otherwise what a stored tensor holds reads, or null: the blocks of a weight, the
/// operand of a cast.
Value storageBehind(Operation *op) {
  if (auto dequantize = dyn_cast_or_null<DequantizeOp>(op))
    return dequantize.getBlocks();
  auto generic = dyn_cast_or_null<linalg::GenericOp>(op);
  if (!generic || generic.getNumDpsInputs() != 1 || generic.getNumResults() != 1 ||
      generic.getNumReductionLoops() != 0 ||
      !llvm::all_of(generic.getIndexingMapsArray(), [](AffineMap map) { return map.isIdentity(); }))
    return {};
  bool casts = llvm::all_of(generic.getBody()->without_terminator(),
                            [](Operation &op) { return isa<arith::ExtFOp, arith::TruncFOp>(op); });
  return casts ? generic.getDpsInputOperand(0)->get() : Value();
}

/// The argument that `value` shows, through views of its storage; null if there is none.
BlockArgument argumentBehind(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    value = storageBehind(op);
    if (!value)
      return {};
  }
  return cast<BlockArgument>(value);
}

/// Uses of an argument by operations that compute, through views of its storage, which are collected.
void collectReaders(Value value, SmallVectorImpl<OpOperand *> &readers, SmallVectorImpl<Operation *> &views) {
  for (OpOperand &use : value.getUses()) {
    Operation *user = use.getOwner();
    if (storageBehind(user) == value && user->getNumResults() == 1) {
      collectReaders(user->getResult(0), readers, views);
      views.push_back(user);
    } else {
      readers.push_back(&use);
    }
  }
}

struct Storage {
  StringAttr format;
  SmallVector<PrecisionOpInterface> ops;
};

struct LegalizePrecisionPass : impl::LegalizePrecisionPassBase<LegalizePrecisionPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    DimsAnalysis dims(module);
    for (auto function : module.getOps<func::FuncOp>()) {
      if (function.isDeclaration())
        continue;
      llvm::MapVector<BlockArgument, Storage> storages;
      SmallVector<PrecisionOpInterface> roundedOps;
      bool failedOnce = false;
      function.walk([&](PrecisionOpInterface op) {
        PrecisionAttr precision = op.getPrecisionDecision();
        if (precision && precision.getStorage())
          failedOnce |= failed(collect(op, storages));
        if (precision && !precision.getScales().empty())
          roundedOps.push_back(op);
      });
      if (failedOnce)
        return signalPassFailure();
      for (PrecisionOpInterface op : roundedOps)
        if (failed(roundActivation(op, dims)))
          return signalPassFailure();
      for (auto &[argument, storage] : storages)
        if (failed(retype(function, argument, storage, dims)))
          return signalPassFailure();
      if (!storages.empty())
        function.setType(FunctionType::get(&getContext(), function.front().getArgumentTypes(),
                                           function.front().getTerminator()->getOperandTypes()));
    }
  }

  LogicalResult collect(PrecisionOpInterface op, llvm::MapVector<BlockArgument, Storage> &storages) {
    StringAttr format = op.getPrecisionDecision().getStorage();
    OpOperand *stored = op.getStoredOperand();
    BlockArgument argument = stored ? argumentBehind(stored->get()) : BlockArgument();
    if (!argument)
      return op->emitOpError("has a storage, ") << format << ", but reads no argument that could be stored so";
    if (!plainStorage(format.getValue(), &getContext()) && !findBlockFormat(format.getValue()))
      return op->emitOpError("has an unknown storage: ") << format;
    Storage &storage = storages[argument];
    if (storage.format && storage.format != format) {
      InFlightDiagnostic error = op->emitOpError("wants the storage ") << format << " of an argument that another "
                                                                       << "operation wants as " << storage.format;
      error.attachNote(storage.ops.front()->getLoc()) << "the other operation";
      return error;
    }
    storage.format = format;
    storage.ops.push_back(op);
    return success();
  }

  LogicalResult retype(func::FuncOp function, BlockArgument argument, Storage &storage, DimsAnalysis &dims) {
    Value value = storage.ops.front().getStoredOperand()->get();
    auto valueType = cast<RankedTensorType>(value.getType());
    Type plain = plainStorage(storage.format.getValue(), &getContext());
    SmallVector<OpOperand *> readers;
    SmallVector<Operation *> views;
    collectReaders(argument, readers, views);
    if (function.getArgAttr(argument.getArgNumber(), kWeightAttr))
      return retypeWeight(argument, storage, plain, valueType, readers, views);
    return retypeCache(argument, storage, plain, readers, dims);
  }

  LogicalResult retypeWeight(BlockArgument argument, Storage &storage, Type plain, RankedTensorType valueType,
                             ArrayRef<OpOperand *> readers, ArrayRef<Operation *> views) {
    OpBuilder b(&getContext());
    b.setInsertionPointToStart(argument.getOwner());
    Location loc = argument.getLoc();
    auto wide = cast<RankedTensorType>(valueType.clone(b.getF32Type()));
    RankedTensorType stored;
    if (plain) {
      stored = cast<RankedTensorType>(valueType.clone(plain));
    } else {
      std::optional<BlockFormat> format = findBlockFormat(storage.format.getValue());
      if (valueType.getRank() != 2 || !valueType.hasStaticShape() || valueType.getDimSize(1) % format->block)
        return storage.ops.front()->emitOpError("reads ")
               << valueType << ", whose rows are not whole blocks of " << format->block << ", as " << storage.format;
      stored = RankedTensorType::get({valueType.getDimSize(0), valueType.getDimSize(1) / format->block * format->bytes},
                                     b.getI8Type());
    }
    DenseMap<Type, Value> shown; // the argument's values by element type
    DenseMap<OpOperand *, Type> wanted;
    for (OpOperand *reader : readers) {
      auto op = dyn_cast<PrecisionOpInterface>(reader->getOwner());
      Type element = getElementTypeOrSelf(reader->get());
      // Who widens what it reads takes it as it lies in memory, or decoded.
      bool widens = op && op.getStoredOperand() == reader && op.widensStoredOperand() &&
                    getElementTypeOrSelf(op->getOperand(0)).isF32();
      wanted[reader] = !widens ? element : plain ? plain : Type(b.getF32Type());
    }
    argument.setType(stored);
    Value decoded = plain ? Value(argument)
                          : Value(DequantizeOp::create(b, loc, wide, argument, /*scales=*/Value(), storage.format,
                                                       IntegerAttr(), UnitAttr()));
    auto as = [&](Type element) {
      Value &value = shown[element];
      if (!value)
        value = castTensor(b, loc, decoded, element, /*dims=*/nullptr);
      return value;
    };
    for (OpOperand *reader : readers)
      reader->set(as(wanted[reader]));
    for (Operation *view : views) // readers' before what they read
      view->erase();
    ++retyped;
    return success();
  }

  /// A cache: what is written into it is kept within its range, so that rounding is never infinite.
  LogicalResult retypeCache(BlockArgument argument, Storage &storage, Type plain, ArrayRef<OpOperand *> readers,
                            DimsAnalysis &dims) {
    PrecisionOpInterface first = storage.ops.front();
    auto append = dyn_cast<KvAppendOp>(first.getOperation());
    if (!plain || !append || readers.size() != 1 || storage.ops.size() != 1)
      return first->emitOpError("has the storage ") << storage.format << ", but the argument is neither a weight nor a "
                                                    << "cache of f32, f16 or bf16";
    OpBuilder b(append);
    Type element = getElementTypeOrSelf(argument.getType());
    if (plain == element)
      return success();
    for (OpOperand *operand : {&append.getKeyMutable(), &append.getValueMutable()})
      operand->set(castTensor(b, operand->get().getLoc(), operand->get(), plain, &dims,
                              /*saturate=*/plain.getIntOrFloatBitWidth() < element.getIntOrFloatBitWidth()));
    auto type = cast<RankedTensorType>(cast<RankedTensorType>(argument.getType()).clone(plain));
    argument.setType(type);
    append.getResult().setType(type);
    ++retyped;
    return success();
  }

  LogicalResult roundActivation(PrecisionOpInterface op, DimsAnalysis &dims) {
    PrecisionAttr precision = op.getPrecisionDecision();
    auto type = dyn_cast<RankedTensorType>(op->getOperand(0).getType());
    ArrayRef<int64_t> scales = precision.getScales();
    if (!type || !precision.getLhs() || scales.size() != 2 || scales[0] != 1 || scales[1] < 1 || !type.getRank() ||
        ShapedType::isDynamic(type.getShape().back()) || !type.getElementType().isF32())
      return op->emitOpError("has scales ") << precision << ", which need an f32 operand of rows with a known length "
                                            << "and blocks [1, n]";
    OpBuilder b(op);
    op->setOperand(0, roundInBlocks(b, op->getLoc(), op->getOperand(0), precision.getLhs(), scales[1], dims));
    // What is left of the decision is how its product is computed.
    op.setPrecisionDecision(PrecisionAttr::get(&getContext(), Type(), precision.getRhs(), precision.getAcc(),
                                               precision.getResult(), {}, precision.getStorage(),
                                               precision.getReason()));
    ++rounded;
    return success();
  }
};

} // namespace
} // namespace mlir::dsc
