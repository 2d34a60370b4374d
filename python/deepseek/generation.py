"""Generation: tokens chosen from logits one by one, and their text, for one sequence or a batch."""

from __future__ import annotations

import operator
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import ExecutionError, InputError
from deepseek.sampling import Candidates, Sampler, SamplingOptions, StopFilter

if TYPE_CHECKING:
    from deepseek.model import Model
    from deepseek.session import Session

__all__ = ["Conversation", "Generation", "TextStream", "encode_prompt", "encode_prompts", "generate_batch", "is_batch"]

_BATCH_ROWS = 16  # decoded together: about where a forward pass stops being bound by reading the weights
_PREFILL_TOKENS = 512  # of several prompts that are prefilled together


@dataclass(frozen=True)
class Generation:
    """What a generation produced; `new_ids` ends with the stop token if `stop_reason` is "eos".

    `stop_reason`: "eos", "stop" (a stop string, not in the text), "length" (max_new_tokens), "context" (no room left)
    or "interrupted". The first `cached_tokens` of the prompt were in the KV cache before. Seconds: `prefill_s` until
    the first logits, `decode_s` after the first token.
    """

    text: str
    prompt_ids: list[int]
    new_ids: list[int]
    stop_reason: str
    prefill_s: float
    decode_s: float
    cached_tokens: int = 0

    @property
    def prefill_tokens_per_s(self) -> float | None:
        """Prompt tokens over the time to the first logits; None if nothing ran."""
        return (len(self.prompt_ids) - self.cached_tokens) / self.prefill_s if self.prefill_s else None

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
        options: SamplingOptions,
        *,
        end_tokens: bool = True,
        session: Session | None = None,
    ) -> None:
        """`prompt_ids` come from `encode_prompt`. `end_tokens`: whether the tokenizer's end tokens end the text.

        `session`: caches for one sequence, which hold a beginning of the prompt; default: empty ones of the model.
        """
        self._row = _Row(model, prompt_ids, options, end_tokens=end_tokens)
        self._pieces = self._generate(model, session)

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
        """The generation up to now; its text is that of the pieces so far."""
        return self._row.result

    def _generate(self, model: Model, given: Session | None) -> Iterator[str]:
        row = self._row
        session = given or model.take_session()
        try:
            row.cached_tokens = int(session.lengths[0])
            step = row.prompt_ids[row.cached_tokens :]
            while not row.ended:
                begin = time.perf_counter()
                candidates = session.step([step], temperature=row.temperature)[0]
                if piece := row.take(candidates, time.perf_counter() - begin):
                    yield piece
                step = row.new_ids[-1:]
        finally:
            if given is None:
                model.give_session(session)


class Conversation:
    """A chat with a model. The KV cache stays between the turns, so that a turn prefills only what is new.

    `messages` are the turns that have ended, the system's first.
    """

    def __init__(self, model: Model, system: str | None = None) -> None:
        """`system`: instructions for the model. Raises `CheckpointError` for a model without a chat template."""
        self.model = model
        self.messages: list[dict[str, str]] = []
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._session = model.session()
        self._held: list[int] = []  # the ids whose keys and values the session holds
        self._stream: TextStream | None = None
        self._asked: list[dict[str, str]] = []
        self.reset()
        encode_prompt(model, [*self._system, {"role": "user", "content": "Hello"}], True)  # fails now rather than later

    def reset(self) -> None:
        """Forgets all turns."""
        self.end_turn()
        self.messages = list(self._system)

    def ask(self, text: str, options: SamplingOptions) -> TextStream:
        """The answer to `text`. Leaving it early keeps what was said so far; raises `InputError`.

        A turn that fails, or whose answer is empty, leaves no message behind.
        """
        self.end_turn()
        self._asked = [*self.messages, {"role": "user", "content": text}]
        ids = encode_prompt(self.model, self._asked, True)
        # Templates may render an earlier turn differently later, and a text may be split differently than it was made.
        same = (index for index, (old, new) in enumerate(zip(self._held, ids)) if old != new)
        # The last token runs again even if it is known, for its logits.
        keep = next(same, min(len(self._held), len(ids) - 1))
        self._session.truncate(keep)
        self._held = self._held[:keep]
        self._stream = TextStream(self.model, ids, options, session=self._session)
        return self._stream

    def end_turn(self) -> None:
        """Ends the answer that is under way and adds it to `messages`."""
        if self._stream is None:
            return
        self._stream.close()
        result, self._stream = self._stream.result, None
        self._held = (result.prompt_ids + result.new_ids)[: self._session.lengths[0]]
        if result.text:
            self.messages = [*self._asked, {"role": "assistant", "content": result.text}]


def generate_batch(model: Model, prompts: Sequence[list[int]], options: SamplingOptions) -> list[Generation]:
    """Generations of several prompts, of ids from `encode_prompt`; each as it would be alone.

    Rows are decoded together; one that has ended makes room for the next prompt.
    """
    rows = [_Row(model, ids, options, number) for number, ids in enumerate(prompts)]
    waiting = deque(row for row in rows if not row.ended)
    active: list[_Row] = []
    session = model.session(max(1, min(len(waiting), _BATCH_ROWS)))
    while waiting or active:
        if waiting and len(active) < session.batch:
            entering = [waiting.popleft() for _ in range(min(len(waiting), session.batch - len(active)))]
            _prefill(session, active, entering)
        else:
            _forward(session, range(len(active)), active, [row.new_ids[-1:] for row in active])
        for index in reversed(range(len(active))):
            if active[index].ended:
                last = active.pop()
                if index < len(active):  # the rows in use stay neighbours
                    active[index] = last
                    session.move(len(active), index)
    return [row.result for row in rows]


