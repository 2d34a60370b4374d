// RUN: dsc-opt %s --split-input-file --dsc-generate-kernels --verify-diagnostics | FileCheck %s

// Each row's 256 elements, and each column's, become integers: their greatest magnitude, a scale, a conversion to the
// nearest. Sums of integers begin at 0 for every block; then they are scaled.
// CHECK-LABEL: func.func private @pairs(
// CHECK: vector.reduction <maxui>
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.mask.cvtps2dq.512"
// CHECK: arith.trunci
// CHECK: arith.maxui
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.mask.cvtps2dq.512"
// CHECK: scf.for
// CHECK: scf.for {{.*}} -> (vector<16xi32>, vector<16xi32>, vector<16xi32>, vector<16xi32>)
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.x86.avx512.vpdpwssd.512"
// CHECK-COUNT-4: arith.sitofp
module attributes {dsc.symbols = ["m"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+avx512vnni", vector_bytes = 64, vector_registers = 32>} {
  func.func private @pairs(%x: tensor<?x256xf32> {dsc.dims = #dsc.dims<["m", "_"]>}, %w: tensor<2x128x32x2xbf16>) -> (tensor<?x64xf32> {dsc.dims = #dsc.dims<["m", "_"]>})
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [64, 64], stage = [0, 1], instruction = "bfp">} {
    %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<?x256xf32>, tensor<2x128x32x2xbf16>) -> tensor<?x64xf32>
    return %0 : tensor<?x64xf32>
  }
}

// -----

// Codes of a decoded panel become integers by products of words; rows are staged in the order that they leave bytes in.
// CHECK-LABEL: func.func private @decoded(
// CHECK: vector.shuffle {{.*}} [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15] : vector<16xi32>
// CHECK-COUNT-17: llvm.call_intrinsic "llvm.x86.avx512.pmul.hr.sw.512"
// CHECK-NOT: pmul.hr.sw
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.vpdpwssd.512"
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+avx512vnni", vector_bytes = 64, vector_registers = 32>} {
  func.func private @decoded(%x: tensor<24x64xf32>, %b: tensor<2x2x288xi8>) -> tensor<24x32xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 16], workgroup = [24, 16], stage = [0, 1], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q4_0", panel = 16 : i64} : tensor<2x2x288xi8> -> tensor<2x64x16xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 32 : i64} : (tensor<24x64xf32>, tensor<2x64x16xf32>) -> tensor<24x32xf32>
    return %0 : tensor<24x32xf32>
  }
}

// -----

// Codes stay bytes, of four neighbours in each lane, which meet upper and lower bytes of the left side. -8 times the row's
// sum is added; sums are scaled once for 32 codes.
// CHECK-LABEL: func.func private @codes(
// CHECK: llvm.call_intrinsic "llvm.x86.avx512.mask.cvtps2dq.512"
// CHECK: arith.trunci {{.*}} : vector<32xi16> to vector<32xi8>
// CHECK: scf.for {{.*}} -> (vector<16xf32>)
// CHECK-NOT: scf.for
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.x86.avx512.vpdpbusd.512"
// CHECK-NOT: vpdpbusd
// CHECK: arith.sitofp
// CHECK: vector.fma
// CHECK-NOT: vector.fma
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+avx512vnni", vector_bytes = 64, vector_registers = 32>} {
  func.func private @codes(%x: tensor<1x64xf32>, %b: tensor<2x2x288xi8>) -> tensor<1x32xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [1, 16], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q4_0", panel = 16 : i64} : tensor<2x2x288xi8> -> tensor<2x64x16xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 32 : i64} : (tensor<1x64xf32>, tensor<2x64x16xf32>) -> tensor<1x32xf32>
    return %0 : tensor<1x32xf32>
  }
}

// -----

// AVX2 adds their products in words, which hold a run's sums, then to 32 bits: upper parts 128 times.
// CHECK-LABEL: func.func private @words(
// CHECK: llvm.call_intrinsic "llvm.x86.avx.cvt.ps2dq.256"
// CHECK: arith.trunci {{.*}} : vector<32xi16> to vector<32xi8>
// CHECK: scf.for {{.*}} -> (vector<8xf32>)
// CHECK-NOT: scf.for
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK-NOT: pmadd.ub.sw
// CHECK: arith.constant dense<128> : vector<16xi16>
// CHECK-COUNT-2: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
// CHECK-NOT: pmadd.wd
// CHECK: arith.sitofp
// CHECK: vector.fma
// CHECK-NOT: vector.fma
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @words(%x: tensor<1x64xf32>, %b: tensor<2x2x144xi8>) -> tensor<1x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 8], workgroup = [1, 8], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q4_0", panel = 8 : i64} : tensor<2x2x144xi8> -> tensor<2x64x8xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 16 : i64} : (tensor<1x64xf32>, tensor<2x64x8xf32>) -> tensor<1x16xf32>
    return %0 : tensor<1x16xf32>
  }
}

// -----

