// RUN: dsc-opt %s --dsc-name-dims --split-input-file --verify-diagnostics | FileCheck %s

// CHECK: dsc.symbols = ["arg0_0"]
// CHECK-LABEL: func.func @example(%{{.*}}: tensor<?xf32> {dsc.dims = #dsc.dims<["arg0_0"]>})
// CHECK-NOT: tensor.dim
// CHECK: %[[N:.*]] = dsc.dim "arg0_0" : index
// CHECK: return %[[N]]
func.func @example(%x: tensor<?xf32>) -> index {
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?xf32>
  return %n : index
}

// -----

// Names that are there stay and are shared; the symbols are listed in order of first use.
// CHECK: dsc.symbols = ["b", "arg0_1", "s"]
// CHECK-LABEL: func.func @names_kept(%{{[^ ]*}}: tensor<?x?x64xf32> {dsc.dims = #dsc.dims<["b", "arg0_1", "_"]>}, %{{[^ ]*}}: tensor<?x?xi32> {dsc.dims = #dsc.dims<["b", "s"]>}, %{{[^ ]*}}: tensor<4xf32> {dsc.dims = #dsc.dims<["_"]>})
func.func @names_kept(%x: tensor<?x?x64xf32> {dsc.dims = #dsc.dims<["b", "_", "_"]>},
                %y: tensor<?x?xi32> {dsc.dims = #dsc.dims<["b", "s"]>}, %z: tensor<4xf32>) {
  return
}

// -----

// Sizes of results are expressions in the names of the arguments.
// CHECK-LABEL: func.func @expressions
// CHECK-DAG: %[[S:.*]] = dsc.dim "s" : index
// CHECK-DAG: %[[T:.*]] = dsc.dim "t" : index
// CHECK: %[[SUM:.*]] = arith.addi %[[S]], %[[T]] : index
// CHECK: %[[C8:.*]] = arith.constant 8 : index
// CHECK: %[[ALL:.*]] = arith.muli %{{.*}}, %[[C8]] : index
// CHECK: return %[[SUM]], %[[ALL]]
func.func @expressions(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["s", "_"]>},
                %y: tensor<?x8xf32> {dsc.dims = #dsc.dims<["t", "_"]>}) -> (index, index) {
  %c0 = arith.constant 0 : index
  %0 = tensor.concat dim(0) %x, %y : (tensor<?x8xf32>, tensor<?x8xf32>) -> tensor<?x8xf32>
  %n = tensor.dim %0, %c0 : tensor<?x8xf32>
  %1 = tensor.collapse_shape %x [[0, 1]] : tensor<?x8xf32> into tensor<?xf32>
  %m = tensor.dim %1, %c0 : tensor<?xf32>
  return %n, %m : index, index
}

// -----

// A promise on a named dimension stays on its dsc.dim.
// CHECK-LABEL: func.func @promise
// CHECK: dsc.dim "s" {max = 8 : i64} : index
func.func @promise(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["s"]>}) -> index {
  %s = dsc.dim "s" {max = 8 : i64} : index
  return %s : index
}

// -----

// expected-error @+1 {{argument 0 must be a ranked tensor, got: 'f32'}}
func.func @not_a_tensor(%x: f32) {
  return
}

// -----

// expected-error @+1 {{argument 1 needs one name per dimension, got: #dsc.dims<["b"]>}}
func.func @too_few_names(%x: tensor<4xf32>, %y: tensor<?x?xf32> {dsc.dims = #dsc.dims<["b"]>}) {
  return
}

// -----

// expected-error @+1 {{argument 0 names the static dimension 1: "d"}}
func.func @static_name(%x: tensor<?x64xf32> {dsc.dims = #dsc.dims<["b", "d"]>}) {
  return
}

// -----

// expected-error @+1 {{argument 0 has a bad dimension name: "b * 2"}}
func.func @bad_name(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["b * 2"]>}) {
  return
}

// -----

func.func @unknown_name(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["b"]>}) -> index {
  // expected-error @+1 {{names no dimension of an argument: "s"}}
  %s = dsc.dim "s" : index
  return %s : index
}

// -----

// A size that is data: nothing but running the program tells it.
func.func @data_dependent(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["b"]>}, %n: tensor<1xindex>) -> tensor<?xf32> {
  %c0 = arith.constant 0 : index
  %size = tensor.extract %n[%c0] : tensor<1xindex>
  // expected-error @+1 {{has a size that does not follow from the named dimensions: 'tensor<?xf32>'}}
  %y = tensor.empty(%size) : tensor<?xf32>
  return %y : tensor<?xf32>
}

// -----

// expected-error @+1 {{results must be ranked tensors, got: 'index'}}
func.func @main(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> index {
  %n = dsc.dim "n" : index
  return %n : index
}

// -----

func.func @negative_dim(%x: tensor<?xf32>) -> index {
  // CHECK-LABEL: func.func @negative_dim
  // CHECK: tensor.dim
  %c = arith.constant -2 : index
  %n = tensor.dim %x, %c : tensor<?xf32>
  return %n : index
}
