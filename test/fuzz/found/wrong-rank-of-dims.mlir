module attributes {dsc.phase = "parallel", dsc.symbols = ["b", "s"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vnni,+avx512bf16,+avx512fp16", vector_bytes = 64, vector_registers = 32>} {
  func.func @main(%arg0: tensor<?x?x96xf32> {dsc.dims = #dsc.dims<["s", "_"]>, dsc.name = "a"} loc("-":3:7), %arg1: tensor<96x49xf32> {dsc.dims = #dsc.dims<["_", "_"]>, dsc.name = "b"} loc("-":4:7)) -> (tensor<?x?x49xf32> {dsc.dims = #dsc.dims<["b", "s", "_"]>, dsc.name = "r0"}) {
    %0 = dsc.matmul %arg0, %arg1 : (tensor<?x?x96xf32>, tensor<96x49xf32>) -> tensor<?x?x49xf32> loc(#loc4)
    return %0 : tensor<?x?x49xf32> loc(#loc5)
  } loc(#loc1)
} loc(#loc)
#loc = loc("-":1:1)
#loc1 = loc("-":2:3)
#loc4 = loc("-":8:11)
#loc5 = loc("-":9:5)
