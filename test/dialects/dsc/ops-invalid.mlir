// RUN: dsc-opt %s --split-input-file --verify-diagnostics

func.func @dim_name() -> index {
  // expected-error @+1 {{'dsc.dim' op needs an identifier, got: "2b"}}
  %0 = dsc.dim "2b" : index
  return %0 : index
}

// -----

// `_` stands for a static dimension, so it is no name.
func.func @dim_underscore() -> index {
  // expected-error @+1 {{needs an identifier, got: "_"}}
  %0 = dsc.dim "_" : index
  return %0 : index
}

// -----

func.func @dim_expression() -> index {
  // expected-error @+1 {{needs an identifier, got: "b * s"}}
  %0 = dsc.dim "b * s" : index
  return %0 : index
}

// -----

func.func @dim_min() -> index {
  // expected-error @+1 {{min must not be negative, got: -1}}
  %0 = dsc.dim "b" {min = -1 : i64} : index
  return %0 : index
}

// -----

func.func @dim_range() -> index {
  // expected-error @+1 {{max must be at least min, got: 3 < 4}}
  %0 = dsc.dim "b" {min = 4 : i64, max = 3 : i64} : index
  return %0 : index
}

// -----

func.func @dim_max_without_min() -> index {
  // expected-error @+1 {{max must be at least min, got: -1 < 0}}
  %0 = dsc.dim "b" {max = -1 : i64} : index
  return %0 : index
}

// -----

func.func @dim_divisor() -> index {
  // expected-error @+1 {{divisor must be positive, got: 0}}
  %0 = dsc.dim "b" {divisor = 0 : i64} : index
  return %0 : index
}

// -----

func.func @dispatch_arguments(%x: tensor<4xf32>) {
  // expected-error @+1 {{region arguments must have the types of the inputs}}
  dsc.dispatch (%x) : (tensor<4xf32>) -> () {
  ^bb0(%a: tensor<8xf32>):
    dsc.yield
  }
  return
}

// -----

func.func @dispatch_yield(%x: tensor<4xf32>) -> tensor<8xf32> {
  // expected-error @+1 {{yielded types must be the result types}}
  %0 = dsc.dispatch (%x) : (tensor<4xf32>) -> tensor<8xf32> {
  ^bb0(%a: tensor<4xf32>):
    dsc.yield %a : tensor<4xf32>
  }
  return %0 : tensor<8xf32>
}

// -----

func.func @dispatch_tied_count(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{tied needs one entry per result, got: 2 for 1 results}}
  %0 = dsc.dispatch (%x) tied [0, 0] : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    dsc.yield %a : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

func.func @dispatch_tied_input(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{tied names input 1 of 1}}
  %0 = dsc.dispatch (%x) tied [1] : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    dsc.yield %a : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

