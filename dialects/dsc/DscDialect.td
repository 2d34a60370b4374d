#ifndef DSC_DIALECT_TD
#define DSC_DIALECT_TD

include "mlir/IR/OpBase.td"

def Dsc_Dialect : Dialect {
  let name = "dsc";
  let summary = "Transformer graphs whose decisions are attributes";
  let description = [{
    Operations whose meaning upstream dialects would lose (attention with a
    tied KV cache, block-scaled formats, normalizations), dispatch regions, and
    the attributes in which passes write their decisions. Everything elementwise
    or reducing is `linalg.generic`.
  }];
  let cppNamespace = "::mlir::dsc";
  let useDefaultAttributePrinterParser = 1;
  // Graphs are made of these too, and kernel models need them loaded.
  let dependentDialects = ["arith::ArithDialect", "linalg::LinalgDialect", "tensor::TensorDialect"];
  let hasConstantMaterializer = 1;
  // Passes rely on dsc.symbols, dsc.ranges, dsc.range and dsc.tied, which a file may spell in any way.
  let hasOperationAttrVerify = 1;
  let hasRegionArgAttrVerify = 1;
  let hasRegionResultAttrVerify = 1;
}

#endif
