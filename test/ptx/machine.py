"""A batch of blocks in lockstep: every thread has a pc, and the threads at the smallest pc go first.

That order brings diverged threads together again at the joins of structured code. Warp-wide instructions wait for the
lanes that their mask names, barriers for their count, mbarrier waits for their phase, all by leaving the run queue.
"""

from __future__ import annotations

import numpy as np

from .errors import PtxError
from .kinds import Slot, dtype, shaped, view
from .memory import SHARED_START, MemoryAccess, Views
from .sync import Synchronization

AWAY = np.int32(2**31 - 1)  # pc of a thread that can't run
WARP = 32
FAIR = 20_000  # segments after which a group that hasn't waited gives way, for loops that spin on memory


class Machine(Synchronization, MemoryAccess):
    """Registers, memories and the run queue of some blocks of one launch."""

    def __init__(self, program, launch, blocks: np.ndarray) -> None:
        self.program, self.launch, self.blocks = program, launch, blocks
        self.memory, self.param_bytes, self.param_views = launch.memory, launch.param_bytes, launch.param_views
        self.params = launch.params
        size = int(np.prod(launch.block))
        self.lanes = -(-size // WARP) * WARP  # threads of a block, padded to whole warps
        self.warps = self.lanes // WARP
        self.n = self.lanes * len(blocks)
        self.ids = np.arange(self.n)
        self.block_of = self.ids // self.lanes
        self.rank = blocks % launch.cluster  # of each block in its cluster
        self.thread_of = self.ids % self.lanes
        self.live = self.thread_of < size
        self.pc = np.where(self.live, np.int32(0), AWAY).astype(np.int32)
        self.shared_end = SHARED_START + program.shared_static + launch.dynamic_shared
        row = -(-self.shared_end // 1024) * 1024
        self.shared_row = row
        self.shared = np.full(row * len(blocks), 0xFF, np.uint8)
        self.shared_views = Views(self.shared)
        self.shared_base = self.block_of * row
        self.local_size = program.local_size
        stride = -(-max(self.local_size, 1) // 32) * 32
        self.local = np.full(stride * self.n if self.local_size else 32, 0xFF, np.uint8)
        self.local_views = Views(self.local)
        self.local_base = self.ids * stride
        self.make_registers()
        self.V = [self.make_slot(s) for s in program.slots]
        self.sel, self.others = slice(0, self.n), AWAY
        self.steps = self.picks = self.at = 0
        self.start_sync()
        self.races = None
        if launch.check_races and self.shared_end > SHARED_START:
            from .races import Races

            self.races = Races(self, program.grain)

    # -- registers ------------------------------------------------------------------------------------------------

    def make_registers(self) -> None:
        self.files: dict[int, np.ndarray] = {}
        self.raw: list[np.ndarray] = []
        counts: dict[str, int] = {}
        places = []
        for register in self.program.function.registers:
            size = "pred" if register.type == "pred" else register.type.lstrip("busf")
            if register.type in ("f16x2", "bf16x2"):
                size = "32"
            places.append((size, counts.get(size, 0)))
            counts[size] = counts.get(size, 0) + 1
        for size, count in counts.items():
            if size == "pred":
                self.files[size] = np.zeros((count, self.n), bool)
            elif size == "128":
                self.files[size] = np.full((count, self.n, 2), 2**64 - 1, np.uint64)
            else:
                kind = dtype(f"u{size}")
                self.files[size] = np.full((count, self.n), np.iinfo(kind).max, kind)
        self.places = places
        self.raw = [self.files[size][row] for size, row in places]

    def make_slot(self, slot: Slot) -> np.ndarray:
        if slot.what == "reg":
            return view(self.raw[slot.key], slot.kind)
        if slot.what == "sink":
            shape = (self.n, 2) if shaped(slot.kind) == 2 or slot.kind == "b128" else self.n
            return np.zeros(shape, np.uint64 if slot.kind == "b128" else dtype(slot.kind))
        if slot.what == "const":
            value = np.frombuffer(slot.key, dtype(slot.kind))
            return np.broadcast_to(
                value if shaped(slot.kind) == 2 else value[0], (self.n, len(value))[: shaped(slot.kind)]
            )
        if slot.what == "sym":
            value = self.program.symbol(slot.key, self) + slot.addend
            kind = dtype(slot.kind)
            return np.broadcast_to(np.uint64(value & (2**64 - 1)).astype(kind), self.n)
        values = np.broadcast_to(np.asarray(self.special(slot.key)), self.n)
        if slot.kind == "pred":
            return values.astype(bool)
        return np.ascontiguousarray(values).astype(dtype(slot.kind))

    def special(self, name: str):
        """PTX ISA, 'Special Registers'."""
        block, grid = self.launch.block, self.launch.grid
        bx, by, _ = block
        linear = self.blocks[self.block_of]
        head, _, axis = name.partition(".")
        at = "xyz".find(axis) if axis else -1
        if head == "tid":
            t = self.thread_of
            return (t % bx, t // bx % by, t // (bx * by))[at]
        if head == "ctaid":
            return (linear % grid[0], linear // grid[0] % grid[1], linear // (grid[0] * grid[1]))[at]
        if head == "ntid":
            return block[at]
        if head == "nctaid":
            return grid[at]
        lane = self.thread_of % WARP
        one = np.uint64(1)
        bit = one << lane.astype(np.uint64)
        plain = {
            "laneid": lane,
            "warpid": self.thread_of // WARP,
            "nwarpid": self.warps,
            "cluster_ctarank": self.rank[self.block_of],
            "cluster_nctarank": self.launch.cluster,
            "is_explicit_cluster": int(self.launch.cluster > 1),
            "smid": 0,
            "nsmid": 1,
            "gridid": 0,
            "clock": 0,
            "clock64": 0,
            "clock_hi": 0,
            "globaltimer": 0,
            "globaltimer_lo": 0,
            "lanemask_eq": bit,
            "lanemask_lt": bit - one,
            "lanemask_le": bit * np.uint64(2) - one,
            "lanemask_gt": np.uint64(2**32) - bit * np.uint64(2),
            "lanemask_ge": np.uint64(2**32) - bit,
            "dynamic_smem_size": self.launch.dynamic_shared,
            "total_smem_size": self.shared_end - SHARED_START,
        }
        if head not in plain:
            raise PtxError(f"unknown special register %{name}")
        return plain[head]

    # -- groups of threads ----------------------------------------------------------------------------------------

    def thread_name(self, thread: int) -> str:
        bx, by, _ = self.launch.block
        gx, gy, _ = self.launch.grid
        block, t = int(self.blocks[self.block_of[thread]]), int(self.thread_of[thread])
        place = (block % gx, block // gx % gy, block // (gx * gy))
        return f"block {place}, thread ({t % bx}, {t // bx % by}, {t // (bx * by)}), warp {t // WARP}"

    def narrow(self, sel, mask: np.ndarray):
        """The threads of `sel` where `mask` holds."""
        return compact(self.ids[sel][mask])

    def whole(self, sel) -> bool:
        """Whether `sel` is made of whole warps, in order."""
        if isinstance(sel, slice):
            return sel.start % WARP == 0 and sel.stop % WARP == 0
        if len(sel) % WARP:
            return False
        heads = sel[::WARP]
        return not (heads % WARP).any() and bool((sel[WARP - 1 :: WARP] - heads == WARP - 1).all())

    def resume(self, threads, pc) -> None:
        """Puts threads that waited back into the run queue."""
        if len(threads):
            self.pc[threads] = pc
            self.others = min(self.others, np.min(pc))

    def pick(self) -> int:
        """Chooses the threads to run; returns their pc, or -1 when all have ended."""
        pc = self.pc
        self.picks += 1
        while True:
            low = pc.min()
            if low != AWAY:
                break
            if not self.live.any():
                return -1
            self.stalled()
        if self.picks % FAIR == 0:
            low = pc[pc != AWAY].max()
        here = pc == low
        rest = pc[~here]
        self.others = rest.min() if len(rest) else AWAY
        self.sel = compact(np.flatnonzero(here))
        return int(low)

    def run(self) -> None:
        """Runs the batch to its end."""
        program = self.program
        code, ends, controls = program.code, program.ends, program.controls
        checks_fences = self.launch.check_fences and bool(program.wgmma_rows)
        at = 0
        try:
            while (at := self.pick()) >= 0:
                budget = FAIR
                while True:
                    if self.tracked is not None:
                        self.check_registers(at, ends[at])
                    end = ends[at]
                    sel = self.sel
                    self.steps += end - at + 1
                    if self.steps > self.launch.max_steps:
                        raise PtxError(f"the kernel still runs after {self.steps} steps")
                    if checks_fences:
                        self.mark_touched(at, end)
                    while at < end:
                        self.at = at
                        code[at](self, sel)
                        at += 1
                    control = controls[at] if at < len(controls) else None
                    if control is not None:
                        self.at = at
                        following = control(self, self.sel, at)
                        if following < 0:
                            break
                        at = following
                    elif at >= len(controls):
                        raise PtxError("control runs past the end of the kernel")
                    budget -= 1
                    # Others at or before this pc: let the queue decide, so that groups join.
                    if self.others <= at or (budget < 0 and self.others != AWAY):
                        self.pc[self.sel] = at
                        break
                if budget < 0:
                    self.picks = FAIR - 1
        except PtxError as error:
            if error.line is None and at < len(program.function.code):
                ins = program.function.code[at]
                error.line, error.text = ins.line, ins.text
            raise


def compact(ids: np.ndarray):
    """Sorted thread ids as a slice where they are contiguous."""
    if len(ids) and int(ids[-1]) - int(ids[0]) + 1 == len(ids):
        return slice(int(ids[0]), int(ids[-1]) + 1)
    return ids
