"""mbarriers, bulk copies and tensor maps; at the end a warp-specialised matrix product through a ring of tiles."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ptx import PtxError, TensorMap
from ptx.snippets import kernel
from ptx.test_wgmma import accumulators, store

R = np.random.default_rng(11)
BF16 = np.dtype(ml_dtypes.bfloat16)
MODULE = ".shared .align 1024 .b8 sh[{size}]; .shared .align 8 .b64 full[4]; .shared .align 8 .b64 empty[4];"
START = """mov.u32 %r1, %tid.x; mov.u32 %r2, sh; mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0;
@!%p1 bra READY; mbarrier.init.shared::cta.b64 [%r3], 1; fence.mbarrier_init.release.cluster; READY: bar.sync 0; @!%p1 bra WAIT;"""
WAIT = """WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @%p2 bra GO; bra WAIT;
GO: shl.b32 %r4, %r1, 2; ld.param.u64 %d1, [out];
READ: setp.ge.u32 %p3, %r4, {bytes}; @%p3 bra END; add.u32 %r5, %r2, %r4; ld.shared.u32 %r6, [%r5]; cvt.u64.u32 %d2, %r4;
add.u64 %d2, %d1, %d2; st.global.u32 [%d2], %r6; add.u32 %r4, %r4, 256; bra READ; END: ret;"""
LOAD = "cp.async.bulk.tensor.{rank}d.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%d9, {{{at}}}], [%r3];"
ADDRESS = "mov.b64 %d8, m; cvta.param.u64 %d9, %d8;"


def load_box(tensor: TensorMap, at: list[int], expect: int | None = None, wait: str = WAIT, **checks) -> np.ndarray:
    bytes_ = int(np.prod(tensor.box)) * tensor.array.itemsize
    coordinates = " ".join(f"mov.b32 %r{10 + i}, {c};" for i, c in enumerate(at))
    names = ", ".join(f"%r{10 + i}" for i in range(len(at)))
    body = (
        START
        + ADDRESS
        + coordinates
        + f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], {bytes_ if expect is None else expect};"
    )
    body += LOAD.format(rank=len(at), at=names) + wait.format(bytes=bytes_)
    out = np.zeros(bytes_, np.uint8)
    kernel(body, "map m, u64 out", MODULE.format(size=bytes_)).launch(1, 64, [tensor, out], **checks)
    return out


def box_of(array: np.ndarray, at: list[int], box: tuple[int, ...]) -> np.ndarray:
    """The box with zeros outside of the array; coordinates and box fastest dimension first."""
    out = np.zeros(tuple(reversed(box)), array.dtype)
    for index in np.ndindex(*out.shape):
        place = [i + a for i, a in zip(index, reversed(at))]
        if all(0 <= p < s for p, s in zip(place, array.shape)):
            out[index] = array[tuple(place)]
    return out


def unswizzled(raw: np.ndarray, swizzle: int, size: int = 0) -> np.ndarray:
    """The bytes in order: chunk c of row r (128 bytes of shared memory) was stored at chunk c XOR a part of r."""
    mask = {0: 0, 32: 1, 64: 3, 128: 7}[swizzle]
    chunks = raw.reshape(-1, 16)
    number = np.arange(len(chunks))
    return chunks[number ^ (number // 8 & mask)].reshape(-1)


CASES = [
    ((40, 64), [0, 0], (32, 8)),
    ((40, 64), [48, 36], (32, 8)),  # over both ends
    ((40, 64), [-16, -3], (32, 8)),
    ((3, 20, 48), [16, 15, 1], (32, 8, 4)),
    ((2, 3, 9, 16), [0, 5, -1, 1], (16, 6, 3, 2)),
    ((128,), [96], (64,)),
]


@pytest.mark.parametrize("shape, at, box", CASES)
def test_boxes(shape, at, box):
    array = R.normal(size=shape).astype(np.float32).astype(BF16)
    got = load_box(TensorMap(array, box), at)
    np.testing.assert_array_equal(got.view(BF16).astype(np.float32), box_of(array, at, box).ravel().astype(np.float32))


@pytest.mark.parametrize("swizzle", [32, 64, 128])
def test_swizzles(swizzle):
    array = R.integers(0, 2**16, (50, 80)).astype(np.uint16)
    box = (swizzle // 2, 24)
    raw = load_box(TensorMap(array, box, swizzle), [16, 30])
    want = box_of(array, [16, 30], box).ravel()
    np.testing.assert_array_equal(unswizzled(raw, swizzle).view(np.uint16), want)
    assert not np.array_equal(raw.view(np.uint16), want)


def test_strides_and_element_strides():
    base = np.arange(4000, dtype=np.float32)
    tensor = TensorMap(base, (8, 4, 2), sizes=(8, 6, 3), strides=(80, 1600))
    want = base[np.arange(2)[:, None, None] * 400 + np.arange(1, 5)[:, None] * 20 + np.arange(8)].ravel()
    np.testing.assert_array_equal(load_box(tensor, [0, 1, 0]).view(np.float32), want)
    with pytest.raises(PtxError, match="reaches byte"):
        load_box(TensorMap(base[:100].copy(), (8, 4, 2), sizes=(8, 6, 3), strides=(80, 1600)), [0, 0, 0])


def test_a_wait_that_is_missing():
    array = np.arange(512, dtype=np.float32).reshape(16, 32)
    tensor = TensorMap(array, (32, 8))
    hasty = WAIT.replace("mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @%p2 bra GO; bra WAIT;", "")
    with pytest.raises(PtxError, match="race .*bulk load for mbarrier"):
        load_box(tensor, [0, 0], wait=hasty)
    stale = load_box(tensor, [0, 0], wait=hasty, check_races=False)
    assert (stale == 0xFF).all()
    wrong_parity = WAIT.replace("[%r3], 0;", "[%r3], 1;")
    assert (load_box(tensor, [0, 0], wait=wrong_parity, check_races=False) == 0xFF).all()


def test_deadlock_where_bytes_are_missing():
    tensor = TensorMap(np.zeros((16, 32), np.float32), (32, 8))
    with pytest.raises(PtxError, match=r"deadlock(.|\n)*mbarrier 0x.*phase 0, 0 of 1 arrivals and 16 bytes missing"):
        load_box(tensor, [0, 0], expect=32 * 8 * 4 + 16)


def test_tensor_store_lands_after_its_wait_and_stays_inside():
    out = np.zeros((10, 16), np.float32)
    body = (
        """mov.u32 %r1, %tid.x; mov.u32 %r2, sh; shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; cvt.rn.f32.u32 %f1, %r1;
    st.shared.f32 [%r4], %f1; FENCE bar.sync 0; setp.ne.u32 %p1, %r1, 0; @%p1 bra END;"""
        + ADDRESS
        + """
    mov.b32 %r10, 8; mov.b32 %r11, 8;
    cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d9, {%r10, %r11}], [%r2]; cp.async.bulk.commit_group;
    cp.async.bulk.wait_group.read 0; AFTER END: ret;"""
    )
    text = body.replace("FENCE", "fence.proxy.async.shared::cta;").replace("AFTER", "st.shared.u32 [%r2], %r1;")
    make = lambda code: kernel(code, "map m", MODULE.format(size=256))  # noqa: E731
    make(text).launch(1, 64, [TensorMap(out, (16, 4))])
    want = np.zeros((10, 16), np.float32)
    want[8:, 8:] = np.arange(64).reshape(4, 16)[:2, :8]
    np.testing.assert_array_equal(out, want)
    with pytest.raises(PtxError, match="without a fence.proxy.async"):
        make(text.replace("fence.proxy.async.shared::cta;", "")).launch(1, 64, [TensorMap(out, (16, 4))])
    with pytest.raises(PtxError, match="what was read by bulk store"):
        make(text.replace("cp.async.bulk.wait_group.read 0;", "")).launch(1, 64, [TensorMap(out, (16, 4))])


def test_plain_bulk_copies():
    a, out = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    body = (
        START
        + """ld.param.u64 %d3, [a]; mbarrier.arrive.expect_tx.shared::cta.b64 %d20, [%r3], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%d3], 256, [%r3];
    WAIT: mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra WAIT; @!%p1 bra END; ld.param.u64 %d4, [out];
    cp.async.bulk.global.shared::cta.bulk_group [%d4], [%r2], 256; cp.async.bulk.commit_group;
    cp.async.bulk.wait_group 0; END: ret;"""
    )
    kernel(body, "u64 a, u64 out", MODULE.format(size=256)).launch(1, 64, [a, out])
    np.testing.assert_array_equal(out, a)


STAGES, TILE_K, M, N = 2, 64, 64, 64
STAGE_BYTES = (M + N) * TILE_K * 2


def product(
    change=lambda text: text, k: int = 7 * TILE_K - 16, rows: int = 150, columns: int = 100, blocks=None, **checks
):
    """C = A B^T by a producer warp (tensor copies) and a consumer warpgroup (wgmma), a ring of two tiles between them."""
    a, b = R.normal(size=(rows, k)).astype(BF16), R.normal(size=(columns, k)).astype(BF16)
    grid = (-(-columns // N), -(-rows // M))
    c = np.zeros((grid[1] * grid[0] * M, N), np.float32)
    swizzle = 1 << 62 | (1024 >> 4) << 32 | 1 << 16
    body = f"""mov.u32 %r1, %tid.x; mov.u32 %r2, sh; mov.u32 %r3, full; mov.u32 %r4, empty; mov.u32 %r5, %ctaid.x; mov.u32 %r6, %ctaid.y;
    shl.b32 %r20, %r5, 6; shl.b32 %r21, %r6, 6;
    setp.ne.u32 %p1, %r1, 0; @%p1 bra INIT_DONE;
    mbarrier.init.shared::cta.b64 [%r3], 1; mbarrier.init.shared::cta.b64 [%r3+8], 1;
    mbarrier.init.shared::cta.b64 [%r4], 128; mbarrier.init.shared::cta.b64 [%r4+8], 128; fence.mbarrier_init.release.cluster;
    INIT_DONE: bar.sync 0; mov.u32 %r22, 0; setp.lt.u32 %p2, %r1, 128; @%p2 bra CONSUMER;
    setmaxnreg.dec.sync.aligned.u32 24; setp.ne.u32 %p3, %r1, 128; @%p3 bra END;
    mov.b64 %d8, ma; cvta.param.u64 %d9, %d8; mov.b64 %d8, mb; cvta.param.u64 %d10, %d8;
    PRODUCE: and.b32 %r23, %r22, 1; shr.u32 %r24, %r22, 1; and.b32 %r24, %r24, 1; xor.b32 %r24, %r24, 1; shl.b32 %r25, %r23, 3;
    add.u32 %r26, %r3, %r25; add.u32 %r27, %r4, %r25; mad.lo.u32 %r28, %r23, {STAGE_BYTES}, %r2; add.u32 %r29, %r28, {M * TILE_K * 2};
    {{ .reg .pred P; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 P, [%r27], %r24, 0x989680; @P bra.uni GO; bra.uni AGAIN; GO: }}
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r26], {STAGE_BYTES}; shl.b32 %r30, %r22, 6;
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r28], [%d9, {{%r30, %r21}}], [%r26];
    cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%r29], [%d10, {{%r30, %r20}}], [%r26];
    add.u32 %r22, %r22, 1; setp.lt.u32 %p4, %r22, {-(-k // TILE_K)}; @%p4 bra PRODUCE; bra END;
    CONSUMER: setmaxnreg.inc.sync.aligned.u32 240;
    {" ".join(f"mov.f32 %f{i}, 0f00000000;" for i in range(N // 2))}
    CONSUME: and.b32 %r23, %r22, 1; shr.u32 %r24, %r22, 1; and.b32 %r24, %r24, 1; shl.b32 %r25, %r23, 3; add.u32 %r26, %r3, %r25;
    add.u32 %r27, %r4, %r25; mad.lo.u32 %r28, %r23, {STAGE_BYTES}, %r2;
    {{ .reg .pred P; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 P, [%r26], %r24; @P bra.uni GO; bra.uni AGAIN; GO: }}
    shr.u32 %r31, %r28, 4; cvt.u64.u32 %d3, %r31; mov.b64 %d4, {swizzle}; add.u64 %d4, %d4, %d3; add.u64 %d5, %d4, {M * TILE_K * 2 // 16};
    setp.ne.b32 %p5, 1, 0; wgmma.fence.sync.aligned;
    """
    for _ in range(TILE_K // 16):
        body += f"""wgmma.mma_async.sync.aligned.m64n{N}k16.f32.bf16.bf16 {accumulators(N)}, %d4, %d5, %p5, 1, 1, 0, 0;
        add.u64 %d4, %d4, 2; add.u64 %d5, %d5, 2;"""
    body += f"""wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
    mbarrier.arrive.shared::cta.b64 _, [%r27]; add.u32 %r22, %r22, 1; setp.lt.u32 %p4, %r22, {-(-k // TILE_K)}; @%p4 bra CONSUME;
    mov.u32 %r32, %nctaid.x; mad.lo.u32 %r33, %r6, %r32, %r5; """
    tail = store(N).replace(
        "ld.param.u64 %d10, [d];",
        f"ld.param.u64 %d10, [d]; mul.wide.u32 %d12, %r33, {M * N * 4}; add.u64 %d10, %d10, %d12;",
    )
    body += tail.replace("ret;", "END: ret;")
    maps = [TensorMap(m, (TILE_K, 64), 128) for m in (a, b)]
    size = STAGES * STAGE_BYTES
    kernel(change(body), "map ma, map mb, u64 d", MODULE.format(size=size)).launch(grid, 160, [*maps, c], **checks)
    tiles = c.reshape(grid[1], grid[0], M, N).transpose(0, 2, 1, 3).reshape(grid[1] * M, grid[0] * N)
    return tiles[:rows, :columns], a.astype(np.float64) @ b.astype(np.float64).T


def test_warp_specialised_product():
    got, want = product()
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


def test_product_without_a_release_deadlocks():
    with pytest.raises(PtxError, match=r"deadlock(.|\n)*warp 4 wait.*128 of 128 arrivals"):
        product(lambda text: text.replace("mbarrier.arrive.shared::cta.b64 _, [%r27];", ""))


def test_product_that_releases_too_early_is_a_race():
    def early(text: str) -> str:
        text = text.replace("mbarrier.arrive.shared::cta.b64 _, [%r27];", "")
        return text.replace(
            "wgmma.fence.sync.aligned;", "mbarrier.arrive.shared::cta.b64 _, [%r27]; wgmma.fence.sync.aligned;"
        )

    with pytest.raises(
        PtxError,
        match="race .*bulk load for mbarrier .*writes what was read by wgmma|reads what was written by bulk load",
    ):
        product(early)


def test_product_with_another_swizzle_is_wrong():
    got, want = product(
        lambda text: text.replace(
            str(1 << 62 | (1024 >> 4) << 32 | 1 << 16), str(2 << 62 | (1024 >> 4) << 32 | 1 << 16)
        ),
        check_races=False,
    )
    assert not np.allclose(got, want, rtol=1e-1, atol=1e-1)


def test_arrivals_count():
    body = """mov.u32 %r1, %tid.x; mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared.b64 [%r3], 32; bar.sync 0;
    mbarrier.arrive.shared.b64 %d1, [%r3]; WAIT: mbarrier.test_wait.shared.b64 %p2, [%r3], %d1; @!%p2 bra WAIT; MORE ret;"""
    kernel(body.replace("MORE", ""), "", MODULE.format(size=16)).launch(1, 32, [])
    with pytest.raises(PtxError, match="got 32 arrivals|gets 1 arrivals|32 of 32|0 of 32|gets 32 arrivals"):
        kernel(body.replace("], 32;", "], 16;").replace("MORE", ""), "", MODULE.format(size=16)).launch(1, 32, [])
    with pytest.raises(PtxError, match="no mbarrier was initialised"):
        kernel(
            body.replace("mbarrier.init.shared.b64 [%r3], 32", "mov.u32 %r4, 0").replace("MORE", ""),
            "",
            MODULE.format(size=16),
        ).launch(1, 32, [])


@pytest.mark.parametrize("early", [True, False])
def test_what_is_written_after_an_arrival_is_not_ordered_by_it(early):
    """Warp 0 writes before or after it arrives; warp 1 waits for the arrival and reads."""
    write = "st.shared.u32 [%r2], %r1;"
    body = f"""mov.u32 %r1, %tid.x; mov.u32 %r2, sh; mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0;
    @%p1 mbarrier.init.shared.b64 [%r3], 1; bar.sync 0; setp.ge.u32 %p2, %r1, 32; @%p2 bra OTHER; @!%p1 ret;
    {write if early else ""} mbarrier.arrive.shared.b64 _, [%r3]; {"" if early else write} ret;
    OTHER: mbarrier.try_wait.parity.shared.b64 %p3, [%r3], 0; @!%p3 bra OTHER; ld.shared.u32 %r4, [%r2]; ret;"""
    made = kernel(body, "", MODULE.format(size=16))
    if early:
        made.launch(1, 64, [])
        return
    with pytest.raises(PtxError, match="warp 1 reads what was written by warp 0"):
        made.launch(1, 64, [])


def test_copies_arrive_on_an_mbarrier():
    a, out = np.arange(64, dtype=np.uint32), np.zeros(64, np.uint32)
    body = """mov.u32 %r1, %tid.x; mov.u32 %r2, sh; mov.u32 %r3, full; setp.eq.u32 %p1, %r1, 0;
    @%p1 mbarrier.init.shared.b64 [%r3], 64; bar.sync 0; ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r1, 4; add.u64 %d1, %d1, %d2;
    shl.b32 %r4, %r1, 2; add.u32 %r5, %r2, %r4; cp.async.ca.shared.global [%r5], [%d1], 4;
    cp.async.mbarrier.arrive.noinc.shared.b64 [%r3];
    WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%r3], 0; @!%p2 bra WAIT; xor.b32 %r6, %r4, 252; add.u32 %r7, %r2, %r6;
    ld.shared.u32 %r8, [%r7]; ld.param.u64 %d3, [out]; add.u64 %d3, %d3, %d2; st.global.u32 [%d3], %r8; ret;"""
    kernel(body, "u64 a, u64 out", MODULE.format(size=256)).launch(2, 64, [a, out])
    np.testing.assert_array_equal(out, a[::-1])
