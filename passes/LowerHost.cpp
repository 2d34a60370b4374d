//===- LowerHost.cpp - buffers, arena and launches of the host program ----===//
//
// One walk over the launches: results get buffers, every buffer of the arena
// gives its place back after its last use, and places of equal symbolic size
// are reused.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/Launches.h"
#include "passes/Manifest.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_LOWERHOSTPASS
#include "passes/Passes.h.inc"

namespace {

constexpr int64_t kAlignment = 64; // bytes: a cache line and a vector register

/// Places in the arena, all sizes symbolic.
class Arena {
public:
  struct Place {
    AffineExpr bytes;
    bool free;
  };

  unsigned take(AffineExpr bytes) {
    auto constant = dyn_cast<AffineConstantExpr>(bytes);
    for (auto [i, place] : llvm::enumerate(places)) {
      auto size = dyn_cast<AffineConstantExpr>(place.bytes);
      bool fits = place.bytes == bytes || (constant && size && size.getValue() >= constant.getValue());
      if (place.free && fits) {
        place.free = false;
        return i;
      }
    }
    places.push_back({bytes, false});
    return places.size() - 1;
  }
  void give(unsigned place) { places[place].free = true; }

  /// Start of every place, and the total behind the last.
  SmallVector<AffineExpr> offsets(MLIRContext *context) const {
    SmallVector<AffineExpr> starts{getAffineConstantExpr(0, context)};
    for (const Place &place : places)
      starts.push_back(starts.back() + place.bytes.ceilDiv(kAlignment) * kAlignment);
    return starts;
  }
  size_t size() const { return places.size(); }

private:
  SmallVector<Place> places;
};

class HostLowering {
public:
  HostLowering(func::FuncOp source, DimsAnalysis &dims, int64_t &nextDispatch)
      : source(source), dims(dims), context(source.getContext()), nextDispatch(nextDispatch) {}

  LogicalResult run() {
    if (failed(planResults()) || failed(planArena()))
      return failure();
    emit();
    return success();
  }

  size_t placeCount() const { return arena.size(); }

private:
  /// Returned values live in the caller's buffers.
  LogicalResult planResults() {
    auto terminator = cast<func::ReturnOp>(source.front().getTerminator());
    for (OpOperand &operand : terminator->getOpOperands()) {
      unsigned index = operand.getOperandNumber();
      Value root = bufferRoot(operand.get());
      if (auto tied = source.getResultAttrOfType<IntegerAttr>(index, kTiedAttr)) {
        if (root != source.getArgument(tied.getInt()))
          return terminator.emitOpError("result ") << index << " is not the buffer of the argument that it is tied to";
        continue;
      }
      if (!isa_and_nonnull<LaunchOp>(root.getDefiningOp()) || resultOf.contains(root))
        return terminator.emitOpError("result ") << index << " is not made by a launch of its own";
      resultOf[root] = index;
    }
    return success();
  }

  /// Whether the launch fits its kernels, which a file may say otherwise.
  LogicalResult verifyKernels(LaunchOp launch) {
    auto module = source->getParentOfType<ModuleOp>();
    for (auto name : launch.getKernels().getAsRange<FlatSymbolRefAttr>()) {
      auto kernel = module.lookupSymbol<func::FuncOp>(name.getAttr());
      if (!kernel || TypeRange(kernel.getArgumentTypes()) != TypeRange(launch.getBuffers()) ||
          TypeRange(kernel.getResultTypes()) != TypeRange(launch.getResultTypes()))
        return launch.emitOpError("has other types than its kernel ") << name;
      if (failed(verifyKernel(kernel, module->getAttrOfType<TargetAttr>(kTargetAttr), dims)))
        return failure();
      auto variant = kernel->getAttrOfType<VariantAttr>(kScheduleAttr);
      if (partialResults(kernel.getBody(), variant, dims).element) {
        auto second = kernel->getAttrOfType<FlatSymbolRefAttr>(kMergeAttr);
        auto merge = second ? module.lookupSymbol<func::FuncOp>(second.getAttr()) : func::FuncOp();
        if (!merge || merge.getFunctionType() != kernel.getFunctionType() ||
            !merge->getAttrOfType<UnitAttr>(kMergeAttr) || merge->getAttr(kScheduleAttr) != variant)
          return launch.emitOpError("has a kernel with partial results, but none that merges them: ") << name;
      }
      KernelOpInterface main = findMainOp(kernel.getBody());
      if (launch.getKernels().size() > 1 && (!main || !main.getRows(dims)))
        return launch.emitOpError("has no rows to choose a variant by, but several kernels");
    }
    return success();
  }

