// RUN: dsc-opt %s --dsc-hoist-weights --split-input-file | FileCheck %s
// RUN: dsc-opt %s --dsc-hoist-weights --split-input-file --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS

// STATS: (S) 1 hoisted - dispatches moved into @init

// CHECK: func.func @init(%[[W:.*]]: tensor<8x36xi8> {{.*}}dsc.weight = "w"}) -> tensor<8x64xf32>
// CHECK: %[[P:.*]] = dsc.dispatch(%[[W]])
// CHECK: dsc.dequantize
// CHECK: return %[[P]]
// CHECK: func.func @main(%[[X:[^:]*]]: tensor<2x8xf32>{{.*}}, %[[A:[^:]*]]: tensor<8x64xf32> {{[{].*}}dsc.prepared = 0 : i64})
// CHECK-NOT: dsc.dequantize
// CHECK: dsc.dispatch(%[[X]], %[[A]])
func.func @main(%x: tensor<2x8xf32>, %w: tensor<8x36xi8> {dsc.weight = "w"}) -> tensor<2x64xf32> {
  %p = dsc.dispatch (%w) : (tensor<8x36xi8>) -> tensor<8x64xf32> {
  ^bb0(%a: tensor<8x36xi8>):
    %0 = dsc.dequantize %a {format = "q4_0"} : tensor<8x36xi8> -> tensor<8x64xf32>
    dsc.yield %0 : tensor<8x64xf32>
  }
  %y = dsc.dispatch (%x, %p) : (tensor<2x8xf32>, tensor<8x64xf32>) -> tensor<2x64xf32> {
  ^bb0(%a: tensor<2x8xf32>, %b: tensor<8x64xf32>):
    %0 = dsc.matmul %a, %b : (tensor<2x8xf32>, tensor<8x64xf32>) -> tensor<2x64xf32>
    dsc.yield %0 : tensor<2x64xf32>
  }
  return %y : tensor<2x64xf32>
}

// -----

// A weight that @main reads as it is stays an argument, and so does one that both read; ties move with their argument.
// CHECK: func.func @init(%{{.*}}: tensor<4xf32> {{.*}}dsc.weight = "v"}, %{{.*}}: tensor<4xf32> {{.*}}dsc.weight = "w"}) -> tensor<4xf32>
// CHECK: func.func @main(
// CHECK-SAME: dsc.weight = "v"}, %{{[^:]*}}: tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>}, %{{[^:]*}}: tensor<4xf32> {{[{].*}}dsc.prepared = 0 : i64})
// CHECK-SAME: -> (tensor<4xf32> {dsc.tied = 1 : i64})
#id = affine_map<(d0) -> (d0)>
func.func @main(%w: tensor<4xf32> {dsc.weight = "w"}, %v: tensor<4xf32> {dsc.weight = "v"},
                %c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 2 : i64}) {
  %0 = dsc.dispatch (%v, %w) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>, %b: tensor<4xf32>):
    %2 = dsc.rms_norm %a, %b {eps = 0.0 : f64} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    dsc.yield %2 : tensor<4xf32>
  }
  %1 = dsc.dispatch (%c, %0, %v) tied [0] : (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>, %b: tensor<4xf32>, %d: tensor<4xf32>):
    %2 = dsc.rms_norm %a, %b {eps = 0.0 : f64} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    dsc.yield %2 : tensor<4xf32>
  }
  return %1 : tensor<4xf32>
}

// -----

// Views of what @init makes go with it; a view of a weight as it is computes nothing and stays.
// CHECK: func.func @init
// CHECK: dsc.dispatch
// CHECK: tensor.expand_shape
// CHECK: return
// CHECK: func.func @main
// CHECK: tensor.collapse_shape
// CHECK-NOT: tensor.expand_shape
func.func @main(%x: tensor<2x4xf32>, %w: tensor<8xf32> {dsc.weight = "w"}, %v: tensor<2x2xf32> {dsc.weight = "v"}) -> tensor<2x4xf32> {
  %0 = dsc.dispatch (%w) : (tensor<8xf32>) -> tensor<8xf32> {
  ^bb0(%a: tensor<8xf32>):
    %4 = dsc.softmax %a : tensor<8xf32>
    dsc.yield %4 : tensor<8xf32>
  }
  %1 = tensor.expand_shape %0 [[0, 1]] output_shape [2, 4] : tensor<8xf32> into tensor<2x4xf32>
  %2 = tensor.collapse_shape %v [[0, 1]] : tensor<2x2xf32> into tensor<4xf32>
  %3 = dsc.dispatch (%1, %2, %x) : (tensor<2x4xf32>, tensor<4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> {
  ^bb0(%a: tensor<2x4xf32>, %b: tensor<4xf32>, %c: tensor<2x4xf32>):
    %4 = dsc.rms_norm %a, %b {eps = 0.0 : f64} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
    dsc.yield %4 : tensor<2x4xf32>
  }
  return %3 : tensor<2x4xf32>
}

// -----

// Nothing depends on weights alone: no @init.
// CHECK-NOT: @init
// CHECK: func.func @main(%{{[^:]*}}: tensor<4xf32>, %{{[^:]*}}: tensor<4xf32> {dsc.weight = "w"})
func.func @main(%x: tensor<4xf32>, %w: tensor<4xf32> {dsc.weight = "w"}) -> tensor<4xf32> {
  %0 = dsc.dispatch (%x, %w) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>, %b: tensor<4xf32>):
    %1 = dsc.rms_norm %a, %b {eps = 0.0 : f64} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    dsc.yield %1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

// What leaves @main is made in @main.
// CHECK-NOT: @init
// CHECK: func.func @main
// CHECK: dsc.dispatch
func.func @main(%w: tensor<4xf32> {dsc.weight = "w"}) -> tensor<4xf32> {
  %0 = dsc.dispatch (%w) : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    %1 = dsc.softmax %a : tensor<4xf32>
    dsc.yield %1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}
