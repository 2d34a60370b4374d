"""Random arrays: bit for bit a SplitMix64 counter in Python integers, and distributions by their moments."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek import ACG
from deepseek.errors import CompileError

pytest.importorskip("deepseek.compiler")
MASK, GAMMA = 2**64 - 1, 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("stream", [0, 3])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (127, 4)])
def test_bits(shape: tuple[int, ...], stream: int) -> None:
    bits = ACG.compile(lambda seed: ACG.random_bits(seed, shape, stream))
    for seed in (0, 42, 2**63 - 1, -5):
        key = mix(((seed & MASK) + (stream + 1) * GAMMA) & MASK)
        expected = [mix((key + i * GAMMA) & MASK) for i in range(int(np.prod(shape)))]
        got = bits(np.array(seed))
        assert got.dtype == np.uint64 and got.shape == shape
        assert got.ravel().tolist() == expected


def test_distributions() -> None:
    n = 1 << 16
    draw = ACG.compile(
        lambda seed: (
            ACG.random_uniform(seed, (n,)),
            ACG.random_uniform(seed, (n,), "f64", 1),
            ACG.random_normal(seed, (n,), stream=2),
            ACG.random_integers(seed, -3, 4, (n,), stream=3),
        )
    )
    first = draw(np.array(1))
    uniform, double, normal, whole = first
    for x in (uniform.astype(np.float64), double):
        # Moments of n draws: five standard errors.
        assert x.min() >= 0 and x.max() < 1
        assert abs(x.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
        assert abs(x.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    assert abs(normal.mean()) < 5 / n**0.5 and abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((normal.astype(np.float64) ** 4).mean() - 3) < 5 * (96 / n) ** 0.5
    counts = np.bincount(whole + 3, minlength=7)
    assert len(counts) == 7 and np.all(np.abs(counts - n / 7) < 5 * (n * 6 / 49) ** 0.5)
    assert abs(np.corrcoef(uniform, double)[0, 1]) < 5 / n**0.5
    for again, other, before in zip(draw(np.array(1)), draw(np.array(2)), first, strict=True):
        np.testing.assert_array_equal(again, before)
        assert not np.array_equal(other, before)


def test_errors() -> None:
    with pytest.raises(CompileError, match="a seed must be one integer, got"):
        ACG.trace(lambda x: ACG.random_uniform(x, (3,)), np.zeros(2))
    with pytest.raises(CompileError, match="random_integers needs low < high, got 3 and 3"):
        ACG.trace(lambda x: ACG.random_integers(x, 3, 3, (3,)), np.array(0))
