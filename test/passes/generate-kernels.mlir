// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-generate-kernels --split-input-file --verify-diagnostics | FileCheck %s --check-prefixes=CHECK,V4
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 --dsc-generate-kernels --split-input-file --verify-diagnostics | FileCheck %s --check-prefixes=CHECK,V3
// RUN: echo 'module {}' | not dsc-opt --dsc-generate-kernels 2>&1 | FileCheck %s --check-prefix=ERR

// ERR: error: has no target: run --dsc-set-target first

#id = affine_map<(d0) -> (d0)>
module attributes {dsc.symbols = ["n"]} {
  // A map: full vectors, then one masked rest. Results become buffers behind the arguments.
  // CHECK-LABEL: func.func private @example(
  // CHECK-SAME: %[[X:[^:]*]]: memref<?xf32> {dsc.dims = #dsc.dims<["n"]>}, %[[Y:[^:]*]]: memref<?xf32> {dsc.dims = #dsc.dims<["n"]>}, %[[FIRST:[^:]*]]: index, %[[LAST:[^:]*]]: index) attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [64]>}
  // CHECK: scf.for %[[G:.*]] = %[[FIRST]] to %[[LAST]] step
  // CHECK: arith.muli %[[G]], %{{.*}} : index
  // CHECK: scf.for
  // V4: vector.{{(masked)?}}load %[[X]][{{.*}} : memref<?xf32>{{.*}}vector<16xf32>
  // V4: math.exp %{{.*}} : vector<16xf32>
  // V3: vector.{{(masked)?}}load %[[X]][{{.*}} : memref<?xf32>{{.*}}vector<8xf32>
  // V3: math.exp %{{.*}} : vector<8xf32>
  // CHECK: vector.{{(masked)?}}store {{.*}}%[[Y]][
  // CHECK: vector.maskedload %[[X]][
  // CHECK: vector.maskedstore %[[Y]][
  // CHECK: return{{$}}
  func.func private @example(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> (tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [64]>} {
    %n = dsc.dim "n" : index
    %e = tensor.empty(%n) : tensor<?xf32>
    %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%x : tensor<?xf32>) outs(%e : tensor<?xf32>) {
    ^bb0(%a: f32, %b: f32):
      %1 = math.exp %a : f32
      linalg.yield %1 : f32
    } -> tensor<?xf32>
    return %0 : tensor<?xf32>
  }
}

// -----

// The matmul writes the loop nest, its consumer is computed in registers: one store, no buffer between.
#id = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-LABEL: func.func private @fused(
// CHECK-SAME: memref<4x8xf32> {{.*}}memref<8x16xf32> {{.*}}%[[R:[^:, ]*]]: memref<4x16xf32> 
// CHECK-NOT: memref.alloc
// CHECK: vector.fma
// CHECK: arith.maximumf
// CHECK: vector.{{(masked)?}}store {{.*}}%[[R]][
func.func private @fused(%x: tensor<4x8xf32>, %w: tensor<8x16xf32>) -> tensor<4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [4, 16]>} {
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32>
  %e = tensor.empty() : tensor<4x16xf32>
  %zero = arith.constant 0.0 : f32
  %1 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel"]}
      ins(%0 : tensor<4x16xf32>) outs(%e : tensor<4x16xf32>) {
  ^bb0(%a: f32, %b: f32):
    %2 = arith.maximumf %a, %zero : f32
    linalg.yield %2 : f32
  } -> tensor<4x16xf32>
  return %1 : tensor<4x16xf32>
}

// -----

