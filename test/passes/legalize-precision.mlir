// RUN: dsc-opt %s --split-input-file --dsc-name-dims --dsc-legalize-precision --verify-diagnostics | FileCheck %s

// A weight that is stored in 16 bits is widened where it is read; a product reads it as it is.
// CHECK-LABEL: func.func @plain
// CHECK-SAME: %[[W:arg[0-9]]]: tensor<8x64xbf16> {{.*}}dsc.weight = "w"
// CHECK: arith.extf %{{.*}} : bf16 to f32
// CHECK: dsc.embedding %{{[0-9a-z]+}}, %{{.*}} precision <storage = "bf16"> : (tensor<8x64xf32>
// CHECK: dsc.matmul %{{.*}}, %[[W]] precision <storage = "bf16"> {transpose_rhs} : (tensor<?x64xf32>, tensor<8x64xbf16>)
func.func @plain(%i: tensor<?xi32> {dsc.dims = #dsc.dims<["s"]>}, %w: tensor<8x64xf32> {dsc.weight = "w"}) -> tensor<?x8xf32> {
  %x = dsc.embedding %w, %i precision <storage = "bf16"> : (tensor<8x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
  %y = dsc.matmul %x, %w precision <storage = "bf16"> {transpose_rhs} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// Blocks of one format become blocks of another: the argument holds what the plan's weights are.
// CHECK-LABEL: func.func @blocks
// CHECK-SAME: tensor<8x68xi8> {{.*}}dsc.weight = "w"
// CHECK: %[[D:.*]] = dsc.dequantize %{{.*}} {format = "q8_0"} : tensor<8x68xi8> -> tensor<8x64xf32>
// CHECK: dsc.matmul %{{.*}}, %[[D]]
func.func @blocks(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<8x40xi8> {dsc.weight = "w"}) -> tensor<?x8xf32> {
  %d = dsc.dequantize %w {expanded, format = "q4_1"} : tensor<8x40xi8> -> tensor<8x64xf32>
  %y = dsc.matmul %x, %d precision <storage = "q8_0"> {transpose_rhs} : (tensor<?x64xf32>, tensor<8x64xf32>) -> tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// A cache in f16 keeps keys and values within its range.
// CHECK-LABEL: func.func @cache
// CHECK-SAME: %[[C:arg[0-9]]]: tensor<?x2x3x?x64xf16>
// CHECK-SAME: -> tensor<?x2x3x?x64xf16>
// CHECK-COUNT-2: arith.truncf %{{.*}} : f32 to f16
// CHECK: dsc.kv_append %{{.*}}, %{{.*}} into %[[C]] at %{{.*}} precision <storage = "f16">
func.func @cache(%k: tensor<?x?x3x64xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
                 %c: tensor<?x2x3x?x64xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "c", "_"]>},
                 %p: tensor<?xi32> {dsc.dims = #dsc.dims<["b"]>}) -> tensor<?x2x3x?x64xf32> {
  %n = dsc.kv_append %k, %k into %c at %p precision <storage = "f16">
      : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
  return %n : tensor<?x2x3x?x64xf32>
}

// -----

func.func @two_storages(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<64x64xf32> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  // expected-note @below {{the other operation}}
  %0 = dsc.matmul %x, %w precision <storage = "q8_0"> {transpose_rhs} : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  // expected-error @below {{wants the storage "bf16" of an argument that another operation wants as "q8_0"}}
  %1 = dsc.matmul %0, %w precision <storage = "bf16"> {transpose_rhs} : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  return %1 : tensor<?x64xf32>
}

// -----

func.func @not_an_argument(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["s", "_"]>}) -> tensor<?x64xf32> {
  %w = arith.constant dense<1.0> : tensor<64x64xf32>
  // expected-error @below {{has a storage, "q8_0", but reads no argument that could be stored so}}
  %0 = dsc.matmul %x, %w precision <storage = "q8_0"> {transpose_rhs} : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @unknown(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<64x64xf32> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  // expected-error @below {{has an unknown storage: "q9"}}
  %0 = dsc.matmul %x, %w precision <storage = "q9"> {transpose_rhs} : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @ragged(%x: tensor<?x72xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<64x72xf32> {dsc.weight = "w"}) -> tensor<?x64xf32> {
  // expected-error @below {{whose rows are not whole blocks of 32, as "q8_0"}}
  %0 = dsc.matmul %x, %w precision <storage = "q8_0"> {transpose_rhs} : (tensor<?x72xf32>, tensor<64x72xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @neither(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<64x64xf32>) -> tensor<?x64xf32> {
  // expected-error @below {{has the storage "q8_0", but the argument is neither a weight nor a cache of f32, f16 or bf16}}
  %0 = dsc.matmul %x, %w precision <storage = "q8_0"> {transpose_rhs} : (tensor<?x64xf32>, tensor<64x64xf32>) -> tensor<?x64xf32>
  return %0 : tensor<?x64xf32>
}

// -----

func.func @open_rows(%x: tensor<8x?xf32> {dsc.dims = #dsc.dims<["_", "k"]>}, %w: tensor<?x64xf32> {dsc.dims = #dsc.dims<["k", "_"]>}) -> tensor<8x64xf32> {
  // expected-error @below {{which need an f32 operand of rows with a known length and blocks [1, n]}}
  %0 = dsc.matmul %x, %w precision <lhs = f8E4M3FN, scales = [1, 64]> : (tensor<8x?xf32>, tensor<?x64xf32>) -> tensor<8x64xf32>
  return %0 : tensor<8x64xf32>
}
