// RUN: dsc-opt %s --split-input-file --verify-diagnostics | FileCheck %s
// RUN: dsc-opt %s --split-input-file --verify-diagnostics --emit-bytecode -o /dev/null

// CHECK-LABEL: func.func private @dims
// CHECK-SAME: named = #dsc.dims<["b", "s", "_"]>
// CHECK-SAME: none = #dsc.dims<[]>
// CHECK-SAME: sizes = #dsc.dims<["b * s", "(s + 1) // 2"]>
func.func private @dims() attributes {
  named = #dsc.dims<["b", "s", "_"]>, none = #dsc.dims<[]>, sizes = #dsc.dims<["b * s", "(s + 1) // 2"]>}

// Fields come back in one order, absent ones stay absent.
// CHECK-LABEL: func.func private @precision
// CHECK-SAME: all = #dsc.precision<lhs = bf16, rhs = f8E4M3FN, acc = f32, result = f16, scales = [1, 128], reason = "plan">
// CHECK-SAME: none = #dsc.precision<>
// CHECK-SAME: some = #dsc.precision<acc = f32, reason = "r">
func.func private @precision() attributes {
  all = #dsc.precision<reason = "plan", scales = [1, 128], result = f16, acc = f32, rhs = f8E4M3FN, lhs = bf16>,
  none = #dsc.precision<>, some = #dsc.precision<acc = f32, reason = "r">}

// CHECK-LABEL: func.func private @variant
// CHECK-SAME: long = #dsc.variant<max_rows = 1, tile = [1, 32], workgroup = [1, 32], unroll = 4>
// CHECK-SAME: short = #dsc.variant<tile = [16], workgroup = [4096]>
// CHECK-SAME: staged = #dsc.variant<tile = [12, 32], workgroup = [96, 1024], depth = 1024, stage = [0], instruction = "dot">
func.func private @variant() attributes {
  long = #dsc.variant<max_rows = 1, tile = [1, 32], workgroup = [1, 32], unroll = 4>,
  short = #dsc.variant<tile = [16], workgroup = [4096], unroll = 1>,
  staged = #dsc.variant<instruction = "dot", stage = [0], depth = 1024, workgroup = [96, 1024], tile = [12, 32]>}

// CHECK-LABEL: func.func private @schedule
// CHECK-SAME: s = #dsc.schedule<<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>
func.func private @schedule() attributes {
  s = #dsc.schedule<<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>}

// CHECK-LABEL: func.func private @target
// CHECK-SAME: t = #dsc.target<"cpu:aarch64", triple = "aarch64-unknown-linux-gnu", cpu = "generic", features = "+neon", vector_bytes = 16, vector_registers = 32>
func.func private @target() attributes {
  t = #dsc.target<"cpu:aarch64", triple = "aarch64-unknown-linux-gnu", cpu = "generic", features = "+neon", vector_bytes = 16, vector_registers = 32>}

// -----

// expected-error @+1 {{expected '['}}
func.func private @dims_without_brackets() attributes {d = #dsc.dims<"b">}

// -----

// expected-error @+1 {{invalid kind of attribute specified}}
func.func private @dims_of_numbers() attributes {d = #dsc.dims<[1 : i64]>}

// -----

// expected-error @+1 {{unknown precision field: lsh}}
func.func private @precision_field() attributes {p = #dsc.precision<lsh = bf16>}

// -----

// expected-error @+1 {{expected non-function type}}
func.func private @precision_type() attributes {p = #dsc.precision<lhs = 16>}

// -----

// expected-error @+1 {{unknown field: tiles, known are max_rows, tile, workgroup, unroll, depth, stage, instruction, threads, cluster}}
func.func private @variant_field() attributes {v = #dsc.variant<tiles = [1], workgroup = [1]>}

// -----

// expected-error @+1 {{field is given twice: tile}}
func.func private @variant_twice() attributes {v = #dsc.variant<tile = [1], tile = [1], workgroup = [1]>}

// -----

// expected-error @+1 {{threads must be teams and threads of a team, together at most 1024, got: 8, 256}}
func.func private @variant_threads() attributes {v = #dsc.variant<tile = [1], workgroup = [1], threads = [8, 256]>}

// -----

// expected-error @+1 {{cluster must be a power of two, at most 8, got: 3}}
func.func private @variant_cluster() attributes {v = #dsc.variant<tile = [1], workgroup = [1], cluster = 3>}

// -----

// expected-error @+1 {{threads of a team must be a power of two, got: 96}}
func.func private @variant_team() attributes {v = #dsc.variant<tile = [1], workgroup = [1], threads = [2, 96]>}

// -----

// expected-error @+1 {{a variant needs tile and workgroup}}
func.func private @variant_short() attributes {v = #dsc.variant<tile = [1]>}

// -----

// expected-error @+1 {{a tile times unroll may hold 16384 elements, got more}}
func.func private @variant_code() attributes {v = #dsc.variant<tile = [4294967296, 32], workgroup = [1, 32], unroll = 4>}

// -----

// expected-error @+1 {{depth must not be negative, got: -64}}
func.func private @variant_depth() attributes {v = #dsc.variant<tile = [1], workgroup = [1], depth = -64>}

// -----

// expected-error @+1 {{stage must list operand numbers, got: -1}}
func.func private @variant_stage() attributes {v = #dsc.variant<tile = [1], workgroup = [1], stage = [-1]>}

// -----

// expected-error @+1 {{unknown instruction "amx", known are fma, dot, bfp, tile, mma, wgmma, wgmma8}}
func.func private @variant_instruction() attributes {v = #dsc.variant<tile = [1], workgroup = [1], instruction = "amx">}

// -----

// expected-error @+1 {{max_rows must not be negative, got: -1}}
func.func private @variant_max_rows() attributes {v = #dsc.variant<max_rows = -1, tile = [1], workgroup = [1]>}

// -----

// expected-error @+1 {{unroll must be positive, got: 0}}
func.func private @variant_unroll() attributes {v = #dsc.variant<tile = [1], workgroup = [1], unroll = 0>}

// -----

// expected-error @+1 {{schedule sizes must be positive, got: 0}}
func.func private @variant_tile() attributes {v = #dsc.variant<tile = [4, 0], workgroup = [1]>}

// -----

// expected-error @+1 {{schedule sizes must be positive, got: -2}}
func.func private @variant_workgroup() attributes {v = #dsc.variant<tile = [4], workgroup = [-2]>}

// -----

// expected-error @+2 {{only the last variant may have no max_rows}}
func.func private @schedule_unreachable() attributes {
  s = #dsc.schedule<<tile = [1], workgroup = [1]>, <tile = [2], workgroup = [2]>>}

// -----

// expected-error @+1 {{the last variant must have no max_rows, got: 8}}
func.func private @schedule_incomplete() attributes {s = #dsc.schedule<<max_rows = 8, tile = [1], workgroup = [1]>>}

// -----

// expected-error @+2 {{expected '<'}}
// expected-error @+1 {{failed to parse Dsc_ScheduleAttr parameter 'variants'}}
func.func private @schedule_empty() attributes {s = #dsc.schedule<>}

// -----

// expected-error @+1 {{expected 'triple'}}
func.func private @target_field() attributes {t = #dsc.target<"cpu", cpu = "x86-64">}

// -----

// expected-error @+1 {{unknown attribute}}
func.func private @unknown() attributes {t = #dsc.shape<[]>}
