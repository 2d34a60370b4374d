// RUN: dsc-opt %s --split-input-file --dsc-set-target=target=cpu:x86-64-v3 --dsc-pack-matmul | FileCheck %s --check-prefixes=CHECK,V3
// RUN: dsc-opt %s --split-input-file --dsc-set-target=target=cpu:x86-64-v4 --dsc-pack-matmul | FileCheck %s --check-prefixes=CHECK,V4
// RUN: dsc-opt %s --split-input-file --dsc-pack-matmul=panel=8 | FileCheck %s --check-prefixes=CHECK,P8
// RUN: dsc-opt %s --dsc-pack-matmul=panel=8 --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS
// RUN: echo 'module {}' | not dsc-opt --dsc-pack-matmul 2>&1 | FileCheck %s --check-prefix=ERR-TARGET
// RUN: echo 'module {}' | not dsc-opt --dsc-pack-matmul=panel=-1 2>&1 | FileCheck %s --check-prefix=ERR-PANEL

// STATS: (S) 6 packed-weights - matmuls whose weight is packed
// ERR-TARGET: error: has no target: run --dsc-set-target first, or give panel
// ERR-PANEL: error: panel must not be negative, got: -1

// CHECK-LABEL: func.func @example
// V4: %[[P:.*]] = linalg.pack %{{.*}} outer_dims_perm = [1, 0] inner_dims_pos = [1] inner_tiles = [32] into %{{.*}} : tensor<576x64xf32> -> tensor<2x576x32xf32>
// V4: dsc.matmul %{{.*}}, %[[P]] {packed_columns = 64 : i64} : (tensor<?x576xf32>, tensor<2x576x32xf32>) -> tensor<?x64xf32>
// V3: dsc.matmul %{{.*}}, %{{.*}} {packed_columns = 64 : i64} : (tensor<?x576xf32>, tensor<4x576x16xf32>)
// P8: dsc.matmul %{{.*}}, %{{.*}} {packed_columns = 64 : i64} : (tensor<?x576xf32>, tensor<8x576x8xf32>)
func.func @example(%x: tensor<?x576xf32>, %w: tensor<576x64xf32> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// The transpose is part of the packing. 44 columns leave the last panel padded with zeros; bias and precision stay.
// CHECK-LABEL: func.func @transposed
// V4: %[[ZERO:.*]] = arith.constant 0.000000e+00 : f32
// V4: linalg.pack %{{.*}} padding_value(%[[ZERO]] : f32) inner_dims_pos = [0] inner_tiles = [32] into %{{.*}} : tensor<44x8xf32> -> tensor<2x8x32xf32>
// V4: dsc.matmul %{{.*}}, %{{.*}} bias %{{.*}} precision <acc = f32> {packed_columns = 44 : i64} : (tensor<?x8xf32>, tensor<2x8x32xf32>, tensor<44xf32>)
// V3: (tensor<?x8xf32>, tensor<3x8x16xf32>, tensor<44xf32>)
// P8: (tensor<?x8xf32>, tensor<6x8x8xf32>, tensor<44xf32>)
func.func @transposed(%x: tensor<?x8xf32>, %w: tensor<44x8xf32> {dsc.weight = "w"}, %b: tensor<44xf32>) -> tensor<?x44xf32> {
  %y = dsc.matmul %x, %w bias %b precision <acc = f32> {transpose_rhs}
      : (tensor<?x8xf32>, tensor<44x8xf32>, tensor<44xf32>) -> tensor<?x44xf32>
  return %y : tensor<?x44xf32>
}

// Panels are counted in lanes of the sum's type, f32 for bf16.
// CHECK-LABEL: func.func @bf16
// Pairs along k lie together.
// V4: inner_dims_pos = [1, 0] inner_tiles = [32, 2] into %{{.*}} : tensor<8x32xbf16> -> tensor<1x4x32x2xbf16>
// V4: (tensor<?x8xbf16>, tensor<1x4x32x2xbf16>) -> tensor<?x32xf32>
func.func @bf16(%x: tensor<?x8xbf16>, %w: tensor<8x32xbf16> {dsc.weight = "w"}) -> tensor<?x32xf32> {
  %y = dsc.matmul %x, %w : (tensor<?x8xbf16>, tensor<8x32xbf16>) -> tensor<?x32xf32>
  return %y : tensor<?x32xf32>
}

// Both sides are weights: rows lie in panels of a register tile. Without a target nobody knows its size.
// CHECK-LABEL: func.func @both
// V4: %[[B:.*]] = linalg.pack %{{.*}} inner_tiles = [32]
// V4: %[[A:.*]] = linalg.pack %{{.*}} inner_dims_pos = [0] inner_tiles = [12] into %{{.*}} : tensor<100x8xf32> -> tensor<9x8x12xf32>
// V4: dsc.matmul %[[A]], %[[B]] {packed_columns = 64 : i64, packed_rows = 100 : i64}
// P8: (tensor<100x8xf32>, tensor<8x8x8xf32>)
func.func @both(%x: tensor<100x8xf32> {dsc.weight = "x"}, %w: tensor<8x64xf32> {dsc.weight = "w"}) -> tensor<100x64xf32> {
  %y = dsc.matmul %x, %w : (tensor<100x8xf32>, tensor<8x64xf32>) -> tensor<100x64xf32>
  return %y : tensor<100x64xf32>
}

// Blocks along the reduction stay blocks.
// CHECK-LABEL: func.func @blocks
// V4: %[[P:.*]] = dsc.pack_blocks %{{.*}} {format = "q4_0", panel = 32 : i64} : tensor<44x18xi8> -> tensor<2x1x576xi8>
// V4: %[[W:.*]] = dsc.dequantize %[[P]] {format = "q4_0", panel = 32 : i64} : tensor<2x1x576xi8> -> tensor<2x32x32xf32>
// V4: dsc.matmul %{{.*}}, %[[W]] {packed_columns = 44 : i64}
func.func @blocks(%x: tensor<?x32xf32>, %w: tensor<44x18xi8> {dsc.weight = "w"}) -> tensor<?x44xf32> {
  %0 = dsc.dequantize %w {format = "q4_0"} : tensor<44x18xi8> -> tensor<44x32xf32>
  %y = dsc.matmul %x, %0 {transpose_rhs} : (tensor<?x32xf32>, tensor<44x32xf32>) -> tensor<?x44xf32>
  return %y : tensor<?x44xf32>
}

// What depends on weights alone is a weight.
// CHECK-LABEL: func.func @expanded
// CHECK: %[[W:.*]] = dsc.dequantize
// CHECK: linalg.pack %[[W]]
// CHECK: packed_columns = 64
func.func @expanded(%x: tensor<?x32xf32>, %w: tensor<64x18xi8> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  %0 = dsc.dequantize %w {format = "q4_0", expanded} : tensor<64x18xi8> -> tensor<64x32xf32>
  %y = dsc.matmul %x, %0 {transpose_rhs} : (tensor<?x32xf32>, tensor<64x32xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

// CHECK-LABEL: func.func @kept
// CHECK-NOT: linalg.pack
// CHECK: return
func.func @kept(%x: tensor<?x8xf32>, %a: tensor<8x4xf32>, %p: tensor<1x8x32xf32> {dsc.weight = "p"},
                %b: tensor<2x3x8xf32>, %w: tensor<2x8x4xf32> {dsc.weight = "w"}) {
  %c = arith.constant dense<1.0> : tensor<8x4xf32>
  %0 = dsc.matmul %x, %a : (tensor<?x8xf32>, tensor<8x4xf32>) -> tensor<?x4xf32>
  %1 = dsc.matmul %x, %c : (tensor<?x8xf32>, tensor<8x4xf32>) -> tensor<?x4xf32>
  %2 = dsc.matmul %x, %p {packed_columns = 20 : i64} : (tensor<?x8xf32>, tensor<1x8x32xf32>) -> tensor<?x20xf32>
  %3 = dsc.matmul %b, %w : (tensor<2x3x8xf32>, tensor<2x8x4xf32>) -> tensor<2x3x4xf32>
  return
}
