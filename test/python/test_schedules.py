"""Schedules in a file: recorded by the CLI, taken by $DEEPSEEK_SCHEDULES, part of the cache key."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deepseek import compiler, isolation
from deepseek.cli import main
from deepseek.errors import CompileError
from deepseek.executable import Executable

TEXT = """module {
  func.func @main(%a: tensor<?x40xf32> {dsc.dims = #dsc.dims<["m", "_"]>}, %b: tensor<40x64xf32> {dsc.weight = "b"})
      -> tensor<?x64xf32> {
    %c = dsc.matmul %a, %b : (tensor<?x40xf32>, tensor<40x64xf32>) -> tensor<?x64xf32>
    return %c : tensor<?x64xf32>
  }
}"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "a module.mlir"
    path.write_text(TEXT)
    return path


def record(module: Path) -> dict:
    file = module.with_name("schedules.json")
    command = ["compile", str(module), "--to", "schedule", "-o", str(module.with_name("out.mlir"))]
    assert main([*command, "--record-schedules", str(file)]) == 0
    return json.loads(file.read_text())


def test_an_edited_schedule_is_used(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = record(module)
    entry = next(entry for entry in recorded["schedules"] if entry["op"] == "dsc.matmul")
    plain = compiler.compile_text(TEXT)
    lanes = 2 * int(entry["target"].split("vector_bytes = ")[1].split(",")[0]) // 4
    entry["schedule"] = f"#dsc.schedule<<tile = [3, {lanes}], workgroup = [3, {lanes}]>>"
    file = module.with_name("edited.json")
    file.write_text(json.dumps(recorded))
    monkeypatch.setenv(compiler.SCHEDULES, str(file))
    lowered = compiler.lower_text(TEXT, to_phase="schedule")
    assert f"tile = [3, {lanes}], workgroup = [3, {lanes}]" in lowered
    assert isolation.lower_text(TEXT, to_phase="schedule") == lowered
    code = compiler.compile_text(TEXT)
    assert code.key != plain.key and code.object != plain.object
    assert compiler.compile_text(TEXT).cache_hit
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 40), np.float32), rng.standard_normal((40, 64), np.float32)
    executable = Executable(code.object, code.manifest)
    executable.bind_weights({"b": b})
    np.testing.assert_allclose(executable(a)[0], a.astype(np.float64) @ b, rtol=0, atol=1e-5)


def test_what_cannot_be_used_is_an_error(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiler.SCHEDULES, str(module.with_name("missing.json")))
    with pytest.raises(CompileError, match=r"DEEPSEEK_SCHEDULES is .*missing\.json: No such file"):
        compiler.compile_text(TEXT)
    file = module.with_name("empty.json")
    file.write_text("[]")
    monkeypatch.setenv(compiler.SCHEDULES, str(file))
    with pytest.raises(CompileError, match=r"empty\.json cannot be used: expected"):
        compiler.compile_text(TEXT)


def test_recording_needs_the_phase(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compile", str(module), "-o", str(module.with_name("x.mlir")), "--record-schedules", "s.json"]
    assert main([*command, "--to", "fuse"]) == 1
    assert "--record-schedules needs --to schedule, or a later phase" in capsys.readouterr().err