func.func @dispatch_tied_negative(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{tied names input -2 of 1}}
  %0 = dsc.dispatch (%x) tied [-2] : (tensor<4xf32>) -> tensor<4xf32> {
  ^bb0(%a: tensor<4xf32>):
    dsc.yield %a : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

func.func @dispatch_tied_type(%x: tensor<4xf32>, %y: tensor<8xf32>) -> tensor<8xf32> {
  // expected-error @+1 {{a tied result must have its input's type, got: 'tensor<8xf32>' and 'tensor<4xf32>'}}
  %0 = dsc.dispatch (%x, %y) tied [0] : (tensor<4xf32>, tensor<8xf32>) -> tensor<8xf32> {
  ^bb0(%a: tensor<4xf32>, %b: tensor<8xf32>):
    dsc.yield %b : tensor<8xf32>
  }
  return %0 : tensor<8xf32>
}

// -----

func.func @dispatch_isolated(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-note @+1 {{required by region isolation constraints}}
  %0 = dsc.dispatch () : () -> tensor<4xf32> {
    // expected-error @+1 {{using value defined outside the region}}
    dsc.yield %x : tensor<4xf32>
  }
  return %0 : tensor<4xf32>
}

// -----

func.func @yield_outside() {
  // expected-error @+1 {{expects parent op 'dsc.dispatch'}}
  dsc.yield
}

// -----

func.func @launch_without_kernel() {
  // expected-error @+1 {{'dsc.launch' op needs a kernel}}
  dsc.launch [] () : () -> ()
  return
}

// -----

func.func @launch_unknown_kernel(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error @+1 {{'dsc.launch' op names an unknown kernel: @k}}
  %0 = dsc.launch [@k] (%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}

// -----

func.func @arena_type(%n: index) {
  // expected-error @+1 {{must be memref of 8-bit signless integer values}}
  %a, %ok = dsc.arena %n : memref<?xf32>
  return
}

// -----

func.func @matmul_lhs_rank(%x: tensor<4xf32>, %w: tensor<4x8xf32>) -> tensor<8xf32> {
  // expected-error @+1 {{lhs must have rank 2 or more, got: 'tensor<4xf32>'}}
  %0 = dsc.matmul %x, %w : (tensor<4xf32>, tensor<4x8xf32>) -> tensor<8xf32>
  return %0 : tensor<8xf32>
}

// -----

func.func @matmul_elements(%x: tensor<2x4xf16>, %w: tensor<4x8xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{element types must match, got: 'f16' != 'f32'}}
  %0 = dsc.matmul %x, %w : (tensor<2x4xf16>, tensor<4x8xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @matmul_rhs_rank(%x: tensor<2x3x4xf32>, %w: tensor<4xf32>) -> tensor<2x3x8xf32> {
  // expected-error @+1 {{rhs must have rank 2 or the rank of lhs, got: 'tensor<4xf32>'}}
  %0 = dsc.matmul %x, %w : (tensor<2x3x4xf32>, tensor<4xf32>) -> tensor<2x3x8xf32>
  return %0 : tensor<2x3x8xf32>
}

// -----

func.func @matmul_batch(%x: tensor<2x3x4xf32>, %w: tensor<5x4x8xf32>) -> tensor<2x3x8xf32> {
  // expected-error @+1 {{batch sizes must match, got: 2 != 5}}
  %0 = dsc.matmul %x, %w : (tensor<2x3x4xf32>, tensor<5x4x8xf32>) -> tensor<2x3x8xf32>
  return %0 : tensor<2x3x8xf32>
}

// -----

func.func @matmul_contraction(%x: tensor<2x256xf32>, %w: tensor<128x8xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{contraction sizes must match, got: 256 != 128}}
  %0 = dsc.matmul %x, %w : (tensor<2x256xf32>, tensor<128x8xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @matmul_contraction_transposed(%x: tensor<2x256xf32>, %w: tensor<2x8xf32>) -> tensor<256x2xf32> {
  // expected-error @+1 {{contraction sizes must match, got: 2 != 8}}
  %0 = dsc.matmul %x, %w {transpose_lhs, transpose_rhs} : (tensor<2x256xf32>, tensor<2x8xf32>) -> tensor<256x2xf32>
  return %0 : tensor<256x2xf32>
}

// -----

func.func @matmul_bias_rank(%x: tensor<2x4xf32>, %w: tensor<4x8xf32>, %b: tensor<1x8xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{bias must have rank 1, got: 'tensor<1x8xf32>'}}
  %0 = dsc.matmul %x, %w bias %b : (tensor<2x4xf32>, tensor<4x8xf32>, tensor<1x8xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @matmul_bias_size(%x: tensor<2x4xf32>, %w: tensor<4x8xf32>, %b: tensor<4xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{bias and column counts must match, got: 4 != 8}}
  %0 = dsc.matmul %x, %w bias %b : (tensor<2x4xf32>, tensor<4x8xf32>, tensor<4xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @matmul_result_elements(%x: tensor<2x4xf16>, %w: tensor<4x8xf16>) -> tensor<2x8xf64> {
  // expected-error @+1 {{result elements must be the operands' or their accumulator's, got: 'f64' from 'f16'}}
  %0 = dsc.matmul %x, %w : (tensor<2x4xf16>, tensor<4x8xf16>) -> tensor<2x8xf64>
  return %0 : tensor<2x8xf64>
}

// -----

func.func @matmul_result_rank(%x: tensor<2x3x4xf32>, %w: tensor<4x8xf32>) -> tensor<6x8xf32> {
  // expected-error @+1 {{result must have rank 3, got: 'tensor<6x8xf32>'}}
  %0 = dsc.matmul %x, %w : (tensor<2x3x4xf32>, tensor<4x8xf32>) -> tensor<6x8xf32>
  return %0 : tensor<6x8xf32>
}

// -----

func.func @matmul_result_sizes(%x: tensor<2x4xf32>, %w: tensor<4x8xf32>) -> tensor<2x9xf32> {
  // expected-error @+1 {{inferred and written result sizes must match, got: 8 != 9}}
  %0 = dsc.matmul %x, %w : (tensor<2x4xf32>, tensor<4x8xf32>) -> tensor<2x9xf32>
  return %0 : tensor<2x9xf32>
}

// -----

func.func @matmul_packed_rank(%x: tensor<2x4xf32>, %w: tensor<4x8xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{a packed rhs must be static panels [n / t, k, t] or [n / t, k / g, t, g], got: 'tensor<4x8xf32>'}}
  %0 = dsc.matmul %x, %w {packed_columns = 8 : i64} : (tensor<2x4xf32>, tensor<4x8xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @matmul_packed_panels(%x: tensor<2x4xf32>, %w: tensor<2x4x32xf32>) -> tensor<2x80xf32> {
  // expected-error @+1 {{panels must cover the columns, got: 2 panels of 32 for 80}}
  %0 = dsc.matmul %x, %w {packed_columns = 80 : i64} : (tensor<2x4xf32>, tensor<2x4x32xf32>) -> tensor<2x80xf32>
  return %0 : tensor<2x80xf32>
}

// -----

func.func @matmul_packed_rows_rank(%x: tensor<2x4xf32>, %w: tensor<1x4x32xf32>) -> tensor<2x20xf32> {
  // expected-error @+1 {{a packed lhs must be static panels [m / t, k, t] or [m / t, k / g, t, g] beside such a rhs, got: 'tensor<2x4xf32>' and 'tensor<1x4x32xf32>'}}
  %0 = dsc.matmul %x, %w {packed_rows = 2 : i64, packed_columns = 20 : i64} : (tensor<2x4xf32>, tensor<1x4x32xf32>) -> tensor<2x20xf32>
  return %0 : tensor<2x20xf32>
}

// -----

func.func @matmul_packed_rows_panels(%x: tensor<2x4x12xf32>, %w: tensor<1x4x32xf32>) -> tensor<25x20xf32> {
  // expected-error @+1 {{panels must cover the rows, got: 2 panels of 12 for 25}}
  %0 = dsc.matmul %x, %w {packed_rows = 25 : i64, packed_columns = 20 : i64} : (tensor<2x4x12xf32>, tensor<1x4x32xf32>) -> tensor<25x20xf32>
  return %0 : tensor<25x20xf32>
}

// -----

func.func @attention_query(%q: tensor<2x9x64xf32>) -> tensor<2x9x64xf32> {
  // expected-error @+1 {{query must have rank 4, got: 'tensor<2x9x64xf32>'}}
  %0 = dsc.attention %q, %q, %q {scale = 1.0 : f32}
      : (tensor<2x9x64xf32>, tensor<2x9x64xf32>, tensor<2x9x64xf32>) -> tensor<2x9x64xf32>
  return %0 : tensor<2x9x64xf32>
}

// -----

func.func @attention_without_keys(%q: tensor<1x2x9x64xf32>) -> tensor<1x2x9x64xf32> {
  // expected-error @+1 {{needs either keys and values or a cache}}
  %0 = dsc.attention %q {scale = 1.0 : f32} : (tensor<1x2x9x64xf32>) -> tensor<1x2x9x64xf32>
  return %0 : tensor<1x2x9x64xf32>
}

// -----

func.func @attention_both(%q: tensor<1x2x3x64xf32>, %c: tensor<1x2x3x8x64xf32>, %n: tensor<1xi32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{needs either keys and values or a cache}}
  %0 = dsc.attention %q, %q, %q cache %c lengths %n {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @attention_value_sizes(%q: tensor<1x2x3x64xf32>, %v: tensor<1x4x3x64xf32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{key and value sizes must match, got: 2 != 4}}
  %0 = dsc.attention %q, %q, %v {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x4x3x64xf32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @attention_head_size(%q: tensor<1x2x3x64xf32>, %k: tensor<1x2x3x32xf32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{head sizes must match, got: 64 != 32}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x32xf32>, tensor<1x2x3x32xf32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @attention_dynamic_heads(%q: tensor<1x2x?x64xf32>) -> tensor<1x2x?x64xf32> {
  // expected-error @+1 {{head counts and head size must be static, got: 'tensor<1x2x?x64xf32>'}}
  %0 = dsc.attention %q, %q, %q {scale = 1.0 : f32}
      : (tensor<1x2x?x64xf32>, tensor<1x2x?x64xf32>, tensor<1x2x?x64xf32>) -> tensor<1x2x?x64xf32>
  return %0 : tensor<1x2x?x64xf32>
}

// -----

func.func @attention_groups(%q: tensor<1x2x9x64xf32>, %k: tensor<1x2x2x64xf32>) -> tensor<1x2x9x64xf32> {
  // expected-error @+1 {{query heads must be a multiple of key/value heads, got: 9 and 2}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32}
      : (tensor<1x2x9x64xf32>, tensor<1x2x2x64xf32>, tensor<1x2x2x64xf32>) -> tensor<1x2x9x64xf32>
  return %0 : tensor<1x2x9x64xf32>
}

// -----

func.func @attention_cache_rank(%q: tensor<1x2x3x64xf32>, %c: tensor<2x3x8x64xf32>, %n: tensor<1xi32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{cache must have rank 5, got: 'tensor<2x3x8x64xf32>'}}
  %0 = dsc.attention %q cache %c lengths %n {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<2x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @attention_cache_planes(%q: tensor<1x2x3x64xf32>, %c: tensor<1x3x3x8x64xf32>, %n: tensor<1xi32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{cache planes and key/value must match, got: 3 != 2}}
  %0 = dsc.attention %q cache %c lengths %n {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x3x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @attention_lengths(%q: tensor<1x2x3x64xf32>, %c: tensor<1x2x3x8x64xf32>, %n: tensor<4xi32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{batch sizes must match, got: 1 != 4}}
  %0 = dsc.attention %q cache %c lengths %n {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<4xi32>) -> tensor<1x2x3x64xf32>
  return %0 : tensor<1x2x3x64xf32>
}

// -----

func.func @kv_append_heads(%k: tensor<1x2x3x64xf32>, %c: tensor<1x2x4x8x64xf32>, %p: tensor<1xi32>) -> tensor<1x2x4x8x64xf32> {
  // expected-error @+1 {{key/value head counts must match, got: 3 != 4}}
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x4x8x64xf32>, tensor<1xi32>) -> tensor<1x2x4x8x64xf32>
  return %0 : tensor<1x2x4x8x64xf32>
}

// -----

func.func @kv_append_positions(%k: tensor<1x2x3x64xf32>, %c: tensor<1x2x3x8x64xf32>, %p: tensor<1x1xi32>) -> tensor<1x2x3x8x64xf32> {
  // expected-error @+1 {{positions must have rank 1, got: 'tensor<1x1xi32>'}}
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<1x1xi32>) -> tensor<1x2x3x8x64xf32>
  return %0 : tensor<1x2x3x8x64xf32>
}

// -----

func.func @kv_append_result(%k: tensor<1x2x3x64xf32>, %c: tensor<1x2x3x8x64xf32>, %p: tensor<1xi32>) -> tensor<1x2x3x?x64xf32> {
  // expected-error @+1 {{result must have the cache's type, got: 'tensor<1x2x3x?x64xf32>'}}
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x?x64xf32>
  return %0 : tensor<1x2x3x?x64xf32>
}

// -----

func.func @kv_append_twice(%k: tensor<1x2x3x64xf32>, %c: tensor<1x2x3x8x64xf32>, %p: tensor<1xi32>) -> tensor<1x2x3x64xf32> {
  // expected-error @+1 {{the cache is used again after the append, by: dsc.attention}}
  %0 = dsc.kv_append %k, %k into %c at %p
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x8x64xf32>
  %1 = dsc.attention %k cache %c lengths %p {scale = 1.0 : f32}
      : (tensor<1x2x3x64xf32>, tensor<1x2x3x8x64xf32>, tensor<1xi32>) -> tensor<1x2x3x64xf32>
  return %1 : tensor<1x2x3x64xf32>
}

// -----

func.func @rms_norm_scalar(%x: tensor<f32>, %w: tensor<1xf32>) -> tensor<f32> {
  // expected-error @+1 {{'dsc.rms_norm' op input must have a dimension to normalize, got: 'tensor<f32>'}}
  %0 = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<f32>, tensor<1xf32>) -> tensor<f32>
  return %0 : tensor<f32>
}

// -----

func.func @rms_norm_weight(%x: tensor<2x8xf32>, %w: tensor<4xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{weight and last input sizes must match, got: 4 != 8}}
  %0 = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<2x8xf32>, tensor<4xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @rms_norm_result(%x: tensor<2x8xf32>, %w: tensor<8xf32>) -> tensor<?x8xf32> {
  // expected-error @+1 {{failed to verify that all of {input, result} have same type}}
  %0 = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<?x8xf32>
  return %0 : tensor<?x8xf32>
}

// -----

func.func @rope_odd(%x: tensor<1x2x3x5xf32>, %c: tensor<1x2x2xf32>) -> tensor<1x2x3x5xf32> {
  // expected-error @+1 {{head size must be static and even, got: 'tensor<1x2x3x5xf32>'}}
  %0 = dsc.rope %x, %c, %c : (tensor<1x2x3x5xf32>, tensor<1x2x2xf32>, tensor<1x2x2xf32>) -> tensor<1x2x3x5xf32>
  return %0 : tensor<1x2x3x5xf32>
}

// -----

func.func @rope_angles(%x: tensor<1x2x3x8xf32>, %c: tensor<1x2x8xf32>) -> tensor<1x2x3x8xf32> {
  // expected-error @+1 {{angle count and half the head size must match, got: 8 != 4}}
  %0 = dsc.rope %x, %c, %c : (tensor<1x2x3x8xf32>, tensor<1x2x8xf32>, tensor<1x2x8xf32>) -> tensor<1x2x3x8xf32>
  return %0 : tensor<1x2x3x8xf32>
}

// -----

func.func @rope_batch(%x: tensor<1x2x3x8xf32>, %c: tensor<1x2x4xf32>, %s: tensor<2x2x4xf32>) -> tensor<1x2x3x8xf32> {
  // expected-error @+1 {{angle and input batch sizes must match, got: 2 != 1}}
  %0 = dsc.rope %x, %c, %s : (tensor<1x2x3x8xf32>, tensor<1x2x4xf32>, tensor<2x2x4xf32>) -> tensor<1x2x3x8xf32>
  return %0 : tensor<1x2x3x8xf32>
}

// -----

func.func @rope_sequence(%x: tensor<1x2x3x8xf32>, %c: tensor<1x3x4xf32>) -> tensor<1x2x3x8xf32> {
  // expected-error @+1 {{angle and input sequence sizes must match, got: 3 != 2}}
  %0 = dsc.rope %x, %c, %c : (tensor<1x2x3x8xf32>, tensor<1x3x4xf32>, tensor<1x3x4xf32>) -> tensor<1x2x3x8xf32>
  return %0 : tensor<1x2x3x8xf32>
}

// -----

func.func @embedding_table(%t: tensor<8xf32>, %i: tensor<2xi32>) -> tensor<2xf32> {
  // expected-error @+1 {{table must have rank 2, got: 'tensor<8xf32>'}}
  %0 = dsc.embedding %t, %i : (tensor<8xf32>, tensor<2xi32>) -> tensor<2xf32>
  return %0 : tensor<2xf32>
}

// -----

func.func @embedding_ids(%t: tensor<8x4xf32>, %i: tensor<2xi8>) -> tensor<2x4xf32> {
  // expected-error @+1 {{operand #1 must be ranked tensor of 32-bit signless integer or 64-bit signless integer values}}
  %0 = dsc.embedding %t, %i : (tensor<8x4xf32>, tensor<2xi8>) -> tensor<2x4xf32>
  return %0 : tensor<2x4xf32>
}

// -----

func.func @softmax_scalar(%x: tensor<f32>) -> tensor<f32> {
  // expected-error @+1 {{'dsc.softmax' op input must have a dimension to normalize, got: 'tensor<f32>'}}
  %0 = dsc.softmax %x : tensor<f32>
  return %0 : tensor<f32>
}

// -----

func.func @dequantize_format(%w: tensor<2x18xi8>) -> tensor<2x32xf32> {
  // expected-error @+1 {{unknown block format: "q3_k", known are q4_0 q4_1 q5_0 q5_1 q8_0 q4_k q5_k q6_k}}
  %0 = dsc.dequantize %w {format = "q3_k"} : tensor<2x18xi8> -> tensor<2x32xf32>
  return %0 : tensor<2x32xf32>
}

// -----

func.func @dequantize_dynamic_row(%w: tensor<2x?xi8>) -> tensor<2x32xf32> {
  // expected-error @+1 {{bytes per row must be static, got: 'tensor<2x?xi8>'}}
  %0 = dsc.dequantize %w {format = "q4_0"} : tensor<2x?xi8> -> tensor<2x32xf32>
  return %0 : tensor<2x32xf32>
}

// -----

func.func @dequantize_part_of_super_block(%w: tensor<2x146xi8>) -> tensor<2x256xf32> {
  // expected-error @+1 {{a row must hold whole blocks of 144 bytes, got: 146}}
  %0 = dsc.dequantize %w {format = "q4_k"} : tensor<2x146xi8> -> tensor<2x256xf32>
  return %0 : tensor<2x256xf32>
}

// -----

func.func @dequantize_values_of_super_block(%w: tensor<2x176xi8>) -> tensor<2x32xf32> {
  // expected-error @+1 {{inferred and written result sizes must match, got: 256 != 32}}
  %0 = dsc.dequantize %w {format = "q5_k"} : tensor<2x176xi8> -> tensor<2x32xf32>
  return %0 : tensor<2x32xf32>
}

// -----

func.func @dequantize_part_of_block(%w: tensor<2x20xi8>) -> tensor<2x32xf32> {
  // expected-error @+1 {{a row must hold whole blocks of 18 bytes, got: 20}}
  %0 = dsc.dequantize %w {format = "q4_0"} : tensor<2x20xi8> -> tensor<2x32xf32>
  return %0 : tensor<2x32xf32>
}

// -----

func.func @dequantize_result(%w: tensor<2x18xi8>) -> tensor<2x64xf32> {
  // expected-error @+1 {{inferred and written result sizes must match, got: 32 != 64}}
  %0 = dsc.dequantize %w {format = "q4_0"} : tensor<2x18xi8> -> tensor<2x64xf32>
  return %0 : tensor<2x64xf32>
}

// -----

func.func @dequantize_panel(%w: tensor<1x2x640xi8>) -> tensor<1x64x16xf32> {
  // expected-error @+1 {{panels of blocks must be static [n / t, blocks, t * 20], got: 'tensor<1x2x640xi8>' for t = 16}}
  %0 = dsc.dequantize %w {format = "q4_1", panel = 16 : i64} : tensor<1x2x640xi8> -> tensor<1x64x16xf32>
  return %0 : tensor<1x64x16xf32>
}

// -----

func.func @pack_no_rows(%w: tensor<8x40xi8>) -> tensor<1x2x640xi8> {
  // expected-error @+1 {{packs a static matrix of blocks in panels of at least one row, got: 'tensor<8x40xi8>' in panels of 0}}
  %0 = dsc.pack_blocks %w {format = "q4_1", panel = 0 : i64} : tensor<8x40xi8> -> tensor<1x2x640xi8>
  return %0 : tensor<1x2x640xi8>
}

// -----

func.func @pack_other_size(%w: tensor<33x40xi8>) -> tensor<1x2x640xi8> {
  // expected-error @+1 {{inferred and written result sizes must match, got: 2 != 1}}
  %0 = dsc.pack_blocks %w {format = "q4_1", panel = 32 : i64} : tensor<33x40xi8> -> tensor<1x2x640xi8>
  return %0 : tensor<1x2x640xi8>
}

// -----

func.func @attention_key_without_value(%q: tensor<1x2x4x8xf32>) {
  // expected-error @+1 {{needs values with its keys}}
  %0 = "dsc.attention"(%q, %q) <{operandSegmentSizes = array<i32: 1, 1, 0, 0, 0, 0>, scale = 1.0 : f32}> : (tensor<1x2x4x8xf32>, tensor<1x2x4x8xf32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @attention_cache_without_lengths(%q: tensor<1x2x4x8xf32>, %c: tensor<1x2x4x16x8xf32>) {
  // expected-error @+1 {{needs lengths with its cache}}
  %0 = "dsc.attention"(%q, %c) <{operandSegmentSizes = array<i32: 1, 0, 0, 1, 0, 0>, scale = 1.0 : f32}> : (tensor<1x2x4x8xf32>, tensor<1x2x4x16x8xf32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @launch_tied_out_of_range(%x: tensor<4xf32>) {
  // expected-error @+1 {{tied names input 5 of 1}}
  %0 = dsc.launch [@launch_tied_out_of_range] (%x) tied [5] : (tensor<4xf32>) -> tensor<4xf32>
  return
}

// -----

func.func @layer_norm_bias(%x: tensor<2x8xf32>, %b: tensor<4xf32>) -> tensor<2x8xf32> {
  // expected-error @+1 {{bias and last input sizes must match, got: 4 != 8}}
  %0 = dsc.layer_norm %x bias %b {eps = 1.0e-05 : f64} : (tensor<2x8xf32>, tensor<4xf32>) -> tensor<2x8xf32>
  return %0 : tensor<2x8xf32>
}

// -----

func.func @attention_wide_cache(%q: tensor<1x2x4x8xf16>, %c: tensor<1x2x4x16x8xf32>, %n: tensor<1xi32>) -> tensor<1x2x4x8xf16> {
  // expected-error @+1 {{the cache must not be wider than the query, got: 'f32' and 'f16'}}
  %0 = dsc.attention %q cache %c lengths %n {scale = 1.0 : f32}
      : (tensor<1x2x4x8xf16>, tensor<1x2x4x16x8xf32>, tensor<1xi32>) -> tensor<1x2x4x8xf16>
  return %0 : tensor<1x2x4x8xf16>
}

// -----

func.func @scan_kind(%x: tensor<4xf32>) {
  // expected-error @+1 {{kind must be one of add, mul, max, min, logaddexp, got: sub}}
  %0 = dsc.scan %x {kind = "sub"} : tensor<4xf32>
  return
}

// -----

func.func @scan_scalar(%x: tensor<f32>) {
  // expected-error @+1 {{input must have a dimension, got: 'tensor<f32>'}}
  %0 = dsc.scan %x {kind = "add"} : tensor<f32>
  return
}

// -----

func.func @scan_integers(%x: tensor<4xi32>) {
  // expected-error @+1 {{logaddexp needs floats, got: 'tensor<4xi32>'}}
  %0 = dsc.scan %x {kind = "logaddexp"} : tensor<4xi32>
  return
}

// -----

func.func @sort_sizes(%x: tensor<2x4xf32>) {
  // expected-error @+1 {{result must have at most as many columns as the input, got: 5 > 4}}
  %0 = dsc.sort %x : tensor<2x4xf32> -> tensor<2x5xi64>
  return
}

// -----

func.func @sort_rows(%x: tensor<2x4xf32>) {
  // expected-error @+1 {{inferred and written result sizes must match, got: 2 != 3}}
  %0 = dsc.sort %x : tensor<2x4xf32> -> tensor<3x4xi64>
  return
}

// -----

func.func @sort_too_many(%x: tensor<2x?xf32>) {
  // expected-error @+1 {{result must hold all positions or the first 256 at most, got: 300}}
  %0 = dsc.sort %x : tensor<2x?xf32> -> tensor<2x300xi64>
  return
}

// -----

func.func @scatter_rows(%x: tensor<2x4xf32>, %i: tensor<3xi64>, %u: tensor<5x4xf32>) {
  // expected-error @+1 {{row counts of indices and updates must match, got: 3 != 5}}
  %0 = dsc.scatter %x, %i, %u {kind = "set"} : (tensor<2x4xf32>, tensor<3xi64>, tensor<5x4xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @scatter_columns(%x: tensor<2x4xf32>, %i: tensor<3xi64>, %u: tensor<3x5xf32>) {
  // expected-error @+1 {{row sizes of input and updates must match, got: 4 != 5}}
  %0 = dsc.scatter %x, %i, %u {kind = "set"} : (tensor<2x4xf32>, tensor<3xi64>, tensor<3x5xf32>) -> tensor<2x4xf32>
  return
}

// -----

func.func @attention_mask_sizes(%q: tensor<1x2x4x8xf32>, %k: tensor<1x6x2x8xf32>, %m: tensor<1x4x2x5xf32>) {
  // expected-error @+1 {{mask and score sizes must match, got: 5 != 6}}
  %0 = dsc.attention %q, %k, %k mask %m {scale = 1.0 : f32}
      : (tensor<1x2x4x8xf32>, tensor<1x6x2x8xf32>, tensor<1x6x2x8xf32>, tensor<1x4x2x5xf32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @attention_mask_type(%q: tensor<1x2x4x8xf32>, %k: tensor<1x6x2x8xf32>, %m: tensor<1x1x1x6xi32>) {
  // expected-error @+1 {{mask must hold booleans or floats, got: 'tensor<1x1x1x6xi32>'}}
  %0 = dsc.attention %q, %k, %k mask %m {scale = 1.0 : f32}
      : (tensor<1x2x4x8xf32>, tensor<1x6x2x8xf32>, tensor<1x6x2x8xf32>, tensor<1x1x1x6xi32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @attention_window(%q: tensor<1x2x4x8xf32>, %k: tensor<1x6x2x8xf32>) {
  // expected-error @+1 {{window must be positive, got: 0}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32, window = 0 : i64}
      : (tensor<1x2x4x8xf32>, tensor<1x6x2x8xf32>, tensor<1x6x2x8xf32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @attention_soft_cap(%q: tensor<1x2x4x8xf32>, %k: tensor<1x6x2x8xf32>) {
  // expected-error @+1 {{soft_cap must be positive, got: -1.000000e+00 : f32}}
  %0 = dsc.attention %q, %k, %k {scale = 1.0 : f32, soft_cap = -1.0 : f32}
      : (tensor<1x2x4x8xf32>, tensor<1x6x2x8xf32>, tensor<1x6x2x8xf32>) -> tensor<1x2x4x8xf32>
  return
}

// -----

func.func @dequantize_scales_of_super_block(%w: tensor<2x128xi8>, %s: tensor<2x1xf32>) -> tensor<2x256xf32> {
  // expected-error @+1 {{scales of their own need a format with one scale for each block, and no panel, got: "q4_k"}}
  %0 = dsc.dequantize %w scales %s : tensor<2x1xf32> {format = "q4_k"} : tensor<2x128xi8> -> tensor<2x256xf32>
  return %0 : tensor<2x256xf32>
}

// -----

func.func @dequantize_scales_count(%w: tensor<2x128xi8>, %s: tensor<2x4xf32>) -> tensor<2x128xf32> {
  // expected-error @+1 {{a row of codes must be whole blocks of 64 bytes with one scale each, got: 'tensor<2x128xi8>' and 'tensor<2x4xf32>'}}
  %0 = dsc.dequantize %w scales %s : tensor<2x4xf32> {format = "fp8_e4m3_g64"} : tensor<2x128xi8> -> tensor<2x128xf32>
  return %0 : tensor<2x128xf32>
}

// -----

func.func @dequantize_scales_part_of_block(%w: tensor<2x100xi8>, %s: tensor<2x2xf32>) -> tensor<2x100xf32> {
  // expected-error @+1 {{a row of codes must be whole blocks of 64 bytes with one scale each}}
  %0 = dsc.dequantize %w scales %s : tensor<2x2xf32> {format = "int8_g64"} : tensor<2x100xi8> -> tensor<2x100xf32>
  return %0 : tensor<2x100xf32>
}
