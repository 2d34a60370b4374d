"""The command line: help, exit statuses, one-paragraph errors, and one JSON object on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepseek.cli import COMMANDS, common, main
from deepseek.cli.summary import summarize
from deepseek.errors import CheckpointError, DeepseekError, InputError
from deepseek.names import find_model

MODULE = """module attributes {dsc.phase = "fuse"} {
  func.func @main(%ids: tensor<?x?xi32> {dsc.name = "ids", dsc.dims = #dsc.dims<["b", "s"]>}, \
%c: tensor<?x2x1x?x8xf32> {dsc.name = "cache.0"}, %w: tensor<4x8xf32> {dsc.weight = "a.weight"}) -> (tensor<?x4xf32>) {
    %b = dsc.dim "b" : index
    %0 = dsc.matmul %x, %w {transpose_rhs} : (tensor<?x8xf32>, tensor<4x8xf32>) -> tensor<?x4xf32> loc("lm_head")
    %1 = linalg.generic {indexing_maps = []} ins(%0 : tensor<?x4xf32>) {
      %2 = arith.addf %in, %in : f32
      linalg.yield %2 : f32
    }
    %3 = arith.addf %2, %2 : f32
    return %1 : tensor<?x4xf32>
  }
}
"""


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail with status 1; returns its message."""
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("deepseek: error: ")
    assert "Traceback" not in err
    assert "\n\n" not in err
    return err


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepseek", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "examples:\n" in text
    assert text.count(f"  deepseek {command}") >= 2


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, deepseek.cli as c; c.build_parser().format_help(); print(sorted({'numpy', 'torch', 'tokenizers'} & set(sys.modules)))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["generate", "m", "--prompt", "x", "--max-new-tokens", "-1"], "'-1' is not a whole number of at least 0"),
        (["generate", "m", "--prompt", "x", "--threads", "0"], "'0' is not a whole number of at least 1"),
        (["generate", "m", "--prompt", "x", "--temperature", "nan"], "'nan' is not a finite number of at least 0"),
        (["compile", "m", "-o", "x.mlir", "--to", "nowhere"], "invalid choice: 'nowhere'"),
        (["bench", "m", "--runs", "2"], "'2' is not a whole number of at least 5"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "a COMMAND is required" in capsys.readouterr().err


def test_model_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = failure(capsys, "inspect", "nosuch")
    assert "no model 'nosuch': there is no file" in message and "smollm2-135m" in message
    damaged = tmp_path / "a.gguf"
    damaged.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert f"{damaged}: the tensor count needs 8 bytes" in failure(capsys, "inspect", str(damaged), "--json")
    damaged.write_bytes(b"PK\x03\x04")
    assert "expected the magic b'GGUF'" in failure(capsys, "inspect", str(damaged))
    (tmp_path / "empty").mkdir()
    assert "empty is a folder that holds neither config.json nor a .gguf file" in failure(
        capsys, "inspect", str(tmp_path / "empty")
    )


def test_compile_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "expected a name ending in .dsc" in failure(capsys, "compile", "m", "-o", "x.mlir")
    assert "choose one" in failure(capsys, "compile", "m", "--to", "fuse", "-o", "-", "--json")
    absent = tmp_path / "absent.mlir"
    assert f"{absent}: cannot be read" in failure(capsys, "compile", str(absent), "-o", "x.dsc")
    absent.write_bytes(b"\xff\xfe")
    assert f"{absent}: cannot be read" in failure(capsys, "compile", str(absent), "-o", "x.dsc")
    compiled = tmp_path / "a.dsc"
    compiled.write_bytes(b"")
    assert "is compiled already" in failure(capsys, "compile", str(compiled), "-o", "x.dsc")


def test_inspect_module(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "m.mlir"
    path.write_text(MODULE)
    dump = tmp_path / "new" / "folder"
    assert main(["inspect", str(path), "--json", "--dump", str(dump)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["phase"] == "fuse"
    assert report["operations"] == {
        "arith.addf": 2,
        "dsc.dim": 1,
        "dsc.matmul": 1,
        "func.func": 1,
        "func.return": 1,
        "linalg.generic": 1,
        "linalg.yield": 1,
    }
    assert report["arguments"] == [
        {"name": "ids", "kind": "input", "type": "tensor<?x?xi32>", "dims": ["b", "s"]},
        {"name": "cache.0", "kind": "input", "type": "tensor<?x2x1x?x8xf32>", "dims": None},
        {"name": "a.weight", "kind": "weight", "type": "tensor<4x8xf32>", "dims": None},
    ]
    assert (dump / "m.mlir").read_text() == MODULE
    assert main(["inspect", str(path)]) == 0
    assert "2 input arguments" in capsys.readouterr().out
    with pytest.raises(InputError, match="no function @main"):
        summarize("module {}", "x.mlir")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DeepseekError("first\n\n\nsecond\n"), 1, "deepseek: error: first\nsecond\n"),
        (CheckpointError("bad file"), 1, "deepseek: error: bad file\n"),
        (MemoryError(), 1, "deepseek: error: out of memory\n"),
        (OSError(28, "No space left on device", "x.dsc"), 1, "deepseek: error: x.dsc: No space left on device\n"),
        (KeyError("bug"), 1, "deepseek: error: internal error: KeyError: 'bug'; set DEEPSEEK_TRACEBACK=1"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_statuses(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.delenv("DEEPSEEK_TRACEBACK", raising=False)
    monkeypatch.setattr("deepseek.names.find_model", fail)
    assert main(["inspect", "m"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message)


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(_: object) -> Path:
        import warnings

        warnings.warn("the cache does not work", RuntimeWarning, stacklevel=1)
        raise DeepseekError("and then this")

    monkeypatch.setattr("deepseek.names.find_model", warn)
    assert main(["inspect", "m"]) == 1
    assert capsys.readouterr().err == "deepseek: warning: the cache does not work\ndeepseek: error: and then this\n"


def test_writes_are_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.mlir"
    target.write_bytes(b"old")
    common.write_atomically(str(target), b"new")
    assert target.read_bytes() == b"new"
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        common.write_atomically(str(target), b"newer")
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.mlir"]
    with pytest.raises(InputError, match="there is no folder"):
        common.write_atomically(str(tmp_path / "absent" / "x.mlir"), b"")


def test_broken_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        child = subprocess.run(
            [sys.executable, "-m", "deepseek", "doctor"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write)
    assert (child.returncode, child.stderr) == (128 + signal.SIGPIPE, "")


def test_runs_as_a_module() -> None:
    child = run("--version")
    assert child.returncode == 0 and child.stdout.startswith("deepseek ")
    assert run("inspect", "nosuch").returncode == 1


@pytest.fixture(scope="module")
def smollm2() -> str:
    find_model("smollm2-135m")  # make test installs it: a missing model is a failure
    return "smollm2-135m"


def test_generate(smollm2: str) -> None:
    arguments = ("generate", smollm2, "--prompt", "The capital of France is", "--max-new-tokens", "3")
    child = run(*arguments, "--json")
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert child.stdout.count("\n") == 1 and child.stderr == ""
    assert report["prompt_ids"] == [504, 3575, 282, 4649, 314]
    assert report["new_ids"] == [7042, 30, 198]
    assert report["text"] == " Paris.\n"
    assert report["load_s"] > 0 and report["prefill_tokens_per_s"] > 0 and report["decode_tokens_per_s"] > 0
    again = run(*arguments)
    assert again.returncode == 0
    assert again.stdout == "The capital of France is Paris.\n\n"
    assert "3 new tokens" in again.stderr and "cached" in again.stderr
    cached = json.loads(run(*arguments, "--json").stdout)
    assert cached["cache_hit"] and cached["compile_s"] == 0


def test_generate_errors(smollm2: str) -> None:
    for arguments, message in [
        (["--prompt", ""], "the prompt has no tokens"),
        (["--prompt", "a b c d e", "--context", "2"], "tokens, but the context holds 2"),
        (["--prompt", "a", "--context", "9000"], "context is 9000, expected 1 to 8192"),
        (["--prompt", "a", "--precision", "int3"], "precision is 'int3', expected one of as-stored, f32"),
    ]:
        child = run("generate", smollm2, *arguments)
        assert child.returncode == 1 and child.stdout == ""
        assert message in child.stderr and child.stderr.count("\n") == 1


def test_bench(smollm2: str) -> None:
    child = run("bench", smollm2, "--prompt-tokens", "8", "--new-tokens", "4", "--json")
    assert child.returncode == 0, child.stderr
    report = json.loads(child.stdout)
    assert report["weight_bytes"] == 96_576_768  # q4_1, q8_0 and f32 as in the file, tied embeddings once
    assert report["file_bytes"] == find_model(smollm2).stat().st_size
    assert len(report["prompt_ids"]) == 8 and len(report["new_ids"]) == 4
    assert report["warm_load_s"] > report["load_s"] > 0
    assert report["peak_rss_bytes"] <= report["weight_bytes"] + 300e6  # the panels and the process, not the file


@pytest.mark.parametrize("phase", ["import", "fuse"])
def test_compile_to(smollm2: str, tmp_path: Path, phase: str) -> None:
    target = tmp_path / "x.mlir"
    child = run("compile", smollm2, "--to", phase, "-o", str(target), "--json")
    assert child.returncode == 0, child.stderr
    assert json.loads(child.stdout)["phase"] == phase
    report = summarize(target.read_text(), str(target))
    assert report["phase"] == phase
    assert [argument["name"] for argument in report["arguments"]][:3] == ["ids", "lengths", "cache.0"]
