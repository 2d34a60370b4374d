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
#include "dialects/dsc/DscRange.h"
#define GET_ATTRDEF_CLASSES
#include "dialects/dsc/DscAttrs.h.inc"

#include "dialects/dsc/DscInterfaces.h.inc"
#define GET_OP_CLASSES
#include "dialects/dsc/DscOps.h.inc"

namespace mlir::dsc {

/// How the codes of a block become numbers: as ggml's format of that name says, or one code per weight times one scale.
enum class BlockCodes { Ggml, Int4, Int8, E4M3, E5M2 };

/// `block` weights in `bytes` bytes, of which `halvesEnd - halvesBegin` are scales of 2 bytes.
struct BlockFormat {
  llvm::StringRef name;
  int64_t block, bytes, halvesBegin, halvesEnd;
  BlockCodes codes = BlockCodes::Ggml;

  /// Bytes of the unit that `offset` lies in, of which dsc.pack_blocks keeps those of adjacent rows together.
  int64_t unitAt(int64_t offset) const { return offset >= halvesBegin && offset < halvesEnd ? 2 : 4; }
  /// Where the codes of a format with one scale begin.
  int64_t codesBegin() const { return halvesEnd ? halvesEnd : 4; }
  /// Bytes of a block's codes, in a format with one scale.
  int64_t codeBytes() const { return bytes - codesBegin(); }
};
/// The format of a name (see dsc.dequantize); none when it is not known.
std::optional<BlockFormat> findBlockFormat(llvm::StringRef name);

} // namespace mlir::dsc
