// RUN: dsc-opt %s --dsc-outline-kernels --split-input-file --verify-diagnostics | FileCheck %s
// RUN: dsc-opt %s --dsc-outline-kernels --split-input-file --verify-diagnostics --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS

// STATS: (S) 3 dispatches - launches
// STATS: (S) 2 kernels {{ *}}- distinct kernels, variants not counted

module attributes {dsc.symbols = ["n"]} {
  // Equal regions, sizes and schedules share their kernels, whatever the reasons for precisions are; another schedule is another
  // kernel. Costs stay with launches.
  // CHECK-LABEL: func.func @main
  // CHECK: %[[A:.*]] = dsc.launch [@matmul_0_rows1, @matmul_0](%{{.*}}, %[[W0:.*]]) {dsc.cost = {bytes = "n"}} :
  // CHECK: %[[B:.*]] = dsc.launch [@matmul_0_rows1, @matmul_0](%[[A]], %[[W1:.*]]) :
  // CHECK: dsc.launch [@matmul_1](%[[B]], %[[W1]]) :
  // CHECK-NOT: dsc.dispatch
  // CHECK: func.func private @matmul_0_rows1(%{{[^:]*}}: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %{{[^:]*}}: tensor<8x8xf32> {dsc.dims = #dsc.dims<["_", "_"]>}) -> (tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}) attributes {dsc.kernel, dsc.schedule = #dsc.variant<max_rows = 1,{{ ?}}tile = [1, 32], workgroup = [1, 32]>}
  // CHECK-NEXT: %[[Y:.*]] = dsc.matmul %{{.*}}, %{{.*}} precision <acc = f32> :
  // CHECK-NEXT: return %[[Y]]
  // CHECK: func.func private @matmul_0(
  // CHECK-SAME: dsc.schedule = #dsc.variant<tile = [12, 32], workgroup = [96, 64]>}
  // CHECK: func.func private @matmul_1(
  // CHECK-SAME: dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [2, 32]>}
  // CHECK-NEXT: dsc.matmul %{{.*}}, %{{.*}} : (
  // CHECK-NOT: func.func
  func.func @main(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w0: tensor<8x8xf32>, %w1: tensor<8x8xf32>) -> tensor<?x8xf32> {
    %0 = dsc.dispatch (%x, %w0) schedule <<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>
        attributes {dsc.cost = {bytes = "n"}}
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%a: tensor<?x8xf32>, %b: tensor<8x8xf32>):
      %3 = dsc.matmul %a, %b precision <acc = f32, reason = "one"> : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> loc("layers.0")
      dsc.yield %3 : tensor<?x8xf32>
    }
    %1 = dsc.dispatch (%0, %w1) schedule <<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%c: tensor<?x8xf32>, %d: tensor<8x8xf32>):
      %3 = dsc.matmul %c, %d precision <acc = f32, reason = "another"> : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> loc("layers.1")
      dsc.yield %3 : tensor<?x8xf32>
    }
    %2 = dsc.dispatch (%1, %w1) schedule <<tile = [2, 32], workgroup = [2, 32]>>
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%c: tensor<?x8xf32>, %d: tensor<8x8xf32>):
      %3 = dsc.matmul %c, %d precision <reason = "a third"> : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32>
      dsc.yield %3 : tensor<?x8xf32>
    }
    return %2 : tensor<?x8xf32>
  }
}

// -----

