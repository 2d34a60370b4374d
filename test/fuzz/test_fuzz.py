"""Every reader of outside data on damaged inputs: a thousand made ones each, and all that was ever found.

`make fuzz COUNT=100000` runs more. A finding prints the command that shows it again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
READERS = ("gguf", "folder", "tokenizer", "template", "artifact", "mlir", "dsc-opt", "elf")


def fuzz(reader: str, output: Path, *options: str) -> dict[str, object]:
    """The report of one run, in an interpreter without the threads of other tests."""
    command = [sys.executable, str(HERE / "fuzz.py"), reader, "--json", "--output", str(output), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    report = json.loads(result.stdout)
    assert not report["findings"], "\n".join(f"{f['signature']}\n{f['command']}" for f in report["findings"])
    return report


@pytest.mark.parametrize("reader", READERS)
def test_made_inputs(reader: str) -> None:
    report = fuzz(reader, Path("build/fuzz"))
    assert report["inputs"] >= 125  # of eight modules each for dsc-opt, else 1000
    assert report["accepted"] < report["inputs"]


@pytest.mark.parametrize("reader", ["mlir", "dsc-opt"])
def test_found_inputs(reader: str, tmp_path: Path) -> None:
    """NAME.READER in found/: each ended the compiler once."""
    paths = sorted((HERE / "found").glob(f"*.{reader}"))
    report = fuzz(reader, tmp_path, "--input", *map(str, paths))
    assert report["inputs"] == len(paths) > 0
    assert not report["foreign"]


def test_readers_are_complete() -> None:
    listed = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert all(f" {name}," in listed.stdout or f"{name}, all" in listed.stdout for name in READERS)


@pytest.mark.parametrize(
    ("behaviour", "signature"),
    [
        ("raise KeyError('k')", "KeyError at "),
        ("os.abort()", "SIGABRT: "),
        ("ctypes.string_at(0)", "SIGSEGV: "),
        ("exec('while True: pass')", "hang: "),
        ("bytearray(8 << 30)", "MemoryError at "),
        ("os._exit(3)", "exit 3: "),
    ],
)
def test_harness_names_every_kind_of_failure(tmp_path: Path, behaviour: str, signature: str) -> None:
    script = f"""
import ctypes, os, sys
sys.path.insert(0, {str(HERE)!r})
import harness
harness.CPU_SECONDS = 0.3
class Bad(harness.Reader):
    name = "bad"
    def prepare(self, folder): pass
    def seeds(self): return []
    def damaged(self, draw): return draw.randbytes(4)
    def read(self, data, folder):
        if data == expected: {behaviour}
expected = harness.make(Bad(), 1, 7)
report = harness.run(Bad(), 1, 0, 20)
(failure,) = report.failures.values()
assert (report.inputs, report.accepted, failure.index, failure.data) == (20, 19, 7, expected), report
print(failure.signature)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(signature)
