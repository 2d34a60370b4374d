"""`linalg.generic` on torch tensors: its body runs once on whole index spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deepseek.errors import InputError

__all__ = ["execute_generic"]


def _read(x: Tensor, map_: Any, loops: int, grids: list[Tensor]) -> Tensor:
    """The operand over the loops: one axis per loop, of size 1 along those that it does not depend on."""
    kinds = [type(e).__name__ for e in map_.results]
    dims = [e.position for e, kind in zip(map_.results, kinds) if kind == "AffineDimExpr"]
    if all(kind in ("AffineDimExpr", "AffineConstantExpr") for kind in kinds) and len(set(dims)) == len(dims):
        index = tuple(slice(None) if k == "AffineDimExpr" else e.value for e, k in zip(map_.results, kinds))
        x = x[index] if index else x
        x = x.permute(sorted(range(len(dims)), key=dims.__getitem__)) if dims else x
        shape = iter(x.shape)
        return x.reshape([next(shape) if d in dims else 1 for d in range(loops)])
    return x[tuple(_subscript(e, grids) for e in map_.results)]


def _subscript(expression: Any, grids: list[Tensor]) -> Any:
    kind = type(expression).__name__
    if kind == "AffineDimExpr":
        return grids[expression.position]
    if kind == "AffineConstantExpr":
        return torch.tensor(expression.value)
    left, right = _subscript(expression.lhs, grids), _subscript(expression.rhs, grids)
    return {
        "AffineAddExpr": lambda: left + right,
        "AffineMulExpr": lambda: left * right,
        "AffineModExpr": lambda: left % right,
        "AffineFloorDivExpr": lambda: left // right,
        "AffineCeilDivExpr": lambda: -(-left // right),
    }[kind]()


def _bounds(op: Any, maps: list[Any], operands: list[Tensor]) -> list[int]:
    bounds: dict[int, int] = {}
    for map_, x in zip(maps, operands):
        for expression, size in zip(map_.results, x.shape):
            if type(expression).__name__ == "AffineDimExpr":
                bounds[expression.position] = size
    loops = maps[0].n_dims
    if len(bounds) != loops:
        raise InputError(f"{op.location}: the size of a loop does not follow from the operands of {op.name}")
    return [bounds[d] for d in range(loops)]


def execute_generic(run: Any, op: Any, operands: list[Tensor]) -> Any:
    """The results of a linalg.generic: elementwise over all loops, or reduced by a known combination."""
    maps = [attribute.value for attribute in op.attributes["indexing_maps"]]
    inits, inputs = operands[len(operands) - len(op.results) :], operands[: len(operands) - len(op.results)]
    bounds = _bounds(op, maps, operands)
    loops = len(bounds)
    grids = [torch.arange(n).reshape([-1 if d == a else 1 for a in range(loops)]) for d, n in enumerate(bounds)]
    block = op.regions[0].blocks[0]
    values = dict(zip(block.arguments, (_read(x, m, loops, grids) for x, m in zip(operands, maps))))
    body = [inner.operation for inner in block.operations]
    output_maps = maps[len(inputs) :]
    kept = [e.position for e in output_maps[0].results if type(e).__name__ == "AffineDimExpr"]
    reduced = [d for d in range(loops) if d not in kept]
    combiners = {}
    if reduced:
        for number, value in enumerate(body[-1].operands):
            combiner = getattr(value.owner, "operation", value.owner)
            accumulator = block.arguments[len(inputs) + number]
            if combiner.name not in _REDUCTIONS or accumulator not in list(combiner.operands):
                raise InputError(f"{op.location}: calibration does not know this reduction")
            left, right = combiner.operands
            combiners[number] = (combiner, right if left == accumulator else left)
    skipped = {id(combiner) for combiner, _ in combiners.values()}
    names = {combiner for combiner, _ in combiners.values()}
    for inner in body[:-1]:
        if id(inner) in skipped or inner in names:
            continue
        arguments = [values[v] if v in values else run.values[v] for v in inner.operands]
        values[inner.results[0]] = _scalar(inner, arguments, grids)
    results = []
    for number, (map_, init) in enumerate(zip(output_maps, inits)):
        dims = [e.position for e in map_.results]
        if reduced:
            combiner, term = combiners[number]
            full = torch.as_tensor(values[term]).expand(bounds)
            start = _read(init, map_, loops, grids)
            out = _REDUCTIONS[combiner.name](full, reduced, start)
        else:
            value = body[-1].operands[number]
            out = torch.as_tensor(values[value] if value in values else run.values[value])
            out = out.reshape([1] * (loops - out.ndim) + list(out.shape)) if out.ndim < loops else out
            out = out.expand(bounds)
        out = out.reshape([n for d, n in enumerate(out.shape) if d in dims])
        order = sorted(dims)
        out = out.permute([order.index(d) for d in dims]) if dims else out
        results.append(out.to(init.dtype))
    return tuple(results)


_REDUCTIONS: dict[str, Callable[[Tensor, list[int], Tensor], Tensor]] = {
    "arith.addf": lambda x, axes, start: x.sum(axes, keepdim=True) + start,
    "arith.addi": lambda x, axes, start: x.sum(axes, keepdim=True) + start,
    "arith.maximumf": lambda x, axes, start: torch.maximum(x.amax(axes, keepdim=True), start),
    "arith.minimumf": lambda x, axes, start: torch.minimum(x.amin(axes, keepdim=True), start),
    "arith.maxsi": lambda x, axes, start: torch.maximum(x.amax(axes, keepdim=True), start),
    "arith.minsi": lambda x, axes, start: torch.minimum(x.amin(axes, keepdim=True), start),
}

_ORDERED = {
    "oeq": torch.eq, "ogt": torch.gt, "oge": torch.ge, "olt": torch.lt, "ole": torch.le, "one": torch.ne,
    "ueq": torch.eq, "ugt": torch.gt, "uge": torch.ge, "ult": torch.lt, "ule": torch.le, "une": torch.ne,
}  # fmt: skip
# arith.cmpf and arith.cmpi number their predicates.
_CMPF = ["", "oeq", "ogt", "oge", "olt", "ole", "one", "", "ueq", "ugt", "uge", "ult", "ule", "une"]
_CMPI = [torch.eq, torch.ne, torch.lt, torch.le, torch.gt, torch.ge, torch.lt, torch.le, torch.gt, torch.ge]

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "arith.addf": torch.add, "arith.addi": torch.add, "arith.subf": torch.sub, "arith.subi": torch.sub,
    "arith.mulf": torch.mul, "arith.muli": torch.mul, "arith.divf": torch.div, "arith.negf": torch.neg,
    "arith.maximumf": torch.maximum, "arith.minimumf": torch.minimum, "arith.maxnumf": torch.fmax,
    "arith.minnumf": torch.fmin, "arith.maxsi": torch.maximum, "arith.minsi": torch.minimum,
    "arith.andi": torch.bitwise_and, "arith.ori": torch.bitwise_or, "arith.xori": torch.bitwise_xor,
    "arith.floordivsi": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "arith.divsi": lambda a, b: torch.div(a, b, rounding_mode="trunc"), "arith.remsi": torch.fmod,
    "arith.select": lambda c, a, b: torch.where(c, a, b),
    "math.exp": torch.exp, "math.exp2": torch.exp2, "math.log": torch.log, "math.sin": torch.sin,
    "math.cos": torch.cos, "math.tanh": torch.tanh, "math.erf": torch.erf, "math.sqrt": torch.sqrt,
    "math.rsqrt": torch.rsqrt, "math.absf": torch.abs, "math.absi": torch.abs, "math.floor": torch.floor,
    "math.ceil": torch.ceil, "math.roundeven": torch.round, "math.powf": torch.pow, "math.log1p": torch.log1p,
    "math.expm1": torch.expm1, "math.fma": lambda a, b, c: a * b + c,
}  # fmt: skip
_CASTS = {
    "arith.extf", "arith.truncf", "arith.sitofp", "arith.uitofp", "arith.fptosi", "arith.fptoui", "arith.extsi",
    "arith.extui", "arith.trunci", "arith.index_cast",
}  # fmt: skip


def _tensors(arguments: list[Any]) -> list[Tensor]:
    """Python numbers as tensors of the others' type."""
    dtype = next((a.dtype for a in arguments if isinstance(a, Tensor) and a.dtype != torch.bool), None)
    return [
        a if isinstance(a, Tensor) else torch.tensor(a, dtype=None if isinstance(a, bool) else dtype) for a in arguments
    ]


def _scalar(op: Any, arguments: list[Any], grids: list[Tensor]) -> Any:
    from deepseek.precision.torch.program import _DTYPES

    if op.name == "linalg.index":
        return grids[op.attributes["dim"].value]
    if op.name == "arith.constant":
        value = op.attributes["value"].value
        return math.inf if value == math.inf else value
    if op.name in _CASTS:
        return torch.as_tensor(arguments[0]).to(_DTYPES[str(op.results[0].type)])
    if op.name == "arith.cmpf":
        return _ORDERED[_CMPF[op.attributes["predicate"].value]](*_tensors(arguments))
    if op.name == "arith.cmpi":
        return _CMPI[op.attributes["predicate"].value](*_tensors(arguments))
    if op.name not in _ELEMENTWISE:
        raise InputError(f"{op.location}: calibration does not know the operation {op.name}")
    return _ELEMENTWISE[op.name](*_tensors(arguments))
