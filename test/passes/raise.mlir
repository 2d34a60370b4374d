// RUN: dsc-opt %s --dsc-name-dims --canonicalize --cse --dsc-raise --canonicalize --cse 2>%t.err | FileCheck %s
// RUN: FileCheck %s --check-prefix=REMARK --input-file=%t.err

// CHECK: module attributes {dsc.not_raised = ["attention at {{.*}} is computed with all its scores: its scores are not a product of queries and keys"]

// The weight may stand anywhere in the product.
// CHECK-LABEL: func.func @rms_norm
// CHECK-NEXT: %[[Y:.*]] = dsc.rms_norm %arg0, %arg1 {eps = 9.9999999747524271E-7 : f64}
// CHECK-NEXT: return %[[Y]]
  func.func @rms_norm(
      %arg0: tensor<?x?x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg1: tensor<8xf32> ) -> (tensor<?x?x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) {
    %0 = dsc.dim "b" : index
    %1 = dsc.dim "s" : index
    %2 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %3 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg0 : tensor<?x?x8xf32>) outs(%2 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %4 = tensor.empty(%0, %1) : tensor<?x?xf32>
    %5 = arith.constant 0.0 : f32
    %6 = linalg.fill ins(%5 : f32) outs(%4 : tensor<?x?xf32>) -> tensor<?x?xf32>
    %7 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%3 : tensor<?x?x8xf32>) outs(%6 : tensor<?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.addf %out0, %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?xf32>
    %8 = tensor.expand_shape %7 [[0], [1, 2]] output_shape [%0, %1, 1] : tensor<?x?xf32> into tensor<?x?x1xf32>
    %9 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %10 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%8 : tensor<?x?x1xf32>) outs(%9 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 8.0 : f32
      %b1 = arith.divf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x?x1xf32>
    %11 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %12 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%10 : tensor<?x?x1xf32>) outs(%11 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 9.999999974752427e-07 : f32
      %b1 = arith.addf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x?x1xf32>
    %13 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %14 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%12 : tensor<?x?x1xf32>) outs(%13 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = math.sqrt %in0 : f32
      %b1 = arith.constant 1.0 : f32
      %b2 = arith.divf %b1, %b0 : f32
      linalg.yield %b2 : f32
    } -> tensor<?x?x1xf32>
    %15 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %16 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg0, %14 : tensor<?x?x8xf32>, tensor<?x?x1xf32>) outs(%15 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %17 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %18 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg1, %16 : tensor<8xf32>, tensor<?x?x8xf32>) outs(%17 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    return %18 : tensor<?x?x8xf32>
  }

