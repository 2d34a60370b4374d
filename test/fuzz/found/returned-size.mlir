func.func @promise(%x: tensor<?xf32> {dsc.dims = #dsc.dims<["s"]>}) -> index {
  %s = dsc.dim "s" {max = 2 : i64} : index
  return %s : index
}