#id2 = affine_map<(d0, d1) -> (d0, d1)>
// A staged left side is computed near the thread first, its consumer's products read it there; the reduction advances
// by blocks for all rows.
// CHECK-LABEL: func.func private @staged(
// CHECK-DAG: %[[STAGE:.*]] = memref.alloca() {alignment = 64 : i64} : memref<2x2x{{.*}}xf32>
// CHECK-DAG: memref.alloca() {alignment = 64 : i64} : memref<4x32xf32>
// CHECK: arith.negf
// CHECK: vector.store %{{.*}}, %[[STAGE]]
// CHECK: vector.fma
module attributes {dsc.symbols = ["m"]} {
func.func private @staged(%x: tensor<?x128xf32> {dsc.dims = #dsc.dims<["m", "_"]>}, %w: tensor<1x128x32xf32>)
    -> (tensor<?x32xf32> {dsc.dims = #dsc.dims<["m", "_"]>})
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], depth = 64, stage = [0]>} {
  %m = dsc.dim "m" : index
  %e = tensor.empty(%m) : tensor<?x128xf32>
  %0 = linalg.generic {indexing_maps = [#id2, #id2], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x128xf32>) outs(%e : tensor<?x128xf32>) {
  ^bb0(%a: f32, %b: f32):
    %2 = arith.negf %a : f32
    linalg.yield %2 : f32
  } -> tensor<?x128xf32>
  %1 = dsc.matmul %0, %w {packed_columns = 32 : i64} : (tensor<?x128xf32>, tensor<1x128x32xf32>) -> tensor<?x32xf32>
  return %1 : tensor<?x32xf32>
}
}

// -----

// A tied result has no buffer of its own, and a boolean is a byte.
// CHECK-LABEL: func.func private @tied(
// CHECK-SAME: %[[X:[^:]*]]: memref<16xi8>{{[^:]*}}, %{{[^:]*}}: index, %{{[^:]*}}: index)
// CHECK: vector.{{(masked)?}}store {{.*}}%[[X]][
#id = affine_map<(d0) -> (d0)>
func.func private @tied(%x: tensor<16xi1>) -> tensor<16xi1>
    attributes {dsc.kernel, dsc.tied = array<i64: 0>, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %e = tensor.empty() : tensor<16xi1>
  %true = arith.constant true
  %0 = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel"]} ins(%x : tensor<16xi1>) outs(%e : tensor<16xi1>) {
  ^bb0(%a: i1, %b: i1):
    %1 = arith.xori %a, %true : i1
    linalg.yield %1 : i1
  } -> tensor<16xi1>
  return %0 : tensor<16xi1>
}

// -----

// Sums over the last loop are kept per lane and added up at the end.
#rows = affine_map<(d0, d1) -> (d0)>
#id = affine_map<(d0, d1) -> (d0, d1)>
// CHECK-LABEL: func.func private @sum(
// CHECK: scf.for {{.*}} iter_args(%{{.*}} = %{{.*}}) -> (vector<{{8|16}}xf32>)
// CHECK: vector.reduction <add>
// CHECK: memref.store
func.func private @sum(%x: tensor<4x100xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [16]>} {
  %zero = arith.constant 0.0 : f32
  %e = tensor.empty() : tensor<4xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4xf32>) -> tensor<4xf32>
  %0 = linalg.generic {indexing_maps = [#id, #rows], iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<4x100xf32>) outs(%f : tensor<4xf32>) {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.addf %a, %b : f32
    linalg.yield %1 : f32
  } -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// Programs, and kernels on buffers already, stay as they are.
// CHECK-LABEL: func.func @main(%{{.*}}: tensor<4xf32>) -> tensor<4xf32>
// CHECK-LABEL: func.func private @done(%{{.*}}: memref<4xf32>, %{{.*}}: index, %{{.*}}: index) attributes {dsc.kernel}
// CHECK-NEXT: return
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
func.func private @done(%x: memref<4xf32>, %first: index, %last: index) attributes {dsc.kernel} {
  return
}

// -----

// expected-error @+1 {{needs a schedule of one variant}}
func.func private @unscheduled(%x: tensor<4xf32>) -> tensor<4xf32> attributes {dsc.kernel} {
  %0 = dsc.softmax %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

// expected-error @+1 {{needs a schedule of one variant}}
func.func private @all_variants(%x: tensor<4xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.schedule<<tile = [1, 16], workgroup = [8]>>} {
  %0 = dsc.softmax %x : tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func private @tile(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 20], workgroup = [4, 20]>} {
  // expected-error-re @+1 {{tile columns must be a multiple of {{8|16}} and divide the workgroup's, got: 20 and 20}}
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @workgroup(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 48]>} {
  // expected-error-re @+1 {{tile columns must be a multiple of {{8|16}} and divide the workgroup's, got: 32 and 48}}
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @panel(%x: tensor<4x8xf32>, %w: tensor<2x8x32xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [4, 16]>} {
  // expected-error @+1 {{tile columns must be the panel's, got: 16 and 32}}
  %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x8xf32>, tensor<2x8x32xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @reduction(%x: tensor<4x8xf32>) -> tensor<2xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [16]>} {
  %e = tensor.empty() : tensor<2xf32>
  // expected-error @+1 {{reduction results must be indexed by loops or 0, got: affine_map<(d0, d1) -> (d0 floordiv 2)>}}
  %0 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0 floordiv 2)>],
                       iterator_types = ["reduction", "reduction"]}
      ins(%x : tensor<4x8xf32>) outs(%e : tensor<2xf32>) {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.addf %a, %b : f32
    linalg.yield %1 : f32
  } -> tensor<2xf32>
  return %0 : tensor<2xf32>
}

// -----

// A map that reads along another dimension than it writes: vectors along the former go through a square tile.
// CHECK-LABEL: func.func private @transposed(
// CHECK-SAME: %[[X:[^:]*]]: memref<64x128xf32>{{[^:]*}}, %[[Y:[^:]*]]: memref<128x64xf32>
// V4: %[[TILE:.*]] = memref.alloca() {alignment = 64 : i64} : memref<16x16xf32>
// V3: %[[TILE:.*]] = memref.alloca() {alignment = 64 : i64} : memref<8x8xf32>
// CHECK: vector.load %[[X]][
// CHECK: vector.store %{{.*}}, %[[TILE]][
// V4-COUNT-16: vector.load %[[TILE]][
// V3-COUNT-8: vector.load %[[TILE]][
// V4-COUNT-64: vector.shuffle
// V3-COUNT-24: vector.shuffle
// V4-COUNT-16: vector.store %{{.*}}, %[[Y]][
// V3-COUNT-8: vector.store %{{.*}}, %[[Y]][
// CHECK-NOT: vector.gather
#transposed = affine_map<(d0, d1) -> (d1, d0)>
#identity = affine_map<(d0, d1) -> (d0, d1)>
func.func private @transposed(%x: tensor<64x128xf32>) -> tensor<128x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16, 16], workgroup = [512, 32]>} {
  %e = tensor.empty() : tensor<128x64xf32>
  %0 = linalg.generic {indexing_maps = [#transposed, #identity], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<64x128xf32>) outs(%e : tensor<128x64xf32>) {
  ^bb0(%a: f32, %b: f32):
    linalg.yield %a : f32
  } -> tensor<128x64xf32>
  return %0 : tensor<128x64xf32>
}

// -----

func.func private @scalar_tile(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 1], workgroup = [4, 20]>} {
  // expected-error @+1 {{tile columns must be a multiple of 2 and divide the workgroup's, got: 1 and 20}}
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

// expected-error @+1 {{schedule needs 2 tile and 2 workgroup sizes, got: 1 and 1}}
func.func private @sizes(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

// expected-error @+1 {{ties its 1 results to arguments that it lacks: array<i64: 1>}}
func.func private @ties(%x: tensor<4xf32>) -> tensor<4xf32>
    attributes {dsc.kernel, dsc.tied = array<i64: 1>, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  return %x : tensor<4xf32>
}

// -----

// expected-error @+1 {{is no kernel: needs one block, and ranked tensors as arguments and results}}
func.func private @declared(tensor<4xf32>) -> tensor<4xf32> attributes {dsc.kernel}

// -----

// expected-error @+1 {{has a size that does not follow from the named dimensions: 'tensor<?xf32>'}}
func.func private @unnamed(%x: tensor<?xf32>) -> tensor<?xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [16], workgroup = [16]>} {
  return %x : tensor<?xf32>
}

// -----

// expected-error @+1 {{schedule stages operand 1, which its loop nest cannot}}
func.func private @stage_of_rhs(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], stage = [1]>} {
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @stage_too_large(%x: tensor<4x8192xf32>, %w: tensor<8192x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [96, 32], stage = [0]>} {
  // expected-error @+1 {{a workgroup may stage 2097152 bytes, its rows take 3145728}}
  %0 = dsc.matmul %x, %w : (tensor<4x8192xf32>, tensor<8192x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @depth(%x: tensor<4x8192xf32>, %w: tensor<8192x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], depth = 100, stage = [0]>} {
  // expected-error @+1 {{depth must be a multiple of 64 and needs a staged lhs, got: 100}}
  %0 = dsc.matmul %x, %w : (tensor<4x8192xf32>, tensor<8192x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @blocks_unrolled(%x: tensor<4x64xf32>, %w: tensor<2x2x640xi8>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], unroll = 2, stage = [0]>} {
  %0 = dsc.dequantize %w {format = "q4_1", panel = 32 : i64} : tensor<2x2x640xi8> -> tensor<2x64x32xf32>
  // expected-error @+1 {{a rhs in blocks needs a staged lhs, unroll 1, and depth 0 unless it is staged itself}}
  %1 = dsc.matmul %x, %0 {packed_columns = 64 : i64} : (tensor<4x64xf32>, tensor<2x64x32xf32>) -> tensor<4x64xf32>
  return %1 : tensor<4x64xf32>
}

// -----

func.func private @computed_blocks(%x: tensor<4x64xf32>, %b: tensor<64x40xi8>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], stage = [0]>} {
  %e = tensor.empty() : tensor<2x2x640xi8>
  %zero = arith.constant 0 : i8
  %w = linalg.fill ins(%zero : i8) outs(%e : tensor<2x2x640xi8>) -> tensor<2x2x640xi8>
  %0 = dsc.dequantize %w {format = "q4_1", panel = 32 : i64} : tensor<2x2x640xi8> -> tensor<2x64x32xf32>
  // expected-error @+1 {{the blocks of a rhs must be an argument of the kernel}}
  %1 = dsc.matmul %x, %0 {packed_columns = 64 : i64} : (tensor<4x64xf32>, tensor<2x64x32xf32>) -> tensor<4x64xf32>
  return %1 : tensor<4x64xf32>
}

// -----

func.func private @packs_more(%b: tensor<64x40xi8>) -> (tensor<2x2x640xi8>, tensor<2x2x640xi8>)
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1], workgroup = [1]>} {
  // expected-error @+1 {{must stand alone in its kernel, between buffers}}
  %0 = dsc.pack_blocks %b {format = "q4_1", panel = 32 : i64} : tensor<64x40xi8> -> tensor<2x2x640xi8>
  return %0, %0 : tensor<2x2x640xi8>, tensor<2x2x640xi8>
}

