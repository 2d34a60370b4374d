#ifndef DSC_OPS_TD
#define DSC_OPS_TD

include "dialects/dsc/DscAttrs.td"
include "dialects/dsc/DscInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"

class Dsc_Op<string mnemonic, list<Trait> traits = []> : Op<Dsc_Dialect, mnemonic, traits>;

def Dsc_Precision : DeclareOpInterfaceMethods<PrecisionOpInterface, ["getRoundingError"]>;

/// An operation of the graph: pure, with symbolic shapes and a cost.
class Dsc_GraphOp<string mnemonic, list<Trait> traits = [], list<string> costMethods = [],
                  list<string> rangeMethods = []>
    : Dsc_Op<mnemonic, [Pure, DeclareOpInterfaceMethods<DimsOpInterface>,
                        DeclareOpInterfaceMethods<CostOpInterface, costMethods>,
                        DeclareOpInterfaceMethods<RangeOpInterface, rangeMethods>,
                        DeclareOpInterfaceMethods<ReifyRankedShapedTypeOpInterface, ["reifyResultShapes"]>] # traits> {
  code extraReify = [{
    ::llvm::LogicalResult $cppClass::reifyResultShapes(
        ::mlir::OpBuilder &builder, ::mlir::ReifiedRankedShapedTypeDims &shapes) {
      return ::mlir::dsc::reifyFromDims(*this, builder, shapes);
    }
  }];
  let extraClassDefinition = extraReify;
  let hasVerifier = 1;
}

def Dsc_Float : AnyTypeOf<[F64, F32, F16, BF16], "a float of 16, 32 or 64 bits">;
def Dsc_Number : AnyTypeOf<[Dsc_Float, AnySignlessInteger], "a float or an integer">;
def Dsc_FloatTensor : RankedTensorOf<[Dsc_Float]>;
def Dsc_NumberTensor : RankedTensorOf<[Dsc_Number]>;
def Dsc_IndexTensor : RankedTensorOf<[I32, I64]>;

//===----------------------------------------------------------------------===//
// Structure
//===----------------------------------------------------------------------===//

def Dsc_DimOp : Dsc_Op<"dim", [Pure]> {
  let summary = "the size that a name stands for";
  let description = [{
    Every named dimension of an argument has one value. The optional range and
    divisor are promises that the caller is held to: a call that breaks one is
    refused before anything runs.

    Example:
    ```mlir
    %s = dsc.dim "s" {min = 1 : i64, max = 8192 : i64} : index
    ```
  }];
  let arguments = (ins StrAttr:$symbol, OptionalAttr<I64Attr>:$min,
                       OptionalAttr<I64Attr>:$max, OptionalAttr<I64Attr>:$divisor);
  let results = (outs Index:$size);
  let assemblyFormat = "$symbol attr-dict `:` type($size)";
  let hasVerifier = 1;
}

def Dsc_DispatchOp : Dsc_Op<"dispatch", [IsolatedFromAbove, RecursiveMemoryEffects,
    SingleBlockImplicitTerminator<"YieldOp">]> {
  let summary = "operations that run as one kernel";
  let description = [{
    Value semantics: the region computes the results from the inputs. `tied`
    names, per result, the input whose buffer it updates in place, or -1.
    `schedule` is written by the schedule phase (or by the user) and obeyed by
    code generation.

    Example:
    ```mlir
    %y = dsc.dispatch (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
    ^bb0(%a: tensor<?x576xf32>, %b: tensor<576x64xf32>):
      %0 = dsc.matmul %a, %b : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
      dsc.yield %0 : tensor<?x64xf32>
    }
    ```
  }];
  let arguments = (ins Variadic<AnyRankedTensor>:$inputs, OptionalAttr<DenseI64ArrayAttr>:$tied,
                       OptionalAttr<Dsc_ScheduleAttr>:$schedule);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let regions = (region SizedRegion<1>:$body);
  let assemblyFormat = [{
    `(` $inputs `)` (`tied` $tied^)? (`schedule` $schedule^)?
    attr-dict-with-keyword `:` functional-type($inputs, $results) $body
  }];
  let extraClassDeclaration = [{
    /// The input whose buffer result `index` updates, or -1.
    int64_t getTiedInput(unsigned index) {
      return getTied() ? (*getTied())[index] : -1;
    }
  }];
  let hasVerifier = 1;
}

