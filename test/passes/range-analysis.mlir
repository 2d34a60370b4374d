// RUN: rm -rf %t.dir && split-file %s %t.dir && cd %t.dir
// RUN: dsc-opt rules.mlir --split-input-file --dsc-range-analysis=all | dsc-opt --split-input-file | FileCheck rules.mlir
// RUN: dsc-opt data.mlir --dsc-range-analysis=ranges=ranges.json --mlir-pass-statistics 2>&1 | FileCheck data.mlir
// RUN: dsc-opt data.mlir --dsc-range-analysis | FileCheck data.mlir --check-prefix=NONE
// RUN: dsc-opt errors.mlir --dsc-range-analysis=errors | FileCheck errors.mlir
// RUN: dsc-opt invalid.mlir --split-input-file --verify-diagnostics
// RUN: not dsc-opt data.mlir --dsc-range-analysis=ranges=nowhere.json 2>&1 | FileCheck data.mlir --check-prefix=NOFILE
// RUN: not dsc-opt data.mlir --dsc-range-analysis=ranges=no-ranges.json 2>&1 | FileCheck data.mlir --check-prefix=NORANGES
// RUN: not dsc-opt data.mlir --dsc-range-analysis=ranges=no-op.json 2>&1 | FileCheck data.mlir --check-prefix=NOOP
// RUN: not dsc-opt data.mlir --dsc-range-analysis=ranges=no-number.json 2>&1 | FileCheck data.mlir --check-prefix=NONUMBER
// RUN: not dsc-opt data.mlir --dsc-range-analysis=ranges=twice.json 2>&1 | FileCheck data.mlir --check-prefix=TWICE
// RUN: dsc-opt other.mlir --dsc-range-analysis=ranges=ranges.json --verify-diagnostics

//--- rules.mlir
// The example of the description: rows of n have a norm of at most sqrt(n) times the greatest weight.
// CHECK-LABEL: func.func @rms_norm
// CHECK: dsc.rms_norm {{.*}}dsc.hazards = ["fp8_e4m3 overflow"], dsc.range = #dsc.range<[-4.8000{{[0-9]*}}e+02, 4.8000{{[0-9]*}}e+02], norm = 4.8000{{[0-9]*}}e+02, proved>
// What is narrower than eps allows is bounded by it: 0.1 / sqrt(0.01 / 64 + 1).
// CHECK: dsc.rms_norm {{.*}}#dsc.range<[-9.999{{[0-9]*}}e-02, 9.999{{[0-9]*}}e-02], norm = 7.960{{[0-9]*}}e-01, proved>
func.func @rms_norm(%x: tensor<?x64xf32>, %w: tensor<64xf32> {dsc.range = #dsc.range<[-60.0, 2.0], proved>},
                    %s: tensor<?x64xf32> {dsc.range = #dsc.range<[-0.1, 0.1], proved>},
                    %one: tensor<64xf32> {dsc.range = #dsc.range<[1.0, 1.0], proved>})
    -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %y = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  %z = dsc.rms_norm %s, %one {eps = 1.0 : f64} : (tensor<?x64xf32>, tensor<64xf32>) -> tensor<?x64xf32>
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}

// -----

// Of layer_norm the same holds of the product, and a bias adds its own; with eps = 0 nothing does.
// CHECK-LABEL: func.func @layer_norm
// CHECK: dsc.layer_norm {{.*}}#dsc.range<[-9.0000{{[0-9]*}}e+00, 9.0000{{[0-9]*}}e+00], norm = 1.2000{{[0-9]*}}e+01, proved>
// CHECK: dsc.layer_norm {{.*}}dsc.hazards = ["f16 overflow", "bf16 overflow", "fp8_e4m3 overflow", "fp8_e5m2 overflow"], dsc.range = #dsc.range<[-inf, inf], proved>
func.func @layer_norm(%x: tensor<?x16xf32>, %w: tensor<16xf32> {dsc.range = #dsc.range<[-2.0, 2.0], proved>},
                      %b: tensor<16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], proved>})
    -> (tensor<?x16xf32>, tensor<?x16xf32>) {
  %y = dsc.layer_norm %x weight %w bias %b {eps = 1.0e-05 : f64}
      : (tensor<?x16xf32>, tensor<16xf32>, tensor<16xf32>) -> tensor<?x16xf32>
  %z = dsc.layer_norm %x {eps = 0.0 : f64} : (tensor<?x16xf32>) -> tensor<?x16xf32>
  return %y, %z : tensor<?x16xf32>, tensor<?x16xf32>
}

// -----

// |y| <= |x| |w|: 3 times 2, where sums of 16 products may reach 16 in the first and a bias adds 10 in the second.
// A length that is not known leaves the norms.
// CHECK-LABEL: func.func @matmul
// CHECK: dsc.matmul {{.*}}#dsc.range<[-6.0000{{[0-9]*}}e+00, 6.0000{{[0-9]*}}e+00], norm = 1.2000{{[0-9]*}}e+01, proved>
// CHECK: dsc.matmul {{.*}}#dsc.range<[0.0e+00, 2.6000{{[0-9]*}}e+01], norm = 5.2000{{[0-9]*}}e+01, proved>
// CHECK: dsc.matmul {{.*}}#dsc.range<[-6.04{{[0-9]*}}e+00, 6.04{{[0-9]*}}e+00], proved>
func.func @matmul(%x: tensor<?x16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 3.0, proved>},
                  %w: tensor<4x16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 2.0, proved>},
                  %p: tensor<16x4xf32> {dsc.range = #dsc.range<[0.0, 1.0], proved>},
                  %q: tensor<?x16xf32> {dsc.range = #dsc.range<[0.0, 1.0], proved>},
                  %b: tensor<4xf32> {dsc.range = #dsc.range<[0.0, 10.0], proved>},
                  %l: tensor<?x?xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 3.0, proved>},
                  %r: tensor<?x?xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 2.0, proved>})
    -> (tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x?xf32>) {
  %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x16xf32>, tensor<4x16xf32>) -> tensor<?x4xf32>
  %z = dsc.matmul %q, %p bias %b : (tensor<?x16xf32>, tensor<16x4xf32>, tensor<4xf32>) -> tensor<?x4xf32>
  %d = dsc.matmul %l, %r {transpose_rhs} : (tensor<?x?xf32>, tensor<?x?xf32>) -> tensor<?x?xf32>
  return %y, %z, %d : tensor<?x4xf32>, tensor<?x4xf32>, tensor<?x?xf32>
}

