"""How a generation chooses its tokens and where it ends: options, the sampler, and stop strings.

A sampler does what Hugging Face's logits processors do, in their order: repetition penalty, temperature, top-k,
top-p, min-p.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deepseek.errors import ExecutionError, InputError

__all__ = ["Sampler", "SamplingOptions", "StopFilter"]

_FIRST_SORTED = 64  # top-p sorts this many weights first: most distributions have their mass there


@dataclass(frozen=True)
class SamplingOptions:
    """Options of a generation; an impossible value raises `InputError`.

    `temperature` 0 is greedy. `top_k` keeps the k greatest logits (0: all), then `top_p` the fewest tokens whose
    probabilities sum to at least p, then `min_p` those at least min_p times as probable as the first.
    `repetition_penalty` divides positive and multiplies negative logits of tokens that occurred, in the prompt too.
    `stop`: a string, or several, at which the text ends; it is not part of the text. `seed` makes sampling
    reproducible (None: new each time).
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: str | Sequence[str] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        self._whole("max_new_tokens")
        self._number("temperature", lambda value: 0 <= value < math.inf, "a finite number of at least 0")
        self._whole("top_k")
        self._number("top_p", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        self._number("min_p", lambda value: 0 <= value <= 1, "a number from 0 to 1")
        self._number("repetition_penalty", lambda value: 0 < value < math.inf, "a finite number above 0")
        if self.seed is not None:
            self._whole("seed")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
            raise InputError(f"stop is {self.stop!r}, expected a string or a list of strings, none of them empty")
        object.__setattr__(self, "stop", tuple(stops))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> SamplingOptions:
        """Options by name; an unknown name raises `InputError`."""
        names = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in names]
        if unknown:
            raise InputError(f"there is no option {unknown[0]}, expected one of {', '.join(names)}")
        return cls(**options)

    def _whole(self, name: str) -> None:
        value = getattr(self, name)
        try:
            value = operator.index(value)
        except TypeError:
            value = -1
        if value < 0:
            raise InputError(f"{name} is {getattr(self, name)!r}, expected a whole number of at least 0")
        object.__setattr__(self, name, value)

    def _number(self, name: str, allowed: Any, expected: str) -> None:
        value = getattr(self, name)
        try:
            good = not isinstance(value, str) and allowed(float(value))  # float() would read a string
        except (TypeError, ValueError, OverflowError):
            good = False
        if not good:
            raise InputError(f"{name} is {value!r}, expected {expected}")
        object.__setattr__(self, name, float(value))


class Sampler:
    """Chooses the tokens of one sequence; `row` is its number in a batch.

    Sequences of one seed draw from independent streams, so that a row's tokens do not depend on the other rows.
    """

    def __init__(self, options: SamplingOptions, prompt_ids: Sequence[int] = (), row: int = 0) -> None:
        self.options = options
        self._seen = np.unique(np.asarray(prompt_ids, np.int64))
        # Raw 64-bit draws and seed sequences are promised to stay the same in every version of numpy.
        if options.temperature:
            self._bits = np.random.PCG64(np.random.SeedSequence(options.seed, spawn_key=(row,)))

    def choose(self, logits: np.ndarray) -> int:
        """A token id for logits [vocabulary]. Raises `ExecutionError` when they are not numbers."""
        if self.options.temperature:
            ids, weights = self.candidates(logits)
            totals = np.cumsum(weights)
            draw = (int(self._bits.random_raw()) >> 11) * 2.0**-53 * totals[-1]
            # Rounding must not reach the end: what lies behind the last total has no probability.
            draw = min(draw, np.nextafter(totals[-1], 0))
            token = int(ids[np.searchsorted(totals, draw, side="right")])
        else:
            token = int(self._penalized(logits).argmax())
        if self.options.repetition_penalty != 1:
            self._seen = np.union1d(self._seen, token)
        return token

    def candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens that may come next, in order of id, and their probabilities, f64 up to a common factor."""
        options = self.options
        logits = self._penalized(logits)
        ids = np.arange(len(logits))
        if 0 < options.top_k < len(logits):
            ids = _greatest(logits, options.top_k)
            logits = logits[ids]
        with np.errstate(over="ignore"):  # a tiny temperature: far logits go to -inf, exp(-inf) is 0
            weights = np.exp((logits.astype(np.float64) - np.float64(logits.max())) / options.temperature)
        if options.top_p < 1:
            kept = _nucleus(weights, options.top_p)
            ids, weights = ids[kept], weights[kept]
        if options.min_p:
            kept = np.flatnonzero(weights >= options.min_p)  # the greatest weight is 1
            ids, weights = ids[kept], weights[kept]
        return ids, weights

    def _penalized(self, logits: np.ndarray) -> np.ndarray:
        penalty = self.options.repetition_penalty
        if penalty != 1 and len(self._seen):
            logits = logits.copy()
            seen = logits[self._seen]
            with np.errstate(over="ignore"):
                logits[self._seen] = np.where(seen < 0, seen * penalty, seen / penalty)
        peak = logits.max()
        if not np.isfinite(peak):  # max propagates NaN
            raise ExecutionError(f"the greatest logit is {peak}, expected a finite number; the weights may be damaged")
        return logits


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices, ascending, of all values not below the `count`-th greatest: more than `count` if there are ties."""
    bound = np.partition(values, len(values) - count)[len(values) - count]
    return np.flatnonzero(values >= bound)


def _nucleus(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Indices, ascending, of the fewest greatest weights whose sum reaches `top_p` of all; the lower index of equals."""
    target = top_p * weights.sum()
    count = min(_FIRST_SORTED, len(weights))
    while True:
        ids = _greatest(weights, count)
        order = ids[np.argsort(-weights[ids], kind="stable")]
        totals = np.cumsum(weights[order])
        if totals[-1] >= target or len(ids) == len(weights):
            return np.sort(order[: np.searchsorted(totals, target) + 1])
        count = min(16 * count, len(weights))


class StopFilter:
    """Passes text on up to the first stop string, and holds back what may become one.

    The string that is complete first ends the text (the longest of several that end together), however the text was
    cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that is certain now; nothing once a stop string was `found`."""
        if self.found or not self._stops:
            return "" if self.found else piece
        text = self._held + piece
        places = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if places:
            self.found = True
            self._held = ""
            return text[: min(places)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back; the text ends here."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
