// RUN: dsc-opt %s --split-input-file --verify-diagnostics "--dsc-compile=target=sm_80 to=codegen"

// Hopper's instruction on the machine before it.

func.func @main(%x: tensor<?x128xbf16>, %w: tensor<64x128xbf16>) -> tensor<?x64xf32> {
  %0 = dsc.dispatch (%x, %w) schedule <<tile = [64, 64], workgroup = [128, 64], unroll = 4, depth = 64, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x128xbf16>, %b: tensor<64x128xbf16>):
    // expected-error @+1 {{instruction "wgmma" needs the target sm_90a, got: #dsc.target<"sm_80"}}
    %1 = dsc.matmul %a, %b {transpose_rhs} : (tensor<?x128xbf16>, tensor<64x128xbf16>) -> tensor<?x64xf32>
    dsc.yield %1 : tensor<?x64xf32>
  }
  return %0 : tensor<?x64xf32>
}

// -----

func.func @main(%q: tensor<?x?x4x64xbf16>, %k: tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  %0 = dsc.dispatch (%q, %k) schedule <<tile = [64, 128], workgroup = [64, 2, 1], depth = 128, instruction = "wgmma", threads = [3, 128]>> : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16> {
  ^bb0(%a: tensor<?x?x4x64xbf16>, %b: tensor<?x?x2x64xbf16>):
    // expected-error @+1 {{instruction "wgmma" needs the target sm_90a, got: #dsc.target<"sm_80"}}
    %1 = dsc.attention %a, %b, %b {causal, scale = 0.125 : f32} : (tensor<?x?x4x64xbf16>, tensor<?x?x2x64xbf16>, tensor<?x?x2x64xbf16>) -> tensor<?x?x4x64xbf16>
    dsc.yield %1 : tensor<?x?x4x64xbf16>
  }
  return %0 : tensor<?x?x4x64xbf16>
}
