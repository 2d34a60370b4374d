"""Programs over named dimensions, and hypothesis strategies for their sizes and values.

A `Program` is the text of one module whose symbols are dynamic, so one compilation serves all
sizes that `examples(program)` draws. `Builder` writes such texts in the forms that frontends
print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

SIZES = (0, 1, 2, 3, 7, 16, 17, 31, 33, 64, 127)
"""Nothing, one, below, at and beside vector and tile widths, and a prime above them."""

DTYPES = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i8": np.dtype(np.int8),
    "i1": np.dtype(bool),
}

EPSILON = {"f64": 2.0**-53, "f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff: half the distance from 1 to the next number."""


@dataclass(frozen=True)
class Tensor:
    """Element type and dims of a value: a name stands for a dynamic size."""

    element: str
    dims: tuple[str | int, ...]

    def __str__(self) -> str:
        sizes = ["?" if isinstance(d, str) else str(d) for d in self.dims]
        return f"tensor<{'x'.join([*sizes, self.element])}>"

    @property
    def dims_attribute(self) -> str:
        names = ", ".join(f'"{d}"' if isinstance(d, str) else '"_"' for d in self.dims)
        return f"#dsc.dims<[{names}]>"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(sizes[d] if isinstance(d, str) else d for d in self.dims)


Values = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Draws an array of a shape; it is then converted to the argument's element type."""


@dataclass(frozen=True)
class Argument:
    """An argument of @main: `weight` marks raw storage, `values` overrides the drawn floats."""

    name: str
    tensor: Tensor
    values: Values | None = None
    weight: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Program:
    """A module and how to call it.

    `tolerance(inputs, expected, index)` is the r of `reference.compare` for result `index`, `mode`
    the reference's mode. `adjust` mends drawn arrays that depend on each other (lengths and
    capacities). `limit` bounds the product of the drawn sizes.
    """

    name: str
    text: str
    arguments: tuple[Argument, ...]
    tolerance: Callable[[list[np.ndarray], np.ndarray, int], float]
    adjust: Callable[[np.random.Generator, list[np.ndarray]], None] | None = None
    mode: str = "float64"
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    limit: int = 200_000

    def symbols(self) -> list[str]:
        return list(dict.fromkeys(d for a in self.arguments for d in a.tensor.dims if isinstance(d, str)))

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Example:
    """One call of a program."""

    sizes: dict[str, int]
    inputs: list[np.ndarray]
    weights: dict[str, np.ndarray]


def within(r: float) -> Callable[[list[np.ndarray], np.ndarray, int], float]:
    """The same tolerance for every result."""
    return lambda inputs, expected, index: r


def relative_to(magnitude: Callable[[list[np.ndarray]], np.ndarray], factor: float):
    """r such that r * max|expected| = factor * max(magnitude): for sums, whose error is bounded by
    the sum of absolute terms and not by the result (Higham 2002, section 3.1)."""

    def tolerance(inputs: list[np.ndarray], expected: np.ndarray, index: int) -> float:
        bound = np.max(magnitude([np.asarray(x, np.float64) for x in inputs]), initial=0.0)
        largest = np.max(np.abs(np.asarray(expected, np.float64)), initial=0.0)
        return float(factor * bound / largest) if largest > 0 else 0.0

    return tolerance


