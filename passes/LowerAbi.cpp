//===- LowerAbi.cpp - the calling convention of libdsc_rt -----------------===//
//
// runtime/dsc_rt.h defines the convention. Buffers arrive as an array of
// pointers; their shapes follow from the sizes of the module's symbols. Kernels
// of a GPU take pointers and sizes as parameters (runtime/dsc_rt_gpu.h), and
// launches the description of a kernel instead of its address.
//
//===----------------------------------------------------------------------===//

#include "mlir/Conversion/LLVMCommon/MemRefBuilder.h"
#include "mlir/Conversion/LLVMCommon/TypeConverter.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelInterfaces.h"

#include "passes/DimsAnalysis.h"
#include "llvm/ADT/StringMap.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_LOWERABIPASS
#include "passes/Passes.h.inc"

namespace {

class AbiLowering {
public:
  AbiLowering(ModuleOp module) : module(module), dims(module), b(module.getContext()), converter(module.getContext()) {
    ptr = LLVM::LLVMPointerType::get(b.getContext());
    i64 = b.getI64Type();
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    gpu = target && target.isGpu();
  }

  LogicalResult run() {
    SmallVector<func::FuncOp> functions(module.getOps<func::FuncOp>());
    for (func::FuncOp function : functions)
      if (failed(verify(function)))
        return failure();
    declareRuntime();
    for (func::FuncOp function : functions)
      if (function->hasAttr(kKernelAttr))
        gpu ? lowerGpuKernel(function) : lowerKernel(function);
    for (func::FuncOp function : functions)
      if (!function->hasAttr(kKernelAttr))
        lowerProgram(function);
    for (func::FuncOp function : functions)
      function.erase();
    return success();
  }

private:
  /// Whether `function` is what --dsc-lower-host and --dsc-generate-kernels leave: buffers whose sizes are known,
  /// for a kernel the range of its workgroups behind them, for a program its status.
  LogicalResult verify(func::FuncOp function) {
    bool kernel = function->hasAttr(kKernelAttr), shapes = function.getName() == "main_shapes";
    ArrayRef<Type> types = function.getArgumentTypes(), results = function.getResultTypes();
    bool good = llvm::hasSingleElement(function.getBody());
    if (kernel) {
      types = types.drop_back(mapCount(function));
      good &= results.empty() && types.size() >= 2 && llvm::all_of(types.take_back(2), llvm::IsaPred<IndexType>);
      types = good ? types.drop_back(2) : types;
    } else if (shapes) {
      good &= results.empty() && types.size() == 1;
    } else {
      good &=
          llvm::is_contained({"main", "init"}, function.getName()) && results.size() == 1 && results[0].isInteger(32);
    }
    if (!good || !llvm::all_of(types, llvm::IsaPred<MemRefType>))
      return function.emitOpError("is neither a kernel nor a program on buffers: run --dsc-lower-host and "
                                  "--dsc-generate-kernels first");
    for (auto [i, type] : llvm::enumerate(types)) {
      auto buffer = cast<MemRefType>(type);
      auto names = function.getArgAttrOfType<DimsAttr>(i, kDimsAttr);
      if (shapes ? buffer.getRank() == 1 : buffer.hasStaticShape())
        continue;
      bool known = names && static_cast<int64_t>(names.getNames().size()) == buffer.getRank();
      for (int64_t dim = 0; known && dim < buffer.getRank(); ++dim)
        known = !buffer.isDynamicDim(dim) || sizeOf(names, dim);
      if (!known)
        return function.emitOpError("argument ") << i << " has a size that does not follow from dsc.symbols: " << type;
    }
    WalkResult walked = function.walk([&](DimOp dim) {
      if (dims.symbol(dim.getSymbol()))
        return WalkResult::advance();
      dim.emitOpError("names no dimension of an argument: \"") << dim.getSymbol() << "\"";
      return WalkResult::interrupt();
    });
    return failure(walked.wasInterrupted());
  }

  AffineExpr parse(StringAttr text) {
    return parseExpr(b.getContext(), text.getValue(), [&](StringRef name) { return dims.symbol(name); });
  }
  AffineExpr sizeOf(DimsAttr names, int64_t dim) { return parse(names.getNames()[dim]); }

  /// Tensor maps are the last arguments of a kernel.
  static size_t mapCount(func::FuncOp function) {
    return llvm::count_if(function.getArgumentTypes(), llvm::IsaPred<LLVM::LLVMPointerType>);
  }

