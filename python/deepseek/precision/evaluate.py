"""How far a plan's model is from the model in full precision, on a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from deepseek.errors import InputError

if TYPE_CHECKING:
    from deepseek.model import Model

__all__ = ["WINDOW", "Divergence", "batches_of", "compare_logits", "drift", "evaluate", "windows_of"]

WINDOW = 1024
"""Positions of a window; windows do not overlap, each begins with an empty cache."""


@dataclass(frozen=True)
class Divergence:
    """Means over all positions of all windows; perplexities over positions 1 .. window - 1.

    `mean_kl`: KL(reference || model) in nats; `top1_agreement`: share of positions with the same most probable token;
    `perplexity_increase`: model's over reference's, less 1.
    """

    tokens: int
    mean_kl: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float

    @property
    def perplexity_increase(self) -> float:
        return self.perplexity / self.reference_perplexity - 1


def windows_of(ids: list[int], window: int = WINDOW, what: str = "the text") -> list[np.ndarray]:
    """Whole windows of token ids; the tail is dropped. Raises `InputError` for less than one window."""
    count = len(ids) // window
    if not count:
        raise InputError(f"{what} has {len(ids)} tokens, expected at least {window}, one window")
    return [np.array(ids[i * window : (i + 1) * window], np.int32) for i in range(count)]


def batches_of(texts: Sequence[Sequence[int]], context: int, batch: int = 16) -> list[tuple[np.ndarray, np.ndarray]]:
    """Texts as (ids [b, s], lengths [b]) of at most `batch` neighbours, cut to `context`, padded with zeros."""
    found = []
    for begin in range(0, len(texts), batch):
        rows = [list(row[:context]) for row in texts[begin : begin + batch] if len(row)]
        lengths = np.array([len(row) for row in rows], np.int32)
        ids = np.zeros((len(rows), int(lengths.max(initial=1))), np.int32)
        for row, values in zip(ids, rows):
            row[: len(values)] = values
        if len(rows):
            found.append((ids, lengths))
    return found


@dataclass
class _Sums:
    kl: float = 0.0
    same: int = 0
    positions: int = 0
    loss: float = 0.0
    reference_loss: float = 0.0
    predicted: int = 0


def compare_logits(reference: np.ndarray, logits: np.ndarray, ids: np.ndarray, sums: _Sums) -> None:
    """Adds a window: logits f32 [s, vocabulary] of both models at the ids [s]."""
    kl, same, p, q = _statistics()(reference, logits)
    rows, following = np.arange(len(ids) - 1), ids[1:]
    sums.kl += float(kl.sum(dtype=np.float64))
    sums.same += int(same.sum())
    sums.positions += len(ids)
    sums.reference_loss += float((p[:-1] - reference[rows, following]).sum(dtype=np.float64))
    sums.loss += float((q[:-1] - logits[rows, following]).sum(dtype=np.float64))
    sums.predicted += len(following)


@lru_cache
def _statistics() -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]:
    """Of logits [s, vocabulary] of two models: KL in nats, equal first tokens, and both log-sums of exponentials [s]."""
    from deepseek import ACG

    @ACG.compile
    def statistics(reference, logits):
        tops = [ACG.max(x, axis=-1, keepdims=True) for x in (reference, logits)]
        p, q = (x - top for x, top in zip((reference, logits), tops))
        sums = [ACG.sum(ACG.exp(x), axis=-1, keepdims=True) for x in (p, q)]
        logs = [ACG.log(total) for total in sums]
        kl = ACG.sum(ACG.exp(p) / sums[0] * ((p - logs[0]) - (q - logs[1])), axis=-1)
        same = ACG.argmax(reference, axis=-1) == ACG.argmax(logits, axis=-1)
        return kl, same, (logs[0] + tops[0])[:, 0], (logs[1] + tops[1])[:, 0]

    return statistics


def evaluate(
    reference: Model,
    model: Model,
    windows: list[np.ndarray],
    progress: Callable[[int, int], None] | None = None,
    first_logits: Callable[[np.ndarray], None] | None = None,
) -> Divergence:
    """Compares two models that return the logits of every position. `first_logits` sees those of the first window."""
    sums = _Sums()
    for number, ids in enumerate(windows):
        logits = model.forward(ids[None])[0]
        if number == 0 and first_logits is not None:
            first_logits(logits)
        compare_logits(reference.forward(ids[None])[0], logits, ids, sums)
        if progress is not None:
            progress(number + 1, len(windows))
    if not math.isfinite(sums.kl):
        raise InputError("the model gives logits that are not finite, so nothing can be compared")
    return Divergence(
        tokens=sums.positions,
        mean_kl=sums.kl / sums.positions,
        top1_agreement=sums.same / sums.positions,
        perplexity=math.exp(sums.loss / sums.predicted),
        reference_perplexity=math.exp(sums.reference_loss / sums.predicted),
    )


def drift(reference: Model, model: Model, texts: Sequence[str]) -> float:
    """Mean of 1 - cosine of two encoders' vectors of the same texts."""
    a, b = (np.asarray(m.embed(list(texts)), np.float64) for m in (reference, model))
    cosine = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return float((1 - cosine).mean())
