//===- Block.cpp - integers and memory of a GPU's block -------------------===//

#include "passes/codegen/gpu/Block.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace mlir::dsc {

Int Int::constant(int64_t value) const {
  return with(arith::ConstantOp::create(*kernel, kernel->getIntegerAttr(v.getType(), value)));
}

Int Int::as(Type type) const {
  if (v.getType() == type)
    return *this;
  if (v.getType().isIndex() || type.isIndex())
    return with(arith::IndexCastUIOp::create(*kernel, type, v));
  bool wider = type.getIntOrFloatBitWidth() > v.getType().getIntOrFloatBitWidth();
  return with(wider ? Value(arith::ExtUIOp::create(*kernel, type, v))
                    : Value(arith::TruncIOp::create(*kernel, type, v)));
}

template <typename Op> static Int fold(Int a, Int b) { return a.with(a.kernel->createOrFold<Op>(a.v, b.v)); }
Int operator+(Int a, Int b) { return fold<arith::AddIOp>(a, b); }
Int operator-(Int a, Int b) { return fold<arith::SubIOp>(a, b); }
Int operator*(Int a, Int b) { return fold<arith::MulIOp>(a, b); }
Int operator/(Int a, Int b) { return fold<arith::DivUIOp>(a, b); }
Int operator%(Int a, Int b) { return fold<arith::RemUIOp>(a, b); }
Int operator&(Int a, Int b) { return fold<arith::AndIOp>(a, b); }
Int operator^(Int a, Int b) { return fold<arith::XOrIOp>(a, b); }
Int operator<(Int a, Int b) { return a.with(arith::CmpIOp::create(*a.kernel, arith::CmpIPredicate::slt, a.v, b.v)); }
Int operator==(Int a, Int b) { return a.with(arith::CmpIOp::create(*a.kernel, arith::CmpIPredicate::eq, a.v, b.v)); }
Int min(Int a, Int b) { return fold<arith::MinSIOp>(a, b); }
Int select(Int condition, Int a, Int b) { return a.with(arith::SelectOp::create(*a.kernel, condition.v, a.v, b.v)); }

void insertGpuDialects(DialectRegistry &registry) { registry.insert<NVVM::NVVMDialect>(); }

Value threadNumber(KernelBuilder &kernel) {
  Value number = NVVM::ThreadIdXOp::create(kernel, kernel.getI32Type());
  return arith::IndexCastUIOp::create(kernel, kernel.getIndexType(), number);
}

func::FuncOp kernelFunction(KernelBuilder &kernel) {
  Operation *parent = kernel.getInsertionBlock()->getParentOp();
  auto function = dyn_cast<func::FuncOp>(parent);
  return function ? function : parent->getParentOfType<func::FuncOp>();
}

Value sharedMemory(KernelBuilder &kernel, StringRef name, MemRefType type) {
  func::FuncOp function = kernelFunction(kernel);
  auto module = function->getParentOfType<ModuleOp>();
  std::string symbol = (function.getName() + "." + name).str();
  auto shared = MemRefType::get(type.getShape(), type.getElementType(), MemRefLayoutAttrInterface(),
                                kernel.getI64IntegerAttr(kSharedSpace));
  if (!SymbolTable::lookupSymbolIn(module, symbol)) {
    OpBuilder b(function);
    memref::GlobalOp::create(b, kernel.getLoc(), symbol, b.getStringAttr("private"), shared, b.getUnitAttr(),
                             /*constant=*/false, b.getI64IntegerAttr(16));
  }
  return memref::GetGlobalOp::create(kernel, shared, symbol);
}

Value dynamicSharedMemory(KernelBuilder &kernel, int64_t bytes) {
  func::FuncOp function = kernelFunction(kernel);
  function->setAttr(kSharedBytesAttr, kernel.getI64IntegerAttr(bytes));
  std::string symbol = (function.getName() + "_shared").str();
  OpBuilder b(function);
  constexpr int64_t kAlignment = 1024; // of eight rows of swizzled tiles
  auto global = LLVM::GlobalOp::create(b, kernel.getLoc(), LLVM::LLVMArrayType::get(b.getI8Type(), 0),
                                       /*isConstant=*/false, LLVM::Linkage::External, symbol, Attribute(), kAlignment,
                                       kSharedSpace);
  return LLVM::AddressOfOp::create(kernel, global);
}

Int blockCount(KernelBuilder &kernel) {
  return Int{&kernel, NVVM::GridDimXOp::create(kernel, kernel.getI32Type())}.asIndex();
}

void barrier(KernelBuilder &kernel) { NVVM::BarrierOp::create(kernel); }

void barrier(KernelBuilder &kernel, Int number, int64_t threads) {
  Value count = arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(threads));
  NVVM::BarrierOp::create(kernel, TypeRange(), number, count, NVVM::BarrierReductionAttr(), Value());
}

Value behind(KernelBuilder &kernel, Value pointer, Int offset) {
  return LLVM::GEPOp::create(kernel, pointer.getType(), kernel.getI8Type(), pointer, ArrayRef<LLVM::GEPArg>{offset.v});
}

Value ifElse(KernelBuilder &kernel, Int condition, Value other, function_ref<Value()> body) {
  auto branch = scf::IfOp::create(kernel, other.getType(), condition.v, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(kernel);
  kernel.setInsertionPointToStart(branch.thenBlock());
  scf::YieldOp::create(kernel, body());
  kernel.setInsertionPointToStart(branch.elseBlock());
  scf::YieldOp::create(kernel, other);
  return branch.getResult(0);
}

Value globalPointer(KernelBuilder &kernel, Value buffer) {
  // An address of generic space is that of global memory, outside the windows of the others (PTX ISA, generic
  // addressing).
  Value index = memref::ExtractAlignedPointerAsIndexOp::create(kernel, buffer);
  Value address = arith::IndexCastUIOp::create(kernel, kernel.getI64Type(), index);
  return LLVM::IntToPtrOp::create(kernel, LLVM::LLVMPointerType::get(kernel.getContext(), kGlobalSpace), address);
}

} // namespace mlir::dsc
