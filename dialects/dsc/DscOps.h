#pragma once
#include "mlir/Bytecode/BytecodeOpInterface.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Dialect.h"
#include "mlir/IR/OpDefinition.h"
#include "mlir/IR/OpImplementation.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Interfaces/InferTypeOpInterface.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

#include "dialects/dsc/DscDialect.h.inc"
#include "dialects/dsc/DscDims.h"
#define GET_ATTRDEF_CLASSES
#include "dialects/dsc/DscAttrs.h.inc"

#include "dialects/dsc/DscInterfaces.h.inc"
#define GET_OP_CLASSES
#include "dialects/dsc/DscOps.h.inc"

namespace mlir::dsc {

/// A GGUF block format: `block` weights in `bytes` bytes, of which `halvesEnd - halvesBegin` are scales of 2 bytes.
struct BlockFormat {
  llvm::StringRef name;
  int64_t block, bytes, halvesBegin, halvesEnd;

  /// Bytes of the unit that `offset` lies in, of which dsc.pack_blocks keeps those of adjacent rows together.
  int64_t unitAt(int64_t offset) const { return offset >= halvesBegin && offset < halvesEnd ? 2 : 4; }
};
/// Null when the name is not known.
const BlockFormat *findBlockFormat(llvm::StringRef name);
/// All known formats.
llvm::ArrayRef<BlockFormat> blockFormats();

} // namespace mlir::dsc
