"""What watches a program of narrow formats while it runs, and goes on with a wider one when a value did not fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.runtime import SaturationCounter

if TYPE_CHECKING:
    from deepseek.executable import Executable

__all__ = ["Guard"]

_log = logging.getLogger("deepseek")
_LOGITS = "logits"


class Guard:
    """Decides which of two programs runs: the planned one, or the safer one from the first value on that did not fit.

    Keys and values saturate when a cache of f16 takes them, so a number at the limit is one that did not fit; a NaN or
    infinity among the greatest logits is another sign, and on a GPU the only one: caches stay there. `hits` counts such
    values by the name of the cache (or "logits").
    """

    hits: dict[str, int]

    def __init__(self, planned: Executable, make_safer: Callable[[], Executable]) -> None:
        """`make_safer` is called on the first hit."""
        self.hits = {}
        self._program, self._make_safer = planned, make_safer
        self._lock = threading.Lock()
        caches = enumerate(caches_of(planned.manifest))
        self._narrow = [cache["name"] or f"cache {number}" for number, cache in caches if cache["dtype"] == "f16"]
        self._planned = planned

    @property
    def program(self) -> Executable:
        """What runs now."""
        return self._program

    def watch(self, program: Executable, caches: Sequence[Any]) -> SaturationCounter | None:
        """What counts in the caches of a session that runs `program`; None where nothing is to be counted."""
        narrow = [cache for cache in caches if isinstance(cache, np.ndarray) and cache.dtype == np.float16]
        return SaturationCounter(narrow) if narrow and program is self._planned else None

    def admits(
        self,
        program: Executable,
        logits: np.ndarray,
        counter: SaturationCounter | None,
        begins: np.ndarray,
        ends: np.ndarray,
    ) -> bool:
        """Whether the step of `program` that wrote positions `begins` to `ends` [batch] stands.

        If not, `program` is the safer one from now on and the step must run again.
        """
        if program is not self._planned:
            return True
        found: dict[str, int] = {}
        counts = counter(begins, ends) if counter else None
        if counts is not None:
            found = {name: int(count) for name, count in zip(self._narrow, counts) if count}
        last = logits if logits.ndim == 2 else logits[:, -1]
        if not np.isfinite(last).all():
            found[_LOGITS] = int(last.size - np.isfinite(last).sum())
        if not found:
            return True
        with self._lock:
            for name, count in found.items():
                self.hits[name] = self.hits.get(name, 0) + count
            if self._program is self._planned:
                where = ", ".join(f"{name} ({count} values)" for name, count in found.items())
                _log.warning(
                    "the plan's formats overflowed in %s: this step runs again, wider, as all that follow", where
                )
                self._program = self._make_safer()
        return False


def caches_of(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The arguments of a program that it updates in place."""
    return [argument for argument in manifest["main"]["args"] if argument["tied"]]
