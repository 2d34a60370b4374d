"""Instructions to closures: the table of opcodes, guards, control flow.

An operation is `run(machine, threads)`; control is `run(machine, threads, pc) -> next pc`, or -1 when the group of
threads is over (it split, waits or has ended).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

from .errors import PtxError, Unsupported
from .syntax import Instruction, Mem, Neg, Pair, Reg, Vec

OPS: dict[str, Callable] = {}
MODULES = (
    "ops_move",
    "ops_integer",
    "ops_float",
    "ops_compare",
    "ops_convert",
    "ops_warp",
    "ops_atomic",
    "ops_barrier",
    "ops_copy",
    "ops_mbarrier",
    "ops_bulk",
    "ops_mma",
    "ops_wgmma",
)


class Control:
    """Marks a closure as control flow."""

    def __init__(self, run: Callable) -> None:
        self.run = run


class WarpWide:
    """Marks what the lanes of a member mask (its slot, or None for all), or of a warpgroup, execute together."""

    def __init__(self, run: Callable, members: int | None = None, group: bool = False) -> None:
        self.run, self.members, self.group = run, members, group


def op(*names: str):
    """Registers the decoder of some opcodes: `decoder, instruction -> closure | Control | WarpWide`."""

    def register(function: Callable) -> Callable:
        for name in names:
            OPS[name] = function
        return function

    return register


def decode(decoder, ins: Instruction, program) -> tuple[Callable, bool]:
    """The closure of an instruction with its guard, and whether it is control."""
    if "mov" not in OPS:
        for name in MODULES:
            importlib.import_module(f".{name}", __package__)
    if ins.op not in OPS:
        raise Unsupported(f"unknown instruction {ins.name}")
    guard = None
    if ins.guard is not None:
        if ins.guard[0] is None:
            raise PtxError("unknown guard predicate")
        guard = (decoder.src(ins.guard[0], "pred"), ins.guard[1])
    if ins.op == "bra" and guard:
        return branch_if(*guard, ins.target), True
    decoder.program = program
    made = OPS[ins.op](decoder, ins)
    if isinstance(made, WarpWide):
        made = Control(warp_wide(made))
    if isinstance(made, Control):
        return (made.run if guard is None else guarded_control(*guard, made.run)), True
    return (made if guard is None else guarded(*guard, made)), False


def warp_wide(made: WarpWide) -> Callable:
    run, members, group = made.run, made.members, made.group

    def control(m, sel, pc):
        ready = m.converge(sel, pc, None if members is None else m.V[members][sel], group)
        if ready is None:
            return -1
        m.sel = ready
        run(m, ready)
        return pc + 1

    return control


def guarded(slot: int, negated: bool, run: Callable) -> Callable:
    def maybe(m, sel):
        p = m.V[slot][sel]
        if negated:
            p = ~p
        count = np.count_nonzero(p)
        if count == len(p):
            run(m, sel)
        elif count:
            run(m, m.narrow(sel, p))

    return maybe


def guarded_control(slot: int, negated: bool, run: Callable) -> Callable:
    def maybe(m, sel, pc):
        p = m.V[slot][sel]
        if negated:
            p = ~p
        count = np.count_nonzero(p)
        if count == len(p):
            return run(m, sel, pc)
        if not count:
            return pc + 1
        ids = m.ids[sel]
        m.pc[ids[~p]] = pc + 1
        m.sel = m.narrow(sel, p)
        following = run(m, m.sel, pc)
        if following >= 0:
            m.pc[m.sel] = following
        return -1

    return maybe


def branch_if(slot: int, negated: bool, target: int) -> Callable:
    def branch(m, sel, pc):
        p = m.V[slot][sel]
        count = np.count_nonzero(p)
        if negated:
            count = len(p) - count
        if count == 0:
            return pc + 1
        if count == len(p):
            return target
        m.pc[sel] = np.where(p != negated, np.int32(target), np.int32(pc + 1))
        return -1

    return branch


@op("bra")
def bra(d, ins):
    target = ins.target
    return Control(lambda m, sel, pc: target)


@op("brx")
def brx(d, ins):
    slot, targets = d.src(ins.operands[0], "u32"), np.array(ins.targets, np.int32)

    def run(m, sel, pc):
        m.pc[sel] = targets[m.V[slot][sel]]
        return -1

    return Control(run)


@op("ret", "exit")
def leave(d, ins):
    return Control(lambda m, sel, pc: m.exit(sel))


@op("trap", "brkpt")
def trap(d, ins):
    def run(m, sel):
        m.fault(sel, 0, "the kernel trapped")

    return run


@op("call")
def call(d, ins):
    def run(m, sel):
        raise Unsupported("calls of device functions")

    return run


@op(
    "nanosleep",
    "griddepcontrol",
    "setmaxnreg",
    "membar",
    "pmevent",
    "prefetch",
    "prefetchu",
    "discard",
    "applypriority",
)
def nothing(d, ins):
    return lambda m, sel: None


def registers(ins: Instruction) -> frozenset[int]:
    """Indices of the registers that an instruction names."""
    found: set[int] = set()

    def visit(operand) -> None:
        if isinstance(operand, Reg):
            found.add(operand.index)
        elif isinstance(operand, Vec):
            for item in operand.items:
                visit(item)
        elif isinstance(operand, Mem):
            visit(operand.base)
            for item in operand.rest:
                visit(item)
        elif isinstance(operand, Neg):
            visit(operand.item)
        elif isinstance(operand, Pair):
            visit(operand.first)
            visit(operand.second)

    for operand in ins.operands:
        visit(operand)
    if ins.guard:
        found.add(ins.guard[0].index)
    return frozenset(found)


def written(ins: Instruction) -> frozenset[int]:
    """Indices of the registers that an instruction writes."""
    if ins.op in ("st", "red", "bra", "bar", "cp", "prefetch") or not ins.operands or isinstance(ins.operands[0], Mem):
        return frozenset()
    return registers(Instruction(ins.op, (), ins.operands[:1], None, ins.line, ""))
