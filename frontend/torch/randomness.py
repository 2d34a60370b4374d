"""Where the random numbers of a traced module come from: one seed argument, one stream per operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class NeedsSeedError(Exception):
    """An operation draws random numbers in a graph that was not given a seed."""


class Randomness:
    """A seed and the number of streams that were drawn from it."""

    def __init__(self, seed: Any) -> None:
        self.seed = seed
        self.streams = 0


_current: ContextVar[Randomness | None] = ContextVar("randomness", default=None)


@contextmanager
def seeded(seed: Any) -> Iterator[None]:
    """Operations inside draw from `seed`, or raise `NeedsSeedError` if it is None."""
    token = _current.set(None if seed is None else Randomness(seed))
    try:
        yield
    finally:
        _current.reset(token)


def draw() -> tuple[Any, int]:
    """(the seed, a stream of its own)"""
    found = _current.get()
    if found is None:
        raise NeedsSeedError
    found.streams += 1
    return found.seed, found.streams - 1
