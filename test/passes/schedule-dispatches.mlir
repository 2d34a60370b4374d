// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-schedule-dispatches | FileCheck %s --check-prefixes=CHECK,V4
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 --dsc-schedule-dispatches | FileCheck %s --check-prefixes=CHECK,V3
// RUN: not dsc-opt %s --dsc-schedule-dispatches 2>&1 | FileCheck %s --check-prefix=ERR

// ERR: error: has no target: run --dsc-set-target first

module attributes {dsc.symbols = ["n"]} {
  // One row has a variant of its own. The tile is two vectors wide and as high as the registers allow.
  // CHECK-LABEL: func.func @example
  // V4: dsc.dispatch(%{{.*}}, %{{.*}}) schedule <<max_rows = 1, tile = [1, 32], workgroup = [1, 64], unroll = 4, stage = [0]>, <tile = [12, 32], workgroup = [144, 32], stage = [0]>> :
  // V3: dsc.dispatch(%{{.*}}, %{{.*}}) schedule <<max_rows = 1, tile = [1, 16], workgroup = [1, 32], unroll = 4, stage = [0]>, <tile = [6, 16], workgroup = [72, 16], stage = [0]>> :
  func.func @example(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
    %y = dsc.dispatch (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
    ^bb0(%a: tensor<?x576xf32>, %b: tensor<576x64xf32>):
      %0 = dsc.matmul %a, %b : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
      dsc.yield %0 : tensor<?x64xf32>
    }
    return %y : tensor<?x64xf32>
  }

  // CHECK-LABEL: func.func @packed
  // CHECK: tile = [1, 32], workgroup = [1, 64], unroll = 4, stage = [0]>
  func.func @packed(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<2x8x32xf32>) -> tensor<?x64xf32> {
    %y = dsc.dispatch (%x, %w) : (tensor<?x8xf32>, tensor<2x8x32xf32>) -> tensor<?x64xf32> {
    ^bb0(%a: tensor<?x8xf32>, %b: tensor<2x8x32xf32>):
      %0 = dsc.matmul %a, %b {packed_columns = 64 : i64} : (tensor<?x8xf32>, tensor<2x8x32xf32>) -> tensor<?x64xf32>
      dsc.yield %0 : tensor<?x64xf32>
    }
    return %y : tensor<?x64xf32>
  }

  // Pairs of bf16 go to matrix tiles where the machine has them, and the left side may be rounded.
  // CHECK-LABEL: func.func @groups
  // V4: <tile = [12, 32], workgroup = [144, 32], stage = [0]>> :
  func.func @groups(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<2x288x32x2xbf16>) -> tensor<?x64xf32> {
    %y = dsc.dispatch (%x, %w) : (tensor<?x576xf32>, tensor<2x288x32x2xbf16>) -> tensor<?x64xf32> {
    ^bb0(%a: tensor<?x576xf32>, %b: tensor<2x288x32x2xbf16>):
      %0 = dsc.matmul %a, %b precision <lhs = bf16, rhs = bf16> {packed_columns = 64 : i64} : (tensor<?x576xf32>, tensor<2x288x32x2xbf16>) -> tensor<?x64xf32>
      dsc.yield %0 : tensor<?x64xf32>
    }
    return %y : tensor<?x64xf32>
  }

  // CHECK-LABEL: func.func @kept
  // CHECK: dsc.dispatch(%{{.*}}, %{{.*}}) schedule <<tile = [2, 8], workgroup = [4, 16]>> :
  func.func @kept(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<8x64xf32>) -> tensor<?x64xf32> {
    %y = dsc.dispatch (%x, %w) schedule <<tile = [2, 8], workgroup = [4, 16]>>
        : (tensor<?x8xf32>, tensor<8x64xf32>) -> tensor<?x64xf32> {
    ^bb0(%a: tensor<?x8xf32>, %b: tensor<8x64xf32>):
      %0 = dsc.matmul %a, %b : (tensor<?x8xf32>, tensor<8x64xf32>) -> tensor<?x64xf32>
      dsc.yield %0 : tensor<?x64xf32>
    }
    return %y : tensor<?x64xf32>
  }

  // Without a main operation: flat if the index does not matter, else rows and columns.
  // CHECK-LABEL: func.func @maps
  // V4: schedule <<tile = [16], workgroup = [16384]>>
  // V4: schedule <<tile = [1, 16], workgroup = [16, 4096]>>
  // V3: schedule <<tile = [8], workgroup = [16384]>>
  // V3: schedule <<tile = [1, 8], workgroup = [16, 4096]>>
  func.func @maps(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}) -> (tensor<?x8xf32>, tensor<?x4xf32>) {
    %0 = dsc.dispatch (%x) : (tensor<?x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%a: tensor<?x8xf32>):
      %n = dsc.dim "n" : index
      %e = tensor.empty(%n) : tensor<?x8xf32>
      %2 = linalg.generic {indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (i, j)>],
                           iterator_types = ["parallel", "parallel"]}
          ins(%a : tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
      ^bb0(%b: f32, %c: f32):
        %3 = arith.negf %b : f32
        linalg.yield %3 : f32
      } -> tensor<?x8xf32>
      dsc.yield %2 : tensor<?x8xf32>
    }
    %1 = dsc.dispatch (%x) : (tensor<?x8xf32>) -> tensor<?x4xf32> {
    ^bb0(%a: tensor<?x8xf32>):
      %n = dsc.dim "n" : index
      %2 = tensor.extract_slice %a[0, 2] [%n, 4] [1, 1] : tensor<?x8xf32> to tensor<?x4xf32>
      dsc.yield %2 : tensor<?x4xf32>
    }
    return %0, %1 : tensor<?x8xf32>, tensor<?x4xf32>
  }

  // CHECK-LABEL: func.func @rows
  // CHECK: dsc.dispatch(%{{.*}}) schedule <<
  // CHECK: dsc.softmax
  func.func @rows(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}) -> tensor<?x8xf32> {
    %0 = dsc.dispatch (%x) : (tensor<?x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%a: tensor<?x8xf32>):
      %1 = dsc.softmax %a : tensor<?x8xf32>
      dsc.yield %1 : tensor<?x8xf32>
    }
    return %0 : tensor<?x8xf32>
  }
}

// RUN: sed -e 's/^module attributes {/&dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+amx-tile,+amx-bf16", vector_bytes = 64, vector_registers = 32>, /' %s | dsc-opt --dsc-schedule-dispatches | FileCheck %s --check-prefix=TILES
// TILES-LABEL: func.func @example
// TILES: <tile = [12, 32], workgroup = [144, 32], stage = [0]>> :
// TILES-LABEL: func.func @groups
// TILES: schedule <<max_rows = 1, tile = [1, 32], workgroup = [1, 64], unroll = 4, stage = [0]>, <tile = [32, 32], workgroup = [256, 128], depth = 320, stage = [0], instruction = "tile">> :

// Where dots of bf16 are slow, integers under scales are multiplied, if there are rows enough.
// RUN: sed -e 's/^module attributes {/&dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+avx512f,+avx512vnni,+avx512bf16,+avx512fp16", vector_bytes = 64, vector_registers = 32>, /' %s | dsc-opt --dsc-schedule-dispatches | FileCheck %s --check-prefix=VNNI
// VNNI-LABEL: func.func @groups
// VNNI: instruction = "bfp">> :
