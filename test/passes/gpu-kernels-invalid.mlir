// RUN: dsc-opt %s --split-input-file --verify-diagnostics "--dsc-compile=target=sm_90a to=codegen"

// What a user's schedule must keep to on a GPU.

func.func @main(%x: tensor<?x128xf32>, %w: tensor<64x128xf32>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 32], workgroup = [128, 128], unroll = 3, depth = 64, instruction = "mma", threads = [8, 32]>> : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xf32>, %b: tensor<64x128xf32>):
    // expected-error @+1 {{instruction "mma" needs factors of bf16 or f16, or a precision that allows to round them}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 32], workgroup = [128, 128], unroll = 3, depth = 64, instruction = "mma", threads = [4, 32]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{instruction "mma" needs tiles of multiples of 16 rows and columns, one for each warp of the workgroup, got: #dsc.variant}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 32], workgroup = [128, 128], unroll = 1, depth = 64, instruction = "mma", threads = [8, 32]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{instruction "mma" needs depth 64, two or more stages, and rows and columns in multiples of 32}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<128x64xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 64, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x128xbf16>, tensor<128x64xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<128x64xbf16>):
    // expected-error @+1 {{instruction "wgmma" needs factors of bf16 or f16 whose lines along the reduction lie in memory, a multiple of eight elements long}}
    %1 = dsc.matmul %a, %b : (tensor<?x128xbf16>, tensor<128x64xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 32, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{instruction "wgmma" needs tiles of 64 rows and the workgroup's columns, up to 256 (of codes up to 128 in multiples of 32), a multiple of 8 for each block of the cluster, one tile for each warpgroup but one, at most two; depth 64 and at least 2 stages, got: #dsc.variant}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [4, 4], workgroup = [64, 64], threads = [4, 32]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{needs one tile for each thread of the workgroup, got: #dsc.variant}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [4, 4], workgroup = [64, 64], instruction = "dot", threads = [8, 32]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{has no instruction "dot" on this GPU}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%q: tensor<?x?x4x64xbf16>, %k: tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [16, 64], workgroup = [64, 2, 1], depth = 64, instruction = "mma", threads = [4, 32]>> : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  ^bb0(%a: tensor<?x?x4x64xbf16>, %b: tensor<?x?x2x64xbf16>):
    // expected-error @+1 {{instruction "mma" needs a warp for every 16 rows, and keys in multiples of 16 and of the lines that the block copies at once, got: #dsc.variant}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16>
    dsc.yield %1 : tensor<?x?x4x64xbf16>
  }
  return %0 : tensor<?x?x4x64xbf16>
}

// -----

func.func @main(%q: tensor<?x?x4x64xf32>, %k: tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [16, 64], workgroup = [32, 2, 1], depth = 64, instruction = "mma", threads = [4, 32]>> : (tensor<?x?x4x64xf32>, tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32> {
  ^bb0(%a: tensor<?x?x4x64xf32>, %b: tensor<?x?x2x64xf32>):
    // expected-error @+1 {{instruction "mma" needs heads of a multiple of 16 elements of f16 or bf16, or a precision that allows to round them}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xf32>, tensor<?x?x2x64xf32>, tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32>
    dsc.yield %1 : tensor<?x?x4x64xf32>
  }
  return %0 : tensor<?x?x4x64xf32>
}

// -----

func.func @main(%q: tensor<?x?x4x64xbf16>, %k: tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [64, 128], workgroup = [128, 2, 1], depth = 128, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  ^bb0(%a: tensor<?x?x4x64xbf16>, %b: tensor<?x?x2x64xbf16>):
    // expected-error @+1 {{instruction "wgmma" needs three warpgroups, at most 128 rows, and keys in multiples of 16 up to 256 without splits or clusters, got: #dsc.variant}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16>
    dsc.yield %1 : tensor<?x?x4x64xbf16>
  }
  return %0 : tensor<?x?x4x64xbf16>
}

// -----

func.func @main(%q: tensor<?x?x4x64xbf16>, %k: tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [64, 128], workgroup = [64, 2, 1], depth = 128, instruction = "dot", threads = [3, 128]>> : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  ^bb0(%a: tensor<?x?x4x64xbf16>, %b: tensor<?x?x2x64xbf16>):
    // expected-error @+1 {{instruction "dot" is not known, or keys and values are not stored as they are multiplied}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16>
    dsc.yield %1 : tensor<?x?x4x64xbf16>
  }
  return %0 : tensor<?x?x4x64xbf16>
}

