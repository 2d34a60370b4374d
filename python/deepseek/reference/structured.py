"""The `linalg` dialect: `generic` and the named operations, whose regions and maps say the same.

A body runs once on whole index spaces: an operand read through its indexing map is an array of
one axis per loop, of size 1 along loops it does not depend on. Loops that no output depends on
are reductions. If every output is combined by a known operation, its terms are computed for the
whole space and reduced; otherwise the reduction loops run one by one, in order, vectorised over
the parallel loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.reference.interpreter import Node, operation
from deepseek.reference.numerics import Element, signed, unsigned


@dataclass(frozen=True)
class Subscript:
    """One result of an indexing map: a loop, a constant, or an expression over the loops' indices."""

    loop: int | None = None
    constant: int | None = None
    expression: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None

    def evaluate(self, grids: Sequence[np.ndarray]) -> np.ndarray:
        if self.loop is not None:
            return grids[self.loop]
        return np.asarray(self.constant) if self.expression is None else np.asarray(self.expression(grids))


_BINARY: dict[str, Callable] = {
    "AffineAddExpr": np.add,
    "AffineMulExpr": np.multiply,
    "AffineModExpr": np.remainder,
    "AffineFloorDivExpr": np.floor_divide,
    "AffineCeilDivExpr": lambda a, b: -np.floor_divide(-a, b),
}


def _subscript(expression: Any) -> Subscript:
    kind = type(expression).__name__
    if kind == "AffineDimExpr":
        return Subscript(loop=expression.position)
    if kind == "AffineConstantExpr":
        return Subscript(constant=expression.value)
    if kind not in _BINARY:
        raise ValueError(f"indexing map result {expression} is not covered")
    left, right = _subscript(expression.lhs), _subscript(expression.rhs)
    return Subscript(expression=lambda grids: _BINARY[kind](left.evaluate(grids), right.evaluate(grids)))


def _maps(node: Node) -> list[list[Subscript]]:
    return [[_subscript(e) for e in attribute.value.results] for attribute in node.attribute("indexing_maps")]


def _loop_count(node: Node) -> int:
    return node.attribute("indexing_maps")[0].value.n_dims


def _bounds(node: Node, loops: int, maps: list[list[Subscript]], arrays: list[np.ndarray]) -> list[int]:
    """The size of each loop, from the operands that it subscripts alone."""
    bounds: list[int | None] = [None] * loops
    for subscripts, array in zip(maps, arrays):
        if len(subscripts) != array.ndim:
            raise node.error(f"an operand of shape {list(array.shape)} has a map with {len(subscripts)} results")
        for subscript, size in zip(subscripts, array.shape):
            if subscript.loop is None:
                continue
            if bounds[subscript.loop] not in (None, size):
                raise node.error(f"loop d{subscript.loop} must have one size, got {bounds[subscript.loop]} and {size}")
            bounds[subscript.loop] = size
    if None in bounds:
        raise node.error(f"the size of loop d{bounds.index(None)} does not follow from any operand")
    return bounds


def _read(x: np.ndarray, subscripts: list[Subscript], grids: list[np.ndarray]) -> np.ndarray:
    """The operand over the index space: one axis per loop."""
    loops = [s.loop for s in subscripts if s.loop is not None]
    if len(set(loops)) == len(loops) and all(s.expression is None for s in subscripts):
        x = x[tuple(slice(None) if s.loop is not None else s.constant for s in subscripts)]
        x = np.transpose(x, np.argsort(loops)) if loops else x
        return np.expand_dims(x, [d for d in range(len(grids)) if d not in loops])
    return take(x, [s.evaluate(grids) for s in subscripts])


def take(x: np.ndarray, indices: Sequence[np.ndarray]) -> np.ndarray:
    """x[indices] for broadcasting index arrays; IndexError for one outside of x."""
    indices = np.broadcast_arrays(*[np.asarray(i, np.int64) for i in indices]) if indices else []
    if indices and indices[0].size == 0:
        return np.empty(indices[0].shape, x.dtype)
    for axis, (index, size) in enumerate(zip(indices, x.shape)):
        if index.min() < 0 or index.max() >= size:
            bad = index.min() if index.min() < 0 else index.max()
            raise IndexError(f"index {bad} is outside of dimension {axis} of shape {list(x.shape)}")
    return x[tuple(indices)]


