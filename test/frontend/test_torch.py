"""PyTorch modules through `deepseek.compile`, against eager: structure, state, sizes, types, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import deepseek
from deepseek.errors import CompileError, InputError

torch = pytest.importorskip("torch")
pytest.importorskip("deepseek.compiler")
nn, F = torch.nn, torch.nn.functional


def agrees(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """The same structure, types and shapes; max|a - b| <= tolerance max|b|."""
    a, a_spec = torch.utils._pytree.tree_flatten(got)
    b, b_spec = torch.utils._pytree.tree_flatten(want)
    assert a_spec == b_spec
    for x, y in zip(a, b, strict=True):
        if not isinstance(y, torch.Tensor):
            assert x == y
            continue
        assert x.dtype == y.dtype and x.shape == y.shape
        if not y.is_floating_point():
            assert torch.equal(x, y)
        elif y.numel():
            scale = max(y.abs().max().item(), 1e-30)
            assert (x.double() - y.double()).abs().max().item() <= tolerance * scale


def check(module: Any, *args: Any, tolerance: float = 1e-5, **kwargs: Any) -> Any:
    """Compiles for these arguments, compares a call, gives the compiled module."""
    with torch.no_grad():
        want = module(*args, **kwargs)
        exe = deepseek.compile(module, kwargs or args)
        agrees(exe(*args, **kwargs), want, tolerance)
    return exe


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Any, scale: Any = None) -> Any:
        y = self.down(F.gelu(self.up(x)))
        return y if scale is None else y * scale


def test_every_size_from_one_compilation() -> None:
    torch.manual_seed(0)
    module = Mlp()
    exe = check(module, torch.randn(3, 5, 8))
    with torch.no_grad():
        for batch in (1, 2, 7, 127):
            for length in (1, 3, 16, 33, 1000 if batch < 3 else 5):
                x = torch.randn(batch, length, 8)
                agrees(exe(x), module(x))
    assert exe.cache_info().compiles == 1
    assert exe.cache_info().hits == 21


def test_another_type_or_constant_is_another_program() -> None:
    module = Mlp()
    exe = check(module, torch.randn(2, 8))
    x = torch.randn(2, 8)
    agrees(exe(x, 2.0), module(x, 2.0).detach())
    agrees(exe(x, scale=torch.tensor(3.0)), module(x, torch.tensor(3.0)).detach())
    assert exe.cache_info().compiles == 3


def test_dynamic_says_what_may_change() -> None:
    module = Mlp()
    x = torch.randn(4, 8)
    exe = deepseek.compile(module, (x,), dynamic={"x": {0: "batch"}})
    agrees(exe(torch.ones(9, 8)), module(torch.ones(9, 8)).detach())
    assert exe.cache_info().compiles == 1
    with pytest.raises(InputError, match=r"Mlp was compiled for float32\[4, 8\] with dynamic=.*called with float32"):
        exe(torch.ones(2, 9, 8))
    with pytest.raises(InputError, match=r"dynamic names \['y'\], but the arguments are \['x'\]"):
        deepseek.compile(module, (x,), dynamic={"y": {0: "batch"}})
    with pytest.raises(InputError, match=r"dynamic names axis 2 of x, which has shape \[4, 8\]"):
        deepseek.compile(module, (x,), dynamic={"x": {2: "batch"}})


class Structured(nn.Module):
    def forward(self, pair: Any, *, options: Any, flag: bool = True) -> Any:
        a, (b, c) = pair
        total = a + b * options["scale"] if flag else a - b
        return {"sum": total, "none": None, "number": 3, "list": [c, (total, total.sum())], "input": a}


def test_nested_arguments_and_results() -> None:
    pair = (torch.randn(2, 3), [torch.randn(2, 3), torch.arange(4)])
    module = Structured()
    exe = deepseek.compile(module, {"pair": pair, "options": {"scale": torch.tensor(2.0)}})
    agrees(exe(pair, options={"scale": torch.tensor(5.0)}), module(pair, options={"scale": torch.tensor(5.0)}))
    got = exe(pair, options={"scale": torch.tensor(5.0)}, flag=False)
    agrees(got, module(pair, options={"scale": torch.tensor(5.0)}, flag=False))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.arange(6.0).reshape(2, 3), persistent=False)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Any) -> Any:
        self.calls += 1
        x.mul_(2)
        return self.norm(x + self.table[0]), self.calls * 2


def test_buffers_and_arguments_that_change() -> None:
    torch.manual_seed(0)
    ours, theirs = Counting().train(), Counting().train()
    with torch.no_grad():
        exe = deepseek.compile(ours, (torch.randn(5, 3),))
        for rows in (5, 7):
            x = torch.randn(rows, 3)
            y = x.clone()
            agrees(exe(x), theirs(y))
            agrees(x, y)
    for (name, a), (_, b) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    assert ours.calls == 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Any) -> Any:
        return self.head(self.embed(ids))


def test_tied_weights_are_one_and_not_copied() -> None:
    module = Tied()
    exe = check(module, torch.randint(0, 11, (2, 3)))
    weights = [argument for argument in exe.graph.arguments if argument.kind == "weight"]
    assert [w.name for w in weights] == ["embed.weight"]


def test_half_precision_and_double() -> None:
    torch.manual_seed(0)
    for dtype, tolerance in ((torch.bfloat16, 3e-2), (torch.float16, 3e-3), (torch.float64, 1e-12)):
        check(Mlp().to(dtype), torch.randn(2, 5, 8).to(dtype), tolerance=tolerance)


def test_control_flow() -> None:
    def choose(x: Any) -> Any:
        return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, (x,))

    exe = check(choose, torch.ones(3))
    agrees(exe(-torch.ones(3)), choose(-torch.ones(3)))

    def branch(x: Any) -> Any:
        return x * 2 if x.shape[0] > 4 else x + 1

    exe = check(branch, torch.ones(3, 2))
    for rows in (2, 4, 5, 9):
        x = torch.randn(rows, 2)
        agrees(exe(x), branch(x))


def test_cnn_and_transformer_modules() -> None:
    torch.manual_seed(0)
    cnn = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(1)
    ).eval()
    check(cnn, torch.randn(2, 3, 8, 8))
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    exe = check(layer, torch.randn(2, 7, 32), tolerance=1e-5)
    assert "dsc.attention" in deepseek.compiler.lower_text(exe.graph.mlir, to_phase="import")


def line(text: str) -> int:
    return next(
        n for n, row in enumerate(Path(__file__).read_text().splitlines(), 1) if text in row and "line(" not in row
    )


class Unsupported(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.eig(x @ x.mT)[0].real  # no import


class DataDependent(nn.Module):
    def forward(self, x: Any) -> Any:
        rows = x[x > 0]  # as many as there are
        return rows * 2


class Branches(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:  # on a value
            return x
        return -x


class Elsewhere(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.to("cuda") * 2  # no such device


class Sparse(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.to_sparse() @ x.mT  # sparse


class Fixed(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.reshape(6, 2)  # one size only


@pytest.mark.parametrize(
    ("module", "dynamic", "at", "message"),
    [
        (Unsupported, None, "# no import", r"linalg_eig"),
        (DataDependent, None, "# as many", r"whose size depends on values|depends on values"),
        (Branches, None, "# on a value", r"a shape or a branch depends on values: use torch.where, torch.cond"),
        (Elsewhere, None, "# no such device", r"move the module and its inputs to one device"),
        (Sparse, None, "# sparse", r"aten._to_sparse.default; torch.export cannot follow it"),
        (Fixed, {"x": {0: "rows"}}, None, r"Fixed cannot be exported: .*leave it out of dynamic"),
    ],
)
def test_errors_name_the_line(module: Any, dynamic: Any, at: str | None, message: str, capfd: Any) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        deepseek.compile(module(), (torch.randn(4, 3),), dynamic=dynamic)
    assert capfd.readouterr() == ("", "")
    if at is not None:
        assert f"test_torch.py:{line(at)}: " in str(caught.value)


def test_wrong_devices_and_things() -> None:
    with pytest.raises(InputError, match="expected a torch.nn.Module or a function of tensors, got int"):
        deepseek.compile(3, (torch.ones(2),))
    with pytest.raises(InputError, match=r"Mlp.forward: missing a required argument: 'x'"):
        deepseek.compile(Mlp(), ())
    with pytest.raises(InputError, match="precision must be one of"):
        deepseek.compile(Mlp(), (torch.ones(2, 8),), precision="int3")
    with pytest.raises(CompileError, match="unknown target"):
        deepseek.compile(Mlp(), (torch.ones(2, 8),), target="tpu")


def test_trace(tmp_path: Path) -> None:
    module = Mlp()
    graph = deepseek.ACG.trace(module, torch.randn(3, 8))
    assert "dsc.matmul" in graph.mlir and str(graph) == graph.mlir
    graph.save(tmp_path / "mlp.mlir")
    assert (tmp_path / "mlp.mlir").read_text() == graph.mlir
    x = torch.randn(5, 8)
    agrees(graph(x), module(x).detach())
    agrees(graph.compile("cpu:x86-64-v3", threads=1)(x), module(x).detach())
    fixed = deepseek.ACG.trace(module, torch.randn(3, 8), dims={"x": {0: "rows"}})
    assert 'dsc.dim "x_0"' in fixed.mlir
