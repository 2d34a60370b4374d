"""Attention against float64 softmax: head sizes, groups of heads, ragged and cached lengths, targets and threads."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from features import INTEGER_TARGETS, has_fast_bf16_dots, multiplies_pairs
from spelled_out import AVX512_BF16, to_executable, to_schedule

_TYPES = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "f16": np.float16, "f64": np.float64}


def _module(
    heads: int,
    kv_heads: int,
    size: int,
    element: str = "f32",
    causal: bool = True,
    cache: bool = True,
    precision: str = "",
) -> str:
    query, names = f"tensor<?x?x{heads}x{size}x{element}>", '{dsc.dims = #dsc.dims<["b", "s", "_", "_"]>}'
    flags = f"{{{'causal, ' if causal else ''}scale = {size**-0.5!r} : f32}}"
    if cache:
        kv = f"tensor<?x2x{kv_heads}x?x{size}x{element}>"
        arguments = f'%c: {kv} {{dsc.dims = #dsc.dims<["b", "_", "_", "t", "_"]>}}, %n: tensor<?xi32>'
        arguments += ' {dsc.dims = #dsc.dims<["b"]>}'
        operands, types = "%q cache %c lengths %n", f"{query}, {kv}, tensor<?xi32>"
    else:
        kv = f"tensor<?x?x{kv_heads}x{size}x{element}>"
        arguments = ", ".join(f'%{x}: {kv} {{dsc.dims = #dsc.dims<["b", "t", "_", "_"]>}}' for x in "kv")
        operands, types = "%q, %k, %v", f"{query}, {kv}, {kv}"
    return f"""module {{
      func.func @main(%q: {query} {names}, {arguments}) -> {query} {{
        %y = dsc.attention {operands} {precision} {flags} : ({types}) -> {query}
        return %y : {query}
      }}
    }}"""


def _inputs(
    batch: int, rows: int, capacity: int, heads: int, kv_heads: int, size: int, element: str = "f32"
) -> list[np.ndarray]:
    """Queries, a cache whose positions behind each length are NaN, and the lengths."""
    rng = np.random.default_rng(rows * capacity + size)
    query = rng.standard_normal((batch, rows, heads, size)).astype(_TYPES[element])
    cache = rng.standard_normal((batch, 2, kv_heads, capacity, size)).astype(_TYPES[element])
    lengths = np.array([capacity - i * capacity // (2 * batch) for i in range(batch)], np.int32)
    for i, length in enumerate(lengths):
        cache[i, :, :, length:] = np.nan
    return [query, cache, lengths]


def _reference(query: np.ndarray, cache: np.ndarray, lengths: np.ndarray, causal: bool = True) -> np.ndarray:
    batch, rows, heads, size = query.shape
    group, result = heads // cache.shape[2], np.zeros(query.shape)
    for b, h in np.ndindex(batch, heads):
        n = int(lengths[b])
        keys, values = cache[b, :, h // group, :n].astype(np.float64)
        scores = query[b, :, h].astype(np.float64) @ keys.T * float(np.float32(size**-0.5))
        if causal:
            scores[np.arange(n) > (n - rows + np.arange(rows))[:, None]] = -np.inf
        sees = ~np.all(np.isneginf(scores), axis=1) if n else np.zeros(rows, bool)
        weights = np.exp(scores[sees] - scores[sees].max(1, keepdims=True)) if n else scores[sees]
        result[b, sees, h] = weights @ values / weights.sum(1, keepdims=True)
    return result


def _run(text: str, inputs: list[np.ndarray], *, target: str = "cpu", threads: int = 1) -> np.ndarray:
    result = to_executable(text, target, threads)(*inputs)
    return result[0] if isinstance(result, tuple) else result


def _check(result: np.ndarray, expected: np.ndarray, element: str = "f32") -> None:
    # Scores of unit normals err by some size u, hence weights relatively; results are means of values of order 1.
    tolerance = {"f32": 4e-6, "f64": 1e-13, "bf16": 2**-7, "f16": 2**-10}[element]
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("causal", [True, False])
def test_lengths(target: str, causal: bool) -> None:
    text = _module(6, 2, 64, causal=causal)
    for rows, capacity in [
        (1, 1),
        (1, 7),
        (1, 1000),
        (7, 7),
        (7, 127),
        (9, 1000),
        (127, 127),
        (127, 1000),
        (1000, 1000),
    ]:
        inputs = _inputs(2, rows, capacity, 6, 2, 64)
        _check(_run(text, inputs, target=target), _reference(*inputs, causal))


@pytest.mark.parametrize("rows", [1, 8, 33])
def test_long_contexts(rows: int) -> None:
    inputs = _inputs(8, rows, 4096, 3, 1, 64)
    _check(_run(_module(3, 1, 64), inputs, threads=2), _reference(*inputs))


@pytest.mark.parametrize("heads", [(1, 1), (2, 1), (9, 3), (4, 1), (10, 2), (6, 1), (7, 1), (8, 1), (49, 1)])
@pytest.mark.parametrize("size", [64, 80])
def test_groups(heads: tuple[int, int], size: int) -> None:
    text = _module(*heads, size)
    for rows in (1, 3, 7, 127):
        inputs = _inputs(1, rows, 127, *heads, size)
        _check(_run(text, inputs), _reference(*inputs))


@pytest.mark.parametrize("size", [1, 7, 20, 80, 96, 127, 128, 256])
@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
def test_head_sizes(size: int, target: str) -> None:
    text = _module(4, 2, size)
    for rows in (1, 7, 127):
        inputs = _inputs(1, rows, 127, 4, 2, size)
        _check(_run(text, inputs, target=target), _reference(*inputs))


@pytest.mark.parametrize("element", _TYPES)
@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64"])
def test_element_types(element: str, target: str) -> None:
    text = _module(6, 2, 40, element)
    for rows in (1, 7, 127):
        inputs = _inputs(2, rows, 127, 6, 2, 40, element)
        _check(_run(text, inputs, target=target), _reference(*inputs), element)


@pytest.mark.parametrize("element", ["f32", "bf16"])
@pytest.mark.parametrize("rows", [1, 7, 127])
def test_keys_and_values(element: str, rows: int) -> None:
    query, cache, lengths = _inputs(2, rows, 127, 4, 2, 64, element)
    cache[np.isnan(cache)] = 1
    keys, values = (np.ascontiguousarray(cache[:, plane].swapaxes(1, 2)) for plane in (0, 1))
    result = _run(_module(4, 2, 64, element, cache=False), [query, keys, values])
    _check(result, _reference(query, cache, np.full(2, 127)), element)


@pytest.mark.parametrize("rows", [1, 2, 8, 127])
def test_threads_do_not_change_bits(rows: int) -> None:
    text = _module(9, 3, 64)
    for batch in (1, 3):
        inputs = _inputs(batch, rows, 1000, 9, 3, 64)
        np.testing.assert_array_equal(_run(text, inputs), _run(text, inputs, threads=2))


@pytest.mark.parametrize("rows", [7, 127])
def test_a_row_ignores_what_only_later_rows_see(rows: int) -> None:
    inputs = _inputs(1, rows, rows, 4, 2, 64)
    expected = _reference(*inputs)
    inputs[1][:, :, :, rows - 1] = np.nan
    result = _run(_module(4, 2, 64), inputs)
    _check(result[:, :-1], expected[:, :-1])
    assert np.isnan(result[:, -1]).all()


@pytest.mark.parametrize("rows", [1, 7, 127])
def test_rows_that_see_nothing_are_zero(rows: int) -> None:
    inputs = _inputs(2, rows, 130, 4, 2, 64)
    inputs[2][:] = 0, rows // 2
    inputs[1][0], inputs[1][1, :, :, rows // 2 :] = np.nan, np.nan
    _check(_run(_module(4, 2, 64), inputs), _reference(*inputs))


_SCHEDULES = [
    ("attention_0_rows8", "max_rows = 8, tile = [3, 16], workgroup = [8, 2, 3], depth = 48"),
    ("attention_0_rows8", "max_rows = 8, tile = [1, 48], workgroup = [5, 1, 1], depth = 16"),
    ("attention_0", "tile = [8, 16], workgroup = [5, 2, 1], depth = 16"),
    ("attention_0", "tile = [4, 48], workgroup = [100, 1, 1], depth = 128"),
    ("attention_0", "tile = [3, 32], workgroup = [64, 4, 1], depth = 9"),
]


@pytest.mark.parametrize(("kernel", "schedule"), _SCHEDULES)
@pytest.mark.parametrize("element", ["f32", "f16"])
def test_schedules_that_users_write(element: str, kernel: str, schedule: str) -> None:
    text = to_schedule(_module(8, 2, 40, element), "cpu")
    if ", 1]" in schedule:
        text = re.sub(rf"dsc.merge = @{kernel}_merge, ", "", text)
    for name in (kernel, f"{kernel}_merge"):
        pattern = rf"(func private @{name}\(.*?#dsc\.variant<)[^>]*>"
        text = re.sub(pattern, lambda match: match[1] + schedule + ">", text, flags=re.S)
    assert schedule in text
    for rows in (2, 8, 9, 127, 200):
        inputs = _inputs(2, rows, 233, 8, 2, 40, element)
        _check(_run(text, inputs), _reference(*inputs), element)


_HALVES = "precision <lhs = bf16, rhs = bf16, acc = f32>"


def _instruction(text: str, target: str = "cpu") -> str:
    """Of many rows."""
    scheduled = to_schedule(text, target)
    variants = re.findall(r"func private @attention_0\(.*?#dsc\.variant<([^>]*)>", scheduled, flags=re.S)
    assert len(variants) == 1
    found = re.search(r'instruction = "(\w+)"', variants[0])
    return found[1] if found else "fma"


def _check_rounded(result: np.ndarray, expected: np.ndarray, instruction: str) -> None:
    """Of bf16, queries, keys, values and weights are off by 2^-9 at most, of order 1, and independently. Integers are off
    by 1 / 5000 of a few times that."""
    most, mean = {"dot": (2**-5, 2**-9), "bfp": (2**-8, 2**-11), "fma": (4e-6, 1e-6)}[instruction]
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=most if instruction == "fma" else 0, atol=most)
    assert np.sqrt(np.mean((result - expected) ** 2)) < mean


@pytest.mark.parametrize("size", [2, 16, 40, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("heads", [(1, 1), (9, 3), (7, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_factors_may_be_rounded(heads: tuple[int, int], size: int, causal: bool) -> None:
    text = _module(*heads, size, causal=causal, precision=_HALVES)
    for rows, capacity in ((9, 9), (33, 100), (127, 127), (127, 1000), (200, 233)):
        inputs = _inputs(2, rows, capacity, *heads, size)
        _check_rounded(_run(text, inputs, threads=2), _reference(*inputs, causal), _instruction(text))


def test_what_is_rounded_is_a_choice_of_the_schedule() -> None:
    text = _module(9, 3, 64, precision=_HALVES)
    for target in INTEGER_TARGETS:
        assert _instruction(_module(9, 3, 64), target) == "fma"
        assert _instruction(_module(9, 3, 63, precision=_HALVES), target) == "fma"
    for target in ("cpu", "cpu:x86-64-v3"):
        assert _instruction(text, target + "+strict") == "fma"
    for target in INTEGER_TARGETS[1:]:
        assert _instruction(text, target) == "bfp"
    here = to_schedule(text, "cpu")
    integers = "bfp" if multiplies_pairs(here, "bfp") else "fma"
    assert _instruction(text) == ("dot" if has_fast_bf16_dots(here) else integers)


def test_threads_do_not_change_bits_of_rounded_rows() -> None:
    inputs, text = _inputs(3, 200, 300, 9, 3, 64), _module(9, 3, 64, precision=_HALVES)
    for target in INTEGER_TARGETS:
        one, two = (_run(text, inputs, target=target, threads=threads) for threads in (1, 2))
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("planes", [slice(0, 1), slice(1, 2), slice(0, 2)])
@pytest.mark.parametrize("rows", [9, 127])
def test_rounded_rows_ignore_what_only_later_rows_see(rows: int, planes: slice, bad: float, target: str) -> None:
    """Keys, values or both that are not finite."""
    text = _module(4, 2, 64, precision=_HALVES)
    for first in (rows - 1, rows - 2):
        inputs = _inputs(1, rows, rows, 4, 2, 64)
        expected = _reference(*inputs)
        inputs[1][:, planes, :, first:] = bad
        result = _run(text, inputs, target=target)
        _check_rounded(result[:, :first], expected[:, :first], _instruction(text, target))
        assert not np.isfinite(result[:, first:]).any()


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_rounded_rows_that_see_nothing_are_zero(target: str) -> None:
    inputs, text = _inputs(2, 33, 130, 4, 2, 64), _module(4, 2, 64, precision=_HALVES)
    inputs[2][:] = 0, 16
    inputs[1][0], inputs[1][1, :, :, 16:] = np.nan, np.nan
    _check_rounded(_run(text, inputs, target=target), _reference(*inputs), _instruction(text, target))


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_rounded_rows_of_any_magnitude(target: str) -> None:
    """A block of keys far below the others keeps its digits relative to itself, queries and keys have their own scales, and
    elements of values theirs."""
    text, rows = _module(4, 2, 64, precision=_HALVES), 200
    if _instruction(text, target) != "bfp":
        pytest.skip("the CPU has neither avx512vnni nor avx2, or instructions that are preferred to them")
    query, cache, lengths = _inputs(1, rows, rows, 4, 2, 64)
    scales = np.exp2(np.random.default_rng(5).integers(-20, 21, 64)).astype(np.float32)
    cache[:, 1] *= scales
    query[0, 3], query[0, 5] = 0, query[0, 5] * 1e-30
    cache[0, 0, :, 4], cache[0, 0, :, 7] = 0, cache[0, 0, :, 7] * 1e-30
    result, expected = _run(text, [query, cache, lengths], target=target), _reference(query, cache, lengths)
    _check_rounded(result / scales, expected / scales, "bfp")
    # Keys of the first two blocks are nearly parallel to all queries, and those of the third to their opposite: its
    # weights, 2^-30 of the others, are all that some elements of values have.
    query[:], cache[:, 0] = 1, 0.1
    cache[:, 0, :, 128:] = -2.5
    cache[:, 1], cache[:, 1, :, 128:, ::2] = np.where(np.arange(64) % 2, cache[:, 1], 0), 1
    result, expected = _run(text, [query, cache, lengths], target=target), _reference(query, cache, lengths)
    np.testing.assert_allclose(result[:, 192:, :, ::2], expected[:, 192:, :, ::2], rtol=2**-10, atol=0)


_PAIR_SCHEDULES = [
    "tile = [8, 48], workgroup = [5, 2, 1], depth = 64",
    "tile = [4, 16], workgroup = [100, 1, 1], depth = 128",
    "tile = [6, 32], workgroup = [33, 4, 1], depth = 12",
]


@pytest.mark.parametrize(
    ("instruction", "target"), [("dot", "cpu"), ("dot", AVX512_BF16), *(("bfp", target) for target in INTEGER_TARGETS)]
)
@pytest.mark.parametrize("schedule", _PAIR_SCHEDULES)
def test_rounding_schedules_that_users_write(schedule: str, instruction: str, target: str) -> None:
    text = to_schedule(_module(8, 2, 40, precision=_HALVES), target)
    if not multiplies_pairs(text, instruction):
        pytest.skip(f'this machine does not multiply by "{instruction}": test/passes/generate-kernels.mlir')
    schedule += f', instruction = "{instruction}"'
    text = re.sub(
        r"(func private @attention_0\(.*?#dsc\.variant<)[^>]*>",
        lambda match: match[1] + schedule + ">",
        text,
        flags=re.S,
    )
    assert schedule in text
    for rows in (9, 127, 200):
        inputs = _inputs(2, rows, 233, 8, 2, 40)
        _check_rounded(_run(text, inputs, target=target), _reference(*inputs), instruction)
