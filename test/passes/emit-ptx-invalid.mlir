// RUN: dsc-opt %s --verify-diagnostics --dsc-emit-ptx

module attributes {dsc.target = #dsc.target<"sm_90a", triple = "nvptx64-nvidia-cuda", cpu = "sm_90a", features = "+ptx80", vector_bytes = 16, vector_registers = 255>} {
  // expected-error @+1 {{cannot be made into PTX: it does not translate to LLVM IR}}
  llvm.func @k() attributes {dsc.kernel, nvvm.kernel} {
    // expected-error @+1 {{cannot be converted to LLVM IR}}
    %0 = arith.constant 1 : i32
    llvm.return
  }
}