// Kernels that differ in the names of their sizes alone are two: the sizes are read by name.
module attributes {dsc.symbols = ["n", "m"]} {
  // CHECK-LABEL: func.func @sizes
  // CHECK: dsc.launch [@softmax_0]
  // CHECK: dsc.launch [@softmax_1]
  func.func @sizes(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>}, %y: tensor<?xf32> {dsc.dims = #dsc.dims<["m"]>})
      -> (tensor<?xf32>, tensor<?xf32>) {
    %0 = dsc.dispatch (%x) schedule <<tile = [1, 16], workgroup = [8]>> : (tensor<?xf32>) -> tensor<?xf32> {
    ^bb0(%a: tensor<?xf32>):
      %2 = dsc.softmax %a : tensor<?xf32>
      dsc.yield %2 : tensor<?xf32>
    }
    %1 = dsc.dispatch (%y) schedule <<tile = [1, 16], workgroup = [8]>> : (tensor<?xf32>) -> tensor<?xf32> {
    ^bb0(%a: tensor<?xf32>):
      %2 = dsc.softmax %a : tensor<?xf32>
      dsc.yield %2 : tensor<?xf32>
    }
    return %0, %1 : tensor<?xf32>, tensor<?xf32>
  }
}

// -----

// A tie is written on the launch and on the kernel.
// CHECK-LABEL: func.func @tied
// CHECK: dsc.launch [@kv_append_0](%{{.*}}, %{{.*}}, %{{.*}}) tied [1] :
// CHECK: func.func private @kv_append_0(
// CHECK-SAME: dsc.tied = array<i64: 1>}
func.func @tied(%k: tensor<1x2x3x4xf32>, %c: tensor<1x2x3x8x4xf32>, %p: tensor<1xi32>) -> (tensor<1x2x3x8x4xf32> {dsc.tied = 1 : i64}) {
  %0 = dsc.dispatch (%k, %c, %p) tied [1] schedule <<tile = [1, 16], workgroup = [64]>>
      : (tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>, tensor<1xi32>) -> tensor<1x2x3x8x4xf32> {
  ^bb0(%a: tensor<1x2x3x4xf32>, %b: tensor<1x2x3x8x4xf32>, %d: tensor<1xi32>):
    %1 = dsc.kv_append %a, %a into %b at %d
        : (tensor<1x2x3x4xf32>, tensor<1x2x3x4xf32>, tensor<1x2x3x8x4xf32>, tensor<1xi32>) -> tensor<1x2x3x8x4xf32>
    dsc.yield %1 : tensor<1x2x3x8x4xf32>
  }
  return %0 : tensor<1x2x3x8x4xf32>
}

// -----

func.func @undecided(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{has no schedule: run --dsc-schedule-dispatches first}}
  %0 = dsc.dispatch (%x) : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    %1 = dsc.softmax %a : tensor<4xf32>
    dsc.yield %1 : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:x86-64", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 16>} {
  func.func @wrong_sizes(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
    // expected-error @+1 {{schedule needs 2 tile and 1 workgroup sizes, got: 1 and 2}}
    %0 = dsc.dispatch (%x) schedule <<tile = [4], workgroup = [4, 4]>> : (tensor<4x8xf32>) -> tensor<4x8xf32> {
    ^bb0(%a: tensor<4x8xf32>):
      %1 = dsc.softmax %a : tensor<4x8xf32>
      dsc.yield %1 : tensor<4x8xf32>
    }
    return %0 : tensor<4x8xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:x86-64", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 16>} {
  func.func @no_rows(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
    // expected-error @+1 {{has no rows to choose a variant by, but its schedule has 2 variants}}
    %0 = dsc.dispatch (%x) schedule <<max_rows = 1, tile = [1, 4], workgroup = [4]>, <tile = [1, 4], workgroup = [4]>> : (tensor<4x8xf32>) -> tensor<4x8xf32> {
    ^bb0(%a: tensor<4x8xf32>):
      %1 = dsc.softmax %a : tensor<4x8xf32>
      dsc.yield %1 : tensor<4x8xf32>
    }
    return %0 : tensor<4x8xf32>
  }
}

// -----

module attributes {dsc.symbols = ["n"]} {
  // expected-error @+1 {{has a size that does not follow from the named dimensions: 'tensor<?x8xf32>'}}
  func.func @unknown_size(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["m", "_"]>}) -> tensor<?x8xf32> {
    return %x : tensor<?x8xf32>
  }
}

// -----

// A kernel that splits its keys is followed by one that merges what the splits left; launches name the first.
module attributes {dsc.symbols = ["n"]} {
  // CHECK-LABEL: func.func @splits
  // CHECK: dsc.launch [@attention_0_rows8, @attention_0](
  // CHECK: func.func private @attention_0_rows8(
  // CHECK-SAME: attributes {dsc.kernel, dsc.merge = @attention_0_rows8_merge, dsc.schedule =
  // CHECK: func.func private @attention_0_rows8_merge(
  // CHECK-SAME: attributes {dsc.kernel, dsc.merge, dsc.schedule =
  // CHECK: func.func private @attention_0(
  // CHECK-NOT: dsc.merge
  func.func @splits(%x: tensor<1x?x4x16xf32> {dsc.dims = #dsc.dims<["_", "n", "_", "_"]>}) -> tensor<1x?x4x16xf32> {
    %0 = dsc.dispatch (%x) schedule <<max_rows = 8, tile = [4, 16], workgroup = [8, 1, 8], depth = 64>, <tile = [8, 48], workgroup = [48, 1, 1], depth = 64>>
        : (tensor<1x?x4x16xf32>) -> tensor<1x?x4x16xf32> {
    ^bb0(%a: tensor<1x?x4x16xf32>):
      %1 = dsc.attention %a, %a, %a {scale = 1.0 : f32} : (tensor<1x?x4x16xf32>, tensor<1x?x4x16xf32>, tensor<1x?x4x16xf32>) -> tensor<1x?x4x16xf32>
      dsc.yield %1 : tensor<1x?x4x16xf32>
    }
    return %0 : tensor<1x?x4x16xf32>
  }
}
