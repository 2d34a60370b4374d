// RUN: dsc-opt %s --split-input-file --dsc-generate-kernels --verify-diagnostics | FileCheck %s

// Each query and each key become integers under a scale of their own, and each element of a block's values. Scores are
// scaled per key and query; weights become integers again, and their sums are scaled per element and query.
// CHECK-LABEL: func.func private @integers(
// CHECK: vector.reduction <maxui>
// CHECK: llvm.call_intrinsic "llvm.x86.avx.cvt.ps2dq.256"
// CHECK: arith.trunci {{.*}} : vector<8xi32> to vector<8xi16>
// CHECK: scf.for {{.*}} -> (vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>)
// CHECK-COUNT-2: llvm.inline_asm {{.*}}"vpmaddwd $1, $7, $0\0A\09vpmaddwd $1, $8, $1\0A\09vpaddd
// CHECK-COUNT-4: arith.sitofp
// CHECK: llvm.call_intrinsic "llvm.x86.avx.cvt.ps2dq.256"
// CHECK: scf.for {{.*}} -> (vector<8xi32>, vector<8xi32>, vector<8xi32>, vector<8xi32>)
// CHECK-COUNT-2: llvm.inline_asm {{.*}}"vpmaddwd $1, $7, $0\0A\09vpmaddwd $1, $8, $1\0A\09vpaddd
// CHECK-COUNT-4: arith.sitofp
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @integers(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [4, 2, 1], depth = 64, instruction = "bfp">} {
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    return %0 : tensor<1x4x4x16xf32>
  }
}

// -----

// CHECK-LABEL: func.func private @wider(
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.avx512.vpdpwssd.512"
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+avx512vnni", vector_bytes = 64, vector_registers = 32>} {
  func.func private @wider(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 2, 1], depth = 64, instruction = "bfp">} {
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    return %0 : tensor<1x4x4x16xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f", vector_bytes = 64, vector_registers = 32>} {
  func.func private @no_instruction(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [4, 2, 1], depth = 64, instruction = "bfp">} {
    // expected-error @+1 {{instruction "bfp" needs 16 lanes of f32, or for "bfp" avx512vnni or avx2, an even size of heads, an even number of tile rows and no max_rows, got:}}
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    return %0 : tensor<1x4x4x16xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @too_many(%q: tensor<1x4x4x16xf32>, %k: tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [4, 2, 1], depth = 130, instruction = "bfp">} {
    // expected-error @+1 {{instruction "bfp" takes at most 128 keys of 1024 elements, got: 130 and 16}}
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x16xf32>, tensor<1x8x2x16xf32>, tensor<1x8x2x16xf32>) -> tensor<1x4x4x16xf32>
    return %0 : tensor<1x4x4x16xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @too_large(%q: tensor<1x4x4x1026xf32>, %k: tensor<1x8x2x1026xf32>) -> tensor<1x4x4x1026xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [4, 2, 1], depth = 64, instruction = "bfp">} {
    // expected-error @+1 {{instruction "bfp" takes at most 128 keys of 1024 elements, got: 64 and 1026}}
    %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32} : (tensor<1x4x4x1026xf32>, tensor<1x8x2x1026xf32>, tensor<1x8x2x1026xf32>) -> tensor<1x4x4x1026xf32>
    return %0 : tensor<1x4x4x1026xf32>
  }
}
