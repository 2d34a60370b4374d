//===- Rounding.h - casts of whole tensors ---------------------------------===//
#pragma once
#include "passes/DimsAnalysis.h"

namespace mlir::dsc {

/// The type of a storage that is no block format: f32, f16 or bf16; null for another name.
Type plainStorage(StringRef name, MLIRContext *context);

/// `value` with another float element type, as a linalg operation. `dims` gives dynamic sizes (null: there are none);
/// with `saturate`, values beyond the range of the type become its largest ones.
Value castTensor(OpBuilder &b, Location loc, Value value, Type element, DimsAnalysis *dims, bool saturate = false);

/// `value` (f32, rows of a known length) rounded to `element` in blocks of `group` neighbours along a row, each scaled
/// so that its greatest magnitude is the largest number of the type. The last block of a row may be shorter.
Value roundInBlocks(OpBuilder &b, Location loc, Value value, Type element, int64_t group, DimsAnalysis &dims);

/// The block format that `value`, made by `roundInBlocks`, is exact in; none if it was not, or of no such format.
std::optional<BlockFormat> roundedFormat(Value value);

/// The same numbers as codes under scales: a dsc.dequantize of two tensors that are made beside them.
Value codesOfRounded(Value rounded, DimsAnalysis &dims);

/// The same numbers as `source` (of a weight in blocks of 8-bit floats), from codes and scales in tensors of their own.
Value splitBlocks(DequantizeOp source);

} // namespace mlir::dsc
