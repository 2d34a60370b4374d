"""Stopping after any phase and going on gives the object of one go, from Python and from dsc-opt."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.compiler import PHASES, compile_text, lower_text
from deepseek.errors import CompileError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families.llama import build_graph, read_config
from deepseek.names import find_model

TARGET = "cpu:x86-64-v4"  # the same on every machine: nothing is run here


def dsc_opt() -> str:
    found = shutil.which("dsc-opt", path=str(Path(sys.executable).parent)) or shutil.which("dsc-opt")
    assert found, "dsc-opt is not installed: make build"
    return found


@pytest.fixture(scope="module")
def config():
    return read_config(open_checkpoint(find_model("smollm2-135m")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def graph_text(config):
    return str(build_graph(config.with_layers(2), "f32").mlir)


def object_sha256(text: str) -> str:
    return hashlib.sha256(compile_text(text, target=TARGET).object).hexdigest()


@pytest.fixture(scope="module")
def expected(graph_text, tmp_path_factory):
    return object_sha256(graph_text)


@pytest.mark.parametrize("phase", PHASES)
def test_resumed_object_is_the_same(graph_text, expected, phase):
    lowered = lower_text(graph_text, target=TARGET, to_phase=phase)
    assert f'dsc.phase = "{phase}"' in lowered
    assert object_sha256(lowered) == expected


@pytest.mark.parametrize("phase", PHASES)
def test_dsc_opt_gives_the_same_module(graph_text, expected, phase):
    command = [dsc_opt(), f"--dsc-compile=target={TARGET} to={phase}"]
    lowered = subprocess.run(command, input=graph_text, capture_output=True, text=True, check=True).stdout
    assert object_sha256(lowered) == expected


def test_object_does_not_depend_on_locations(graph_text, expected):
    command = [dsc_opt(), "--strip-debuginfo"]
    stripped = subprocess.run(command, input=graph_text, capture_output=True, text=True, check=True).stdout
    assert object_sha256(stripped) == expected


def test_kernels_do_not_grow_with_depth(config):
    statistics = [
        compile_text(str(build_graph(config.with_layers(n), "f32").mlir), target=TARGET).manifest["statistics"]
        for n in (3, 6)
    ]
    assert statistics[0]["kernels"] == statistics[1]["kernels"]
    assert statistics[0]["dispatches"] < statistics[1]["dispatches"]


def test_going_back_is_refused(graph_text):
    lowered = lower_text(graph_text, target=TARGET, to_phase="schedule")
    with pytest.raises(CompileError, match="another target|is already for target"):
        compile_text(lowered, target="cpu:x86-64-v3")
    with pytest.raises(CompileError, match="unknown phase"):
        lower_text(graph_text, target=TARGET, to_phase="nowhere")
    with pytest.raises(CompileError, match="unknown target"):
        compile_text(graph_text, target="cpu:z80")


def test_failure_writes_a_reproducer(graph_text):
    broken = graph_text.replace('["b", "s"]', '["b", "1s"]', 1)
    with pytest.raises(CompileError, match="has a bad dimension name") as raised:
        compile_text(broken, target=TARGET)
    command = str(raised.value).splitlines()[-1].partition(": ")[2].split()
    assert command[:2] == ["dsc-opt", "--run-reproducer"]
    again = subprocess.run([dsc_opt(), *command[1:]], capture_output=True, text=True)
    assert again.returncode != 0
    assert 'has a bad dimension name: "1s"' in again.stderr


def test_no_code_before_the_last_phase(graph_text):
    from deepseek.compiler import _bindings, parse_module

    context, module = parse_module(graph_text)
    messages: list[str] = []
    with context:
        context.attach_diagnostic_handler(lambda d: bool(messages.append(d.message)) or True)
        with pytest.raises(ValueError, match="no object could be made of the module"):
            _bindings()[1].emit_object(module)
    assert "not at the end of phase llvm" in messages[0]
    assert re.match("cannot be made into machine code: ", messages[0]), messages
