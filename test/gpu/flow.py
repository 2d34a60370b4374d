"""Where threads of a warp that went apart at a branch meet again: at its immediate post-dominator."""

from __future__ import annotations

from .parser import Program


def meeting_points(program: Program) -> dict[int, int]:
    """Of every conditional branch, the instruction at which both ways meet first; none if one ends before."""
    code = program.instructions
    leaders = {0, *program.labels.values()}
    leaders |= {i + 1 for i, instruction in enumerate(code) if instruction.name[0] in ("bra", "ret", "exit")}
    starts = sorted(leader for leader in leaders if leader < len(code))
    index = {start: number for number, start in enumerate(starts)}
    exit_block = len(starts)
    successors: list[list[int]] = []
    for number, start in enumerate(starts):
        last = (starts[number + 1] if number + 1 < len(starts) else len(code)) - 1
        instruction = code[last]
        following = number + 1 if last + 1 < len(code) else exit_block
        if instruction.name[0] == "bra":
            target = index.get(program.labels[instruction.operands[0]], exit_block)
            successors.append([target] if instruction.guard is None else [target, following])
        elif instruction.name[0] in ("ret", "exit") and instruction.guard is None:
            successors.append([exit_block])
        else:
            successors.append([following])
    # Post-dominators as bit sets, to a fixed point.
    everything = (1 << exit_block + 1) - 1
    dominators = [everything] * exit_block + [1 << exit_block]
    changed = True
    while changed:
        changed = False
        for number in reversed(range(exit_block)):
            common = everything
            for successor in successors[number]:
                common &= dominators[successor]
            common |= 1 << number
            if common != dominators[number]:
                dominators[number] = common
                changed = True
    result = {}
    for number, start in enumerate(starts):
        last = (starts[number + 1] if number + 1 < len(starts) else len(code)) - 1
        if code[last].name[0] != "bra" or code[last].guard is None:
            continue
        others = dominators[number] & ~(1 << number)
        # The nearest one is dominated by all others.
        for candidate in range(exit_block):
            if others >> candidate & 1 and dominators[candidate] | 1 << exit_block == others | 1 << exit_block:
                result[last] = starts[candidate]
    return result
