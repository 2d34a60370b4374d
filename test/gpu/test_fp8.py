"""Products of 8-bit floats under scales (wgmma8): against float64 on the same codes, and against the CPU.

A block's scale is its greatest magnitude over the type's largest number; codes are ml_dtypes' roundings.
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from ptx import Kernel, PtxError, TensorMap

from deepseek.compiler import compile_text, lower_text
from deepseek.executable import Executable
from deepseek.formats import find_format
from gpu.programs import kernels
from gpu.virtual_gpu import VirtualGpu

TYPES = {
    "fp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0, "f8E4M3FN"),
    "fp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0, "f8E5M2"),
}


def program(rows: int | str, columns: int, depth: int, activation: str, weight: str, bias: bool = False) -> str:
    """x [rows, depth] in f32, rounded as `activation` says, times a weight [columns, depth] in blocks, transposed."""
    codes, group = activation.rsplit("_g", 1)
    form = find_format(weight, depth)
    x, y = f"tensor<{rows}x{depth}xf32>", f"tensor<{rows}x{columns}xf32>"
    stored, w = f"tensor<{columns}x{form.row_bytes(depth)}xi8>", f"tensor<{columns}x{depth}xf32>"
    b = f"tensor<{columns}xf32>"
    extra = (f", %b: {b}", " bias %b", f", {b}") if bias else ("", "", "")
    return f"""func.func @main(%x: {x}, %s: {stored} {{dsc.weight = "w"}}{extra[0]}) -> {y} {{
  %w = dsc.dequantize %s {{format = "{form.name}"}} : {stored} -> {w}
  %y = dsc.matmul %x, %w{extra[1]} precision <lhs = {TYPES[codes][2]}, acc = f32, scales = [1, {group}]> {{transpose_rhs}}
    : ({x}, {w}{extra[2]}) -> {y}
  return %y : {y}
}}"""


def rounded(x: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values in f64, codes, scales) of the rows of x in a format such as fp8_e4m3_g128."""
    codes, group = name.rsplit("_g", 1)
    dtype, largest, _ = TYPES[codes]
    blocks = x.reshape(len(x), -1, int(group))
    scales = np.abs(blocks).max(-1, keepdims=True) / np.float32(largest)
    scales[scales == 0] = 1
    quotients = blocks / scales
    numbers = np.clip(quotients, -largest, largest).astype(dtype)
    values = numbers.astype(np.float64) * scales.astype(np.float64)
    return values.reshape(x.shape), numbers.reshape(x.shape), scales[..., 0]


