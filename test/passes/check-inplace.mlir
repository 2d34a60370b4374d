// RUN: dsc-opt %s --dsc-check-inplace --split-input-file --verify-diagnostics | FileCheck %s

func.func @example(%c0: tensor<4xf32>, %e: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}) {
  %c1 = linalg.copy ins(%c0 : tensor<4xf32>) outs(%e : tensor<4xf32>) -> tensor<4xf32>
  // expected-error @+1 {{result 0 is tied to argument 0 but made by something else: the tied buffer would be copied}}
  return %c1 : tensor<4xf32>
}

// -----

// Through appends, tied dispatches and tied launches the buffer stays the same.
// CHECK-LABEL: func.func @updates
// CHECK: dsc.kv_append
// CHECK: return
func.func private @k(tensor<1x2x3x8x4xf32>) -> tensor<1x2x3x8x4xf32>
func.func @updates(%k: tensor<1x2x3x4xf32>, %c: tensor<1x2x3x8x4xf32>, %p: tensor<1xi32>)
    -> (tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32> {dsc.tied = 1 : i64}) {
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x4xf32>, tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>, tensor<1xi32>) -> tensor<1x2x3x8x4xf32>
  %1 = dsc.dispatch (%k, %0) tied [1] : (tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>) -> tensor<1x2x3x8x4xf32> {
  ^bb0(%a: tensor<1x2x3x4xf32>, %b: tensor<1x2x3x8x4xf32>):
    dsc.yield %b : tensor<1x2x3x8x4xf32>
  }
  %2 = dsc.launch [@k] (%1) tied [0] : (tensor<1x2x3x8x4xf32>) -> tensor<1x2x3x8x4xf32>
  %3 = dsc.attention %k cache %2 lengths %p {scale = 1.0 : f32}
      : (tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>, tensor<1xi32>) -> tensor<1x2x3x4xf32>
  return %3, %2 : tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>
}

// -----

// The argument itself is its own buffer; untied results are no business of this pass.
// CHECK-LABEL: func.func @unchanged
func.func @unchanged(%c: tensor<4xf32>, %x: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}, tensor<4xf32>) {
  return %c, %x : tensor<4xf32>, tensor<4xf32>
}

// -----

func.func @other_argument(%c: tensor<4xf32>, %d: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}) {
  // expected-error @+1 {{result 0 is tied to argument 0 but made by something else}}
  return %d : tensor<4xf32>
}

// -----

func.func @untied_dispatch(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}) {
  %0 = dsc.dispatch (%c) tied [-1] : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    dsc.yield %a : tensor<4xf32>
  }
  // expected-error @+1 {{result 0 is tied to argument 0 but made by something else}}
  return %0 : tensor<4xf32>
}

// -----

func.func private @k(tensor<4xf32>) -> tensor<4xf32>
func.func @read_after_update(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}, tensor<4xf32>) {
  %0 = dsc.launch [@k] (%c) tied [0] : (tensor<4xf32>) -> tensor<4xf32>
  // expected-error @+1 {{reads a tied buffer after it was updated: it would have to be copied}}
  %1 = dsc.launch [@k] (%c) : (tensor<4xf32>) -> tensor<4xf32>
  return %0, %1 : tensor<4xf32>, tensor<4xf32>
}
