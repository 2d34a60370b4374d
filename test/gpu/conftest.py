"""A virtual GPU for the tests of this folder, which also use the programs of test/python."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "python"))

from garbage import collected

from gpu.checkpoints import SMOLLM2, TINY, write
from gpu.virtual_gpu import VirtualGpu, build_driver


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """libcuda.so.1 without a GPU."""
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def gpu(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualGpu]:
    """GPU 0 of this machine, emulated; what its kernels must not do fails the test."""
    virtual = VirtualGpu(driver, tmp_path / "gpu", monkeypatch)
    with collected():
        yield virtual
    virtual.check()


@pytest.fixture(scope="session")
def smollm2_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of one layer of SmolLM2's shape."""
    return write(tmp_path_factory.mktemp("models") / "smollm2", SMOLLM2)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of one small layer."""
    return write(tmp_path_factory.mktemp("models") / "tiny", TINY)
