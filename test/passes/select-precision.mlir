// RUN: rm -rf %t.dir && split-file %s %t.dir && cd %t.dir
// RUN: dsc-opt module.mlir --dsc-select-precision=plan=plan.json --mlir-print-debuginfo --mlir-print-local-scope | FileCheck module.mlir
// Without a plan nothing changes.
// RUN: dsc-opt module.mlir --dsc-select-precision | FileCheck module.mlir --check-prefix=NONE
// RUN: dsc-opt module.mlir --dsc-name-dims --dsc-select-precision=plan=plan.json --dsc-legalize-precision --canonicalize --cse | FileCheck module.mlir --check-prefix=LEGAL
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=nowhere.json 2>&1 | FileCheck module.mlir --check-prefix=NOFILE
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=no-plan.json 2>&1 | FileCheck module.mlir --check-prefix=NOPLAN
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=no-op.json 2>&1 | FileCheck module.mlir --check-prefix=NOOP
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=twice.json 2>&1 | FileCheck module.mlir --check-prefix=TWICE
// RUN: dsc-opt invalid.mlir --dsc-select-precision=plan=twice-stored.json --verify-diagnostics
// RUN: dsc-opt fixed.mlir --dsc-select-precision=plan=fixed.json --verify-diagnostics
// RUN: dsc-opt other.mlir --dsc-select-precision=plan=other-model.json --verify-diagnostics
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=no-format.json 2>&1 | FileCheck module.mlir --check-prefix=NOFORMAT
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=ragged.json 2>&1 | FileCheck module.mlir --check-prefix=RAGGED
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=not-stored.json 2>&1 | FileCheck module.mlir --check-prefix=NOTSTORED
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=activation.json 2>&1 | FileCheck module.mlir --check-prefix=ACTIVATION
// RUN: not dsc-opt module.mlir --dsc-select-precision=plan=accumulate.json 2>&1 | FileCheck module.mlir --check-prefix=SUMS

//--- module.mlir
// SUMS: error: loc({{.*}}): 'dsc.matmul' op cannot follow the plan, which says "accumulate": "bf16", but sums are kept in f32
// NOFILE: error: the plan in nowhere.json cannot be used: No such file or directory
// NOPLAN: error: the plan in no-plan.json cannot be used: expected {"version": 1, "ops": [...]}
// NOOP: error: the plan in no-op.json cannot be used: entry 0 needs "at", a location, and "op"
// TWICE: error: the plan in twice.json cannot be used: entry 1 decides dsc.matmul at up_proj again
// NOFORMAT: error: loc({{.*}}): 'dsc.matmul' op cannot follow the plan, which says "weight": "int9_g64", which is no format
// RAGGED: error: loc({{.*}}): 'dsc.matmul' op cannot follow the plan, which says "weight": "int8_g128" of a tensor whose rows are not whole blocks of 128
// NOTSTORED: error: loc({{.*}}): 'dsc.rms_norm' op cannot follow the plan, which says "weight": "bf16", but reads nothing that is stored
// ACTIVATION: error: loc({{.*}}): 'dsc.matmul' op cannot follow the plan, which says "activation": "fp7_row", which is no format of activations

// CHECK-LABEL: func.func @main
// CHECK: dsc.rms_norm {{.*}} precision <reason = "sums">
// CHECK: dsc.matmul {{.*}} precision <lhs = bf16, rhs = bf16, acc = f32, storage = "int8_g64", reason = "budget">
// CHECK: dsc.matmul {{.*}} precision <lhs = f8E4M3FN, acc = f32, scales = [1, 96], storage = "fp8_e4m3_g96">
// NONE-NOT: precision

