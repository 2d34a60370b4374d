// RUN: dsc-opt %s --split-input-file "--dsc-compile=target=sm_90a" | FileCheck %s --check-prefixes=CHECK,SM90
// RUN: dsc-opt %s --split-input-file "--dsc-compile=target=sm_80" | FileCheck %s --check-prefixes=CHECK,SM80
// RUN: not dsc-opt %s --split-input-file "--dsc-compile=target=sm_70" 2>&1 | FileCheck %s --check-prefix=UNKNOWN

// UNKNOWN: unknown target: "sm_70", {{.*}} and the GPUs sm_80 and sm_90a

// Every kernel is a text of its own in the manifest; what is left is the host program, which knows kernels by their
// descriptions only.
// CHECK-LABEL: kernels = {rms_norm_0 = {ptx = "
// CHECK-SAME: .entry rms_norm_0(
// CHECK-SAME: shfl.sync.bfly.b32
// CHECK-SAME: threads = 64 : i64}}
// CHECK-NOT: llvm.func {{.*}}@rms_norm_0
// CHECK-DAG: llvm.mlir.global internal constant @rms_norm_0.launch
// CHECK-DAG: llvm.mlir.addressof @rms_norm_0.launch
// CHECK-DAG: llvm.func @dsc_main(
func.func @main(%x: tensor<?x576xf32>, %w: tensor<576xf32>) -> tensor<?x576xf32> {
  %y = dsc.rms_norm %x, %w {eps = 1.0e-05 : f64} : (tensor<?x576xf32>, tensor<576xf32>) -> tensor<?x576xf32>
  return %y : tensor<?x576xf32>
}

// -----

// SM90: ptx = "
// SM90-SAME: mbarrier.init
// SM90-SAME: cp.async.bulk.tensor.2d.shared::cluster.global
// SM90-SAME: wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16
// SM80: ptx = "
// SM80-SAME: cp.async.cg.shared.global
// SM80-SAME: ldmatrix.sync.aligned.m8n8.x4.shared.b16
// SM80-SAME: mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
func.func @main(%x: tensor<4096x4096xbf16>, %w: tensor<4096x4096xbf16>) -> tensor<4096x4096xf32> {
  %y = dsc.matmul %x, %w {transpose_rhs} : (tensor<4096x4096xbf16>, tensor<4096x4096xbf16>) -> tensor<4096x4096xf32>
  return %y : tensor<4096x4096xf32>
}

// -----

// SM90: attention_0 = {ptx = "
// SM90-SAME: cp.async.bulk.tensor.4d.shared::cluster.global
// SM90-SAME: ex2.approx.ftz.f32
// SM90-SAME: wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16
// SM90-SAME: wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16
// SM80: attention_0 = {ptx = "
// SM80-SAME: cp.async.cg.shared.global
// SM80-SAME: mma.sync.aligned.m16n8k16
// SM80-SAME: ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16
func.func @main(%q: tensor<?x?x6x64xbf16>, %k: tensor<?x?x2x64xbf16>, %v: tensor<?x?x2x64xbf16>) -> tensor<?x?x6x64xbf16> {
  %y = dsc.attention %q, %k, %v {causal, scale = 0.125 : f32}
      : (tensor<?x?x6x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x6x64xbf16>
  return %y : tensor<?x?x6x64xbf16>
}
