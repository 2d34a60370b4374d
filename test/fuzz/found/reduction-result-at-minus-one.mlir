module {
  func.func @main(
      %x: tensor<?x?xi64> {dsc.name = "x", dsc.dims = #dsc.dims<["m", "n"]>})
      -> (tensor<?xi64> {dsc.name = "r0", dsc.dims = #dsc.dims<["m"]>}, tensor<?xi64> {dsc.name = "r1", dsc.dims = #dsc.dims<["m"]>}, tensor<?xi64> {dsc.name = "r2", dsc.dims = #dsc.dims<["m"]>}) {
    %v0 = dsc.dim "m" : index
    %v1 = dsc.dim "n" : index
    %v2 = arith.constant 0 : i64
    %v3 = tensor.empty(%v0) : tensor<?xi64>
    %v4 = linalg.fill ins(%v2 : i64) outs(%v3 : tensor<?xi64>) -> tensor<?xi64>
    %v5 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (-1)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x?xi64>) outs(%v4 : tensor<?xi64>) {
    ^bb0(%a0: i64, %o: i64):
      %r = arith.addi %o, %a0 : i64
      linalg.yield %r : i64
    } -> tensor<?xi64>
    %v6 = arith.constant -9223372036854775808 : i64
    %v7 = tensor.empty(%v0) : tensor<?xi64>
    %v8 = linalg.fill ins(%v6 : i64) outs(%v7 : tensor<?xi64>) -> tensor<?xi64>
    %v9 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x?xi64>) outs(%v8 : tensor<?xi64>) {
    ^bb0(%a0: i64, %o: i64):
      %r = arith.maxsi %o, %a0 : i64
      linalg.yield %r : i64
    } -> tensor<?xi64>
    %v10 = arith.constant 0 : i64
    %v11 = tensor.empty(%v0) : tensor<?xi64>
    %v12 = linalg.fill ins(%v10 : i64) outs(%v11 : tensor<?xi64>) -> tensor<?xi64>
    %v13 = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0)>], iterator_types = ["parallel", "reduction"]} ins(%x : tensor<?x?xi64>) outs(%v12 : tensor<?xi64>) {
    ^bb0(%a0: i64, %o: i64):
      %r = arith.ori %o, %a0 : i64
      linalg.yield %r : i64
    } -> tensor<?xi64>
    return %v5, %v9, %v13 : tensor<?xi64>, tensor<?xi64>, tensor<?xi64>
  }
}
