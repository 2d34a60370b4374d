// RUN: dsc-opt %s | dsc-opt | FileCheck %s
// RUN: dsc-opt %s --mlir-print-op-generic | dsc-opt | FileCheck %s
// RUN: dsc-opt %s --emit-bytecode | dsc-opt | FileCheck %s
// RUN: dsc-opt %s --mlir-print-op-generic | FileCheck %s --check-prefix=GENERIC

// CHECK-LABEL: func.func @dim
// CHECK: dsc.dim "s" : index
// CHECK: dsc.dim "layer.0_k" {divisor = 16 : i64, max = 8192 : i64, min = 1 : i64} : index
// GENERIC: "dsc.dim"() <{symbol = "s"}> : () -> index
func.func @dim() -> (index, index) {
  %0 = dsc.dim "s" : index
  %1 = dsc.dim "layer.0_k" {min = 1 : i64, max = 8192 : i64, divisor = 16 : i64} : index
  return %0, %1 : index, index
}

// CHECK-LABEL: func.func @dispatch
// CHECK: dsc.dispatch(%{{.*}}, %{{.*}}) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
// CHECK-NEXT: ^bb0(%[[A:.*]]: tensor<?x576xf32>, %[[B:.*]]: tensor<576x64xf32>):
// CHECK-NEXT: %[[Y:.*]] = dsc.matmul %[[A]], %[[B]]
// CHECK-NEXT: dsc.yield %[[Y]] : tensor<?x64xf32>
func.func @dispatch(%x: tensor<?x576xf32>, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
  %y = dsc.dispatch (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x576xf32>, %b: tensor<576x64xf32>):
    %0 = dsc.matmul %a, %b : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    dsc.yield %0 : tensor<?x64xf32>
  }
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @dispatch_tied
// CHECK: dsc.dispatch(%{{.*}}, %{{.*}}) tied [0, -1] schedule <<tile = [1, 16], workgroup = [16, 4096]>> attributes {note = "x"}
// GENERIC-LABEL: sym_name = "dispatch_tied"
// GENERIC: "dsc.dispatch"(%{{.*}}, %{{.*}}) <{schedule = #dsc.schedule<<tile = [1, 16], workgroup = [16, 4096]>>, tied = array<i64: 0, -1>}> ({
func.func @dispatch_tied(%x: tensor<4xf32>, %y: tensor<8xf32>) -> (tensor<4xf32>, tensor<8xf32>) {
  %0:2 = dsc.dispatch (%x, %y) tied [0, -1] schedule <<tile = [1, 16], workgroup = [16, 4096]>>
      attributes {note = "x"} : (tensor<4xf32>, tensor<8xf32>) -> (tensor<4xf32>, tensor<8xf32>) {
  ^bb0(%a: tensor<4xf32>, %b: tensor<8xf32>):
    dsc.yield %a, %b : tensor<4xf32>, tensor<8xf32>
  }
  return %0#0, %0#1 : tensor<4xf32>, tensor<8xf32>
}

// The terminator of a dispatch without results is implied.
// CHECK-LABEL: func.func @dispatch_without_results
// CHECK: dsc.dispatch() : () -> () {
// CHECK-NEXT: }
func.func @dispatch_without_results() {
  dsc.dispatch () : () -> () {
  }
  return
}

