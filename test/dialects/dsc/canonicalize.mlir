// RUN: dsc-opt %s --canonicalize | FileCheck %s

// CHECK-LABEL: func.func @zero_bias
// CHECK-NOT: arith.constant
// CHECK: dsc.matmul %{{[^ ]*}}, %{{[^ ]*}} precision <acc = f32> {transpose_rhs} : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32>
func.func @zero_bias(%x: tensor<?x8xf32>, %w: tensor<4x8xf32>) -> tensor<?x4xf32> {
  %b = arith.constant dense<0.0> : tensor<4xf32>
  %y = dsc.matmul %x, %w bias %b precision <acc = f32> {transpose_rhs}
      : (tensor<?x8xf32>, tensor<4x8xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

// CHECK-LABEL: func.func @zero_integer_bias
// CHECK-NOT: bias
func.func @zero_integer_bias(%x: tensor<?x8xi32>, %w: tensor<8x4xi32>) -> tensor<?x4xi32> {
  %b = arith.constant dense<0> : tensor<4xi32>
  %y = dsc.matmul %x, %w bias %b : (tensor<?x8xi32>, tensor<8x4xi32>, tensor<4xi32>) -> tensor<?x4xi32>
  return %y : tensor<?x4xi32>
}

// CHECK-LABEL: func.func @other_biases
// CHECK-COUNT-3: bias
func.func @other_biases(%x: tensor<?x8xf32>, %w: tensor<8x4xf32>, %c: tensor<4xf32>)
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>) {
  %one = arith.constant dense<1.0> : tensor<4xf32>
  %mixed = arith.constant dense<[0.0, 0.0, 0.0, 1.0]> : tensor<4xf32>
  %0 = dsc.matmul %x, %w bias %one : (tensor<?x8xf32>, tensor<8x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %1 = dsc.matmul %x, %w bias %mixed : (tensor<?x8xf32>, tensor<8x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %2 = dsc.matmul %x, %w bias %c : (tensor<?x8xf32>, tensor<8x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  return %0, %1, %2 : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x4xf32>
}

// CHECK-LABEL: func.func @softmax_of_one
// CHECK: arith.constant dense<1.000000e+00> : tensor<3x1xbf16>
// CHECK-NOT: dsc.softmax
func.func @softmax_of_one() -> tensor<3x1xbf16> {
  %x = arith.constant dense<-7.5> : tensor<3x1xbf16>
  %y = dsc.softmax %x : tensor<3x1xbf16>
  return %y : tensor<3x1xbf16>
}

// Infinity minus itself is no number, so a value that is not known stays, and so does an infinite one.
// CHECK-LABEL: func.func @softmax_kept
// CHECK-COUNT-4: dsc.softmax
func.func @softmax_kept(%x: tensor<3x1xf32>) -> (tensor<3x1xf32>, tensor<3x1xf32>, tensor<3x1xf32>, tensor<3x2xf32>) {
  %infinity = arith.constant dense<0x7F800000> : tensor<3x1xf32>
  %nan = arith.constant dense<0x7FC00000> : tensor<3x1xf32>
  %wide = arith.constant dense<0.0> : tensor<3x2xf32>
  %0 = dsc.softmax %x : tensor<3x1xf32>
  %1 = dsc.softmax %infinity : tensor<3x1xf32>
  %2 = dsc.softmax %nan : tensor<3x1xf32>
  %3 = dsc.softmax %wide : tensor<3x2xf32>
  return %0, %1, %2, %3 : tensor<3x1xf32>, tensor<3x1xf32>, tensor<3x1xf32>, tensor<3x2xf32>
}

// Graph operations are pure: unused ones go, a decision on a used one stays.
// CHECK-LABEL: func.func @unused
// CHECK-NEXT: dsc.dim "s" {max = 8 : i64} : index
// CHECK-NEXT: return
func.func @unused(%x: tensor<?x8xf32>, %w: tensor<8xf32>) -> index {
  %0 = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x8xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  %1 = dsc.softmax %0 : tensor<?x8xf32>
  %s = dsc.dim "s" {max = 8 : i64} : index
  return %s : index
}
