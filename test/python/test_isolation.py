"""Modules that a user wrote compile in a process of their own: what ends it is an error, not the end of ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deepseek import ACG, compiler, isolation
from deepseek.cli import main
from deepseek.errors import CompileError

GOOD = """
func.func @main(%x: tensor<4x8xf32>) -> tensor<4x16xf32> {
  %0 = tensor.concat dim(1) %x, %x : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x16xf32>
  return %0 : tensor<4x16xf32>
}
"""
ABORTS = GOOD.replace("dim(1)", "dim(-1)")  # an assertion in the verifier of tensor.concat (MLIR 22.1.8)


def test_same_result_as_in_this_process() -> None:
    code, expected = isolation.compile_text(GOOD), compiler.compile_text(GOOD)
    assert (code.object, code.manifest, code.key) == (expected.object, expected.manifest, expected.key)
    assert isolation.lower_text(GOOD, to_phase="fuse") == compiler.lower_text(GOOD, to_phase="fuse")


def test_an_error_is_the_same_error() -> None:
    bad = GOOD.replace("concat", "concta")
    with pytest.raises(CompileError) as expected:
        compiler.compile_text(bad, source_name="x.mlir")
    with pytest.raises(CompileError) as error:
        isolation.compile_text(bad, source_name="x.mlir")
    assert str(error.value) == str(expected.value)


def test_an_abort_is_an_error() -> None:
    with pytest.raises(CompileError, match="x.mlir breaks a rule .* ended with SIGABRT, Assertion `idx < getRank"):
        isolation.compile_text(ABORTS, source_name="x.mlir")
    with pytest.raises(CompileError, match="dsc-opt '--dsc-compile=target=cpu to=fuse' x.mlir"):
        isolation.lower_text(ABORTS, to_phase="fuse", source_name="x.mlir")


@pytest.mark.parametrize(
    "options", [["-o", "x.dsc"], ["--to", "fuse", "-o", "-"], ["--dump-ir", "phases", "-o", "x.dsc"]]
)
def test_the_command_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aborts.mlir").write_text(ABORTS)
    assert main(["compile", "aborts.mlir", *options]) == 1
    assert "deepseek: error: aborts.mlir breaks a rule" in capsys.readouterr().err
    assert not Path("x.dsc").exists()


def test_a_loaded_graph_survives(tmp_path: Path) -> None:
    def double(x: object) -> object:
        return ACG.concat([x, x], 1)

    path = tmp_path / "graph.mlir"
    ACG.trace(double, np.zeros((4, 8), np.float32)).save(path)
    text = path.read_text()
    assert "tensor.concat dim(1)" in text
    path.write_text(text.replace("tensor.concat dim(1)", "tensor.concat dim(-1)"))
    with pytest.raises(CompileError, match="graph breaks a rule .* ended with SIGABRT"):
        ACG.load(path).compile()


def test_what_is_cached_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    key = isolation.compile_text(GOOD).key
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a process was started"))
    again = isolation.compile_text(GOOD)
    assert again.cache_hit and again.key == key


def test_assembly_is_isolated() -> None:
    assert isolation.assembly(GOOD) == compiler.assembly(GOOD)
    with pytest.raises(CompileError, match="SIGABRT"):
        isolation.assembly(ABORTS)