  void declareRuntime() {
    b.setInsertionPointToStart(module.getBody());
    Type none = LLVM::LLVMVoidType::get(b.getContext());
    auto launch = LLVM::LLVMFunctionType::get(none, {ptr, ptr, ptr, ptr, i64, b.getI32Type()});
    auto defer = LLVM::LLVMFunctionType::get(none, {ptr, ptr, ptr, b.getI32Type(), ptr, i64, b.getI32Type()});
    auto arena = LLVM::LLVMFunctionType::get(ptr, {ptr, i64});
    for (auto [name, type] :
         {std::pair("dsc_rt_launch", launch), std::pair("dsc_rt_defer", defer), std::pair("dsc_rt_arena", arena)})
      if (!module.lookupSymbol(name))
        LLVM::LLVMFuncOp::create(b, module.getLoc(), name, type);
  }

  LLVM::LLVMFuncOp makeFunction(func::FuncOp function, StringRef name, Type result, ArrayRef<Type> types) {
    b.setInsertionPoint(function);
    loc = function.getLoc();
    auto lowered = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(result, types));
    Block *entry = lowered.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    return lowered;
  }

  Value constant(int64_t value) { return LLVM::ConstantOp::create(b, loc, i64, value); }

  Value element(Value array, Type type, int64_t index) {
    Value address = LLVM::GEPOp::create(b, loc, ptr, type, array, ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(index)});
    return LLVM::LoadOp::create(b, loc, type, address);
  }

  Value asIndex(Value i64Value) {
    return UnrealizedConversionCastOp::create(b, loc, b.getIndexType(), i64Value).getResult(0);
  }
  Value asI64(Value value) { return UnrealizedConversionCastOp::create(b, loc, i64, value).getResult(0); }

  /// Sizes of all symbols, read once.
  void readSymbols(Value array) {
    symbols.clear();
    for (size_t i = 0; i < dims.symbols().size(); ++i)
      symbols.push_back(asIndex(element(array, i64, i)));
  }

  /// A contiguous memref over `data`.
  Value bindBuffer(Value data, MemRefType type, DimsAttr names) {
    auto descriptor = MemRefDescriptor::poison(b, loc, converter.convertType(type));
    descriptor.setAllocatedPtr(b, loc, data);
    descriptor.setAlignedPtr(b, loc, data);
    descriptor.setOffset(b, loc, constant(0));
    Value stride = constant(1);
    for (int64_t i = type.getRank(); i-- > 0;) {
      Value size;
      if (type.isDynamicDim(i)) {
        size = asI64(expandExpr(b, loc, sizeOf(names, i), {}, symbols));
      } else {
        size = constant(type.getDimSize(i));
      }
      descriptor.setSize(b, loc, i, size);
      descriptor.setStride(b, loc, i, stride);
      stride = LLVM::MulOp::create(b, loc, stride, size);
    }
    return UnrealizedConversionCastOp::create(b, loc, type, Value(descriptor)).getResult(0);
  }

  /// A one-dimensional memref over `data`.
  Value bindRow(Value data, Value size, MemRefType type) {
    auto descriptor = MemRefDescriptor::poison(b, loc, converter.convertType(type));
    descriptor.setAllocatedPtr(b, loc, data);
    descriptor.setAlignedPtr(b, loc, data);
    descriptor.setOffset(b, loc, constant(0));
    descriptor.setSize(b, loc, 0, size);
    descriptor.setStride(b, loc, 0, constant(1));
    return UnrealizedConversionCastOp::create(b, loc, type, Value(descriptor)).getResult(0);
  }

  /// Moves the body over; memref arguments are bound from `buffers`, `rest` replaces the others.
  void moveBody(func::FuncOp function, LLVM::LLVMFuncOp lowered, Value buffers, Value sizes, ValueRange rest) {
    readSymbols(sizes);
    Block &old = function.front();
    int64_t next = 0;
    for (BlockArgument argument : old.getArguments()) {
      Value value;
      if (auto type = dyn_cast<MemRefType>(argument.getType())) {
        auto names = function.getArgAttrOfType<DimsAttr>(argument.getArgNumber(), kDimsAttr);
        value = bindBuffer(element(buffers, ptr, next++), type, names);
      } else {
        value = asIndex(rest.front());
        rest = rest.drop_front();
      }
      argument.replaceAllUsesWith(value);
    }
    spliceBody(function, lowered);
  }

  /// Takes the operations over; dsc.dim becomes the symbol's size.
  void spliceBody(func::FuncOp function, LLVM::LLVMFuncOp lowered) {
    Block *entry = &lowered.getBody().front();
    entry->getOperations().splice(entry->end(), function.front().getOperations());
    lowered.walk([&](DimOp dim) {
      auto symbol = cast<AffineSymbolExpr>(dims.symbol(dim.getSymbol()));
      dim.replaceAllUsesWith(symbols[symbol.getPosition()]);
      dim.erase();
    });
    Operation *terminator = entry->getTerminator();
    b.setInsertionPoint(terminator);
    LLVM::ReturnOp::create(b, loc, terminator->getOperands());
    terminator->erase();
  }

  void lowerKernel(func::FuncOp function) {
    auto lowered =
        makeFunction(function, function.getName(), LLVM::LLVMVoidType::get(b.getContext()), {ptr, ptr, i64, i64});
    lowered.setLinkage(LLVM::Linkage::Internal);
    lowered->setAttr(kKernelAttr, b.getUnitAttr());
    Block *entry = &lowered.getBody().front();
    moveBody(function, lowered, entry->getArgument(0), entry->getArgument(1), entry->getArguments().take_back(2));
  }

  /// Parameters: tensor maps, buffers, sizes, and the number of workgroups. A block runs the workgroup of its number.
  void lowerGpuKernel(func::FuncOp function) {
    MLIRContext *context = b.getContext();
    SmallVector<MemRefType> types;
    for (Type type : function.getArgumentTypes())
      if (auto buffer = dyn_cast<MemRefType>(type))
        types.push_back(buffer);
    size_t maps = mapCount(function), mapsAt = function.getNumArguments() - maps;
    SmallVector<Type> parameters(maps + types.size(), ptr);
    parameters.append(dims.symbols().size() + 1, i64);
    auto lowered = makeFunction(function, function.getName(), LLVM::LLVMVoidType::get(context), parameters);
    auto variant = function->getAttrOfType<VariantAttr>(kScheduleAttr);
    ArrayRef<int64_t> threads = variant ? variant.getThreads() : ArrayRef<int64_t>();
    int32_t blockThreads = threads.empty() ? 1 : threads[0] * threads[1];
    lowered->setAttr(kKernelAttr, b.getUnitAttr());
    lowered->setAttr(NVVM::NVVMDialect::getKernelFuncAttrName(), b.getUnitAttr());
    lowered->setAttr(NVVM::NVVMDialect::getReqntidAttrName(), b.getDenseI32ArrayAttr({blockThreads, 1, 1}));
    Block *entry = &lowered.getBody().front();
    symbols.clear();
    for (size_t i = 0; i < dims.symbols().size(); ++i)
      symbols.push_back(asIndex(entry->getArgument(maps + types.size() + i)));
    SmallVector<DictionaryAttr> descriptions;
    for (size_t i = 0; i < maps; ++i) {
      function.getArgument(mapsAt + i).replaceAllUsesWith(entry->getArgument(i));
      descriptions.push_back(function.getArgAttrOfType<DictionaryAttr>(mapsAt + i, kTensorMapAttr));
      auto bytes = LLVM::LLVMArrayType::get(b.getI8Type(), 128);
      lowered.setArgAttr(i, LLVM::LLVMDialect::getByValAttrName(), TypeAttr::get(bytes));
      lowered.setArgAttr(i, LLVM::LLVMDialect::getAlignAttrName(), b.getI64IntegerAttr(64));
      lowered.setArgAttr(i, NVVM::NVVMDialect::getGridConstantAttrName(), b.getUnitAttr());
    }
    for (auto [i, type] : llvm::enumerate(types)) {
      auto names = function.getArgAttrOfType<DimsAttr>(i, kDimsAttr);
      function.getArgument(i).replaceAllUsesWith(bindBuffer(entry->getArgument(maps + i), type, names));
      // Buffers of a launch do not overlap. Of one that threads pass values through that would say too much: that a
      // barrier changes nothing in it.
      if (!function.getArgAttr(i, kExchangedAttr))
        lowered.setArgAttr(maps + i, LLVM::LLVMDialect::getNoAliasAttrName(), b.getUnitAttr());
      lowered.setArgAttr(maps + i, LLVM::LLVMDialect::getAlignAttrName(), b.getI64IntegerAttr(16));
    }
    Value block = LLVM::ZExtOp::create(b, loc, i64, NVVM::BlockIdXOp::create(b, loc, b.getI32Type()));
    Value next = LLVM::AddOp::create(b, loc, block, constant(1));
    auto persistent = function->getAttrOfType<IntegerAttr>(kBlocksPerSmAttr);
    function.getArgument(types.size()).replaceAllUsesWith(asIndex(block));
    function.getArgument(types.size() + 1)
        .replaceAllUsesWith(asIndex(persistent ? Value(entry->getArguments().back()) : next));
    spliceBody(function, lowered);
    auto shared = function->getAttrOfType<IntegerAttr>(kSharedBytesAttr);
    describeKernel(lowered,
                   {kMagic, blockThreads, shared ? static_cast<int32_t>(shared.getInt()) : 0,
                    static_cast<int32_t>(types.size()), static_cast<int32_t>(dims.symbols().size()),
                    persistent ? static_cast<int32_t>(persistent.getInt()) : 0,
                    variant ? static_cast<int32_t>(variant.getCluster()) : 1, static_cast<int32_t>(maps)},
                   descriptions);
  }

  static constexpr int32_t kMagic = 0x44534B31; // DSC_RT_GPU_KERNEL

  /// dsc_rt_gpu_kernel of runtime/dsc_rt_gpu.h and what follows it.
  void describeKernel(LLVM::LLVMFuncOp kernel, SmallVector<int32_t> fields, ArrayRef<DictionaryAttr> maps) {
    SmallVector<AffineExpr> &extents = mapExtents[kernel.getName()];
    for (DictionaryAttr map : maps) {
      auto list = [&](StringRef key) { return map.getAs<ArrayAttr>(key).getAsRange<StringAttr>(); };
      for (StringRef key : {"sizes", "strides"})
        for (StringAttr expr : list(key))
          extents.push_back(parse(expr));
      constexpr int32_t kU8 = 0, kF16 = 5, kBf16 = 6, kF32 = 7; // DSC_RT_U8, ..
      Type element = map.getAs<TypeAttr>("element").getValue();
      int32_t code = element.isInteger(8) ? kU8 : element.isBF16() ? kBf16 : element.isF16() ? kF16 : kF32;
      auto box = map.getAs<DenseI64ArrayAttr>("box").asArrayRef();
      fields.append({static_cast<int32_t>(map.getAs<IntegerAttr>("buffer").getInt()), code,
                     static_cast<int32_t>(box.size()),
                     static_cast<int32_t>(map.getAs<IntegerAttr>("swizzle").getInt())});
      for (size_t i = 0; i < 5; ++i)
        fields.push_back(i < box.size() ? box[i] : 1);
    }
    std::string bytes;
    for (int32_t field : fields)
      for (int shift = 0; shift < 32; shift += 8)
        bytes.push_back(static_cast<char>(field >> shift));
    bytes += kernel.getName();
    bytes.push_back('\0');
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPoint(kernel);
    LLVM::GlobalOp::create(b, loc, LLVM::LLVMArrayType::get(b.getI8Type(), bytes.size()), /*isConstant=*/true,
                           LLVM::Linkage::Internal, descriptionOf(kernel.getName()), b.getStringAttr(bytes),
                           /*alignment=*/8);
  }
  static std::string descriptionOf(StringRef kernel) { return (kernel + ".launch").str(); }

  void lowerProgram(func::FuncOp function) {
    bool shapes = function.getName() == "main_shapes";
    std::string name = "dsc_" + function.getName().str();
    SmallVector<Type> types = shapes ? SmallVector<Type>{ptr, ptr} : SmallVector<Type>{ptr, ptr, ptr};
    Type result = shapes ? Type(LLVM::LLVMVoidType::get(b.getContext())) : b.getI32Type();
    LLVM::LLVMFuncOp lowered = makeFunction(function, name, result, types);
    Block *entry = &lowered.getBody().front();
    if (shapes) {
      // (dims, out): the single buffer is given directly.
      readSymbols(entry->getArgument(0));
      Value out = entry->getArgument(1);
      auto type = cast<MemRefType>(function.getArgument(0).getType());
      // The caller's array is as long as it must be; nothing asks for its size.
      function.getArgument(0).replaceAllUsesWith(bindRow(out, constant(0), type));
      spliceBody(function, lowered);
      return;
    }
    Value runtime = entry->getArgument(0), sizes = entry->getArgument(2);
    int64_t most = 0;
    function.walk([&](LaunchOp launch) { most = std::max<int64_t>(most, launch.getBuffers().size()); });
    Value count = constant(std::max<int64_t>(most, 1));
    Value bindings = LLVM::AllocaOp::create(b, loc, ptr, ptr, count, /*alignment=*/8);
    moveBody(function, lowered, entry->getArgument(1), sizes, {});
    SmallVector<Operation *> calls;
    lowered.walk([&](Operation *op) {
      if (isa<LaunchOp, ArenaOp>(op))
        calls.push_back(op);
    });
    for (Operation *op : calls) {
      b.setInsertionPoint(op);
      loc = op->getLoc();
      if (auto launch = dyn_cast<LaunchOp>(op))
        lowerLaunch(launch, runtime, bindings, sizes);
      else
        lowerArena(cast<ArenaOp>(op), runtime);
      op->erase();
    }
  }

  /// Sizes of all symbols, and behind them what a kernel's tensor maps need.
  Value withExtents(ArrayRef<AffineExpr> extents) {
    size_t count = symbols.size() + extents.size();
    Value array;
    {
      OpBuilder::InsertionGuard guard(b);
      auto function = b.getInsertionBlock()->getParentOp();
      while (!isa<LLVM::LLVMFuncOp>(function))
        function = function->getParentOp();
      b.setInsertionPointToStart(&cast<LLVM::LLVMFuncOp>(function).getBody().front());
      array = LLVM::AllocaOp::create(b, loc, ptr, i64, constant(count), /*alignment=*/8);
    }
    SmallVector<Value> values(symbols);
    for (AffineExpr extent : extents)
      values.push_back(expandExpr(b, loc, extent, {}, symbols));
    for (auto [i, value] : llvm::enumerate(values)) {
      Value slot = LLVM::GEPOp::create(b, loc, ptr, i64, array, ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
      LLVM::StoreOp::create(b, loc, asI64(value), slot);
    }
    return array;
  }

  void lowerLaunch(LaunchOp launch, Value runtime, Value bindings, Value sizes) {
    for (auto [i, buffer] : llvm::enumerate(launch.getBuffers())) {
      Value address = memref::ExtractAlignedPointerAsIndexOp::create(b, loc, buffer);
      Value data = LLVM::IntToPtrOp::create(b, loc, ptr, asI64(address));
      // memref.view moves the address itself, so offsets are always zero here.
      Value slot = LLVM::GEPOp::create(b, loc, ptr, ptr, bindings, ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(i)});
      LLVM::StoreOp::create(b, loc, data, slot);
    }
    auto kernel = cast<FlatSymbolRefAttr>(launch.getKernels()[0]);
    Value function =
        LLVM::AddressOfOp::create(b, loc, ptr, gpu ? descriptionOf(kernel.getValue()) : kernel.getValue().str());
    Value workgroups = asI64(launch.getWorkgroups());
    Value number = LLVM::ConstantOp::create(b, loc, b.getI32Type(), launch.getDispatch().value_or(0));
    SmallVector<Value> arguments{runtime, function, bindings, sizes, workgroups, number};
    if (ArrayRef<AffineExpr> extents = mapExtents[kernel.getValue()]; !extents.empty())
      arguments[3] = withExtents(extents);
    if (launch.getConcurrent())
      arguments.insert(arguments.begin() + 3,
                       LLVM::ConstantOp::create(b, loc, b.getI32Type(), launch.getBuffers().size()));
    LLVM::CallOp::create(b, loc, TypeRange{}, launch.getConcurrent() ? "dsc_rt_defer" : "dsc_rt_launch", arguments);
  }

  void lowerArena(ArenaOp arena, Value runtime) {
    Value bytes = asI64(arena.getBytes());
    Value data = LLVM::CallOp::create(b, loc, TypeRange{ptr}, "dsc_rt_arena", ValueRange{runtime, bytes}).getResult();
    Value null = LLVM::ZeroOp::create(b, loc, ptr);
    Value ok = LLVM::ICmpOp::create(b, loc, LLVM::ICmpPredicate::ne, data, null);
    auto type = cast<MemRefType>(arena.getArena().getType());
    arena.getArena().replaceAllUsesWith(bindRow(data, bytes, type));
    arena.getOk().replaceAllUsesWith(ok);
  }

  ModuleOp module;
  DimsAnalysis dims;
  OpBuilder b;
  LLVMTypeConverter converter;
  Location loc = b.getUnknownLoc();
  Type ptr, i64;
  bool gpu = false;
  llvm::StringMap<SmallVector<AffineExpr>> mapExtents; // by kernel: numbers of its tensor maps, in order
  SmallVector<Value> symbols;
};

struct LowerAbiPass : impl::LowerAbiPassBase<LowerAbiPass> {
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<DscDialect, LLVM::LLVMDialect, NVVM::NVVMDialect>();
  }
  void runOnOperation() override {
    if (failed(AbiLowering(getOperation()).run()))
      signalPassFailure();
  }
};

} // namespace
} // namespace mlir::dsc
