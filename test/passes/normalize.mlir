// RUN: dsc-opt %s --dsc-normalize | FileCheck %s

// CHECK-LABEL: func.func @elementwise
// CHECK: %[[Y:.*]] = linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<?xf32>, tensor<?xf32>)
// CHECK: arith.addf %{{.*}}, %{{.*}} : f32
// CHECK: return %[[Y]]
func.func @elementwise(%a: tensor<?xf32>, %b: tensor<?xf32>) -> tensor<?xf32> {
  %y = arith.addf %a, %b : tensor<?xf32>
  return %y : tensor<?xf32>
}

// CHECK-LABEL: func.func @other_result_type
// CHECK: linalg.generic {{.*}} ins(%{{.*}}, %{{.*}} : tensor<2x?xf32>, tensor<2x?xf32>) outs(%{{.*}} : tensor<2x?xi1>)
// CHECK: arith.cmpf olt, %{{.*}}, %{{.*}} : f32
// CHECK: linalg.generic
// CHECK: math.exp %{{.*}} : f32
func.func @other_result_type(%a: tensor<2x?xf32>) -> (tensor<2x?xi1>, tensor<2x?xf32>) {
  %0 = arith.cmpf olt, %a, %a : tensor<2x?xf32>
  %1 = math.exp %a : tensor<2x?xf32>
  return %0, %1 : tensor<2x?xi1>, tensor<2x?xf32>
}

// CHECK-LABEL: func.func @named
// CHECK-NOT: linalg.transpose
// CHECK: linalg.generic {indexing_maps = [#{{.*}}, #{{.*}}], iterator_types = ["parallel", "parallel"]}
// CHECK-NOT: linalg.reduce
// CHECK: linalg.generic {indexing_maps = [#{{.*}}, #{{.*}}], iterator_types = ["parallel", "reduction"]}
func.func @named(%a: tensor<4x?xf32>, %t: tensor<?x4xf32>, %r: tensor<?xf32>) -> tensor<?xf32> {
  %0 = linalg.transpose ins(%a : tensor<4x?xf32>) outs(%t : tensor<?x4xf32>) permutation = [1, 0]
  %1 = linalg.reduce {arith.addf} ins(%0 : tensor<?x4xf32>) outs(%r : tensor<?xf32>) dimensions = [1]
  return %1 : tensor<?xf32>
}

// A fill says that a value is the same everywhere; scalars and dsc operations are no business of this pass.
// CHECK-LABEL: func.func @kept
// CHECK-NOT: linalg.generic
// CHECK: linalg.fill
// CHECK: arith.addi %{{.*}}, %{{.*}} : index
// CHECK: dsc.softmax
func.func @kept(%e: tensor<4xf32>, %x: tensor<4xf32>, %n: index) -> (tensor<4xf32>, index, tensor<4xf32>) {
  %zero = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%zero : f32) outs(%e : tensor<4xf32>) -> tensor<4xf32>
  %1 = arith.addi %n, %n : index
  %2 = dsc.softmax %x : tensor<4xf32>
  return %0, %1, %2 : tensor<4xf32>, index, tensor<4xf32>
}
