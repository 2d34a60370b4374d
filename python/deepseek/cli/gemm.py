"""`deepseek bench gemm`: times one generated matrix product against the machine's own limit."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from deepseek.cli import common, progress
from deepseek.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from deepseek.executable import Executable

DTYPES = {"f32": ("f32", "f32", 4), "bf16": ("bf16", "f32", 2), "int8": ("i8", "i32", 1)}
_MODULE = """module {{
  func.func @main(%a: tensor<{m}x{k}x{element}> {lhs}, %b: tensor<{k}x{n}x{element}> {{dsc.weight = "b"}})
      -> tensor<{m}x{n}x{result}> {{
    %c = dsc.matmul %a, %b : (tensor<{m}x{k}x{element}>, tensor<{k}x{n}x{element}>) -> tensor<{m}x{n}x{result}>
    return %c : tensor<{m}x{n}x{result}>
  }}
}}"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """--m, --n, --k, --dtype, --pack."""
    group = parser.add_argument_group("deepseek bench gemm", "one matrix product, [m, k] x [k, n]")
    for name, meaning in (("m", "rows"), ("n", "columns"), ("k", "depth of the sums")):
        group.add_argument(f"--{name}", type=common.count(1), default=2048, help=f"{meaning} (default: %(default)s)")
    group.add_argument("--dtype", choices=DTYPES, default="f32", help="of both operands (default: %(default)s)")
    group.add_argument(
        "--pack",
        choices=("rhs", "both"),
        default="rhs",
        help="what is a weight, packed before the timing (default: rhs)",
    )


def run(options: argparse.Namespace) -> None:
    """Medians of `--runs` runs; the limit is measured between them."""
    values = measure(options)
    if options.json:
        common.print_json(values)
        return
    unit = "GOP/s" if options.dtype == "int8" else "GFLOP/s"
    print(f"{options.m} x {options.n} x {options.k} {options.dtype}, {values['threads']} threads, pack {options.pack}")
    print(f"  generated {values['gflops']:10.1f} {unit}  {values['seconds'] * 1e3:.3f} ms")
    print(f"  limit     {values['limit_gflops']:10.1f} {unit}  ratio {values['ratio']:.1%}")
    if values["vector_limit_gflops"] < values["limit_gflops"]:
        ratio = values["gflops"] / values["vector_limit_gflops"]
        print(f"  without tiles {values['vector_limit_gflops']:6.1f} {unit}  ratio {ratio:.1%}")
    print(f"  greatest error {values['max_rel_error']:.1e} of the greatest value")


@dataclass(frozen=True)
class Product:
    """A compiled product, ready to be called with `inputs`; `a` and `b` are its operands."""

    executable: Executable
    inputs: tuple[np.ndarray, ...]
    a: np.ndarray
    b: np.ndarray


def prepare(
    m: int, n: int, k: int, dtype: str, pack: str = "rhs", target: str = "cpu", threads: int | None = None
) -> Product:
    """Compiles [m, k] x [k, n] and binds random weights: the right side, with `pack` "both" the left one too."""
    import numpy as np

    from deepseek.compiler import compile_text
    from deepseek.executable import Executable

    element, result, _ = DTYPES[dtype]
    lhs = '{dsc.weight = "a"}' if pack == "both" else ""
    text = _MODULE.format(m=m, n=n, k=k, element=element, result=result, lhs=lhs)
    code = compile_text(text, target=target, source_name="gemm")
    executable = Executable(code.object, code.manifest, threads=threads)
    a, b = _operands(np, dtype, (m, k)), _operands(np, dtype, (k, n))
    executable.bind_weights({"a": a, "b": b})
    return Product(executable, () if pack == "both" else (a,), a, b)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The keys that `--json` prints. Raises InputError when the operands do not fit into memory."""
    m, n, k = options.m, options.n, options.k
    size = DTYPES[options.dtype][2]
    # Operands, the packed right side, the result, and all of it in float64 for the reference.
    needed = (m * k + 2 * k * n) * size + 4 * m * n + 8 * (m * k + k * n + 2 * m * n)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > available:
        raise InputError(f"the operands and their reference need {needed / 1e9:.1f} GB, {available / 1e9:.1f} are free")
    import numpy as np

    from deepseek import runtime

    product = prepare(m, n, k, options.dtype, options.pack, options.target or "cpu", options.threads)
    executable, inputs, a, b = product.executable, product.inputs, product.a, product.b
    output = executable(*inputs)
    output = output[0] if isinstance(output, (tuple, list)) else output
    threads = executable.context.threads
    seconds, limits, vectors = [], [], []
    for _ in progress.bar(range(options.runs), "runs"):
        begin = time.perf_counter()
        executable(*inputs)
        seconds.append(time.perf_counter() - begin)
        # A CPU without an instruction for it multiplies at the next one's rate.
        kinds = (f"{options.dtype}_tiles", options.dtype, "f32") if options.dtype != "f32" else ("f32",)
        limits.append(next(filter(None, (runtime.limit(kind, threads) for kind in kinds)), 0.0))
        vectors.append(next(filter(None, (runtime.limit(kind, threads) for kind in kinds[-2:])), 0.0))
    expected = a.astype(np.float64) @ b.astype(np.float64)
    greatest = float(np.abs(expected).max())
    error = float(np.abs(output - expected).max()) / (greatest or 1.0)
    gflops = 2 * m * n * k / median(seconds) / 1e9
    return {
        "m": m,
        "n": n,
        "k": k,
        "dtype": options.dtype,
        "pack": options.pack,
        "threads": threads,
        "gflops": gflops,
        "limit_gflops": max(limits),
        "vector_limit_gflops": max(vectors),
        "ratio": gflops / max(limits),
        "seconds": median(seconds),
        "max_rel_error": error,
        "runs": options.runs,
    }


def _operands(np: Any, dtype: str, shape: tuple[int, int]) -> Any:
    rng = np.random.default_rng(shape[0])
    if dtype == "int8":
        return rng.integers(-127, 128, shape, np.int8)
    values = rng.standard_normal(shape, np.float32)
    if dtype == "f32":
        return values
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)
