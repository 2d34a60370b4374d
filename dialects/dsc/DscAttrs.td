#ifndef DSC_ATTRS_TD
#define DSC_ATTRS_TD

include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "dialects/dsc/DscDialect.td"

class Dsc_Attr<string name, string attrMnemonic> : AttrDef<Dsc_Dialect, name> {
  let mnemonic = attrMnemonic;
}

def Dsc_DimsAttr : Dsc_Attr<"Dims", "dims"> {
  let summary = "names of a tensor's dimensions";
  let description = [{
    One string per dimension of an argument or result. An identifier names a
    symbol (equal names are equal sizes), `_` stands for a static dimension.
    Below the graph, kernel arguments may hold an expression over symbols,
    with `+ - * // %` and integers.

    ```mlir
    func.func @main(%x: tensor<?x?x64xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>})
    func.func private @k(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["b * s", "_"]>})
    ```
  }];
  let parameters = (ins ArrayRefParameter<"::mlir::StringAttr">:$names);
  let hasCustomAssemblyFormat = 1;
}

def Dsc_PrecisionAttr : Dsc_Attr<"Precision", "precision"> {
  let summary = "compute precision of one operation, with the reason for it";
  let description = [{
    A decision, not a type: operand types stay as written until the precision
    phase makes casts explicit. Absent fields mean "as the operand's type".
    `scales` is the block shape of `lhs` that shares one scale factor. `storage`
    is how the stored operand lies in memory (`PrecisionOpInterface`): a block
    format of `dsc.dequantize`, or f32, f16, bf16.

    ```mlir
    #dsc.precision<lhs = f8E4M3FN, acc = f32, scales = [1, 128], storage = "fp8_e4m3_g64", reason = "plan">
    ```
  }];
  let parameters = (ins OptionalParameter<"::mlir::Type">:$lhs,
                        OptionalParameter<"::mlir::Type">:$rhs,
                        OptionalParameter<"::mlir::Type">:$acc,
                        OptionalParameter<"::mlir::Type">:$result,
                        OptionalArrayRefParameter<"int64_t">:$scales,
                        OptionalParameter<"::mlir::StringAttr">:$storage,
                        OptionalParameter<"::mlir::StringAttr">:$reason);
  let hasCustomAssemblyFormat = 1;
}