// -----

func.func private @dot(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], stage = [0], instruction = "dot">} {
  // expected-error @+1 {{instruction "dot" needs a staged lhs, 16 lanes of 32 bits, and a rhs in groups of 2 bf16 or 4 i8, or with AVX2 8 lanes and groups of 2 i8, got groups of 1 in 'tensor<8x64xf32>'}}
  %0 = dsc.matmul %x, %w : (tensor<4x8xf32>, tensor<8x64xf32>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @fma_groups(%x: tensor<4x8xi8>, %w: tensor<2x2x32x4xi8>) -> tensor<4x64xi32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], stage = [0]>} {
  // expected-error @+1 {{instruction "fma" reads groups of 2 bf16 with a staged lhs only, got: 'tensor<2x2x32x4xi8>'}}
  %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x8xi8>, tensor<2x2x32x4xi8>) -> tensor<4x64xi32>
  return %0 : tensor<4x64xi32>
}

// -----

func.func private @groups_elsewhere(%x: tensor<4x8xbf16>) -> tensor<4x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 32], stage = [0]>} {
  %w = arith.constant dense<1.0> : tensor<2x4x32x2xbf16>
  // expected-error @+1 {{a rhs in groups must be an argument of the kernel}}
  %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x8xbf16>, tensor<2x4x32x2xbf16>) -> tensor<4x64xf32>
  return %0 : tensor<4x64xf32>
}

