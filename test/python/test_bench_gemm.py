"""`deepseek bench gemm`: the keys of its contract, right products, and errors that say what is wrong."""

from __future__ import annotations

import json

import pytest

from deepseek.cli import main

_KEYS = {
    "m",
    "n",
    "k",
    "dtype",
    "pack",
    "threads",
    "gflops",
    "limit_gflops",
    "vector_limit_gflops",
    "ratio",
    "seconds",
    "max_rel_error",
    "runs",
}


@pytest.mark.parametrize("pack", ["rhs", "both"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-5), ("bf16", 1e-5), ("int8", 0.0)])
def test_figures(capsys: pytest.CaptureFixture[str], dtype: str, tolerance: float, pack: str) -> None:
    command = ["bench", "gemm", "--m", "127", "--n", "100", "--k", "333", "--dtype", dtype, "--pack", pack]
    assert main([*command, "--threads", "1", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values) == _KEYS
    assert (values["m"], values["n"], values["k"], values["threads"]) == (127, 100, 333, 1)
    assert values["max_rel_error"] <= tolerance  # operands are rounded before both products
    assert values["gflops"] == pytest.approx(2 * 127 * 100 * 333 / values["seconds"] / 1e9)
    assert values["ratio"] == pytest.approx(values["gflops"] / values["limit_gflops"])


def test_what_memory_cannot_hold(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gemm", "--m", "1000000", "--n", "1000000"]) == 1
    assert "the operands and their reference need" in capsys.readouterr().err


def test_sizes_are_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["bench", "gemm", "--k", "0"])
    assert error.value.code == 2
    assert "argument --k: '0' is not a whole number of at least 1" in capsys.readouterr().err