def Dsc_YieldOp : Dsc_Op<"yield", [Pure, Terminator, HasParent<"DispatchOp">]> {
  let summary = "results of a dispatch";
  let arguments = (ins Variadic<AnyRankedTensor>:$values);
  let assemblyFormat = "attr-dict ($values^ `:` type($values))?";
  let builders = [OpBuilder<(ins), [{ /* no values */ }]>];
}

def Dsc_LaunchOp : Dsc_Op<"launch", [AttrSizedOperandSegments, DeclareOpInterfaceMethods<SymbolUserOpInterface>]> {
  let summary = "a call of a kernel";
  let description = [{
    On tensors (after the schedule phase) it has results and lists one kernel
    per variant. On buffers (after the host phase) it names one kernel, the
    result buffers follow the inputs, and `workgroups` is the size of the grid.
    `dispatch` numbers the launches of a module, for profiles. A `concurrent`
    launch runs beside the next one: neither reads what the other writes.

    Example:
    ```mlir
    %y = dsc.launch [@matmul_0_rows1, @matmul_0] (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    dsc.launch [@matmul_0] (%x, %w, %y) workgroups %n {dispatch = 3 : i64} : (memref<?x576xf32>, memref<576x64xf32>, memref<?x64xf32>) -> ()
    ```
  }];
  let arguments = (ins FlatSymbolRefArrayAttr:$kernels, Variadic<AnyShaped>:$buffers,
                       Optional<Index>:$workgroups, OptionalAttr<DenseI64ArrayAttr>:$tied,
                       OptionalAttr<I64Attr>:$dispatch, UnitAttr:$concurrent);
  let results = (outs Variadic<AnyRankedTensor>:$results);
  let assemblyFormat = [{
    $kernels `(` $buffers `)` (`workgroups` $workgroups^)? (`tied` $tied^)?
    attr-dict `:` functional-type($buffers, $results)
  }];
  let extraClassDeclaration = [{
    int64_t getTiedInput(unsigned index) {
      return getTied() ? (*getTied())[index] : -1;
    }
  }];
  let hasVerifier = 1;
}

def Dsc_ArenaOp : Dsc_Op<"arena", [MemoryEffects<[MemAlloc]>]> {
  let summary = "the call's scratch memory";
  let description = [{
    `bytes` of 64-byte aligned memory that stays valid until the program
    returns; `ok` is false when there is not enough.

    Example:
    ```mlir
    %arena, %ok = dsc.arena %bytes : memref<?xi8>
    ```
  }];
  let arguments = (ins Index:$bytes);
  let results = (outs MemRefOf<[I8]>:$arena, I1:$ok);
  let assemblyFormat = "$bytes attr-dict `:` type($arena)";
}

//===----------------------------------------------------------------------===//
// Graph
//===----------------------------------------------------------------------===//

def Dsc_MatmulOp : Dsc_GraphOp<"matmul", [DeclareOpInterfaceMethods<
    PrecisionOpInterface, ["isLegalElementType", "getStoredOperand", "widensStoredOperand", "getRoundingError"]>]> {
  let summary = "matrix product, batched, with optional transposes and bias";
  let description = [{
    `result[.., m, n] = sum_k lhs[.., m, k] * rhs[(..,) k, n] (+ bias[n])`.

    `rhs` is a matrix shared by all leading dimensions, or has the same leading
    dimensions as `lhs`. `transpose_lhs` and `transpose_rhs` exchange the last
    two dimensions of an operand. `rhs` may be of a narrower float type: a weight
    that is stored in less than what `lhs` is computed in. Sums are kept in f32
    for f16 and bf16, in i32 where i8 gives i32, else in the type of `lhs`. With
    `packed_columns` = n the right side is a weight of n columns in panels,
    `rhs[n / t, k, n % t]` or `rhs[n / t, k / g, n % t, k % g]`, both padded with
    zeros. With `packed_rows` = m too, so is the left side: a matrix of m rows in
    `lhs[m / t, k, m % t]` or `lhs[m / t, k / g, m % t, k % g]`.

    Example:
    ```mlir
    %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x?x576xf32>, tensor<1536x576xf32>) -> tensor<?x?x1536xf32>
    ```
  }];
  let arguments = (ins Dsc_NumberTensor:$lhs, Dsc_NumberTensor:$rhs, Optional<Dsc_NumberTensor>:$bias,
                       UnitAttr:$transpose_lhs, UnitAttr:$transpose_rhs, OptionalAttr<I64Attr>:$packed_columns,
                       OptionalAttr<I64Attr>:$packed_rows, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_NumberTensor:$result);
  let assemblyFormat = [{
    $lhs `,` $rhs (`bias` $bias^)? (`precision` $precision^)? attr-dict
    `:` functional-type(operands, results)
  }];
  let extraClassDeclaration = [{
    /// Steps of the reduction, from the dimensions of `lhs`; packed, those that pad a group included.
    ::mlir::AffineExpr getDepth(::llvm::ArrayRef<::mlir::AffineExpr> lhs);
  }];
  let hasCanonicalizer = 1;
}

