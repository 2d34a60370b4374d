"""`dsc_rt_limit`: plausible figures, and none for what the CPU lacks."""

from __future__ import annotations

import pytest

from deepseek import runtime

_FASTEST_CLOCK = 6.5e9  # Hz, above any CPU sold
# Operations per cycle of two full-width units: lanes x products per lane x 2.
# A tile of 16 x 16 sums takes 64 bytes of each row and column in 16 cycles.
_PER_CYCLE = {
    "f32": 2 * 16 * 2,
    "bf16": 2 * 32 * 2,
    "int8": 2 * 64 * 2,
    "bf16_tiles": 16 * 32 * 2,
    "int8_tiles": 16 * 64 * 2,
}
_NEEDS = {
    "f32": None,
    "bf16": "avx512bf16",
    "int8": "avx2",
    "bf16_tiles": "amx-bf16",
    "int8_tiles": "amx-int8",
}


@pytest.mark.parametrize("kind", _PER_CYCLE)
def test_no_faster_than_the_units(kind: str) -> None:
    measured = runtime.limit(kind)
    if _NEEDS[kind] and _NEEDS[kind] not in runtime.cpu_features():
        assert measured is None
        return
    assert measured is not None
    assert 0.1 < measured <= _PER_CYCLE[kind] * _FASTEST_CLOCK / 1e9


def test_reading_memory() -> None:
    measured = runtime.limit("read")
    assert measured is not None and 0.1 < measured < 1000  # GB/s; HBM of one core is far below


def test_no_threads_is_no_figure() -> None:
    assert runtime.limit("f32", 0) is None
