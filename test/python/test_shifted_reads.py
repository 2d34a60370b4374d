"""Slices move vectors off the multiples of their width at which whole blocks and halves are read at once."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek import ACG

pytest.importorskip("deepseek.compiler")


@pytest.mark.parametrize("begin", [1, 5, 16, 20])
@pytest.mark.parametrize("interleaved", [False, True])
def test_part_of_rope(begin: int, interleaved: bool) -> None:
    """Vectors that begin at 20 hold both halves of a head of 64, the pairs (i, i + 32)."""
    rng = np.random.default_rng(begin)
    x = rng.standard_normal((2, 3, 2, 64)).astype(np.float32)
    angles = rng.uniform(0, 2 * np.pi, (2, 3, 32))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    part = ACG.compile(lambda x, cos, sin: ACG.rope(x, cos, sin, interleaved=interleaved)[..., begin:])
    wide, c, s = x.astype(np.float64), cos.astype(np.float64)[:, :, None], sin.astype(np.float64)[:, :, None]
    first, second = (wide[..., ::2], wide[..., 1::2]) if interleaved else (wide[..., :32], wide[..., 32:])
    turned = np.stack([first * c - second * s, first * s + second * c], axis=-1 if interleaved else -2)
    expected = turned.reshape(x.shape)[..., begin:]
    # Two products and a sum, each rounded once: 3 u of what is added (u = 2^-24, |x| < 6).
    np.testing.assert_allclose(part(x, cos, sin), expected, rtol=0, atol=3 * 2**-24 * 12)
