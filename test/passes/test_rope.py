"""Rotary embeddings against float64: pairs of neighbours and of halves, heads that do and don't fill vectors."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek.compiler import assembly, compile_text
from deepseek.executable import Executable


def _module(size: int, interleaved: bool) -> str:
    x, angle = f"tensor<?x?x3x{size}xf32>", f"tensor<?x?x{size // 2}xf32>"
    flag = " {interleaved}" if interleaved else ""
    dims = 'dsc.dims = #dsc.dims<["b", "s", "_"'
    return f"""module {{
      func.func @main(%x: {x} {{{dims}, "_"]>}}, %c: {angle} {{{dims}]>}}, %s: {angle} {{{dims}]>}}) -> {x} {{
        %y = dsc.rope %x, %c, %s{flag} : ({x}, {angle}, {angle}) -> {x}
        return %y : {x}
      }}
    }}"""


def _rotated(x: np.ndarray, angles: np.ndarray, interleaved: bool) -> np.ndarray:
    """Each pair as a complex number, times e^(i angle) (Su et al., RoFormer, 2021)."""
    half = x.shape[-1] // 2
    pairs = x.reshape(*x.shape[:-1], half, 2) if interleaved else np.stack([x[..., :half], x[..., half:]], -1)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)[:, :, None]
    parts = np.stack([turned.real, turned.imag], -1)
    return parts.reshape(x.shape) if interleaved else np.concatenate([parts[..., 0], parts[..., 1]], -1)


@pytest.mark.parametrize("target", ["cpu", "cpu:x86-64-v3", "cpu:x86-64"])
@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("size", [2, 6, 20, 64, 80])
def test_rotates_pairs(size: int, interleaved: bool, target: str) -> None:
    code = compile_text(_module(size, interleaved), target=target)
    executable = Executable(code.object, code.manifest, threads=1)
    for rows in (1, 7, 127):
        rng = np.random.default_rng(rows + size)
        x = rng.standard_normal((2, rows, 3, size), np.float32)
        angles = rng.uniform(-4, 4, (2, rows, size // 2))
        result = executable(x, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
        result = result[0] if isinstance(result, tuple) else result
        np.testing.assert_allclose(result, _rotated(x.astype(np.float64), angles, interleaved), rtol=0, atol=2e-6)


@pytest.mark.parametrize("interleaved", [True, False])
def test_reads_whole_vectors(interleaved: bool) -> None:
    """Lanes that are gathered one by one would be inserted into a vector."""
    text = assembly(_module(64, interleaved), target="cpu:x86-64-v3")
    assert "vmulps" in text
    assert "vinsertps" not in text
    assert "vgatherdps" not in text
