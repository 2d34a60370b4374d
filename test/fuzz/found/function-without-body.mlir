func.func private @workgroup(%x: tensor<4x8xf32>, %w: tensor<8x64xf32>) -> tensor<4x64xf32>
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
