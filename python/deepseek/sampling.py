"""How a generation chooses its tokens and where it ends: options, the sampler, and stop strings.

A sampler does what Hugging Face's logits processors do, in their order: repetition penalty, temperature, top-k,
top-p, min-p.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deepseek.errors import ExecutionError, InputError

__all__ = ["Candidates", "Sampler", "SamplingOptions", "StopFilter"]

_LEAST_REST = 1e-2  # of a total in f32 that is accurate enough once the rest was taken off
_FIRST_SORTED = 64  # of all logits: most distributions have their mass there


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


@dataclass(frozen=True)
class Candidates:
    """What a sampler chooses from: the most probable tokens, and the logits of all on demand.

    `ids` [n] and `logits` [n] are those of the greatest logits, the greatest first, equal ones by id; n may be 0.
    `total` is the sum of exp((logit - logits[0]) / temperature) over the whole vocabulary, at the temperature of the
    sampler. `everything` gives the logits [vocabulary].
    """

    ids: np.ndarray
    logits: np.ndarray
    total: float
    everything: Callable[[], np.ndarray]

    @classmethod
    def of(cls, logits: np.ndarray) -> Candidates:
        """All logits [vocabulary], none looked at yet."""
        return cls(np.empty(0, np.int32), logits[:0], math.nan, lambda: logits)


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

    def choose(self, candidates: Candidates) -> int:
        """A token id. Raises `ExecutionError` when logits are not numbers."""
        if self.options.temperature:
            draw = (int(self._bits.random_raw()) >> 11) * 2.0**-53
            ids, weights, total = self.distribution(candidates, draw)
            totals = np.cumsum(weights)
            # Rounding must not reach the end: what lies behind the last total has no probability.
            point = min(draw * total, np.nextafter(totals[-1], 0))
            token = int(ids[np.searchsorted(totals, point, side="right")])
        elif len(candidates.ids) and not self._penalizes:
            _check_peak(candidates.logits[0])
            token = int(candidates.ids[0])
        else:
            token = int(self._penalized(candidates.everything()).argmax())
        if self.options.repetition_penalty != 1:
            self._seen = np.union1d(self._seen, token)
        return token

    def distribution(self, candidates: Candidates, reach: float = 1.0) -> tuple[np.ndarray, np.ndarray, float]:
        """The tokens that may come next, the most probable first: ids, weights (f64, the first one's is 1) and the sum
        of all weights.

        Tokens behind the first that make up more than `reach` of the sum may be left out.
        """
        for ids, logits, everything, whole in self._prefixes(candidates):
            kept = self._kept(logits, everything, whole)
            if kept is None:
                continue
            weights, total, ends = kept
            if ends or weights.sum() > reach * total:
                return ids[: len(weights)], weights, total
        raise AssertionError("the last prefix is the whole vocabulary")

    def _prefixes(self, candidates: Candidates) -> Iterator[tuple[np.ndarray, np.ndarray, float, bool]]:
        """Ids and logits of more and more tokens in order, the sum of all weights, and whether these are all tokens."""
        if len(candidates.ids):
            _check_peak(candidates.logits[0])
            first = self._penalized_first(candidates) if self._penalizes else candidates
            if len(first.ids) and math.isfinite(first.total):
                yield first.ids, first.logits, first.total, False
        logits = self._penalized(candidates.everything())
        total = float(self._weights(logits, logits.max()).sum())
        count = min(_FIRST_SORTED, len(logits))
        while True:
            ids = _greatest(logits, count)
            order = ids[np.argsort(-logits[ids], kind="stable")]
            yield order, logits[order], total, len(ids) == len(logits)
            count = min(16 * count, len(logits))

    def _kept(self, logits: np.ndarray, total: float, whole: bool) -> tuple[np.ndarray, float, bool] | None:
        """Weights of the tokens that the options keep, as far as they are known, the sum of all that are kept, and
        whether these are all.

        Each option keeps a beginning of the order. None if its end is not among these logits.
        """
        options = self.options
        weights, ends = self._weights(logits, logits[0]), whole
        if options.top_k and (options.top_k < len(logits) or not whole):
            if options.top_k > len(logits):
                return None
            count = int(np.searchsorted(-logits, -logits[options.top_k - 1], side="right"))
            if count == len(logits) and not whole:
                return None  # more may be equal to the last
            weights, ends = weights[:count], True
            total = weights.sum()
        if options.top_p < 1:
            totals = np.cumsum(weights)
            if totals[-1] < options.top_p * total and not ends:
                return None
            weights, ends = weights[: np.searchsorted(totals, options.top_p * total) + 1], True
        if options.min_p:
            count = int(np.searchsorted(-weights, -options.min_p, side="right"))
            if count == len(weights) and not ends:
                return None
            weights, ends = weights[:count], True
        return weights, float(weights.sum()) if ends else total, ends

    def _weights(self, logits: np.ndarray, peak: float) -> np.ndarray:
        with np.errstate(over="ignore"):  # a tiny temperature: far logits go to -inf, exp(-inf) is 0
            return np.exp((logits.astype(np.float64) - np.float64(peak)) / self.options.temperature)

    @property
    def _penalizes(self) -> bool:
        return self.options.repetition_penalty != 1 and len(self._seen) > 0

    def _penalized(self, logits: np.ndarray) -> np.ndarray:
        if self._penalizes:
            logits = logits.copy()
            logits[self._seen] = self._penalty_on(logits[self._seen])
        _check_peak(logits.max())  # max propagates NaN
        return logits

    def _penalty_on(self, logits: np.ndarray) -> np.ndarray:
        penalty = self.options.repetition_penalty
        with np.errstate(over="ignore"):
            return np.where(logits < 0, logits * penalty, logits / penalty)

    def _penalized_first(self, candidates: Candidates) -> Candidates:
        """Those candidates that come first after the penalty, too; none where that is not known."""
        before = candidates.everything()[self._seen]
        after = self._penalty_on(before)
        logits = candidates.logits.copy()
        seen = np.isin(candidates.ids, self._seen)
        logits[seen] = self._penalty_on(logits[seen])
        order = np.lexsort((candidates.ids, -logits))
        # What was not a candidate is at most as great as the last one was, or was made smaller.
        order = order[logits[order] > candidates.logits[-1]]
        peak = candidates.logits[0]
        total = candidates.total + self._weights(after, peak).sum() - self._weights(before, peak).sum()
        if self.options.repetition_penalty < 1 or not len(order) or total < _LEAST_REST * candidates.total:
            return Candidates.of(candidates.logits)
        return Candidates(
            candidates.ids[order],
            logits[order],
            total / float(self._weights(logits[order[:1]], peak)[0]),
            candidates.everything,
        )


def _check_peak(peak: float) -> None:
    if not math.isfinite(peak):
        raise ExecutionError(f"the greatest logit is {peak}, expected a finite number; the weights may be damaged")


def _greatest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices, ascending, of all values not below the `count`-th greatest: more than `count` if there are ties."""
    bound = np.partition(values, len(values) - count)[len(values) - count]
    return np.flatnonzero(values >= bound)


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