// -----

func.func private @packed_rows_tile(%x: tensor<2x8x12xf32>, %w: tensor<2x8x32xf32>) -> tensor<20x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [6, 32], workgroup = [12, 32]>} {
  // expected-error @+1 {{a packed lhs needs tiles of its panels' rows and instruction "fma" or "dot", got:}}
  %0 = dsc.matmul %x, %w {packed_rows = 20 : i64, packed_columns = 64 : i64} : (tensor<2x8x12xf32>, tensor<2x8x32xf32>) -> tensor<20x64xf32>
  return %0 : tensor<20x64xf32>
}

// -----

func.func private @packed_rows_elsewhere(%w: tensor<2x8x32xf32>) -> tensor<20x64xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [12, 32], workgroup = [12, 32]>} {
  %x = arith.constant dense<1.0> : tensor<2x8x12xf32>
  // expected-error @+1 {{a packed lhs must be an argument of the kernel}}
  %0 = dsc.matmul %x, %w {packed_rows = 20 : i64, packed_columns = 64 : i64} : (tensor<2x8x12xf32>, tensor<2x8x32xf32>) -> tensor<20x64xf32>
  return %0 : tensor<20x64xf32>
}

// -----

func.func private @lost_loop(%x: tensor<4x8xf32>) -> tensor<8xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [16]>} {
  %e = tensor.empty() : tensor<8xf32>
  // expected-error @+1 {{results of a reduction must be indexed by its parallel loops and no others, not so: loop 0}}
  %0 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d1)>],
                       iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<4x8xf32>) outs(%e : tensor<8xf32>) {
  ^bb0(%a: f32, %b: f32):
    %1 = arith.addf %a, %b : f32
    linalg.yield %1 : f32
  } -> tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