def _write(init: np.ndarray, subscripts: list[Subscript], value: np.ndarray, bounds: list[int]) -> np.ndarray:
    """The output after `value`, which has one axis per loop, was stored through the map."""
    loops = [s.loop for s in subscripts if s.loop is not None]
    value = np.broadcast_to(value, [bounds[d] if d in loops else 1 for d in range(len(bounds))])
    value = value[tuple(slice(None) if d in loops else 0 for d in range(len(bounds)))]
    value = np.transpose(value, np.argsort(np.argsort(loops))) if loops else value
    out = np.array(init, order="C")
    out[tuple(slice(None) if s.loop is not None else s.constant for s in subscripts)] = value
    return out


# name: ufunc, and how integers are read (None: floats)
COMBINERS: dict[str, tuple[np.ufunc, Callable | None]] = {
    "arith.addf": (np.add, None),
    "arith.mulf": (np.multiply, None),
    "arith.maximumf": (np.maximum, None),
    "arith.minimumf": (np.minimum, None),
    "arith.maxnumf": (np.fmax, None),
    "arith.minnumf": (np.fmin, None),
    "arith.addi": (np.add, lambda x, e: signed(x)),
    "arith.muli": (np.multiply, lambda x, e: signed(x)),
    "arith.maxsi": (np.maximum, lambda x, e: signed(x)),
    "arith.minsi": (np.minimum, lambda x, e: signed(x)),
    "arith.maxui": (np.maximum, unsigned),
    "arith.minui": (np.minimum, unsigned),
    "arith.andi": (np.bitwise_and, lambda x, e: signed(x)),
    "arith.ori": (np.bitwise_or, lambda x, e: signed(x)),
    "arith.xori": (np.bitwise_xor, lambda x, e: signed(x)),
}


def _combiners(block: Any, input_count: int) -> list[tuple[Any, Any]] | None:
    """Per output (combining operation, its term), or None if an output is not such a reduction.

    An accumulator that is used only by its combiner cannot reach any term.
    """
    *_, terminator = block.operations
    found = []
    for position, value in enumerate(terminator.operation.operands):
        accumulator = block.arguments[input_count + position]
        op = getattr(value.owner, "operation", value.owner)
        if getattr(op, "name", None) not in COMBINERS:
            return None
        left, right = op.operands
        if accumulator not in (left, right) or left == right:
            return None
        if len(list(accumulator.uses)) != 1 or len(list(value.uses)) != 1:
            return None
        found.append((op, right if left == accumulator else left))
    return found


def _reduce(node: Node, name: str, term: np.ndarray, init: np.ndarray, axes: list[int], element: Element) -> np.ndarray:
    """init combined with every element of `term` along `axes`, which stay with size 1."""
    ufunc, read = COMBINERS[name]
    steps = math.prod(term.shape[a] for a in axes)
    if steps == 0:
        return init
    if read is not None:
        reduced = ufunc.reduce(read(term, element), axis=tuple(axes), keepdims=True)
        return node.numerics.result(ufunc(reduced, read(init, element)), element)
    if not node.numerics.strict or ufunc not in (np.add, np.multiply):
        return ufunc(init, ufunc.reduce(term, axis=tuple(axes), keepdims=True))
    # In the order of the loops, starting from init, rounding every step.
    kept = [a for a in range(term.ndim) if a not in axes]
    shape = [1 if a in axes else term.shape[a] for a in range(term.ndim)]
    rows = np.transpose(term, kept + axes).reshape([term.shape[a] for a in kept] + [steps])
    start = np.broadcast_to(init, shape).reshape(rows.shape[:-1])[..., None]
    return ufunc.accumulate(np.concatenate([start, rows], axis=-1), axis=-1)[..., -1].reshape(shape)