// The two weights become bytes; the activation of the second product is rounded in blocks of a row.
// LEGAL-LABEL: func.func @main
// LEGAL-SAME: tensor<96x198xi8> {{.*}}dsc.weight = "up"
// LEGAL-SAME: tensor<192x100xi8> {{.*}}dsc.weight = "down"
// LEGAL-DAG: %[[DOWN:.*]] = dsc.dequantize %{{.*}} {format = "fp8_e4m3_g96"} : tensor<192x100xi8> -> tensor<192x96xf32>
// LEGAL-DAG: %[[UP:.*]] = dsc.dequantize %{{.*}} {format = "int8_g64"} : tensor<96x198xi8> -> tensor<96x192xf32>
// LEGAL: %[[H:.*]] = dsc.matmul %{{.*}}, %[[UP]] precision <lhs = bf16, rhs = bf16, acc = f32, storage = "int8_g64", reason = "budget">
// LEGAL: arith.maximumf
// LEGAL: arith.truncf %{{.*}} : f32 to f8E4M3FN
// LEGAL: arith.extf %{{.*}} : f8E4M3FN to f32
// LEGAL: dsc.matmul %{{.*}}, %[[DOWN]] precision <acc = f32, storage = "fp8_e4m3_g96">
#id = affine_map<(d0, d1) -> (d0, d1)>
func.func @main(%x: tensor<?x192xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %g: tensor<192xf32> {dsc.weight = "norm"},
                %up: tensor<96x192xbf16> {dsc.weight = "up"}, %down: tensor<192x96xbf16> {dsc.weight = "down"}) -> tensor<?x192xf32> {
  %n = dsc.rms_norm %x, %g {eps = 1.0e-05 : f64} : (tensor<?x192xf32>, tensor<192xf32>) -> tensor<?x192xf32> loc("norm")
  %e = tensor.empty() : tensor<96x192xf32>
  %w = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]} ins(%up : tensor<96x192xbf16>) outs(%e : tensor<96x192xf32>) {
  ^bb0(%in: bf16, %out: f32):
    %v = arith.extf %in : bf16 to f32
    linalg.yield %v : f32
  } -> tensor<96x192xf32>
  %h = dsc.matmul %n, %w {transpose_rhs} : (tensor<?x192xf32>, tensor<96x192xf32>) -> tensor<?x96xf32> loc("up_proj")
  %y = dsc.matmul %h, %down {transpose_rhs} : (tensor<?x96xf32>, tensor<192x96xbf16>) -> tensor<?x192xf32> loc("down_proj")
  return %y : tensor<?x192xf32>
}

//--- invalid.mlir
func.func @main(%x: tensor<8x64xf32>, %w: tensor<64x64xf32> {dsc.weight = "w"}) -> tensor<8x64xf32> {
  // expected-error @below {{cannot follow the plan, which says "weight": "q9_0", which is no format}}
  %y = dsc.matmul %x, %w : (tensor<8x64xf32>, tensor<64x64xf32>) -> tensor<8x64xf32> loc("p"("invalid.mlir":3:3))
  return %y : tensor<8x64xf32>
}
//--- fixed.mlir
func.func @main(%x: tensor<1x1x2x64xf32>, %c: tensor<1x1x32xf32>) -> tensor<1x1x2x64xf32> {
  // expected-error @below {{cannot follow the plan: it computes in the types of its operands only}}
  %y = dsc.rope %x, %c, %c : (tensor<1x1x2x64xf32>, tensor<1x1x32xf32>, tensor<1x1x32xf32>) -> tensor<1x1x2x64xf32> loc("p"("fixed.mlir":3:3))
  return %y : tensor<1x1x2x64xf32>
}
//--- other.mlir
// expected-error @below {{the plan decides dsc.matmul at layers.7/up_proj, which this model does not have: it is a plan for another model}}
module {
}
//--- plan.json
{"version": 1, "ops": [
 {"at": "norm", "op": "dsc.rms_norm", "reason": "sums"},
 {"at": "up_proj", "op": "dsc.matmul", "weight": "int8_g64", "activation": "bf16", "reason": "budget"},
 {"at": "down_proj", "op": "dsc.matmul", "weight": "fp8_e4m3_row", "activation": "fp8_e4m3_row"}]}
//--- no-plan.json
{"version": 1}
//--- no-op.json
{"version": 1, "ops": [{"at": "up_proj"}]}
//--- twice.json
{"version": 1, "ops": [{"at": "up_proj", "op": "dsc.matmul"}, {"at": "up_proj", "op": "dsc.matmul"}]}
//--- other-model.json
{"version": 1, "ops": [{"at": "layers.7/up_proj", "op": "dsc.matmul"}]}
//--- no-format.json
{"version": 1, "ops": [{"at": "up_proj", "op": "dsc.matmul", "weight": "int9_g64"}]}
//--- ragged.json
{"version": 1, "ops": [{"at": "up_proj", "op": "dsc.matmul", "weight": "int8_g128"}]}
//--- not-stored.json
{"version": 1, "ops": [{"at": "norm", "op": "dsc.rms_norm", "weight": "bf16"}]}
//--- activation.json
{"version": 1, "ops": [{"at": "up_proj", "op": "dsc.matmul", "activation": "fp7_row"}]}
//--- twice-stored.json
{"version": 1, "ops": [{"at": "p", "op": "dsc.matmul", "weight": "q9_0"}]}
//--- fixed.json
{"version": 1, "ops": [{"at": "p", "op": "dsc.rope", "activation": "bf16"}]}
//--- accumulate.json
{"version": 1, "ops": [{"at": "up_proj", "op": "dsc.matmul", "accumulate": "bf16"}]}
