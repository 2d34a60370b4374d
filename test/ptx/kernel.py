"""The public door: parse a kernel's PTX text, launch it on numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import decode
from .errors import PtxError
from .kinds import Decoder
from .machine import Machine
from .memory import PARAM_WINDOW, SHARED_START, GlobalMemory, Views
from .parse import Parser
from .syntax import BYTES, Function, Instruction, Module
from .tensor_map import TensorMap

BATCH_THREADS = 8192  # threads that run in lockstep
MAX_STEPS = 20_000_000  # of one batch: some minutes
BATCH_SHARED = 32 << 20  # and their shared memory, in bytes


@dataclass
class Launch:
    """What all batches of one launch share."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    memory: GlobalMemory
    param_bytes: np.ndarray
    params: dict[str, int]  # offset of each parameter
    dynamic_shared: int
    check_races: bool
    check_accumulators: bool
    check_fences: bool
    max_steps: int
    cluster: int  # blocks of a cluster, along x
    addresses: dict[str, int] = field(default_factory=dict)  # of module variables in global memory

    def __post_init__(self) -> None:
        self.param_views = Views(self.param_bytes)


class Kernel:
    """One entry function of a PTX module, decoded.

    `directives` holds what the entry says about its launch, for example {"maxntid": (128,)}.
    After a launch, `steps` is how many instructions were executed, each for many threads at once.
    """

    def __init__(self, module: Module, function: Function) -> None:
        self.module, self.function, self.name = module, function, function.name
        self.directives = function.directives
        self.layout_variables()
        self.decode()
        self.steps = 0

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Kernel:
        """The kernel `name` of PTX text; without a name, the only one there is."""
        module = Parser(text).module()
        entries = [f for f in module.functions.values() if f.entry]
        if name is not None:
            entries = [f for f in entries if f.name == name]
        if len(entries) != 1:
            raise PtxError(f"expected one kernel {name or ''}, got {[f.name for f in entries] or 'none'}")
        return cls(module, entries[0])

    def layout_variables(self) -> None:
        """Offsets of shared and local variables; dynamic shared memory follows the static."""
        self.offsets: dict[str, int] = {}
        shared, local, dynamic = SHARED_START, 0, []
        self.global_variables = []
        for variable in (*self.module.variables.values(), *self.function.variables.values()):
            if variable.space == "shared":
                if variable.extern:
                    dynamic.append(variable)
                    continue
                shared = -(-shared // variable.align) * variable.align
                self.offsets[variable.name] = shared
                shared += variable.size
            elif variable.space == "local":
                local = -(-local // variable.align) * variable.align
                self.offsets[variable.name] = local
                local += variable.size
            else:
                self.global_variables.append(variable)
        for variable in dynamic:
            shared = -(-shared // variable.align) * variable.align
            self.offsets[variable.name] = shared
        for variable in dynamic:
            self.offsets[variable.name] = shared
        self.shared_static, self.local_size = shared - SHARED_START, local

    def decode(self) -> None:
        decoder = Decoder(self.function, self.module)
        instructions = self.function.code
        self.code: list = []
        self.controls: list = []
        self.reductions: dict = {}
        self.uses: list[frozenset[int]] = []
        self.segments: dict = {}
        for pc, instruction in enumerate(instructions):
            decoder.pc = pc
            try:
                closure, is_control = decode.decode(decoder, instruction, self)
            except PtxError as error:
                if error.line is None:
                    error.line, error.text = instruction.line, instruction.text
                raise
            self.code.append(None if is_control else closure)
            self.controls.append(closure if is_control else None)
            self.uses.append(decode.registers(instruction))
        named = frozenset().union(*(u for u, i in zip(self.uses, instructions) if i.op == "wgmma"))
        # Rows of the machine's table of touched registers, for the registers that some wgmma names.
        floats = [r for r in sorted(named) if self.function.registers[r].type in ("f32", "b32", "u32", "s32")]
        self.wgmma_rows = {register: row for row, register in enumerate(floats)}
        self.slots, self.grain = decoder.slots, decoder.grain
        leaders = set(self.function.leaders)
        self.ends = [0] * (len(instructions) + 1)
        end = len(instructions)
        self.ends[end] = end
        for pc in range(len(instructions) - 1, -1, -1):
            self.ends[pc] = pc if self.controls[pc] is not None else end
            if self.controls[pc] is not None or pc in leaders:
                end = pc
        # A leader that is no control must run itself: only what comes before it stops at it.

    def segment_uses(self, at: int, end: int) -> frozenset[int]:
        """Registers that the instructions from `at` to `end` name."""
        found = self.segments.get((at, end))
        if found is None:
            found = self.segments[at, end] = frozenset().union(*self.uses[at : end + 1])
        return found

    def segment_touches(self, at: int, end: int) -> list[int]:
        """Rows of the registers of wgmma that other instructions from `at` to `end` name."""
        key = (at, end, "touched")
        found = self.segments.get(key)
        if found is None:
            code = self.function.code[at : end + 1]
            used = frozenset().union(*(u for u, i in zip(self.uses[at : end + 1], code) if i.op != "wgmma"))
            found = self.segments[key] = sorted(self.wgmma_rows[r] for r in used if r in self.wgmma_rows)
        return found

    def symbol(self, name: str, machine: Machine) -> int:
        """The address of a variable or parameter in its own space."""
        if name in self.offsets:
            return self.offsets[name]
        if name in machine.params:
            return machine.params[name]
        return machine.launch.addresses[name]

    def launch(
        self,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        params: list,
        dynamic_shared: int = 0,
        check_races: bool = True,
        check_accumulators: bool = True,
        check_fences: bool = False,
        batch_threads: int = BATCH_THREADS,
        max_steps: int = MAX_STEPS,
        memory: GlobalMemory | None = None,
        cluster: int = 1,
    ) -> None:
        """Runs the kernel to its end; arrays among `params` are global buffers, written in place.

        params: C-contiguous numpy arrays (passed as addresses), ints, floats, numpy scalars, TensorMap. Raises PtxError
        for what would be undefined on a GPU: accesses out of bounds, races, deadlock, early reads of accumulators.
        check_fences: also a wgmma whose registers were used after the last wgmma.fence (PTX ISA, 'wgmma.fence'). Off, since
        LLVM moves constants and copies behind the fence, which ptxas 13.0 accepts.
        `cluster`: blocks of a cluster. Blocks run in batches of `batch_threads` threads: those that wait for each other
        must fit into one. A batch that takes more than `max_steps` steps is an error. `memory` holds what addresses among
        the parameters mean.
        """
        grid, block = triple(grid), triple(block)
        self.check_block(block)
        memory = memory or GlobalMemory()
        start = self.bind(memory, params)
        launch = Launch(
            grid,
            block,
            memory,
            *start,
            dynamic_shared,
            check_races,
            check_accumulators,
            check_fences,
            max_steps,
            cluster,
        )
        if grid[0] % cluster:
            raise PtxError(f"a grid of {grid[0]} blocks in clusters of {cluster}")
        self.place_globals(launch)
        blocks = int(np.prod(grid))
        lanes = -(-int(np.prod(block)) // 32) * 32
        size = max(1, batch_threads // lanes)
        shared = self.shared_static + dynamic_shared
        if shared:
            size = max(1, min(size, BATCH_SHARED // (shared * (4 if check_races else 1))))
        size = max(cluster, size // cluster * cluster)
        self.steps = 0
        with np.errstate(all="ignore"):
            for first in range(0, blocks, size):
                machine = Machine(self, launch, np.arange(first, min(blocks, first + size)))
                machine.run()
                self.steps += machine.steps

    def check_block(self, block: tuple[int, int, int]) -> None:
        threads = int(np.prod(block))
        limit = self.directives.get("maxntid")
        if limit and threads > int(np.prod(limit)):
            raise PtxError(f"block {block} has more threads than .maxntid {limit}")
        required = self.directives.get("reqntid")
        if required and block != triple(required):
            raise PtxError(f"block {block} differs from .reqntid {required}")

    def bind(self, memory: GlobalMemory, values: list) -> tuple[np.ndarray, dict[str, int]]:
        params = self.function.params
        if len(values) != len(params):
            raise PtxError(f"{self.name} takes {len(params)} parameters, got {len(values)}")
        size = params[-1].offset + params[-1].size if params else 0
        raw = np.zeros(-(-max(size, 1) // 128) * 128, np.uint8)
        for param, value in zip(params, values):
            data = self.encode_param(memory, param, value)
            raw[param.offset : param.offset + param.size] = np.frombuffer(data, np.uint8)
        return raw, {p.name: p.offset for p in params}

    def encode_param(self, memory: GlobalMemory, param, value) -> bytes:
        if isinstance(value, TensorMap):
            value.bind(memory, param.name)
            if param.size == 128:
                memory.maps[PARAM_WINDOW + param.offset] = value
                return bytes(128)
            place = memory.add(np.zeros(128, np.uint8), param.name)
            memory.maps[place] = value
            return place.to_bytes(8, "little")
        if isinstance(value, np.ndarray) and value.ndim + value.size > 0 and param.type in ("u64", "b64", "s64"):
            return memory.add(value, param.name).to_bytes(8, "little")
        if isinstance(value, np.ndarray):
            data = value.tobytes()
        elif isinstance(value, np.generic):
            data = value.tobytes()
            if value.dtype.kind in "iub" and len(data) != param.size:
                data = (int(value) & ((1 << (8 * param.size)) - 1)).to_bytes(param.size, "little")
        elif isinstance(value, bytes):
            data = value
        elif isinstance(value, float):
            kinds = {2: np.float16, 4: np.float32, 8: np.float64}
            data = kinds[param.size](value).tobytes()
        else:
            bits = 8 * param.size
            if not -(1 << (bits - 1)) <= int(value) < 1 << bits:
                raise PtxError(f"{value} does not fit parameter {param.name} of {param.size} bytes")
            data = (int(value) & ((1 << bits) - 1)).to_bytes(param.size, "little")
        if len(data) != param.size:
            raise PtxError(f"parameter {param.name} has {param.size} bytes, the value has {len(data)}")
        return data

    def place_globals(self, launch: Launch) -> None:
        arrays = {}
        for variable in self.global_variables:
            if variable.extern and not variable.size:
                continue
            array = np.zeros(max(variable.size, 1), np.uint8)
            array[: len(variable.init)] = np.frombuffer(variable.init, np.uint8)
            arrays[variable.name] = array
            launch.addresses[variable.name] = launch.memory.add(array, variable.name)
        for variable in self.global_variables:
            for offset, name, addend in variable.refs:
                address = np.uint64(launch.addresses[name] + addend)
                arrays[variable.name][offset : offset + 8] = np.frombuffer(address.tobytes(), np.uint8)


def triple(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    size = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    return (*(int(s) for s in size), 1, 1)[:3]


def instruction_bytes(instruction: Instruction) -> int:
    """Bytes of one access of a load or store."""
    return max((BYTES[m] for m in instruction.mods if m in BYTES), default=4)
