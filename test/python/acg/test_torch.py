"""Array functions on torch tensors against torch eager: dtype, shape and values."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deepseek import ACG

pytest.importorskip("deepseek.compiler")
torch = pytest.importorskip("torch")
F = torch.nn.functional
EPS = 2.0**-10  # exact in f32, as which dsc.rms_norm keeps it

# (name, ACG function, torch function, allowed error in eps of the result's type)
CASES: list[tuple[str, Callable, Callable, float]] = [
    ("add", lambda x, y: x + y, lambda x, y: x + y, 0),
    ("scale", lambda x, y: x * 0.1 - 3, lambda x, y: x * 0.1 - 3, 0),
    ("divide", lambda x, y: x / (y * y + 1), lambda x, y: x / (y * y + 1), 1),
    ("exp", lambda x, y: ACG.exp(x), lambda x, y: torch.exp(x), 4),
    ("tanh", lambda x, y: ACG.tanh(x), lambda x, y: torch.tanh(x), 4),
    ("sigmoid", lambda x, y: ACG.sigmoid(x), lambda x, y: torch.sigmoid(x), 4),
    ("silu", lambda x, y: ACG.silu(x), lambda x, y: F.silu(x), 4),
    ("gelu", lambda x, y: ACG.gelu(x), lambda x, y: F.gelu(x), 8),
    ("gelu_tanh", lambda x, y: ACG.gelu(x, approximate="tanh"), lambda x, y: F.gelu(x, approximate="tanh"), 8),
    ("relu", lambda x, y: ACG.relu(x), lambda x, y: F.relu(x), 0),
    ("where", lambda x, y: ACG.where(x > y, x, 0.0), lambda x, y: torch.where(x > y, x, 0.0), 0),
    ("clip", lambda x, y: ACG.clip(x, -1, 1), lambda x, y: torch.clip(x, -1, 1), 0),
    ("maximum", lambda x, y: ACG.maximum(x, y), lambda x, y: torch.maximum(x, y), 0),
    ("sum", lambda x, y: x.sum(1), lambda x, y: x.sum(1), 32),
    ("mean", lambda x, y: x.mean((0, 1)), lambda x, y: x.mean((0, 1)), 32),
    ("max", lambda x, y: x.max(-1), lambda x, y: x.amax(-1), 0),
    ("argmax", lambda x, y: x.argmax(1), lambda x, y: x.argmax(1), 0),
    ("var", lambda x, y: x.var(1, ddof=1), lambda x, y: x.var(1), 64),
    ("reshape", lambda x, y: x.permute(1, 0, 2).reshape(x.shape[1], -1), lambda x, y: x.permute(1, 0, 2).flatten(1), 0),
    ("slice", lambda x, y: x[:, 1:, None, ::2], lambda x, y: x[:, 1:, None, ::2], 0),
    ("concat", lambda x, y: ACG.concat([x, y], 1), lambda x, y: torch.cat([x, y], 1), 0),
    ("stack", lambda x, y: ACG.stack([x, y], -1), lambda x, y: torch.stack([x, y], -1), 0),
    ("matmul", lambda x, y: x @ y.mT, lambda x, y: x @ y.mT, 64),
    ("softmax", lambda x, y: ACG.softmax(x, 1), lambda x, y: x.softmax(1), 8),
    ("log_softmax", lambda x, y: ACG.log_softmax(x), lambda x, y: x.log_softmax(-1), 16),
    ("layer_norm", lambda x, y: ACG.layer_norm(x), lambda x, y: F.layer_norm(x, x.shape[-1:]), 32),
    (
        "rms_norm",
        lambda x, y: ACG.rms_norm(x, y[0, 0], EPS),
        lambda x, y: F.rms_norm(x, x.shape[-1:], y[0, 0], EPS),
        32,
    ),
    ("compare", lambda x, y: x <= y, lambda x, y: x <= y, 0),
    ("cast", lambda x, y: x.astype(torch.int32), lambda x, y: x.to(torch.int32), 0),
    ("tril", lambda x, y: ACG.tril(x), lambda x, y: x.tril(), 0),
    ("zeros", lambda x, y: x + ACG.zeros(x.shape), lambda x, y: x + torch.zeros(x.shape), 0),
    ("arange", lambda x, y: x * ACG.arange(x.shape[2]), lambda x, y: x * torch.arange(x.shape[2]), 0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "fn", "expected", "ulp"), CASES, ids=[case[0] for case in CASES])
def test_agrees_with_torch(name: str, fn: Callable, expected: Callable, ulp: float, dtype: torch.dtype) -> None:
    compiled = ACG.compile(fn)
    generator = torch.Generator().manual_seed(0)
    for shape in ((2, 7, 5), (1, 3, 1), (3, 7, 127)):
        x, y = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        got, wanted = compiled(x, y), expected(x, y)
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        if not wanted.is_floating_point():
            assert torch.equal(got, wanted)
            continue
        scale = max(1.0, wanted.abs().max().item())
        limit = ulp * torch.finfo(wanted.dtype).eps * scale
        torch.testing.assert_close(got.double(), wanted.double(), rtol=0, atol=limit, equal_nan=True)
