// RUN: dsc-opt %s --split-input-file "--dsc-compile=target=sm_90a to=schedule" | FileCheck %s --check-prefix=GPU

// 2 x 4096^3 operations at 989.4 TFLOP/s are 138912 ns; 512 blocks on 132 multiprocessors leave 16 of 528 places empty.
// GPU-LABEL: func.func @main(%{{.*}}: tensor<4096x4096xbf16>
// GPU: dsc.cost = {bytes = "134217728", operations = "137438953472", predicted_ns = "143253"}
func.func @main(%x: tensor<4096x4096xbf16>, %w: tensor<4096x4096xbf16>) -> tensor<4096x4096xf32> {
  %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<4096x4096xbf16>, tensor<4096x4096xbf16>) -> tensor<4096x4096xf32>
  return %y : tensor<4096x4096xf32>
}

// -----

// GPU: predicted_ns = "max((s * 73728) / 66900, (s * 2560 + 147456) / 3350)"
func.func @main(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
  %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
