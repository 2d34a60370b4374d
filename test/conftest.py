"""Lets all tests import what lies beside this file (pytest's importlib mode adds no path) and interrupt programs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Where a shell started the tests in the background, interrupts are ignored, also in the programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
