module attributes {dsc.phase = "llvm", dsc.symbols = [], dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64", features = "", vector_bytes = 16, vector_registers = 16>} {
  llvm.func @dsc_main() {
    llvm.return
  }
}
