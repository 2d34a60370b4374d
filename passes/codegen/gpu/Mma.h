//===- Mma.h - fragments of a warp's matrix instruction -------------------===//
//
// mma.m16n8k16 of bf16 or f16 with sums in f32. Lane l holds, of a 16 x 8 tile of
// sums, columns 2 (l % 4) and 2 (l % 4) + 1 of rows l / 4 and l / 4 + 8 (PTX ISA,
// "Matrix Fragments for mma.m16n8k16 with floating point type").
//
//===----------------------------------------------------------------------===//
#pragma once
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {

/// Four 8x8 matrices out of shared memory: lanes 8 i .. 8 i + 7 name the rows of matrix i. Transposed, a lane gets
/// elements of a column.
SmallVector<Value> loadMatrices(KernelBuilder &kernel, Value pointer, bool transposed = false);

/// sums += left * right: four words of a 16 x 16 tile by two of a 16 x 8 one.
void multiplyFragments(KernelBuilder &kernel, FloatType type, ArrayRef<Value> left, ArrayRef<Value> right,
                       MutableArrayRef<Value> sums);

/// Starts to copy 16 bytes of global memory to shared memory, or zeros: then `offset` (bytes) is not used.
void copyChunk(KernelBuilder &kernel, Value target, Value source, Int offset, Int exists);
/// Makes one group of this thread's copies since the last.
void commitChunks(KernelBuilder &kernel);
/// Waits until all but the last `pending` groups have arrived.
void waitForChunks(KernelBuilder &kernel, int64_t pending);

} // namespace mlir::dsc
