// RUN: dsc-opt %s --dsc-form-dispatches --split-input-file --verify-diagnostics | FileCheck %s
// RUN: dsc-opt %s --dsc-form-dispatches --split-input-file --verify-diagnostics --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS

// STATS: (S) 1 dispatches - dispatch regions

#id = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-LABEL: func.func @example
// CHECK: %[[Y:.*]] = dsc.dispatch(%{{.*}}, %{{.*}}, %{{.*}}) : (tensor<?x8xf32>, tensor<8x4xf32>, tensor<?x4xf32>) -> tensor<?x4xf32>
// CHECK: %[[M:.*]] = dsc.matmul
// CHECK: %[[G:.*]] = linalg.generic {{.*}} ins(%[[M]],
// CHECK: dsc.yield %[[G]]
// CHECK-NOT: dsc.dispatch
// CHECK: return %[[Y]]
module attributes {dsc.symbols = ["n"]} {
  func.func @example(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<8x4xf32>,
                     %r: tensor<?x4xf32> {dsc.dims = #dsc.dims<["n", "_"]>}) -> tensor<?x4xf32> {
    %n = dsc.dim "n" : index
    %0 = dsc.matmul %x, %w : (tensor<?x8xf32>, tensor<8x4xf32>) -> tensor<?x4xf32>
    %e = tensor.empty(%n) : tensor<?x4xf32>
    %1 = linalg.generic {indexing_maps = [#id, #id, #id], iterator_types = ["parallel", "parallel"]}
        ins(%0, %r : tensor<?x4xf32>, tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %2 = arith.addf %a, %b : f32
      linalg.yield %2 : f32
    } -> tensor<?x4xf32>
    return %1 : tensor<?x4xf32>
  }
}

// -----

// Two main operations are two dispatches, and the result that both need is made once.
// CHECK-LABEL: func.func @two_mains
// CHECK: %[[M:.*]] = dsc.dispatch
// CHECK-NEXT: ^bb0
// CHECK-NEXT: dsc.matmul
// CHECK-NEXT: dsc.yield
// CHECK: dsc.dispatch(%[[M]])
// CHECK-NEXT: ^bb0
// CHECK-NEXT: dsc.softmax
func.func @two_mains(%x: tensor<2x8xf32>, %w: tensor<8x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>) {
  %0 = dsc.matmul %x, %w : (tensor<2x8xf32>, tensor<8x4xf32>) -> tensor<2x4xf32>
  %1 = dsc.softmax %0 : tensor<2x4xf32>
  return %0, %1 : tensor<2x4xf32>, tensor<2x4xf32>
}

// -----

// A producer that its consumer reads once per element is computed there.
#id = affine_map<(d0, d1) -> (d0, d1)>
#swap = affine_map<(d0, d1) -> (d1, d0)>
// CHECK-LABEL: func.func @producer
// CHECK: dsc.dispatch(%{{.*}}) : (tensor<4x36xi8>) -> tensor<64x4xf32>
// CHECK: %[[D:.*]] = dsc.dequantize
// CHECK: linalg.generic {{.*}} ins(%[[D]]
// CHECK-NOT: dsc.dispatch
func.func @producer(%w: tensor<4x36xi8>) -> tensor<64x4xf32> {
  %0 = dsc.dequantize %w {format = "q4_0"} : tensor<4x36xi8> -> tensor<4x64xf32>
  %e = tensor.empty() : tensor<64x4xf32>
  %1 = linalg.generic {indexing_maps = [#swap, #id], iterator_types = ["parallel", "parallel"]}
      ins(%0 : tensor<4x64xf32>) outs(%e : tensor<64x4xf32>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  } -> tensor<64x4xf32>
  return %1 : tensor<64x4xf32>
}

// -----

// Reading through a reshape is no reading at the index: the reshape stays between two dispatches.
// CHECK-LABEL: func.func @reshape
// CHECK: %[[A:.*]] = dsc.dispatch
// CHECK: %[[V:.*]] = tensor.collapse_shape %[[A]]
// CHECK: dsc.dispatch(%[[V]])
func.func @reshape(%x: tensor<2x3x4xf32>) -> tensor<6x4xf32> {
  %0 = dsc.softmax %x : tensor<2x3x4xf32>
  %1 = tensor.collapse_shape %0 [[0, 1], [2]] : tensor<2x3x4xf32> into tensor<6x4xf32>
  %2 = dsc.softmax %1 : tensor<6x4xf32>
  return %2 : tensor<6x4xf32>
}

// -----

// An append updates its cache in place.
// CHECK-LABEL: func.func @append
// CHECK: dsc.dispatch(%[[K:.*]], %[[C:.*]], %[[P:.*]]) tied [1] :
// CHECK: dsc.kv_append
func.func @append(%k: tensor<1x2x3x4xf32>, %c: tensor<1x2x3x8x4xf32>, %p: tensor<1xi32>)
    -> (tensor<1x2x3x8x4xf32> {dsc.tied = 1 : i64}) {
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x4xf32>, tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>, tensor<1xi32>) -> tensor<1x2x3x8x4xf32>
  return %0 : tensor<1x2x3x8x4xf32>
}

// -----

// What leaves is a result of a dispatch, once: arguments, constants and second uses are copied.
// CHECK-LABEL: func.func @copies
// CHECK-DAG: %[[X:.*]] = dsc.dispatch(%{{.*}}) : (tensor<4xf32>) -> tensor<4xf32>
// CHECK-DAG: %[[C:.*]] = dsc.dispatch() : () -> tensor<4xf32>
// CHECK-DAG: %[[S:.*]]:2 = dsc.dispatch(%{{.*}}) : (tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>)
// CHECK: return %[[X]], %[[C]], %[[S]]#0, %[[S]]#1
func.func @copies(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %c = arith.constant dense<[1.0, 2.0, 3.0, 4.0]> : tensor<4xf32>
  %0 = dsc.softmax %x : tensor<4xf32>
  return %x, %c, %0, %0 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}

// -----

// Constants and sizes are copied into the region, not passed.
#id = affine_map<(d0) -> (d0)>
module attributes {dsc.symbols = ["n"]} {
  // CHECK-LABEL: func.func @inline
  // CHECK: dsc.dispatch(%{{[^,]*}}) : (tensor<?xindex>) -> tensor<?xindex>
  // CHECK-DAG: dsc.dim "n"
  // CHECK-DAG: arith.constant 3 : index
  func.func @inline(%x: tensor<?xindex> {dsc.dims = #dsc.dims<["n"]>}) -> tensor<?xindex> {
    %n = dsc.dim "n" : index
    %c3 = arith.constant 3 : index
    %e = tensor.empty(%n) : tensor<?xindex>
    %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
        ins(%x : tensor<?xindex>) outs(%e : tensor<?xindex>) {
    ^bb0(%a: index, %b: index):
      %1 = arith.addi %a, %n : index
      %2 = arith.muli %1, %c3 : index
      linalg.yield %2 : index
    } -> tensor<?xindex>
    return %0 : tensor<?xindex>
  }
}

// -----

#id = affine_map<(d0) -> (d0)>
func.func @scalar(%x: tensor<4xf32>, %s: tensor<f32>) -> tensor<4xf32> {
  %v = tensor.extract %s[] : tensor<f32>
  %e = tensor.empty() : tensor<4xf32>
  // expected-error @+1 {{uses a scalar that was read from a tensor, made by: tensor.extract}}
  %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]}
      ins(%x : tensor<4xf32>) outs(%e : tensor<4xf32>) {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.mulf %a, %v : f32
    linalg.yield %1 : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @unknown(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{'arith.addf' op has no kernel for this target}}
  %0 = arith.addf %x, %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// A size that a function returns is no tensor to copy.
// CHECK-LABEL: func.func @returns_a_size
// CHECK: return %{{.*}} : index
module attributes {dsc.symbols = ["n"]} {
  func.func @returns_a_size(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> index {
    %n = dsc.dim "n" : index
    return %n : index
  }
}
