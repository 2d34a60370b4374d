include "mlir/Pass/PassBase.td"

class Dsc_Pass<string name> : Pass<name, "::mlir::ModuleOp"> {
  let dependentDialects = ["::mlir::dsc::DscDialect"];
}

//===----------------------------------------------------------------------===//
// Driver
//===----------------------------------------------------------------------===//

def CompilePass : Dsc_Pass<"dsc-compile"> {
  let summary = "Run a span of the phases import .. llvm";
  let description = [{
    Phases: import, precision, parallel, fuse, schedule, host, codegen, llvm.
    `from` defaults to the phase after the module's `dsc.phase`, or to import;
    `to` is the last phase that runs. The module then says `dsc.phase = TO`.

    ```mlir
    module {...}
    ==>
    module attributes {dsc.phase = "llvm", dsc.target = #dsc.target<...>} {...}
    ```
  }];
  let options = [
    Option<"target", "target", "std::string", "", "cpu[:native|x86-64|x86-64-v3|x86-64-v4|aarch64][+strict]; default: the module's, else cpu">,
    Option<"from", "from", "std::string", "", "first phase to run">,
    Option<"to", "to", "std::string", "\"llvm\"", "last phase to run">,
    Option<"plan", "plan", "std::string", "", "file of precisions, see --dsc-select-precision">,
    Option<"schedules", "schedules", "std::string", "", "file of schedules, see --dsc-schedule-dispatches">,
    Option<"record", "record", "std::string", "", "file that the chosen schedules are added to">,
    Option<"checkInplace", "check-inplace", "bool", "false", "fail if a tied buffer would be copied">];
}

def SetTargetPass : Dsc_Pass<"dsc-set-target"> {
  let summary = "Write the target description on the module";
  let description = [{
    `cpu` is this machine's processor. A module that has a target keeps it
    when `target` is empty; another target than the module's is an error.
    Results are the same for any number of threads. With `+strict` behind the
    name, no instruction is used that flushes subnormals or adds products in an
    order of its own (AVX512-BF16, AMX-BF16).

    ```mlir
    module {}
    ==>
    module attributes {dsc.target = #dsc.target<"cpu:x86-64-v4", ...>} {}
    ```
  }];
  let options = [Option<"target", "target", "std::string", "", "as for --dsc-compile">];
}

def MarkPhasePass : Dsc_Pass<"dsc-mark-phase"> {
  let summary = "Record the phase that the module has completed";
  let description = [{
    ```mlir
    module {}
    ==>
    module attributes {dsc.phase = "fuse"} {}
    ```
  }];
  let options = [Option<"phase", "phase", "std::string", "", "name of the phase">];
}

//===----------------------------------------------------------------------===//
// Import
//===----------------------------------------------------------------------===//

def NormalizePass : Dsc_Pass<"dsc-normalize"> {
  let summary = "Write elementwise and named operations as linalg.generic";
  let description = [{
    `linalg.fill` stays: it says that a value is the same everywhere.

    ```mlir
    %y = arith.addf %a, %b : tensor<?xf32>
    ==>
    %y = linalg.generic {...} ins(%a, %b) outs(...) { arith.addf }
    ```
  }];
}

def NameDimsPass : Dsc_Pass<"dsc-name-dims"> {
  let summary = "Name every dynamic dimension and express all sizes in the names";
  let description = [{
    An argument dimension without a name gets one (`arg0_1`). Every
    `tensor.dim` whose size is known in terms of the names becomes arithmetic
    on `dsc.dim`.

    ```mlir
    func.func @main(%x: tensor<?xf32>) { %n = tensor.dim %x, %c0 : tensor<?xf32> ... }
    ==>
    func.func @main(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["arg0_0"]>}) { %n = dsc.dim "arg0_0" : index ... }
    ```
  }];
}