def Dsc_AttentionOp : Dsc_GraphOp<"attention", [AttrSizedOperandSegments, Dsc_Precision], [], ["inferRangesFrom"]> {
  let summary = "scaled dot-product attention, grouped-query, with or without a KV cache";
  let description = [{
    `result[b, i, h] = sum_j softmax_j(scale * query[b, i, h] . key[b, j, g]) value[b, j, g]`
    with `g = h / (h_q / h_kv)` (Ainslie et al. 2023). `query` is
    `[b, s, h, d]`. Keys and values are `[b, t, h_kv, d]`, or planes 0 and 1 of
    a cache `[b, 2, h_kv, capacity, d]` of which the first `lengths[b]`
    positions are valid, the `s` current ones included. A cache may be of a
    narrower float type than `query`: it is widened where it is read.

    `causal`: query `i` sees positions up to its own, `t - s + i` (`lengths - s
    + i` with a cache); `window` = w: none that is w or more before its own. With
    `soft_cap` = c scores are `c tanh(. / c)`. `mask` is `[b, h_q, s, t]` with
    sizes of 1 where it is the same for all: booleans say which keys a query
    sees, numbers are added to scores. A query that sees nothing gives zeros. A
    `precision` of bf16 `lhs` and `rhs` allows what both products multiply to be
    rounded to bf16.

    Example:
    ```mlir
    %y = dsc.attention %q cache %c lengths %n {causal, scale = 0.125 : f32}
        : (tensor<?x?x9x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x?x9x64xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$query, Optional<Dsc_FloatTensor>:$key,
                       Optional<Dsc_FloatTensor>:$value, Optional<Dsc_FloatTensor>:$cache,
                       Optional<RankedTensorOf<[I32]>>:$lengths, Optional<Dsc_NumberTensor>:$mask,
                       UnitAttr:$causal, F32Attr:$scale, OptionalAttr<I64Attr>:$window,
                       OptionalAttr<F32Attr>:$soft_cap, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = [{
    $query (`,` $key^ `,` $value)? (`cache` $cache^ `lengths` $lengths)? (`mask` $mask^)?
    (`precision` $precision^)? attr-dict `:` functional-type(operands, results)
  }];
}

def Dsc_KvAppendOp : Dsc_GraphOp<"kv_append", [DeclareOpInterfaceMethods<
    PrecisionOpInterface, ["getStoredOperand", "getRoundingError"]>], ["getElementCounts"]> {
  let summary = "write keys and values into their cache";
  let description = [{
    `result[b, 0, :, positions[b] + i] = key[b, i]`, plane 1 from `value`; all
    else as in `cache`. The cache is used linearly: nothing may read `cache`
    after the append, so the result is the same buffer. Positions beyond the
    capacity are a broken promise of the caller.

    Example:
    ```mlir
    %c1 = dsc.kv_append %k, %v into %c0 at %p
        : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$key, Dsc_FloatTensor:$value, Dsc_FloatTensor:$cache,
                       RankedTensorOf<[I32]>:$positions, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = [{
    $key `,` $value `into` $cache `at` $positions (`precision` $precision^)? attr-dict `:` functional-type(operands, results)
  }];
}

def Dsc_RmsNormOp : Dsc_GraphOp<"rms_norm", [AllTypesMatch<["input", "result"]>, Dsc_Precision]> {
  let summary = "root mean square normalization of the last dimension";
  let description = [{
    `result = input / sqrt(mean(input^2) + eps) * weight` over the last
    dimension (Zhang and Sennrich 2019, eq. 4); the mean is kept in f32 for f16
    and bf16.

    Example:
    ```mlir
    %y = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x576xf32>, tensor<576xf32>) -> tensor<?x576xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$input, Dsc_FloatTensor:$weight, F64Attr:$eps,
                       OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = "$input `,` $weight (`precision` $precision^)? attr-dict `:` functional-type(operands, results)";
}

def Dsc_LayerNormOp : Dsc_GraphOp<"layer_norm", [AllTypesMatch<["input", "result"]>, AttrSizedOperandSegments, Dsc_Precision]> {
  let summary = "layer normalization of the last dimension";
  let description = [{
    `result = (input - mean) / sqrt(mean((input - mean)^2) + eps) * weight + bias`
    over the last dimension (Ba et al. 2016); both means are kept in f32 for
    f16 and bf16.

    Example:
    ```mlir
    %y = dsc.layer_norm %x weight %w bias %b {eps = 1.0e-05 : f64}
        : (tensor<?x768xf32>, tensor<768xf32>, tensor<768xf32>) -> tensor<?x768xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$input, Optional<Dsc_FloatTensor>:$weight,
                       Optional<Dsc_FloatTensor>:$bias, F64Attr:$eps, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = [{
    $input (`weight` $weight^)? (`bias` $bias^)? (`precision` $precision^)? attr-dict
    `:` functional-type(operands, results)
  }];
}

def Dsc_RopeOp : Dsc_GraphOp<"rope", [AllTypesMatch<["input", "result"]>]> {
  let summary = "rotary position embedding from given angles";
  let description = [{
    Rotates pairs of `input[b, s, h, :]` by the angles whose cosines and sines
    are `[b, s, d / 2]` (Su et al. 2021, eq. 34). Pairs are `(i, i + d / 2)`,
    with `interleaved` they are `(2i, 2i + 1)`. Angles are operands because
    every layer shares them and models scale them in many ways.

    Example:
    ```mlir
    %y = dsc.rope %x, %cos, %sin {interleaved}
        : (tensor<?x?x9x64xf32>, tensor<?x?x32xf32>, tensor<?x?x32xf32>) -> tensor<?x?x9x64xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$input, Dsc_FloatTensor:$cos, Dsc_FloatTensor:$sin,
                       UnitAttr:$interleaved);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = "$input `,` $cos `,` $sin attr-dict `:` functional-type(operands, results)";
}

def Dsc_EmbeddingOp : Dsc_GraphOp<"embedding", [DeclareOpInterfaceMethods<
    PrecisionOpInterface, ["isLegalElementType", "getStoredOperand", "getRoundingError"]>], ["getElementCounts"]> {
  let summary = "rows of a table";
  let description = [{
    `result[.., :] = table[ids[..], :]`. An id outside the table reads the
    nearest row: callers check ids, kernels only stay in bounds.

    Example:
    ```mlir
    %y = dsc.embedding %t, %ids : (tensor<49152x576xf32>, tensor<?x?xi32>) -> tensor<?x?x576xf32>
    ```
  }];
  let arguments = (ins Dsc_NumberTensor:$table, Dsc_IndexTensor:$ids, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_NumberTensor:$result);
  let assemblyFormat = "$table `,` $ids (`precision` $precision^)? attr-dict `:` functional-type(operands, results)";
}

def Dsc_SoftmaxOp : Dsc_GraphOp<"softmax", [SameOperandsAndResultType, Dsc_Precision]> {
  let summary = "softmax over the last dimension";
  let description = [{
    `result = exp(input - max) / sum(exp(input - max))` over the last
    dimension, computed in f32 for f16 and bf16.

    Example:
    ```mlir
    %y = dsc.softmax %x : tensor<?x?xf32>
    ```
  }];
  let arguments = (ins Dsc_FloatTensor:$input, OptionalAttr<Dsc_PrecisionAttr>:$precision);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = "$input (`precision` $precision^)? attr-dict `:` type($result)";
  let hasFolder = 1;
}

//===----------------------------------------------------------------------===//
// Order: what one element depends on all before it for
//===----------------------------------------------------------------------===//

def Dsc_ScanOp : Dsc_GraphOp<"scan", [SameOperandsAndResultType]> {
  let summary = "running totals along the last dimension";
  let description = [{
    `result[.., i] = input[.., 0] op .. op input[.., i]`, `kind` being `add`, `mul`, `max`, `min`
    or `logaddexp` (`log(exp(a) + exp(b))`). A NaN stays. Totals of f16 and bf16 are kept in f32.

    Example:
    ```mlir
    %y = dsc.scan %x {kind = "add"} : tensor<?x?xf32>
    ```
  }];
  let arguments = (ins Dsc_NumberTensor:$input, StrAttr:$kind);
  let results = (outs Dsc_NumberTensor:$result);
  let assemblyFormat = "$input attr-dict `:` type($result)";
}

def Dsc_SortOp : Dsc_GraphOp<"sort"> {
  let summary = "the positions that sort the last dimension";
  let description = [{
    `input[.., result[.., 0]] <= input[.., result[.., 1]] <= ..`, `descending`
    the other way round. Integers are signed, a NaN is the greatest, equal
    elements keep their order. A result of known size, up to 256, holds the
    first positions only; zeros follow those of a shorter row.

    Example:
    ```mlir
    %order = dsc.sort %x {descending} : tensor<?x?xf32> -> tensor<?x64xi64>
    ```
  }];
  let arguments = (ins Dsc_NumberTensor:$input, UnitAttr:$descending);
  let results = (outs RankedTensorOf<[I64]>:$result);
  let assemblyFormat = "$input attr-dict `:` type($input) `->` type($result)";
  let extraClassDeclaration = "bool selects();"; // the first positions only
}

def Dsc_ScatterOp : Dsc_GraphOp<"scatter", [AllTypesMatch<["input", "result"]>]> {
  let summary = "rows written, or combined, at given positions";
  let description = [{
    `result = input`, then for every j in order `result[indices[j], :] =
    result[indices[j], :] op updates[j, :]`, `kind` being `set`, `add`, `mul`,
    `max` or `min`. A row outside `input` is not written.

    Example:
    ```mlir
    %y = dsc.scatter %x, %i, %u {kind = "add"} : (tensor<?x64xf32>, tensor<?xi64>, tensor<?x64xf32>) -> tensor<?x64xf32>
    ```
  }];
  let arguments = (ins Dsc_NumberTensor:$input, RankedTensorOf<[I64]>:$indices, Dsc_NumberTensor:$updates,
                       StrAttr:$kind);
  let results = (outs Dsc_NumberTensor:$result);
  let assemblyFormat = "$input `,` $indices `,` $updates attr-dict `:` functional-type(operands, results)";
}

def Dsc_DequantizeOp : Dsc_GraphOp<"dequantize"> {
  let summary = "values of a weight in a block format";
  let description = [{
    Each row of bytes holds blocks along the last dimension: of 32 weights in
    `q4_0`, `q4_1`, `q5_0`, `q5_1` and `q8_0`, of 256 in `q4_k`, `q5_k` and
    `q6_k`. They are laid out as ggml's `block_q4_0` .. `block_q6_K`
    (ggml-common.h of the GGML project, GGUF specification v3).

    `int4_gN`, `int8_gN`, `fp8_e4m3_gN` and `fp8_e5m2_gN` hold a scale and N
    codes, N being a multiple of 32 (a whole row, if it is one): two's complement
    bytes, floats of 8 bits (OCP 8-bit floating point, e4m3 without infinities),
    or nibbles with 8 added, laid out as those of `q4_0` for each 32 weights. A
    weight is its code times the scale. Scales are f16 for integers in groups of
    up to 128, else f32. Of these formats, codes and `scales` (f32, one for each
    block) may also be tensors of their own.

    With `panel` = t the bytes are those of `dsc.pack_blocks`: `[n / t, k, t]`.

    A weight stays in its blocks, and whoever multiplies with it decodes them in
    registers. `expanded`: its values are kept, computed when weights are bound.

    Example:
    ```mlir
    %y = dsc.dequantize %w {format = "q4_1"} : tensor<576x360xi8> -> tensor<576x576xf32>
    ```
  }];
  let arguments = (ins RankedTensorOf<[I8]>:$blocks, Optional<RankedTensorOf<[F32]>>:$scales, StrAttr:$format,
                       OptionalAttr<I64Attr>:$panel, UnitAttr:$expanded);
  let results = (outs Dsc_FloatTensor:$result);
  let assemblyFormat = "$blocks (`scales` $scales^ `:` type($scales))? attr-dict `:` type($blocks) `->` type($result)";
}

def Dsc_PackBlocksOp : Dsc_GraphOp<"pack_blocks"> {
  let summary = "a weight in a block format, in panels of rows";
  let description = [{
    Rows of blocks `[n, bytes]` as panels `[n / t, blocks, t * bytes of a block]`,
    the last one padded with zeros, t being `panel`. Within a panel the blocks of
    t rows lie together, cut into units: scales into halves of 2 bytes, all else
    into 4 bytes. Unit u of row r begins at `(t * u's place in a block + r * unit)`,
    so that one vector holds the same unit of adjacent rows.

    Example:
    ```mlir
    %p = dsc.pack_blocks %w {format = "q4_1", panel = 32 : i64} : tensor<576x360xi8> -> tensor<18x18x640xi8>
    ```
  }];
  let arguments = (ins RankedTensorOf<[I8]>:$blocks, StrAttr:$format, I64Attr:$panel);
  let results = (outs RankedTensorOf<[I8]>:$result);
  let assemblyFormat = "$blocks attr-dict `:` type($blocks) `->` type($result)";
}

#endif
