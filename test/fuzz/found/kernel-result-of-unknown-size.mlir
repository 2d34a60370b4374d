module attributes {dsc.phase = "schedule", dsc.symbols = ["m", "n"], dsc.target = #dsc.target<"cpu:native", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", features = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe,+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx512vnni,+avx512bf16,+avx512fp16", vector_bytes = 64, vector_registers = 32>} {
  func.func @main(%arg0: tensor<?x?xf64> {dsc.dims = #dsc.dims<["m", "n"]>, dsc.name = "x"} loc("-":3:7), %arg1: tensor<?xf64> {dsc.dims = #dsc.dims<["n"]>, dsc.name = "w"} loc("-":4:7), %arg2: tensor<?xf64> {dsc.dims = #dsc.dims<["n"]>, dsc.name = "c"} loc("-":5:7)) -> (tensor<?x?xf64> {dsc.dims = #dsc.dims<["m", "n"]>, dsc.name = "r0"}) {
    %0 = dsc.launch [@layer_norm_0](%arg0, %arg1, %arg2) : (tensor<?x?xf64>, tensor<?xf64>, tensor<?xf64>) -> tensor<?x?xf64> loc(#loc5)
    return %0 : tensor<?x?xf64> loc(#loc6)
  } loc(#loc1)
  func.func private @layer_norm_0(%arg0: tensor<?x?xf64> {dsc.dims = #dsc.dims<["m", "n"]>} loc("-":3:7), %arg1: tensor<?xf64> {dsc.dims = #dsc.dims<["n"]>} loc("-":4:7), %arg2: tensor<?xf64> {dsc.dims = #dsc.dims<["n"]>} loc("-":5:7)) -> (tensor<?x?xf64> {dsc.dims = #dsc.dims<["m", "dsc.dequantize"]>}) attributes {dsc.kernel, dsc.schedule = #dsc.variant<tile = [1, 16], workgroup = [8]>} {
    %0 = dsc.layer_norm %arg0 weight %arg1 bias %arg2 {eps = 1.000000e-05 : f64} : (tensor<?x?xf64>, tensor<?xf64>, tensor<?xf64>) -> tensor<?x?xf64> loc(#loc5)
    return %0 : tensor<?x?xf64> loc(#loc5)
  } loc(#loc5)
} loc(#loc)
#loc = loc("-":1:1)
#loc1 = loc("-":2:3)
#loc5 = loc("-":9:11)
#loc6 = loc("-":10:5)
