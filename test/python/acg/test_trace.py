"""What tracing records: arguments, dims, guards, locations. Needs no compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek import ACG, CompileError, InputError


def f32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def guards(graph: ACG.Graph) -> list[str]:
    return [str(guard) for guard in graph.guards]


def test_text_is_deterministic_and_has_no_absolute_paths() -> None:
    def fn(x):
        return x * 2 + 3

    first, second = str(ACG.trace(fn, f32(3, 4))), str(ACG.trace(fn, f32(5, 6)))
    assert first == second
    assert str(Path(__file__).parent) not in first
    assert "test_trace.py" in first


def test_elementwise_program_of_one_input_asks_nothing() -> None:
    for shape in ((3, 4), (5, 5), (0, 1), (1, 1)):
        assert guards(ACG.trace(lambda x: ACG.exp(x) * 2 - x, f32(*shape))) == []


def test_equal_sizes_unify_to_one_name() -> None:
    graph = ACG.trace(lambda x, y: x + y, f32(3, 4), f32(3, 4))
    assert [a.shape for a in graph.arguments] == [("x_0", "x_1"), ("x_0", "x_1")]
    assert guards(graph) == ["x_0 - y_0 == 0", "x_1 - y_1 == 0"]


def test_equal_sizes_of_one_do_not_become_static() -> None:
    graph = ACG.trace(lambda x, y: x + y, f32(1), f32(1))
    assert [a.shape for a in graph.arguments] == [("x_0",), ("x_0",)]
    assert graph.accepts([f32(7), f32(7)]) and not graph.accepts([f32(7), f32(1)])


def test_a_stretched_dim_is_static_one() -> None:
    graph = ACG.trace(lambda x, y: x + y, f32(1, 4), f32(3, 4))
    assert graph.arguments[0].shape == (1, "x_1")
    assert graph.accepts([f32(1, 9), f32(8, 9)]) and not graph.accepts([f32(2, 9), f32(2, 9)])


def test_branches_on_sizes_become_guards() -> None:
    def fn(x):
        return x + 1 if x.shape[0] > 4 else x - 1

    graph = ACG.trace(fn, f32(3))
    assert graph.accepts([f32(4)]) and not graph.accepts([f32(5)])
    assert "arith.subf" in graph.mlir and "max = 4" in graph.mlir


def test_range_over_a_size_fixes_it() -> None:
    def fn(x):
        total = x[0]
        for i in range(1, x.shape[0]):
            total = total + x[i]
        return total

    graph = ACG.trace(fn, f32(3, 2))
    assert graph.arguments[0].shape == (3, "x_1")


def test_symbolic_arithmetic() -> None:
    def fn(x):
        n, m = x.shape
        assert n * m == m * n and (n * 6) // 3 == n * 2 and (n * 4) % 2 == 0
        assert ACG.min_dim(n, n + 0) == n
        return x.reshape(n * m), n + 2 * m

    graph = ACG.trace(fn, f32(3, 4))
    assert guards(graph) == []
    assert graph.results[0].shape == ("?",)


def test_reshape_divides_with_a_guard() -> None:
    graph = ACG.trace(lambda x: x.reshape(-1, 2), f32(6))
    assert graph.accepts([f32(8)]) and not graph.accepts([f32(7)])


def test_specs_hold_for_all_sizes() -> None:
    s = ACG.dim("s", min=1, max=64)
    graph = ACG.trace(lambda x: x[:, -1] * x.shape[1], ACG.spec("f32", ("b", s, 8), "hidden"))
    assert graph.arguments[0].shape == ("b", "s", 8) and graph.arguments[0].name == "hidden"
    assert guards(graph) == [] and 'dsc.dim "s" {min = 1, max = 64}' in graph.mlir
    assert graph.results[0].shape == ("b", 8)


def test_specs_refuse_open_questions() -> None:
    with pytest.raises(CompileError, match=r"test_trace\.py:\d+.*size of s.*ACG\.dim"):
        ACG.trace(lambda x: x[-1], ACG.spec("f32", ("s",)))
    with pytest.raises(CompileError, match="size of"):
        ACG.trace(lambda x, y: x + y, ACG.spec("f32", ("s",)), ACG.spec("f32", ("t",)))
    with pytest.raises(CompileError, match="number s is needed"):
        ACG.trace(lambda x: list(range(x.shape[0])), ACG.spec("f32", ("s",)))


def test_named_dims_of_examples() -> None:
    graph = ACG.trace(lambda x, y: x + y, f32(3, 4), f32(3, 4), dims={"x": ("b", 4), "y": ("b", None)})
    assert graph.arguments[0].shape == ("b", 4)
    with pytest.raises(InputError, match="promised to be 5"):
        ACG.trace(lambda x: x, f32(3, 4), dims={"x": ("b", 5)})
    with pytest.raises(InputError, match="dim b is 3 in one argument and 2"):
        ACG.trace(lambda x, y: x, f32(3), f32(2), dims={"x": ("b",), "y": ("b",)})


def test_weights_scopes_and_tied_results() -> None:
    def fn(k, cache, at):
        with ACG.scope("layers.0"), ACG.scope("attn"):
            w = ACG.weight("w", (4,), "f32")
            assert ACG.weight("w", (4,), "f32").acg_value is w.acg_value
            return {"out": k * w, "cache": [ACG.kv_append(k, k, cache, at)]}

    graph = ACG.trace(
        fn,
        ACG.spec("f32", ("b", "s", 2, 4)),
        ACG.spec("f32", ("b", 2, 2, "c", 4), "cache.0", tied=True),
        ACG.spec("i32", ("b",)),
    )
    assert [a.kind for a in graph.arguments] == ["input", "input", "input", "weight"]
    assert [(r.name, r.tied) for r in graph.results] == [("out", None), ("cache.0", 1)]
    assert graph.arguments[1].tied
    assert 'loc("layers.0/attn")' in graph.mlir


def test_dead_code_is_not_printed() -> None:
    def fn(x):
        ACG.exp(x)
        return x + 1

    assert "math.exp" not in ACG.trace(fn, f32(3)).mlir


def test_transposes_join_matmul() -> None:
    text = ACG.trace(lambda x, w: x @ w.T, f32(3, 4), f32(5, 4)).mlir
    assert "{transpose_rhs}" in text and "linalg.generic" not in text


def test_16_bit_floats_round_after_every_operation() -> None:
    text = ACG.trace(lambda x: x * 2 + 3, np.zeros(3, np.float16)).mlir
    assert text.count("arith.truncf") == 2 and "arith.mulf %b0, %b1 : f32" in text


def test_save_and_load(tmp_path: Path) -> None:
    graph = ACG.trace(lambda x, scale=2.0: {"y": (x * scale, None)}, f32(3, 4))
    graph.save(tmp_path / "g.mlir")
    loaded = ACG.load(tmp_path / "g.mlir")
    assert loaded.mlir == graph.mlir
    assert loaded.arguments == graph.arguments and loaded.results == graph.results
    assert [p.name for p in tmp_path.iterdir()] == ["g.mlir"]
    with pytest.raises(InputError, match="cannot read"):
        ACG.load(tmp_path / "none.mlir")


def test_unsigned_and_bool_types() -> None:
    graph = ACG.trace(lambda x, m: ACG.where(m, x, x // 2), np.zeros(3, np.uint8), np.zeros(3, bool))
    assert graph.arguments[0].unsigned and "arith.divui" in graph.mlir and "xi1>" in graph.mlir


def test_tracing_imports_neither_torch_nor_the_compiler() -> None:
    code = (
        "import sys, numpy as np, deepseek\n"
        "assert 'deepseek.acg' not in sys.modules\n"
        "from deepseek import ACG\n"
        "ACG.trace(lambda x: ACG.softmax(x * 2 + 3), np.zeros((2, 3), np.float32))\n"
        "bad = [m for m in sys.modules if m == 'torch' or m.startswith(('mlir', 'deepseek._mlir', 'deepseek.compiler'))]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
