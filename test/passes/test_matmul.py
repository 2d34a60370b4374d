"""Matrix products against float64 (floats) and int64 (bytes), for every instruction, ragged sizes and targets."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from features import has_fast_bf16_dots

from deepseek.compiler import compile_text, lower_text
from deepseek.executable import Executable

_TYPES = {"f32": ("f32", np.float32), "bf16": ("f32", ml_dtypes.bfloat16), "i8": ("i32", np.int8)}
_SIZES = [(1, 127, 7), (7, 1, 1000), (7, 33, 1), (12, 1000, 127), (127, 127, 1000), (1000, 127, 333), (97, 1025, 576)]


def _module(n: int, k: int, element: str) -> str:
    result = _TYPES[element][0]
    types = f"(tensor<?x{k}x{element}>, tensor<{k}x{n}x{element}>) -> tensor<?x{n}x{result}>"
    return f"""module {{
      func.func @main(%a: tensor<?x{k}x{element}> {{dsc.dims = #dsc.dims<["m", "_"]>}},
                      %b: tensor<{k}x{n}x{element}> {{dsc.weight = "b"}}) -> tensor<?x{n}x{result}> {{
        %c = dsc.matmul %a, %b : {types}
        return %c : tensor<?x{n}x{result}>
      }}
    }}"""


def _operands(m: int, n: int, k: int, element: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m * n + k)
    if element == "i8":
        return rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    return a.astype(_TYPES[element][1]), b.astype(_TYPES[element][1])


def _product(text: str, a: np.ndarray, b: np.ndarray, *, target: str = "cpu", threads: int = 1) -> np.ndarray:
    code = compile_text(text, target=target)
    executable = Executable(code.object, code.manifest, threads=threads)
    executable.bind_weights({"b": b})
    result = executable(a)
    return result[0] if isinstance(result, tuple) else result


def _check(result: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype == np.int8:
        np.testing.assert_array_equal(result, a.astype(np.int64) @ b.astype(np.int64))
        return
    expected = a.astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    assert np.all(np.abs(result - expected) <= 2e-7 * np.sqrt(a.shape[1] + 1) * bound + 1e-30)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("element", _TYPES)
def test_sizes(element: str, target: str) -> None:
    for m, n, k in _SIZES:
        a, b = _operands(m, n, k, element)
        _check(_product(_module(n, k, element), a, b, target=target), a, b)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("element", _TYPES)
def test_both_sides_are_weights(element: str, target: str) -> None:
    for m, n, k in ((1, 33, 7), (13, 7, 127), (12, 32, 1), (333, 127, 1000), (100, 333, 1777)):
        a, b = _operands(m, n, k, element)
        text = _module(n, k, element).replace(f"tensor<?x{k}x", f"tensor<{m}x{k}x").replace("tensor<?x", f"tensor<{m}x")
        text = re.sub(r"\{dsc.dims = [^}]*\}", '{dsc.weight = "a"}', text)
        packs = m >= 12 and (
            element == "f32" or (element == "bf16" and has_fast_bf16_dots(lower_text(text, target=target)))
        )
        assert ("packed_rows" in lower_text(text, target=target, to_phase="fuse")) == packs
        code = compile_text(text, target=target)
        executable = Executable(code.object, code.manifest, threads=2)
        executable.bind_weights({"a": a, "b": b})
        (result,) = executable()
        _check(result, a, b)


@pytest.mark.parametrize("element", _TYPES)
def test_threads_do_not_change_bits(element: str) -> None:
    a, b = _operands(300, 1100, 600, element)
    text = _module(1100, 600, element)
    np.testing.assert_array_equal(_product(text, a, b), _product(text, a, b, threads=2))


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
@pytest.mark.parametrize("element", _TYPES)
def test_weights_whose_rows_are_columns(element: str, target: str) -> None:
    for m, n, k in ((3, 1, 1000), (13, 33, 66), (2, 127, 576), (5, 1000, 34), (7, 64, 1028), (4, 50, 333)):
        a, b = _operands(m, n, k, element)
        text = _module(n, k, element).replace(f"tensor<{k}x{n}x{element}>", f"tensor<{n}x{k}x{element}>")
        text = text.replace("dsc.matmul %a, %b :", "dsc.matmul %a, %b {transpose_rhs} :")
        code = compile_text(text, target=target)
        executable = Executable(code.object, code.manifest, threads=2)
        executable.bind_weights({"b": np.ascontiguousarray(b.T)})
        (result,) = executable(a)
        _check(result, a, b)


def test_strict_products_keep_subnormals() -> None:
    a, b = (np.full(shape, value, ml_dtypes.bfloat16) for shape, value in (((24, 64), 2.0**-130), ((64, 32), 2.0**100)))
    text = _module(32, 64, "bf16")
    assert np.all(_product(text, a, b, target="cpu+strict") == 2.0**-24)
    assert "dot" not in lower_text(text, target="cpu+strict", to_phase="schedule")


def test_avx2_multiplies_pairs_of_bytes() -> None:
    assert 'instruction = "dot"' in lower_text(_module(32, 64, "i8"), target="cpu:x86-64-v3", to_phase="schedule")


_SCHEDULES = [
    "tile = [12, 32], workgroup = [24, 64]",
    "tile = [5, 32], workgroup = [7, 96], depth = 64, stage = [0]",
    "tile = [12, 32], workgroup = [96, 1024], depth = 128, stage = [0]",
    "tile = [14, 32], workgroup = [28, 32], unroll = 2, stage = [0]",
    'tile = [14, 32], workgroup = [56, 64], depth = 192, stage = [0], instruction = "dot"',
    'tile = [32, 32], workgroup = [64, 64], stage = [0], instruction = "tile"',
    'tile = [16, 32], workgroup = [32, 32], depth = 64, stage = [0], instruction = "tile"',
    'tile = [32, 32], workgroup = [128, 128], depth = 192, stage = [0], instruction = "tile"',
]


@pytest.mark.parametrize("schedule", _SCHEDULES)
@pytest.mark.parametrize("element", _TYPES)
def test_schedules_that_users_write(element: str, schedule: str) -> None:
    """Written for panels of 32 columns; of a machine whose panels are narrower, so are the tiles."""
    text = lower_text(_module(127, 333, element), to_phase="schedule")
    panel = int(re.search(r"func private @matmul_0\(.*?tile = \[\d+, (\d+)\]", text, flags=re.S)[1])
    schedule = re.sub(r", (\d+)\]", lambda match: f", {int(match[1]) * panel // 32}]", schedule, count=2)
    grouped = re.search(rf"x{panel}x[24]x(bf16|i8)>", text) is not None
    feature = "amx-int8" if element == "i8" else "amx-bf16"
    if 'tile"' in schedule and (feature not in text or not grouped):
        pytest.skip(f"this machine has no tiles of {element}")
    if "dot" in schedule and ("avx512bf16" not in text or not grouped):
        pytest.skip(f"this machine has no dot product of {element}")
    if grouped and ("stage" not in schedule or (element == "i8" and "instruction" not in schedule)):
        pytest.skip("operands in groups need a stage, bytes the dot product: test/passes/generate-kernels.mlir")
    text = re.sub(
        r"(func private @matmul_0\(.*?#dsc\.variant<)[^>]*>", lambda match: match[1] + schedule + ">", text, flags=re.S
    )
    assert schedule in text
    for m in (1, 7, 127):
        a, b = _operands(m, 127, 333, element)
        _check(_product(text, a, b), a, b)
