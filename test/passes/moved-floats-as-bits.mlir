// RUN: dsc-opt %s --dsc-moved-floats-as-bits | FileCheck %s

// CHECK-LABEL: llvm.func @accesses
llvm.func @accesses(%p: !llvm.ptr, %ps: vector<8x!llvm.ptr>, %m: vector<8xi1>, %x: vector<8xbf16>) {
  // CHECK: %[[X:.*]] = llvm.bitcast %{{.*}} : vector<8xbf16> to vector<8xi16>
  // CHECK: %[[L:.*]] = llvm.intr.masked.load %{{.*}}, %{{.*}}, %[[X]] {{.*}} -> vector<8xi16>
  // CHECK: %[[LF:.*]] = llvm.bitcast %[[L]] : vector<8xi16> to vector<8xbf16>
  %0 = llvm.intr.masked.load %p, %m, %x {alignment = 2 : i32} : (!llvm.ptr, vector<8xi1>, vector<8xbf16>) -> vector<8xbf16>
  // CHECK: llvm.intr.masked.gather {{.*}} -> vector<8xi16>
  %1 = llvm.intr.masked.gather %ps, %m, %0 {alignment = 2 : i32} : (vector<8x!llvm.ptr>, vector<8xi1>, vector<8xbf16>) -> vector<8xbf16>
  // CHECK: llvm.intr.masked.store {{.*}} : vector<8xi16>
  llvm.intr.masked.store %1, %p, %m {alignment = 2 : i32} : vector<8xbf16>, vector<8xi1> into !llvm.ptr
  // CHECK: llvm.intr.masked.scatter {{.*}} : vector<8xi16>
  llvm.intr.masked.scatter %1, %ps, %m {alignment = 2 : i32} : vector<8xbf16>, vector<8xi1> into vector<8x!llvm.ptr>
  llvm.return
}

// CHECK-LABEL: llvm.func @wider
llvm.func @wider(%p: !llvm.ptr, %m: vector<8xi1>, %x: vector<8xf32>) {
  // CHECK-NOT: llvm.bitcast
  %0 = llvm.intr.masked.load %p, %m, %x {alignment = 4 : i32} : (!llvm.ptr, vector<8xi1>, vector<8xf32>) -> vector<8xf32>
  llvm.intr.masked.store %0, %p, %m {alignment = 4 : i32} : vector<8xf32>, vector<8xi1> into !llvm.ptr
  llvm.return
}

// A scalar that goes from block to block, and from there into a vector.
// CHECK-LABEL: llvm.func @scalars
// CHECK: %[[X:.*]] = llvm.load %{{.*}} : !llvm.ptr -> i16
// CHECK-NOT: : bf16)
// CHECK: llvm.cond_br %{{.*}}, ^bb1(%{{.*}} : i16), ^bb2
// CHECK: ^bb1(%{{.*}}: i16):
// CHECK: llvm.insertelement %{{.*}}, %{{.*}}[%{{.*}} : i32] : vector<2xi16>
// CHECK: llvm.shufflevector {{.*}} : vector<2xi16>
// CHECK: llvm.store %{{.*}} : vector<2xi16>, !llvm.ptr
llvm.func @scalars(%p: !llvm.ptr, %c: i1) {
  %x = llvm.load %p : !llvm.ptr -> bf16
  llvm.cond_br %c, ^bb1(%x : bf16), ^bb2
^bb1(%y: bf16):
  %zero = llvm.mlir.constant(0 : i32) : i32
  %none = llvm.mlir.poison : vector<2xbf16>
  %one = llvm.insertelement %y, %none[%zero : i32] : vector<2xbf16>
  %all = llvm.shufflevector %one, %none [0, 0] : vector<2xbf16>
  llvm.store %all, %p : vector<2xbf16>, !llvm.ptr
  llvm.br ^bb2
^bb2:
  llvm.return
}
