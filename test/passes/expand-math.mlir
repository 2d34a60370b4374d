// RUN: dsc-opt %s --split-input-file --dsc-expand-math | FileCheck %s

#v4 = #dsc.target<"cpu:x86-64-v4", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+sse4.1,+fma,+f16c", vector_bytes = 64, vector_registers = 32>
module attributes {dsc.target = #v4} {
  // f32 exp stays in f32: no wider type, no branch.
  // CHECK-LABEL: @exp
  // CHECK-NOT: f64
  // CHECK-NOT: math.exp
  // CHECK-COUNT-9: math.fma {{.*}} : vector<16xf32>
  // CHECK: arith.shli {{.*}} : vector<16xi32>
  // CHECK: return
  func.func @exp(%x: vector<16xf32>) -> vector<16xf32> {
    %y = math.exp %x : vector<16xf32>
    return %y : vector<16xf32>
  }

  // So do tanh and erf, by it.
  // CHECK-LABEL: @tanh
  // CHECK-NOT: f64
  // CHECK-NOT: math.tanh
  // CHECK: math.copysign {{.*}} : vector<16xf32>
  // CHECK: return
  func.func @tanh(%x: vector<16xf32>) -> vector<16xf32> {
    %y = math.tanh %x : vector<16xf32>
    return %y : vector<16xf32>
  }

  // CHECK-LABEL: @erf
  // CHECK-NOT: f64
  // CHECK-NOT: math.erf
  // CHECK: math.copysign {{.*}} : vector<16xf32>
  // CHECK: return
  func.func @erf(%x: vector<16xf32>) -> vector<16xf32> {
    %y = math.erf %x : vector<16xf32>
    return %y : vector<16xf32>
  }

  // CHECK-LABEL: @log
  // CHECK: arith.extf {{.*}} : vector<16xf32> to vector<16xf64>
  // CHECK-NOT: math.log
  // CHECK: arith.truncf {{.*}} : vector<16xf64> to vector<16xf32>
  func.func @log(%x: vector<16xf32>) -> vector<16xf32> {
    %y = math.log %x : vector<16xf32>
    return %y : vector<16xf32>
  }

  // Large arguments take a branch; there is no loop otherwise.
  // CHECK-LABEL: @sin
  // CHECK: scf.if
  // CHECK-NOT: math.sin
  // CHECK: return
  func.func @sin(%x: f64) -> f64 {
    %y = math.sin %x : f64
    return %y : f64
  }

  // To nearest even by integers: the default lowering flushes subnormals.
  // CHECK-LABEL: @to_bf16
  // CHECK-NOT: arith.truncf
  // CHECK: arith.addi {{.*}} : vector<16xi32>
  // CHECK: arith.shrui {{.*}} : vector<16xi32>
  // CHECK: arith.bitcast {{.*}} : vector<16xi16> to vector<16xbf16>
  func.func @to_bf16(%x: vector<16xf32>) -> vector<16xbf16> {
    %y = arith.truncf %x : vector<16xf32> to vector<16xbf16>
    return %y : vector<16xbf16>
  }

  // CHECK-LABEL: @to_f16
  // CHECK-NEXT: arith.truncf
  // CHECK-NEXT: return
  func.func @to_f16(%x: vector<16xf32>) -> vector<16xf16> {
    %y = arith.truncf %x : vector<16xf32> to vector<16xf16>
    return %y : vector<16xf16>
  }

  // The magnitude is all bits but the first, 2^(width - 1) - 1; above infinity is NaN.
  // CHECK-LABEL: @is_nan
  // CHECK-DAG: arith.constant dense<2147483647> : vector<4xi32>
  // CHECK-DAG: arith.constant dense<2139095040> : vector<4xi32>
  // CHECK: arith.cmpi sgt, {{.*}} : vector<4xi32>
  // CHECK-NEXT: return
  func.func @is_nan(%x: vector<4xf32>) -> vector<4xi1> {
    %y = math.isnan %x : vector<4xf32>
    return %y : vector<4xi1>
  }

  // CHECK-LABEL: @is_finite
  // CHECK-DAG: arith.constant 9223372036854775807 : i64
  // CHECK-DAG: arith.constant 9218868437227405312 : i64
  // CHECK: arith.cmpi slt, {{.*}} : i64
  // CHECK-NEXT: return
  func.func @is_finite(%x: f64) -> i1 {
    %y = math.isfinite %x : f64
    return %y : i1
  }

  // CHECK-LABEL: @divide
  // CHECK: %[[ZERO:.*]] = arith.cmpi eq, %arg1
  // CHECK: %[[SAFE:.*]] = arith.select {{.*}}, %arg1
  // CHECK: %[[QUOTIENT:.*]] = arith.divsi %arg0, %[[SAFE]]
  // CHECK: arith.select %[[ZERO]], {{.*}}, %[[QUOTIENT]]
  func.func @divide(%a: vector<4xi32>, %b: vector<4xi32>) -> vector<4xi32> {
    %q = arith.divsi %a, %b : vector<4xi32>
    return %q : vector<4xi32>
  }

  // A divisor that is known needs no guard.
  // CHECK-LABEL: @divide_by_constant
  // CHECK-NEXT: arith.constant
  // CHECK-NEXT: arith.divui
  // CHECK-NEXT: return
  func.func @divide_by_constant(%a: index) -> index {
    %c = arith.constant 64 : index
    %q = arith.divui %a, %c : index
    return %q : index
  }
}

// -----

// Without a target only what every machine has: two roundings instead of fma, f16 by integers.
module {
  // CHECK-LABEL: @plain_fma
  // CHECK: arith.mulf
  // CHECK: arith.addf
  // CHECK-NOT: vector.fma
  func.func @plain_fma(%a: vector<4xf32>) -> vector<4xf32> {
    %y = vector.fma %a, %a, %a : vector<4xf32>
    return %y : vector<4xf32>
  }

  // CHECK-LABEL: @plain_f16
  // CHECK-NOT: arith.extf
  // CHECK: arith.addf {{.*}} : vector<4xf32>
  // CHECK-NOT: arith.truncf
  // CHECK: return
  func.func @plain_f16(%a: vector<4xf16>) -> vector<4xf16> {
    %y = arith.addf %a, %a : vector<4xf16>
    return %y : vector<4xf16>
  }

  // CHECK-LABEL: @plain_floor
  // CHECK-NOT: math.floor
  // CHECK: return
  func.func @plain_floor(%a: f64) -> f64 {
    %y = math.floor %a : f64
    return %y : f64
  }
}
