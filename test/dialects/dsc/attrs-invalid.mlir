// RUN: dsc-opt %s --split-input-file --verify-diagnostics

// expected-error @+1 {{needs distinct names as dsc.symbols, got: ["n", 1]}}
module attributes {dsc.symbols = ["n", 1]} {}

// -----

// expected-error @+1 {{needs distinct names as dsc.symbols, got: ["n", "n"]}}
module attributes {dsc.symbols = ["n", "n"]} {}

// -----

// expected-error @+1 {{needs distinct names as dsc.symbols, got: "n"}}
module attributes {dsc.symbols = "n"} {}

// -----

// expected-error @+1 {{needs [min, max, divisor] of each symbol as dsc.ranges, got: {n = array<i64: 1, 2>}}}
module attributes {dsc.ranges = {n = array<i64: 1, 2>}} {}

// -----

// expected-error @+1 {{needs [min, max, divisor] of each symbol as dsc.ranges, got: {n = array<i64: 0, -1, 0>}}}
module attributes {dsc.ranges = {n = array<i64: 0, -1, 0>}} {}

// -----

// expected-error @+1 {{result 0 is tied to argument 3 of 1}}
func.func @no_argument(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = 3 : i64}) {
  return %c : tensor<4xf32>
}

// -----

// expected-error @+1 {{result 0 is tied to argument -1 of 1}}
func.func @negative(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = -1 : i64}) {
  return %c : tensor<4xf32>
}

// -----

// expected-error @+1 {{result 0 needs the number of an argument as dsc.tied, got: "c"}}
func.func @name(%c: tensor<4xf32>) -> (tensor<4xf32> {dsc.tied = "c"}) {
  return %c : tensor<4xf32>
}

// -----

// expected-error @+1 {{a feature must begin with + or -, got: "avx2"}}
module attributes {dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "+avx,avx2", vector_bytes = 32, vector_registers = 16>} {}

// -----

// expected-error @+1 {{vector_bytes must be a power of two from 16 to 256, got: 0}}
module attributes {dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 0, vector_registers = 16>} {}

// -----

// expected-error @+1 {{vector_registers must be positive, got: 0}}
module attributes {dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 0>} {}

// -----

// expected-error @+1 {{l2_bytes must be at least 65536, got: 1024}}
module attributes {dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 16, l2_bytes = 1024>} {}
