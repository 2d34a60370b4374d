"""test/bench/gpu.py, which nobody runs before there is a GPU: its numbers, on a virtual one."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gpu.virtual_gpu import VirtualGpu

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("gpu_bench", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_bench", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_numbers_of_programs_compiled_before(gpu: VirtualGpu, bench, monkeypatch, tmp_path, capsys):
    few = [
        bench.Case("gemm", (7, 264, 520)),
        bench.Case("gemm-alone", (140, 264, 520)),
        bench.Case("gemm-fp8", (70, 264, 640)),
        bench.Case("attention", (1, 127, 8, 2, 64)),
        bench.Case("decode-attention", (2, 77, 4, 4, 64)),
        bench.Case("rms_norm", (7, 576)),
    ]
    monkeypatch.setattr(bench, "cases", lambda quick, target: few)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--prepare", str(tmp_path / "programs")])
    assert bench.main() == 0
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--quick", "--programs", str(tmp_path / "programs"), "--output", str(tmp_path)]
    )
    assert bench.main() == 0
    assert "6 of 6 cases are right" in capsys.readouterr().out
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert set(report["numerics"]) == {case.name for case in few}
    assert all(error <= bench.BOUND[case.kind] for case, error in zip(few, report["numerics"].values()))
    assert (tmp_path / "gpu.svg").read_text().startswith("<svg")


def test_a_wrong_kernel_is_seen(gpu: VirtualGpu, bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "cases", lambda quick, target: [bench.Case("rms_norm", (7, 576))])
    text = bench.program(bench.Case("rms_norm", (7, 576)))
    monkeypatch.setattr(bench, "program", lambda case: text.replace("1.0e-05", "1.0"))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--output", str(tmp_path)])
    assert bench.main() == 1
    assert "wrong: rms_norm-7-576" in capsys.readouterr().err


def test_without_a_gpu_it_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin", "DEEPSEEK_LIBCUDA": str(tmp_path / "none.so"), "HOME": str(tmp_path)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpu.py: ")
    assert "Traceback" not in done.stderr
