"""Products with weights that stay in GGUF blocks, or in half precision, against float64."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from block_formats import BLOCKS, random_blocks, values
from features import INTEGER_TARGETS, multiplies_pairs
from spelled_out import AVX512_BF16, SPELLED_OUT, to_assembly, to_executable, to_schedule

from deepseek.compiler import lower_text
from deepseek.executable import Executable
from deepseek.formats import find_format

_ROWS = (1, 2, 7, 16, 17, 127, 1000)
_CODES = ("int4_g64", "int8_g32", "int8_g256")
_FLOAT_CODES = ("fp8_e4m3_g64", "fp8_e5m2_g256")
_MAY_ROUND = "precision <lhs = bf16, rhs = bf16>"


def _module(format: str, n: int, k: int, attributes: str = "", precision: str = "") -> str:
    raw, weight = f"tensor<{n}x{find_format(format).row_bytes(k)}xi8>", f"tensor<{n}x{k}xf32>"
    types = f"(tensor<?x{k}xf32>, {weight}) -> tensor<?x{n}xf32>"
    return f"""module {{
      func.func @main(%x: tensor<?x{k}xf32> {{dsc.dims = #dsc.dims<["m", "_"]>}},
                      %b: {raw} {{dsc.weight = "b"}}) -> tensor<?x{n}xf32> {{
        %w = dsc.dequantize %b {{format = "{format}"{attributes}}} : {raw} -> {weight}
        %c = dsc.matmul %x, %w {precision} {{transpose_rhs}} : {types}
        return %c : tensor<?x{n}xf32>
      }}
    }}"""


def _mixed(element: str, n: int, k: int, precision: str = "") -> str:
    types = f"(tensor<?x{k}xf32>, tensor<{n}x{k}x{element}>) -> tensor<?x{n}xf32>"
    return f"""module {{
      func.func @main(%x: tensor<?x{k}xf32> {{dsc.dims = #dsc.dims<["m", "_"]>}},
                      %b: tensor<{n}x{k}x{element}> {{dsc.weight = "b"}}) -> tensor<?x{n}xf32> {{
        %c = dsc.matmul %x, %b {precision} {{transpose_rhs}} : {types}
        return %c : tensor<?x{n}xf32>
      }}
    }}"""


def _weights(format: str, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Raw blocks with scales in +-[2^-7, 1), and their values [n, k]."""
    if format not in BLOCKS:
        rng, form = np.random.default_rng(n + k), find_format(format)
        codes = form.round_codes(rng.uniform(form.lowest, form.largest, (n, k)))
        scales = form.round_scales(rng.uniform(2**-7, 1, (n, k // form.elements)))
        return form.encode(codes, scales).view(np.int8), codes * np.repeat(scales, form.elements, 1)
    raw = random_blocks(format, n, k // BLOCKS[format][1], keep=0x9B, put=0x20)
    return raw.view(np.int8), values(raw, format)


def _executable(text: str, raw: np.ndarray, *, target: str = "cpu", threads: int = 1) -> Executable:
    executable = to_executable(text, target, threads)
    executable.bind_weights({"b": raw})
    return executable


def _run(executable: Executable, x: np.ndarray) -> np.ndarray:
    result = executable(x)
    return result[0] if isinstance(result, tuple) else result


def _check(result: np.ndarray, x: np.ndarray, weight: np.ndarray, unit: float = 2e-7) -> None:
    """Error bound: `unit` of the sum of all |x| times the largest |w| of the row, which scales and offsets reach."""
    expected = x.astype(np.float64) @ weight.astype(np.float64).T
    largest = np.abs(weight.astype(np.float64)).max(1)
    bound = np.abs(x.astype(np.float64)).sum(1)[:, None] * largest[None]
    assert np.all(np.abs(result - expected) <= unit * bound + 1e-30)


def _unit(module: str, m: int, target: str = "cpu") -> float:
    """Of `_check`, for m rows: instructions on bf16 round each factor once, by 2^-9 at most."""
    scheduled = to_schedule(module, target)
    variants = re.findall(r"func private @matmul_\w+\(.*?#dsc\.variant<([^>]*)>", scheduled)
    fits = (v for v in variants if (most := re.search(r"max_rows = (\d+)", v)) is None or m <= int(most[1]))
    return 2**-8 if "instruction" in next(fits) else 2e-7


def _lhs(m: int, k: int) -> np.ndarray:
    return np.random.default_rng(m).standard_normal((m, k), np.float32)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("format", BLOCKS)
def test_blocks(format: str, target: str) -> None:
    for n, blocks in ((1, 1), (33, 3), (127, 2)):
        k = blocks * BLOCKS[format][1]
        raw, weight = _weights(format, n, k)
        executable = _executable(_module(format, n, k), raw, target=target)
        for m in _ROWS:
            x = _lhs(m, k)
            _check(_run(executable, x), x, weight, _unit(_module(format, n, k), m, target))


@pytest.mark.parametrize("format", BLOCKS)
def test_long_rows(format: str) -> None:
    """More than one block of the reduction per tile, and a rest."""
    k = 1280 if BLOCKS[format][1] == 256 else 1056
    raw, weight = _weights(format, 65, k)
    executable = _executable(_module(format, 65, k), raw)
    for m in (1, 5, 130):
        x = _lhs(m, k)
        _check(_run(executable, x), x, weight, _unit(_module(format, 65, k), m))


def _skip_without(instruction: str, module: str) -> None:
    if not multiplies_pairs(module, instruction):
        pytest.skip(f'this machine does not multiply by "{instruction}"')


# Of what multiplies decoded tiles, `_check`'s unit. Pairs of bf16 round each factor once, by 2^-9 of itself; integers under
# scales, by 1 / 5788 of the greatest of 256 neighbours.
_UNITS = {"dot": 2**-9, "bfp": 2**-11}


def _with_instruction(text: str, instruction: str, depth: int, target: str = "cpu") -> str:
    """The schedule for many rows replaced by one that decodes tiles of `depth` steps for `instruction`."""
    module = to_schedule(text, target)
    _skip_without(instruction, module)
    tile, workgroup = ("[12, 32]", "[96, 128]") if "vector_bytes = 64" in module else ("[5, 16]", "[40, 64]")
    rest = f'depth = {depth}, stage = [0, 1], instruction = "{instruction}"'
    schedule = f"tile = {tile}, workgroup = {workgroup}, {rest}"
    module, count = re.subn(
        r"(func private @matmul_\w+\([^\n]*\n?[^\n]*#dsc\.variant<)tile = [^>]*>", rf"\1{schedule}>", module
    )
    assert count == 1, module
    return module


_DECODED = [
    *((format, "bfp", target) for format in (*BLOCKS, *_CODES, *_FLOAT_CODES) for target in INTEGER_TARGETS),
    *((format, "dot", "cpu") for format in BLOCKS),
    *((format, "dot", AVX512_BF16) for format in ("q4_1", "q6_k")),
]


@pytest.mark.parametrize(("format", "instruction", "target"), _DECODED)
def test_blocks_decoded_for_an_instruction(format: str, instruction: str, target: str) -> None:
    ragged = 1280 if 1056 % find_format(format).elements else 1056
    sizes = ((65, ragged, 256), (33, 1280, 0), (96, 768, 512))
    for n, k, depth in sizes[:1] if target in SPELLED_OUT else sizes:
        text = _with_instruction(_module(format, n, k), instruction, depth, target)
        raw, weight = _weights(format, n, k)
        executable = _executable(text, raw, target=target, threads=2)
        for m in (17, 130):
            x = _lhs(m, k)
            _check(_run(executable, x), x, weight, _UNITS[instruction])


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_sums_of_integers_stay_in_registers(target: str) -> None:
    """Nothing of the innermost loop lies on the stack, and no product is taken apart."""
    module = _with_instruction(_mixed("bf16", 96, 1024), "bfp", 0, target)
    products, instruction = (8 * 12 * 2, "vpdpwssd") if "tile = [12, 32]" in module else (8 * 5 * 2, "vpmaddwd")
    blocks = re.split(r"\.LBB\w+:", to_assembly(module, target))
    loops = [block for block in blocks if block.count(instruction) == products]
    assert loops
    assert not any("rsp" in block.rpartition(instruction)[0].partition(instruction)[2] for block in loops)


@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("element", ["bf16", "f16"])
def test_half_precision_weights_as_scaled_integers(element: str, target: str) -> None:
    """Ragged sizes: a row of 7 is less than a block of integers, 1000 is not a multiple of one."""
    dtype = np.dtype(ml_dtypes.bfloat16 if element == "bf16" else np.float16)
    for n, k in ((1, 7), (33, 127), (127, 1000)):
        module = to_schedule(_mixed(element, n, k, _MAY_ROUND), target)
        if '"bfp"' not in module:
            assert target == "cpu"
            pytest.skip("the CPU has neither avx512vnni nor avx2, or instructions that are preferred to them")
        weight = np.random.default_rng(n + k).standard_normal((n, k), np.float32).astype(dtype)
        executable = _executable(module, weight, target=target, threads=2)
        for m in (1, 7, 16, 17, 127, 1000):
            x = _lhs(m, k)
            _check(_run(executable, x), x, weight.astype(np.float32), _UNITS["bfp"] if m > 16 else 2e-7)


def _check_any_magnitude(text: str, target: str, format: str, n: int, k: int, m: int, unit: float) -> None:
    """Rows that are zero stay zero, tiny and huge ones keep their digits, and what is not finite spoils its row only."""
    raw, weight = _weights(format, n, k)
    x = _lhs(m, k)
    x[0] = 0
    x[1] *= 1e-30
    x[2] *= 1e30
    x[3, 5], x[4, 200], x[5, k - 1] = np.nan, np.inf, -np.inf
    x[6, 17] = 1e6  # its neighbours lose digits, the row's product does not
    result = _run(_executable(text, raw, target=target), x)
    assert not np.isfinite(result[3:6]).any()
    assert (result[0] == 0).all()
    finite = np.r_[0:3, 6:m]
    _check(result[finite], x[finite], weight, unit)


@pytest.mark.parametrize("target", INTEGER_TARGETS)
def test_scaled_integers_of_any_magnitude(target: str) -> None:
    text = _with_instruction(_module("q8_0", 40, 320), "bfp", 256, target)
    _check_any_magnitude(text, target, "q8_0", 40, 320, 24, _UNITS["bfp"])


@pytest.mark.parametrize("precision", ["", _MAY_ROUND])
def test_rows_that_fill_the_stage(precision: str) -> None:
    """So long that no more than a few rows fit: tiles become lower."""
    for n, k in ((3, 65536), (2, 131072)):
        raw, weight = _weights("q4_0", n, k)
        text = _module("q4_0", n, k, precision=precision)
        executable = _executable(text, raw)
        for m in (1, 9, 20):
            x = _lhs(m, k)
            _check(_run(executable, x), x, weight, _unit(text, m))


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3"])
def test_strict_targets_have_no_scaled_integers(target: str) -> None:
    text = _module("q4_0", 64, 128, precision=_MAY_ROUND)
    assert '"bfp"' not in to_schedule(text, target + "+strict")


def _codes_module(format: str, n: int, k: int, target: str) -> str:
    """A product whose variants for one row, for two and for up to 16 multiply codes as they are."""
    module = to_schedule(_module(format, n, k, precision=_MAY_ROUND), target)
    _skip_without("bfp", module)
    assert module.count('stage = [0], instruction = "bfp"') == 3
    return module


@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("format", [*BLOCKS, *_CODES])
def test_few_rows_multiply_codes(format: str, target: str) -> None:
    """Exact but for the left side, whose integers err by 1 / 32638 of the greatest of a run of 16 or 32."""
    sizes = ((33, 1280), (1, 256), (127, 768))
    for n, k in sizes[:1] if target in SPELLED_OUT else sizes:
        module = _codes_module(format, n, k, target)
        raw, weight = _weights(format, n, k)
        one, two = (_executable(module, raw, target=target, threads=threads) for threads in (1, 2))
        for m in (1, 2, 7, 16):
            x = _lhs(m, k)
            _check(_run(one, x), x, weight, 2**-14)
            np.testing.assert_array_equal(_run(one, x), _run(two, x))


@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("format", BLOCKS)
def test_sums_of_the_greatest_codes(format: str, target: str) -> None:
    """Rows and codes that are all the least or the greatest: sums of 16 bits are as large as they may become."""
    block_bytes, elements, scales = BLOCKS[format]
    module = _codes_module(format, 33, 256, target)
    of_scales = [byte for offset in scales for byte in (offset, offset + 1)]
    codes = np.setdiff1d(np.arange(block_bytes), of_scales)
    for pattern in (0x00, 0x7F, 0x80, 0xFF):
        blocks = _weights(format, 33, 256)[0].view(np.uint8).reshape(33, 256 // elements, block_bytes)
        blocks[:, :, codes] = pattern
        raw = blocks.reshape(33, -1)
        executable = _executable(module, raw.view(np.int8), target=target)
        for m in (1, 2, 4):
            x = np.full((m, 256), -1, np.float32)
            x[::2] = 1
            _check(_run(executable, x), x, values(raw, format), 2**-14)


def test_few_rows_have_tiles_of_their_own() -> None:
    module = to_schedule(_module("q4_1", 64, 768, precision=_MAY_ROUND), "cpu:x86-64-v3")
    assert re.findall(r"max_rows = (\d+), tile = \[(\d+), ", module) == [("1", "1"), ("2", "2"), ("16", "4")]


@pytest.mark.parametrize("format", _FLOAT_CODES)
def test_codes_that_are_floats_are_decoded(format: str) -> None:
    module = to_schedule(_module(format, 64, 768, precision=_MAY_ROUND), "cpu")
    assert "max_rows = 1, " in module
    assert 'stage = [0], instruction = "bfp"' not in module
    raw, weight = _weights(format, 64, 768)
    x = _lhs(2, 768)
    _check(_run(_executable(module, raw), x), x, weight)


@pytest.mark.parametrize("target", INTEGER_TARGETS)
@pytest.mark.parametrize("format", ["q4_0", "q4_1", "q8_0", "q6_k"])
def test_codes_by_rows_of_any_magnitude(format: str, target: str) -> None:
    _check_any_magnitude(_codes_module(format, 40, 512, target), target, format, 40, 512, 9, 2**-14)


@pytest.mark.parametrize("format", BLOCKS)
def test_blocks_rounded_to_bf16(format: str) -> None:
    """Where the precision allows it, many rows use the machine's products of bf16."""
    text = _module(format, 127, 768, precision=_MAY_ROUND)
    raw, weight = _weights(format, 127, 768)
    executable = _executable(text, raw)
    for m in _ROWS:
        x = _lhs(m, 768)
        _check(_run(executable, x), x, weight, _unit(text, m))
    exact = to_schedule(_module(format, 127, 768), "cpu")
    assert "instruction" not in exact
    if "amx-bf16" in exact:
        assert 'instruction = "tile"' in to_schedule(text, "cpu")


@pytest.mark.parametrize("format", ["q4_1", "q6_k"])
def test_expanded(format: str) -> None:
    """The values themselves are kept: no block is left in what the program reads."""
    text = _module(format, 33, 512, ", expanded")
    assert "pack_blocks" in lower_text(_module(format, 33, 512), to_phase="fuse")
    assert "pack_blocks" not in lower_text(text, to_phase="fuse")
    raw, weight = _weights(format, 33, 512)
    x = _lhs(7, 512)
    _check(_run(_executable(text, raw), x), x, weight)


def test_threads_do_not_change_bits() -> None:
    raw, _ = _weights("q4_k", 1100, 512)
    text = _module("q4_k", 1100, 512)
    one, two = (_executable(text, raw, threads=threads) for threads in (1, 2))
    for m in (1, 9, 300):
        x = _lhs(m, 512)
        np.testing.assert_array_equal(_run(one, x), _run(two, x))


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("element", ["bf16", "f16"])
def test_half_precision_weights(element: str, target: str) -> None:
    dtype = np.dtype(ml_dtypes.bfloat16 if element == "bf16" else np.float16)
    for n, k in ((1, 7), (33, 127), (127, 1000)):
        weight = np.random.default_rng(n + k).standard_normal((n, k), np.float32).astype(dtype)
        executable = _executable(_mixed(element, n, k), weight, target=target)
        for m in (1, 7, 127):
            x = _lhs(m, k)
            unit = _unit(_mixed(element, n, k), m, target)
            _check(_run(executable, x), x, weight.astype(np.float32), unit)


def test_packed_blocks_are_read_element_by_element() -> None:
    """dsc.dequantize of panels outside of a product: [panels, k, rows of a panel], zeros behind the last row."""
    for format, (block_bytes, block, _) in BLOCKS.items():
        n, k, panel = 21, 2 * block, 16
        raw, weight = _weights(format, n, k)
        packed, result = f"tensor<2x2x{panel * block_bytes}xi8>", f"tensor<2x{k}x{panel}xf32>"
        text = f"""module {{
          func.func @main(%x: {result}, %b: tensor<{n}x{2 * block_bytes}xi8> {{dsc.weight = "b"}}) -> {result} {{
            %p = dsc.pack_blocks %b {{format = "{format}", panel = {panel} : i64}} : tensor<{n}x{2 * block_bytes}xi8> -> {packed}
            %w = dsc.dequantize %p {{format = "{format}", panel = {panel} : i64}} : {packed} -> {result}
            %0 = linalg.add ins(%x, %w : {result}, {result}) outs(%x : {result}) -> {result}
            return %0 : {result}
          }}
        }}"""
        padded = np.zeros((2 * panel, k), np.float32)
        padded[:n] = weight
        zeros = np.zeros((2, k, panel), np.float32)
        np.testing.assert_array_equal(
            _run(_executable(text, raw), zeros), padded.reshape(2, panel, k).transpose(0, 2, 1)
        )