  LogicalResult planArena() {
    DenseMap<Value, Operation *> lastUse;
    for (Operation &op : source.front())
      for (Value operand : op.getOperands())
        if (isa<ShapedType>(operand.getType()))
          lastUse[bufferRoot(operand)] = &op;
    LaunchBatch batch;
    LaunchOp last;
    for (Operation &op : source.front().without_terminator()) {
      auto launch = dyn_cast<LaunchOp>(op);
      if (!launch) {
        bool known = isPure(&op) || isa<DimOp>(op);
        if (!known)
          return op.emitOpError("has no place in a host program");
        continue;
      }
      if (failed(verifyKernels(launch)))
        return failure();
      if (!last || !last.getConcurrent())
        batch.clear();
      else if (!batch.isIndependent(launch))
        return launch.emitOpError("depends on a concurrent launch before it");
      batch.add(launch);
      last = launch;
      for (Value result : launch.getResults()) {
        if (bufferRoot(result) != result || resultOf.contains(result))
          continue;
        MemRefType type = bufferType(result.getType());
        int64_t width = llvm::divideCeil(type.getElementTypeBitWidth(), 8);
        places[result] = arena.take(elementCount(dims.get(result), context) * width);
      }
      planPartialResults(launch);
      for (auto [value, user] : lastUse)
        if (user == &op && places.contains(value))
          dying.push_back(value);
      for (Value result : launch.getResults()) // never read: free at once
        if (places.contains(result) && !lastUse.contains(result))
          dying.push_back(result);
      if (launch.getConcurrent()) // the next one must not get their places
        continue;
      // In the order of places, so that the plan does not depend on addresses.
      llvm::sort(dying, [&](Value a, Value b) { return places[a] < places[b]; });
      for (Value value : dying)
        arena.give(places[value]);
      dying.clear();
    }
    if (last && last.getConcurrent())
      return last.emitOpError("is concurrent, but no launch follows");
    return success();
  }

  /// Only one variant runs, so that they may share a place.
  void planPartialResults(LaunchOp launch) {
    for (auto name : launch.getKernels().getAsRange<FlatSymbolRefAttr>()) {
      auto kernel = source->getParentOfType<ModuleOp>().lookupSymbol<func::FuncOp>(name.getAttr());
      PartialResults partial =
          partialResults(kernel.getBody(), kernel->getAttrOfType<VariantAttr>(kScheduleAttr), dims);
      unsigned &place = partialPlaces[launch].emplace_back();
      if (!partial.element)
        continue;
      int64_t width = llvm::divideCeil(partial.element.getIntOrFloatBitWidth(), 8);
      place = arena.take(elementCount(partial.sizes, context) * width);
      arena.give(place);
    }
  }

  Value index(int64_t value) { return arith::ConstantIndexOp::create(*b, loc, value); }
  Value size(AffineExpr expr) { return expandExpr(*b, loc, expr, {}, symbols); }

  SmallVector<Value> dynamicSizes(Value tensor) {
    SmallVector<Value> sizes;
    auto type = cast<RankedTensorType>(tensor.getType());
    for (auto [i, dim] : llvm::enumerate(dims.get(tensor)))
      if (type.isDynamicDim(i))
        sizes.push_back(size(dim));
    return sizes;
  }

