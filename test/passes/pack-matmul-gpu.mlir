// RUN: dsc-opt %s --split-input-file "--dsc-set-target=target=sm_90a" --dsc-name-dims --dsc-legalize-precision --cse --dsc-pack-matmul | FileCheck %s
// RUN: dsc-opt %s --split-input-file "--dsc-set-target=target=sm_80" --dsc-name-dims --dsc-legalize-precision --cse --dsc-pack-matmul | FileCheck %s --check-prefix=AMPERE

// Codes and scales of both sides stand by themselves; what was rounded to is made once.
// CHECK-LABEL: func.func @main
// CHECK: %[[W:.*]] = tensor.collapse_shape {{.*}} : tensor<64x2x128xi8> into tensor<64x256xi8>
// CHECK: %[[WS:.*]] = linalg.generic {{.*}} outs(%{{.*}} : tensor<64x2xf32>)
// CHECK: arith.bitcast %{{.*}} : i32 to f32
// CHECK: %[[RHS:.*]] = dsc.dequantize %[[W]] scales %[[WS]] : tensor<64x2xf32> {format = "fp8_e4m3_g128"}
// CHECK: %[[GREATEST:.*]] = linalg.generic {{.*}}"reduction"]
// CHECK: %[[XS:.*]] = linalg.generic {{.*}} ins(%[[GREATEST]] : tensor<?x2xf32>)
// CHECK: %[[X:.*]] = linalg.generic {{.*}} ins(%{{.*}}, %[[XS]] : tensor<?x256xf32>, tensor<?x2xf32>)
// CHECK: arith.truncf %{{.*}} : f32 to f8E4M3FN
// CHECK: arith.bitcast %{{.*}} : f8E4M3FN to i8
// CHECK: %[[LHS:.*]] = dsc.dequantize %[[X]] scales %[[XS]] : tensor<?x2xf32> {format = "fp8_e4m3_g128"}
// CHECK-NOT: dsc.rounded
// CHECK: dsc.matmul %[[LHS]], %[[RHS]] precision <acc = f32> {transpose_rhs}
// CHECK: dsc.matmul %[[LHS]], %{{.*}} precision <acc = f32> {transpose_rhs}
// AMPERE-LABEL: func.func @main
// AMPERE-NOT: scales
// AMPERE: dsc.dequantize %{{.*}} {dsc.decoded_by_reader, format = "fp8_e4m3_g128"}
func.func @main(%x: tensor<?x256xf32>, %b: tensor<64x264xi8> {dsc.weight = "w"}, %c: tensor<64x264xi8> {dsc.weight = "v"}) -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %w = dsc.dequantize %b {format = "fp8_e4m3_g128"} : tensor<64x264xi8> -> tensor<64x256xf32>
  %y = dsc.matmul %x, %w precision <lhs = f8E4M3FN, acc = f32, scales = [1, 128]> {transpose_rhs} : (tensor<?x256xf32>, tensor<64x256xf32>) -> tensor<?x64xf32>
  %v = dsc.dequantize %c {format = "fp8_e4m3_g128"} : tensor<64x264xi8> -> tensor<64x256xf32>
  %z = dsc.matmul %x, %v precision <lhs = f8E4M3FN, acc = f32, scales = [1, 128]> {transpose_rhs} : (tensor<?x256xf32>, tensor<64x256xf32>) -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}

// -----

// Blocks of half a slice stay as they are.
// CHECK-LABEL: func.func @main
// CHECK-NOT: scales
// CHECK: return
// AMPERE-LABEL: func.func @main
// AMPERE-NOT: scales
// AMPERE: return
func.func @main(%x: tensor<?x256xf32>, %b: tensor<64x272xi8> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  %w = dsc.dequantize %b {format = "fp8_e4m3_g64"} : tensor<64x272xi8> -> tensor<64x256xf32>
  %y = dsc.matmul %x, %w precision <lhs = f8E4M3FN, acc = f32, scales = [1, 64]> {transpose_rhs} : (tensor<?x256xf32>, tensor<64x256xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
