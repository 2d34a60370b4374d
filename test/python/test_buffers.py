"""Memory of results is used again, but never while somebody can see it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from deepseek.buffers import ResultPool, address_of, aligned_empty, aligned_parts

SHAPE, F32 = (64, 1024), np.dtype(np.float32)


def _take(pool: ResultPool) -> np.ndarray:
    array, address = pool.empty(SHAPE, F32)
    assert address == address_of(array) and address % 64 == 0
    assert array.shape == SHAPE and array.dtype == F32 and array.flags.writeable
    return array


def test_freed_memory_is_used_again() -> None:
    pool = ResultPool()
    first = _take(pool)
    address = address_of(first)
    del first
    assert address_of(_take(pool)) == address


@pytest.mark.parametrize(
    "see",
    [lambda a: a, lambda a: a[3:5, ::2], lambda a: a.T, memoryview],
)
def test_memory_in_sight_is_not_touched(see: object) -> None:
    pool = ResultPool()
    first = _take(pool)
    first[...] = 7
    seen = see(first)
    del first
    for _ in range(6):
        _take(pool)[...] = 1
    assert (np.asarray(seen) == 7).all()


def test_other_sizes_and_small_ones_are_fresh() -> None:
    pool = ResultPool()
    small, _ = pool.empty((4,), F32)
    assert small.base is not None and not pool._blocks
    _take(pool)
    other, _ = pool.empty((65, 1024), F32)
    assert len(pool._blocks) == 2 and other.shape == (65, 1024)
    for rows in range(70, 90):
        pool.empty((rows, 1024), F32)
    assert len(pool._blocks) == 4


def test_threads_get_memory_of_their_own() -> None:
    pool = ResultPool()
    wrong = []

    def work(number: int) -> None:
        for _ in range(300):
            array = _take(pool)
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_aligned_parts_lie_apart() -> None:
    parts = aligned_parts([3, 0, 64, 65])
    assert [len(part) for part in parts] == [3, 0, 64, 65]
    assert all(address_of(part) % 64 == 0 for part in parts if len(part))
    for number, part in enumerate(parts):
        part[...] = number
    assert [part.tolist() for part in parts] == [[0] * 3, [], [2] * 64, [3] * 65]
    array, address = aligned_empty((3, 5), np.dtype(np.int16))
    assert array.shape == (3, 5) and address % 64 == 0