def stored_weight(w: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(bytes [out, bytes of a row], values in f64): scales, each before its codes."""
    values, codes, scales = rounded(w, name)
    group = int(name.rsplit("_g", 1)[1])
    parts = [scales[..., None].view(np.uint8), codes.view(np.uint8).reshape(len(w), -1, group)]
    return np.concatenate(parts, 2).reshape(len(w), -1).view(np.int8), values


CASES = [
    ("fp8_e4m3_g128", "fp8_e4m3_g128", 192, 1280),  # DeepSeek-V3's blocks along the reduction; the ring wraps around
    ("fp8_e4m3_g576", "fp8_e4m3_g576", 100, 576),  # a scale per row, half a slice at the end, ragged columns
    ("fp8_e4m3_g512", "fp8_e4m3_g128", 130, 512),
    ("fp8_e4m3_g256", "fp8_e5m2_g512", 64, 512),  # a scale for two slices, and one for all
]


@pytest.mark.parametrize("rows", [1, 7, 127, 300])
@pytest.mark.parametrize(("activation", "weight", "columns", "depth"), CASES)
def test_products(gpu: VirtualGpu, activation: str, weight: str, columns: int, depth: int, rows: int) -> None:
    gpu.set(capability=90)
    rng = np.random.default_rng(rows)
    # Blocks of very different size, one of zeros, and a number that saturates nothing.
    x = rng.standard_normal((rows, depth), np.float32) * np.exp2(rng.integers(-9, 9, (rows, depth // 64))).repeat(64, 1)
    x[0, :128] = 0
    w = rng.standard_normal((columns, depth), np.float32)
    bias = rng.standard_normal(columns, np.float32)
    stored, w_values = stored_weight(w, weight)
    x_values = rounded(x.astype(np.float32), activation)[0]
    text = program("?", columns, depth, activation, weight, bias=True)
    code = compile_text(text, target="sm_90a")
    executable = Executable(code.object, code.manifest)
    executable.bind_weights({"w": stored})
    (found,) = executable(x.astype(np.float32), bias)
    expected = x_values @ w_values.T + bias
    bound = np.abs(x_values) @ np.abs(w_values).T + np.abs(bias)
    assert np.all(np.abs(found - expected) <= 1e-6 * bound)
    ran = "".join(code.manifest["kernels"][name]["ptx"] for name in gpu.launches if "matmul" in name)
    wide = {1: None, 7: 64, 127: 128, 300: 128}[rows]  # columns of the block; one row is not for the matrix instruction
    assert re.findall(r"m64n(\d+)k32", ran) == ([str(wide)] * 4 if wide else [])


@pytest.mark.parametrize("cluster", [2, 4])
def test_clusters_share_codes(gpu: VirtualGpu, cluster: int) -> None:
    """Not what is chosen by default: the schedule is changed in the IR."""
    gpu.set(capability=90, multiprocessors=8)
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((300, 1280), np.float32), rng.standard_normal((192, 1280), np.float32)
    stored, w_values = stored_weight(w, "fp8_e4m3_g128")
    x_values = rounded(x, "fp8_e4m3_g128")[0]
    ir = lower_text(program("?", 192, 1280, "fp8_e4m3_g128", "fp8_e4m3_g128"), target="sm_90a", to_phase="schedule")
    assert ir.count('instruction = "wgmma8", threads = [3, 128]>') == 2
    ir = ir.replace('"wgmma8", threads = [3, 128]>', f'"wgmma8", threads = [3, 128], cluster = {cluster}>')
    code = compile_text(ir, target="sm_90a")
    executable = Executable(code.object, code.manifest)
    executable.bind_weights({"w": stored})
    (found,) = executable(x)
    assert np.all(np.abs(found - x_values @ w_values.T) <= 1e-6 * (np.abs(x_values) @ np.abs(w_values).T))
    assert any("multicast::cluster" in code.manifest["kernels"][name]["ptx"] for name in gpu.launches)


def test_the_same_codes_as_on_the_cpu(gpu: VirtualGpu) -> None:
    """Numbers at ties between codes, tiny and huge ones: both round them to the same codes."""
    gpu.set(capability=90)
    steps = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    steps = np.sort(steps[np.isfinite(steps)])
    row = np.resize(np.concatenate([(steps[1:] + steps[:-1]) / 2, steps, [448.0, -448.0, 1e-30, -0.0]]), 512)
    x = np.stack([row * np.float32(2.0) ** e for e in (-100, -7, 0, 1, 60)]).astype(np.float32)
    x[:, 0] = 448.0 * np.float32(2.0) ** np.array([-100, -7, 0, 1, 60])
    stored, _ = stored_weight(np.eye(64, 512, dtype=np.float32), "fp8_e4m3_g512")
    text = program("?", 64, 512, "fp8_e4m3_g512", "fp8_e4m3_g512")
    results = []
    for target in ("cpu", "sm_90a"):
        code = compile_text(text, target=target)
        executable = Executable(code.object, code.manifest)
        executable.bind_weights({"w": stored})
        results.append(executable(x)[0])
    np.testing.assert_array_equal(*results)


def test_what_the_ir_says() -> None:
    text = program("?", 256, 1024, "fp8_e4m3_g128", "fp8_e4m3_g128")
    ir = lower_text(text, target="sm_90a", to_phase="schedule")
    assert 'instruction = "wgmma8"' in ir
    assert re.search(r"dsc\.dequantize %\w+ scales %\w+ : tensor<\?x8xf32>", ir)
    older = lower_text(text, target="sm_80", to_phase="schedule")
    assert "wgmma8" not in older
    assert "scales %" not in older
    # Groups that are no whole slices stay blocks.
    other = lower_text(program("?", 256, 1024, "fp8_e4m3_g64", "fp8_e4m3_g64"), target="sm_90a", to_phase="schedule")
    assert "wgmma8" not in other


def test_a_known_size_has_a_predicted_time() -> None:
    text = program(4096, 4096, 4096, "fp8_e4m3_g128", "fp8_e4m3_g128")
    ir = lower_text(text, target="sm_90a", to_phase="schedule")
    predicted = int(re.search(r'@matmul_0\]\(.*predicted_ns = "(\d+)"', ir)[1])
    # 2 * 4096^3 operations at 1,978.8 per ps, on 132 multiprocessors in 8 waves of 128 x 128.
    assert predicted == pytest.approx(2 * 4096**3 / 1978800 * (8 * 132) / 1024, rel=0.01)


@pytest.mark.parametrize("target", ["cpu", "sm_80", "sm_90a"])
def test_codes_and_scales_may_be_arguments(gpu: VirtualGpu, target: str) -> None:
    """What is no weight lies as the caller has it."""
    gpu.set(capability=80 if target == "sm_80" else 90)
    rng = np.random.default_rng(0)
    (x, xc, xs), (w, wc, ws) = (rounded(rng.standard_normal((n, 384), np.float32), "fp8_e4m3_g128") for n in (70, 40))
    form = '{format = "fp8_e4m3_g128"}'
    text = f"""func.func @main(%x: tensor<?x384xi8> {{dsc.dims = #dsc.dims<["m", "_"]>}}, %xs: tensor<?x3xf32> {{dsc.dims = #dsc.dims<["m", "_"]>}},
    %w: tensor<40x384xi8>, %ws: tensor<40x3xf32>) -> tensor<?x40xf32> {{
  %a = dsc.dequantize %x scales %xs : tensor<?x3xf32> {form} : tensor<?x384xi8> -> tensor<?x384xf32>
  %b = dsc.dequantize %w scales %ws : tensor<40x3xf32> {form} : tensor<40x384xi8> -> tensor<40x384xf32>
  %y = dsc.matmul %a, %b {{transpose_rhs}} : (tensor<?x384xf32>, tensor<40x384xf32>) -> tensor<?x40xf32>
  return %y : tensor<?x40xf32>
}}"""
    code = compile_text(text, target=target)
    (found,) = Executable(code.object, code.manifest)(xc.view(np.int8), xs, wc.view(np.int8), ws)
    assert np.all(np.abs(found - x @ w.T) <= 1e-6 * (np.abs(x) @ np.abs(w).T))


@pytest.mark.parametrize("target", ["cpu", "sm_80"])
@pytest.mark.parametrize("name", ["int8_g64", "int4_g32"])
def test_other_codes_under_scales(gpu: VirtualGpu, target: str, name: str) -> None:
    gpu.set(capability=80)
    rng = np.random.default_rng(0)
    group, bits = int(name.rsplit("_g")[1]), 4 if name.startswith("int4") else 8
    numbers = rng.integers(-(1 << bits - 1), 1 << bits - 1, (5, 128))
    scales = rng.standard_normal((5, 128 // group), np.float32)
    codes = numbers.astype(np.int8)
    if bits == 4:  # of 32 weights, the first 16 are the low halves of 16 bytes
        low, high = np.split((numbers + 8).astype(np.uint8).reshape(5, -1, 2, 16), 2, axis=2)
        codes = (low | high << 4).reshape(5, -1).view(np.int8)
    c, s, y = f"tensor<?x{codes.shape[1]}xi8>", f"tensor<?x{128 // group}xf32>", "tensor<?x128xf32>"
    named = '{dsc.dims = #dsc.dims<["m", "_"]>}'
    text = f"""func.func @main(%c: {c} {named}, %s: {s} {named}) -> {y} {{
  %y = dsc.dequantize %c scales %s : {s} {{format = "{name}"}} : {c} -> {y}
  return %y : {y}
}}"""
    code = compile_text(text, target=target)
    (found,) = Executable(code.object, code.manifest)(codes, scales)
    np.testing.assert_array_equal(found, numbers.astype(np.float32) * scales.repeat(group, 1))


def test_products_share_what_they_read(gpu: VirtualGpu) -> None:
    """Two products of one input round it once."""
    gpu.set(capability=90)
    text = program("?", 64, 256, "fp8_e4m3_g128", "fp8_e4m3_g128")
    second = re.search(r"  %y = .*\n.*\n", text)[0].replace("%y", "%z")
    y = "tensor<?x64xf32>"
    text = text.replace("  return %y", second + "  return %y, %z").replace(f": {y}\n}}", f": {y}, {y}\n}}")
    text = text.replace(f") -> {y} {{", f") -> ({y}, {y}) {{").replace("%x, %w precision", "%x, %v precision", 1)
    stored = re.search(r"tensor<64x\d+xi8>", text)[0]
    text = text.replace('{dsc.weight = "w"})', f'{{dsc.weight = "w"}}, %t: {stored} {{dsc.weight = "v"}})')
    text = text.replace(
        "  %y =", f'  %v = dsc.dequantize %t {{format = "fp8_e4m3_g128"}} : {stored} -> tensor<64x256xf32>\n  %y ='
    )
    ir = lower_text(text, target="sm_90a", to_phase="schedule")
    main = ir[ir.index("@main(") : ir.index("func.func private")]
    assert len(re.findall(r"\[@(?:map|reduce)_\d+\]", main)) == 2
    assert main.count("@matmul_0]") + main.count("@matmul_0_rows1") >= 2
    rng = np.random.default_rng(0)
    x, v, w = (rng.standard_normal((n, 256), np.float32) for n in (9, 64, 64))
    (v_stored, v_values), (w_stored, w_values) = stored_weight(v, "fp8_e4m3_g128"), stored_weight(w, "fp8_e4m3_g128")
    code = compile_text(text, target="sm_90a")
    executable = Executable(code.object, code.manifest)
    executable.bind_weights({"v": v_stored, "w": w_stored})
    values = rounded(x, "fp8_e4m3_g128")[0]
    for found, right in zip(executable(x), (v_values, w_values)):
        assert np.all(np.abs(found - values @ right.T) <= 1e-6 * (np.abs(values) @ np.abs(right).T))


def test_a_wait_less_is_seen() -> None:
    """Sums that are scaled before they are there."""
    made = kernels(program("?", 128, 1280, "fp8_e4m3_g128", "fp8_e4m3_g128"), "sm_90a")["matmul_0"]
    broken, count = re.subn(r"^.*wgmma\.wait_group.*$", "", made, flags=re.M)
    assert count
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 120, (128, 1280)).astype(np.uint8) for _ in range(2)]
    scales = [np.ones((128, 10), np.float32) for _ in range(2)]
    maps = [TensorMap(c, box=(128, 128), swizzle=128, sizes=(1280, 128), strides=(1280,)) for c in codes]
    y = np.full((128, 128), np.nan, np.float32)
    maps.append(TensorMap(y, box=(32, 64), swizzle=128, sizes=(128, 128), strides=(512,)))

    def run(ptx: str) -> None:
        threads = int(re.search(r"\.reqntid (\d+)", ptx)[1])
        arguments = [*maps, codes[0], scales[0], codes[1], scales[1], y, 128, 1]
        Kernel.parse(ptx).launch(1, threads, arguments, 227 << 10)

    run(made)
    values = [c.view(ml_dtypes.float8_e4m3fn).astype(np.float64) for c in codes]
    assert np.all(np.abs(y - values[0] @ values[1].T) <= 1e-6 * values[0] @ values[1].T)
    with pytest.raises(PtxError):
        run(broken)
