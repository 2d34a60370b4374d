"""Lets all tests import what lies beside this file (pytest's importlib mode adds no path) and interrupt programs.

Gives each of pytest-xdist's workers processors of its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# Where a shell started the tests in the background, interrupts are ignored, also in the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_PROCESSORS = sorted(os.sched_getaffinity(0))

# Threads, of the compiler's programs and of torch, wait for one another after every operation. With processors of
# their own, workers' threads do not also wait for those of other workers.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # gw0, gw1, ..
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if workers <= len(_PROCESSORS):
        os.sched_setaffinity(0, _PROCESSORS[int(worker.removeprefix("gw")) :: workers])


@pytest.fixture
def all_processors() -> Iterator[list[int]]:
    """Lets a test run on those of other workers too."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _PROCESSORS)
    yield _PROCESSORS
    os.sched_setaffinity(0, own)
