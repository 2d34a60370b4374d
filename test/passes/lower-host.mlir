// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-lower-host --split-input-file --verify-diagnostics | FileCheck %s
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-lower-host --split-input-file --verify-diagnostics --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS
// RUN: echo 'module {}' | not dsc-opt --dsc-set-target=target=cpu:x86-64-v4 --dsc-lower-host 2>&1 | FileCheck %s --check-prefix=ERR

// STATS: (S) 1 arena-buffers - places in the arena
// ERR: error: has no function @main

// CHECK: dsc.manifest = {dispatches = [{bytes = "n * 8", index = 0 : i64, kernel = "k", {{[^}]*}}operations = "0", {{[^}]*}}, variants = 1 : i64},
// CHECK-SAME: {bytes, index = 1 : i64, kernel = "k", {{[^}]*}}operations, program
// CHECK-SAME: features = ["sse3",
// CHECK-SAME: init, main = {args = [{dtype = "f32", kind = "input", name = "x", {{.*}}shape = ["n"], tied = false, unsigned = false, weight}], results = [{dtype = "f32", name, shape = ["?"], tied, unsigned = false}]}
// CHECK-SAME: statistics = {dispatches = 2 : i64, kernels = 1 : i64}
// CHECK-SAME: symbols = [{divisor = 1 : i64, max = 512 : i64, min = 1 : i64, name = "n"}]
// CHECK-SAME: target = "cpu:x86-64-v4", version = 1 : i64}
module attributes {dsc.symbols = ["n"], dsc.ranges = {n = array<i64: 1, 512, 1>}} {
  // CHECK-LABEL: func.func @main_shapes(%{{.*}}: memref<?xi64>)
  // CHECK: %[[N:.*]] = arith.index_cast %{{.*}} : index to i64
  // CHECK: memref.store %[[N]], %{{.*}}[%{{.*}}] : memref<?xi64>
  // CHECK-LABEL: func.func @main(
  // CHECK-SAME: %[[X:[^:]*]]: memref<?xf32> {dsc.dims = #dsc.dims<["n"]>, dsc.name = "x"}, %[[Y:[^:]*]]: memref<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> i32
  // CHECK: %[[ARENA:.*]], %[[OK:.*]] = dsc.arena %{{.*}} : memref<?xi8>
  // CHECK: %[[STATUS:.*]] = scf.if %[[OK]] -> (i32) {
  // CHECK: %[[V:.*]] = memref.view %[[ARENA]][%{{.*}}][%{{.*}}] : memref<?xi8> to memref<?xf32>
  // CHECK: dsc.launch [@k](%[[X]], %[[V]]) workgroups %{{.*}} {dispatch = 0 : i64}
  // CHECK: dsc.launch [@k](%[[V]], %[[Y]]) workgroups %{{.*}} {dispatch = 1 : i64}
  // CHECK: %[[DONE:.*]] = arith.constant 0 : i32
  // CHECK: scf.yield %[[DONE]] : i32
  // CHECK: %[[FULL:.*]] = arith.constant 1 : i32
  // CHECK: scf.yield %[[FULL]] : i32
  // CHECK: return %[[STATUS]] : i32
  func.func @main(%x: tensor<?xf32> {dsc.name = "x", dsc.dims = #dsc.dims<["n"]>}) -> tensor<?xf32> {
    %n = dsc.dim "n" {min = 1 : i64, max = 512 : i64} : index
    %0 = dsc.launch [@k] (%x) {dsc.cost = {bytes = "n * 8", operations = "0"}} : (tensor<?xf32>) -> tensor<?xf32>
    %1 = dsc.launch [@k] (%0) : (tensor<?xf32>) -> tensor<?xf32>
    return %1 : tensor<?xf32>
  }
  func.func private @k(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> (tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [8]>} {
    %z = arith.constant 0.0 : f32
    %0 = linalg.fill ins(%z : f32) outs(%x : tensor<?xf32>) -> tensor<?xf32>
    return %0 : tensor<?xf32>
  }
}

// -----

// Variants are tried in order, the last one unconditionally; both write the caller's buffer, and there is no arena.
module attributes {dsc.symbols = ["n"]} {
  // CHECK-LABEL: func.func @main(
  // CHECK-NOT: dsc.arena
  // CHECK: %[[FEW:.*]] = arith.cmpi sle, %{{.*}}, %{{.*}} : index
  // CHECK: scf.if %[[FEW]] {
  // CHECK: dsc.launch [@few](%{{.*}}, %{{.*}}, %[[R:.*]]) workgroups %{{.*}} {dispatch = 0 : i64}
  // CHECK: } else {
  // CHECK: dsc.launch [@many](%{{.*}}, %{{.*}}, %[[R]]) workgroups %{{.*}} {dispatch = 0 : i64}
  // CHECK: %[[C0:.*]] = arith.constant 0 : i32
  // CHECK: return %[[C0]] : i32
  func.func @main(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<8x32xf32>) -> tensor<?x32xf32> {
    %0 = dsc.launch [@few, @many] (%x, %w) : (tensor<?x8xf32>, tensor<8x32xf32>) -> tensor<?x32xf32>
    return %0 : tensor<?x32xf32>
  }
  func.func private @few(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<8x32xf32>) -> (tensor<?x32xf32> {dsc.dims = #dsc.dims<["n", "_"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>} {
    %0 = dsc.matmul %x, %w : (tensor<?x8xf32>, tensor<8x32xf32>) -> tensor<?x32xf32>
    return %0 : tensor<?x32xf32>
  }
  func.func private @many(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<8x32xf32>) -> (tensor<?x32xf32> {dsc.dims = #dsc.dims<["n", "_"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [12, 32], workgroup = [96, 32]>} {
    %0 = dsc.matmul %x, %w : (tensor<?x8xf32>, tensor<8x32xf32>) -> tensor<?x32xf32>
    return %0 : tensor<?x32xf32>
  }
}

// -----

// A place is used again after the last reading of what it held, and never by the launch that still reads it.
// CHECK-LABEL: func.func @main(
// CHECK: %[[A:.*]] = memref.view %{{.*}}[%[[O:.*]]][] : memref<?xi8> to memref<4xf32>
// CHECK: dsc.launch [@k](%{{.*}}, %[[A]])
// CHECK: %[[B:.*]] = memref.view %{{.*}}[%[[P:.*]]][] : memref<?xi8> to memref<4xf32>
// CHECK: dsc.launch [@k](%[[A]], %[[B]])
// CHECK: %[[Q:.*]] = arith.constant 0 : index
// CHECK: %[[C:.*]] = memref.view %{{.*}}[%[[Q]]][] : memref<?xi8> to memref<4xf32>
// CHECK: dsc.launch [@k](%[[B]], %[[C]])
// CHECK: dsc.launch [@k](%[[C]], %{{.*}})
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = dsc.launch [@k] (%0) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = dsc.launch [@k] (%1) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = dsc.launch [@k] (%2) : (tensor<4xf32>) -> tensor<4xf32>
  return %3 : tensor<4xf32>
}
func.func private @k(%x: tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>}) -> (tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>})
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %z = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4xf32>
  %0 = linalg.fill ins(%z : f32) outs(%e : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// A tied result has no buffer of its own. @init is a program like @main, its dispatches are numbered behind.
// CHECK: main = {args = [{{.*}}tied = true{{.*}}], results = [{{.*}}tied = 0 : i64
// CHECK-LABEL: func.func @init(
// CHECK-SAME: memref<4xf32> {{.*}}, %{{.*}}: memref<4xf32> {{.*}}) -> i32
// CHECK: {dispatch = 1 : i64}
// CHECK-LABEL: func.func @main(
// CHECK-SAME: %[[C:[^:]*]]: memref<4xf32> {{[{][^}]*}}}) -> i32
// CHECK: dsc.launch [@k](%[[C]]) workgroups %{{.*}} {dispatch = 0 : i64} : (memref<4xf32>) -> ()
func.func @init(%w: tensor<4xf32> {dsc.weight = "w"}) -> tensor<4xf32> {
  %0 = dsc.launch [@p] (%w) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @main(%c: tensor<4xf32> {dsc.name = "c"}) -> (tensor<4xf32> {dsc.tied = 0 : i64}) {
  %0 = dsc.launch [@k] (%c) tied [0] : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func private @k(%x: tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>}) -> (tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>})
    attributes {dsc.kernel, dsc.tied = array<i64: 0>, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %z = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%z : f32) outs(%x : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func private @p(%x: tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>}) -> (tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>})
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %e = tensor.empty() : tensor<4xf32>
  %z = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%z : f32) outs(%e : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @main(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 0 : i64}) {
  %0 = tensor.empty() : tensor<4xf32>
  // expected-error @+1 {{result 0 is not the buffer of the argument that it is tied to}}
  return %0 : tensor<4xf32>
}

