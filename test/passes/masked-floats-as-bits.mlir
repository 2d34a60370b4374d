// RUN: dsc-opt %s --dsc-masked-floats-as-bits | FileCheck %s

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
