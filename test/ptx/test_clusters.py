"""Clusters: their barrier, barriers in another block's memory, and copies to several blocks."""

from __future__ import annotations

import numpy as np
import pytest

from ptx import PtxError, TensorMap
from ptx.snippets import kernel

MODULE = ".shared .align 1024 .b8 sh[512]; .shared .align 8 .b64 full;"
SYNC = "barrier.cluster.arrive; barrier.cluster.wait;"
START = f"""mov.u32 %r1, %tid.x; mov.u32 %r2, sh; mov.u32 %r3, full; mov.u32 %r4, %cluster_ctarank; mov.u32 %r5, %ctaid.x;
setp.ne.u32 %p1, %r1, 0; @%p1 bra READY; mbarrier.init.shared::cta.b64 [%r3], 1; fence.mbarrier_init.release.cluster;
READY: {SYNC}"""
WAIT = "WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @%p2 bra GO; bra WAIT; GO:"
# Each thread writes four bytes of its block's memory.
COPY_OUT = """shl.b32 %r6, %r1, 2; add.u32 %r7, %r2, %r6; ld.shared.u32 %r8, [%r7]; mad.lo.u32 %r9, %r5, 256, %r6;
cvt.u64.u32 %d2, %r9; ld.param.u64 %d1, [out]; add.u64 %d2, %d1, %d2; st.global.u32 [%d2], %r8;"""
MULTICAST = """cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
[%r20], [%d9, {%r21, %r22}], [%r3], %h1;"""


def multicast(mask: int, *, end: str = SYNC, waits: str = WAIT, clusters: int = 2) -> np.ndarray:
    """Each block of a cluster of two copies half of a box of 4 x 16 words to the blocks of `mask`."""
    x = np.arange(8 * 16, dtype=np.uint32).reshape(8, 16)
    body = f"""{START} @%p1 bra WAIT; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r3], 256;
    mov.b64 %d8, m; cvta.param.u64 %d9, %d8; mov.b32 %r21, 0; shl.b32 %r22, %r4, 1; shr.u32 %r23, %r5, 1; shl.b32 %r23, %r23, 2;
    add.u32 %r22, %r22, %r23; mad.lo.u32 %r20, %r4, 128, %r2; mov.b16 %h1, {mask}; {MULTICAST} {waits} {COPY_OUT} {end} ret;"""
    out = np.zeros((2 * clusters, 4, 16), np.uint32)
    kernel(body, "map m, u64 out", MODULE).launch(2 * clusters, 64, [TensorMap(x, (16, 2)), out], cluster=2)
    return out


def test_a_multicast_reaches_all_blocks_of_its_cluster() -> None:
    x = np.arange(8 * 16, dtype=np.uint32).reshape(2, 4, 16)
    np.testing.assert_array_equal(multicast(3), x[[0, 0, 1, 1]])


def test_what_a_multicast_must_not_do() -> None:
    with pytest.raises(PtxError, match="deadlock"):  # of two halves each block gets one
        multicast(1)
    with pytest.raises(PtxError, match="a multicast to blocks 0x7 of a cluster of 2"):
        multicast(7)
    with pytest.raises(PtxError, match="race"):
        multicast(3, waits="WAIT:")
    with pytest.raises(PtxError, match="a grid of 3 blocks in clusters of 2"):
        kernel("ret;").launch(3, 32, [], cluster=2)


REMOTE = """mov.u32 %r10, 1; sub.u32 %r10, %r10, %r4; mapa.shared::cluster.u32 %r11, %r3, %r10;"""


def test_a_barrier_of_another_block() -> None:
    """Block 1 arrives at the barrier of block 0, whose threads then see the arrival."""
    body = f"""{START} setp.ne.u32 %p3, %r4, 1; @%p3 bra WAIT; @%p1 bra LAST; {REMOTE}
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r11]; bra LAST;
    {WAIT} ld.param.u64 %d1, [out]; mov.u32 %r12, 5; st.global.u32 [%d1], %r12; LAST: {SYNC} ret;"""
    out = np.zeros(1, np.uint32)
    kernel(body, "u64 out", MODULE).launch(2, 32, [out], cluster=2)
    assert out[0] == 5
    with pytest.raises(PtxError, match="(?s)deadlock.*mbarrier.*phase 0, 1 of 1 arrivals"):
        kernel(
            body.replace("[%r11]", "[%r3]").replace("shared::cluster.b64", "shared::cta.b64"), "u64 out", MODULE
        ).launch(2, 32, [out], cluster=2)
    with pytest.raises(PtxError, match="block 1 of a cluster of 1"):
        kernel(f"{START} {REMOTE} ret;", "", MODULE).launch(1, 32, [])


def test_a_block_that_ends_before_it_is_told() -> None:
    """Block 0 does not wait; block 1 arrives late."""
    body = f"""{START} setp.ne.u32 %p3, %r4, 0; @%p3 bra LATE; ret; LATE: @%p1 bra LAST; {REMOTE}
    mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r11]; LAST: ret;"""
    with pytest.raises(PtxError, match="lies in a block that has ended"):
        kernel(body, "", MODULE).launch(2, 32, [], cluster=2)


def test_barriers_of_clusters() -> None:
    """Blocks wait for their own cluster only, and for each of its threads, ended ones excepted."""
    body = """mov.u32 %r1, %tid.x; mov.u32 %r5, %ctaid.x; setp.gt.u32 %p1, %r1, 40; @%p1 bra LAST; setp.eq.u32 %p2, %r5, {absent};
    @%p2 bra STUCK; barrier.cluster.arrive; barrier.cluster.wait; LAST: ret; STUCK: bar.sync 1, 96; ret;"""
    kernel(body.format(absent=9)).launch(4, 64, [], cluster=2)
    with pytest.raises(PtxError, match=r"block 2 .* wait\(s\) for the cluster \(41 threads are missing\)"):
        kernel(body.format(absent=3)).launch(4, 64, [], cluster=2)
    with pytest.raises(PtxError, match="arrives at barrier.cluster twice"):
        kernel("barrier.cluster.arrive; barrier.cluster.arrive; barrier.cluster.wait; ret;").launch(
            2, 32, [], cluster=2
        )
