"""Divergence, barriers, warp-wide instructions, memory, and what must be reported."""

from __future__ import annotations

import numpy as np
import pytest

from ptx import Kernel, PtxError, Unsupported
from ptx.snippets import elementwise, entry, kernel

STORE = "ld.param.u64 %d1, [out]; mad.wide.u32 %d1, %r1, 4, %d1; st.global.u32 [%d1], %r2; ret;"
TID = "mov.u32 %r1, %tid.x;"


def run(body: str, threads: int, blocks: int = 1, module: str = "", **options) -> np.ndarray:
    """One u32 per thread of all blocks: what the body leaves in %r2."""
    code = f"{TID}\n{body}\nmov.u32 %r90, %ctaid.x; mov.u32 %r91, %ntid.x; mad.lo.s32 %r1, %r90, %r91, %r1;\n{STORE}"
    out = np.zeros(threads * blocks, np.uint32)
    kernel(code, "u64 out", module).launch(blocks, threads, [out], **options)
    return out


def test_if_and_else_meet_again():
    body = """and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra EVEN;
    mul.lo.u32 %r2, %r1, 3; bra JOIN;
    EVEN: add.u32 %r2, %r1, 100;
    JOIN: activemask.b32 %r4; add.u32 %r2, %r2, 1; setp.eq.u32 %p2, %r4, -1; @!%p2 trap;"""
    i = np.arange(64)
    np.testing.assert_array_equal(run(body, 64), np.where(i % 2, i * 3, i + 100) + 1)


