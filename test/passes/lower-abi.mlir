// RUN: dsc-opt %s --dsc-lower-abi | FileCheck %s

// CHECK: llvm.func @dsc_rt_launch(!llvm.ptr, !llvm.ptr, !llvm.ptr, !llvm.ptr, i64, i32)
// CHECK: llvm.func @dsc_rt_defer(!llvm.ptr, !llvm.ptr, !llvm.ptr, i32, !llvm.ptr, i64, i32)
// CHECK: llvm.func @dsc_rt_arena(!llvm.ptr, i64) -> !llvm.ptr
module attributes {dsc.symbols = ["n", "m"]} {
  // Buffers are found by number, sizes by the place of their symbol; what is dynamic is computed from them.
  // CHECK-LABEL: llvm.func internal @k(
  // CHECK-SAME: %[[BUFFERS:[^:]*]]: !llvm.ptr, %[[DIMS:[^:]*]]: !llvm.ptr, %[[FIRST:[^:]*]]: i64, %{{[^:]*}}: i64) attributes {dsc.kernel{{.*}}} {
  // CHECK: %[[N_AT:.*]] = llvm.getelementptr %[[DIMS]][0] : (!llvm.ptr) -> !llvm.ptr, i64
  // CHECK: llvm.load %[[N_AT]] : !llvm.ptr -> i64
  // CHECK: %[[M_AT:.*]] = llvm.getelementptr %[[DIMS]][1] : (!llvm.ptr) -> !llvm.ptr, i64
  // CHECK: llvm.load %[[M_AT]] : !llvm.ptr -> i64
  // CHECK: %[[X_AT:.*]] = llvm.getelementptr %[[BUFFERS]][0] : (!llvm.ptr) -> !llvm.ptr, !llvm.ptr
  // CHECK: llvm.load %[[X_AT]] : !llvm.ptr -> !llvm.ptr
  // CHECK: arith.muli %{{.*}}, %{{.*}} : index
  // CHECK: builtin.unrealized_conversion_cast %[[FIRST]] : i64 to index
  // CHECK: llvm.return
  func.func private @k(%x: memref<?xf32> {dsc.dims = #dsc.dims<["n * m"]>}, %first: index, %last: index) attributes {dsc.kernel} {
    %zero = arith.constant 0.0 : f32
    memref.store %zero, %x[%first] : memref<?xf32>
    return
  }

  // A program takes (rt, buffers, dims) and returns its status; a launch hands the buffers over in an array.
  // CHECK-LABEL: llvm.func @dsc_main(
  // CHECK-SAME: %[[RT:[^:]*]]: !llvm.ptr, %[[BUFFERS:[^:]*]]: !llvm.ptr, %[[DIMS:[^:]*]]: !llvm.ptr) -> i32
  // CHECK: %[[ARRAY:.*]] = llvm.alloca %{{.*}} x !llvm.ptr
  // CHECK: %[[ADDRESS:.*]] = llvm.call @dsc_rt_arena(%[[RT]], %{{.*}}) : (!llvm.ptr, i64) -> !llvm.ptr
  // CHECK: llvm.icmp "ne" %[[ADDRESS]], %{{.*}} : !llvm.ptr
  // CHECK: llvm.store %{{.*}}, %{{.*}} : !llvm.ptr, !llvm.ptr
  // CHECK: %[[COUNT:.*]] = llvm.mlir.constant(1 : i32) : i32
  // CHECK: llvm.call @dsc_rt_defer(%[[RT]], %{{.*}}, %[[ARRAY]], %[[COUNT]], %[[DIMS]], %{{.*}}, %{{.*}})
  // CHECK: %[[K:.*]] = llvm.mlir.addressof @k : !llvm.ptr
  // CHECK: %[[NUMBER:.*]] = llvm.mlir.constant(7 : {{.*}}) : i32
  // CHECK: llvm.call @dsc_rt_launch(%[[RT]], %[[K]], %[[ARRAY]], %[[DIMS]], %{{.*}}, %[[NUMBER]])
  // CHECK: llvm.return %{{.*}} : i32
  // CHECK-NOT: dsc.dim
  // CHECK-NOT: func.func
  func.func @main(%x: memref<?xf32> {dsc.dims = #dsc.dims<["n"]>}) -> i32 {
    %n = dsc.dim "n" : index
    %arena, %ok = dsc.arena %n : memref<?xi8>
    dsc.launch [@k] (%x) workgroups %n {concurrent, dispatch = 6 : i64} : (memref<?xf32>) -> ()
    dsc.launch [@k] (%x) workgroups %n {dispatch = 7 : i64} : (memref<?xf32>) -> ()
    %status = arith.extui %ok : i1 to i32
    return %status : i32
  }

  // CHECK-LABEL: llvm.func @dsc_init(%{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr, %{{.*}}: !llvm.ptr) -> i32
  func.func @init() -> i32 {
    %zero = arith.constant 0 : i32
    return %zero : i32
  }

  // CHECK-LABEL: llvm.func @dsc_main_shapes(
  // CHECK-SAME: %[[DIMS:[^:]*]]: !llvm.ptr, %[[OUT:[^:]*]]: !llvm.ptr) {
  // CHECK: llvm.getelementptr %[[DIMS]][1] : (!llvm.ptr) -> !llvm.ptr, i64
  // CHECK: llvm.insertvalue %[[OUT]],
  // CHECK: memref.store
  // CHECK: llvm.return
  func.func @main_shapes(%out: memref<?xi64>) {
    %c0 = arith.constant 0 : index
    %m = dsc.dim "m" : index
    %size = arith.index_cast %m : index to i64
    memref.store %size, %out[%c0] : memref<?xi64>
    return
  }
}
