module attributes {dsc.phase = "precision", dsc.symbols = ["s"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vnni,+avx512bf16,+avx512fp16", vector_bytes = 64, vector_registers = 32>} {
  func.func @main(%arg0: tensor<?x?x576xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>, dsc.name = "x"} loc("-":3:7), %arg1: tensor<576xf32> {dsc.dims = #dsc.dims<["_"]>, dsc.name = "w"} loc("-":4:7)) -> (tensor<?x?x576xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>, dsc.name = "r0"}) {
    %0 = dsc.rms_norm %arg0, %arg1 {eps = 1.000000e-05 : f64} : (tensor<?x?x576xf32>, tensor<576xf32>) -> tensor<?x?x576xf32> loc(#loc4)
    return %0 : tensor<?x?x576xf32> loc(#loc5)
  } loc(#loc1)
} loc(#loc)
#loc = loc("-":1:1)
#loc1 = loc("-":2:3)
#loc4 = loc("-":8:11)
#loc5 = loc("-":9:5)
