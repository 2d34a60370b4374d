// RUN: dsc-opt %s --dsc-batch-launches | FileCheck %s
// RUN: dsc-opt %s --dsc-batch-launches --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS

// STATS: (S) 9 batched - launches that run beside the next

func.func private @k(%x: tensor<4xf32>) -> tensor<4xf32> attributes {dsc.kernel} {
  return %x : tensor<4xf32>
}

// Two read the same; the third reads what one of them writes, through a view.
// CHECK-LABEL: func.func @example
// CHECK: dsc.launch [@k](%{{.*}}) {concurrent}
// CHECK: dsc.launch [@k](%{{.*}}) :
// CHECK: dsc.launch [@k](%{{.*}}) :
func.func @example(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = tensor.expand_shape %0 [[0, 1]] output_shape [2, 2] : tensor<4xf32> into tensor<2x2xf32>
  %3 = tensor.collapse_shape %2 [[0, 1]] : tensor<2x2xf32> into tensor<4xf32>
  %4 = dsc.launch [@k] (%3) : (tensor<4xf32>) -> tensor<4xf32>
  return %1, %4 : tensor<4xf32>, tensor<4xf32>
}

// What is updated in place must not be read beside it.
// CHECK-LABEL: func.func @tied
// CHECK-NOT: concurrent
// CHECK: return
func.func @tied(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = dsc.launch [@k] (%x) tied [0] : (tensor<4xf32>) -> tensor<4xf32>
  return %0, %1 : tensor<4xf32>, tensor<4xf32>
}

// Ten independent launches: the runtime keeps seven waiting for the eighth.
// CHECK-LABEL: func.func @many
// CHECK-COUNT-7: concurrent
// CHECK-NEXT: dsc.launch [@k](%{{.*}}) :
// CHECK-NEXT: dsc.launch [@k](%{{.*}}) {concurrent}
// CHECK-NEXT: dsc.launch [@k](%{{.*}}) :
func.func @many(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %4 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %5 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %6 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %7 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %8 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %9 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %9 : tensor<4xf32>
}
