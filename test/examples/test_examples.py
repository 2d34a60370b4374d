"""Every script of examples/ runs as a user would run it, and prints what it is about."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Patterns of lines that a script prints, in this order; other lines may stand between them.
PRINTED = {
    "01_compile_function.py": [
        r"1 rows: mean 0\.0, standard deviation 1\.0",
        r"1000 rows: mean 0\.0, standard deviation 1\.0",
        r"CacheInfo\(compiles=1, hits=2\)",
    ],
    "02_generate.py": [r"The capital of France is Paris\.", r"Gravity is .*\(24 tokens, stopped by length\)"],
    "03_save_and_load.py": [r"\(3, 64\)", r'refused: argument 2 \("v"\): dim 0 is "keys" = 9 .*, got 5'],
    "04_embed.py": [r" 0\.\d\d  A cat sleeps on the sofa\.", r"-?\s*0\.\d\d  .*"],
    "05_dump_ir.py": [
        r"import +\d+ lines, 2 linalg\.generic",
        r"codegen +\d+ lines, 0 linalg\.generic",
        r"\s+vaddps\s+%ymm.*",
    ],
    "06_torch_backend.py": [
        r"CNN: \d+\.\d ms, \d+\.\d\d times as fast as eager, differs by \de-0[6-9]",
        r"transformer: \d+\.\d ms, \d+\.\d\d times as fast as eager, differs by \de-0[5-9]",
    ],
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PRINTED.keys()


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_example(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == [], "an example leaves nothing behind"
    lines = iter(done.stdout.splitlines())
    for pattern in PRINTED[name]:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern} is not in\n{done.stdout}"
