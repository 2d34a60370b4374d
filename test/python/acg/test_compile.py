"""ACG.compile: what is compiled when, structures in and out, kinds of arrays, saved graphs."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from deepseek import ACG, InputError

pytest.importorskip("deepseek.compiler")
torch = pytest.importorskip("torch")

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int32)
TORCH_DTYPES = ("float32", "float16", "bfloat16", "float64", "int32", "int64", "uint8")
Pair = namedtuple("Pair", "first second")


@ACG.compile
def model(x):
    return x * 2 + 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_program(dtype: type) -> None:
    x = np.arange(24).reshape(4, 6).astype(dtype)
    got = model(x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x * 2 + 3)


@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_first_program_torch(name: str) -> None:
    x = torch.arange(24).reshape(4, 6).to(getattr(torch, name))
    got = model(x)
    assert isinstance(got, torch.Tensor) and got.dtype == x.dtype
    assert torch.equal(got, x * 2 + 3)


def test_one_program_for_all_sizes() -> None:
    @ACG.compile
    def fn(x):
        return ACG.silu(x) * 0.5 + x.sum(1, keepdims=True)

    rng = np.random.default_rng(0)
    shapes = [(0, 3), (1, 1), (5, 5), (3, 0)] + [tuple(rng.integers(1, 40, 2)) for _ in range(46)]
    for shape in shapes:
        assert fn(np.ones(shape, np.float32)).shape == shape
    assert fn.cache_info() == (1, 49)


def test_compiles_again_when_an_answer_changes() -> None:
    @ACG.compile
    def fn(x, y):
        return x + y

    a, b, c = (np.ones(shape, np.float32) for shape in ((3, 4), (1, 4), (3, 1)))
    for x, y in ((a, a), (b, b), (c, c), (a, b), (a, c), (a[:2], b)):
        np.testing.assert_array_equal(fn(x, y), x + y)
    assert fn.cache_info() == (3, 3)


def test_statics_and_defaults() -> None:
    @ACG.compile
    def fn(x, *, times: int = 2, mode: str = "add"):
        return x + times if mode == "add" else x * times

    x = np.arange(3.0)
    np.testing.assert_array_equal(fn(x), x + 2)
    np.testing.assert_array_equal(fn(x, times=3), x + 3)
    np.testing.assert_array_equal(fn(x, mode="multiply", times=3), x * 3)
    np.testing.assert_array_equal(fn(x, times=2), x + 2)
    assert fn.cache_info() == (3, 1)


def test_structures() -> None:
    @ACG.compile
    def fn(params, pair):
        w, (b,) = params["w"], params["rest"]
        return {"y": [pair.first @ w + b, None], "pair": Pair(pair.second, 3), "n": w.shape[0]}

    w, b, x = np.ones((4, 2), np.float32), np.ones(2, np.float32), np.ones((3, 4), np.float32)
    got = fn({"w": w, "rest": (b,)}, Pair(x, np.float32(7)))
    np.testing.assert_array_equal(got["y"][0], x @ w + b)
    assert got["y"][1] is None and got["n"] == 4
    assert isinstance(got["pair"], Pair) and got["pair"].first == 7 and got["pair"].second == 3


def test_results_are_new_arrays() -> None:
    x = np.ones((2, 3), np.float32)
    got = ACG.compile(lambda a, b: (a, a, b.reshape(3, 2), a[:1]))(x, x)
    for i, y in enumerate(got):
        assert not np.shares_memory(x, y)
        assert not any(np.shares_memory(y, other) for other in got[:i])
    got[0][:] = 7
    assert got[1][0, 0] == 1 and x[0, 0] == 1


def test_non_contiguous_and_swapped_inputs() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(model(x.T[::2]), x.T[::2] * 2 + 3)
    np.testing.assert_array_equal(model(x.astype(">f4")), x * 2 + 3)
    t = torch.arange(24.0).reshape(4, 6).T
    assert torch.equal(model(t), t * 2 + 3)


def test_zero_dimensional() -> None:
    got = model(np.float32(4))
    assert got.shape == () and got == 11
    assert model(torch.tensor(4)) == 11


def test_compiled_functions_nest() -> None:
    @ACG.compile
    def outer(x):
        return model(x) - model(x[0])

    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(outer(x), np.zeros((3, 4)))
    assert outer.cache_info() == (1, 0)


def test_options_and_methods() -> None:
    class Layer:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        def __call__(self, x):
            return x * self.scale

    x = np.ones(3)
    np.testing.assert_array_equal(ACG.compile(Layer(3.0), threads=1)(x), x * 3)
    np.testing.assert_array_equal(ACG.compile(target="cpu", dims={"x": ("n",)})(lambda x: x + 1)(x), x + 1)


def test_methods_are_compiled_per_object() -> None:
    class Layer:
        def __init__(self, scale: float) -> None:
            self.scale = scale

        @ACG.compile
        def apply(self, x):
            return x * self.scale

    x, two, three = np.ones(3), Layer(2.0), Layer(3.0)
    np.testing.assert_array_equal(two.apply(x) + three.apply(x) + two.apply(x), x * 7)
    assert two.apply.cache_info() == (1, 1)


def test_functions_of_numpy_and_torch() -> None:
    x, t = np.linspace(0, 1, 6).reshape(2, 3), torch.linspace(0, 1, 6).reshape(2, 3)
    for fn in (
        lambda x: np.exp(x) + np.ones(3), lambda x: np.ones(3) - x, lambda x: np.where(x > 0.5, x, 0.0),
        lambda x: np.concatenate([x, x], axis=1), lambda x: np.float32(2) * x, lambda x: np.sum(x, axis=0),
        lambda x: np.maximum(x, np.array([0.3])), lambda x: abs(np.negative(x)),
    ):  # fmt: skip
        np.testing.assert_allclose(ACG.compile(fn)(x), fn(x), rtol=1e-14)
    for fn in (
        lambda x: torch.exp(x) + torch.ones(3), lambda x: torch.ones(3) - x, lambda x: torch.where(x > 0.5, x, 0.0),
        lambda x: torch.cat([x, x], dim=1), lambda x: torch.softmax(x, dim=-1), lambda x: torch.matmul(x, x.T),
    ):  # fmt: skip
        torch.testing.assert_close(ACG.compile(fn)(t), fn(t))


def test_graph_runs_and_reloads(tmp_path: Path) -> None:
    graph = ACG.trace(lambda x, scale=2.0: {"y": x[1:] * scale}, np.zeros(3))
    x = np.arange(5.0)
    np.testing.assert_array_equal(graph(x)["y"], x[1:] * 2)
    graph.save(tmp_path / "g.mlir")
    loaded = ACG.load(tmp_path / "g.mlir")
    np.testing.assert_array_equal(loaded(x)["y"], x[1:] * 2)
    np.testing.assert_array_equal(loaded.run(x=x)["y"], x[1:] * 2)
    with pytest.raises(InputError, match="x_0 - 1 >= 0"):
        graph(np.zeros(0))
    with pytest.raises(InputError, match="float 3.0, expected|expected the float 2.0"):
        graph(x, scale=3.0)
    with pytest.raises(InputError, match="f32 and rank 1, expected a numpy array of f64"):
        graph(x.astype(np.float32))
    with pytest.raises(InputError, match="missing a required argument"):
        graph()


def test_torch_promotion() -> None:
    ints, floats = torch.arange(1, 5, dtype=torch.int32), torch.rand(4, dtype=torch.float64)
    half = torch.rand(4).to(torch.bfloat16)
    pairs = [
        lambda i, f, h: i / 2, lambda i, f, h: i * 1.5, lambda i, f, h: i + f, lambda i, f, h: h * 0.1,
        lambda i, f, h: h + i, lambda i, f, h: i.sum(), lambda i, f, h: h * f[0], lambda i, f, h: h > 0.3,
        lambda i, f, h: i // 2, lambda i, f, h: f % 0.3, lambda i, f, h: i + True,
    ]  # fmt: skip
    for fn in pairs:
        got, expected = ACG.compile(fn)(ints, floats, half), fn(ints, floats, half)
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_numpy_promotion() -> None:
    ints, half, big = np.arange(1, 5, dtype=np.int32), np.ones(4, np.float16), np.arange(4, dtype=np.int64)
    flags, small = np.array([True, False, True, True]), np.arange(4, dtype=np.uint8)
    programs = [
        lambda i, h, b, m, u: i / 2, lambda i, h, b, m, u: i * 1.5, lambda i, h, b, m, u: h * 0.1,
        lambda i, h, b, m, u: h + i, lambda i, h, b, m, u: m + m, lambda i, h, b, m, u: m * 2,
        lambda i, h, b, m, u: u - 1, lambda i, h, b, m, u: u + i, lambda i, h, b, m, u: m.sum(),
        lambda i, h, b, m, u: u.sum(), lambda i, h, b, m, u: i.mean(), lambda i, h, b, m, u: h.sum(),
        lambda i, h, b, m, u: u < 300, lambda i, h, b, m, u: i ** 3, lambda i, h, b, m, u: b ** u,
        lambda i, h, b, m, u: 2 ** i, lambda i, h, b, m, u: np.float32(2) * h,
    ]  # fmt: skip
    for fn in programs:
        got, expected = ACG.compile(fn)(ints, half, big, flags, small), fn(ints, half, big, flags, small)
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)
