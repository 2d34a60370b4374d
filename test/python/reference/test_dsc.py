"""The oracle's `dsc` operations against torch eager and plain loops."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from strategies import Argument, Builder, Tensor

from deepseek import reference
from deepseek.reference import InterpreterError, compare

RNG = np.random.default_rng(1)


def one_op(op: str, result: Tensor, **arguments: Tensor) -> str:
    """A module of one operation; `op` is its text up to the colon."""
    builder = Builder(*(Argument(name, tensor) for name, tensor in arguments.items()))
    types = ", ".join(map(str, arguments.values()))
    return builder.module((builder.value(f"{op} : ({types}) -> {result}"), result))


def f32(*dims: str | int) -> Tensor:
    return Tensor("f32", dims)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def torch64(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64))


def check(text: str, inputs: list[np.ndarray], expected: np.ndarray | torch.Tensor) -> None:
    """float64 to 1e-13 (float64 has u = 1.1e-16, sums are below 1000 terms), strict f32 to 1e-5."""
    expected = np.asarray(expected)
    compare(reference.run(text, *inputs)[0], expected, 1e-13)
    (strict,) = reference.run(text, *inputs, mode="strict")
    assert strict.dtype == np.float32
    compare(strict, expected, 1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("s", "t"), [(1, 1), (5, 5), (1, 9), (4, 9)])
def test_attention_is_torch_sdpa_with_gqa(causal: bool, s: int, t: int) -> None:
    q, k, v = normal(2, s, 6, 8), normal(2, t, 2, 8), normal(2, t, 2, 8)
    flag = "causal, " if causal else ""
    text = one_op(
        f"dsc.attention %q, %k, %v {{{flag}scale = 0.25 : f32}}",
        f32("b", "s", 6, 8), q=f32("b", "s", 6, 8), k=f32("b", "t", 2, 8), v=f32("b", "t", 2, 8),
    )  # fmt: skip
    # torch's is_causal aligns to the upper left corner; the last query must see all keys.
    mask = torch.ones(s, t, dtype=torch.bool).tril(t - s) if causal else None
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch64(x).transpose(1, 2) for x in (q, k, v)), attn_mask=mask, scale=0.25, enable_gqa=True
    ).transpose(1, 2)
    check(text, [q, k, v], expected)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_reads_valid_positions_of_a_cache(causal: bool) -> None:
    lengths, capacity, s = np.array([3, 7, 1, 0], np.int32), 9, 3
    q, cache = normal(4, s, 4, 8), normal(4, 2, 2, capacity, 8)
    for row, length in enumerate(lengths):
        cache[row, :, :, length:] = np.nan
    flag = "causal, " if causal else ""
    text = one_op(
        f"dsc.attention %q cache %c lengths %n {{{flag}scale = 0.125 : f32}}",
        f32("b", "s", 4, 8), q=f32("b", "s", 4, 8), c=f32("b", 2, 2, "c", 8), n=Tensor("i32", ("b",)),
    )  # fmt: skip
    expected = np.zeros(q.shape)
    for b, i, h in np.ndindex(4, s, 4):
        seen = lengths[b] - s + i + 1 if causal else lengths[b]
        if seen > 0:
            keys, values = cache[b, :, h // 2, :seen].astype(np.float64)
            weights = np.exp(0.125 * keys @ q[b, i, h])
            expected[b, i, h] = weights @ values / weights.sum()
    check(text, [q, cache, lengths], expected)


def test_kv_append() -> None:
    k, v, cache = normal(2, 3, 2, 4), normal(2, 3, 2, 4), normal(2, 2, 2, 6, 4)
    positions = np.array([0, 3], np.int32)
    step, table = f32("b", "s", 2, 4), f32("b", 2, 2, "c", 4)
    text = one_op("dsc.kv_append %k, %v into %c at %p", table, k=step, v=step, c=table, p=Tensor("i32", ("b",)))
    expected = cache.copy()
    for b, i, h in np.ndindex(2, 3, 2):
        expected[b, 0, h, positions[b] + i] = k[b, i, h]
        expected[b, 1, h, positions[b] + i] = v[b, i, h]
    before = cache.copy()
    (result,) = reference.run(text, k, v, cache, positions, mode="strict")
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(cache, before)
    with pytest.raises(InterpreterError, match=r"'dsc.kv_append' 3 steps at positions \[0, 4\] leave the capacity 6"):
        reference.run(text, k, v, cache, positions + np.array([0, 1], np.int32))


def test_rms_norm_is_torch() -> None:
    x, w = normal(2, 3, 33), normal(33)
    text = one_op("dsc.rms_norm %x, %w {eps = 1.0e-05 : f64}", f32("b", "s", "d"), x=f32("b", "s", "d"), w=f32("d"))
    check(text, [x, w], torch.nn.functional.rms_norm(torch64(x), (33,), torch64(w), 1e-5))


def test_softmax_is_torch() -> None:
    x = normal(3, 127) * 20
    builder = Builder(Argument("x", f32("m", "n")))
    text = builder.module((builder.value(f"dsc.softmax %x : {f32('m', 'n')}"), f32("m", "n")))
    check(text, [x], torch.softmax(torch64(x), -1))
    assert reference.run(text, x[:, :0])[0].shape == (3, 0)
    assert np.isnan(reference.run(text, np.full((1, 2), -np.inf, np.float32))[0]).all()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_is_complex_rotation(interleaved: bool) -> None:
    x, angles = normal(2, 5, 3, 8), RNG.uniform(0, 6, (2, 5, 4))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    text = one_op(
        f"dsc.rope %x, %c, %s {'{interleaved}' if interleaved else ''}",
        f32("b", "n", 3, 8), x=f32("b", "n", 3, 8), c=f32("b", "n", 4), s=f32("b", "n", 4),
    )  # fmt: skip
    turn = (cos.astype(np.float64) + 1j * sin)[:, :, None]
    if interleaved:
        z = (x[..., 0::2] + 1j * x[..., 1::2].astype(np.float64)) * turn
        expected = np.stack([z.real, z.imag], -1).reshape(x.shape)
    else:
        z = (x[..., :4] + 1j * x[..., 4:].astype(np.float64)) * turn
        expected = np.concatenate([z.real, z.imag], -1)
    check(text, [x, cos, sin], expected)


def test_embedding_is_torch_and_clamps() -> None:
    table, ids = normal(9, 4), np.array([[0, 8, 3], [5, 5, 1]], np.int32)
    text = one_op("dsc.embedding %t, %i", f32("b", "s", 4), t=f32("v", 4), i=Tensor("i32", ("b", "s")))
    check(text, [table, ids], torch.nn.functional.embedding(torch.from_numpy(ids), torch64(table)))
    (clamped,) = reference.run(text, table, np.array([[-1, 100]], np.int32), mode="strict")
    np.testing.assert_array_equal(clamped[0], table[[0, 8]])


@pytest.mark.parametrize("flags", ["", "transpose_lhs", "transpose_rhs", "transpose_lhs, transpose_rhs"])
@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_matmul_is_torch(flags: str, batch: tuple[int, ...], shared: bool) -> None:
    names = ("b", "h")[: len(batch)]
    a_dims, a_shape = ("m", "k"), (5, 7)
    b_dims, b_shape = ("k", "n"), (7, 4)
    if "transpose_lhs" in flags:
        a_dims, a_shape = a_dims[::-1], a_shape[::-1]
    if "transpose_rhs" in flags:
        b_dims, b_shape = b_dims[::-1], b_shape[::-1]
    a, b, c = normal(*batch, *a_shape), normal(*(() if shared else batch), *b_shape), normal(4)
    text = one_op(
        f"dsc.matmul %a, %b bias %c {{{flags}}}", f32(*names, "m", "n"),
        a=f32(*names, *a_dims), b=f32(*(() if shared else names), *b_dims), c=f32("n"),
    )  # fmt: skip
    x, y = torch64(a), torch64(b)
    x = x.transpose(-1, -2) if "transpose_lhs" in flags else x
    y = y.transpose(-1, -2) if "transpose_rhs" in flags else y
    check(text, [a, b, c], x @ y + torch64(c))


def test_strict_matmul_adds_in_order() -> None:
    """Bit-equal to a loop in float32; bf16 operands are widened and the sum is rounded once."""
    a, b = normal(3, 50), normal(50, 2)
    text = one_op("dsc.matmul %a, %b", f32("m", "n"), a=f32("m", "k"), b=f32("k", "n"))
    expected = np.zeros((3, 2), np.float32)
    for k in range(50):
        expected = expected + np.outer(a[:, k], b[k])
    np.testing.assert_array_equal(reference.run(text, a, b, mode="strict")[0], expected)
    half, wide = a.astype(ml_dtypes.bfloat16), b.astype(ml_dtypes.bfloat16)
    bf16 = [Tensor("bf16", dims) for dims in (("m", "n"), ("m", "k"), ("k", "n"))]
    expected = np.zeros((3, 2), np.float32)
    for k in range(50):
        expected = expected + np.outer(half[:, k].astype(np.float32), wide[k].astype(np.float32))
    (actual,) = reference.run(one_op("dsc.matmul %a, %b", bf16[0], a=bf16[1], b=bf16[2]), half, wide, mode="strict")
    np.testing.assert_array_equal(actual, expected.astype(ml_dtypes.bfloat16))


def test_integer_matmul_wraps() -> None:
    a, b = (RNG.integers(-(2**31), 2**31, shape).astype(np.int32) for shape in ((3, 9), (9, 4)))
    i32 = [Tensor("i32", dims) for dims in (("m", "n"), ("m", "k"), ("k", "n"))]
    (actual,) = reference.run(one_op("dsc.matmul %a, %b", i32[0], a=i32[1], b=i32[2]), a, b)
    np.testing.assert_array_equal(actual, a @ b)  # numpy wraps as well


def test_dispatch_runs_its_region() -> None:
    builder = Builder(Argument("x", f32("m")))
    tensor = f32("m")
    value = builder.value(
        f"dsc.dispatch (%x) : ({tensor}) -> {tensor} {{\n    ^bb0(%y: {tensor}):\n"
        f"      %s = dsc.softmax %y : {tensor}\n      dsc.yield %s : {tensor}\n    }}"
    )
    x = normal(7)
    check(builder.module((value, tensor)), [x], torch.softmax(torch64(x), -1))