// -----

func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{result 0 is not made by a launch of its own}}
  return %x : tensor<4xf32>
}

// -----

func.func private @k(tensor<4xf32>) -> (tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>}) attributes {dsc.kernel}
func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  // expected-error @+1 {{result 1 is not made by a launch of its own}}
  return %0, %0 : tensor<4xf32>, tensor<4xf32>
}

// -----

func.func private @trace(tensor<4xf32>)
func.func @main(%x: tensor<4xf32>) {
  // expected-error @+1 {{has no place in a host program}}
  call @trace(%x) : (tensor<4xf32>) -> ()
  return
}

// -----

func.func private @k(%x: tensor<4xf32>) -> tensor<8xf32> attributes {dsc.kernel} {
  %0 = tensor.empty() : tensor<8xf32>
  return %0 : tensor<8xf32>
}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{has other types than its kernel @k}}
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// expected-error @+1 {{needs a schedule of one variant}}
func.func private @k(%x: tensor<4xf32>) -> tensor<4xf32> attributes {dsc.kernel} {
  %0 = dsc.softmax %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @k(%x: tensor<4xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %z = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%z : f32) outs(%x : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{has no rows to choose a variant by, but several kernels}}
  %0 = dsc.launch [@k, @k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @k(%x: tensor<4xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %z = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%z : f32) outs(%x : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = dsc.launch [@k] (%x) {concurrent} : (tensor<4xf32>) -> tensor<4xf32>
  // expected-error @+1 {{depends on a concurrent launch before it}}
  %1 = dsc.launch [@k] (%0) : (tensor<4xf32>) -> tensor<4xf32>
  return %1 : tensor<4xf32>
}

// -----

func.func private @k(%x: tensor<4xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %z = arith.constant 0.0 : f32
  %0 = linalg.fill ins(%z : f32) outs(%x : tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{is concurrent, but no launch follows}}
  %0 = dsc.launch [@k] (%x) {concurrent} : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// expected-error @+1 {{is no program: needs one block, and ranked tensors as arguments and results}}
func.func @main(%x: memref<4xf32>) {
  return
}

// -----

// expected-error @+1 {{has a size that does not follow from the named dimensions: 'tensor<?xf32>'}}
func.func @main(%x: tensor<?xf32>) -> tensor<?xf32> {
  return %x : tensor<?xf32>
}

// -----

// Partial results lie in the arena between the two launches of a kernel and the one that merges.
module attributes {dsc.symbols = ["b"]} {
  // CHECK-LABEL: func.func @main(
  // CHECK-SAME: %[[Q:[^:]*]]: memref<?x1x4x16xf32>
  // CHECK: %[[ARENA:.*]], %{{.*}} = dsc.arena
  // CHECK: %[[P:.*]] = memref.view %[[ARENA]][%{{.*}}][%{{.*}}] : memref<?xi8> to memref<?x8x1x4x18xf32>
  // CHECK: dsc.launch [@splits](%[[Q]], %[[Y:.*]], %[[P]]) workgroups %{{.*}} {dispatch = 0 : i64}
  // CHECK: dsc.launch [@splits_merge](%[[Q]], %[[Y]], %[[P]]) workgroups %{{.*}} {dispatch = 0 : i64}
  func.func @main(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}) -> tensor<?x1x4x16xf32> {
    %0 = dsc.launch [@splits] (%q) : (tensor<?x1x4x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
  func.func private @splits(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      -> (tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      attributes {dsc.kernel, dsc.merge = @splits_merge, dsc.schedule = #dsc.variant<max_rows = 1, tile = [2, 16], workgroup = [1, 1, 8], depth = 64>} {
    %0 = dsc.attention %q, %q, %q {scale = 1.0 : f32} : (tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
  func.func private @splits_merge(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      -> (tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      attributes {dsc.kernel, dsc.merge, dsc.schedule = #dsc.variant<max_rows = 1, tile = [2, 16], workgroup = [1, 1, 8], depth = 64>} {
    %0 = dsc.attention %q, %q, %q {scale = 1.0 : f32} : (tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
}

// -----

module attributes {dsc.symbols = ["b"]} {
  func.func @main(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}) -> tensor<?x1x4x16xf32> {
    // expected-error @+1 {{has a kernel with partial results, but none that merges them: @splits}}
    %0 = dsc.launch [@splits] (%q) : (tensor<?x1x4x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
  func.func private @splits(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      -> (tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<max_rows = 1, tile = [2, 16], workgroup = [1, 1, 8], depth = 64>} {
    %0 = dsc.attention %q, %q, %q {scale = 1.0 : f32} : (tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>, tensor<?x1x4x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
}
