"""Random programs whose every value is compared with the range that is stated of it.

`python test/python/range_programs.py --cases 1000000` runs until so many elements and rows were compared;
exit status 1 when one was outside. Inputs cover their declared ranges: ends, zeros, all magnitudes, single large elements.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek import ACG
from deepseek.precision.ranges import Range, ranges_of_results
from deepseek.reference import program as reference

STEPS = 14
ROWS = (0, 1, 3, 40)
MAGNITUDES = (1e-30, 1e-4, 0.5, 1.0, 3.0, 80.0, 6e4, 1e10, 2e19, 3e38)

UNARY: list[Callable[[Any], Any]] = [
    ACG.exp, ACG.exp2, ACG.expm1, ACG.tanh, ACG.erf, ACG.erfc, ACG.sigmoid, ACG.silu, ACG.relu, ACG.gelu, ACG.abs,
    ACG.negative, ACG.square, ACG.sin, ACG.cos, ACG.arctan, ACG.cbrt, ACG.floor, ACG.rint, ACG.reciprocal, ACG.arcsinh,
    ACG.sinh, ACG.cosh, ACG.softmax, ACG.sign,
    lambda x: ACG.gelu(x, True), lambda x: ACG.sqrt(ACG.abs(x)), lambda x: ACG.rsqrt(ACG.abs(x) + 1e-3),
    lambda x: ACG.log(ACG.abs(x) + 0.25), lambda x: ACG.log1p(ACG.abs(x)), lambda x: 1 / (1 + ACG.square(x)),
    lambda x: ACG.clip(x, -2.0, 5.0), lambda x: x * 0.125 - 3, lambda x: x**3, lambda x: (x + 1) ** 2.5,
    lambda x: x - ACG.max(x, -1, keepdims=True), lambda x: x / (1e-3 + ACG.sum(ACG.abs(x), -1, keepdims=True)),
    lambda x: x - ACG.mean(x, -1, keepdims=True), lambda x: ACG.var(x, -1, keepdims=True) + x,
    lambda x: ACG.min(x, -1, keepdims=True) * x, lambda x: ACG.prod(ACG.tanh(x), -1, keepdims=True) + x,
    lambda x: ACG.cumsum(x, -1), lambda x: ACG.cumprod(ACG.sin(x), -1), lambda x: ACG.cummax(x, -1)[0],
    lambda x: ACG.logcumsumexp(x, -1), lambda x: ACG.logsumexp(x, -1)[:, None] + x, lambda x: ACG.flip(x, 1),
    lambda x: x.astype("f16").astype("f32"), lambda x: x.astype("bf16").astype("f32"),
    lambda x: ACG.clip(x, -1e3, 1e3).astype("i32").astype("f32"), lambda x: x.T.T + ACG.max(x.T, 0)[:, None],
    lambda x: ACG.concatenate([x[:, 2:], x[:, :2] * 2], 1), lambda x: ACG.pad(x[:, 1:-1], ((0, 0), (1, 1))),
    lambda x: ACG.layer_norm(x), lambda x: ACG.sum(x, 0) + x, lambda x: ACG.max(ACG.abs(x), 1)[:, None] + x,
]  # fmt: skip
BINARY: list[Callable[[Any, Any], Any]] = [
    ACG.add, ACG.subtract, ACG.multiply, ACG.maximum, ACG.minimum, ACG.divide, ACG.copysign, ACG.fmod, ACG.arctan2,
    lambda x, y: ACG.where(x > y, x, y * 0.5), lambda x, y: x / (1 + ACG.abs(y)), lambda x, y: ACG.silu(x) * y,
    lambda x, y: ACG.tanh(x) * y, lambda x, y: ACG.abs(x) ** ACG.tanh(y), lambda x, y: ACG.softmax(x @ y.T) @ y,
    lambda x, y: ACG.concatenate([x[:, ::2], y[:, 1::2]], 1), lambda x, y: x + (x * y).sum(-1, keepdims=True),
]  # fmt: skip


@dataclass
class Program:
    """A traced function of inputs x, y [n, d], ids [n] and parameters; it returns every value of its chain."""

    graph: Any
    intervals: dict[str, tuple[float, ...]]
    parameters: dict[str, np.ndarray]
    width: int
    ranges: list[Range | None] = field(default_factory=list)


def interval(rng: np.random.Generator) -> tuple[float, float]:
    """A range whose ends are numbers of f32."""
    a = float(np.float32(rng.choice(MAGNITUDES) * rng.uniform(0.3, 1)))
    b = float(np.float32(a * rng.uniform(0, 1)))
    return [(-a, a), (0.0, a), (b, a), (-a, -b), (-b, a), (a, a)][rng.integers(6)]


def values(rng: np.random.Generator, shape: tuple[int, ...], lo: float, hi: float) -> np.ndarray:
    """Numbers of f32 within [lo, hi], of all sizes."""
    small = np.exp(rng.uniform(-30, 0, shape)) * rng.choice([-1, 1], shape)
    kinds = [
        rng.uniform(0, 1, shape) * (hi - lo) + lo,
        rng.choice([lo, hi], shape),
        np.full(shape, rng.choice([lo, hi, np.clip(0, lo, hi)])),
        small * max(abs(lo), abs(hi)),
        np.where(rng.random(shape) < 0.15, rng.choice([lo, hi], shape), np.clip(0, lo, hi)),
    ]
    drawn = np.choose(rng.integers(0, len(kinds), (*shape[:-1], 1)) * np.ones(shape, int), kinds)
    return np.clip(drawn.astype(np.float32), np.float32(lo), np.float32(hi))


def measured(array: np.ndarray) -> tuple[float, float, float]:
    wide = array.reshape(-1, array.shape[-1]).astype(np.float64)
    return float(wide.min()), float(wide.max()), float(np.sqrt(np.square(wide).sum(-1).max())) * (1 + 1e-12)


def make(seed: int, steps: int = STEPS) -> Program:
    rng = np.random.default_rng(seed)
    width = int(rng.choice([4, 8, 12]))
    shapes = {"w": (width, width), "g": (width,), "b": (width,), "table": (11, width)}
    parameters = {name: values(rng, shape, *interval(rng)) for name, shape in shapes.items()}
    for name in ("w", "g", "b"):  # most layers are of moderate size
        if rng.random() < 0.7:
            parameters[name] = rng.standard_normal(shapes[name]).astype(np.float32)
    intervals = {"x": interval(rng), "y": interval(rng)} | {name: measured(a) for name, a in parameters.items()}
    specs = [ACG.spec("f32", ("n", width), "x"), ACG.spec("f32", ("n", width), "y"), ACG.spec("i32", ("n",), "ids")]
    specs += [ACG.spec("f32", shape, name) for name, shape in shapes.items()]

    def run(x: Any, y: Any, ids: Any, w: Any, g: Any, b: Any, table: Any) -> tuple[Any, ...]:
        pool, made = [x, y], []
        for _ in range(steps):
            kind = rng.integers(10)
            a, c = (pool[rng.integers(len(pool))] for _ in range(2))
            if kind < 4:
                made.append(UNARY[rng.integers(len(UNARY))](a))
            elif kind < 7:
                made.append(BINARY[rng.integers(len(BINARY))](a, c))
            else:
                made += structured(int(rng.integers(11)), a, c, ids, w, g, b, table)
            pool.append(made[-1])
        return tuple(made)

    graph = ACG.trace(run, *specs)
    program = Program(graph, intervals, parameters, width)
    program.ranges = ranges_of_results(graph.mlir, inputs=intervals)
    return program


def structured(kind: int, x: Any, y: Any, ids: Any, w: Any, g: Any, b: Any, table: Any) -> list[Any]:
    n, width = x.shape
    heads = (1, n, 2, width // 2)
    if kind == 0:
        return [ACG.rms_norm(x, g, 1e-5)]
    if kind == 1:
        return [ACG.layer_norm(x, g, b, 1e-3)]
    if kind == 2:
        return [x @ w]
    if kind == 3:
        return [ACG.matmul(x, w, bias=b, transpose_rhs=True)]
    if kind == 4:
        return [ACG.embedding(table, ids) + x * 0]
    if kind == 5:
        angle = y.reshape(1, n, width)[:, :, : width // 4]
        turned = ACG.rope(x.reshape(*heads), ACG.cos(angle), ACG.sin(angle))
        return [turned, turned.reshape(n, width)]
    if kind == 6:
        scaled = ACG.rope(x.reshape(*heads), ACG.tanh(y[:, : width // 4])[None], ACG.cos(y[:, : width // 4])[None])
        return [scaled.reshape(n, width)]
    if kind == 7:
        return [ACG.matmul(x, w, factors="bf16")]
    q, k, v = x.reshape(*heads), y.reshape(*heads), ACG.maximum(x, y).reshape(*heads)
    options: dict[str, Any] = [{"causal": True}, {"factors": "bf16", "window": 3, "causal": True}, {"soft_cap": 2.0}][
        kind - 8
    ]
    if kind == 10:
        options["mask"] = (x[:, :1] > 0).reshape(1, 1, n, 1)
    seen = ACG.attention(q, k, v, **options)
    return [seen, seen.reshape(n, width)]


def compare(program: Program, outputs: Any, seed: int) -> tuple[int, list[str]]:
    """Elements and rows that were compared with a bound, and what lies outside. NaN is not spoken of."""
    cases, wrong = 0, []
    for number, (output, known) in enumerate(zip(outputs, program.ranges)):
        array = np.asarray(output)
        if known is None or array.dtype.kind != "f":
            continue
        wide = array.astype(np.float64)
        number_of = ~np.isnan(wide)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.square(wide).sum(-1)) if wide.ndim and wide.shape[-1] else np.zeros(0)
        outside = number_of & ~((known.lo <= wide) & (wide <= known.hi))
        too_long = norms > known.norm
        cases += int(number_of.sum()) + norms.size
        if outside.any() or too_long.any():
            seen = wide[outside][0] if outside.any() else norms[too_long][0]
            wrong.append(f"seed {seed}, result {number}: {seen!r} outside {known}")
    return cases, wrong


def check(
    seed: int, samples: int = 3, with_reference: bool = True, rows: tuple[int, ...] = ROWS
) -> tuple[int, list[str]]:
    """Compiles one program and compares all its values for some inputs, and once those of real arithmetic."""
    program = make(seed)
    compiled = program.graph.compile()
    rng = np.random.default_rng(seed + 1)
    cases, wrong = 0, []
    for sample in range(samples):
        for n in rows:
            inputs = [values(rng, (n, program.width), *program.intervals[name]) for name in ("x", "y")]
            inputs += [rng.integers(0, 11, n).astype(np.int32), *program.parameters.values()]
            results = [compiled(*inputs)]
            if with_reference and sample == 0:
                results.append(reference.run(program.graph.mlir, *inputs))
            for outputs in results:
                more, found = compare(program, outputs, seed)
                cases, wrong = cases + more, wrong + found
    return cases, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000, help="elements and rows to compare")
    parser.add_argument("--seed", type=int, default=0, help="number of the first program")
    options = parser.parse_args()
    begin, cases, programs, wrong = time.perf_counter(), 0, 0, []
    while cases < options.cases:
        more, found = check(options.seed + programs, samples=10, rows=(1, 200))
        cases, programs, wrong = cases + more, programs + 1, wrong + found
    print(
        f"{cases:,} elements and rows of {programs} programs in {time.perf_counter() - begin:.0f} s, {len(wrong)} outside"
    )
    print(*wrong[:20], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