def RaisePass : Dsc_Pass<"dsc-raise"> {
  let summary = "Recognise norms, rotary embeddings and attention in what frontends write";
  let description = [{
    Elements are followed through every transpose, reshape, slice and joint, so
    that a pattern holds for each layout: sums of squares under a root become
    `dsc.rms_norm` or `dsc.layer_norm`, pairs that are rotated `dsc.rope`, a
    softmax between two products `dsc.attention`. Masks become `causal` and
    `window` where they are known to say that; else they stay an operand.

    Sums stay in f32 and results are rounded once, where a frontend may round
    between. What stands between two products and is no attention is named in
    `dsc.not_raised` and in a remark.

    ```mlir
    %p = dsc.softmax %scores : tensor<?x4x?x?xf32>
    %y = dsc.matmul %p, %v : (tensor<?x4x?x?xf32>, tensor<?x4x?x16xf32>) -> tensor<?x4x?x16xf32>
    ==>
    %y = dsc.attention %q, %k, %v {causal, scale = 0.25 : f32} : ...
    ```
  }];
}

def AnnotateCostPass : Dsc_Pass<"dsc-annotate-cost"> {
  let summary = "Write what each operation costs as an expression in the named dimensions";
  let description = [{
    `operations` are arithmetic operations (a fused multiply-add counts two),
    `bytes` what is read of the operands and written of the results. A dispatch
    costs what the operations inside compute, and the bytes that cross its
    boundary; these stand in the manifest, for profiles. A cache counts as full.
    For a GPU, `predicted_ns` is the time that a scheduled dispatch takes at the
    rates of the data sheet, a prediction: the longer of computing, in whole waves
    of blocks where sizes are known, and of reading and writing.

    ```mlir
    %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    ==>
    %y = dsc.matmul %x, %w {dsc.cost = {bytes = "s * 2560 + 147456", operations = "s * 73728"}} : ...
    ```
  }];
}

//===----------------------------------------------------------------------===//
// Precision
//===----------------------------------------------------------------------===//

def SelectPrecisionPass : Dsc_Pass<"dsc-select-precision"> {
  let summary = "Write the precision of every operation that a plan names";
  let description = [{
    A plan is JSON: `{"version": 1, "ops": [...]}`. Each entry names operations
    by the location they come from, `at`, and by their name, `op`; and says the
    formats of what they read and how they compute: `weight` (a block format of
    `dsc.dequantize`, with `_row` for one scale per row, or f32, f16, bf16),
    `activation` (f32, bf16, or a float of 8 bits with `_gN` or `_row`),
    `kv_cache` (f32, f16), and `reason`. Other keys are for people. A format
    that an operation cannot have, and an entry without an operation, are
    errors; operations without an entry stay as written.

    ```mlir
    %y = dsc.matmul %x, %w {transpose_rhs} : ... loc("layers.0/mlp/up_proj")
    ==>
    %y = dsc.matmul %x, %w precision <lhs = bf16, rhs = bf16, acc = f32, storage = "int8_g64", reason = "..."> ...
    ```
  }];
  let options = [Option<"plan", "plan", "std::string", "", "JSON file; default: nothing changes">];
  let statistics = [Statistic<"decided", "decided", "operations with a decision">];
}

include "passes/RangeAnalysis.td"

