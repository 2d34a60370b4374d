module {
  func.func @main(
      %x: tensor<?x?xf32> {dsc.name = "x", dsc.dims = #dsc.dims<["m", "n"]>})
      -> (tensor<?xf32> {dsc.name = "r0", dsc.dims = #dsc.dims<["n"]>}) {
    %v0 = dsc.dim "m" : index
    %v1 = dsc.dim "n" : index
    %v2 = arith.constant 0.0 : f32
    %v3 = tensor.empty(%v1) : tensor<?xf32>
    %v4 = linalg.fill ins(%v2 : f32) outs(%v3 : tensor<?xf32>) -> tensor<?xf32>
    %v5 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1, d1)>, affine_map<(d0, d1) -> (d0)>], iterator_types = ["reduction", "parallel"]} ins(%x : tensor<?x?xf32>) outs(%v4 : tensor<?xf32>) {
    ^bb0(%a0: f32, %o: f32):
      %r = arith.addf %a0, %o : f32
      linalg.yield %r : f32
    } -> tensor<?xf32>
    return %v5 : tensor<?xf32>
  }
}