// CHECK-LABEL: func.func @layer_norm
// CHECK-NEXT: %[[Y:.*]] = dsc.layer_norm %arg0 weight %arg1 bias %arg2 {eps = 9.9999997473787516E-6 : f64}
// CHECK-NEXT: return %[[Y]]
  func.func @layer_norm(
      %arg0: tensor<?x?x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg1: tensor<8xf32> ,
      %arg2: tensor<8xf32> ) -> (tensor<?x?x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) {
    %0 = dsc.dim "b" : index
    %1 = dsc.dim "s" : index
    %2 = tensor.empty(%0, %1) : tensor<?x?xf32>
    %3 = arith.constant 0.0 : f32
    %4 = linalg.fill ins(%3 : f32) outs(%2 : tensor<?x?xf32>) -> tensor<?x?xf32>
    %5 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%arg0 : tensor<?x?x8xf32>) outs(%4 : tensor<?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.addf %out0, %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?xf32>
    %6 = tensor.expand_shape %5 [[0], [1, 2]] output_shape [%0, %1, 1] : tensor<?x?xf32> into tensor<?x?x1xf32>
    %7 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %8 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%6 : tensor<?x?x1xf32>) outs(%7 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 8.0 : f32
      %b1 = arith.divf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x?x1xf32>
    %9 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %10 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg0, %8 : tensor<?x?x8xf32>, tensor<?x?x1xf32>) outs(%9 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.subf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %11 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %12 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg0, %8 : tensor<?x?x8xf32>, tensor<?x?x1xf32>) outs(%11 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.subf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %13 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %14 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%10, %12 : tensor<?x?x8xf32>, tensor<?x?x8xf32>) outs(%13 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %15 = tensor.empty(%0, %1) : tensor<?x?xf32>
    %16 = arith.constant 0.0 : f32
    %17 = linalg.fill ins(%16 : f32) outs(%15 : tensor<?x?xf32>) -> tensor<?x?xf32>
    %18 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%14 : tensor<?x?x8xf32>) outs(%17 : tensor<?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.addf %out0, %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?xf32>
    %19 = tensor.expand_shape %18 [[0], [1, 2]] output_shape [%0, %1, 1] : tensor<?x?xf32> into tensor<?x?x1xf32>
    %20 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %21 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%19 : tensor<?x?x1xf32>) outs(%20 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 8.0 : f32
      %b1 = arith.divf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x?x1xf32>
    %22 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %23 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%arg0, %8 : tensor<?x?x8xf32>, tensor<?x?x1xf32>) outs(%22 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.subf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %24 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %25 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%21 : tensor<?x?x1xf32>) outs(%24 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 9.999999747378752e-06 : f32
      %b1 = arith.addf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x?x1xf32>
    %26 = tensor.empty(%0, %1) : tensor<?x?x1xf32>
    %27 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%25 : tensor<?x?x1xf32>) outs(%26 : tensor<?x?x1xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = math.sqrt %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x1xf32>
    %28 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %29 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%23, %27 : tensor<?x?x8xf32>, tensor<?x?x1xf32>) outs(%28 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.divf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %30 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %31 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%29, %arg1 : tensor<?x?x8xf32>, tensor<8xf32>) outs(%30 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    %32 = tensor.empty(%0, %1) : tensor<?x?x8xf32>
    %33 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1, d2)>, affine_map<(d0, d1, d2) -> (d2)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%31, %arg2 : tensor<?x?x8xf32>, tensor<8xf32>) outs(%32 : tensor<?x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.addf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x8xf32>
    return %33 : tensor<?x?x8xf32>
  }

// Pairs half a head apart, heads before positions.
// CHECK-LABEL: func.func @rope
// CHECK: dsc.rope %{{.*}}, %{{.*}}, %{{.*}} : (tensor<?x?x4x8xf32>, tensor<?x?x4xf32>, tensor<?x?x4xf32>) -> tensor<?x?x4x8xf32>
  func.func @rope(
      %arg0: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg1: tensor<?x?x4xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg2: tensor<?x?x4xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) -> (tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>}) {
    %0 = tensor.concat dim(2) %arg1, %arg1 : (tensor<?x?x4xf32>, tensor<?x?x4xf32>) -> tensor<?x?x8xf32>
    %1 = tensor.concat dim(2) %arg2, %arg2 : (tensor<?x?x4xf32>, tensor<?x?x4xf32>) -> tensor<?x?x8xf32>
    %2 = dsc.dim "b" : index
    %3 = dsc.dim "s" : index
    %4 = tensor.extract_slice %arg0[0, 0, 0, 0] [%2, 4, %3, 4] [1, 1, 1, 1] : tensor<?x4x?x8xf32> to tensor<?x4x?x4xf32>
    %5 = tensor.extract_slice %arg0[0, 0, 0, 4] [%2, 4, %3, 4] [1, 1, 1, 1] : tensor<?x4x?x8xf32> to tensor<?x4x?x4xf32>
    %6 = tensor.expand_shape %0 [[0], [1, 2], [3]] output_shape [%2, 1, %3, 8] : tensor<?x?x8xf32> into tensor<?x1x?x8xf32>
    %7 = tensor.empty(%2, %3) : tensor<?x4x?x8xf32>
    %8 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, 0, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%arg0, %6 : tensor<?x4x?x8xf32>, tensor<?x1x?x8xf32>) outs(%7 : tensor<?x4x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x8xf32>
    %9 = tensor.empty(%2, %3) : tensor<?x4x?x4xf32>
    %10 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%5 : tensor<?x4x?x4xf32>) outs(%9 : tensor<?x4x?x4xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.negf %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x4xf32>
    %11 = tensor.concat dim(3) %10, %4 : (tensor<?x4x?x4xf32>, tensor<?x4x?x4xf32>) -> tensor<?x4x?x8xf32>
    %12 = tensor.expand_shape %1 [[0], [1, 2], [3]] output_shape [%2, 1, %3, 8] : tensor<?x?x8xf32> into tensor<?x1x?x8xf32>
    %13 = tensor.empty(%2, %3) : tensor<?x4x?x8xf32>
    %14 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, 0, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%11, %12 : tensor<?x4x?x8xf32>, tensor<?x1x?x8xf32>) outs(%13 : tensor<?x4x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x8xf32>
    %15 = tensor.empty(%2, %3) : tensor<?x4x?x8xf32>
    %16 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%8, %14 : tensor<?x4x?x8xf32>, tensor<?x4x?x8xf32>) outs(%15 : tensor<?x4x?x8xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.addf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x8xf32>
    return %16 : tensor<?x4x?x8xf32>
  }