// Words would not hold the sums of codes of 8 bits: they become words themselves, the first and third of four, the second
// and fourth.
// CHECK-LABEL: func.func private @pairs_of_words(
// CHECK: vector.shuffle {{.*}} [0, 2, 1, 3, 4, 6, 5, 7] : vector<8xi32>, vector<8xi32>
// CHECK: arith.trunci {{.*}} : vector<32xi32> to vector<32xi16>
// CHECK: scf.for {{.*}} -> (vector<8xf32>)
// CHECK-NOT: scf.for
// CHECK-DAG: arith.andi {{.*}} : vector<16xi16>
// CHECK-DAG: arith.shrui {{.*}} : vector<16xi16>
// CHECK-COUNT-16: llvm.call_intrinsic "llvm.x86.avx2.pmadd.wd"
// CHECK-NOT: pmadd.wd
// CHECK: arith.sitofp
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @pairs_of_words(%x: tensor<1x64xf32>, %b: tensor<2x2x272xi8>) -> tensor<1x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 8], workgroup = [1, 8], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q8_0", panel = 8 : i64} : tensor<2x2x272xi8> -> tensor<2x64x8xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 16 : i64} : (tensor<1x64xf32>, tensor<2x64x8xf32>) -> tensor<1x16xf32>
    return %0 : tensor<1x16xf32>
  }
}

// -----

// Two vectors of codes meet a row's bytes together: both products, then both sums.
// CHECK-LABEL: func.func private @two_vectors(
// CHECK-COUNT-16: llvm.inline_asm {{.*}}"vpmaddubsw $1, $7, $0\0A\09vpmaddubsw $1, $8, $1\0A\09vpaddw $0, $2, $2\0A\09vpaddw $1, $3, $3"
// CHECK-NOT: llvm.inline_asm
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @two_vectors(%x: tensor<1x64xf32>, %b: tensor<1x2x288xi8>) -> tensor<1x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [1, 16], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q4_0", panel = 16 : i64} : tensor<1x2x288xi8> -> tensor<1x64x16xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 16 : i64} : (tensor<1x64xf32>, tensor<1x64x16xf32>) -> tensor<1x16xf32>
    return %0 : tensor<1x16xf32>
  }
}

// -----

// Of four rows, sums of bytes would not leave room for both vectors: codes become words.
// CHECK-LABEL: func.func private @four_rows(
// CHECK: arith.trunci {{.*}} : vector<32xi32> to vector<32xi16>
// CHECK-COUNT-64: llvm.inline_asm {{.*}}"vpmaddwd
// CHECK-NOT: llvm.inline_asm
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @four_rows(%x: tensor<4x64xf32>, %b: tensor<1x2x288xi8>) -> tensor<4x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [4, 16], workgroup = [4, 16], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q4_0", panel = 16 : i64} : tensor<1x2x288xi8> -> tensor<1x64x16xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 16 : i64} : (tensor<4x64xf32>, tensor<1x64x16xf32>) -> tensor<4x16xf32>
    return %0 : tensor<4x16xf32>
  }
}

// -----

// Eight runs share words: four of them at a time meet what each word holds.
// CHECK-LABEL: func.func private @together(
// CHECK: scf.for {{.*}} -> (vector<8xf32>)
// CHECK: scf.for {{.*}} -> (vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>, vector<16xi16>)
// CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK-NOT: pmadd.ub.sw
// CHECK: scf.yield
// CHECK-COUNT-4: arith.sitofp
// CHECK: scf.for
// CHECK-COUNT-8: llvm.call_intrinsic "llvm.x86.avx2.pmadd.ub.sw"
// CHECK-NOT: pmadd.ub.sw
// CHECK-COUNT-4: arith.sitofp
// CHECK-NOT: arith.sitofp
module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v3", features = "+avx2,+fma", vector_bytes = 32, vector_registers = 16>} {
  func.func private @together(%x: tensor<1x256xf32>, %b: tensor<2x1x1680xi8>) -> tensor<1x16xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 8], workgroup = [1, 8], stage = [0], instruction = "bfp">} {
    %w = dsc.dequantize %b {format = "q6_k", panel = 8 : i64} : tensor<2x1x1680xi8> -> tensor<2x256x8xf32>
    %0 = dsc.matmul %x, %w {packed_columns = 16 : i64} : (tensor<1x256xf32>, tensor<2x256x8xf32>) -> tensor<1x16xf32>
    return %0 : tensor<1x16xf32>
  }
}

// -----

module attributes {dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f", vector_bytes = 64, vector_registers = 32>} {
  func.func private @no_instruction(%x: tensor<4x256xf32>, %w: tensor<2x128x32x2xbf16>) -> tensor<4x64xf32>
      attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [2, 32], workgroup = [64, 64], stage = [0, 1], instruction = "bfp">} {
    // expected-error @+1 {{instruction "bfp" needs a target with the feature avx512vnni, or avx2 and vectors of 32 bytes, both operands staged or a rhs of integer codes, tiles as wide as vectors of f32, unroll 1, a depth that is a multiple of 256, and a rhs in blocks or in groups of 2 elements of 16 bits, got:}}
    %0 = dsc.matmul %x, %w {packed_columns = 64 : i64} : (tensor<4x256xf32>, tensor<2x128x32x2xbf16>) -> tensor<4x64xf32>
    return %0 : tensor<4x64xf32>
  }
}
