// RUN: dsc-opt %s --dsc-lower-abi --split-input-file --verify-diagnostics

// expected-error @+1 {{is neither a kernel nor a program on buffers: run --dsc-lower-host and --dsc-generate-kernels first}}
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}

// -----

// expected-error @+1 {{is neither a kernel nor a program on buffers}}
func.func private @declared()

// -----

// expected-error @+1 {{is neither a kernel nor a program on buffers}}
func.func private @no_workgroup(%x: memref<4xf32>) attributes {dsc.kernel} {
  return
}

// -----

// expected-error @+1 {{is neither a kernel nor a program on buffers}}
func.func @other() -> i32 {
  %zero = arith.constant 0 : i32
  return %zero : i32
}

// -----

// expected-error @+1 {{argument 0 has a size that does not follow from dsc.symbols: 'memref<?xf32>'}}
func.func private @unnamed(%x: memref<?xf32>, %first: index, %last: index) attributes {dsc.kernel} {
  return
}

// -----

module attributes {dsc.symbols = ["n"]} {
  // expected-error @+1 {{argument 0 has a size that does not follow from dsc.symbols: 'memref<?xf32>'}}
  func.func private @unknown(%x: memref<?xf32> {dsc.dims = #dsc.dims<["n * m"]>}, %first: index, %last: index) attributes {dsc.kernel} {
    return
  }
}

// -----

func.func private @dim(%first: index, %last: index) attributes {dsc.kernel} {
  // expected-error @+1 {{names no dimension of an argument: "n"}}
  %n = dsc.dim "n" : index
  return
}