// -----

// Keys and values that are appended fill the cache; attention is a mean of values, or 0. Heads that become one row add
// their squares.
// CHECK-LABEL: func.func @attention
// CHECK: dsc.kv_append {{.*}}#dsc.range<[-2.0e+00, 3.0e+00], norm = 4.0e+00, proved>
// CHECK: dsc.attention {{.*}}#dsc.range<[-2.06{{[0-9]*}}e+00, 1.06{{[0-9]*}}e+00], norm = 4.12{{[0-9]*}}e+00, proved>
// CHECK: tensor.collapse_shape {{.*}}#dsc.range<[-2.06{{[0-9]*}}e+00, 1.06{{[0-9]*}}e+00], norm = 8.2{{[0-9]*}}e+00, proved>
func.func @attention(%q: tensor<?x?x4x8xf32>, %k: tensor<?x?x2x8xf32> {dsc.range = #dsc.range<[-1.0, 3.0], norm = 3.0, proved>},
                     %v: tensor<?x?x2x8xf32> {dsc.range = #dsc.range<[-2.0, 1.0], norm = 4.0, proved>},
                     %c: tensor<?x2x2x?x8xf32>, %n: tensor<?xi32>) -> tensor<?x?x32xf32> {
  %new = dsc.kv_append %k, %v into %c at %n
      : (tensor<?x?x2x8xf32>, tensor<?x?x2x8xf32>, tensor<?x2x2x?x8xf32>, tensor<?xi32>) -> tensor<?x2x2x?x8xf32>
  %y = dsc.attention %q cache %new lengths %n {causal, scale = 0.125 : f32}
      : (tensor<?x?x4x8xf32>, tensor<?x2x2x?x8xf32>, tensor<?xi32>) -> tensor<?x?x4x8xf32>
  %r = tensor.collapse_shape %y [[0], [1], [2, 3]] : tensor<?x?x4x8xf32> into tensor<?x?x32xf32>
  return %r : tensor<?x?x32xf32>
}

// -----

// Angles of one tensor rotate; tables of two have any norm within [-1, 1].
// CHECK-LABEL: func.func @rope
// CHECK: dsc.rope {{.*}}#dsc.range<[-1.4142{{[0-9]*}}e+00, 1.4142{{[0-9]*}}e+00], norm = 1.5000{{[0-9]*}}e+00, proved>
// CHECK: dsc.rope {{.*}}#dsc.range<[-2.0000{{[0-9]*}}e+00, 2.0000{{[0-9]*}}e+00], norm = 2.1213{{[0-9]*}}e+00, proved>
#id = affine_map<(d0, d1, d2) -> (d0, d1, d2)>
func.func @rope(%x: tensor<1x?x2x4xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 1.5, proved>},
                %a: tensor<1x?x2xf32>, %b: tensor<1x?x2xf32>, %e: tensor<1x?x2xf32>)
    -> (tensor<1x?x2x4xf32>, tensor<1x?x2x4xf32>) {
  %cos = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%a : tensor<1x?x2xf32>) outs(%e : tensor<1x?x2xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = math.cos %in : f32
    linalg.yield %v : f32
  } -> tensor<1x?x2xf32>
  %sin = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%a : tensor<1x?x2xf32>) outs(%e : tensor<1x?x2xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = math.sin %in : f32
    linalg.yield %v : f32
  } -> tensor<1x?x2xf32>
  %other = linalg.generic {indexing_maps = [#id, #id], iterator_types = ["parallel", "parallel", "parallel"]}
      ins(%b : tensor<1x?x2xf32>) outs(%e : tensor<1x?x2xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = math.sin %in : f32
    linalg.yield %v : f32
  } -> tensor<1x?x2xf32>
  %y = dsc.rope %x, %cos, %sin : (tensor<1x?x2x4xf32>, tensor<1x?x2xf32>, tensor<1x?x2xf32>) -> tensor<1x?x2x4xf32>
  %z = dsc.rope %x, %cos, %other : (tensor<1x?x2x4xf32>, tensor<1x?x2xf32>, tensor<1x?x2xf32>) -> tensor<1x?x2x4xf32>
  return %y, %z : tensor<1x?x2x4xf32>, tensor<1x?x2x4xf32>
}

// -----

// Rows of a table in blocks are those of the weight; what is small enough underflows.
// CHECK-LABEL: func.func @embedding
// CHECK: dsc.dequantize {{.*}}dsc.hazards = ["f16 underflow", "fp8_e4m3 underflow", "fp8_e5m2 underflow"], dsc.range = #dsc.range<[-1.0e-05, 3.0e-05], norm = 5.0e-05, proved>
// CHECK: dsc.embedding {{.*}}#dsc.range<[-1.0e-05, 3.0e-05], norm = 5.0e-05, proved>
// CHECK: dsc.softmax {{.*}}#dsc.range<[0.0e+00, 1.00000{{[0-9]*}}e+00], norm = 1.00000{{[0-9]*}}e+00, proved>
func.func @embedding(%t: tensor<100x34xi8> {dsc.range = #dsc.range<[-1.0e-05, 3.0e-05], norm = 5.0e-05, proved>},
                     %ids: tensor<?xi32>, %x: tensor<?x8xf32>) -> (tensor<?x32xf32>, tensor<?x8xf32>) {
  %w = dsc.dequantize %t {format = "q8_0"} : tensor<100x34xi8> -> tensor<100x32xf32>
  %y = dsc.embedding %w, %ids : (tensor<100x32xf32>, tensor<?xi32>) -> tensor<?x32xf32>
  %p = dsc.softmax %x : tensor<?x8xf32>
  return %y, %p : tensor<?x32xf32>, tensor<?x8xf32>
}

// -----

// Running totals, and rows that are added to: up to 3 of them meet in one.
// CHECK-LABEL: func.func @order
// CHECK: dsc.scan {{.*}}#dsc.range<[0.0e+00, 8.0000{{[0-9]*}}e+00]{{.*}}kind = "add"
// CHECK: dsc.scan {{.*}}#dsc.range<[0.0e+00, 1.0e+00]{{.*}}kind = "mul"
// CHECK: dsc.scan {{.*}}#dsc.range<[0.0e+00, 1.0e+00]{{.*}}kind = "max"
// CHECK: dsc.scan {{.*}}#dsc.range<[-{{[0-9.]*}}e-05, 3.079{{[0-9]*}}e+00]{{.*}}kind = "logaddexp"
// CHECK: dsc.scatter {{.*}}#dsc.range<[0.0e+00, 7.0000{{[0-9]*}}e+00]{{.*}}kind = "add"
// CHECK: dsc.scatter {{.*}}#dsc.range<[0.0e+00, 2.0e+00]{{.*}}kind = "set"
// CHECK: dsc.scatter {{.*}}#dsc.range<[0.0e+00, 2.0e+00]{{.*}}kind = "max"
// CHECK: dsc.scatter {{.*}}#dsc.range<[-inf, inf]{{.*}}kind = "mul"
func.func @order(%x: tensor<?x8xf32> {dsc.range = #dsc.range<[0.0, 1.0], proved>}, %i: tensor<3xi64>,
                 %u: tensor<3x8xf32> {dsc.range = #dsc.range<[0.5, 2.0], proved>})
    -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>) {
  %0 = dsc.scan %x {kind = "add"} : tensor<?x8xf32>
  %1 = dsc.scan %x {kind = "mul"} : tensor<?x8xf32>
  %2 = dsc.scan %x {kind = "max"} : tensor<?x8xf32>
  %3 = dsc.scan %x {kind = "logaddexp"} : tensor<?x8xf32>
  %4 = dsc.scatter %x, %i, %u {kind = "add"} : (tensor<?x8xf32>, tensor<3xi64>, tensor<3x8xf32>) -> tensor<?x8xf32>
  %5 = dsc.scatter %x, %i, %u {kind = "set"} : (tensor<?x8xf32>, tensor<3xi64>, tensor<3x8xf32>) -> tensor<?x8xf32>
  %m = dsc.scatter %x, %i, %u {kind = "max"} : (tensor<?x8xf32>, tensor<3xi64>, tensor<3x8xf32>) -> tensor<?x8xf32>
  %6 = dsc.scatter %x, %i, %u {kind = "mul"} : (tensor<?x8xf32>, tensor<3xi64>, tensor<3x8xf32>) -> tensor<?x8xf32>
  return %0, %1, %2, %3, %4, %5, %6 : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
}

// -----

// silu: x sigmoid(x), where sigmoid(3) = 0.9526; a norm shrinks as much. A division by what may be 0 gives anything.
// CHECK-LABEL: func.func @elementwise
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[-1.905{{[0-9]*}}e+00, 2.857{{[0-9]*}}e+00], norm = 3.810{{[0-9]*}}e+00, proved>
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[-inf, inf], proved>
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[-7.5000{{[0-9]*}}e-01, 1.1250{{[0-9]*}}e+00], norm = 1.5000{{[0-9]*}}e+00, proved>
#map = affine_map<(d0, d1) -> (d0, d1)>
func.func @elementwise(%x: tensor<?x8xf32> {dsc.range = #dsc.range<[-2.0, 3.0], norm = 4.0, proved>}, %e: tensor<?x8xf32>)
    -> (tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>) {
  %one = arith.constant 1.0 : f32
  %silu = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %n = arith.negf %in : f32
    %g = math.exp %n : f32
    %s = arith.addf %g, %one : f32
    %d = arith.divf %one, %s : f32
    %v = arith.mulf %in, %d : f32
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %inverse = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.divf %one, %in : f32
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  %scaled = linalg.generic {indexing_maps = [#map, #map], iterator_types = ["parallel", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%e : tensor<?x8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %c = arith.constant 0.375 : f32
    %v = arith.mulf %in, %c : f32
    linalg.yield %v : f32
  } -> tensor<?x8xf32>
  return %silu, %inverse, %scaled : tensor<?x8xf32>, tensor<?x8xf32>, tensor<?x8xf32>
}

// -----

// Sums of 8, a maximum from minus infinity, and a sum over rows of which only the sign is known.
// CHECK-LABEL: func.func @reductions
// CHECK: linalg.fill {{.*}}#dsc.range<[0.0e+00, 0.0e+00]
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[7.9999{{[0-9]*}}e+00, 2.4000{{[0-9]*}}e+01]
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[1.0e+00, 3.0e+00]
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[0.0e+00, inf]
#all = affine_map<(d0, d1) -> (d0, d1)>
#kept = affine_map<(d0, d1) -> (d0)>
#column = affine_map<(d0, d1) -> (d1)>
func.func @reductions(%x: tensor<?x8xf32> {dsc.range = #dsc.range<[1.0, 3.0], proved>}, %e: tensor<?xf32>, %f: tensor<8xf32>)
    -> (tensor<?xf32>, tensor<?xf32>, tensor<8xf32>) {
  %zero = arith.constant 0.0 : f32
  %low = arith.constant 0xFF800000 : f32
  %zeros = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %lows = linalg.fill ins(%low : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %columns = linalg.fill ins(%zero : f32) outs(%f : tensor<8xf32>) -> tensor<8xf32>
  %sum = linalg.generic {indexing_maps = [#all, #kept], iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<?x8xf32>) outs(%zeros : tensor<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.addf %in, %out : f32
    linalg.yield %v : f32
  } -> tensor<?xf32>
  %max = linalg.generic {indexing_maps = [#all, #kept], iterator_types = ["parallel", "reduction"]}
      ins(%x : tensor<?x8xf32>) outs(%lows : tensor<?xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.maximumf %in, %out : f32
    linalg.yield %v : f32
  } -> tensor<?xf32>
  %rows = linalg.generic {indexing_maps = [#all, #column], iterator_types = ["reduction", "parallel"]}
      ins(%x : tensor<?x8xf32>) outs(%columns : tensor<8xf32>) {
  ^bb0(%in: f32, %out: f32):
    %v = arith.addf %in, %out : f32
    linalg.yield %v : f32
  } -> tensor<8xf32>
  return %sum, %max, %rows : tensor<?xf32>, tensor<?xf32>, tensor<8xf32>
}

// -----

// Elements that move: a slice of a row, rows side by side, zeros around, integers as floats.
// CHECK-LABEL: func.func @shapes
// CHECK: tensor.extract_slice {{.*}}#dsc.range<[-1.0e+00, 2.0e+00], norm = 3.0e+00, proved>
// CHECK: tensor.concat {{.*}}#dsc.range<[-1.0e+00, 2.0e+00], norm = 4.242{{[0-9]*}}e+00, proved>
// CHECK: tensor.pad
// CHECK: } {dsc.range = #dsc.range<[-1.0e+00, 2.0e+00], norm = 3.0e+00, proved>
// CHECK: tensor.expand_shape {{.*}}#dsc.range<[-1.0e+00, 2.0e+00], norm = 2.828{{[0-9]*}}e+00, proved>
// CHECK: linalg.generic
// CHECK-SAME: dsc.range = #dsc.range<[-1.2800{{[0-9]*}}e+02, 1.2800{{[0-9]*}}e+02]
#vector = affine_map<(d0) -> (d0)>
func.func @shapes(%x: tensor<?x8xf32> {dsc.range = #dsc.range<[-1.0, 2.0], norm = 3.0, proved>}, %i: tensor<4xi8>, %e: tensor<4xf32>)
    -> (tensor<?x4xf32>, tensor<?x16xf32>, tensor<?x10xf32>, tensor<?x4x2xf32>, tensor<4xf32>) {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x8xf32>
  %zero = arith.constant 0.0 : f32
  %s = tensor.extract_slice %x[0, 0] [%n, 4] [1, 2] : tensor<?x8xf32> to tensor<?x4xf32>
  %j = tensor.concat dim(1) %x, %x : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x16xf32>
  %p = tensor.pad %x low[0, 1] high[0, 1] {
  ^bb0(%a: index, %b: index):
    tensor.yield %zero : f32
  } : tensor<?x8xf32> to tensor<?x10xf32>
  %r = tensor.expand_shape %x [[0], [1, 2]] output_shape [%n, 4, 2] : tensor<?x8xf32> into tensor<?x4x2xf32>
  %f = linalg.generic {indexing_maps = [#vector, #vector], iterator_types = ["parallel"]} ins(%i : tensor<4xi8>) outs(%e : tensor<4xf32>) {
  ^bb0(%in: i8, %out: f32):
    %v = arith.sitofp %in : i8 to f32
    linalg.yield %v : f32
  } -> tensor<4xf32>
  return %s, %j, %p, %r, %f : tensor<?x4xf32>, tensor<?x16xf32>, tensor<?x10xf32>, tensor<?x4x2xf32>, tensor<4xf32>
}

//--- data.mlir
// NOFILE: error: the ranges in nowhere.json cannot be used: No such file or directory
// NORANGES: error: the ranges in no-ranges.json cannot be used: expected {"version": 1, "ranges": [...]}
// NOOP: error: the ranges in no-op.json cannot be used: entry 0 needs "at", a location, and "op"
// NONUMBER: error: the ranges in no-number.json cannot be used: entry 0 needs numbers "lo" and "hi", which is not less
// TWICE: error: the ranges in twice.json cannot be used: entry 1 says the range of dsc.matmul at up again

// What was seen is used where nothing is proved, and what follows from it says so; a norm is proved of any input, and
// keeps its own interval.
// CHECK: (S) 1 calibrated
// CHECK: (S) 2 proved
// CHECK: (S) 1 unknown
// CHECK-LABEL: func.func @main
// CHECK: dsc.matmul {{.*}}#dsc.range<[-3.5e+00, 4.25e+00], norm = 1.7000{{[0-9]*}}e+01, calibrated>
// CHECK: dsc.rms_norm {{.*}}#dsc.range<[-4.0000{{[0-9]*}}e+00, 4.0000{{[0-9]*}}e+00], norm = 4.0000{{[0-9]*}}e+00, proved>
// CHECK: dsc.softmax {{.*}}proved>
// CHECK: dsc.matmul {{.*}}#dsc.range<[-inf, inf], proved>
// NONE-LABEL: func.func @main
// NONE: dsc.matmul {{.*}}#dsc.range<[-inf, inf], proved>
func.func @main(%x: tensor<?x8xf32>, %w: tensor<8x16xf32> {dsc.weight = "w"},
                %g: tensor<16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], proved>}) -> (tensor<?x16xf32>, tensor<?x16xf32>, tensor<?x16xf32>) {
  %h = dsc.matmul %x, %w : (tensor<?x8xf32>, tensor<8x16xf32>) -> tensor<?x16xf32> loc("up")
  %y = dsc.rms_norm %h, %g {eps = 1.0e-05 : f64} : (tensor<?x16xf32>, tensor<16xf32>) -> tensor<?x16xf32> loc("norm")
  %p = dsc.softmax %h : tensor<?x16xf32>
  %z = dsc.matmul %x, %w : (tensor<?x8xf32>, tensor<8x16xf32>) -> tensor<?x16xf32> loc("down")
  return %y, %p, %z : tensor<?x16xf32>, tensor<?x16xf32>, tensor<?x16xf32>
}

//--- errors.mlir
// Of f32 alone: gamma of 18 roundings against the root of 16, times |x| |w| = 6, in units of 2^-24. bf16 factors: once
// 6 for each, and estimated from max|x| |w| = 2.
// CHECK: dsc.matmul
// CHECK-SAME: dsc.errors = {bf16 = {all = array<f64: {{[0-9.]+}}, {{[0-9.]+}}>, lhs = array<f64: 6.001{{[0-9]+}}, 2.000{{[0-9]+}}>
// CHECK-SAME: f32 = array<f64: 108.{{[0-9]+}}, 24.{{[0-9]+}}>
// CHECK-SAME: int8 = {
func.func @main(%x: tensor<?x16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 3.0, proved>},
                %w: tensor<4x16xf32> {dsc.range = #dsc.range<[-1.0, 1.0], norm = 2.0, proved>}) -> tensor<?x4xf32> {
  %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x16xf32>, tensor<4x16xf32>) -> tensor<?x4xf32>
  return %y : tensor<?x4xf32>
}

//--- invalid.mlir
// expected-error @below {{a range must begin before it ends, got: [}}
func.func @backwards(%x: tensor<2xf32> {dsc.range = #dsc.range<[2.0, 1.0], proved>}) { return }

// -----

// expected-error @below {{norm must not be negative, got: }}
func.func @negative(%x: tensor<2xf32> {dsc.range = #dsc.range<[1.0, 2.0], norm = -1.0, proved>}) { return }

// -----

// expected-error @below {{a range is proved or calibrated, got: guessed}}
func.func @guessed(%x: tensor<2xf32> {dsc.range = #dsc.range<[1.0, 2.0], guessed>}) { return }

// -----

// expected-error @below {{argument 0 needs a #dsc.range as dsc.range, got: 1}}
func.func @argument(%x: tensor<2xf32> {dsc.range = 1 : i64}) { return }

// -----

func.func @operation(%x: tensor<2xf32>) -> tensor<2xf32> {
  // expected-error @below {{needs one #dsc.range per result as dsc.range, got: []}}
  %y = dsc.softmax %x {dsc.range = []} : tensor<2xf32>
  return %y : tensor<2xf32>
}

//--- other.mlir
// expected-error @below {{a range is given for dsc.matmul at up, which this model does not have: it is of another model}}
module {
}
//--- ranges.json
{"version": 1, "ranges": [{"at": "up", "op": "dsc.matmul", "lo": -3.5, "hi": 4.25}]}
//--- no-ranges.json
{"version": 1}
//--- no-op.json
{"version": 1, "ranges": [{"at": "up", "lo": 0, "hi": 1}]}
//--- no-number.json
{"version": 1, "ranges": [{"at": "up", "op": "dsc.matmul", "lo": 1, "hi": 0}]}
//--- twice.json
{"version": 1, "ranges": [{"at": "up", "op": "dsc.matmul", "lo": 0, "hi": 1}, {"at": "up", "op": "dsc.matmul", "lo": 0, "hi": 1}]}