// Pairs beside each other, written as two products each and joined.
// CHECK-LABEL: func.func @interleaved
// CHECK: dsc.rope %arg0, %arg1, %arg2 {interleaved}
// CHECK-NEXT: return
  func.func @interleaved(
      %arg0: tensor<?x?x4x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
      %arg1: tensor<?x?x4xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg2: tensor<?x?x4xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) -> (tensor<?x?x4x8xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>}) {
    %0 = dsc.dim "b" : index
    %1 = dsc.dim "s" : index
    %2 = tensor.extract_slice %arg0[0, 0, 0, 0] [%0, %1, 4, 4] [1, 1, 1, 2] : tensor<?x?x4x8xf32> to tensor<?x?x4x4xf32>
    %3 = tensor.extract_slice %arg0[0, 0, 0, 1] [%0, %1, 4, 4] [1, 1, 1, 2] : tensor<?x?x4x8xf32> to tensor<?x?x4x4xf32>
    %4 = tensor.expand_shape %arg1 [[0], [1], [2, 3]] output_shape [%0, %1, 1, 4] : tensor<?x?x4xf32> into tensor<?x?x1x4xf32>
    %5 = tensor.expand_shape %arg2 [[0], [1], [2, 3]] output_shape [%0, %1, 1, 4] : tensor<?x?x4xf32> into tensor<?x?x1x4xf32>
    %6 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %7 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, 0, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%2, %4 : tensor<?x?x4x4xf32>, tensor<?x?x1x4xf32>) outs(%6 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %8 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %9 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, 0, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%3, %5 : tensor<?x?x4x4xf32>, tensor<?x?x1x4xf32>) outs(%8 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %10 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %11 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%7, %9 : tensor<?x?x4x4xf32>, tensor<?x?x4x4xf32>) outs(%10 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.subf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %12 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %13 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, 0, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%3, %4 : tensor<?x?x4x4xf32>, tensor<?x?x1x4xf32>) outs(%12 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %14 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %15 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, 0, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%2, %5 : tensor<?x?x4x4xf32>, tensor<?x?x1x4xf32>) outs(%14 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.mulf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %16 = tensor.empty(%0, %1) : tensor<?x?x4x4xf32>
    %17 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%13, %15 : tensor<?x?x4x4xf32>, tensor<?x?x4x4xf32>) outs(%16 : tensor<?x?x4x4xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.addf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x?x4x4xf32>
    %18 = tensor.expand_shape %11 [[0], [1], [2], [3, 4]] output_shape [%0, %1, 4, 4, 1] : tensor<?x?x4x4xf32> into tensor<?x?x4x4x1xf32>
    %19 = tensor.expand_shape %17 [[0], [1], [2], [3, 4]] output_shape [%0, %1, 4, 4, 1] : tensor<?x?x4x4xf32> into tensor<?x?x4x4x1xf32>
    %20 = tensor.concat dim(4) %18, %19 : (tensor<?x?x4x4x1xf32>, tensor<?x?x4x4x1xf32>) -> tensor<?x?x4x4x2xf32>
    %21 = tensor.collapse_shape %20 [[0], [1], [2], [3, 4]] : tensor<?x?x4x4x2xf32> into tensor<?x?x4x8xf32>
    return %21 : tensor<?x?x4x8xf32>
  }

