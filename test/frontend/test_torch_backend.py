"""torch.compile(backend="deepseek"): values, sizes, state that changes, what falls back and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepseek.compiler")
from deepseek.frontend.torch import backend as backend_module  # noqa: E402 (needs torch)

nn, F = torch.nn, torch.nn.functional


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graphs of other tests, and every fallback an error unless a test expects it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="deepseek runs this graph in eager")
        yield
    torch._dynamo.reset()


def close(a: Any, b: Any) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_entry_point_is_known() -> None:
    assert "deepseek" in torch.compiler.list_backends()


@pytest.mark.parametrize("dynamic", [None, True])
def test_modules_at_many_sizes(dynamic: bool | None) -> None:
    cnn = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu").eval()
    with (
        torch.no_grad(),
        mock.patch.object(
            backend_module._Entry, "__init__", autospec=True, side_effect=backend_module._Entry.__init__
        ) as made,
    ):
        compiled = torch.compile(cnn, backend="deepseek", dynamic=dynamic)
        for batch, side in ((2, 9), (3, 12), (7, 17), (5, 31)):
            x = torch.randn(batch, 3, side, side)
            assert close(compiled(x), cnn(x))
        assert made.call_count <= (1 if dynamic else 2)  # automatic: static first, then any size
        compiled = torch.compile(layer, backend="deepseek", dynamic=dynamic)
        for batch, length in ((2, 7), (3, 127), (2, 33)):
            x = torch.randn(batch, length, 32)
            assert close(compiled(x), layer(x))


@pytest.mark.parametrize("kind", ["key_padding", "source", "both"])
def test_masks_of_the_fused_transformer_layer(kind: str) -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True).eval()
    x = torch.randn(2, 7, 32)
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    options = {}
    if kind != "source":
        options["src_key_padding_mask"] = padding
    if kind != "key_padding":
        options["src_mask"] = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
    with torch.no_grad():
        want = layer(x, **options)
        assert close(torch.compile(layer, backend="deepseek")(x, **options), want)


def test_weights_are_read_again_when_they_change() -> None:
    module = nn.Linear(4, 3)
    compiled = torch.compile(module, backend="deepseek")
    x = torch.randn(5, 4)
    with torch.no_grad():
        assert close(compiled(x), module(x))
        module.weight.mul_(2)
        assert close(compiled(x), module(x))
        module.weight = nn.Parameter(torch.randn(3, 4))
        assert close(compiled(x), module(x))


def test_sizes_outputs_and_in_place() -> None:
    @torch.compile(backend="deepseek", dynamic=True)
    def f(x: Any, y: Any) -> Any:
        x.add_(1)
        return x * y.shape[0], y.shape[1], (y + torch.arange(y.shape[1])).sum(0)

    for n, m in ((2, 3), (5, 7), (9, 4)):
        x, y = torch.randn(n), torch.randn(n, m)
        before = x.clone()
        a, b, c = f(x, y)
        assert close(a, (before + 1) * n) and b == m and close(x, before + 1)
        assert close(c, (y + torch.arange(m)).sum(0))


def test_graph_breaks() -> None:
    @torch.compile(backend="deepseek")
    def f(x: Any) -> Any:
        y = torch.tanh(x) * 2
        torch._dynamo.graph_break()
        return y + x

    x = torch.randn(6)
    assert close(f(x), torch.tanh(x) * 2 + x)


def test_what_is_not_supported_runs_in_eager_and_says_so() -> None:
    def f(x: Any) -> Any:
        return torch.linalg.eigvals(x @ x.mT).real + 1

    x = torch.randn(3, 3)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"deepseek runs this graph in eager: .*linalg_eig"):
        got = torch.compile(f, backend="deepseek")(x)
    assert close(got.sort().values, f(x).sort().values)
    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Exception, match="linalg_eig"):
        torch.compile(f, backend="deepseek", options={"fallback": False})(x)


def test_training_runs_in_eager_and_says_so() -> None:
    module = nn.Linear(4, 3)
    compiled = torch.compile(module, backend="deepseek")
    x = torch.randn(5, 4)
    with pytest.warns(UserWarning, match="needs gradients, and this backend is for inference"):
        compiled(x).sum().backward()
    assert close(module.bias.grad, torch.full((3,), 5.0))


def test_unknown_options() -> None:
    with torch.no_grad(), pytest.raises(Exception, match="unknown options of the backend: speed; known are fallback"):
        torch.compile(nn.Linear(4, 3), backend="deepseek", options={"speed": 3})(torch.randn(2, 4))
