// RUN: dsc-opt %s --split-input-file --dsc-generate-kernels --verify-diagnostics | FileCheck %s

// Registers are whole while the workgroups run. Sums are the first four, two tiles of rows and two of columns follow;
// what 40 leaves of 32 elements is a copy with zeros behind it.
// CHECK-LABEL: func.func private @bf16(
// CHECK: llvm.call_intrinsic "llvm.x86.ldtilecfg"
// CHECK: scf.for
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.tilezero"
// CHECK: scf.for
// CHECK-COUNT-3: llvm.call_intrinsic "llvm.x86.tileloadd64"
// CHECK-COUNT-2: llvm.call_intrinsic "llvm.x86.tdpbf16ps"
// CHECK: llvm.call_intrinsic "llvm.x86.tileloadd64"
// CHECK-COUNT-2: llvm.call_intrinsic "llvm.x86.tdpbf16ps"
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.tdpbf16ps"
// CHECK-COUNT-4: llvm.call_intrinsic "llvm.x86.tilestored64"
// CHECK: llvm.call_intrinsic "llvm.x86.tilerelease"
// CHECK-NEXT: return
module attributes {dsc.symbols = ["m"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+amx-tile,+amx-bf16", vector_bytes = 64, vector_registers = 32>} {
  func.func private @bf16(%x: tensor<?x40xf32> {dsc.dims = #dsc.dims<["m", "_"]>}, %w: tensor<2x20x32x2xbf16>) -> (tensor<?x64xf32> {dsc.dims = #dsc.dims<["m", "_"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [32, 32], workgroup = [64, 64], stage = [0], instruction = "tile">} {
    %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<?x40xf32>, tensor<2x20x32x2xbf16>) -> tensor<?x64xf32>
    return %0 : tensor<?x64xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:x86-64-v4", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f", vector_bytes = 64, vector_registers = 32>} {
  func.func private @no_tiles(%x: tensor<4x40xf32>, %w: tensor<2x20x32x2xbf16>) -> tensor<4x64xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [32, 32], workgroup = [64, 64], stage = [0], instruction = "tile">} {
    // expected-error @+1 {{instruction "tile" needs a target with the feature amx-bf16, got:}}
    %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x40xf32>, tensor<2x20x32x2xbf16>) -> tensor<4x64xf32>
    return %0 : tensor<4x64xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+amx-tile,+amx-bf16", vector_bytes = 64, vector_registers = 32>} {
  func.func private @too_many(%x: tensor<4x40xf32>, %w: tensor<2x20x32x2xbf16>) -> tensor<4x64xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [48, 32], workgroup = [96, 64], stage = [0], instruction = "tile">} {
    // expected-error @+1 {{instruction "tile" needs unroll 1 and tiles of 16 rows by 16 columns, of which the machine holds 8 with a row and a column of operands, got:}}
    %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x40xf32>, tensor<2x20x32x2xbf16>) -> tensor<4x64xf32>
    return %0 : tensor<4x64xf32>
  }
}
