"""One object of kernels that were made beside each other: its bytes, its symbols, its values."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek import ACG
from deepseek.compiler import compile_text
from deepseek.executable import Executable

WIDTHS = range(3, 43, 2)  # more kernels than groups of them
TABLE = np.linspace(-2, 3, 64, dtype=np.float32) ** 3  # a constant that several kernels read


def program() -> str:
    def fn(x):
        table = ACG.asarray(TABLE)
        return [ACG.sum(x[:, :width] * table[:width], axis=1) for width in WIDTHS]

    return str(ACG.trace(fn, np.zeros((5, 64), np.float32)))


@pytest.mark.parametrize("rows", [1, 7, 127])
def test_values(rows: int) -> None:
    compiled = compile_text(program())
    assert len({dispatch["kernel"] for dispatch in compiled.manifest["dispatches"]}) >= len(WIDTHS)
    x = np.random.default_rng(rows).standard_normal((rows, 64), np.float32)
    for width, found in zip(WIDTHS, Executable(compiled.object, compiled.manifest, threads=2)(x), strict=True):
        expected = x[:, :width].astype(np.float64) @ TABLE[:width].astype(np.float64)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("target", ["cpu", "cpu:aarch64", "sm_80"])
def test_symbols(target: str, tmp_path: Path) -> None:
    """What the program is called by is visible, and all that it needs is the runtime's."""
    path = tmp_path / "program.o"
    path.write_bytes(compile_text(program(), target=target).object)
    listed = subprocess.run(["readelf", "-Ws", path], capture_output=True, text=True, check=True).stdout
    fields = [line.split() for line in listed.splitlines() if line[:7].strip().rstrip(":").isdigit()]
    symbols = {(field[4], field[6] == "UND", field[7]) for field in fields if len(field) > 7}
    visible = {(undefined, name) for binding, undefined, name in symbols if binding == "GLOBAL"}
    assert {name for undefined, name in visible if not undefined} == {"dsc_main", "dsc_main_shapes"}
    assert all(name.startswith("dsc_rt_") for undefined, name in visible if undefined)
    if not target.startswith("sm"):
        assert sum(binding == "LOCAL" and name.startswith("reduce") for binding, _, name in symbols) >= len(WIDTHS)


def test_bytes_do_not_depend_on_threads(
    all_processors: None, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor: there is nothing to compare")
    script = f"""
import hashlib, os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
os.environ["DEEPSEEK_CACHE_MAX_BYTES"] = "0"
from deepseek.compiler import compile_text
code = compile_text({program()!r})
assert not code.cache_hit
print(hashlib.sha256(code.object).hexdigest())
"""
    one, two = (run_python(script, processors) for processors in ("1", "2"))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout != ""