func.func private @attention_columns(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [4, 20], workgroup = [4, 2, 1], depth = 64>} {
  // expected-error-re @+1 {{tile columns must be a multiple of {{8|16}}, got: 20}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_depth(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [8, 64], workgroup = [4, 2, 1], depth = 20>} {
  // expected-error @+1 {{depth must be a multiple of 8, got: 20}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_tile(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [8, 64], workgroup = [4, 2, 1], depth = 64, instruction = "tile">} {
  // expected-error @+1 {{has no instruction "tile"}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_dot(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [3, 64], workgroup = [4, 2, 1], depth = 63, instruction = "dot">} {
  // expected-error @+1 {{instruction "dot" needs 16 lanes of f32, or for "bfp" avx512vnni or avx2, an even size of heads, an even number of tile rows and no max_rows, got:}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_heads(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [4, 64], workgroup = [4, 3, 1], depth = 64>} {
  // expected-error @+1 {{workgroup heads must divide the 2 that read the same keys, got: 3}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_scratch(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [4, 64], workgroup = [4096, 2, 1], depth = 64>} {
  // expected-error-re @+1 {{needs {{[0-9]+}} bytes of scratch, the most is 1048576}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

func.func private @attention_splits(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    attributes {dsc.kernel, dsc.schedule = #dsc.variant<max_rows = 8, tile = [4, 16], workgroup = [4, 2, 8], depth = 64>} {
  // expected-error @+1 {{splits keys only if max_rows is at most the workgroup's 4 positions}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
  return %0 : tensor<1x4x4x16xf32>
}

// -----

// Splits leave sums, a largest score and a sum of weights per row, behind the results; the second kernel adds them up.
module attributes {dsc.symbols = ["b"]} {
  // CHECK-LABEL: func.func private @splits(
  // CHECK-SAME: %[[Y:[^:]*]]: memref<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}, %[[P:[^:]*]]: memref<?x8x1x4x18xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_", "_"]>}, %{{[^:]*}}: index, %{{[^:]*}}: index)
  // CHECK-NOT: vector.store %{{.*}}, %[[Y]]
  // CHECK: vector.store %{{.*}}, %[[P]]
  // CHECK: memref.store %{{.*}}, %[[P]]
  // CHECK: memref.store %{{.*}}, %[[P]]
  func.func private @splits(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}, %k: tensor<?x8x2x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      -> (tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      attributes {dsc.kernel, dsc.merge = @splits_merge, dsc.schedule = #dsc.variant<max_rows = 1, tile = [2, 16], workgroup = [1, 2, 8], depth = 64>} {
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<?x1x4x16xf32>, tensor<?x8x2x16xf32>, tensor<?x8x2x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
  // CHECK-LABEL: func.func private @splits_merge(
  // CHECK-SAME: %[[Y:[^:]*]]: memref<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}, %[[P:[^:]*]]: memref<?x8x1x4x18xf32>
  // CHECK: vector.load %[[P]]
  // CHECK: vector.store %{{.*}}, %[[Y]]
  func.func private @splits_merge(%q: tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>}, %k: tensor<?x8x2x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      -> (tensor<?x1x4x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "_"]>})
      attributes {dsc.kernel, dsc.merge, dsc.schedule = #dsc.variant<max_rows = 1, tile = [2, 16], workgroup = [1, 2, 8], depth = 64>} {
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<?x1x4x16xf32>, tensor<?x8x2x16xf32>, tensor<?x8x2x16xf32>) -> tensor<?x1x4x16xf32>
    return %0 : tensor<?x1x4x16xf32>
  }
}
