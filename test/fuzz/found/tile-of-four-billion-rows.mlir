
module attributes {dsc.symbols = ["n"]} {
  func.func @main(%x: tensor<?x8xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w0: tensor<8x8xf32>, %w1: tensor<8x8xf32>) -> tensor<?x8xf32> {
    %0 = dsc.dispatch (%x, %w0) schedule <<max_rows = 1, tile = [4294967296, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%a: tensor<?x8xf32>, %b: tensor<8x8xf32>):
      %3 = dsc.matmul %a, %b : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> loc("layers.0")
      dsc.yield %3 : tensor<?x8xf32>
    }
    %1 = dsc.dispatch (%0, %w1) schedule <<max_rows = 1, tile = [1, 32], workgroup = [1, 32]>, <tile = [12, 32], workgroup = [96, 64]>>
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%c: tensor<?x8xf32>, %d: tensor<8x8xf32>):
      %3 = dsc.matmul %c, %d : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> loc("layers.1")
      dsc.yield %3 : tensor<?x8xf32>
    }
    %2 = dsc.dispatch (%1, %w1) schedule <<tile = [2, 32], workgroup = [2, 32]>>
        : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32> {
    ^bb0(%c: tensor<?x8xf32>, %d: tensor<8x8xf32>):
      %3 = dsc.matmul %c, %d : (tensor<?x8xf32>, tensor<8x8xf32>) -> tensor<?x8xf32>
      dsc.yield %3 : tensor<?x8xf32>
    }
    return %2 : tensor<?x8xf32>
  }
}