def test_loops_with_different_trip_counts():
    body = """mov.u32 %r2, 0; mov.u32 %r3, 0; mov.u32 %r5, %ctaid.x;
    LOOP: setp.ge.u32 %p1, %r3, %r1; @%p1 bra DONE; add.u32 %r2, %r2, %r3; add.u32 %r3, %r3, 1; bra LOOP;
    DONE: mad.lo.u32 %r2, %r5, 1000, %r2;"""
    i = np.arange(96)
    want = np.concatenate([i * (i - 1) // 2 + 1000 * b for b in range(3)])
    np.testing.assert_array_equal(run(body, 96, 3), want)


def test_a_backward_join_is_waited_for_by_warp_wide_instructions():
    """The odd lanes leave through code that stands before the shuffle's, the even ones through code behind it."""
    body = """and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra FAR; bra NEAR;
    MEET: shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; bra OUT;
    NEAR: bra MEET;
    FAR: bra MEET;
    OUT:"""
    np.testing.assert_array_equal(run(body, 32), np.arange(32) ^ 1)


@pytest.mark.parametrize(
    "mode, b, c, source",
    [
        ("bfly", 5, 31, lambda i: i ^ 5),
        ("down", 3, 31, lambda i: np.where(i + 3 < 32, i + 3, i)),
        ("up", 4, 0, lambda i: np.where(i >= 4, i - 4, i)),
        ("idx", 7, 31, lambda i: np.full(32, 7)),
        ("bfly", 3, 0x1C1F, lambda i: i ^ 3),  # groups of 4 lanes
        ("idx", 1, 0x181F, lambda i: i // 8 * 8 + 1),  # groups of 8 lanes
        ("down", 2, 0x181F, lambda i: np.where(i % 8 + 2 < 8, i + 2, i)),
    ],
)
def test_shuffles(mode, b, c, source):
    i = np.arange(32)
    body = f"shfl.sync.{mode}.b32 %r2|%p1, %r1, {b}, {c}, -1; @%p1 add.u32 %r2, %r2, 100;"
    moved = source(i)
    held = {"down": moved != i, "up": moved != i}.get(mode, np.ones(32, bool))
    np.testing.assert_array_equal(run(body, 64), np.concatenate([moved + 100 * held, moved + 32 + 100 * held]))


def test_votes_and_reductions():
    i = np.arange(64)
    three = "rem.u32 %r3, %r1, 3; setp.eq.u32 %p1, %r3, 0;"
    masks = [sum(1 << (k % 32) for k in i[w * 32 : w * 32 + 32] if k % 3 == 0) for w in range(2)]
    np.testing.assert_array_equal(run(f"{three} vote.sync.ballot.b32 %r2, %p1, -1;", 64), np.repeat(masks, 32))
    any_all = f"{three} vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1; \
        selp.u32 %r2, 1, 0, %p2; @%p3 add.u32 %r2, %r2, 2;"
    np.testing.assert_array_equal(run(any_all, 64), np.ones(64))
    sums = np.repeat(i.reshape(2, 32).sum(1), 32)
    np.testing.assert_array_equal(run("redux.sync.add.u32 %r2, %r1, -1;", 64), sums)
    elect = "mov.u32 %r2, 0; elect.sync %r3|%p1, -1; @%p1 mov.u32 %r2, 7;"
    np.testing.assert_array_equal(run(elect, 64), np.where(i % 32 == 0, 7, 0))
    match = "shr.u32 %r3, %r1, 3; match.any.sync.b32 %r2, %r3, -1;"
    np.testing.assert_array_equal(run(match, 32), 0xFF << (i[:32] // 8 * 8))


SHARED = ".shared .align 16 .b8 sh[1024];"
THROUGH_SHARED = """mov.u32 %r10, sh; shl.b32 %r11, %r1, 2; add.u32 %r12, %r10, %r11; st.shared.u32 [%r12], %r1;
    {barrier}
    xor.b32 %r13, %r11, 252; add.u32 %r14, %r10, %r13; ld.shared.u32 %r2, [%r14];"""


def test_barrier_orders_shared_memory():
    body = THROUGH_SHARED.format(barrier="bar.sync 0;")
    np.testing.assert_array_equal(run(body, 64, 5, SHARED), np.tile(np.arange(64) ^ 63, 5))


def test_missing_barrier_is_a_race():
    body = THROUGH_SHARED.format(barrier="bar.warp.sync -1;")
    with pytest.raises(PtxError, match="race on shared memory .*warp [01] reads what was written by warp [01] at line"):
        run(body, 64, 1, SHARED)
    run(body, 64, 1, SHARED, check_races=False)
    # In one warp the lanes are ordered.
    within = body.replace("252", "124")
    np.testing.assert_array_equal(run(within, 32, 1, SHARED), np.arange(32) ^ 31)


def test_overwriting_before_others_have_read_is_a_race():
    body = THROUGH_SHARED.format(barrier="bar.sync 0;") + "st.shared.u32 [%r12], %r2;"
    with pytest.raises(PtxError, match="writes what was read by warp"):
        run(body, 64, 1, SHARED)
    ordered = THROUGH_SHARED.format(barrier="bar.sync 0;") + "bar.sync 0; st.shared.u32 [%r12], %r2;"
    run(ordered, 64, 1, SHARED)


def test_two_threads_that_write_different_values_at_once():
    body = "mov.u32 %r10, sh; st.shared.u32 [%r10], %r1; mov.u32 %r2, 0;"
    with pytest.raises(PtxError, match="two threads write different values"):
        run(body, 32, 1, SHARED)


def test_bytes_of_one_word_by_two_warps_are_no_race():
    body = "mov.u32 %r10, sh; add.u32 %r10, %r10, %r1; st.shared.u8 [%r10+1], %r1; mov.u32 %r2, 0;"
    run(body, 64, 1, SHARED)


def test_named_barriers_and_arrivals():
    """Warp 0 waits for warp 1's arrival at barrier 3; warps 2 and 3 meet at barrier 5."""
    body = """mov.u32 %r10, sh; shl.b32 %r11, %r1, 2; add.u32 %r12, %r10, %r11;
    shr.u32 %r20, %r1, 5; mov.u32 %r2, 0;
    setp.eq.u32 %p1, %r20, 1; setp.eq.u32 %p2, %r20, 0; setp.ge.u32 %p3, %r20, 2;
    st.shared.u32 [%r12], %r1;
    @%p1 bar.arrive 3, 64;
    @%p2 bar.sync 3, 64;
    @%p3 bar.sync 5, 64;
    @%p2 ld.shared.u32 %r2, [%r12+128];
    xor.b32 %r13, %r11, 128; add.u32 %r14, %r10, %r13;
    @%p3 ld.shared.u32 %r2, [%r14];"""
    i = np.arange(128)
    np.testing.assert_array_equal(
        run(body, 128, 2, SHARED), np.tile(np.where(i < 32, i + 32, np.where(i < 64, 0, i ^ 32)), 2)
    )
    with pytest.raises(PtxError, match="race"):
        run(body.replace("@%p2 bar.sync 3, 64;", "@%p2 bar.sync 4, 32;"), 128, 1, SHARED)


def test_barrier_reductions():
    body = "rem.u32 %r3, %r1, 3; setp.eq.u32 %p1, %r3, 0; barrier.cta.red.popc.aligned.all.u32 %r2, 0, %p1;".replace(
        "barrier.cta.red.popc.aligned.all.u32", "bar.red.popc.u32"
    )
    np.testing.assert_array_equal(run(body, 64, 2), np.full(128, 22))


def test_deadlock_names_who_waits_where():
    body = "setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 1, 64; mov.u32 %r2, 0;"
    with pytest.raises(PtxError, match=r"deadlock(.|\n)*block 0 warp 0 wait.*barrier 1 \(32 of 64 threads"):
        run(body, 64)


def test_threads_that_ended_are_not_waited_for():
    body = "setp.ge.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0; mov.u32 %r2, 5;"
    np.testing.assert_array_equal(run(body, 64), np.where(np.arange(64) < 32, 5, 0))


def test_out_of_bounds_names_the_thread_and_the_buffer():
    body = "ld.param.u64 %d1, [out]; mad.wide.u32 %d1, %r1, 4, %d1; st.global.u32 [%d1], %r1; ret;"
    with pytest.raises(
        PtxError, match=r"line \d+: .*st.global.*byte 160 of out, which has 160 bytes.*thread \(40, 0, 0\)"
    ):
        kernel(TID + body, "u64 out").launch(1, 64, [np.zeros(40, np.uint32)])
    with pytest.raises(PtxError, match="byte -4 of out"):
        kernel(TID + body.replace("st.global.u32 [%d1]", "st.global.u32 [%d1+-4]"), "u64 x, u64 out").launch(
            1, 4, [np.zeros(4, np.uint32), np.zeros(4, np.uint32)]
        )
    with pytest.raises(PtxError, match="misaligned"):
        kernel(TID + body.replace("[%d1]", "[%d1+2]"), "u64 out").launch(1, 4, [np.zeros(40, np.uint32)])
    with pytest.raises(PtxError, match="shared memory access out of bounds"):
        run("mov.u32 %r10, sh; ld.shared.u32 %r2, [%r10+1024];", 32, 1, SHARED)


def test_generic_addresses_reach_all_spaces():
    body = """.local .align 16 .b8 depot[64]; mov.u64 %d2, depot; cvta.local.u64 %d3, %d2;
    mov.u64 %d4, sh; cvta.shared.u64 %d5, %d4; mul.wide.u32 %d6, %r1, 4; add.u64 %d5, %d5, %d6;
    and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; selp.b64 %d7, %d3, %d5, %p1;
    st.u32 [%d7], %r1; ld.u32 %r2, [%d7]; isspacep.shared %p2, %d7; @%p2 add.u32 %r2, %r2, 1000;
    cvta.to.shared.u64 %d8, %d5; @%p2 ld.shared.u32 %r4, [%d8]; @%p2 add.u32 %r2, %r2, %r4;"""
    i = np.arange(64)
    np.testing.assert_array_equal(run(body, 64, 1, SHARED), np.where(i % 2, i * 2 + 1000, i))


def test_atomics():
    body = """mov.u32 %r10, sh; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [%r10], 0; bar.sync 0;
    atom.shared.add.u32 %r2, [%r10], 2; ld.param.u64 %d3, [out]; bar.sync 0;
    atom.global.max.u32 %r3, [%d3], 0;"""
    assert sorted(run(body, 64, 1, SHARED).tolist()) == list(range(0, 128, 2))
    total = np.zeros(1, np.float32)
    kernel("ld.param.u64 %d1, [out]; red.global.add.f32 [%d1], 0f3F000000; ret;", "u64 out").launch(3, 64, [total])
    assert total[0] == 96
    cell = np.array([5], np.uint32)
    body = "ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; add.u32 %r2, %r1, 5; add.u32 %r3, %r1, 6; \
        atom.global.cas.b32 %r4, [%d1], %r2, %r3; ret;"
    kernel(body, "u64 out").launch(1, 8, [cell])
    assert cell[0] == 13


def test_vectors_and_packing():
    body = """ld.param.u64 %d1, [a]; mul.wide.u32 %d2, %r1, 16; add.u64 %d1, %d1, %d2;
    ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%d1]; mov.b64 %d3, {%r2, %r3}; mov.b64 {%r6, %r7}, %d3;
    mov.b32 {%h1, %h2}, %r4; mov.b32 %r8, {%h2, %h1}; st.global.v4.b32 [%d1], {%r7, %r6, %r8, %r5}; ret;"""
    a = np.arange(256, dtype=np.uint32) * 70_001
    want = a.reshape(-1, 4)[:, [1, 0, 2, 3]].copy()
    want[:, 2] = want[:, 2] << 16 | want[:, 2] >> 16
    kernel(TID + body, "u64 a").launch(1, 64, [a])
    np.testing.assert_array_equal(a.reshape(-1, 4), want)


def test_constants_and_dynamic_shared_memory():
    module = ".const .align 4 .b32 table[4] = {10, 20, 30, 40}; .extern .shared .align 16 .b8 dyn[];"
    body = """and.b32 %r3, %r1, 3; mul.wide.u32 %d2, %r3, 4; mov.u64 %d3, table; add.u64 %d3, %d3, %d2; ld.const.u32 %r4, [%d3];
    mov.u32 %r5, dyn; shl.b32 %r6, %r1, 2; add.u32 %r5, %r5, %r6; st.shared.u32 [%r5], %r4; ld.shared.u32 %r2, [%r5];"""
    got = run(body, 32, 1, module, dynamic_shared=128)
    np.testing.assert_array_equal(got, np.tile([10, 20, 30, 40], 8))
    with pytest.raises(PtxError, match="out of bounds"):
        run(body, 32, 1, module, dynamic_shared=124)


def test_scoped_registers_and_labels_of_inline_assembly():
    scope = "{ .reg .u32 t; .reg .pred P; mov.u32 t, %r2; AGAIN: add.u32 t, t, 1; setp.lt.u32 P, t, 5; @P bra AGAIN; mov.u32 %r2, t; }"
    np.testing.assert_array_equal(run(f"mov.u32 %r2, 0; {scope} sub.u32 %r2, %r2, 3; {scope}", 32), np.full(32, 5))


def test_grids_blocks_and_partial_warps():
    body = """mov.u32 %r1, %tid.x; mov.u32 %r2, %tid.y; mov.u32 %r3, %ctaid.y; mov.u32 %r4, %ctaid.x; mov.u32 %r5, %nctaid.x;
    mad.lo.u32 %r6, %r3, %r5, %r4; mad.lo.u32 %r7, %r2, 5, %r1; mad.lo.u32 %r8, %r6, 15, %r7; bar.sync 0;
    ld.param.u64 %d1, [out]; mad.wide.u32 %d1, %r8, 4, %d1; st.global.u32 [%d1], %r8; ret;"""
    out = np.zeros(15 * 6, np.uint32)
    kernel(body, "u64 out").launch((3, 2), (5, 3), [out])
    np.testing.assert_array_equal(out, np.arange(90))


def test_spinning_on_memory_makes_progress():
    """Thread 0 spins at a small pc until thread 32 has stored the flag at a larger one."""
    body = """ld.param.u64 %d1, [flag]; setp.ne.u32 %p1, %r1, 0; @%p1 bra OTHER;
    SPIN: ld.acquire.gpu.global.u32 %r2, [%d1]; setp.eq.u32 %p2, %r2, 0; @%p2 bra SPIN; ret;
    OTHER: setp.ne.u32 %p3, %r1, 32; @%p3 ret; mov.u32 %r3, 1; st.release.gpu.global.u32 [%d1], %r3; ret;"""
    flag = np.zeros(1, np.uint32)
    kernel(TID + body, "u64 flag").launch(1, 64, [flag])
    assert flag[0] == 1


def test_a_kernel_that_never_ends():
    with pytest.raises(PtxError, match="still runs after"):
        kernel("LOOP: bra LOOP;").launch(1, 32, [], max_steps=1000)


def test_what_is_unknown_is_said():
    with pytest.raises(Unsupported, match="line .*frobnicate"):
        Kernel.parse(entry("ret;").replace("ret;", "frobnicate.b32 %r1, %r2;"))
    with pytest.raises(PtxError, match="takes 1 parameters, got 2"):
        kernel("ret;", "u64 a").launch(1, 32, [np.zeros(1), 3])
    with pytest.raises(PtxError, match="trapped"):
        kernel("trap;").launch(1, 32, [])
    assert elementwise("mov.b32 $o, $i0;", [np.arange(3, dtype=np.uint32)], np.uint32).tolist() == [0, 1, 2]
