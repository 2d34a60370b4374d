// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 | FileCheck %s --check-prefix=V4
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 | FileCheck %s --check-prefix=V3
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64 | FileCheck %s --check-prefix=X86
// RUN: dsc-opt %s --dsc-set-target=target=cpu:aarch64 | FileCheck %s --check-prefix=ARM

// RUN: dsc-opt %s --dsc-set-target=target=sm_80 | FileCheck %s --check-prefix=SM80
// RUN: dsc-opt %s --dsc-set-target=target=sm_90a | FileCheck %s --check-prefix=SM90

// No target, `cpu` and `cpu:native` all mean this machine.
// RUN: dsc-opt %s --dsc-set-target -o %t.default
// RUN: dsc-opt %s --dsc-set-target=target=cpu -o %t.cpu
// RUN: dsc-opt %s --dsc-set-target=target=cpu:native -o %t.native
// RUN: diff %t.cpu %t.native
// RUN: diff %t.cpu %t.default
// RUN: FileCheck %s --check-prefix=NATIVE --input-file=%t.cpu

// A target that is there is kept; the same one may be asked for again, another one not.
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 --dsc-set-target | FileCheck %s --check-prefix=V3
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 --dsc-set-target=target=cpu:x86-64-v3 | FileCheck %s --check-prefix=V3
// RUN: not dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-set-target=target=cpu:x86-64-v3 2>&1 | FileCheck %s --check-prefix=ERR-OTHER
// RUN: not dsc-opt %s --dsc-set-target=target=cpu:z80 2>&1 | FileCheck %s --check-prefix=ERR
// RUN: not dsc-opt %s --dsc-set-target=target=gpu 2>&1 | FileCheck %s --check-prefix=ERR-KIND

// RUN: dsc-opt %s --dsc-set-target=target=cpu+strict | FileCheck %s --check-prefix=STRICT
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3+strict | FileCheck %s --check-prefix=V3-STRICT

// V4: module attributes {dsc.target = #dsc.target<"cpu:x86-64-v4", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4",
// V4-SAME: +avx512vl", vector_bytes = 64, vector_registers = 32>}
// X86: #dsc.target<"cpu:x86-64", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 16>
// V3: #dsc.target<"cpu:x86-64-v3",
// V3-SAME: +fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe", vector_bytes = 32, vector_registers = 16>
// ARM: #dsc.target<"cpu:aarch64", triple = "aarch64-unknown-linux-gnu", cpu = "generic", features = "+neon", vector_bytes = 16, vector_registers = 32>
// SM80: #dsc.target<"sm_80", triple = "nvptx64-nvidia-cuda", cpu = "sm_80", features = "+ptx80", vector_bytes = 16, vector_registers = 255, l2_bytes = 41943040>
// SM90: #dsc.target<"sm_90a", triple = "nvptx64-nvidia-cuda", cpu = "sm_90a", features = "+ptx80", vector_bytes = 16, vector_registers = 255, l2_bytes = 52428800>
// NATIVE: #dsc.target<"cpu:native",
// STRICT: #dsc.target<"cpu:native+strict",
// STRICT-NOT: bf16
// V3-STRICT: #dsc.target<"cpu:x86-64-v3+strict",
// ERR: error: unknown target: "cpu:z80", known are cpu, cpu:native, cpu:x86-64, cpu:x86-64-v3, cpu:x86-64-v4, cpu:aarch64
// ERR-KIND: error: unknown target: "gpu", known are cpu,
// ERR-OTHER: error: is already for target cpu:x86-64-v4, not cpu:x86-64-v3
module {}
