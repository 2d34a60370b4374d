//===- Wgmma.h - the matrix instruction of four warps (sm_90a) ------------===//
//
// wgmma.m64nNk16 of bf16 or f16, or m64nNk32 of 8-bit floats, with sums in f32, as a
// struct of N / 2 numbers per thread. Lane l of warp w holds, of every eight columns, columns 2 (l % 4) and
// 2 (l % 4) + 1 of rows 16 w + l / 4 and 8 more (PTX ISA, "Asynchronous Warpgroup
// Level Matrix Multiply-Accumulate Instructions").
//
//===----------------------------------------------------------------------===//
#pragma once
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {

constexpr int64_t kWarpgroup = 128, kGroupRows = 64;
constexpr int64_t kBarrierBytes = 1024; // kept for barriers in front of tiles, which are aligned to them
constexpr int64_t kMostSharedBytes =
    227 << 10; // that a block may take (CUDA programming guide, compute capability 9.0)
// Of 65536 registers, three warpgroups begin with 168 each; the one that copies gives most of its own away.
constexpr int64_t kProducerRegisters = 40, kConsumerRegisters = 232;

/// An error unless the target has the instruction.
LogicalResult needHopper(Operation *op, VariantAttr variant);

void setRegisters(KernelBuilder &kernel, int64_t count, bool more);

/// What was stored to shared memory is seen by copies and matrix instructions that follow.
void fenceAsync(KernelBuilder &kernel);

/// Descriptor of a matrix in shared memory, `offset` bytes behind `memory`: rows of 128 bytes under that swizzle. Its
/// lines are rows, along which the reduction runs, eight of them 1024 bytes apart.
Int matrixAlongRows(KernelBuilder &kernel, Value memory, Int offset);
/// The same memory where the reduction runs across rows: 64 columns of a line lie in a row, those that follow
/// `panelBytes` behind it.
Int matrixAlongColumns(KernelBuilder &kernel, Value memory, Int offset, int64_t panelBytes);

Value wgmmaZero(KernelBuilder &kernel, int64_t columns);

/// Must stand before products that have no operands in registers.
void wgmmaFence(KernelBuilder &kernel);
/// Must stand before products whose operands in registers (sums, words of a left side) were touched since the last.
/// They go through it, so that LLVM moves nothing that makes them behind it.
Value wgmmaFence(KernelBuilder &kernel, Value sums, int64_t columns, MutableArrayRef<Value> words = {});

Value wgmmaPack(KernelBuilder &kernel, ArrayRef<Value> sums);
SmallVector<Value> wgmmaSums(KernelBuilder &kernel, Value sums, int64_t columns);

/// sums + left * right, both with the reduction along rows, 32 bytes of them; without sums, the product. Types of 8
/// bits may differ. May be read after wgmmaWait.
Value wgmma(KernelBuilder &kernel, FloatType leftType, FloatType rightType, Value sums, Int left, Int right,
            int64_t columns);
/// The left operand being four words of this thread, the right one with the reduction along columns.
Value wgmmaFromRegisters(KernelBuilder &kernel, FloatType type, Value sums, ArrayRef<Value> left, Int right,
                         int64_t columns);
void wgmmaWait(KernelBuilder &kernel);

} // namespace mlir::dsc