  /// The buffer of a tensor, with the tensor's shape.
  Value bufferOf(Value tensor) {
    if (Value known = buffers.lookup(tensor))
      return known;
    Value root = bufferRoot(tensor);
    Value rootBuffer = buffers.lookup(root);
    MemRefType type = bufferType(tensor.getType());
    if (rootBuffer.getType() == type && dims.get(tensor) == dims.get(root))
      return buffers[tensor] = rootBuffer;
    return buffers[tensor] = reshaped(rootBuffer, tensor, type);
  }

  void emit() {
    loc = source.getLoc();
    OpBuilder outer(source);
    SmallVector<Type> types;
    for (Type type : source.getArgumentTypes())
      types.push_back(bufferType(type));
    SmallVector<unsigned> ownResults;
    for (auto [i, type] : llvm::enumerate(source.getResultTypes()))
      if (!source.getResultAttr(i, kTiedAttr)) {
        types.push_back(bufferType(type));
        ownResults.push_back(i);
      }
    auto program =
        func::FuncOp::create(outer, loc, source.getName(), outer.getFunctionType(types, {outer.getI32Type()}));
    Block *entry = program.addEntryBlock();
    outer.setInsertionPointToStart(entry);
    b = &outer;
    symbols = dims.materializeSymbols(*b, loc);
    DenseMap<unsigned, Value> resultBuffers;
    for (auto [i, argument] : llvm::enumerate(source.getArguments())) {
      buffers[argument] = entry->getArgument(i);
      program.setArgAttrs(i, source.getArgAttrDict(i));
    }
    for (auto [position, result] : llvm::enumerate(ownResults)) {
      unsigned number = source.getNumArguments() + position;
      resultBuffers[result] = entry->getArgument(number);
      Value value = source.front().getTerminator()->getOperand(result);
      program.setArgAttr(number, kDimsAttr, dims.getAttr(value));
    }

    // A program without scratch memory has no arena to run out of.
    offsets = arena.offsets(context);
    OpBuilder::InsertionGuard guard(*b);
    if (arena.size() > 0) {
      auto arenaOp = ArenaOp::create(*b, loc, MemRefType::get({ShapedType::kDynamic}, b->getI8Type()), b->getI1Type(),
                                     size(offsets.back()));
      memory = arenaOp.getArena();
      auto branch = scf::IfOp::create(*b, loc, TypeRange{b->getI32Type()}, arenaOp.getOk(), true);
      func::ReturnOp::create(*b, loc, branch.getResult(0));
      b->setInsertionPointToStart(branch.elseBlock());
      Value outOfMemory = arith::ConstantOp::create(*b, loc, b->getI32IntegerAttr(1));
      scf::YieldOp::create(*b, loc, outOfMemory);
      b->setInsertionPointToStart(branch.thenBlock());
    }
    for (auto launch : source.front().getOps<LaunchOp>())
      emitLaunch(launch, resultBuffers);
    Value done = arith::ConstantOp::create(*b, loc, b->getI32IntegerAttr(0));
    if (memory)
      scf::YieldOp::create(*b, loc, done);
    else
      func::ReturnOp::create(*b, loc, done);
  }

  void emitLaunch(LaunchOp launch, const DenseMap<unsigned, Value> &resultBuffers) {
    loc = launch.getLoc();
    SmallVector<Value> operands;
    for (Value input : launch.getBuffers())
      operands.push_back(bufferOf(input));
    for (OpResult result : launch.getResults()) {
      if (launch.getTiedInput(result.getResultNumber()) >= 0)
        continue;
      operands.push_back(makeBuffer(result, resultBuffers));
    }
    SmallVector<func::FuncOp> kernels;
    for (auto name : launch.getKernels().getAsRange<FlatSymbolRefAttr>())
      kernels.push_back(source->getParentOfType<ModuleOp>().lookupSymbol<func::FuncOp>(name.getAttr()));
    IntegerAttr number = b->getI64IntegerAttr(nextDispatch++);
    emitVariants(kernels, partialPlaces[launch], operands, number, launch.getConcurrentAttr());
  }

