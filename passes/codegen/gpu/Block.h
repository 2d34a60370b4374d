//===- Block.h - what kernels of a GPU's block share ----------------------===//
#pragma once
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "passes/codegen/KernelBuilder.h"

namespace mlir::dsc {

constexpr int64_t kWarp = 32;       // threads of a warp
constexpr int64_t kSharedSpace = 3; // of addresses: LLVM's NVPTX back end
constexpr int64_t kGlobalSpace = 1;

/// The function that a kernel is written into.
func::FuncOp kernelFunction(KernelBuilder &kernel);

/// Dialects that kernels for a GPU are written in, beside those of all kernels.
void insertGpuDialects(DialectRegistry &registry);

/// Number of this thread in its block.
Value threadNumber(KernelBuilder &kernel);
struct Int;
/// Blocks of the launch.
Int blockCount(KernelBuilder &kernel);

/// Memory that the threads of a block share, `name` being unique in the kernel.
Value sharedMemory(KernelBuilder &kernel, StringRef name, MemRefType type);

/// `bytes` more of the block's memory than a program may declare: the launch asks for them. A pointer, aligned to 1024
/// bytes.
Value dynamicSharedMemory(KernelBuilder &kernel, int64_t bytes);

/// All threads of the block wait for each other.
void barrier(KernelBuilder &kernel);
/// `threads` of them do, at a barrier of their own: 1 to 15.
void barrier(KernelBuilder &kernel, Int number, int64_t threads);

/// All threads of the warp wait for each other, and see what was written.
void syncWarp(KernelBuilder &kernel);

/// The value of a lane (i32) of this warp.
Value fromLane(KernelBuilder &kernel, Value value, Value lane);

/// What `body` gives where the condition holds, else `other`, of the same type.
Value ifElse(KernelBuilder &kernel, Int condition, Value other, function_ref<Value()> body);

/// A scalar integer with C's operators; operands of the other type are constants.
struct Int {
  KernelBuilder *kernel;
  Value v;

  Int with(Value value) const { return {kernel, value}; }
  Int constant(int64_t value) const;
  /// The same number as another type.
  Int as(Type type) const;
  Int asIndex() const { return as(kernel->getIndexType()); }
  Int asI32() const { return as(kernel->getI32Type()); }
  operator Value() const { return v; }
};
Int operator+(Int a, Int b);
Int operator-(Int a, Int b);
Int operator*(Int a, Int b);
Int operator/(Int a, Int b); // unsigned, as all that follow
Int operator%(Int a, Int b);
Int operator&(Int a, Int b);
Int operator^(Int a, Int b);
Int operator<(Int a, Int b);
Int operator==(Int a, Int b);
inline Int operator+(Int a, int64_t b) { return b ? a + a.constant(b) : a; }
inline Int operator-(Int a, int64_t b) { return b ? a - a.constant(b) : a; }
inline Int operator*(Int a, int64_t b) { return b == 1 ? a : a * a.constant(b); }
inline Int operator/(Int a, int64_t b) { return b == 1 ? a : a / a.constant(b); }
inline Int operator%(Int a, int64_t b) { return a % a.constant(b); }
inline Int operator&(Int a, int64_t b) { return a & a.constant(b); }
inline Int operator^(Int a, int64_t b) { return a ^ a.constant(b); }
inline Int operator<(Int a, int64_t b) { return a < a.constant(b); }
inline Int operator==(Int a, int64_t b) { return a == a.constant(b); }
Int min(Int a, Int b);
Int select(Int condition, Int a, Int b);

/// The address `offset` bytes behind `pointer`.
Value behind(KernelBuilder &kernel, Value pointer, Int offset);

/// Address of the first element of a buffer in global memory.
Value globalPointer(KernelBuilder &kernel, Value buffer);

/// Rows of 128 bytes in shared memory, whose chunks of 16 bytes change places with the row, so that eight rows at one
/// chunk lie in different banks: what TMA calls the swizzle of 128 bytes.
constexpr int64_t kTileRowBytes = 128, kChunkBytes = 16, kTileChunks = kTileRowBytes / kChunkBytes;
inline Int swizzled(Int row, Int chunk) {
  return row * kTileRowBytes + ((chunk ^ (row & (kTileChunks - 1))) * kChunkBytes);
}

} // namespace mlir::dsc
