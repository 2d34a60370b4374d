"""ldmatrix, stmatrix, movmatrix, cp.async and mma.sync against numpy's product in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ptx import PtxError
from ptx.snippets import kernel

R = np.random.default_rng(3)
TYPES = {
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "s8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


def random(shape, dtype: np.dtype) -> np.ndarray:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return R.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return R.normal(size=shape).astype(dtype)


def registers(name: str, count: int, start: int = 0) -> str:
    return "{" + ", ".join(f"{name}{start + i}" for i in range(count)) + "}"


def fragments(k: int, size: int) -> str:
    """Loads A (row major, 16 x k) into %r10.. and B (k x 8, stored as 8 x k) into %r20.. the way the ISA draws them."""
    lines = ["mov.u32 %r1, %laneid; shr.u32 %r2, %r1, 2; and.b32 %r3, %r1, 3;"]  # groupID, threadID_in_group
    lines += ["ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b];"]
    lines += [f"mul.lo.u32 %r4, %r2, {k * size}; shl.b32 %r5, %r3, 2; add.u32 %r4, %r4, %r5; cvt.u64.u32 %d3, %r4;"]
    lines += ["add.u64 %d1, %d1, %d3; add.u64 %d2, %d2, %d3;"]
    for i in range(k * size // 8):  # rows g, g + 8, then the next 16 bytes of columns
        lines.append(f"ld.global.b32 %r{10 + i}, [%d1+{i % 2 * 8 * k * size + i // 2 * 16}];")
    lines += [f"ld.global.b32 %r{20 + i}, [%d2+{i * 16}];" for i in range(k * size // 16)]
    return "\n".join(lines)


STORE_D = """ld.param.u64 %d4, [c]; shl.b32 %r6, %r2, 5; shl.b32 %r7, %r3, 3; add.u32 %r6, %r6, %r7; cvt.u64.u32 %d5, %r6;
add.u64 %d4, %d4, %d5;"""


@pytest.mark.parametrize(
    "kind, k",
    [
        ("f16", 8),
        ("f16", 16),
        ("bf16", 8),
        ("bf16", 16),
        ("s8", 16),
        ("s8", 32),
        ("u8", 32),
        ("e4m3", 32),
        ("e5m2", 32),
    ],
)
def test_mma(kind, k):
    dtype = TYPES[kind]
    size = dtype.itemsize
    a, b = random((16, k), dtype), random((8, k), dtype)
    whole = kind in ("s8", "u8")
    c = R.integers(-1000, 1000, (16, 8)).astype(np.int32) if whole else R.normal(size=(16, 8)).astype(np.float32)
    want = a.astype(np.float64) @ b.astype(np.float64).T + c
    out = "s32" if whole else "f32"
    na, nb = k * size // 8, k * size // 16
    files = registers("%r", 4, 30) if whole else registers("%f", 4, 30)
    ra = registers("%r", na, 10)
    rb = registers("%r", nb, 20)
    v = "%r" if whole else "%f"
    body = f"""{fragments(k, size)} {STORE_D}
    ld.global.v2.{out} {{{v}30, {v}31}}, [%d4]; ld.global.v2.{out} {{{v}32, {v}33}}, [%d4+256];
    mma.sync.aligned.m16n8k{k}.row.col.{out}.{kind}.{kind}.{out} {files}, {ra}, {rb}, {files};
    st.global.v2.{out} [%d4], {{{v}30, {v}31}}; st.global.v2.{out} [%d4+256], {{{v}32, {v}33}}; ret;"""
    kernel(body, "u64 a, u64 b, u64 c", target="sm_90a").launch(1, 32, [a, b, c])
    if whole:
        np.testing.assert_array_equal(c, want)
    else:
        np.testing.assert_allclose(c, want, rtol=1e-6, atol=1e-6)


def test_mma_with_f16_accumulators():
    a, b = random((16, 16), TYPES["f16"]), random((8, 16), TYPES["f16"])
    c = np.zeros((16, 8), np.float16)
    body = f"""{fragments(16, 2)} mov.b32 %r30, 0; mov.b32 %r31, 0;
    mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {{%r30, %r31}}, {registers("%r", 4, 10)}, {registers("%r", 2, 20)}, {{%r30, %r31}};
    ld.param.u64 %d4, [c]; shl.b32 %r6, %r1, 2; cvt.u64.u32 %d5, %r6; add.u64 %d4, %d4, %d5;
    st.global.b32 [%d4], %r30; st.global.b32 [%d4+128], %r31; ret;"""
    kernel(body, "u64 a, u64 b, u64 c").launch(1, 32, [a, b, c])
    want = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_array_equal(c, want.astype(np.float16))


SHARED = ".shared .align 128 .b8 sh[4096];"
COPY_IN = """mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r1, 16; add.u64 %d1, %d1, %d2;
mov.u32 %r2, sh; shl.b32 %r3, %r1, 4; add.u32 %r4, %r2, %r3;
cp.async.cg.shared.global [%r4], [%d1], 16; cp.async.commit_group; {wait} bar.sync 0;"""


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count, trans):
    """Lane 4r + c gets elements 2c, 2c + 1 of row r of each matrix; transposed, of column r."""
    a = np.arange(4 * 64, dtype=np.uint16)
    out = np.zeros((count, 32, 2), np.uint16)
    mods = f"m8n8.x{count}{'.trans' if trans else ''}.shared.b16"
    lines = [COPY_IN.format(wait="cp.async.wait_group 0;")]
    lines += [f"ldmatrix.sync.aligned.{mods} {registers('%r', count, 10)}, [%r4];", "ld.param.u64 %d3, [out];"]
    lines += ["mul.wide.u32 %d4, %r1, 4; add.u64 %d3, %d3, %d4;"]
    lines += [f"st.global.b32 [%d3+{128 * i}], %r{10 + i};" for i in range(count)]
    kernel("\n".join([*lines, "ret;"]), "u64 a, u64 out", SHARED).launch(1, 32, [a, out])
    matrices = a.reshape(4, 8, 8)[:count]
    want = matrices.transpose(0, 2, 1) if trans else matrices
    np.testing.assert_array_equal(out, want.reshape(count, 32, 2))


def test_stmatrix_undoes_ldmatrix():
    a, out = np.arange(256, dtype=np.uint16), np.zeros(256, np.uint16)
    for trans in ("", ".trans"):
        body = (
            COPY_IN.format(wait="cp.async.wait_all;")
            + f"""
        ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {registers("%r", 4, 10)}, [%r4];
        stmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 [%r4+1024], {registers("%r", 4, 10)};
        ld.shared.v4.b32 {registers("%r", 4, 20)}, [%r4+1024];
        ld.param.u64 %d3, [out]; add.u64 %d3, %d3, %d2; st.global.v4.b32 [%d3], {registers("%r", 4, 20)}; ret;"""
        )
        out[:] = 0
        kernel(body, "u64 a, u64 out", SHARED).launch(1, 32, [a, out])
        np.testing.assert_array_equal(out, a)


def test_movmatrix_transposes():
    out = np.zeros((8, 8), np.uint16)
    a = np.arange(64, dtype=np.uint16)
    body = """mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; ld.param.u64 %d3, [out]; mul.wide.u32 %d2, %r1, 4;
    add.u64 %d1, %d1, %d2; add.u64 %d3, %d3, %d2; ld.global.b32 %r2, [%d1];
    movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r2; st.global.b32 [%d3], %r3; ret;"""
    kernel(body, "u64 a, u64 out").launch(1, 32, [a, out])
    np.testing.assert_array_equal(out, a.reshape(8, 8).T)


READ_BACK = """ld.shared.u32 %r9, [%r4]; ld.param.u64 %d3, [out]; mul.wide.u32 %d4, %r1, 4; add.u64 %d3, %d3, %d4;
st.global.u32 [%d3], %r9; ret;"""


def test_copies_land_when_they_are_waited_for():
    a, out = np.arange(128, dtype=np.uint32), np.zeros(32, np.uint32)
    kernel(COPY_IN.format(wait="cp.async.wait_group 0;") + READ_BACK, "u64 a, u64 out", SHARED).launch(1, 32, [a, out])
    np.testing.assert_array_equal(out, a[::4])
    for wait in ("", "cp.async.wait_group 1;"):
        stale = kernel(COPY_IN.format(wait=wait) + READ_BACK, "u64 a, u64 out", SHARED)
        with pytest.raises(PtxError, match="race .*cp.async of warp 0"):
            stale.launch(1, 32, [a, out])
        stale.launch(1, 32, [a, out], check_races=False)
        np.testing.assert_array_equal(out, np.full(32, 0xFFFFFFFF))


def test_copies_fill_with_zeros():
    a, out = np.arange(1, 129, dtype=np.uint32), np.zeros(32, np.uint32)
    body = (
        """mov.u32 %r1, %tid.x; ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2;
    mov.u32 %r2, sh; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; setp.lt.u32 %p1, %r1, 10; selp.u32 %r5, 4, 0, %p1;
    cp.async.ca.shared.global [%r4], [%d1], 4, %r5; cp.async.wait_all;"""
        + READ_BACK
    )
    kernel(body, "u64 a, u64 out", SHARED).launch(1, 32, [a[:10].copy(), out])  # what is not read may lie outside
    np.testing.assert_array_equal(out, np.where(np.arange(32) < 10, a[:32], 0))


def test_mma_needs_the_whole_warp():
    body = "mov.u32 %r1, %laneid; setp.lt.u32 %p1, %r1, 16; @%p1 bra SKIP; " + (
        f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {registers('%f', 4)}, {{%r1, %r2}}, {{%r3}}, {registers('%f', 4)};"
        "SKIP: bar.sync 0; ret;"
    )
    with pytest.raises(PtxError, match="deadlock(.|\n)*other lanes, line"):
        kernel(body).launch(1, 32, [])