def Dsc_RangeAttr : Dsc_Attr<"Range", "range"> {
  let summary = "the values that a tensor can hold";
  let description = [{
    Every element lies in the interval, and the Euclidean norm of every row (the
    last dimension) is at most `norm`, where one is known. `proved` holds for
    all inputs within the ranges of the arguments; `calibrated` was seen on data,
    or follows from what was.

    ```mlir
    #dsc.range<[-8.0, 8.0], norm = 24.0, proved>
    #dsc.range<[0.0, inf], proved>
    ```
  }];
  let parameters = (ins APFloatParameter<"">:$lo, APFloatParameter<"">:$hi, APFloatParameter<"">:$norm,
                        "bool":$calibrated);
  let builders = [AttrBuilder<(ins "const ::mlir::dsc::Bounds &":$bounds, CArg<"bool", "false">:$calibrated), [{
    return $_get($_ctxt, ::llvm::APFloat(bounds.lo), ::llvm::APFloat(bounds.hi), ::llvm::APFloat(bounds.norm), calibrated);
  }]>];
  let extraClassDeclaration = [{
    Bounds getBounds() const {
      return {getLo().convertToDouble(), getHi().convertToDouble(), getNorm().convertToDouble()};
    }
  }];
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Dsc_VariantAttr : Dsc_Attr<"Variant", "variant"> {
  let summary = "one compiled form of a dispatch";
  let description = [{
    `tile` is the register tile (rows, columns), `workgroup` the part of the
    iteration space that one workgroup covers, `unroll` the number of
    independent accumulators along the reduction. With `depth` the reduction
    advances by that many steps for all rows of a workgroup before it goes on,
    so that what they share stays in the first-level cache. Operands whose numbers stand in
    `stage` are computed into memory near the thread first. `instruction` names
    what multiplies: `fma` on widened elements, `dot` of adjacent elements along
    the reduction, `bfp` (block floating point) of integers that share a scale with
    their neighbours, `tile`, whole matrices in the machine's registers, or those of a
    GPU's warp (`mma`) or four warps (`wgmma`, of 8-bit floats `wgmma8`). With `max_rows` the variant runs only while the number
    of rows is at most that; the host program tests variants in order, and the
    last one has no bound. On a GPU `threads` are the block's: how many teams, and
    of how many threads each, which share a row. Without it a single thread runs
    the workgroup. So many blocks as `cluster` says, of neighbouring rows, share
    what they read (`wgmma`).

    ```mlir
    #dsc.variant<max_rows = 1, tile = [1, 32], workgroup = [1, 64], unroll = 4, depth = 1024, stage = [0], instruction = "dot">
    ```
  }];
  let parameters = (ins DefaultValuedParameter<"int64_t", "0">:$maxRows,
                        ArrayRefParameter<"int64_t">:$tile,
                        ArrayRefParameter<"int64_t">:$workgroup,
                        DefaultValuedParameter<"int64_t", "1">:$unroll,
                        DefaultValuedParameter<"int64_t", "0">:$depth,
                        OptionalArrayRefParameter<"int64_t">:$stage,
                        StringRefParameter<"", "\"fma\"">:$instruction,
                        OptionalArrayRefParameter<"int64_t">:$threads,
                        DefaultValuedParameter<"int64_t", "1">:$cluster);
  let builders = [AttrBuilder<(ins "int64_t":$maxRows, "::llvm::ArrayRef<int64_t>":$tile,
                                   "::llvm::ArrayRef<int64_t>":$workgroup, "int64_t":$unroll, "int64_t":$depth,
                                   "::llvm::ArrayRef<int64_t>":$stage, "::llvm::StringRef":$instruction), [{
    return $_get($_ctxt, maxRows, tile, workgroup, unroll, depth, stage, instruction, ::llvm::ArrayRef<int64_t>(), 1);
  }]>, AttrBuilder<(ins "int64_t":$maxRows, "::llvm::ArrayRef<int64_t>":$tile,
                        "::llvm::ArrayRef<int64_t>":$workgroup, "int64_t":$unroll, "int64_t":$depth,
                        "::llvm::ArrayRef<int64_t>":$stage, "::llvm::StringRef":$instruction,
                        "::llvm::ArrayRef<int64_t>":$threads), [{
    return $_get($_ctxt, maxRows, tile, workgroup, unroll, depth, stage, instruction, threads, 1);
  }]>];
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
}

def Dsc_ScheduleAttr : Dsc_Attr<"Schedule", "schedule"> {
  let summary = "how a dispatch becomes machine code: its variants, first match wins";
  let parameters = (ins ArrayRefParameter<"::mlir::dsc::VariantAttr">:$variants);
  let assemblyFormat = "`<` $variants `>`";
  let genVerifyDecl = 1;
}

def Dsc_TargetAttr : Dsc_Attr<"Target", "target"> {
  let summary = "the machine that a module is compiled for";
  let description = [{
    `name` as the user wrote it (`cpu`, `cpu:x86-64-v3`, `sm_90a`), `cpu` and
    `features` as LLVM spells them, `vector_bytes` the width of a vector register
    (of one memory access of a GPU's thread), `l2_bytes` the second-level cache of
    one core (1 MiB where nothing is said), or of the GPU.
  }];
  let parameters = (ins StringRefParameter<>:$name, StringRefParameter<>:$triple,
                        StringRefParameter<>:$cpu, StringRefParameter<>:$features,
                        "int64_t":$vectorBytes, "int64_t":$vectorRegisters,
                        DefaultValuedParameter<"int64_t", "1 << 20">:$l2Bytes);
  let assemblyFormat = [{
    `<` $name `,` `triple` `=` $triple `,` `cpu` `=` $cpu `,` `features` `=` $features `,`
    `vector_bytes` `=` $vectorBytes `,` `vector_registers` `=` $vectorRegisters
    (`,` `l2_bytes` `=` $l2Bytes^)? `>`
  }];
  let extraClassDeclaration = [{
    /// Whether the machine has a feature, as LLVM spells it.
    bool hasFeature(::llvm::StringRef feature) const;
    /// Whether no instruction may flush subnormals or add in an order of its own.
    bool isStrict() const { return getName().ends_with("+strict"); }
    /// Whether kernels run on an NVIDIA GPU; the host program then runs on an x86-64 CPU.
    bool isGpu() const { return getTriple().starts_with("nvptx"); }
  }];
  let genVerifyDecl = 1;
}

#endif
