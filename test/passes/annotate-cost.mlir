// RUN: dsc-opt %s --dsc-name-dims --dsc-annotate-cost | FileCheck %s

// x is 576 and y 64 floats of 4 bytes per row, w is 576 x 64 x 4 bytes; 2 x 576 x 64 operations per row.
// CHECK-LABEL: func.func @main
// CHECK: dsc.matmul {{.*}} {dsc.cost = {bytes = "s * 2560 + 147456", operations = "s * 73728"}}
func.func @main(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
  %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}