def structured(
    node: Node, loops: int, maps: list[list[Subscript]], inputs: list[np.ndarray], inits: list[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Executes the operation's body over its index space; returns one array per output."""
    bounds = _bounds(node, loops, maps, inputs + inits)
    output_maps = maps[len(inputs) :]
    for subscripts in output_maps:
        used = [s.loop for s in subscripts if s.loop is not None]
        if len(set(used)) != len(used) or any(s.expression is not None for s in subscripts):
            raise node.error("an output map that is not a projected permutation is not covered")
    kept = {s.loop for subscripts in output_maps for s in subscripts if s.loop is not None}
    reduction = [d for d in range(loops) if d not in kept]
    grids = [np.arange(size).reshape([-1 if d == a else 1 for a in range(loops)]) for d, size in enumerate(bounds)]
    block = node.op.regions[0].blocks[0]
    terms = [_read(x, m, grids) for x, m in zip(inputs, maps)]
    accumulators = [_read(x, m, grids) for x, m in zip(inits, output_maps)]
    combiners = _combiners(block, len(inputs)) if reduction else None
    if combiners is not None:
        values = _run_without(node, block, terms, accumulators, grids, [op for op, _ in combiners])
        results = []
        for index, (op, term) in enumerate(combiners):
            # Each output reduces over the loops of its own that it does not keep.
            own = [s.loop for s in output_maps[index]]
            axes = [d for d in range(loops) if d not in own]
            full = np.broadcast_to(values[term], bounds)
            results.append(_reduce(node, op.name, full, accumulators[index], axes, node.result_element(index)))
    else:
        if any({s.loop for s in m if s.loop is not None} != kept for m in output_maps):
            raise node.error("outputs over different loops are covered only as known reductions")
        results = accumulators
        for point in np.ndindex(*[bounds[d] for d in reduction]):
            at = dict(zip(reduction, point))
            here = [_at(g, at) for g in grids]
            results = _run(node, [_at(t, at) for t in terms] + results, here)
    return tuple(
        node.check_shape(_write(init, m, result, bounds), index)
        for index, (init, m, result) in enumerate(zip(inits, output_maps, results))
    )


def _at(x: np.ndarray, point: dict[int, int]) -> np.ndarray:
    """The part of an array over the index space at given positions of some loops."""
    for axis, position in point.items():
        start = position if x.shape[axis] > 1 else 0
        x = x[(slice(None),) * axis + (slice(start, start + 1),)]
    return x


def _run(node: Node, arguments: list[np.ndarray], grids: list[np.ndarray]) -> list[np.ndarray]:
    node.interpreter.grids = grids
    return node.run_region(*arguments)


def _run_without(
    node: Node, block: Any, terms: list[np.ndarray], inits: list[np.ndarray], grids: list[np.ndarray], skipped: list
) -> dict:
    """All values of a body except those of the skipped operations."""
    node.interpreter.grids = grids
    values = node.values
    values.update(zip(block.arguments, terms + inits))
    skipped_results = {op.results[0] for op in skipped}
    *operations, _ = block.operations
    for op in operations:
        op = op.operation
        if not skipped_results.intersection(op.results):
            values.update(zip(op.results, node.interpreter.execute(op, values)))
    return values


@operation("linalg.index")
def index(node: Node) -> np.ndarray:
    return node.interpreter.grids[node.attribute("dim")]


@operation("linalg.generic", "linalg.matmul", "linalg.batch_matmul", "linalg.contract", "linalg.elementwise")
def generic(node: Node) -> tuple[np.ndarray, ...]:
    inputs, inits = node.segments()
    return structured(node, _loop_count(node), _maps(node), inputs, inits)


ELEMENTWISE = (
    "abs add ceil copy div div_unsigned erf exp floor log max min mul negf powf reciprocal round rsqrt select "
    "sqrt square sub tanh"
)


@operation(*(f"linalg.{name}" for name in ELEMENTWISE.split()))
def elementwise(node: Node) -> tuple[np.ndarray, ...]:
    inputs, inits = node.segments()
    return _identity(node, inputs, inits)


@operation("linalg.map")
def map_(node: Node) -> tuple[np.ndarray, ...]:
    *inputs, init = node.operands
    return _identity(node, inputs, [init])


def _identity(node: Node, inputs: list[np.ndarray], inits: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    rank = inits[0].ndim
    maps = [[Subscript(loop=d) for d in range(x.ndim)] for x in inputs + inits]
    return structured(node, rank, maps, inputs, inits)


@operation("linalg.fill")
def fill(node: Node) -> np.ndarray:
    value, init = node.operands
    return np.full(init.shape, value, init.dtype)


@operation("linalg.transpose")
def transpose(node: Node) -> np.ndarray:
    return node.check_shape(np.transpose(node.operands[0], node.attribute("permutation")))


@operation("linalg.broadcast")
def broadcast(node: Node) -> np.ndarray:
    x, init = node.operands
    return np.broadcast_to(np.expand_dims(x, node.attribute("dimensions")), init.shape)


@operation("linalg.reduce")
def reduce(node: Node) -> tuple[np.ndarray, ...]:
    inputs, inits = node.operands[: len(node.operands) // 2], node.operands[len(node.operands) // 2 :]
    dimensions = node.attribute("dimensions")
    every = [Subscript(loop=d) for d in range(inputs[0].ndim)]
    kept = [s for s in every if s.loop not in dimensions]
    return structured(node, inputs[0].ndim, [every] * len(inputs) + [kept] * len(inits), inputs, inits)