func.func private @kernel_rows1(tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
func.func private @kernel(tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>

// CHECK-LABEL: func.func @launch_on_tensors
// CHECK: dsc.launch [@kernel_rows1, @kernel](%{{.*}}, %{{.*}}) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
// CHECK: dsc.launch [@kernel](%{{.*}}) tied [0] : (tensor<?x64xf32>) -> tensor<?x64xf32>
func.func @launch_on_tensors(%x: tensor<?x576xf32>, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
  %y = dsc.launch [@kernel_rows1, @kernel] (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
  %z = dsc.launch [@kernel] (%y) tied [0] : (tensor<?x64xf32>) -> tensor<?x64xf32>
  return %z : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @launch_on_buffers
// CHECK: dsc.launch [@kernel](%{{.*}}, %{{.*}}) workgroups %{{.*}} {dispatch = 3 : i64} : (memref<?x576xf32>, memref<?x64xf32>) -> ()
func.func @launch_on_buffers(%x: memref<?x576xf32>, %y: memref<?x64xf32>, %n: index) {
  dsc.launch [@kernel] (%x, %y) workgroups %n {dispatch = 3 : i64} : (memref<?x576xf32>, memref<?x64xf32>) -> ()
  return
}

// CHECK-LABEL: func.func @arena
// CHECK: %{{.*}}, %{{.*}} = dsc.arena %{{.*}} : memref<?xi8>
func.func @arena(%bytes: index) -> (memref<?xi8>, i1) {
  %arena, %ok = dsc.arena %bytes : memref<?xi8>
  return %arena, %ok : memref<?xi8>, i1
}

// CHECK-LABEL: func.func @matmul
// CHECK: dsc.matmul %{{.*}}, %{{.*}} {transpose_rhs} : (tensor<?x?x576xf32>, tensor<1536x576xf32>) -> tensor<?x?x1536xf32>
// GENERIC-LABEL: sym_name = "matmul"
// GENERIC: "dsc.matmul"(%{{.*}}, %{{.*}}) <{transpose_rhs}>
func.func @matmul(%x: tensor<?x?x576xf32>, %w: tensor<1536x576xf32>) -> tensor<?x?x1536xf32> {
  %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x?x576xf32>, tensor<1536x576xf32>) -> tensor<?x?x1536xf32>
  return %y : tensor<?x?x1536xf32>
}

// CHECK-LABEL: func.func @matmul_bias_precision
// CHECK: dsc.matmul %{{.*}}, %{{.*}} bias %{{.*}} precision <lhs = bf16, acc = f32, reason = "plan"> {transpose_lhs}
func.func @matmul_bias_precision(%x: tensor<576x?xf32>, %w: tensor<576x64xf32>, %b: tensor<64xf32>) -> tensor<?x64xf32> {
  %y = dsc.matmul %x, %w bias %b precision <lhs = bf16, acc = f32, reason = "plan"> {transpose_lhs}
      : (tensor<576x?xf32>, tensor<576x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// CHECK-LABEL: func.func @matmul_batched_integer
// CHECK: dsc.matmul %{{.*}}, %{{.*}} : (tensor<3x4x5xi32>, tensor<3x5x6xi32>) -> tensor<3x4x6xi32>
func.func @matmul_batched_integer(%x: tensor<3x4x5xi32>, %y: tensor<3x5x6xi32>) -> tensor<3x4x6xi32> {
  %0 = dsc.matmul %x, %y : (tensor<3x4x5xi32>, tensor<3x5x6xi32>) -> tensor<3x4x6xi32>
  return %0 : tensor<3x4x6xi32>
}

// CHECK-LABEL: func.func @matmul_packed
// CHECK: dsc.matmul %{{.*}}, %{{.*}} {packed_columns = 40 : i64} : (tensor<?x8xbf16>, tensor<2x8x32xbf16>) -> tensor<?x40xf32>
func.func @matmul_packed(%x: tensor<?x8xbf16>, %w: tensor<2x8x32xbf16>) -> tensor<?x40xf32> {
  %y = dsc.matmul %x, %w {packed_columns = 40 : i64} : (tensor<?x8xbf16>, tensor<2x8x32xbf16>) -> tensor<?x40xf32>
  return %y : tensor<?x40xf32>
}

// CHECK-LABEL: func.func @matmul_packed_rows
// CHECK: dsc.matmul %{{.*}}, %{{.*}} {packed_columns = 40 : i64, packed_rows = 24 : i64} : (tensor<2x4x12x2xbf16>, tensor<2x4x32x2xbf16>) -> tensor<24x40xf32>
func.func @matmul_packed_rows(%x: tensor<2x4x12x2xbf16>, %w: tensor<2x4x32x2xbf16>) -> tensor<24x40xf32> {
  %y = dsc.matmul %x, %w {packed_columns = 40 : i64, packed_rows = 24 : i64}
      : (tensor<2x4x12x2xbf16>, tensor<2x4x32x2xbf16>) -> tensor<24x40xf32>
  return %y : tensor<24x40xf32>
}

// CHECK-LABEL: func.func @attention
// CHECK: dsc.attention %{{.*}}, %{{.*}}, %{{.*}} precision <acc = f32> {scale = 1.250000e-01 : f32} : (tensor<?x?x9x64xbf16>, tensor<?x?x3x64xbf16>, tensor<?x?x3x64xbf16>) -> tensor<?x?x9x64xbf16>
func.func @attention(%q: tensor<?x?x9x64xbf16>, %k: tensor<?x?x3x64xbf16>, %v: tensor<?x?x3x64xbf16>) -> tensor<?x?x9x64xbf16> {
  %y = dsc.attention %q, %k, %v precision <acc = f32> {scale = 0.125 : f32}
      : (tensor<?x?x9x64xbf16>, tensor<?x?x3x64xbf16>, tensor<?x?x3x64xbf16>) -> tensor<?x?x9x64xbf16>
  return %y : tensor<?x?x9x64xbf16>
}

// CHECK-LABEL: func.func @attention_cache
// CHECK: dsc.attention %{{.*}} cache %{{.*}} lengths %{{.*}} {causal, scale = 1.250000e-01 : f32} : (tensor<?x?x9x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x?x9x64xf32>
// GENERIC-LABEL: sym_name = "attention_cache"
// GENERIC: "dsc.attention"(%{{.*}}, %{{.*}}, %{{.*}}) <{causal, operandSegmentSizes = array<i32: 1, 0, 0, 1, 1, 0>, scale = 1.250000e-01 : f32}>
func.func @attention_cache(%q: tensor<?x?x9x64xf32>, %c: tensor<?x2x3x?x64xf32>, %n: tensor<?xi32>) -> tensor<?x?x9x64xf32> {
  %y = dsc.attention %q cache %c lengths %n {causal, scale = 0.125 : f32}
      : (tensor<?x?x9x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x?x9x64xf32>
  return %y : tensor<?x?x9x64xf32>
}

// CHECK-LABEL: func.func @kv_append
// CHECK: dsc.kv_append %{{.*}}, %{{.*}} into %{{.*}} at %{{.*}} : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
func.func @kv_append(%k: tensor<?x?x3x64xf32>, %v: tensor<?x?x3x64xf32>, %c0: tensor<?x2x3x?x64xf32>, %p: tensor<?xi32>) -> tensor<?x2x3x?x64xf32> {
  %c1 = dsc.kv_append %k, %v into %c0 at %p
      : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
  return %c1 : tensor<?x2x3x?x64xf32>
}

// Reading the old state before the append is linear use.
// CHECK-LABEL: func.func @kv_read_then_append
// CHECK: dsc.attention
// CHECK: dsc.kv_append
func.func @kv_read_then_append(%q: tensor<?x?x3x64xf32>, %c0: tensor<?x2x3x?x64xf32>, %p: tensor<?xi32>) -> (tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>) {
  %y = dsc.attention %q cache %c0 lengths %p {scale = 1.0 : f32}
      : (tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x?x3x64xf32>
  %c1 = dsc.kv_append %q, %q into %c0 at %p
      : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
  return %y, %c1 : tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>
}

// CHECK-LABEL: func.func @rms_norm
// CHECK: dsc.rms_norm %{{.*}}, %{{.*}} {eps = 1.000000e-05 : f64} : (tensor<?x576xf32>, tensor<576xf32>) -> tensor<?x576xf32>
func.func @rms_norm(%x: tensor<?x576xf32>, %w: tensor<576xf32>) -> tensor<?x576xf32> {
  %y = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x576xf32>, tensor<576xf32>) -> tensor<?x576xf32>
  return %y : tensor<?x576xf32>
}

// CHECK-LABEL: func.func @layer_norm
// CHECK: dsc.layer_norm %{{.*}} weight %{{.*}} bias %{{.*}} {eps = 1.000000e-05 : f64}
// CHECK: dsc.layer_norm %{{.*}} {eps = 1.000000e-05 : f64} : (tensor<?x768xf32>) -> tensor<?x768xf32>
func.func @layer_norm(%x: tensor<?x768xf32>, %w: tensor<768xf32>, %b: tensor<768xf32>) -> tensor<?x768xf32> {
  %y = dsc.layer_norm %x weight %w bias %b {eps = 1.0e-05 : f64}
      : (tensor<?x768xf32>, tensor<768xf32>, tensor<768xf32>) -> tensor<?x768xf32>
  %z = dsc.layer_norm %y {eps = 1.0e-05 : f64} : (tensor<?x768xf32>) -> tensor<?x768xf32>
  return %z : tensor<?x768xf32>
}

// CHECK-LABEL: func.func @rope
// CHECK: dsc.rope %{{.*}}, %{{.*}}, %{{.*}} {interleaved} : (tensor<?x?x9x64xf32>, tensor<?x?x32xf32>, tensor<?x?x32xf32>) -> tensor<?x?x9x64xf32>
func.func @rope(%x: tensor<?x?x9x64xf32>, %cos: tensor<?x?x32xf32>, %sin: tensor<?x?x32xf32>) -> tensor<?x?x9x64xf32> {
  %y = dsc.rope %x, %cos, %sin {interleaved}
      : (tensor<?x?x9x64xf32>, tensor<?x?x32xf32>, tensor<?x?x32xf32>) -> tensor<?x?x9x64xf32>
  return %y : tensor<?x?x9x64xf32>
}

// CHECK-LABEL: func.func @embedding
// CHECK: dsc.embedding %{{.*}}, %{{.*}} : (tensor<49152x576xf32>, tensor<?x?xi32>) -> tensor<?x?x576xf32>
func.func @embedding(%t: tensor<49152x576xf32>, %ids: tensor<?x?xi32>) -> tensor<?x?x576xf32> {
  %y = dsc.embedding %t, %ids : (tensor<49152x576xf32>, tensor<?x?xi32>) -> tensor<?x?x576xf32>
  return %y : tensor<?x?x576xf32>
}

// CHECK-LABEL: func.func @softmax
// CHECK: dsc.softmax %{{.*}} precision <result = f16> : tensor<?x?xf32>
func.func @softmax(%x: tensor<?x?xf32>) -> tensor<?x?xf32> {
  %y = dsc.softmax %x precision <result = f16> : tensor<?x?xf32>
  return %y : tensor<?x?xf32>
}

// Panels of blocks, the last one padded, and their values.
// CHECK-LABEL: func.func @panels
// CHECK: dsc.pack_blocks %{{.*}} {format = "q4_1", panel = 32 : i64} : tensor<33x40xi8> -> tensor<2x2x640xi8>
// CHECK: dsc.dequantize %{{.*}} {format = "q4_1", panel = 32 : i64} : tensor<2x2x640xi8> -> tensor<2x64x32xf32>
// CHECK: dsc.dequantize %{{.*}} {expanded, format = "q4_1"} : tensor<33x40xi8> -> tensor<33x64xf32>
func.func @panels(%w: tensor<33x40xi8>) {
  %0 = dsc.pack_blocks %w {format = "q4_1", panel = 32 : i64} : tensor<33x40xi8> -> tensor<2x2x640xi8>
  %1 = dsc.dequantize %0 {format = "q4_1", panel = 32 : i64} : tensor<2x2x640xi8> -> tensor<2x64x32xf32>
  %2 = dsc.dequantize %w {format = "q4_1", expanded} : tensor<33x40xi8> -> tensor<33x64xf32>
  return
}

// A weight may be of a narrower float type.
// CHECK-LABEL: func.func @narrow_weight
func.func @narrow_weight(%x: tensor<?x8xf32>, %w: tensor<4x8xbf16>) -> tensor<?x4xf32> {
  %0 = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x8xf32>, tensor<4x8xbf16>) -> tensor<?x4xf32>
  return %0 : tensor<?x4xf32>
}

// Every block format: 32 weights in 18, 20, 22, 24 and 34 bytes, 256 in 144, 176 and 210 (ggml-common.h).
// CHECK-LABEL: func.func @dequantize
// CHECK: dsc.dequantize %{{.*}} {format = "q4_0"} : tensor<6x36xi8> -> tensor<6x64xf32>
// CHECK: dsc.dequantize %{{.*}} {format = "q4_1"} : tensor<576x360xi8> -> tensor<576x576xf32>
// CHECK: dsc.dequantize %{{.*}} {format = "q5_0"} : tensor<6x44xi8> -> tensor<6x64xf16>
// CHECK: dsc.dequantize %{{.*}} {format = "q5_1"} : tensor<6x48xi8> -> tensor<6x64xbf16>
// CHECK: dsc.dequantize %{{.*}} {format = "q8_0"} : tensor<6x68xi8> -> tensor<6x64xf32>
// CHECK: dsc.dequantize %{{.*}} {format = "q4_k"} : tensor<6x288xi8> -> tensor<6x512xf32>
// CHECK: dsc.dequantize %{{.*}} {format = "q5_k"} : tensor<?x176xi8> -> tensor<?x256xf32>
// CHECK: dsc.dequantize %{{.*}} {format = "q6_k"} : tensor<?x420xi8> -> tensor<?x512xf32>
func.func @dequantize(%a: tensor<6x36xi8>, %b: tensor<576x360xi8>, %c: tensor<6x44xi8>, %d: tensor<6x48xi8>,
                      %e: tensor<6x68xi8>, %f: tensor<6x288xi8>, %g: tensor<?x176xi8>, %h: tensor<?x420xi8>) {
  %0 = dsc.dequantize %a {format = "q4_0"} : tensor<6x36xi8> -> tensor<6x64xf32>
  %1 = dsc.dequantize %b {format = "q4_1"} : tensor<576x360xi8> -> tensor<576x576xf32>
  %2 = dsc.dequantize %c {format = "q5_0"} : tensor<6x44xi8> -> tensor<6x64xf16>
  %3 = dsc.dequantize %d {format = "q5_1"} : tensor<6x48xi8> -> tensor<6x64xbf16>
  %4 = dsc.dequantize %e {format = "q8_0"} : tensor<6x68xi8> -> tensor<6x64xf32>
  %5 = dsc.dequantize %f {format = "q4_k"} : tensor<6x288xi8> -> tensor<6x512xf32>
  %6 = dsc.dequantize %g {format = "q5_k"} : tensor<?x176xi8> -> tensor<?x256xf32>
  %7 = dsc.dequantize %h {format = "q6_k"} : tensor<?x420xi8> -> tensor<?x512xf32>
  return
}

// CHECK-LABEL: func.func @order
// CHECK: dsc.scan %{{.*}} {kind = "logaddexp"} : tensor<?x7xf32>
// CHECK: dsc.sort %{{.*}} : tensor<?x7xf32> -> tensor<?x7xi64>
// CHECK: dsc.sort %{{.*}} {descending} : tensor<?x7xf32> -> tensor<?x7xi64>
// CHECK: dsc.sort %{{.*}} {descending} : tensor<?x7xf32> -> tensor<?x3xi64>
// CHECK: dsc.scatter %{{.*}}, %{{.*}}, %{{.*}} {kind = "add"} : (tensor<?x7xf32>, tensor<3xi64>, tensor<3x7xf32>) -> tensor<?x7xf32>
func.func @order(%x: tensor<?x7xf32>, %i: tensor<3xi64>, %u: tensor<3x7xf32>) {
  %0 = dsc.scan %x {kind = "logaddexp"} : tensor<?x7xf32>
  %1 = dsc.sort %x : tensor<?x7xf32> -> tensor<?x7xi64>
  %2 = dsc.sort %x {descending} : tensor<?x7xf32> -> tensor<?x7xi64>
  %4 = dsc.sort %x {descending} : tensor<?x7xf32> -> tensor<?x3xi64>
  %3 = dsc.scatter %x, %i, %u {kind = "add"} : (tensor<?x7xf32>, tensor<3xi64>, tensor<3x7xf32>) -> tensor<?x7xf32>
  return
}

// CHECK-LABEL: func.func @attention_masks
// CHECK: dsc.attention %{{.*}}, %{{.*}}, %{{.*}} mask %{{.*}} {causal, scale = 1.000000e+00 : f32, soft_cap = 5.000000e+01 : f32, window = 8 : i64}
func.func @attention_masks(%q: tensor<1x?x4x8xf32>, %k: tensor<1x?x2x8xf32>, %m: tensor<1x1x?x?xi1>) {
  %0 = dsc.attention %q, %k, %k mask %m {causal, scale = 1.0 : f32, soft_cap = 50.0 : f32, window = 8 : i64}
      : (tensor<1x?x4x8xf32>, tensor<1x?x2x8xf32>, tensor<1x?x2x8xf32>, tensor<1x1x?x?xi1>) -> tensor<1x?x4x8xf32>
  return
}

// CHECK-LABEL: func.func @dequantize_scales
// CHECK: dsc.dequantize %{{.*}} scales %{{.*}} : tensor<?x2xf32> {format = "int4_g64"} : tensor<?x64xi8> -> tensor<?x128xf32>
func.func @dequantize_scales(%w: tensor<?x64xi8>, %s: tensor<?x2xf32>) -> tensor<?x128xf32> {
  %0 = dsc.dequantize %w scales %s : tensor<?x2xf32> {format = "int4_g64"} : tensor<?x64xi8> -> tensor<?x128xf32>
  return %0 : tensor<?x128xf32>
}
