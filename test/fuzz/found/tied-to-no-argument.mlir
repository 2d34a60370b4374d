module {
  func.func @main(
      %k: tensor<?x?x3x16xf32> {dsc.name = "k", dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
      %v: tensor<?x?x3x16xf32> {dsc.name = "v", dsc.dims = #dsc.dims<["b", "s", "_", "_"]>},
      %cache: tensor<?x2x3x?x16xf32> {dsc.name = "cache", dsc.dims = #dsc.dims<["b", "_", "_", "c", "_"]>},
      %positions: tensor<?xi32> {dsc.name = "positions", dsc.dims = #dsc.dims<["b"]>})
      -> (tensor<?x2x3x?x16xf32> {dsc.name = "r0", dsc.dims = #dsc.dims<["b", "_", "_", "c", "_"]>, dsc.tied = -1 : i64}) {
    %v3 = dsc.kv_append %k, %v into %cache at %positions : (tensor<?x?x3x16xf32>, tensor<?x?x3x16xf32>, tensor<?x2x3x?x16xf32>, tensor<?xi32>) -> tensor<?x2x3x?x16xf32>
    return %v3 : tensor<?x2x3x?x16xf32>
  }
}
