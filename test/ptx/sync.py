"""Who waits for whom: warp-wide instructions, barriers of a block, the ends of threads, deadlock."""

from __future__ import annotations

import numpy as np

from . import decode
from .errors import PtxError

AWAY = np.int32(2**31 - 1)
BARRIERS = 16  # PTX ISA, 'bar': named barriers 0..15
PATIENCE = 4  # rounds of failed waits with nothing else happening


class Synchronization:
    """Mixed into the machine."""

    def start_sync(self) -> None:
        blocks = len(self.blocks)
        self.parked = np.full(self.n, -1, np.int32)  # pc of a warp-wide instruction that waits for other lanes
        self.any_parked = False
        self.bar_id = np.full(self.n, -1, np.int32)
        self.bar_pc = np.zeros(self.n, np.int32)
        self.bar_pred = np.zeros(self.n, bool)
        self.bar_arrived = np.zeros((blocks, BARRIERS), np.int32)
        self.bar_expected = np.zeros((blocks, BARRIERS), np.int32)  # 0: all live threads
        self.alive = np.bincount(self.block_of[self.live], minlength=blocks).astype(np.int32)
        clusters = blocks // self.launch.cluster
        self.cluster_of = self.block_of // self.launch.cluster
        self.cluster_missing = np.bincount(self.cluster_of[self.live], minlength=clusters)  # at barrier.cluster
        self.cluster_phase = np.zeros(clusters, np.int32)
        self.cluster_arrived = np.full(self.n, -1, np.int32)  # the phase that a thread last arrived at
        self.cluster_open = np.zeros(self.n, bool)  # it has not waited since
        self.cluster_pc = np.full(self.n, -1, np.int32)  # of a thread that waits there
        self.barriers: dict = {}  # mbarriers by (block, address)
        self.waiting: dict = {}  # threads that wait for an mbarrier's phase
        self.slow_barrier = False
        self.events = 0  # whatever could let a waiting thread go on
        self.idle_events, self.idle_rounds = -1, 0
        self.wgmma = None  # the wgmma that run
        self.tracked = None  # the same while registers must be checked
        rows = self.program.wgmma_rows if self.launch.check_fences else {}
        self.touched = np.full((len(rows), self.n), bool(rows))  # registers that a wgmma.fence must order
        self.touched_rows = set(rows.values())
        self.start_async()

    def start_async(self) -> None:
        from .copies import Copies
        from .tensor_copies import BulkCopies

        self.copies, self.bulk = Copies(self), BulkCopies(self)

    # -- warps ----------------------------------------------------------------------------------------------------

    def converge(self, sel, pc: int, members: np.ndarray | None, group: bool = False):
        """The threads of `sel`, and of those parked here, whose warps are complete; parks the others. None if none.

        With `group`, the four warps of a warpgroup wait for each other.
        """
        if not self.any_parked and (self.whole_groups(sel) if group else self.whole(sel)):
            return sel
        ids = self.ids[sel]
        here = self.parked == pc
        here[ids] = True
        arrived = here.reshape(-1, 32)
        needed = self.live.reshape(-1, 32)
        if members is not None:
            masks = np.zeros(self.n, np.uint32)
            masks[ids] = members
            warp_masks = np.bitwise_or.reduce(masks.reshape(-1, 32), axis=1)
            needed = needed & ((warp_masks[:, None] >> np.arange(32, dtype=np.uint32)) & 1).astype(bool)
        complete = ~(needed & ~arrived).any(axis=1)
        if group:
            warps = np.arange(len(complete))
            number = warps // self.warps * (-(-self.warps // 4)) + warps % self.warps // 4
            missing = np.zeros(number[-1] + 1, bool)
            np.logical_or.at(missing, number, ~complete)
            complete = ~missing[number]
        complete = np.repeat(complete, 32)
        ready = np.flatnonzero(here & complete)
        late = ids[~complete[ids]]
        self.parked[ready] = -1
        self.parked[late] = pc
        self.pc[late] = AWAY
        self.pc[ready] = AWAY  # set again when the group is left
        self.any_parked = bool((self.parked >= 0).any())
        if not len(ready):
            return None
        if int(ready[-1]) - int(ready[0]) + 1 == len(ready):
            return slice(int(ready[0]), int(ready[-1]) + 1)
        return ready

    def whole_groups(self, sel) -> bool:
        """Whether `sel` is made of whole warpgroups, in order."""
        ids = self.ids[sel]
        if len(ids) % 128:
            return False
        heads = ids[::128]
        first = self.thread_of[heads]
        good = (first % 128 == 0) & (first + 128 <= self.lanes) & (ids[127::128] - heads == 127)
        return bool(good.all())

    # -- barriers -------------------------------------------------------------------------------------------------

    def arrive(self, sel, pc: int, name, count, wait: bool) -> int:
        """bar.sync and bar.arrive; returns the next pc, or -1 when the group must wait."""
        simple = isinstance(sel, slice) and sel.stop - sel.start == self.n and isinstance(name, int) and not count
        if simple and wait and not self.slow_barrier and not self.bar_arrived[:, name].any():
            if self.races is not None:
                self.races.join(sel, self.block_of[sel])
            self.events += 1
            return pc + 1
        ids = self.ids[sel]
        blocks = self.block_of[ids]
        names = np.broadcast_to(np.asarray(name, np.int64), len(ids))
        if int(names.max()) >= BARRIERS:
            raise PtxError(f"barrier {int(names.max())}; there are {BARRIERS}")
        np.add.at(self.bar_arrived, (blocks, names), 1)
        if count is not None:
            counts = np.broadcast_to(np.asarray(count, np.int64), len(ids))
            self.bar_expected[blocks, names] = counts
            if (counts % 32).any():
                raise PtxError(f"a barrier's thread count must be a multiple of 32, got {int(counts.max())}")
        if self.races is not None:
            self.races.bar_arrive(ids, names)
        if wait:
            self.bar_id[ids], self.bar_pc[ids] = names, pc + 1
            self.pc[ids] = AWAY
        else:
            self.pc[ids] = pc + 1
        self.finish_barriers()
        return -1

    def finish_barriers(self) -> None:
        expected = np.where(self.bar_expected > 0, self.bar_expected, self.alive[:, None])
        done = (self.bar_arrived >= expected) & (self.bar_arrived > 0)
        if not done.any():
            return
        over = done & (self.bar_arrived > expected)
        if over.any():
            block, name = (int(i[0]) for i in np.nonzero(over))
            raise PtxError(
                f"barrier {name} got {self.bar_arrived[block, name]} threads, expected {expected[block, name]}"
            )
        ids = np.flatnonzero(self.bar_id >= 0)
        ids = ids[done[self.block_of[ids], self.bar_id[ids]]]
        if self.races is not None:
            self.races.bar_release(ids, self.bar_id[ids])
        self.reduce_barriers(ids)
        self.bar_id[ids] = -1
        self.bar_arrived[done] = 0
        self.bar_expected[done] = 0
        self.events += 1
        self.resume(ids, self.bar_pc[ids])

    def reduce_barriers(self, ids: np.ndarray) -> None:
        """bar.red: combines the predicates of the threads that waited, if the instruction asks for it."""
        for pc in np.unique(self.bar_pc[ids]).tolist():
            reduction = self.program.reductions.get(pc - 1)
            if reduction is not None:
                op, slot = reduction
                here = ids[self.bar_pc[ids] == pc]
                keys = self.block_of[here] * BARRIERS + self.bar_id[here]
                _, inverse = np.unique(keys, return_inverse=True)
                total = np.bincount(inverse, weights=self.bar_pred[here])
                size = np.bincount(inverse)
                result = {"popc": total, "and": total == size, "or": total > 0}[op]
                self.V[slot][here] = result[inverse]

    # -- barriers of a cluster ------------------------------------------------------------------------------------

    def cluster_arrive(self, sel) -> None:
        ids = self.ids[sel]
        clusters = self.cluster_of[ids]
        if self.cluster_open[ids].any():
            raise PtxError("a thread arrives at barrier.cluster twice without a wait between")
        self.cluster_open[ids] = True
        self.cluster_arrived[ids] = self.cluster_phase[clusters]
        if self.races is not None:
            self.races.cluster_arrived(ids)
        np.subtract.at(self.cluster_missing, clusters, 1)
        self.finish_clusters()

    def cluster_wait(self, sel, pc: int) -> int:
        ids = self.ids[sel]
        self.cluster_open[ids] = False
        passed = self.cluster_phase[self.cluster_of[ids]] > self.cluster_arrived[ids]
        if self.races is not None and passed.any():
            self.races.cluster_waited(ids[passed])
        if passed.all():
            return pc + 1
        self.pc[ids[passed]] = pc + 1
        late = ids[~passed]
        self.cluster_pc[late] = pc + 1
        self.pc[late] = AWAY
        return -1

    def finish_clusters(self) -> None:
        for cluster in np.flatnonzero(self.cluster_missing == 0).tolist():
            inside = self.cluster_of == cluster
            if not (self.live & inside).any():
                continue
            self.cluster_phase[cluster] += 1
            self.cluster_missing[cluster] = np.count_nonzero(self.live & inside)
            self.events += 1
            if self.races is not None:
                self.races.cluster_over(cluster)
            ids = np.flatnonzero(inside & (self.cluster_pc >= 0))
            if self.races is not None and len(ids):
                self.races.cluster_waited(ids)
            self.resume(ids, self.cluster_pc[ids])
            self.cluster_pc[ids] = -1

    def check_registers(self, at: int, end: int) -> None:
        """While a wgmma runs: does anything from `at` to the control at `end` touch its registers?"""
        from .ops_wgmma import check

        state, program = self.tracked, self.program
        watched = state.accumulators | state.sources
        if watched.isdisjoint(program.segment_uses(at, end)):
            return
        for pc in range(at, min(end + 1, len(program.uses))):
            ins = program.function.code[pc]
            if ins.op != "wgmma" and not watched.isdisjoint(program.uses[pc]):
                check(self, ins, self.sel, program.uses[pc], decode.written(ins))

    def mark_touched(self, at: int, end: int) -> None:
        """Notes which registers of wgmma these instructions name: a wgmma.fence must come before the next wgmma."""
        rows = self.program.segment_touches(at, end)
        if rows:
            self.touched_rows.update(rows)
            self.touched[np.array(rows)[:, None], self.ids[self.sel]] = True

    # -- the end --------------------------------------------------------------------------------------------------

    def exit(self, sel) -> int:
        ids = self.ids[sel]
        self.copies.finish(sel)
        self.bulk.finish(sel)
        self.live[ids] = False
        self.pc[ids] = AWAY
        self.alive -= np.bincount(self.block_of[ids], minlength=len(self.alive)).astype(np.int32)
        self.events += 1
        for block in np.unique(self.block_of[ids]).tolist():
            if self.alive[block]:
                continue
            if self.launch.cluster > 1 and any(key[0] == block for key in self.bulk.loads):
                raise PtxError(f"block {int(self.blocks[block])} ends before the copies of its cluster have come")
            if self.races is not None:
                self.races.block_ended(block)
        missing = ids[self.cluster_arrived[ids] < self.cluster_phase[self.cluster_of[ids]]]
        np.subtract.at(self.cluster_missing, self.cluster_of[missing], 1)
        self.finish_clusters()
        if self.bar_arrived.any():
            self.finish_barriers()
        if self.any_parked:
            waiting = np.flatnonzero(self.parked >= 0)
            self.resume(waiting, self.parked[waiting])
            self.parked[waiting] = -1
            self.any_parked = False
        return -1

    def stalled(self) -> None:
        """Nobody can run: lets copies land, then lets waits fail, then gives up."""
        if self.bulk.land_waited():
            return
        if self.events != self.idle_events:
            self.idle_events, self.idle_rounds = self.events, 0
        self.idle_rounds += 1
        if not self.waiting or self.idle_rounds > PATIENCE:
            raise PtxError(f"deadlock: nobody can run\n{self.where()}", 0, "kernel")
        waiting, self.waiting = self.waiting, {}
        for entries in waiting.values():
            for ids, pc, slot in entries:
                self.V[slot][ids] = False
                self.resume(ids, pc + 1)

    def where(self) -> str:
        """One line per warp that waits: where and for what."""
        code = self.program.function.code
        lines: dict[str, list[str]] = {}

        def add(thread: int, what: str) -> None:
            place = f"block {int(self.blocks[self.block_of[thread]])} warp {int(self.thread_of[thread]) // 32}"
            lines.setdefault(what, [])
            if place not in lines[what]:
                lines[what].append(place)

        for thread in np.flatnonzero(self.parked >= 0).tolist():
            ins = code[self.parked[thread]]
            add(thread, f"other lanes, line {ins.line}: {ins.text}")
        for thread in np.flatnonzero(self.bar_id >= 0).tolist():
            ins = code[self.bar_pc[thread] - 1]
            name, block = int(self.bar_id[thread]), self.block_of[thread]
            expected = int(self.bar_expected[block, name]) or int(self.alive[block])
            got = int(self.bar_arrived[block, name])
            add(thread, f"barrier {name} ({got} of {expected} threads are there), line {ins.line}: {ins.text}")
        for thread in np.flatnonzero(self.cluster_pc >= 0).tolist():
            ins = code[self.cluster_pc[thread] - 1]
            missing = int(self.cluster_missing[self.cluster_of[thread]])
            add(thread, f"the cluster ({missing} threads are missing), line {ins.line}: {ins.text}")
        for (block, address), entries in self.waiting.items():
            barrier = self.barriers[block, address]
            for ids, pc, _ in entries:
                for thread in ids.tolist():
                    add(thread, f"mbarrier {address:#x} ({barrier}), line {code[pc].line}: {code[pc].text}")
        return "\n".join(
            f"  {', '.join(who[:16])}{' ...' if len(who) > 16 else ''} wait(s) for {what}"
            for what, who in lines.items()
        )
