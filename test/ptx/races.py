"""Finds races on shared memory: accesses of two agents, one a write, that no synchronisation orders.

Agents of a block are its warps, the cp.async of each warp, the bulk loads of each mbarrier, the wgmma of each
warpgroup and the bulk stores of each warp. Every warp has a vector clock: how far it knows each agent of each block of
its cluster to be. Barriers and mbarriers pass clocks on, waits for groups add those of the copies. A shadow holds the
last writer of each grain of memory and the last read by each agent. Lanes of a warp count as ordered (PTX ISA, 'Memory
Consistency Model').

Reads by the async proxy (wgmma, bulk stores) of what threads or cp.async wrote also need a fence.proxy.async between.
"""

from __future__ import annotations

import numpy as np

from .errors import PtxError

BARRIERS = 16
MBARRIERS = 64  # mbarriers that are told apart


class Races:
    """The clocks and the shadow of one batch."""

    def __init__(self, machine, grain: int) -> None:
        self.m, self.grain = machine, grain
        blocks, warps = len(machine.blocks), machine.warps
        groups = -(-warps // 4)
        self.warps = warps
        # Agents: warps, wgmma of warpgroups, bulk stores of warps (these read), cp.async of warps, mbarriers.
        self.mma, self.stores = warps, warps + groups
        self.readers = self.stores + warps
        self.copies, self.bulk = self.readers, self.readers + warps
        self.agents = self.bulk + MBARRIERS
        self.rank = machine.rank  # of each block in its cluster
        self.known = (machine.launch.cluster, self.agents)
        self.clock = np.zeros((blocks, warps, *self.known), np.int32)
        self.block, self.warp = np.arange(blocks)[:, None], np.arange(warps)[None]
        self.release(self.block, self.warp)
        self.fenced = np.zeros_like(self.clock)
        self.bar_clock = np.zeros((blocks, BARRIERS, *self.known), np.int32)
        self.cluster_clock = np.zeros((blocks // machine.launch.cluster, *self.known), np.int32)
        self.cluster_passed = np.zeros_like(self.cluster_clock)
        grains = len(machine.shared) // grain
        self.write_agent = np.zeros(grains, np.int16)
        self.write_epoch = np.zeros(grains, np.int32)
        self.write_line = np.zeros(grains, np.int32)
        self.write_atomic = np.zeros(grains, bool)
        self.tag = np.zeros(grains, np.int32)
        self.read_epoch = np.zeros((self.readers, grains), np.int32)
        self.read_line = np.zeros((self.readers, grains), np.int32)
        self.used = np.zeros(self.readers, bool)
        self.columns = np.zeros(0, np.int64)
        self.atomic = False
        self.numbers: dict[int, int] = {}  # mbarrier addresses
        self.bulk_epoch = np.zeros((blocks, MBARRIERS), np.int32)
        self.arriving: dict[tuple[int, int], np.ndarray] = {}
        self.passed: dict[tuple[int, int], np.ndarray] = {}
        self.made: dict[tuple[int, int], tuple[int, int]] = {}  # the warp that initialised an mbarrier, and its epoch
        # When warps of other blocks last arrived at a block's mbarriers.
        self.told = np.zeros((blocks, machine.launch.cluster, warps), np.int32)

    # -- accesses -------------------------------------------------------------------------------------------------

    def grains(self, place: np.ndarray, total: int) -> np.ndarray:
        """Grains [accesses, n] of accesses of `total` bytes."""
        count = max(1, total // self.grain)
        return (place // self.grain)[:, None] + np.arange(count)

    def access(self, m, sel, place: np.ndarray, total: int, write: bool, values: np.ndarray | None) -> None:
        """A load or store of the threads `sel`."""
        if self.atomic and not write:
            return
        block, warp = m.block_of[sel], m.thread_of[sel] // 32
        grains = self.grains(place, total)
        known = self.clock[block, warp, self.rank[block]]
        self.check_writers(grains, known, warp, write)
        epoch = self.clock[block, warp, self.rank[block], warp][:, None]
        line = self.line()
        if not write:
            self.use(warp)
            self.read_epoch[warp[:, None], grains] = epoch
            self.read_line[warp[:, None], grains] = line
            return
        self.check_readers(grains, known, warp)
        if values is not None and not self.atomic:
            self.check_twins(grains, values, total)
        self.record(grains, warp[:, None], epoch)

    def line(self) -> int:
        return self.m.program.function.code[self.m.at].line

    def use(self, readers: np.ndarray) -> None:
        if not self.used[readers].all():
            self.used[readers] = True
            self.columns = np.flatnonzero(self.used)

    def record(self, grains, agent, epoch) -> None:
        self.write_agent[grains] = agent
        self.write_epoch[grains] = epoch
        self.write_line[grains] = self.line()
        self.write_atomic[grains] = self.atomic

    def check_writers(self, grains: np.ndarray, known: np.ndarray, who, write: bool) -> None:
        """Every last writer of `grains` [accesses, n] must be known; known: [accesses, agents]."""
        agent, epoch = self.write_agent[grains], self.write_epoch[grains]
        bad = epoch > np.take_along_axis(known, agent.astype(np.intp), 1)
        if self.atomic:
            bad &= ~self.write_atomic[grains]
        if bad.any():
            i, j = (int(v[0]) for v in np.nonzero(bad))
            grain = int(grains[i, j])
            before = f"written by {self.name(int(agent[i, j]))} at line {self.write_line[grain]}"
            self.report(grain, who, i, "writes" if write else "reads", before)

    def check_readers(self, grains: np.ndarray, known: np.ndarray, who) -> None:
        """Every read of `grains` must be known before they are written."""
        if not len(self.columns):
            return
        epochs = self.read_epoch[self.columns[:, None, None], grains[None]]
        bad = epochs > known[:, self.columns].T[:, :, None]
        if bad.any():
            c, i, j = (int(v[0]) for v in np.nonzero(bad))
            grain, reader = int(grains[i, j]), int(self.columns[c])
            before = f"read by {self.name(reader)} at line {self.read_line[reader, grain]}"
            self.report(grain, who, i, "writes", before)

    def check_twins(self, grains: np.ndarray, values: np.ndarray, total: int) -> None:
        """Threads that write the same place at the same time must write the same."""
        flat = grains.ravel()
        order = np.arange(len(flat), dtype=np.int32)
        self.tag[flat] = order
        last = self.tag[flat]
        if np.array_equal(last, order):
            return
        raw = np.ascontiguousarray(values).view(np.uint8).reshape(len(grains), -1)
        raw = raw.reshape(len(flat), -1) if total >= self.grain else raw
        bad = (raw != raw[last]).any(1)
        if bad.any():
            grain = int(flat[int(np.flatnonzero(bad)[0])])
            raise PtxError(f"race on shared memory {self.where(grain)}: two threads write different values at once")

    def report(self, grain: int, who, i: int, verb: str, before: str) -> None:
        agent = self.name(int(who[i]))
        raise PtxError(
            f"race on shared memory {self.where(grain)}: {agent} {verb} what was {before}, nothing orders them"
        )

    def where(self, grain: int) -> str:
        block, address = divmod(grain * self.grain, self.m.shared_row)
        return f"at {address:#x} (block {int(self.m.blocks[block])})"

    def name(self, agent: int) -> str:
        if agent < self.mma:
            return f"warp {agent}"
        if agent < self.stores:
            return f"wgmma of warpgroup {agent - self.mma}"
        if agent < self.readers:
            return f"bulk store of warp {agent - self.stores}"
        if agent < self.bulk:
            return f"cp.async of warp {agent - self.copies}"
        address = next((a for a, n in self.numbers.items() if n == agent - self.bulk), 0)
        return f"bulk load for mbarrier {address:#x}"

    # -- barriers -------------------------------------------------------------------------------------------------

    def warps_of(self, sel) -> tuple[np.ndarray, np.ndarray]:
        """(block, warp) of the warps among these threads."""
        numbers = np.unique(self.m.ids[sel] // 32)
        return numbers // self.warps, numbers % self.warps

    def join(self, sel, blocks) -> None:
        """A barrier of all warps of all blocks."""
        self.clock[:] = self.clock.max(axis=1, keepdims=True)
        self.release(self.block, self.warp)

    def release(self, block, warp) -> None:
        self.clock[block, warp, self.rank[block], warp] += 1

    def bar_arrive(self, ids: np.ndarray, names: np.ndarray) -> None:
        keys = np.unique((ids // 32) * BARRIERS + names)
        warps, names = keys // BARRIERS, keys % BARRIERS
        block, warp = warps // self.warps, warps % self.warps
        np.maximum.at(self.bar_clock, (block, names), self.clock[block, warp])
        self.release(block, warp)

    def bar_release(self, ids: np.ndarray, names: np.ndarray) -> None:
        keys = np.unique((ids // 32) * BARRIERS + names)
        warps, names = keys // BARRIERS, keys % BARRIERS
        block, warp = warps // self.warps, warps % self.warps
        self.clock[block, warp] = np.maximum(self.clock[block, warp], self.bar_clock[block, names])
        self.bar_clock[block, names] = 0

    def cluster_arrived(self, ids: np.ndarray) -> None:
        block, warp = self.warps_of(ids)
        np.maximum.at(self.cluster_clock, block // self.m.launch.cluster, self.clock[block, warp])
        self.release(block, warp)

    def cluster_over(self, cluster: int) -> None:
        self.cluster_passed[cluster] = self.cluster_clock[cluster]
        self.cluster_clock[cluster] = 0

    def cluster_waited(self, ids: np.ndarray) -> None:
        block, warp = self.warps_of(ids)
        passed = self.cluster_passed[block // self.m.launch.cluster]
        self.clock[block, warp] = np.maximum(self.clock[block, warp], passed)

    def warp_sync(self, sel) -> None:
        """Lanes of a warp are ordered anyway."""

    def proxy_fence(self, sel) -> None:
        block, warp = self.warps_of(sel)
        self.fenced[block, warp] = self.clock[block, warp]
        self.release(block, warp)

    # -- mbarriers ------------------------------------------------------------------------------------------------

    def new_barrier(self, key, ids: np.ndarray) -> None:
        warp = int(self.m.thread_of[ids[0]]) // 32
        self.made[key] = warp, int(self.clock[key[0], warp, self.rank[key[0]], warp])
        self.release(key[0], warp)
        self.arriving[key] = np.zeros(self.known, np.int32)
        self.passed[key] = np.zeros(self.known, np.int32)

    def check_made(self, key, block: np.ndarray, warp: np.ndarray) -> None:
        """Who uses an mbarrier must know that it was initialised."""
        maker, epoch = self.made[key]
        late = self.clock[block, warp, self.rank[key[0]], maker] < epoch
        if late.any():
            who = f"warp {int(warp[late][0])} of block {int(self.m.blocks[block[late][0]])}"
            raise PtxError(
                f"race on mbarrier {key[1]:#x} (block {int(self.m.blocks[key[0]])}): {who} uses it, warp {maker} "
                "initialised it, nothing orders them"
            )

    def block_ended(self, block: int) -> None:
        """A block must not end before others have left its barriers alone."""
        known = self.clock[block].max(0)[:, : self.warps]
        late = np.argwhere(self.told[block] > known)
        if len(late):
            rank, warp = late[0].tolist()
            raise PtxError(
                f"block {int(self.m.blocks[block])} ends, and nothing says that warp {warp} of block {rank} of its "
                "cluster has arrived at its mbarriers before"
            )

    def arrived(self, key, ids: np.ndarray) -> None:
        block, warp = self.warps_of(ids)
        self.check_made(key, block, warp)
        away = block != key[0]
        own = self.clock[block, warp, self.rank[block], warp]
        np.maximum.at(self.told, (key[0], self.rank[block[away]], warp[away]), own[away])
        self.arriving[key] = np.maximum(self.arriving[key], self.clock[block, warp].max(0))
        self.release(block, warp)

    def phase_over(self, key) -> None:
        self.passed[key] = self.arriving[key].copy()

    def waited(self, key, ids: np.ndarray) -> None:
        block, warp = self.warps_of(ids)
        self.check_made(key, block, warp)
        self.clock[block, warp] = np.maximum(self.clock[block, warp], self.passed[key])

    # -- copies ---------------------------------------------------------------------------------------------------

    def copy_issued(self, ids: np.ndarray, place: np.ndarray, total: int, group: np.ndarray) -> None:
        """cp.async writes for its warp; the group's number is its epoch."""
        block, warp = self.m.block_of[ids], self.m.thread_of[ids] // 32
        grains = self.grains(place, total)
        known = self.clock[block, warp, self.rank[block]]
        agent = self.copies + warp
        # Copies of one warp in one group are not ordered, but write what their threads chose: let them be.
        np.put_along_axis(known, agent[:, None], np.iinfo(np.int32).max, 1)
        self.check_writers(grains, known, agent, True)
        self.check_readers(grains, known, agent)
        self.record(grains, agent[:, None], (group + 1)[:, None])

    def copy_waited(self, sel, limit: np.ndarray) -> None:
        ids = self.m.ids[sel]
        block, warp = self.m.block_of[ids], self.m.thread_of[ids] // 32
        np.maximum.at(self.clock, (block, warp, self.rank[block], self.copies + warp), limit[ids].astype(np.int32))

    def bulk_write(self, thread: int, key, place: np.ndarray, total: int) -> tuple[int, int]:
        """A bulk load by `thread` into the block of `key`, its own or one of its cluster; returns its agent and epoch."""
        block, warp, target = int(self.m.block_of[thread]), int(self.m.thread_of[thread]) // 32, key[0]
        self.check_made(key, np.array([block]), np.array([warp]))
        number = self.numbers.setdefault(key[1], len(self.numbers) % MBARRIERS)
        agent = self.bulk + number
        grains = self.grains(place, total)
        known = np.broadcast_to(self.clock[block, warp, self.rank[target]], (len(grains), self.agents))
        who = np.full(len(grains), agent)
        self.check_writers(grains, known, who, True)
        self.check_readers(grains, known, who)
        self.bulk_epoch[target, number] += 1
        epoch = int(self.bulk_epoch[target, number])
        self.record(grains, agent, epoch)
        return agent, epoch

    def bulk_landed(self, key, name: tuple[int, int]) -> None:
        agent, epoch = name
        at = self.rank[key[0]], agent
        self.arriving[key][at] = max(self.arriving[key][at], epoch)

    def async_read(self, block: int, known: np.ndarray, agent: int, place: np.ndarray, total: int, epoch: int) -> None:
        """A read by the async proxy, whose issuer knows `known`."""
        grains = self.grains(place.ravel(), total).reshape(1, -1)
        who = np.array([agent])
        self.check_writers(grains, known[None], who, False)
        writer, written = self.write_agent[grains], self.write_epoch[grains]
        generic = (writer < self.mma) | ((writer >= self.copies) & (writer < self.bulk))
        bad = generic & (written > self.fenced[block, :, self.rank[block]].max(0)[writer])
        if bad.any():
            grain = int(grains[bad][0])
            before = f"written by {self.name(int(writer[bad][0]))} at line {self.write_line[grain]}"
            raise PtxError(
                f"race on shared memory {self.where(grain)}: {self.name(agent)} reads what was {before} "
                "without a fence.proxy.async between"
            )
        self.use(who)
        self.read_epoch[agent, grains] = epoch
        self.read_line[agent, grains] = self.line()

    def wgmma_read(self, ids: np.ndarray, place: np.ndarray, group: np.ndarray) -> None:
        for threads, places, number in zip(ids, place, group.tolist()):
            block, first = int(self.m.block_of[threads[0]]), int(self.m.thread_of[threads[0]]) // 32
            known = self.clock[block, first : first + 4, self.rank[block]].min(0)
            self.async_read(block, known, self.mma + first // 4, places, 16, number + 1)

    def wgmma_waited(self, sel, limit: np.ndarray) -> None:
        ids = self.m.ids[sel]
        block, warp = self.m.block_of[ids], self.m.thread_of[ids] // 32
        agent = self.mma + warp // 4
        np.maximum.at(self.clock, (block, warp, self.rank[block], agent), limit[ids].astype(np.int32))

    def bulk_read(self, thread: int, place: np.ndarray, total: int, group: int) -> None:
        block, warp = int(self.m.block_of[thread]), int(self.m.thread_of[thread]) // 32
        self.async_read(block, self.clock[block, warp, self.rank[block]], self.stores + warp, place, total, group + 1)

    def bulk_read_done(self, thread: int, limit: int) -> None:
        block, warp = int(self.m.block_of[thread]), int(self.m.thread_of[thread]) // 32
        at = block, warp, self.rank[block], self.stores + warp
        self.clock[at] = max(self.clock[at], limit)
