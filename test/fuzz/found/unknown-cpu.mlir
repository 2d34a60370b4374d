module attributes {dsc.phase = "llvm", dsc.symbols = [], dsc.manifest = {dispatches = [], features = [], init, main = {args = [], results = []}, statistics = {dispatches = 0 : i64}, symbols = [], target = "cpu", version = 1 : i64}, dsc.target = #dsc.target<"cpu", triple = "x86_64-unknown-linux-gnu", cpu = "x86", features = "", vector_bytes = 16, vector_registers = 16>} {
  llvm.func @dsc_main() {
    llvm.return
  }
}
