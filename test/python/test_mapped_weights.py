"""Weights in mapped files: what preparing them read once does not stay in memory beside what was prepared."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from deepseek.buffers import address_of, mapped_files
from deepseek.compiler import compile_text
from deepseek.executable import Executable

COUNT, SIZE = 8, 1000
WEIGHTS = ", ".join(f'%w{i}: tensor<{SIZE}x{SIZE}xf32> {{dsc.weight = "{i}"}}' for i in range(COUNT))
PRODUCTS = "\n".join(
    f"    %y{i + 1} = dsc.matmul %y{i}, %w{i} : (tensor<?x{SIZE}xf32>, tensor<{SIZE}x{SIZE}xf32>) -> tensor<?x{SIZE}xf32>"
    for i in range(COUNT)
)
TEXT = f"""module {{
  func.func @main(%y0: tensor<?x{SIZE}xf32> {{dsc.dims = #dsc.dims<["m", "_"]>}}, {WEIGHTS}) -> tensor<?x{SIZE}xf32> {{
{PRODUCTS}
    return %y{COUNT} : tensor<?x{SIZE}xf32>
  }}
}}"""


def resident_bytes(array: np.ndarray) -> int:
    """Memory that this process holds of the mapping behind `array` (proc(5), smaps)."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address_of(array) < int(span[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the array is not mapped")


def test_mapped_files(tmp_path: Path) -> None:
    np.arange(7, dtype=np.float32).tofile(tmp_path / "weights")
    mapped = np.memmap(tmp_path / "weights", np.float32, "r")
    writable = np.memmap(tmp_path / "weights", np.float32, "c")
    assert mapped_files([np.zeros(3), writable[1:]]) == {}
    assert mapped_files([mapped[5:], mapped.reshape(7, 1), writable]) == {address_of(mapped): 28}


def test_pages_that_were_read_are_given_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((COUNT, SIZE, SIZE), np.float32) / np.float32(SIZE**0.5)
    values.tofile(tmp_path / "weights")
    mapped = np.memmap(tmp_path / "weights", np.float32, "r", shape=values.shape)
    assert np.array_equal(mapped, values) and resident_bytes(mapped) > values.nbytes // 2
    code = compile_text(TEXT)
    program = Executable(code.object, code.manifest)
    program.bind_weights({str(i): mapped[i] for i in range(COUNT)})
    assert resident_bytes(mapped) == 0
    x = rng.standard_normal((7, SIZE), np.float32)
    expected = x.astype(np.float64)
    for weight in values:
        expected = expected @ weight.astype(np.float64)
    np.testing.assert_allclose(program(x)[0], expected, atol=1e-4)
    assert np.array_equal(mapped, values)
