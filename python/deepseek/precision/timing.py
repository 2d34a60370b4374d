"""How long one token takes to multiply with a matrix in each format, measured on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np

from deepseek.formats import PLAIN_BITS, find_format

__all__ = ["product_seconds"]

_BYTES = 96 << 20  # of matrices that are read in turn: more than caches hold
_COPIES = 24
_RUNS = 5
_DTYPES = {"f32": np.float32, "f16": np.uint16, "bf16": np.uint16}


def product_seconds(
    products: Iterable[tuple[int, int, str]],
    target: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[int, int, str], float]:
    """Seconds of x [1, in] times the transpose of a weight [out, in], by (out, in, format): medians, weights from memory.

    Formats are those of `groups.FORMATS` values. Raises `CompileError`, `ExecutionError`.
    """
    from deepseek.compiler import compile_text
    from deepseek.executable import Executable

    wanted = list(dict.fromkeys(products))
    found: dict[tuple[int, int, str], float] = {}
    for number, (rows, columns, name) in enumerate(wanted, 1):
        weight = _weight(rows, columns, name)
        copies = max(1, min(_COPIES, _BYTES // weight.nbytes))
        code = compile_text(_program(rows, columns, name, copies), target=target)
        program = Executable(code.object, code.manifest, threads=threads)
        program.bind_weights({f"w{i}": weight.copy() for i in range(copies)})
        x = np.ones((1, columns), np.float32)
        program(x)
        times = []
        for _ in range(_RUNS):
            begin = time.perf_counter()
            program(x)
            times.append(time.perf_counter() - begin)
        found[rows, columns, name] = float(f"{statistics.median(times) / copies:.2g}")
        if progress is not None:
            progress(number, len(wanted))
    return found


def _weight(rows: int, columns: int, name: str) -> np.ndarray:
    form = find_format(name, columns)
    dtype = np.dtype(_DTYPES.get(form.name, np.uint8))
    # Any bytes do that are no NaN and no subnormal scale.
    return np.full(rows * form.row_bytes(columns), 0x3C, np.uint8).view(dtype).reshape(rows, -1)


def _program(rows: int, columns: int, name: str, copies: int) -> str:
    form = find_format(name, columns)
    values = f"tensor<{rows}x{columns}xf32>"
    plain = form.name in PLAIN_BITS
    stored = f"tensor<{rows}x{columns}x{form.name}>" if plain else f"tensor<{rows}x{form.row_bytes(columns)}xi8>"
    x, y = f"tensor<1x{columns}xf32>", f"tensor<1x{rows}xf32>"
    lines: list[str] = []
    for i in range(copies):
        weight = f"%w{i}"
        if not plain:
            lines.append(f'  %d{i} = dsc.dequantize %w{i} {{format = "{form.name}"}} : {stored} -> {values}')
            weight = f"%d{i}"
        kind = stored if plain else values
        lines.append(f"  %y{i} = dsc.matmul %x, {weight} {{transpose_rhs}} : ({x}, {kind}) -> {y}")
    arguments = "".join(f', %w{i}: {stored} {{dsc.weight = "w{i}"}}' for i in range(copies))
    results = ", ".join([y] * copies)
    returned = ", ".join(f"%y{i}" for i in range(copies))
    body = "\n".join(lines)
    return f"func.func @main(%x: {x}{arguments}) -> ({results}) {{\n{body}\n  return {returned} : {results}\n}}\n"
