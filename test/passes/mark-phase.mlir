// RUN: dsc-opt %s --dsc-mark-phase=phase=fuse | FileCheck %s
// RUN: dsc-opt %s --dsc-mark-phase=phase=fuse --dsc-mark-phase=phase=schedule | FileCheck %s --check-prefix=LATER

// CHECK: module attributes {dsc.phase = "fuse"}
// LATER: module attributes {dsc.phase = "schedule"}
module {}
