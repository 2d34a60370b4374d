//===- DscDims.h - sizes as expressions over named symbols ----------------===//
//
// A tensor's dimensions are affine (or semi-affine: products of symbols)
// expressions. Symbol i of an expression is entry i of a symbol list.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir/IR/AffineExpr.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "llvm/ADT/SmallVector.h"

namespace mlir::dsc {

using Dims = llvm::SmallVector<AffineExpr, 4>;

/// Emits `expr` as index arithmetic; dims and symbols are given as values.
Value expandExpr(OpBuilder &b, Location loc, AffineExpr expr, ValueRange dims, ValueRange symbols);

/// `expr` with symbol names, in the grammar of `#dsc.dims` ("b * s + 1").
std::string printExpr(AffineExpr expr, llvm::ArrayRef<std::string> symbols);

/// Parses what printExpr prints; `symbol` maps a name to its expression and
/// may create it. Null when the text is malformed.
AffineExpr parseExpr(MLIRContext *context, llvm::StringRef text,
                     llvm::function_ref<AffineExpr(llvm::StringRef)> symbol);

/// Whether `name` can name a symbol: a letter or `_`, then letters, digits, `_`, `.`.
bool isSymbolName(llvm::StringRef name);

/// Reification for every op that implements DimsOpInterface.
llvm::LogicalResult reifyFromDims(Operation *op, OpBuilder &b, ReifiedRankedShapedTypeDims &shapes);

/// Product of all sizes.
AffineExpr elementCount(llvm::ArrayRef<AffineExpr> dims, MLIRContext *context);

/// Product of all sizes of every operand, then of every result.
llvm::SmallVector<AffineExpr> elementCounts(llvm::ArrayRef<Dims> operands, llvm::ArrayRef<Dims> results,
                                            MLIRContext *context);

/// Result types must agree with what inferResultDims says of the operands.
llvm::LogicalResult checkResultShapes(Operation *op);

/// f32 for the 16-bit floats, else the type itself.
Type defaultAccumulatorType(Type elementType);

} // namespace mlir::dsc