def LegalizePrecisionPass : Dsc_Pass<"dsc-legalize-precision"> {
  let summary = "Make what precisions ask for explicit: types of weights and caches, decoding, casts";
  let description = [{
    The `storage` of a decision becomes the type of the argument that an
    operation's stored operand comes from, which then is decoded or widened
    before it is read. Who calls the module provides weights in that form: the
    argument says `dsc.weight` as before. All readers of one argument must have
    decided the same. Activations in 8 bits are rounded where they are read, by
    the greatest magnitude of each block of `scales`.

    ```mlir
    func.func @main(%x: tensor<?x64xf32>, %w: tensor<8x64xbf16> {dsc.weight = "w"}) ...
      %0 = linalg.generic {...} ins(%w) ... arith.extf
      %y = dsc.matmul %x, %0 precision <storage = "q8_0"> {transpose_rhs} : ...
    ==>
    func.func @main(%x: tensor<?x64xf32>, %w: tensor<8x68xi8> {dsc.weight = "w"}) ...
      %0 = dsc.dequantize %w {format = "q8_0"} : tensor<8x68xi8> -> tensor<8x64xf32>
      %y = dsc.matmul %x, %0 precision <storage = "q8_0"> {transpose_rhs} : ...
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::linalg::LinalgDialect",
                           "::mlir::math::MathDialect", "::mlir::tensor::TensorDialect"];
  let statistics = [Statistic<"retyped", "retyped", "arguments with another type">,
                    Statistic<"rounded", "rounded", "activations that are rounded">];
}

//===----------------------------------------------------------------------===//
// Fuse
//===----------------------------------------------------------------------===//

def PackMatmulPass : Dsc_Pass<"dsc-pack-matmul"> {
  let summary = "Let weights of matmuls be stored in column panels";
  let description = [{
    A right side that depends on weights alone becomes panels as wide as two
    vector registers, so that a kernel reads it as one stream. The packing
    itself moves to `@init` with the rest of what depends on weights.

    ```mlir
    %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    ==>
    %p = linalg.pack %w ... into tensor<2x576x32xf32>
    %y = dsc.matmul %x, %p {packed_columns = 64} : (tensor<?x576xf32>, tensor<2x576x32xf32>) -> tensor<?x64xf32>
    ```

    A GPU reads matrices as they lie: left sides that may be rounded to bf16
    are, where they are made, and blocks of a weight are decoded by its reader.
    Where the left side was rounded to 8-bit floats in blocks (`dsc.rounded`, of
    --dsc-legalize-precision) and the weight is stored so, both become codes and
    scales for sm_90a, which multiplies codes: %rounded becomes
    `dsc.dequantize %codes scales %scales {format = "fp8_e4m3_g128"}`.
  }];
  let options = [Option<"panel", "panel", "int64_t", "0", "columns of a panel; 0: two vector registers">];
  let statistics = [Statistic<"packed", "packed-weights", "matmuls whose weight is packed">];
}

def FormDispatchesPass : Dsc_Pass<"dsc-form-dispatches"> {
  let summary = "Group operations into dispatches";
  let description = [{
    One operation that computes (a matmul, attention, a normalization, a
    reduction) with the elementwise operations that consume its result at the
    same index, and the producers that it reads once per element. Reshapes
    stay outside: they only rename an index.

    ```mlir
    %0 = dsc.matmul %x, %w : ...
    %1 = linalg.generic {adds} ins(%0, %r) ...
    ==>
    %1 = dsc.dispatch (%x, %w, %r) ... { dsc.matmul, linalg.generic, dsc.yield }
    ```
  }];
  let statistics = [Statistic<"dispatches", "dispatches", "dispatch regions">];
}

def HoistWeightsPass : Dsc_Pass<"dsc-hoist-weights"> {
  let summary = "Move what depends on weights alone into @init";
  let description = [{
    Results that the rest needs become results of `@init` and arguments
    `{dsc.prepared = I}` of `@main`; weights that only `@init` reads leave the
    signature of `@main`.

    ```mlir
    func.func @main(%x, %w {dsc.weight = "w"}) { %p = dsc.dispatch (%w) {packs} ; %y = dsc.dispatch (%x, %p) ... }
    ==>
    func.func @init(%w {dsc.weight = "w"}) { %p = dsc.dispatch (%w) {packs} ; return %p }
    func.func @main(%x, %p {dsc.prepared = 0}) { %y = dsc.dispatch (%x, %p) ... }
    ```
  }];
  let statistics = [Statistic<"hoisted", "hoisted", "dispatches moved into @init">];
}

//===----------------------------------------------------------------------===//
// Schedule
//===----------------------------------------------------------------------===//

def ScheduleDispatchesPass : Dsc_Pass<"dsc-schedule-dispatches"> {
  let summary = "Choose tiles, workgroups and variants for every undecided dispatch";
  let description = [{
    Asks the dispatch's main operation for its default on the target. A
    schedule that is there already is kept. `schedules` names a JSON file whose
    schedules come before the default, where target and kernel are the same;
    `record` one that gets all that were chosen, beside those it has:

    ```json
    {"version": 1, "schedules": [{"target": "#dsc.target<...>", "kernel": "5f0c2a...", "where": "layers.0/mlp/up_proj",
                                  "op": "dsc.matmul", "schedule": "#dsc.schedule<<...>>"} ] }
    ```

    ```mlir
    dsc.dispatch (%x, %w) : ...
    ==>
    dsc.dispatch (%x, %w) schedule <<max_rows = 1, tile = [1, 32], ...>, <tile = [12, 32], ...>> : ...
    ```
  }];
  let options = [
    Option<"schedules", "schedules", "std::string", "", "file of schedules that come before the default">,
    Option<"record", "record", "std::string", "", "file that the chosen schedules are added to">];
  let statistics = [Statistic<"fromFile", "from-file", "dispatches whose schedule the file had">];
}

def OutlineKernelsPass : Dsc_Pass<"dsc-outline-kernels"> {
  let summary = "Turn dispatches into kernel functions and merge equal ones";
  let description = [{
    One function per variant. Dispatches with the same region, schedule and
    dimensions share their kernels: weights are arguments. A kernel that leaves
    partial results names the one that merges them in `dsc.merge`.

    ```mlir
    %0 = dsc.dispatch (%x, %w0) {...}
    %1 = dsc.dispatch (%0, %w1) {...}
    ==>
    %0 = dsc.launch [@matmul_0] (%x, %w0) ...
    %1 = dsc.launch [@matmul_0] (%0, %w1) ...
    func.func private @matmul_0(...) attributes {dsc.kernel, dsc.schedule = ...}
    ```
  }];
  let statistics = [Statistic<"dispatches", "dispatches", "launches">,
                    Statistic<"kernels", "kernels", "distinct kernels, variants not counted">];
}

def BatchLaunchesPass : Dsc_Pass<"dsc-batch-launches"> {
  let summary = "Let independent launches run beside each other";
  let description = [{
    Marks a launch `concurrent` when neither it nor its batch before it reads what
    the next launch writes, nor the other way round. One batch wakes the threads
    once and is cut into even parts as a whole.

    ```mlir
    %q = dsc.launch [@matmul_0] (%x, %wq) ...
    %k = dsc.launch [@matmul_1] (%x, %wk) ...
    ==>
    %q = dsc.launch [@matmul_0] (%x, %wq) {concurrent} ...
    %k = dsc.launch [@matmul_1] (%x, %wk) ...
    ```
  }];
  let statistics = [Statistic<"batched", "batched", "launches that run beside the next">];
}

//===----------------------------------------------------------------------===//
// Host
//===----------------------------------------------------------------------===//

def LowerHostPass : Dsc_Pass<"dsc-lower-host"> {
  let summary = "Make the host program: buffers, arena, launches";
  let description = [{
    Results that leave the function are written into the caller's buffers; all
    else gets a place in one arena whose offsets are expressions in the named
    dimensions. Tied results share their input's buffer. A kernel with partial
    results is launched with a place for them, and behind it the one that merges
    them. Adds the module's `dsc.manifest` and `@main_shapes`.

    ```mlir
    %0 = dsc.launch [@k] (%x) : (tensor<?xf32>) -> tensor<?xf32>
    ==>
    %a, %ok = dsc.arena %bytes : memref<?xi8>
    %0 = memref.view %a[%c0][%n] : memref<?xi8> to memref<?xf32>
    dsc.launch [@k] (%x, %0) workgroups %g ...
    ```
  }];
  let statistics = [Statistic<"buffers", "arena-buffers", "places in the arena">];
}

def CheckInplacePass : Dsc_Pass<"dsc-check-inplace"> {
  let summary = "Fail if the buffer of a tied result would be copied";
  let description = [{
    Every result of `@main` that is tied to an argument must be that argument,
    updated through tied dispatches or launches only. Changes nothing.

    ```mlir
    %c1 = linalg.copy ins(%c0) ...   // returned as {dsc.tied = 0}
    ==>
    error: a tied buffer is copied
    ```
  }];
}

//===----------------------------------------------------------------------===//
// Codegen and LLVM
//===----------------------------------------------------------------------===//

def GenerateKernelsPass : Dsc_Pass<"dsc-generate-kernels"> {
  let summary = "Write kernels as loops over vectors";
  let description = [{
    The kernel's main operation writes the loop nest that its schedule
    describes; producers and consumers are computed in registers inside it.

    ```mlir
    func.func private @k(%x: tensor<?xf32>) -> tensor<?xf32> attributes {dsc.kernel}
    ==>
    func.func private @k(%x: memref<?xf32>, %y: memref<?xf32>, %workgroup: index) { scf.for ... vector.maskedload ... }
    ```
  }];
}

def ExpandMathPass : Dsc_Pass<"dsc-expand-math"> {
  let summary = "Expand transcendental functions and inexact casts, never calling libm";
  let description = [{
    Afterwards no operation is left that LLVM would turn into a call of libm or
    compiler-rt. f16 and bf16 are computed in f32 and rounded to nearest even;
    casts keep subnormals. Integers divided by zero give 0, floats that do not
    fit an integer the lowest one; nothing traps. Largest errors in ulp:

    | function | f32 | f64 |
    |---|---|---|
    | exp, exp2 | 1 | 1 |
    | log, log2, log10, log1p, sin, cos, asin, acos, atan, cbrt, powf, fpowi | 0.51 | 1 |
    | expm1, tan, atan2, erf | 0.51 | 1.5 |
    | sinh, cosh, tanh | 0.51 | 2 |
    | asinh, acosh, atanh | 0.51 | 2.5 |
    | erfc | 0.51 | 3 |
    | rsqrt | 1.5 | 1.5 |
    | casts, remf, floor, ceil, trunc, round, roundeven | exact or rounded once | the same |

    ```mlir
    %y = math.exp %x : vector<16xf32>
    ==>
    (fma and integer arithmetic)
    ```
  }];
  let dependentDialects = ["::mlir::arith::ArithDialect", "::mlir::math::MathDialect", "::mlir::scf::SCFDialect",
                           "::mlir::vector::VectorDialect"];
}

def LowerAbiPass : Dsc_Pass<"dsc-lower-abi"> {
  let summary = "Give functions the calling convention of libdsc_rt";
  let description = [{
    Kernels take `(buffers, dims, workgroup)`, programs `(rt, buffers, dims)`
    and return a status; `dsc.launch`, `dsc.arena` and `dsc.dim` become calls
    and loads.

    ```mlir
    func.func private @k(%x: memref<?xf32>, %workgroup: index) attributes {dsc.kernel}
    ==>
    llvm.func internal @k(%buffers: !llvm.ptr, %dims: !llvm.ptr, %workgroup: i64)
    ```
  }];
}

def EmitPtxPass : Dsc_Pass<"dsc-emit-ptx"> {
  let summary = "Turn a GPU's kernels into PTX in the manifest";
  let description = [{
    Every kernel becomes a text of its own, under its name in `kernels` of
    `dsc.manifest`. What is left is the host program.

    ```mlir
    llvm.func @k(%x: !llvm.ptr, %s: i64, %workgroups: i64) attributes {dsc.kernel, nvvm.kernel}
    ==>
    module attributes {dsc.manifest = {kernels = {k = {ptx = ".version 8.0 ..", threads = 256 : i64}}, ..}}
    ```
  }];
}

def MovedFloatsAsBitsPass : Dsc_Pass<"dsc-moved-floats-as-bits"> {
  let summary = "Move 16-bit floats as integers";
  let description = [{
    LLVM loads, selects and permutes integers on every CPU; f16 and bf16 become
    calls of compiler-rt where the CPU has no such type.

    ```mlir
    %0 = llvm.intr.masked.load %p, %m, %zeros : (...) -> vector<8xbf16>
    ==>
    %0 = llvm.intr.masked.load %p, %m, %bits : (...) -> vector<8xi16>
    %1 = llvm.bitcast %0 : vector<8xi16> to vector<8xbf16>
    ```
  }];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect"];
}