// Heads split, transposed and repeated; the mask is a comparison of positions.
// CHECK-LABEL: func.func @causal
// CHECK: %[[Q:.*]] = tensor.expand_shape %arg0
// CHECK: %[[K:.*]] = tensor.expand_shape %arg1
// CHECK: %[[V:.*]] = tensor.expand_shape %arg2
// CHECK: %[[Y:.*]] = dsc.attention %[[Q]], %[[K]], %[[V]] {causal, scale = 2.500000e-01 : f32}
// CHECK-SAME: (tensor<?x?x4x8xf32>, tensor<?x?x2x8xf32>, tensor<?x?x2x8xf32>)
// CHECK-NEXT: tensor.collapse_shape %[[Y]]
// CHECK-NEXT: return
  func.func @causal(
      %arg0: tensor<?x?x32xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg1: tensor<?x?x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>},
      %arg2: tensor<?x?x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) -> (tensor<?x?x32xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>}) {
    %0 = dsc.dim "b" : index
    %1 = dsc.dim "s" : index
    %2 = tensor.expand_shape %arg0 [[0], [1], [2, 3]] output_shape [%0, %1, 4, 8] : tensor<?x?x32xf32> into tensor<?x?x4x8xf32>
    %3 = tensor.empty(%0, %1) : tensor<?x4x?x8xf32>
    %4 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d2, d1, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%2 : tensor<?x?x4x8xf32>) outs(%3 : tensor<?x4x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x4x?x8xf32>
    %5 = tensor.expand_shape %arg1 [[0], [1], [2, 3]] output_shape [%0, %1, 2, 8] : tensor<?x?x16xf32> into tensor<?x?x2x8xf32>
    %6 = tensor.empty(%0, %1) : tensor<?x2x?x8xf32>
    %7 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d2, d1, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%5 : tensor<?x?x2x8xf32>) outs(%6 : tensor<?x2x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x2x?x8xf32>
    %8 = tensor.expand_shape %arg2 [[0], [1], [2, 3]] output_shape [%0, %1, 2, 8] : tensor<?x?x16xf32> into tensor<?x?x2x8xf32>
    %9 = tensor.empty(%0, %1) : tensor<?x2x?x8xf32>
    %10 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d2, d1, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%8 : tensor<?x?x2x8xf32>) outs(%9 : tensor<?x2x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x2x?x8xf32>
    %11 = tensor.expand_shape %7 [[0], [1], [2, 3], [4]] output_shape [%0, 2, 1, %1, 8] : tensor<?x2x?x8xf32> into tensor<?x2x1x?x8xf32>
    %12 = tensor.empty(%0, %1) : tensor<?x2x2x?x8xf32>
    %13 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3, d4) -> (d0, d1, 0, d3, d4)>, affine_map<(d0, d1, d2, d3, d4) -> (d0, d1, d2, d3, d4)>], iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]} ins(%11 : tensor<?x2x1x?x8xf32>) outs(%12 : tensor<?x2x2x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x2x2x?x8xf32>
    %14 = tensor.collapse_shape %13 [[0], [1, 2], [3], [4]] : tensor<?x2x2x?x8xf32> into tensor<?x4x?x8xf32>
    %15 = tensor.expand_shape %10 [[0], [1], [2, 3], [4]] output_shape [%0, 2, 1, %1, 8] : tensor<?x2x?x8xf32> into tensor<?x2x1x?x8xf32>
    %16 = tensor.empty(%0, %1) : tensor<?x2x2x?x8xf32>
    %17 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3, d4) -> (d0, d1, 0, d3, d4)>, affine_map<(d0, d1, d2, d3, d4) -> (d0, d1, d2, d3, d4)>], iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel"]} ins(%15 : tensor<?x2x1x?x8xf32>) outs(%16 : tensor<?x2x2x?x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x2x2x?x8xf32>
    %18 = tensor.collapse_shape %17 [[0], [1, 2], [3], [4]] : tensor<?x2x2x?x8xf32> into tensor<?x4x?x8xf32>
    %19 = dsc.matmul %4, %14 {transpose_rhs} : (tensor<?x4x?x8xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x?xf32>
    %20 = tensor.empty(%0, %1, %1) : tensor<?x4x?x?xf32>
    %21 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%19 : tensor<?x4x?x?xf32>) outs(%20 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 0.25 : f32
      %b1 = arith.mulf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x4x?x?xf32>
    %22 = tensor.empty(%1) : tensor<?xi64>
    %23 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%22 : tensor<?xi64>) {
    ^bb0(%out0: i64):
      %b0 = linalg.index 0 : index
      %b1 = arith.index_cast %b0 : index to i64
      linalg.yield %b1 : i64
    } -> tensor<?xi64>
    %24 = tensor.empty(%1) : tensor<?xi64>
    %25 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%24 : tensor<?xi64>) {
    ^bb0(%out0: i64):
      %b0 = linalg.index 0 : index
      %b1 = arith.index_cast %b0 : index to i64
      linalg.yield %b1 : i64
    } -> tensor<?xi64>
    %26 = tensor.expand_shape %25 [[0, 1]] output_shape [1, %1] : tensor<?xi64> into tensor<1x?xi64>
    %27 = tensor.expand_shape %23 [[0, 1]] output_shape [%1, 1] : tensor<?xi64> into tensor<?x1xi64>
    %28 = tensor.empty(%1, %1) : tensor<?x?xi1>
    %29 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (0, d1)>, affine_map<(d0, d1) -> (d0, 0)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%26, %27 : tensor<1x?xi64>, tensor<?x1xi64>) outs(%28 : tensor<?x?xi1>) {
    ^bb0(%in0: i64, %in1: i64, %out0: i1):
      %b0 = arith.cmpi sle, %in0, %in1 : i64
      linalg.yield %b0 : i1
    } -> tensor<?x?xi1>
    %30 = tensor.empty(%0, %1, %1) : tensor<?x4x?x?xf32>
    %31 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%29, %21 : tensor<?x?xi1>, tensor<?x4x?x?xf32>) outs(%30 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: i1, %in1: f32, %out0: f32):
      %b0 = arith.constant 0xFF800000 : f32
      %b1 = arith.select %in0, %in1, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x4x?x?xf32>
    %32 = dsc.softmax %31 : tensor<?x4x?x?xf32>
    %33 = dsc.matmul %32, %18 : (tensor<?x4x?x?xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
    %34 = tensor.empty(%0, %1) : tensor<?x?x4x8xf32>
    %35 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d2, d1, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%33 : tensor<?x4x?x8xf32>) outs(%34 : tensor<?x?x4x8xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      linalg.yield %in0 : f32
    } -> tensor<?x?x4x8xf32>
    %36 = tensor.collapse_shape %35 [[0], [1], [2, 3]] : tensor<?x?x4x8xf32> into tensor<?x?x32xf32>
    return %36 : tensor<?x?x32xf32>
  }