  /// The first variant whose guard holds; the last has none.
  void emitVariants(ArrayRef<func::FuncOp> kernels, ArrayRef<unsigned> partialPlaces, ValueRange operands,
                    IntegerAttr number, UnitAttr concurrent) {
    func::FuncOp kernel = kernels.front();
    VariantAttr variant = kernel->getAttrOfType<VariantAttr>(kScheduleAttr);
    auto launch = [&] {
      SmallVector<Value> buffers(operands);
      auto one = [&](FlatSymbolRefAttr name, AffineExpr count, UnitAttr concurrent) {
        LaunchOp::create(*b, loc, TypeRange{}, b->getArrayAttr(name), buffers, size(count), DenseI64ArrayAttr(), number,
                         concurrent);
      };
      PartialResults partial = partialResults(kernel.getBody(), variant, dims);
      if (partial.element) {
        MemRefType type = bufferType(partial);
        SmallVector<Value> sizes;
        for (auto [i, expr] : llvm::enumerate(partial.sizes))
          if (type.isDynamicDim(i))
            sizes.push_back(size(expr));
        buffers.push_back(memref::ViewOp::create(*b, loc, type, memory, size(offsets[partialPlaces.front()]), sizes));
      }
      one(FlatSymbolRefAttr::get(kernel), workgroupCount(kernel.getBody(), variant, dims),
          partial.element ? UnitAttr() : concurrent);
      if (partial.element)
        one(kernel->getAttrOfType<FlatSymbolRefAttr>(kMergeAttr), partial.workgroups,
            UnitAttr()); // its input is free for others at once
    };
    if (kernels.size() == 1)
      return launch();
    Value rows = size(findMainOp(kernel.getBody()).getRows(dims));
    Value few = arith::CmpIOp::create(*b, loc, arith::CmpIPredicate::sle, rows, index(variant.getMaxRows()));
    auto branch = scf::IfOp::create(*b, loc, few, /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(*b);
    b->setInsertionPointToStart(branch.thenBlock());
    launch();
    b->setInsertionPointToStart(branch.elseBlock());
    emitVariants(kernels.drop_front(), partialPlaces.drop_front(), operands, number, concurrent);
  }

  Value makeBuffer(OpResult result, const DenseMap<unsigned, Value> &resultBuffers) {
    MemRefType type = bufferType(result.getType());
    auto returned = resultOf.find(result);
    if (returned == resultOf.end())
      return buffers[result] =
                 memref::ViewOp::create(*b, loc, type, memory, size(offsets[places[result]]), dynamicSizes(result));
    // The caller's buffer may have another shape of the same size.
    Value buffer = resultBuffers.lookup(returned->second);
    Value value = source.front().getTerminator()->getOperand(returned->second);
    buffers[value] = buffer;
    if (value == result)
      return buffer;
    if (buffer.getType() == type && dims.get(value) == dims.get(result))
      return buffers[result] = buffer;
    return buffers[result] = reshaped(buffer, result, type);
  }

  /// The same memory under the shape of `tensor`, row-major as all buffers.
  Value reshaped(Value buffer, Value tensor, MemRefType type) {
    SmallVector<OpFoldResult> sizes, strides;
    AffineExpr stride = getAffineConstantExpr(1, context);
    Dims shape = dims.get(tensor);
    for (AffineExpr dim : llvm::reverse(shape)) {
      auto fold = [&](AffineExpr e) -> OpFoldResult {
        if (auto constant = dyn_cast<AffineConstantExpr>(e))
          return b->getIndexAttr(constant.getValue());
        return size(e);
      };
      sizes.push_back(fold(dim));
      strides.push_back(fold(stride));
      stride = stride * dim;
    }
    std::reverse(sizes.begin(), sizes.end());
    std::reverse(strides.begin(), strides.end());
    Value view = memref::ReinterpretCastOp::create(*b, loc, buffer, b->getIndexAttr(0), sizes, strides);
    return view.getType() == type ? view : Value(memref::CastOp::create(*b, loc, type, view));
  }

  func::FuncOp source;
  DimsAnalysis &dims;
  MLIRContext *context;
  int64_t &nextDispatch;
  Arena arena;
  DenseMap<Value, unsigned> resultOf, places;
  DenseMap<Operation *, SmallVector<unsigned>> partialPlaces; // of each kernel of a launch, free at its end
  SmallVector<Value> dying;
  OpBuilder *b = nullptr;
  Location loc = UnknownLoc::get(context);
  SmallVector<Value> symbols;
  SmallVector<AffineExpr> offsets; // of places in `memory`, the arena
  Value memory;
  DenseMap<Value, Value> buffers;
};

/// `@main_shapes(out)`: every dynamic result size, in order.
void emitShapes(func::FuncOp main, DimsAnalysis &dims) {
  OpBuilder b(main);
  Location loc = main.getLoc();
  auto type = MemRefType::get({ShapedType::kDynamic}, b.getI64Type());
  auto shapes = func::FuncOp::create(b, loc, "main_shapes", b.getFunctionType({type}, {}));
  Block *entry = shapes.addEntryBlock();
  b.setInsertionPointToStart(entry);
  int64_t next = 0;
  for (Value value : main.front().getTerminator()->getOperands())
    for (auto [i, dim] : llvm::enumerate(dims.get(value)))
      if (cast<RankedTensorType>(value.getType()).isDynamicDim(i)) {
        Value size = arith::IndexCastOp::create(b, loc, b.getI64Type(), dims.materialize(b, loc, dim));
        Value at = arith::ConstantIndexOp::create(b, loc, next++);
        memref::StoreOp::create(b, loc, size, entry->getArgument(0), at);
      }
  func::ReturnOp::create(b, loc);
}

bool isProgram(func::FuncOp function) {
  return llvm::hasSingleElement(function.getBody()) &&
         llvm::all_of(function.getArgumentTypes(), llvm::IsaPred<RankedTensorType>) &&
         llvm::all_of(function.getResultTypes(), llvm::IsaPred<RankedTensorType>);
}

struct LowerHostPass : impl::LowerHostPassBase<LowerHostPass> {
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<DscDialect, arith::ArithDialect, memref::MemRefDialect, scf::SCFDialect>();
  }
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto main = module.lookupSymbol<func::FuncOp>("main");
    if (!main) {
      module.emitError("has no function @main");
      return signalPassFailure();
    }
    if (!module->getAttrOfType<TargetAttr>(kTargetAttr)) {
      module.emitError("has no target: run --dsc-set-target first");
      return signalPassFailure();
    }
    SmallVector<func::FuncOp> programs{main};
    if (auto init = module.lookupSymbol<func::FuncOp>("init"))
      programs.push_back(init);
    for (func::FuncOp program : programs)
      if (!isProgram(program)) {
        program.emitOpError("is no program: needs one block, and ranked tensors as arguments and results");
        return signalPassFailure();
      }
    DimsAnalysis dims(module);
    if (failed(verifySizes(module, dims)))
      return signalPassFailure();
    writeManifest(module, dims);
    int64_t nextDispatch = 0;
    emitShapes(main, dims);
    for (func::FuncOp program : programs) {
      HostLowering lowering(program, dims, nextDispatch);
      if (failed(lowering.run()))
        return signalPassFailure();
      buffers += lowering.placeCount();
      program.erase();
    }
  }
};

} // namespace
} // namespace mlir::dsc