// -----

func.func @main(%q: tensor<?x?x4x64xbf16>, %k: tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [16, 64], workgroup = [32, 2, 4], depth = 64, instruction = "mma", threads = [4, 32]>> : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  ^bb0(%a: tensor<?x?x4x64xbf16>, %b: tensor<?x?x2x64xbf16>):
    // expected-error @+1 {{splits keys only if max_rows is at most the workgroup's 32 positions}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16>
    dsc.yield %1 : tensor<?x?x4x64xbf16>
  }
  return %0 : tensor<?x?x4x64xbf16>
}

// -----

func.func @main(%q: tensor<?x?x4x64xf32>, %k: tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [1, 32], workgroup = [2, 2, 1], depth = 32, threads = [1, 64]>> : (tensor<?x?x4x64xf32>, tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32> {
  ^bb0(%a: tensor<?x?x4x64xf32>, %b: tensor<?x?x2x64xf32>):
    // expected-error @+1 {{instruction "fma" needs warps, and no splits, got: #dsc.variant}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xf32>, tensor<?x?x2x64xf32>, tensor<?x?x2x64xf32>) -> tensor<?x?x4x64xf32>
    dsc.yield %1 : tensor<?x?x4x64xf32>
  }
  return %0 : tensor<?x?x4x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<max_rows = 1, tile = [1, 4], workgroup = [1, 64], threads = [8, 32]>, <tile = [4, 4], workgroup = [64, 64], threads = [8, 32]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{one row needs a tile of at most 32 columns for each warp of the workgroup, got: #dsc.variant}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  // expected-error @+1 {{schedule has clusters, which need the instruction "wgmma", got: 2 blocks}}
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [32, 32], workgroup = [64, 64], unroll = 4, depth = 64, instruction = "mma", threads = [4, 32], cluster = 2>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x512xf32>) -> tensor<?x8xi64> {
  %0 = dsc.dispatch (%x) schedule <<tile = [1], workgroup = [4], threads = [4, 32]>> : (tensor<?x512xf32>) -> tensor<?x8xi64> {
  ^bb0(%a: tensor<?x512xf32>):
    // expected-error @+1 {{needs one team of at least 32 threads for a row, got: 4, 32}}
    %1 = dsc.sort %a : tensor<?x512xf32> -> tensor<?x8xi64>
    dsc.yield %1 : tensor<?x8xi64>
  }
  return %0 : tensor<?x8xi64>
}

// -----

func.func @main(%x: tensor<?x4096xf32>, %w: tensor<4096xf32>) -> tensor<?x4096xf32> {
  // expected-error @+1 {{schedule may have several teams of at most 32 threads, or one team, got: 2 of 128}}
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [1, 4], workgroup = [2], threads = [2, 128]>> : (tensor<?x4096xf32>, tensor<4096xf32>) -> tensor<?x4096xf32> {
  ^bb0(%a: tensor<?x4096xf32>, %b: tensor<4096xf32>):
    %1 = dsc.rms_norm %a, %b {eps = 1.0e-05 : f64} : (tensor<?x4096xf32>, tensor<4096xf32>) -> tensor<?x4096xf32>
    dsc.yield %1 : tensor<?x4096xf32>
  }
  return %0 : tensor<?x4096xf32>
}

// -----

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 128, instruction = "wgmma8", threads = [3, 128]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{instruction "wgmma8" needs factors of 8-bit floats under scales}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xi8>, %s: tensor<?x1xf32>, %w: tensor<64x128xi8>, %t: tensor<64x1xf32>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %s, %w, %t) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 64, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x128xi8>, tensor<?x1xf32>, tensor<64x128xi8>, tensor<64x1xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xi8>, %as: tensor<?x1xf32>, %b: tensor<64x128xi8>, %bs: tensor<64x1xf32>):
    %1 = dsc.dequantize %a scales %as : tensor<?x1xf32> {format = "fp8_e4m3_g128"} : tensor<?x128xi8> -> tensor<?x128xf32>
    %2 = dsc.dequantize %b scales %bs : tensor<64x1xf32> {format = "fp8_e4m3_g128"} : tensor<64x128xi8> -> tensor<64x128xf32>
    // expected-error @+1 {{factors of 8-bit floats under scales need the instruction "wgmma8"}}
    %3 = dsc.matmul %1, %2 {transpose_rhs} : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32>
    dsc.yield %3 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xi8>, %s: tensor<?x1xf32>, %w: tensor<64x128xi8>, %t: tensor<64x1xf32>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %s, %w, %t) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 128, instruction = "wgmma8", threads = [3, 128]>> : (tensor<?x128xi8>, tensor<?x1xf32>, tensor<64x128xi8>, tensor<64x1xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xi8>, %as: tensor<?x1xf32>, %b: tensor<64x128xi8>, %bs: tensor<64x1xf32>):
    %1 = dsc.dequantize %a scales %as : tensor<?x1xf32> {format = "fp8_e4m3_g128"} : tensor<?x128xi8> -> tensor<?x128xf32>
    %2 = dsc.dequantize %b scales %bs : tensor<64x1xf32> {format = "fp8_e4m3_g128"} : tensor<64x128xi8> -> tensor<64x128xf32>
    // expected-error @+1 {{instruction "wgmma8" needs tiles of 64 rows and the workgroup's columns, up to 256 (of codes up to 128 in multiples of 32), a multiple of 8 for each block of the cluster, one tile for each warpgroup but one, at most two; depth 128 and at least 5 stages, got}}
    %3 = dsc.matmul %1, %2 {transpose_rhs} : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32>
    dsc.yield %3 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xi8>, %s: tensor<?x1xf32>, %w: tensor<64x128xi8>, %t: tensor<64x1xf32>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %s, %w, %t) schedule <<tile = [64, 72], workgroup = [128, 72], unroll = 6, depth = 128, instruction = "wgmma8", threads = [3, 128]>> : (tensor<?x128xi8>, tensor<?x1xf32>, tensor<64x128xi8>, tensor<64x1xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xi8>, %as: tensor<?x1xf32>, %b: tensor<64x128xi8>, %bs: tensor<64x1xf32>):
    %1 = dsc.dequantize %a scales %as : tensor<?x1xf32> {format = "fp8_e4m3_g128"} : tensor<?x128xi8> -> tensor<?x128xf32>
    %2 = dsc.dequantize %b scales %bs : tensor<64x1xf32> {format = "fp8_e4m3_g128"} : tensor<64x128xi8> -> tensor<64x128xf32>
    // expected-error @+1 {{instruction "wgmma8" needs tiles of 64 rows and the workgroup's columns, up to 256 (of codes up to 128 in multiples of 32), a multiple of 8 for each block of the cluster, one tile for each warpgroup but one, at most two; depth 128 and at least 5 stages, got}}
    %3 = dsc.matmul %1, %2 {transpose_rhs} : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32>
    dsc.yield %3 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%x: tensor<?x128xf32>, %s: tensor<?x1xf32>, %w: tensor<64x128xi8>, %t: tensor<64x1xf32>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %s, %w, %t) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 6, depth = 128, instruction = "wgmma8", threads = [3, 128]>> : (tensor<?x128xf32>, tensor<?x1xf32>, tensor<64x128xi8>, tensor<64x1xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xf32>, %as: tensor<?x1xf32>, %b: tensor<64x128xi8>, %bs: tensor<64x1xf32>):
    %n = dsc.dim "arg0_0" : index
    %e = tensor.empty(%n) : tensor<?x128xi8>
    %c = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]} ins(%a : tensor<?x128xf32>) outs(%e : tensor<?x128xi8>) {
    ^bb0(%v: f32, %o: i8):
      %i = arith.fptosi %v : f32 to i8
      linalg.yield %i : i8
    } -> tensor<?x128xi8>
    %1 = dsc.dequantize %c scales %as : tensor<?x1xf32> {format = "fp8_e4m3_g128"} : tensor<?x128xi8> -> tensor<?x128xf32>
    %2 = dsc.dequantize %b scales %bs : tensor<64x1xf32> {format = "fp8_e4m3_g128"} : tensor<64x128xi8> -> tensor<64x128xf32>
    // expected-error @+1 {{instruction "wgmma8" needs codes that lie in memory, not computed in the same dispatch}}
    %3 = dsc.matmul %1, %2 {transpose_rhs} : (tensor<?x128xf32>, tensor<64x128xf32>) -> tensor<?x64xf32>
    dsc.yield %3 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}