// What is no comparison of positions stays an operand, with sizes of 1 where it is the same.
// CHECK-LABEL: func.func @masked
// CHECK: %[[M:.*]] = tensor.expand_shape %arg3 {{.*}} into tensor<?x1x1x?xf32>
// CHECK: dsc.attention %{{.*}}, %{{.*}}, %{{.*}} mask %[[M]] {scale = 1.000000e+00 : f32, soft_cap = 1.000000e+01 : f32, window = 3 : i64}
  func.func @masked(
      %arg0: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg1: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg2: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg3: tensor<?x?xf32> {dsc.dims = #dsc.dims<["b", "s"]>}) -> (tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>}) {
    %0 = dsc.matmul %arg0, %arg1 {transpose_rhs} : (tensor<?x4x?x8xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x?xf32>
    %1 = dsc.dim "b" : index
    %2 = dsc.dim "s" : index
    %3 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %4 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%0 : tensor<?x4x?x?xf32>) outs(%3 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 10.0 : f32
      %b1 = arith.divf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x4x?x?xf32>
    %5 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %6 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%4 : tensor<?x4x?x?xf32>) outs(%5 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = math.tanh %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x?xf32>
    %7 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %8 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%6 : tensor<?x4x?x?xf32>) outs(%7 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = arith.constant 10.0 : f32
      %b1 = arith.mulf %in0, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x4x?x?xf32>
    %9 = tensor.empty(%2) : tensor<?xi64>
    %10 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%9 : tensor<?xi64>) {
    ^bb0(%out0: i64):
      %b0 = linalg.index 0 : index
      %b1 = arith.index_cast %b0 : index to i64
      linalg.yield %b1 : i64
    } -> tensor<?xi64>
    %11 = tensor.empty(%2) : tensor<?xi64>
    %12 = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} outs(%11 : tensor<?xi64>) {
    ^bb0(%out0: i64):
      %b0 = linalg.index 0 : index
      %b1 = arith.index_cast %b0 : index to i64
      linalg.yield %b1 : i64
    } -> tensor<?xi64>
    %13 = tensor.expand_shape %12 [[0, 1]] output_shape [1, %2] : tensor<?xi64> into tensor<1x?xi64>
    %14 = tensor.expand_shape %10 [[0, 1]] output_shape [%2, 1] : tensor<?xi64> into tensor<?x1xi64>
    %15 = tensor.empty(%2) : tensor<?x1xi64>
    %16 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%14 : tensor<?x1xi64>) outs(%15 : tensor<?x1xi64>) {
    ^bb0(%in0: i64, %out0: i64):
      %b0 = arith.constant 3 : i64
      %b1 = arith.subi %in0, %b0 : i64
      linalg.yield %b1 : i64
    } -> tensor<?x1xi64>
    %17 = tensor.empty(%2, %2) : tensor<?x?xi1>
    %18 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (0, d1)>, affine_map<(d0, d1) -> (d0, 0)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%13, %16 : tensor<1x?xi64>, tensor<?x1xi64>) outs(%17 : tensor<?x?xi1>) {
    ^bb0(%in0: i64, %in1: i64, %out0: i1):
      %b0 = arith.cmpi sgt, %in0, %in1 : i64
      linalg.yield %b0 : i1
    } -> tensor<?x?xi1>
    %19 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %20 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%18, %8 : tensor<?x?xi1>, tensor<?x4x?x?xf32>) outs(%19 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: i1, %in1: f32, %out0: f32):
      %b0 = arith.constant 0xFF800000 : f32
      %b1 = arith.select %in0, %in1, %b0 : f32
      linalg.yield %b1 : f32
    } -> tensor<?x4x?x?xf32>
    %21 = tensor.expand_shape %arg3 [[0], [1, 2, 3]] output_shape [%1, 1, 1, %2] : tensor<?x?xf32> into tensor<?x1x1x?xf32>
    %22 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %23 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, 0, 0, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%20, %21 : tensor<?x4x?x?xf32>, tensor<?x1x1x?xf32>) outs(%22 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %in1: f32, %out0: f32):
      %b0 = arith.addf %in0, %in1 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x?xf32>
    %24 = dsc.softmax %23 : tensor<?x4x?x?xf32>
    %25 = dsc.matmul %24, %arg2 : (tensor<?x4x?x?xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
    return %25 : tensor<?x4x?x8xf32>
  }

