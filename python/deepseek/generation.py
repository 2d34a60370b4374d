"""Generation: tokens chosen from logits one by one, and their text as a stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepseek.errors import ExecutionError, InputError

if TYPE_CHECKING:
    from deepseek.model import Model, Session

__all__ = ["Generation", "Sampler", "TextStream"]


@dataclass(frozen=True)
class Generation:
    """What a generation produced; `new_ids` ends with the stop token if `stop_reason` is "eos".

    `stop_reason`: "eos", "length" (max_new_tokens), "context" (no room left) or "interrupted". Seconds:
    `prefill_s` until the first logits, `decode_s` after the first token.
    """

    text: str
    prompt_ids: list[int]
    new_ids: list[int]
    stop_reason: str
    prefill_s: float
    decode_s: float

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prompt tokens over the time to the first logits; None if nothing ran."""
        return len(self.prompt_ids) / self.prefill_s if self.prefill_s else None

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens after the first over the time they took; None with fewer than two tokens."""
        return (len(self.new_ids) - 1) / self.decode_s if self.decode_s else None


class TextStream(Iterator[str]):
    """Yields the text of a generation piece by piece; `result` is what there is so far.

    Leaving the loop early, or Ctrl-C, ends the generation; the model stays usable.
    """

    def __init__(
        self,
        model: Model,
        prompt_ids: list[int],
        max_new_tokens: int,
        sampler: Sampler,
        stop_ids: frozenset[int],
    ) -> None:
        if max_new_tokens < 0:
            raise InputError(f"max_new_tokens is {max_new_tokens}, expected at least 0")
        if not prompt_ids:
            raise InputError("the prompt has no tokens, expected at least one; give some text")
        if len(prompt_ids) > model.context:
            raise InputError(f"the prompt has {len(prompt_ids)} tokens, but the context holds {model.context}")
        self._prompt_ids = prompt_ids
        self._new_ids: list[int] = []
        self._text: list[str] = []
        self._stop_reason = "interrupted"
        self._prefill_s = self._decode_s = 0.0
        self._pieces = self._generate(model, max_new_tokens, sampler, stop_ids)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the generation."""
        self._pieces.close()

    def run(self) -> Generation:
        """Everything to the end."""
        for _ in self:
            pass
        return self.result

    @property
    def result(self) -> Generation:
        """The generation up to now."""
        return Generation(
            "".join(self._text),
            list(self._prompt_ids),
            list(self._new_ids),
            self._stop_reason,
            self._prefill_s,
            self._decode_s,
        )

    def _generate(self, model: Model, max_new_tokens: int, sampler: Sampler, stop_ids: frozenset[int]) -> Iterator[str]:
        session = model.take_session()
        decoder = model.tokenizer.stream()
        try:
            for token in self._tokens(session, max_new_tokens, sampler, stop_ids):
                if piece := decoder.push(token):
                    self._text.append(piece)
                    yield piece
            if piece := decoder.finish():
                self._text.append(piece)
                yield piece
        finally:
            model.give_session(session)

    def _tokens(
        self, session: Session, max_new_tokens: int, sampler: Sampler, stop_ids: frozenset[int]
    ) -> Iterator[int]:
        step = np.array([self._prompt_ids], np.int32)
        for index in range(max_new_tokens):
            if session.lengths[0] + step.shape[1] > session.model.context:
                self._stop_reason = "context"
                return
            begin = time.perf_counter()
            logits = session.forward(step)[0]
            ready = time.perf_counter()
            token = sampler.choose(logits if logits.ndim == 1 else logits[-1])
            if index == 0:
                self._prefill_s = ready - begin
            else:
                self._decode_s += time.perf_counter() - begin
            self._new_ids.append(token)
            yield token
            if token in stop_ids:
                self._stop_reason = "eos"
                return
            step = np.array([[token]], np.int32)
        self._stop_reason = "length"


class Sampler:
    """Chooses a token from logits: the greatest, or by softmax(logits / temperature) in float64."""

    def __init__(self, temperature: float, seed: int | None) -> None:
        if not 0 <= temperature < float("inf"):
            raise InputError(f"temperature is {temperature}, expected a finite number of at least 0")
        if seed is not None and seed < 0:
            raise InputError(f"seed is {seed}, expected at least 0")
        self.temperature = temperature
        self.random = np.random.Generator(np.random.PCG64(seed))

    def choose(self, logits: np.ndarray) -> int:
        """A token id for logits [vocabulary]. Raises `ExecutionError` when they are not numbers."""
        peak = logits.max()
        if not np.isfinite(peak):  # max propagates NaN
            raise ExecutionError(f"the greatest logit is {peak}, expected a finite number; the weights may be damaged")
        if self.temperature == 0:
            return int(logits.argmax())
        with np.errstate(over="ignore"):  # a tiny temperature: far logits go to -inf, exp(-inf) is 0
            weights = np.exp((logits.astype(np.float64) - np.float64(peak)) / self.temperature)
        totals = np.cumsum(weights)
        chosen = np.searchsorted(totals, self.random.random() * totals[-1], side="right")
        return int(min(chosen, len(totals) - 1))
