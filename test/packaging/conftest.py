"""Runs Python and the tools of one installation: the one under test, or that of $DEEPSEEK_PYTHON (make test-wheel)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PYTHON = Path(os.environ.get("DEEPSEEK_PYTHON", sys.executable)).absolute()
ROOT = Path(__file__).resolve().parents[2]


def run(
    *command: str | Path, cache: Path | None = None, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs a command outside the checkout; `cache` is its $XDG_CACHE_HOME."""
    environment = dict(os.environ)
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    if "DEEPSEEK_PYTHON" in os.environ:
        environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        env=environment,
        cwd="/",
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str], str]:
    """python(code): stdout of a fresh process with this test's own cache; fails when the process does."""

    def call(code: str) -> str:
        done = run(PYTHON, "-c", code, cache=tmp_path / "cache")
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    return call


@pytest.fixture(scope="session")
def package() -> Path:
    """The folder of the installed package."""
    code = "import deepseek; print(deepseek.__path__[0])"
    return Path(run(PYTHON, "-c", code).stdout.decode().strip())


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """tool(name): a command of the installation, or of a development build on $PATH."""

    def find(name: str) -> Path:
        found = shutil.which(name, path=str(PYTHON.parent))
        if not found and "DEEPSEEK_PYTHON" not in os.environ:
            found = shutil.which(name)
        assert found, f"{name} is not installed: make build"
        return Path(found)

    return find