def _prefill(session: Session, active: list[_Row], entering: list[_Row]) -> None:
    """Runs the prompts of `entering` in the rows after the active ones, which they join; equal lengths together."""
    entering.sort(key=lambda row: len(row.prompt_ids))
    for length, group in groupby(entering, key=lambda row: len(row.prompt_ids)):
        same, most = list(group), max(1, _PREFILL_TOKENS // length)
        for part in (same[begin : begin + most] for begin in range(0, len(same), most)):
            where = range(len(active), len(active) + len(part))
            active += part
            _forward(session, where, part, [row.prompt_ids for row in part], np.full(len(part), length))


def _forward(
    session: Session, where: range, rows: list[_Row], ids: list[list[int]], lengths: np.ndarray | None = None
) -> None:
    begin = time.perf_counter()
    found = session.step(ids, lengths, where, rows[0].temperature)
    seconds = time.perf_counter() - begin
    for row, own in zip(rows, found):
        try:
            row.take(own, seconds)
        except ExecutionError as error:
            raise ExecutionError(f"prompts[{row.number}]: {error}") from None


class _Row:
    """One sequence on its way: takes candidates, gives text."""

    def __init__(
        self, model: Model, prompt_ids: list[int], options: SamplingOptions, number: int = 0, end_tokens: bool = True
    ) -> None:
        tokenizer = model.tokenizer if model.has_tokenizer else None
        self.prompt_ids = prompt_ids
        self.number = number
        self.new_ids: list[int] = []
        self.ended: str | None = None if options.max_new_tokens else "length"
        self.cached_tokens = 0
        self._text: list[str] = []
        self._options = options
        self._context = model.context
        self._sampler = Sampler(options, prompt_ids, number)
        self._decoder = tokenizer.stream() if tokenizer else None
        self._stop_ids = tokenizer.stop_ids if tokenizer and end_tokens else frozenset()
        self._stops = StopFilter(options.stop)
        self._prefill_s = self._decode_s = 0.0

    @property
    def temperature(self) -> float:
        """That of its sampler."""
        return self._options.temperature

    def take(self, candidates: Candidates, forward_s: float) -> str:
        """Chooses the next token; returns the text that is certain now, at the end all that is left."""
        begin = time.perf_counter()
        token = self._sampler.choose(candidates)
        if self.new_ids:
            self._decode_s += forward_s + time.perf_counter() - begin
        else:
            self._prefill_s = forward_s
        self.new_ids.append(token)
        piece = self._stops.push(self._decoder.push(token)) if self._decoder else ""
        if self._stops.found:
            self.ended = "stop"
        elif token in self._stop_ids:
            self.ended = "eos"
        elif len(self.new_ids) == self._options.max_new_tokens:
            self.ended = "length"
        elif len(self.prompt_ids) + len(self.new_ids) > self._context:
            self.ended = "context"
        if self.ended and self._decoder:
            piece += self._stops.push(self._decoder.finish()) + self._stops.finish()
        if piece:
            self._text.append(piece)
        return piece

    @property
    def result(self) -> Generation:
        """The generation up to now."""
        return Generation(
            "".join(self._text),
            list(self.prompt_ids),
            list(self.new_ids),
            self.ended or "interrupted",
            self._prefill_s,
            self._decode_s,
            self.cached_tokens,
        )


def is_batch(prompt: Any) -> bool:
    """Whether `prompt` is a list of prompts: of texts, lists of token ids or lists of messages."""
    return isinstance(prompt, (list, tuple)) and any(
        isinstance(item, (str, list, tuple, np.ndarray)) for item in prompt
    )


def encode_prompts(model: Model, prompts: Sequence[Any], chat: bool) -> list[list[int]]:
    """`encode_prompt` of each; the error of one names its index."""
    encoded = []
    for index, prompt in enumerate(prompts):
        try:
            encoded.append(encode_prompt(model, prompt, chat))
        except InputError as error:
            raise InputError(f"prompts[{index}]: {error}") from None
    return encoded


def encode_prompt(model: Model, prompt: Any, chat: bool) -> list[int]:
    """Token ids of a text, of messages ({"role", "content"}) by the chat template, or of ids as they are.

    `chat` makes a text the message of a user. Raises `InputError` for anything else, and for what does not fit.
    """
    if isinstance(prompt, np.ndarray):
        prompt = prompt.tolist()
    if isinstance(prompt, str):
        if not chat:
            return _fitting(model, model.tokenizer.encode(prompt))
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, (list, tuple)):
        raise InputError(f"the prompt is {prompt!r}, expected a text, token ids, messages or a list of such prompts")
    if not prompt:
        raise InputError("the prompt is an empty list, expected token ids, messages or prompts")
    if not isinstance(prompt[0], Mapping):
        if chat:
            raise InputError("the prompt is a list of token ids, but chat takes a text or messages")
        return _fitting(model, [_token_id(item) for item in prompt])
    for message in prompt:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise InputError(f"a message is {message!r}, expected a dict with the texts role and content")
    text = model.tokenizer.chat([dict(message) for message in prompt])
    return _fitting(model, model.tokenizer.encode(text, add_special=False))


def _token_id(item: Any) -> int:
    try:
        return operator.index(item)
    except TypeError:
        raise InputError(f"a token id is {item!r}, expected a whole number") from None


def _fitting(model: Model, ids: list[int]) -> list[int]:
    if not ids:
        raise InputError("the prompt has no tokens, expected at least one; give some text")
    if len(ids) > model.context:
        raise InputError(f"the prompt has {len(ids)} tokens, but the context holds {model.context}")
    for token in (min(ids), max(ids)):
        if not 0 <= token < model.vocabulary:
            raise InputError(f"token id is {token}, expected 0 to {model.vocabulary - 1}")
    return ids
