module attributes {dsc.phase = "schedule", dsc.symbols = ["b", "s", "t"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vnni,+avx512bf16,+avx512fp16", vector_bytes = 64, vector_registers = 32>} {
  func.func @main(%arg0: tensor<?x?x4x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>, dsc.name = "q"} loc("-":3:7), %arg1: tensor<?x2x4x?x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "t", "_"]>, dsc.name = "cache"} loc("-":4:7), %arg2: tensor<?xi32> {dsc.dims = #dsc.dims<["bmi"]>, dsc.name = "lengths"} loc("-":5:7)) -> (tensor<?x?x4x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>, dsc.name = "r0"}) {
    %0 = dsc.launch [@attention_0](%arg0, %arg1, %arg2) : (tensor<?x?x4x16xf32>, tensor<?x2x4x?x16xf32>, tensor<?xi32>) -> tensor<?x?x4x16xf32> loc(#loc5)
    return %0 : tensor<?x?x4x16xf32> loc(#loc6)
  } loc(#loc1)
  func.func private @attention_0(%arg0: tensor<?x?x4x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>} loc("-":3:7), %arg1: tensor<?x2x4x?x16xf32> {dsc.dims = #dsc.dims<["b", "_", "_", "t", "_"]>} loc("-":4:7), %arg2: tensor<?xi32> {dsc.dims = #dsc.dims<["b"]>} loc("-":5:7)) -> (tensor<?x?x4x16xf32> {dsc.dims = #dsc.dims<["b", "s", "_", "_"]>}) attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [16]>} {
    %0 = dsc.attention %arg0 cache %arg1 lengths %arg2 {scale = 2.500000e-01 : f32} : (tensor<?x?x4x16xf32>, tensor<?x2x4x?x16xf32>, tensor<?xi32>) -> tensor<?x?x4x16xf32> loc(#loc5)
    return %0 : tensor<?x?x4x16xf32> loc(#loc5)
  } loc(#loc5)
} loc(#loc)
#loc = loc("-":1:1)
#loc1 = loc("-":2:3)
#loc5 = loc("-":10:11)
#loc6 = loc("-":11:31)
