// RUN: dsc-opt %s --split-input-file --dsc-name-dims --dsc-annotate-cost | FileCheck %s

// x is 576 and y 64 floats of 4 bytes per row, w is 576 x 64 x 4 bytes; 2 x 576 x 64 operations per row.
// CHECK-LABEL: func.func @main
// CHECK: dsc.matmul {{.*}} {dsc.cost = {bytes = "s * 2560 + 147456", operations = "s * 73728"}}
func.func @main(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["s", "_"]>}, %w: tensor<576x64xf32>) -> tensor<?x64xf32> {
  %y = dsc.matmul %x, %w : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
  return %y : tensor<?x64xf32>
}

// -----

// 4 x 64 per pair of a query and a key; causal, s queries see s * c - s * (s - 1) / 2 of c keys. The keys and values of
// one head are 64 floats each, and 9 heads share 3. Appending touches what is appended: 2 x 3 x 64 floats, twice.
// CHECK-LABEL: func.func @cache
// CHECK: dsc.kv_append {{.*}} {dsc.cost = {bytes = "(b * s) * 1536 + b * 4 + (b * s) * 1536", operations = "0"}}
// CHECK: dsc.attention
// CHECK-SAME: dsc.cost = {bytes = "(b * s) * 2304 + (b * c) * 1536 + b * 4 + (b * s) * 2304",
// CHECK-SAME:            operations = "(b * ((s * c) * 4 + (s * s) * -2 + s * 2)) * 576"}
func.func @cache(%q: tensor<?x?x9x64xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
                 %k: tensor<?x?x3x64xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
                 %old: tensor<?x2x3x?x64xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "c", "_"]>},
                 %p: tensor<?xi32> {dsc.dims = #dsc.dims<["b"]>}) -> tensor<?x?x9x64xf32> {
  %new = dsc.kv_append %k, %k into %old at %p
      : (tensor<?x?x3x64xf32>, tensor<?x?x3x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x2x3x?x64xf32>
  %y = dsc.attention %q cache %new lengths %p {causal, scale = 0.125 : f32}
      : (tensor<?x?x9x64xf32>, tensor<?x2x3x?x64xf32>, tensor<?xi32>) -> tensor<?x?x9x64xf32>
  return %y : tensor<?x?x9x64xf32>
}

// -----

// Every pair of a query and a key without `causal`; the encoder has no cache.
// CHECK-LABEL: func.func @encoder
// CHECK: dsc.attention {{.*}} operations = "(s * t) * 128"
func.func @encoder(%q: tensor<1x?x2x16xf32> {dsc.dims = #dsc.dims<["_", "s", "_", "_"]>},
                   %k: tensor<1x?x2x16xf32> {dsc.dims = #dsc.dims<["_", "t", "_", "_"]>}) -> tensor<1x?x2x16xf32> {
  %y = dsc.attention %q, %k, %k {scale = 0.25 : f32}
      : (tensor<1x?x2x16xf32>, tensor<1x?x2x16xf32>, tensor<1x?x2x16xf32>) -> tensor<1x?x2x16xf32>
  return %y : tensor<1x?x2x16xf32>
}

// -----

// A dispatch costs what crosses its boundary: of the table the rows that are looked up, 2 blocks of 34 bytes each with
// 64 values, an id and 64 floats. Decoding takes 2 operations per value, the sum and the exponential one each.
// CHECK-LABEL: func.func @lookup
// CHECK: dsc.dispatch{{.*}} attributes {dsc.cost = {bytes = "s * 328", operations = "s * 256"}}
// CHECK-NOT: dsc.cost
func.func @lookup(%t: tensor<1000x68xi8>, %ids: tensor<?xi32> {dsc.dims = #dsc.dims<["s"]>}) -> tensor<?x64xf32> {
  %y = dsc.dispatch(%t, %ids) : (tensor<1000x68xi8>, tensor<?xi32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<1000x68xi8>, %b: tensor<?xi32>):
    %s = dsc.dim "s" : index
    %table = dsc.dequantize %a {format = "q8_0"} : tensor<1000x68xi8> -> tensor<1000x64xf32>
    %rows = dsc.embedding %table, %b : (tensor<1000x64xf32>, tensor<?xi32>) -> tensor<?x64xf32>
    %init = tensor.empty(%s) : tensor<?x64xf32>
    %0 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>],
                         iterator_types = ["parallel", "parallel"]}
        ins(%rows : tensor<?x64xf32>) outs(%init : tensor<?x64xf32>) {
    ^bb0(%in: f32, %out: f32):
      %sum = arith.addf %in, %in : f32
      %e = math.exp %sum : f32
      linalg.yield %e : f32
    } -> tensor<?x64xf32>
    dsc.yield %0 : tensor<?x64xf32>
  }
  return %y : tensor<?x64xf32>
}

// -----

// An input that two operations read whole crosses once. Of a slice nothing else crosses.
// CHECK-LABEL: func.func @shared
// CHECK: dsc.dispatch{{.*}} attributes {dsc.cost = {bytes = "s * 2308", operations = "s * 2880"}}
// CHECK: dsc.dispatch{{.*}} attributes {dsc.cost = {bytes = "s * 64", operations = "0"}}
func.func @shared(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["s", "_"]>}) -> (tensor<?xf32>, tensor<?x8xf32>) {
  %y = dsc.dispatch(%x) : (tensor<?x576xf32>) -> tensor<?xf32> {
  ^bb0(%a: tensor<?x576xf32>):
    %s = dsc.dim "s" : index
    %zero = arith.constant 0.0 : f32
    %empty = tensor.empty(%s) : tensor<?xf32>
    %init = linalg.fill ins(%zero : f32) outs(%empty : tensor<?xf32>) -> tensor<?xf32>
    %one = arith.constant dense<1.0> : tensor<576xf32>
    %n = dsc.rms_norm %a, %one {eps = 1.0e-5 : f64} : (tensor<?x576xf32>, tensor<576xf32>) -> tensor<?x576xf32>
    %0 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>,
                                          affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]}
        ins(%n, %a : tensor<?x576xf32>, tensor<?x576xf32>) outs(%init : tensor<?xf32>) {
    ^bb0(%p: f32, %q: f32, %out: f32):
      %sum = arith.addf %p, %out : f32
      linalg.yield %sum : f32
    } -> tensor<?xf32>
    dsc.yield %0 : tensor<?xf32>
  }
  %z = dsc.dispatch(%x) : (tensor<?x576xf32>) -> tensor<?x8xf32> {
  ^bb0(%a: tensor<?x576xf32>):
    %s = dsc.dim "s" : index
    %0 = tensor.extract_slice %a[0, 64] [%s, 8] [1, 1] : tensor<?x576xf32> to tensor<?x8xf32>
    dsc.yield %0 : tensor<?x8xf32>
  }
  return %y, %z : tensor<?xf32>, tensor<?x8xf32>
}
