// RUN: dsc-opt %s --dsc-compile=target=cpu:x86-64-v4 | FileCheck %s
// RUN: dsc-opt %s --dsc-compile=target=cpu:x86-64-v4 --mlir-timing -o /dev/null 2>&1 | FileCheck %s --check-prefix=TIMING
// RUN: dsc-opt %s --dsc-compile=target=cpu:x86-64-v4 --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS

// Every phase continues where the module stands, through text or bytecode, and ends at the same IR as one go.
// Locations travel along: profiles name them.
// RUN: dsc-opt %s --dsc-compile=target=cpu:x86-64-v4 -o %t.once
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=import" --mlir-print-debuginfo | dsc-opt --dsc-compile -o %t.import
// RUN: diff %t.once %t.import
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=parallel" --mlir-print-debuginfo | dsc-opt --dsc-compile -o %t.parallel
// RUN: diff %t.once %t.parallel
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=fuse" --mlir-print-debuginfo | dsc-opt --dsc-compile -o %t.fuse
// RUN: diff %t.once %t.fuse
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule" --emit-bytecode | dsc-opt --dsc-compile=from=host -o %t.schedule
// RUN: diff %t.once %t.schedule
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=host" --mlir-print-debuginfo | dsc-opt --dsc-compile=to=codegen --mlir-print-debuginfo | dsc-opt --dsc-compile="from=llvm to=llvm" -o %t.host
// RUN: diff %t.once %t.host

// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=fuse" | FileCheck %s --check-prefix=FUSE
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule" | FileCheck %s --check-prefix=SCHEDULE

// RUN: not dsc-opt %s --dsc-compile=to=link 2>&1 | FileCheck %s --check-prefix=ERR-TO
// RUN: not dsc-opt %s --dsc-compile=from=link 2>&1 | FileCheck %s --check-prefix=ERR-FROM
// RUN: not dsc-opt %s --dsc-compile=from=host 2>&1 | FileCheck %s --check-prefix=ERR-EARLY
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=fuse" -o %t.at-fuse
// RUN: not dsc-opt %t.at-fuse --dsc-compile=from=import 2>&1 | FileCheck %s --check-prefix=ERR-AGAIN
// RUN: not dsc-opt %t.at-fuse --dsc-compile=target=cpu:x86-64-v3 2>&1 | FileCheck %s --check-prefix=ERR-TARGET
// RUN: not dsc-opt %s --dsc-compile=target=tpu 2>&1 | FileCheck %s --check-prefix=ERR-UNKNOWN
// RUN: echo 'module attributes {dsc.phase = "import"} {}' | not dsc-opt --dsc-compile 2>&1 | FileCheck %s --check-prefix=ERR-SYMBOLS
// ERR-SYMBOLS: error: stands behind phase import but lists no dsc.symbols
// RUN: echo 'module attributes {dsc.phase = "link"} {}' | not dsc-opt --dsc-compile 2>&1 | FileCheck %s --check-prefix=ERR-PHASE

// A failure writes the module and the pass that fails on it; running that gives the same message.
// RUN: sed 's/\["n", "_"\]/["n", "_", "_"]/' %s > %t.bad.mlir
// RUN: not dsc-opt %t.bad.mlir --dsc-compile=target=cpu:x86-64-v4 --mlir-pass-pipeline-crash-reproducer=%t.reproducer.mlir --mlir-pass-pipeline-local-reproducer --mlir-disable-threading 2>&1 | FileCheck %s --check-prefix=ERR-FAILS
// RUN: FileCheck %s --check-prefix=REPRODUCER --input-file=%t.reproducer.mlir
// RUN: not dsc-opt --run-reproducer %t.reproducer.mlir 2>&1 | FileCheck %s --check-prefix=ERR-FAILS

// CHECK: module attributes {dsc.manifest = {{.*}}, dsc.phase = "llvm", {{.*}}dsc.target = #dsc.target<"cpu:x86-64-v4"
// CHECK-DAG: llvm.func @dsc_main(%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr) -> i32
// CHECK-DAG: llvm.func @dsc_init(
// CHECK-DAG: llvm.func @dsc_main_shapes(
// CHECK-DAG: llvm.func internal @matmul_0(
// CHECK-NOT: unrealized_conversion_cast

// TIMING: Execution time report
// TIMING: CompilePass
// STATS: CompilePass

// FUSE: dsc.phase = "fuse"
// FUSE: func.func @init
// FUSE: func.func @main
// FUSE: dsc.dispatch
// SCHEDULE: dsc.phase = "schedule"
// SCHEDULE: dsc.launch [@matmul_0_rows1, @matmul_0]

// ERR-TO: error: unknown phase: "link", known are import, precision, parallel, fuse, schedule, host, codegen, llvm
// ERR-FROM: error: unknown phase: "link"
// ERR-EARLY: error: cannot run from phase host: the module stands before import
// ERR-AGAIN: error: cannot run from phase import: the module stands behind fuse
// ERR-TARGET: error: is already for target cpu:x86-64-v4, not cpu:x86-64-v3
// ERR-UNKNOWN: error: unknown target: "tpu", known are cpu,
// ERR-PHASE: error: unknown phase: "link"
// ERR-FAILS: error: 'func.func' op argument 0 needs one name per dimension, got: #dsc.dims<["n", "_", "_"]>
// REPRODUCER: func.func @main
// REPRODUCER: mlir_reproducer
// REPRODUCER: pipeline: "builtin.module(

#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @main(%x: tensor<?x64xf32> {dsc.name = "x", dsc.dims = #dsc.dims<["n", "_"]>},
                %w: tensor<64x48xf32> {dsc.weight = "w"}, %v: tensor<48xf32> {dsc.weight = "v"}) -> tensor<?x48xf32> {
  %n = dsc.dim "n" {max = 64 : i64} : index
  %0 = dsc.matmul %x, %w : (tensor<?x64xf32>, tensor<64x48xf32>) -> tensor<?x48xf32>
  %e = tensor.empty(%n) : tensor<?x48xf32>
  %1 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%0 : tensor<?x48xf32>) outs(%e : tensor<?x48xf32>) {
  ^bb0(%a: f32, %b: f32):
    %3 = math.tanh %a : f32
    linalg.yield %3 : f32
  } -> tensor<?x48xf32>
  %2 = dsc.rms_norm %1, %v {eps = 1.0e-05 : f64} : (tensor<?x48xf32>, tensor<48xf32>) -> tensor<?x48xf32>
  return %2 : tensor<?x48xf32>
}
