// What was chosen goes into a file, for every target; equal kernels are one entry.
// In a folder of its own, so that no path stands in an option: it may hold blanks.
// RUN: rm -rf %t.dir && mkdir -p %t.dir && cd %t.dir
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v3 --dsc-schedule-dispatches=record=recorded.json -o /dev/null
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule record=recorded.json" -o /dev/null
// RUN: FileCheck %s --check-prefix=FILE --input-file=recorded.json
// RUN: sed -e 's/workgroup = .144, 32./workgroup = [48, 64]/' recorded.json > edited.json
// RUN: dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule schedules=edited.json" | FileCheck %s --check-prefix=EDITED
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64-v4 --dsc-schedule-dispatches=schedules=edited.json --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=STATS
// Another target's schedules are not taken.
// RUN: dsc-opt %s --dsc-set-target=target=cpu:x86-64 --dsc-schedule-dispatches=schedules=edited.json --mlir-pass-statistics -o /dev/null 2>&1 | FileCheck %s --check-prefix=NONE

// FILE: "version": 1
// FILE: "target": "#dsc.target<\"cpu:x86-64-v3\"
// FILE: "target": "#dsc.target<\"cpu:x86-64-v4\"
// FILE-NEXT: "kernel": "{{[0-9a-f]+}}",
// FILE-NEXT: "where": "layer/up_proj",
// FILE-NEXT: "op": "dsc.matmul",
// FILE-NEXT: "schedule": "#dsc.schedule<<max_rows = 1, {{.*}}>, <tile = [12, 32], workgroup = [144, 32], stage = [0]>>"
// FILE-NOT: "kernel"
// EDITED: func.func private @matmul_0({{.*}}dsc.schedule = #dsc.variant<tile = [12, 32], workgroup = [48, 64], stage = [0]>
// STATS: (S) 2 from-file
// NONE: (S) 0 from-file

// RUN: not dsc-opt %s --dsc-set-target --dsc-schedule-dispatches=schedules=missing 2>&1 | FileCheck %s --check-prefix=ERR-MISSING
// RUN: echo '{"version": 1, "schedules": [' > cut.json
// RUN: not dsc-opt %s --dsc-set-target --dsc-schedule-dispatches=schedules=cut.json 2>&1 | FileCheck %s --check-prefix=ERR-CUT
// RUN: echo '{"version": 2, "schedules": []}' > version.json
// RUN: not dsc-opt %s --dsc-set-target --dsc-schedule-dispatches=record=version.json 2>&1 | FileCheck %s --check-prefix=ERR-VERSION
// RUN: echo '{"version": 1, "schedules": [{"kernel": "0", "target": "cpu"}]}' > entry.json
// RUN: not dsc-opt %s --dsc-set-target --dsc-schedule-dispatches=schedules=entry.json 2>&1 | FileCheck %s --check-prefix=ERR-ENTRY
// RUN: not dsc-opt %s --dsc-set-target --dsc-schedule-dispatches=record=missing/x.json 2>&1 | FileCheck %s --check-prefix=ERR-WRITE
// RUN: sed -e 's/workgroup = .144, 32./workgroup = [0, 64]/' recorded.json > zero.json
// RUN: not dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule schedules=zero.json" 2>&1 | FileCheck %s --check-prefix=ERR-ZERO
// RUN: sed -e 's/workgroup = .144, 32./workgroup = [144]/' recorded.json > rank.json
// RUN: not dsc-opt %s --dsc-compile="target=cpu:x86-64-v4 to=schedule schedules=rank.json" 2>&1 | FileCheck %s --check-prefix=ERR-RANK

// ERR-MISSING: error: the schedules in missing cannot be used: No such file or directory
// ERR-CUT: error: the schedules in cut.json cannot be used: [2:0, byte={{[0-9]+}}]:
// ERR-VERSION: cannot be used: expected {"version": 1, "schedules": [...]}
// ERR-ENTRY: cannot be used: entry 0 needs a kernel, a target and a schedule as the IR spells them
// ERR-WRITE: error: the schedules cannot be written to missing/x.json:
// ERR-ZERO: error: the schedules in zero.json cannot be used: entry 1 needs
// ERR-RANK: 'dsc.dispatch' op schedule needs 2 tile and 2 workgroup sizes, got: 2 and 1
// ERR-RANK: error: {{.*}}'dsc.dispatch' op got its schedule from rank.json, kernel {{[0-9a-f]+}}

module attributes {dsc.phase = "fuse", dsc.symbols = ["n"]} {
func.func @main(%x: tensor<?x576xf32> {dsc.dims = #dsc.dims<["n", "_"]>}, %w: tensor<576x64xf32>, %v: tensor<576x64xf32>)
    -> (tensor<?x64xf32>, tensor<?x64xf32>) {
  %y = dsc.dispatch (%x, %w) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
  ^bb0(%a: tensor<?x576xf32>, %b: tensor<576x64xf32>):
    %0 = dsc.matmul %a, %b : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    dsc.yield %0 : tensor<?x64xf32>
  } loc("layer/up_proj")
  %z = dsc.dispatch (%x, %v) : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32> {
  ^bb0(%other: tensor<?x576xf32>, %name: tensor<576x64xf32>):
    %0 = dsc.matmul %other, %name : (tensor<?x576xf32>, tensor<576x64xf32>) -> tensor<?x64xf32>
    dsc.yield %0 : tensor<?x64xf32>
  } loc("layer/up_proj")
  return %y, %z : tensor<?x64xf32>, tensor<?x64xf32>
}
}
