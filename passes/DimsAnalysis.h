//===- DimsAnalysis.h - sizes of every tensor in the module's symbols -----===//
//
// The module's symbols are the names in `dsc.symbols` (in first-use order).
// Every dynamic size of every tensor is an expression over them; a null
// expression means that none was found.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::dsc {

inline constexpr llvm::StringLiteral kDimsAttr = "dsc.dims", kSymbolsAttr = "dsc.symbols", kRangesAttr = "dsc.ranges",
                                     kWeightAttr = "dsc.weight", kPreparedAttr = "dsc.prepared", kTiedAttr = "dsc.tied",
                                     kNameAttr = "dsc.name", kUnsignedAttr = "dsc.unsigned", kKernelAttr = "dsc.kernel",
                                     kScheduleAttr = "dsc.schedule", kTargetAttr = "dsc.target",
                                     kPhaseAttr = "dsc.phase", kManifestAttr = "dsc.manifest", kMergeAttr = "dsc.merge",
                                     kCostAttr = "dsc.cost", kRangeAttr = "dsc.range",
                                     kSharedBytesAttr = "dsc.shared_bytes", kBlocksPerSmAttr = "dsc.blocks_per_sm",
                                     kTensorMapAttr = "dsc.tensor_map", kExchangedAttr = "dsc.exchanged";

class DimsAnalysis {
public:
  explicit DimsAnalysis(ModuleOp module);

  /// Sizes of a ranked tensor. Values are remembered by address: a caller that
  /// erases operations while it asks must erase last.
  Dims get(Value tensor);

  /// An index value as an expression, or null.
  AffineExpr getIndex(Value index);

  /// Sizes as the names of a `#dsc.dims` attribute; null if one is unknown.
  DimsAttr getAttr(Value tensor);
  DimsAttr getAttr(const Dims &sizes, ArrayRef<int64_t> shape);

  llvm::ArrayRef<std::string> symbols() const { return names; }
  /// The expression of a name, which is added when `create` is set; else null.
  AffineExpr symbol(llvm::StringRef name, bool create = false);
  /// `dsc.dim` values for all symbols, for expandExpr.
  llvm::SmallVector<Value> materializeSymbols(OpBuilder &b, Location loc) const;
  /// `expr` as index arithmetic on dsc.dim values.
  Value materialize(OpBuilder &b, Location loc, AffineExpr expr) const;
  std::string print(AffineExpr expr) const { return printExpr(expr, names); }
  /// Writes the symbol list on the module.
  void store(ModuleOp module) const;

private:
  Dims compute(Value tensor);
  Dims fromAttr(RankedTensorType type, DimsAttr attr);

  MLIRContext *context;
  ModuleOp module;
  llvm::SmallVector<std::string> names;
  llvm::DenseMap<Value, Dims> cache;
};

/// Whether all sizes follow from the module's symbols, as they do behind
/// --dsc-name-dims; what has another size is named in an error.
LogicalResult verifySizes(ModuleOp module, DimsAnalysis &dims);

} // namespace mlir::dsc
