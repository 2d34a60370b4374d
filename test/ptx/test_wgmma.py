"""wgmma against numpy for its sizes, swizzles and majors; shared memory is filled by threads as the layouts say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ptx import PtxError
from ptx.snippets import kernel

R = np.random.default_rng(7)
BF16 = np.dtype(ml_dtypes.bfloat16)
TYPES = {
    "bf16": BF16,
    "f16": np.dtype(np.float16),
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "s8": np.dtype(np.int8),
}
MODES = {0: 0, 128: 1, 64: 2, 32: 3}
MODULE = ".shared .align 1024 .b8 sh[{size}];"
# Copies `size` bytes of `image`, shared memory as it should look, and makes them visible to wgmma.
FILL = """mov.u32 %r1, %tid.x; mov.u32 %r2, sh; ld.param.u64 %d1, [image]; mov.u32 %r3, %r1;
FILL: setp.ge.u32 %p1, %r3, {words}; @%p1 bra FILLED; shl.b32 %r4, %r3, 2; add.u32 %r5, %r2, %r4; cvt.u64.u32 %d2, %r4;
add.u64 %d2, %d1, %d2; ld.global.b32 %r6, [%d2]; st.shared.b32 [%r5], %r6; add.u32 %r3, %r3, 128; bra FILL;
FILLED: {fence} bar.sync 0;"""


def place(matrix: np.ndarray, swizzle: int, mn_major: bool) -> tuple[bytes, int, int]:
    """Bytes of [rows, k] in shared memory at a 1 KiB boundary, and the leading and stride byte offsets.

    Written element by element from the PTX ISA's description: the matrix is cut into tiles of 8 rows (of k columns where
    it is MN-major) by `swizzle` bytes, rows of a tile follow each other, 16-byte chunks are XORed with the row number.
    """
    rows, k = matrix.shape
    lines = matrix.T if mn_major else matrix  # contiguous along the last axis
    size = matrix.itemsize
    width = max(swizzle, 16)
    per = width // size
    tiles = -(-lines.shape[1] // per)
    high = lines.shape[0] // 8
    tile = 8 * width
    out = bytearray(tile * high * tiles)
    for y in range(lines.shape[0]):
        for x in range(lines.shape[1]):
            column, across, down = x % per, x // per, y // 8
            base = (down * tiles + across) * tile
            offset = y % 8 * width + column * size
            address = base + offset
            address ^= (address >> 7 & {0: 0, 32: 1, 64: 3, 128: 7}[swizzle]) << 4
            out[address : address + size] = lines[y, x].tobytes()
    across, down = tile, tile * tiles
    if not swizzle:
        return bytes(out), (down if mn_major else across), (across if mn_major else down)
    return bytes(out), across, down


def descriptor(start: int, leading: int, stride: int, swizzle: int) -> int:
    return (start & 0x3FFFF) >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | MODES[swizzle] << 62


def accumulators(n: int) -> str:
    return "{" + ", ".join(f"%f{i}" for i in range(n // 2)) + "}"


def store(n: int) -> str:
    """Stores D (64 x n) as the ISA draws it: lane's row, pairs of columns, 8 apart."""
    lines = [
        "ld.param.u64 %d10, [d]; shr.u32 %r10, %r1, 5; and.b32 %r11, %r1, 31; shr.u32 %r12, %r11, 2; and.b32 %r13, %r11, 3;"
    ]
    lines += [f"mad.lo.u32 %r14, %r10, 16, %r12; mul.lo.u32 %r14, %r14, {4 * n}; mad.lo.u32 %r14, %r13, 8, %r14;"]
    lines += ["cvt.u64.u32 %d11, %r14; add.u64 %d10, %d10, %d11;"]
    for i in range(0, n // 2, 2):
        offset = i // 4 * 32 + i // 2 % 2 * 8 * 4 * n
        lines.append(f"st.global.v2.b32 [%d10+{offset}], {{%f{i}, %f{i + 1}}};")
    return "\n".join([*lines, "ret;"])


def run(
    a,
    b,
    kind,
    n,
    swizzles=(128, 128),
    majors=(False, False),
    after="wgmma.wait_group.sync.aligned 0;",
    fence=True,
    wrong=0,
    **checks,
):
    k = a.shape[1]
    left, *a_offsets = place(a, swizzles[0], majors[0])
    left = left.ljust(-(-len(left) // 1024) * 1024, b"\0")
    right, *b_offsets = place(b, swizzles[1], majors[1])
    image = np.frombuffer(left + right, np.uint8)
    d = np.zeros((64, n), np.int32 if kind == "s8" else np.float32)
    whole = kind == "s8"
    out, file = ("s32", "%r1") if whole else ("f32", "%f")
    regs = "{" + ", ".join(f"{file}{i:02d}" if whole else f"{file}{i}" for i in range(n // 2)) + "}"
    da, db = descriptor(0, *a_offsets, swizzles[0]), descriptor(0, *b_offsets, wrong or swizzles[1])
    trans = f", {int(majors[0])}, {int(majors[1])}" if a.itemsize == 2 else ""
    scales = "" if whole else ", 1, 1"
    start = f"shr.u32 %r7, %r2, 4; cvt.u64.u32 %d3, %r7; mov.b64 %d4, {da}; add.u64 %d4, %d4, %d3; mov.b64 %d5, {db}; \
        add.u64 %d5, %d5, %d3; add.u64 %d5, %d5, {len(left) // 16}; setp.ne.b32 %p2, 0, 0;"
    body = FILL.format(words=len(image) // 4, fence="fence.proxy.async.shared::cta;" if fence else "") + start
    body += f"""wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k{k}.{out}.{kind}.{kind} {regs}, %d4, %d5, %p2{scales}{trans};
    wgmma.commit_group.sync.aligned; {after}"""
    if whole:
        body += integer_store(n)
    else:
        body += store(n)
    kernel(body, "u64 image, u64 d", MODULE.format(size=len(image) + 4096)).launch(1, 128, [image.copy(), d], **checks)
    return d


def integer_store(n: int) -> str:
    text = store(n)
    for old, new in (("%r10", "%r50"), ("%r11", "%r51"), ("%r12", "%r52"), ("%r13", "%r53"), ("%r14", "%r54")):
        text = text.replace(old, new)
    for i in reversed(range(n // 2)):
        text = text.replace(f"%f{i},", f"%r1{i:02d},").replace(f"%f{i}}}", f"%r1{i:02d}}}")
    return text


def operands(n: int, kind: str = "bf16") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    dtype = TYPES[kind]
    k = 32 // dtype.itemsize
    if kind == "s8":
        a, b = (R.integers(-128, 128, (rows, k)).astype(np.int8) for rows in (64, n))
    else:
        a, b = (R.normal(size=(rows, k)).astype(dtype) for rows in (64, n))
    return a, b, a.astype(np.float64) @ b.astype(np.float64).T


@pytest.mark.parametrize("n", [8, 64, 128, 256])
@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
def test_k_major(n, swizzle):
    a, b, want = operands(n)
    # Only 32 bytes of k are multiplied: wider tiles have something else behind them.
    wide = max(swizzle, 32) // 2
    filler = [np.concatenate([m, R.normal(size=(len(m), wide - 16)).astype(BF16)], 1) for m in (a, b)]
    if swizzle <= 32:
        got = run(a, b, "bf16", n, (swizzle, swizzle))
    else:
        got = run_wide(*filler, n, swizzle)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def run_wide(a, b, n, swizzle):
    """As `run`, with tiles wider than the 16 columns that one wgmma takes."""
    left, _, a_stride = place(a, swizzle, False)
    left = left.ljust(-(-len(left) // 1024) * 1024, b"\0")
    right, _, b_stride = place(b, swizzle, False)
    return launch_bf16(left, right, descriptor(0, 16, a_stride, swizzle), descriptor(0, 16, b_stride, swizzle), n)


def launch_bf16(left: bytes, right: bytes, da: int, db: int, n: int, trans: str = "0, 0", advance: int = 0):
    image = np.frombuffer(left + right, np.uint8)
    d = np.zeros((64, n), np.float32)
    body = FILL.format(words=len(image) // 4, fence="fence.proxy.async.shared::cta;")
    body += f"""shr.u32 %r7, %r2, 4; cvt.u64.u32 %d3, %r7; mov.b64 %d4, {da + advance // 16}; add.u64 %d4, %d4, %d3;
    mov.b64 %d5, {db + advance // 16}; add.u64 %d5, %d5, %d3; add.u64 %d5, %d5, {len(left) // 16}; setp.ne.b32 %p2, 0, 0;
    wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {accumulators(n)}, %d4, %d5, %p2, 1, 1, {trans};
    wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;""" + store(n)
    kernel(body, "u64 image, u64 d", MODULE.format(size=len(image))).launch(1, 128, [image.copy(), d])
    return d


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_advancing_along_k_inside_a_swizzled_tile(step):
    """The start address moves by 32 bytes in a tile of 128: the XOR is on addresses, so that works."""
    a, b = (R.normal(size=(rows, 64)).astype(BF16) for rows in (64, 64))
    left, _, a_stride = place(a, 128, False)
    right, _, b_stride = place(b, 128, False)
    got = launch_bf16(
        left, right, descriptor(0, 16, a_stride, 128), descriptor(0, 16, b_stride, 128), 64, advance=32 * step
    )
    part = slice(16 * step, 16 * step + 16)
    np.testing.assert_allclose(
        got, a[:, part].astype(np.float64) @ b[:, part].astype(np.float64).T, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
@pytest.mark.parametrize("majors", [(True, False), (False, True), (True, True)])
def test_mn_major(swizzle, majors):
    n = 128
    a, b, want = operands(n)
    k_swizzle = 32
    got = run(a, b, "bf16", n, tuple(swizzle if mn else k_swizzle for mn in majors), majors)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["f16", "e4m3", "e5m2", "s8"])
def test_types(kind):
    a, b, want = operands(64, kind)
    got = run(a, b, kind, 64, (32, 32))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)


def test_a_wrong_swizzle_gives_wrong_values():
    a, b, want = operands(64)
    got = run(a, b, "bf16", 64, (32, 32), wrong=64, check_races=False)
    assert not np.allclose(got, want, rtol=1e-2, atol=1e-2)


def test_accumulators_read_before_the_wait():
    a, b, want = operands(64)
    for after in ("", "wgmma.wait_group.sync.aligned 1;"):
        with pytest.raises(PtxError, match=r"st.global.*%f0 belongs to the wgmma of line \d+"):
            run(a, b, "bf16", 64, (32, 32), after=after)
    np.testing.assert_allclose(
        run(a, b, "bf16", 64, (32, 32), after="", check_accumulators=False), want, rtol=1e-6, atol=1e-6
    )


def test_missing_register_fence():
    a, b, _ = operands(64)
    again = "wgmma.wait_group.sync.aligned 0; add.f32 %f3, %f3, %f3; {} \
        wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {}, %d4, %d5, %p2, 1, 1, 0, 0; \
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
    run(
        a, b, "bf16", 64, (32, 32), after=again.format("wgmma.fence.sync.aligned;", accumulators(64)), check_fences=True
    )
    with pytest.raises(PtxError, match="%f3 was used by other instructions, and no wgmma.fence"):
        run(a, b, "bf16", 64, (32, 32), after=again.format("", accumulators(64)), check_fences=True)


def test_missing_proxy_fence():
    a, b, _ = operands(64)
    with pytest.raises(
        PtxError, match="wgmma of warpgroup 0 reads what was written by warp . at line .* without a fence.proxy"
    ):
        run(a, b, "bf16", 64, (32, 32), fence=False)


def test_overwriting_operands_before_the_wait():
    a, b, _ = operands(64)
    overwrite = "st.shared.b32 [%r5], %r6;" + "wgmma.wait_group.sync.aligned 0;"
    with pytest.raises(PtxError, match="race .*writes what was read by wgmma of warpgroup 0"):
        run(a, b, "bf16", 64, (32, 32), after="sub.u32 %r5, %r5, 0; " + overwrite)


@pytest.mark.parametrize("scale", [0, 1])
def test_a_in_registers_and_accumulation(scale):
    """Fragments of A as the ISA draws them; scale-d decides whether the 1 that stood in D is kept; scale-a is -1."""
    n = 64
    a, b, product = operands(n)
    right, *offsets = place(b, 32, False)
    image, d = np.frombuffer(right, np.uint8).copy(), np.zeros((64, n), np.float32)
    body = (
        FILL.format(words=len(image) // 4, fence="fence.proxy.async;")
        + f"""
    ld.param.u64 %d6, [a]; shr.u32 %r20, %r1, 5; and.b32 %r21, %r1, 31; shr.u32 %r22, %r21, 2; and.b32 %r23, %r21, 3;
    mad.lo.u32 %r24, %r20, 16, %r22; mul.lo.u32 %r24, %r24, 32; mad.lo.u32 %r24, %r23, 4, %r24; cvt.u64.u32 %d7, %r24;
    add.u64 %d6, %d6, %d7; ld.global.b32 %r30, [%d6]; ld.global.b32 %r31, [%d6+256]; ld.global.b32 %r32, [%d6+16];
    ld.global.b32 %r33, [%d6+272]; shr.u32 %r7, %r2, 4; cvt.u64.u32 %d3, %r7;
    mov.b64 %d5, {descriptor(0, *offsets, 32)}; add.u64 %d5, %d5, %d3;
    {" ".join(f"mov.f32 %f{i}, 0f3F800000;" for i in range(n // 2))} setp.ne.b32 %p2, {scale}, 0; wgmma.fence.sync.aligned;
    wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {accumulators(n)}, {{%r30, %r31, %r32, %r33}}, %d5, %p2, -1, 1, 0;
    wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"""
        + store(n)
    )
    kernel(body, "u64 image, u64 a, u64 d", MODULE.format(size=len(image))).launch(1, 128, [image, a, d])
    np.testing.assert_allclose(d, scale - product, rtol=1e-6, atol=1e-6)