// CHECK-LABEL: func.func @no_attention
// CHECK: dsc.softmax
// REMARK: remark: is no dsc.attention: its scores are not a product of queries and keys
  func.func @no_attention(
      %arg0: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg1: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>},
      %arg2: tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>}) -> (tensor<?x4x?x8xf32> {dsc.dims = #dsc.dims<["b", "_", "s", "_"]>}) {
    %0 = dsc.matmul %arg0, %arg1 {transpose_rhs} : (tensor<?x4x?x8xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x?xf32>
    %1 = dsc.dim "b" : index
    %2 = dsc.dim "s" : index
    %3 = tensor.empty(%1, %2, %2) : tensor<?x4x?x?xf32>
    %4 = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>, affine_map<(d0, d1, d2, d3) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel"]} ins(%0 : tensor<?x4x?x?xf32>) outs(%3 : tensor<?x4x?x?xf32>) {
    ^bb0(%in0: f32, %out0: f32):
      %b0 = math.exp %in0 : f32
      linalg.yield %b0 : f32
    } -> tensor<?x4x?x?xf32>
    %5 = dsc.softmax %4 : tensor<?x4x?x?xf32>
    %6 = dsc.matmul %5, %arg2 : (tensor<?x4x?x?xf32>, tensor<?x4x?x8xf32>) -> tensor<?x4x?x8xf32>
    return %6 : tensor<?x4x?x8xf32>
  }
