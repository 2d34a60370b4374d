"""Modules that draw random numbers: reproducible from a seed, and of torch's distributions."""

from __future__ import annotations

from typing import Any

import pytest

import deepseek

torch = pytest.importorskip("torch")
pytest.importorskip("deepseek.compiler")
F = torch.nn.functional
N = 20_000


def near(value: Any, mean: float, deviation: float, n: int = N) -> bool:
    """A mean of n draws within five standard errors."""
    return abs(float(value) - mean) <= 5 * deviation / n**0.5


def test_dropout_in_training() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 400), torch.nn.Dropout(0.3)).train()
    x = torch.randn(50, 8)
    exe = deepseek.compile(module, (x,))
    first, again, other = exe(x, seed=1), exe(x, seed=1), exe(x, seed=2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(5)
    drawn = exe(x)
    torch.manual_seed(5)
    assert torch.equal(exe(x), drawn) and not torch.equal(exe(x), drawn)
    kept = first != 0
    assert near(kept.float().mean(), 0.7, 0.46)
    with torch.no_grad():
        assert torch.allclose(first[kept], (module[0](x) / 0.7)[kept], atol=1e-5)
    assert exe.cache_info().compiles == 1


def test_attention_dropout() -> None:
    q = torch.randn(1, 1, 1, 8)
    k, v = torch.zeros(1, 1, 100, 8), torch.eye(100, 8).reshape(1, 1, 100, 8)
    exe = deepseek.compile(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5), (q, k, v))
    # Equal weights of 1/100: each element of the result is 0 or 1/50.
    values = torch.stack([exe(q, k, v, seed=s) for s in range(200)])
    assert torch.all(torch.isclose(values, torch.tensor(0.02)) | (values == 0))
    assert near((values > 0).float().mean(), 0.5, 0.5, 1600)


def draw(x: Any) -> Any:
    chances = torch.tensor([0.1, 0.0, 0.9])
    return {
        "rand": torch.rand(N),
        "randn": torch.randn_like(x),
        "randint": torch.randint(-2, 3, (N,)),
        "bernoulli": torch.bernoulli(torch.full((N,), 0.25)),
        "normal": torch.normal(x, 2.0),
        "uniform": torch.empty(N).uniform_(2, 3),
        "exponential": torch.empty(N).exponential_(0.5),
        "multinomial": torch.multinomial(chances, N, replacement=True),
        "without": torch.multinomial(torch.rand(50, 7), 5),
        "randperm": torch.randperm(100),
        "rrelu": F.rrelu(-torch.ones(N), training=True),
    }


def test_distributions() -> None:
    x = torch.full((N,), 3.0)
    exe = deepseek.compile(draw, (x,))
    got = exe(x, seed=3)
    want = draw(x)
    assert {k: (v.shape, v.dtype) for k, v in got.items()} == {k: (v.shape, v.dtype) for k, v in want.items()}
    assert near(got["rand"].mean(), 0.5, 0.29) and near(got["rand"].var(), 1 / 12, 0.075)
    assert near(got["randn"].mean(), 0, 1) and near(got["randn"].var(), 1, 1.42)
    assert sorted(got["randint"].unique().tolist()) == [-2, -1, 0, 1, 2] and near(
        got["randint"].double().mean(), 0, 1.42
    )
    assert near(got["bernoulli"].mean(), 0.25, 0.44)
    assert near(got["normal"].mean(), 3, 2) and near(got["normal"].var(), 4, 5.7)
    assert near(got["uniform"].mean(), 2.5, 0.29) and got["uniform"].min() >= 2 and got["uniform"].max() <= 3
    assert near(got["exponential"].mean(), 2, 2)
    assert near((got["multinomial"] == 2).double().mean(), 0.9, 0.3) and not (got["multinomial"] == 1).any()
    assert all(len(set(row.tolist())) == 5 for row in got["without"])
    assert sorted(got["randperm"].tolist()) == list(range(100))
    assert near(got["rrelu"].mean(), -(1 / 8 + 1 / 3) / 2, 0.061)
    assert abs(torch.corrcoef(torch.stack([got["rand"], got["uniform"]]))[0, 1]) < 5 / N**0.5
