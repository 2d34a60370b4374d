//===- DotProducts.h - instructions that multiply groups ------------------===//
#pragma once
#include "passes/codegen/KernelBuilder.h"

namespace mlir::dsc {

/// `sum`, a vector of 32 bits, plus the dot products of as many groups: 2 bf16, 2 integers of 16 bits or 4 bytes for 16
/// lanes, 2 integers of 16 bits for 8.
Value multiplyGroups(KernelBuilder &kernel, Value a, Value b, Value sum);

/// The same for sums that share `left`, each with its vector of `right`.
void multiplyGroups(KernelBuilder &kernel, Value left, ArrayRef<Value> right, MutableArrayRef<Value> sums);

/// Adds to each of `sums`, 16 integers of 16 bits, the products of its vector of `codes`, unsigned bytes, by `right`'s
/// signed ones, two to a sum (AVX2).
void multiplyBytes(KernelBuilder &kernel, ArrayRef<Value> codes, Value right, MutableArrayRef<Value> sums);

} // namespace mlir::dsc
