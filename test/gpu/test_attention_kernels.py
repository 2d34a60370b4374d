"""Kernels of attention in the emulator, against softmax in float64."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from ptx import Kernel, TensorMap

from gpu.programs import attention, cached_attention, kernels

DTYPES = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
# Weights and results are rounded to the type of the operands, f32 is computed as it is.
BOUNDS = {"bf16": 6e-3, "f16": 8e-4, "f32": 2e-6}
SCALE = 0.125


def reference(q, k, v, *, causal=True, window=None, cap=None, lengths=None) -> np.ndarray:
    """[b, s, h, d] in float64, as dsc.attention defines it."""
    batch, positions, heads, _ = q.shape
    group = heads // k.shape[2]
    result = np.zeros(q.shape)
    for b in range(batch):
        count = k.shape[1] if lengths is None else lengths[b]
        own = np.arange(positions)[:, None] + count - positions
        key = np.arange(count)[None, :]
        seen = np.ones((positions, count), bool)
        if causal:
            seen &= key <= own
        if window:
            seen &= key > own - window
        for h in range(heads):
            scores = SCALE * q[b, :, h].astype(np.float64) @ k[b, :count, h // group].astype(np.float64).T
            if cap:
                scores = cap * np.tanh(scores / cap)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            result[b, :, h] = weights @ v[b, :count, h // group].astype(np.float64)
    return result


def attributes(causal=True, window=None, cap=None) -> str:
    parts = ["causal"] if causal else []
    parts += [f"window = {window} : i64"] if window else []
    parts += [f"soft_cap = {cap} : f32"] if cap else []
    return ", ".join(parts)


def launch(ptx: str, grid: int, parameters: list, shared: int) -> None:
    threads = int(re.search(r"\.reqntid (\d+)", ptx).group(1))
    Kernel.parse(ptx).launch(grid, threads, parameters, shared)


def operands(rng, dtype, b, s, t, heads, kv_heads, depth):
    kind = DTYPES[dtype]
    shapes = [(b, s, heads, depth), (b, t, kv_heads, depth), (b, t, kv_heads, depth)]
    return [rng.standard_normal(shape).astype(kind) for shape in shapes]


def error(actual: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(actual.astype(np.float64) - wanted).max() / np.abs(wanted).max())


CASES = [
    # b, s, t, heads, kv_heads, depth, options
    (1, 64, 64, 1, 1, 64, {"causal": False}),
    (2, 70, 300, 6, 2, 64, {}),  # grouped queries, a ragged last block of both
    (1, 50, 330, 3, 1, 128, {"window": 40}),
    (1, 33, 200, 2, 2, 256, {"cap": 20.0}),
    (1, 90, 90, 4, 2, 80, {}),  # a head that is no power of two
]


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize(("b", "s", "t", "heads", "kv_heads", "depth", "options"), CASES)
def test_mma(b, s, t, heads, kv_heads, depth, options, dtype):
    ptx = kernels(attention(heads, kv_heads, depth, dtype=dtype, attributes=attributes(**options)), "sm_80")
    q, k, v = operands(np.random.default_rng(0), dtype, b, s, t, heads, kv_heads, depth)
    y = np.full(q.shape, np.nan, q.dtype)
    panels, keys, positions = -(-depth // 64), 32 if depth > 128 else 64, 64 // (heads // kv_heads)
    workgroups = -(-s // positions) * b * kv_heads
    shared = panels * 128 * (64 + 4 * keys)
    launch(ptx["attention_0"], workgroups, [q, k, v, y, b, s, t, workgroups], shared)
    assert error(y, reference(q, k, v, **options)) < BOUNDS[dtype]


@pytest.mark.parametrize(("b", "s", "t", "heads", "kv_heads", "depth"), [(1, 3, 200, 6, 2, 64), (2, 1, 70, 4, 1, 128)])
def test_split_keys_and_their_merge(b, s, t, heads, kv_heads, depth):
    made = kernels(attention(heads, kv_heads, depth), "sm_90a")
    name = next(n for n in made if re.fullmatch(r"attention_0_rows\d+", n))
    q, k, v = operands(np.random.default_rng(0), "bf16", b, s, t, heads, kv_heads, depth)
    y = np.full(q.shape, np.nan, q.dtype)
    few, splits = 16 // (heads // kv_heads), 16
    partial = np.full((b, splits, few, heads, depth + 2), np.nan, np.float32)
    workgroups = b * kv_heads * splits
    shared = -(-depth // 64) * 128 * (64 + 4 * 64)
    launch(made[name], workgroups, [q, k, v, y, partial, b, s, t, workgroups], shared)
    launch(made[f"{name}_merge"], b * s, [q, k, v, y, partial, b, s, t, b * s], 0)
    assert error(y, reference(q, k, v)) < BOUNDS["bf16"]


def hopper_shape(depth: int) -> tuple[int, int]:
    """Keys of a tile, and bytes of shared memory."""
    keys = 64 if depth > 128 else 128
    return keys, 1024 + -(-depth // 64) * 128 * (128 + 4 * keys)


@pytest.mark.parametrize(("b", "s", "t", "heads", "kv_heads", "depth", "options"), CASES)
def test_wgmma(b, s, t, heads, kv_heads, depth, options):
    ptx = kernels(attention(heads, kv_heads, depth, attributes=attributes(**options)), "sm_90a")["attention_0"]
    q, k, v = operands(np.random.default_rng(0), "bf16", b, s, t, heads, kv_heads, depth)
    y = np.full(q.shape, np.nan, q.dtype)
    keys, shared = hopper_shape(depth)
    row = depth * 2
    maps = [
        TensorMap(
            a,
            box=(64, 1, keys, 1),
            swizzle=128,
            sizes=(depth, kv_heads, t, b),
            strides=(row, kv_heads * row, t * kv_heads * row),
        )
        for a in (k, v)
    ]
    workgroups = -(-s // (128 // (heads // kv_heads))) * b * kv_heads
    launch(ptx, workgroups, [*maps, q, k, v, y, b, s, t, workgroups], shared)
    assert error(y, reference(q, k, v, **options)) < BOUNDS["bf16"]


@pytest.mark.parametrize("depth", [64, 128])
def test_wgmma_over_a_cache(depth):
    """Positions behind the length hold numbers of others: they must not matter."""
    b, s, t, heads, kv_heads, lengths = 2, 70, 300, 6, 2, [290, 100]
    ptx = kernels(cached_attention(heads, kv_heads, depth), "sm_90a")["attention_0"]
    rng = np.random.default_rng(0)
    q = rng.standard_normal((b, s, heads, depth)).astype(np.float16)
    cache = rng.standard_normal((b, 2, kv_heads, t, depth)).astype(np.float16)
    y = np.full(q.shape, np.nan, np.float16)
    keys, shared = hopper_shape(depth)
    map_ = TensorMap(
        cache, box=(64, keys, 1), swizzle=128, sizes=(depth, t, b * 2 * kv_heads), strides=(depth * 2, t * depth * 2)
    )
    workgroups = -(-s // (128 // 3)) * b * kv_heads
    launch(ptx, workgroups, [map_, q, cache, np.array(lengths, np.int32), y, b, s, t, workgroups], shared)
    k, v = (cache[:, plane].transpose(0, 2, 1, 3) for plane in (0, 1))
    assert error(y, reference(q, k, v, lengths=lengths)) < BOUNDS["f16"]


@pytest.mark.parametrize(
    ("b", "s", "t", "heads", "kv_heads", "depth", "options"),
    [
        (1, 64, 64, 1, 1, 64, {"causal": False}),
        (2, 33, 70, 6, 2, 80, {}),
        (1, 20, 130, 4, 1, 128, {"window": 40}),
        (1, 13, 33, 2, 2, 256, {"cap": 20.0}),
    ],
)
def test_f32_is_not_rounded(b, s, t, heads, kv_heads, depth, options):
    ptx = kernels(attention(heads, kv_heads, depth, dtype="f32", attributes=attributes(**options)), "sm_90a")
    q, k, v = operands(np.random.default_rng(0), "f32", b, s, t, heads, kv_heads, depth)
    y = np.full(q.shape, np.nan, np.float32)
    workgroups = -(-s // max(1, 4 // (heads // kv_heads))) * b * kv_heads
    launch(ptx["attention_0"], workgroups, [q, k, v, y, b, s, t, workgroups], 0)
    assert error(y, reference(q, k, v, **options)) < BOUNDS["f32"]