def floats(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal values, now and then all equal or spread over twelve binades."""
    kind = rng.integers(0, 6)
    if kind == 0:
        return np.full(shape, rng.choice([0.0, 1.0, -2.5]))
    x = rng.standard_normal(shape)
    return x * np.exp2(rng.integers(-6, 7, shape)) if kind == 1 else x


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def integers(low: int, high: int) -> Values:
    """Uniform in [low, high]."""
    return lambda rng, shape: rng.integers(low, high, shape, endpoint=True)


def _array(argument: Argument, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    dtype = DTYPES[argument.tensor.element]
    if argument.values is not None:
        return np.asarray(argument.values(rng, shape)).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "i":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return floats(rng, shape).astype(dtype)


@st.composite
def examples(draw: st.DrawFn, program: Program) -> Example:
    """Sizes of all symbols and arrays of these sizes."""
    choices = {name: program.sizes.get(name, SIZES) for name in program.symbols()}
    chosen = st.fixed_dictionaries({n: st.sampled_from([s for s in c if s]) for n, c in choices.items()})
    sizes = draw(chosen.filter(lambda s: math.prod(s.values()) <= program.limit))
    # At most one size is 0, and in less than half of the calls: an empty call tests little else.
    empty = draw(st.sampled_from([*[None] * 5, *(n for n, c in choices.items() if 0 in c)]))
    if empty is not None:
        sizes[empty] = 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = [_array(a, rng, a.tensor.shape(sizes)) for a in program.arguments]
    if program.adjust is not None:
        program.adjust(rng, arrays)
    inputs = [x for x, a in zip(arrays, program.arguments, strict=True) if not a.weight]
    weights = {a.name: x for x, a in zip(arrays, program.arguments, strict=True) if a.weight}
    return Example(sizes, inputs, weights)


class Builder:
    """Writes the text of one @main, an operation per line."""

    def __init__(self, *arguments: Argument) -> None:
        self.arguments = arguments
        self._lines: list[str] = []
        self._sizes: dict[str | int, str] = {}
        for name in dict.fromkeys(d for a in arguments for d in a.tensor.dims if isinstance(d, str)):
            self._sizes[name] = self.value(f'dsc.dim "{name}" : index')

    def value(self, text: str) -> str:
        """Appends an operation with one result and returns its name."""
        name = f"%v{len(self._lines)}"
        self._lines.append(f"{name} = {text}")
        return name

    def size(self, dim: str | int) -> str:
        """An index value: the size of a symbol, or a constant."""
        if dim not in self._sizes:
            self._sizes[dim] = self.value(f"arith.constant {dim} : index")
        return self._sizes[dim]

    def empty(self, tensor: Tensor) -> str:
        dynamic = ", ".join(self.size(d) for d in tensor.dims if isinstance(d, str))
        return self.value(f"tensor.empty({dynamic}) : {tensor}")

    def fill(self, tensor: Tensor, constant: str) -> str:
        scalar = self.value(f"arith.constant {constant} : {tensor.element}")
        init = self.empty(tensor)
        return self.value(f"linalg.fill ins({scalar} : {tensor.element}) outs({init} : {tensor}) -> {tensor}")

    def generic(
        self, result: Tensor, inputs: Sequence[tuple[str, Tensor, str]], output_map: str, loops: int,
        body: str, init: str | None = None,
    ) -> str:  # fmt: skip
        """A linalg.generic: inputs are (value, tensor, map results); the body reads %a0, %a1, ... and
        %o, and defines %r. Loops that `output_map` lacks are reductions."""
        domain = ", ".join(f"d{i}" for i in range(loops))
        kept = {part.strip() for part in output_map.split(",")}
        iterators = ", ".join('"parallel"' if f"d{i}" in kept else '"reduction"' for i in range(loops))
        maps = ", ".join(f"affine_map<({domain}) -> ({m})>" for m in [*(i[2] for i in inputs), output_map])
        outs = init or self.empty(result)
        ins = ""
        if inputs:
            ins = f"ins({', '.join(i[0] for i in inputs)} : {', '.join(str(i[1]) for i in inputs)}) "
        block = [f"%a{n}: {tensor.element}" for n, (_, tensor, _) in enumerate(inputs)] + [f"%o: {result.element}"]
        return self.value(
            f"linalg.generic {{indexing_maps = [{maps}], iterator_types = [{iterators}]}} "
            f"{ins}outs({outs} : {result}) {{\n"
            f"    ^bb0({', '.join(block)}):\n"
            + "".join(f"      {line.strip()}\n" for line in body.split(";"))
            + f"      linalg.yield %r : {result.element}\n    }} -> {result}"
        )

    def map(self, result: Tensor, body: str, *inputs: tuple[str, Tensor, str] | tuple[str, Tensor]) -> str:
        """An elementwise generic over all dims of the result."""
        identity = ", ".join(f"d{i}" for i in range(len(result.dims)))
        full = [(i[0], i[1], i[2] if len(i) == 3 else identity) for i in inputs]
        return self.generic(result, full, identity, len(result.dims), body)

    def module(self, *results: tuple[str, Tensor], tied: Mapping[int, int] | None = None) -> str:
        """The whole text; `tied`: index of a result to that of the argument it updates."""
        arguments = ",\n      ".join(
            f"%{a.name}: {a.tensor} {{"
            + (
                f'dsc.weight = "{a.name}"'
                if a.weight
                else f'dsc.name = "{a.name}", dsc.dims = {a.tensor.dims_attribute}'
            )
            + "}"
            for a in self.arguments
        )
        types = []
        for index, (_, tensor) in enumerate(results):
            tie = f", dsc.tied = {tied[index]} : i64" if tied and index in tied else ""
            types.append(f'{tensor} {{dsc.name = "r{index}", dsc.dims = {tensor.dims_attribute}{tie}}}')
        body = "\n".join(f"    {line}" for line in self._lines)
        values, result_types = ", ".join(v for v, _ in results), ", ".join(str(t) for _, t in results)
        return (
            f"module {{\n  func.func @main(\n      {arguments})\n      -> ({', '.join(types)}) {{\n{body}\n"
            f"    return {values} : {result_types}\n  }}\n}}\n"
        )
