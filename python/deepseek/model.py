"""A language model ready to run: compiled code, weights, tokenizer, KV caches and sampling."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import ExecutionError, InputError
from deepseek.generation import Generation, Sampler, TextStream
from deepseek.names import find_model

if TYPE_CHECKING:
    from deepseek.executable import Executable
    from deepseek.frontend.checkpoint.gguf import GGUFFile
    from deepseek.frontend.checkpoint.tokenizer import Tokenizer

__all__ = ["Generation", "Model", "Session", "TextStream"]

_FIRST_CAPACITY = 128
_ALIGNMENT = 64  # bytes: a cache line, and the widest vector


class Model:
    """A compiled llama-family model. Make one with `Model.from_pretrained`.

    `compile_s` (0 on a cache hit), `cache_hit`, `load_s` (map and pack), `file_bytes`, and `weight_bytes`,
    the bytes of weights that one forward pass reads. Calls from several threads take turns.
    """

    def __init__(
        self,
        executable: Executable,
        file: GGUFFile,
        *,
        context: int,
        vocabulary: int,
        weight_bytes: int,
        compile_s: float,
        cache_hit: bool,
        load_s: float,
    ) -> None:
        """`executable` has its weights bound; its arguments are ids, lengths and the caches."""
        self.executable = executable
        self.context = context
        self.vocabulary = vocabulary
        self.weight_bytes = weight_bytes
        self.file_bytes = file.file_bytes
        self.compile_s = compile_s
        self.cache_hit = cache_hit
        self.load_s = load_s
        self._file = file
        self._idle: list[Session] = []
        self._shared: Session | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str],
        target: str = "cpu",
        precision: str = "as-stored",
        threads: int | None = None,
        context: int | None = None,
        *,
        all_logits: bool = False,
    ) -> Model:
        """Loads a GGUF file, a .dsc file or a known name (`deepseek.names`).

        `threads`: None takes all CPUs of the process. `context`: most positions of a sequence, at most the
        model's own. `all_logits` makes `forward` return the logits of every position, not only the last.
        Raises `CheckpointError` for a file that is damaged or not supported, `CompileError`, `InputError`.
        """
        path = find_model(path_or_name)
        if path.suffix == ".dsc":
            raise InputError(f"{path} holds no weights, expected a checkpoint (artifacts are inspected, not run)")
        from deepseek.compiler import compile_text
        from deepseek.executable import Executable
        from deepseek.frontend.checkpoint.gguf import GGUFFile
        from deepseek.frontend.checkpoint.llama import build_graph, read_config

        begin = time.perf_counter()
        file = GGUFFile(path)
        config = read_config(file)
        load_s = time.perf_counter() - begin
        if context is not None and not 0 < context <= config.context:
            raise InputError(f"context is {context}, expected 1 to {config.context}, the most the model supports")
        graph = build_graph(config, precision, all_logits=all_logits)
        compiled = compile_text(graph.mlir, target=target, source_name=path.name)
        begin = time.perf_counter()
        executable = Executable(compiled.object, compiled.manifest, threads=threads)
        executable.bind_weights(file.arrays())
        file.release()
        return cls(
            executable,
            file,
            context=context or config.context,
            vocabulary=config.vocabulary,
            weight_bytes=4 * config.elements,  # both precisions compute on f32 weights
            compile_s=compiled.compile_s,
            cache_hit=compiled.cache_hit,
            load_s=load_s + time.perf_counter() - begin,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer. Raises `CheckpointError` if the file has none that is supported."""
        from deepseek.frontend.checkpoint.tokenizer import Tokenizer

        return Tokenizer(self._file)

    @property
    def target(self) -> str:
        """What the code was compiled for."""
        return self.executable.manifest["target"]

    @property
    def threads(self) -> int:
        """Threads that a forward pass uses."""
        return self.executable.context.threads

    def generate(
        self,
        prompt: str,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int | None = None,
        chat: bool = False,
    ) -> Generation:
        """Continues `prompt`; temperature 0 is greedy, else samples reproducibly for one `seed`.

        `chat` wraps the prompt as a user's message by the model's template. Stops after an end token, at
        `max_new_tokens`, or when the context is full. Raises `InputError`, `ExecutionError`.
        """
        return self.stream(prompt, max_new_tokens, temperature, seed, chat).run()

    def stream(
        self,
        prompt: str,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        seed: int | None = None,
        chat: bool = False,
    ) -> TextStream:
        """Like `generate`, but an iterator over pieces of the text; its `result` is the `Generation`."""
        if chat:
            text = self.tokenizer.chat([{"role": "user", "content": prompt}])
            ids = self.tokenizer.encode(text, add_special=False)
        else:
            ids = self.tokenizer.encode(prompt)
        return TextStream(self, ids, max_new_tokens, Sampler(temperature, seed), self.tokenizer.stop_ids)

    def benchmark(self, prompt_tokens: int, new_tokens: int, seed: int) -> Generation:
        """Runs a seeded random prompt and exactly `new_tokens` greedy tokens, whatever they are."""
        ids = np.random.Generator(np.random.PCG64(seed)).integers(0, self.vocabulary, prompt_tokens).tolist()
        if prompt_tokens + new_tokens > self.context:
            raise InputError(f"{prompt_tokens} + {new_tokens} tokens do not fit into the context of {self.context}")
        return TextStream(self, ids, new_tokens, Sampler(0.0, None), frozenset()).run()

    def logits(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits after `ids` [s] or [b, s], from an empty cache: f32 [vocabulary] or [b, vocabulary]."""
        array = _integers("ids", ids)
        result = self.forward(np.atleast_2d(array))
        return result[0] if array.ndim == 1 else result

    def forward(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """One pass over `ids` [b, s]; returns logits f32 [b, vocabulary] of the last position.

        `lengths` [b] counts each row's valid positions including these s; None starts new sequences. Rows are
        remembered between calls of one batch size.
        """
        array = _integers("ids", ids)
        if array.ndim != 2:
            raise InputError(f"ids has shape {list(array.shape)}, expected [b, s]")
        if self._shared is None or self._shared.batch != array.shape[0]:
            self._shared = self.session(array.shape[0])
        elif lengths is None:
            self._shared.reset()
        return self._shared.forward(array, lengths)

    def session(self, batch: int = 1) -> Session:
        """Caches of its own for `batch` sequences."""
        return Session(self, batch)

    def take_session(self) -> Session:
        """A session for one sequence, empty; return it with `give_session` so that its memory is used again."""
        try:
            session = self._idle.pop()
        except IndexError:
            return self.session()
        session.reset()
        return session

    def give_session(self, session: Session) -> None:
        """Takes a session back; one is kept, whose pages stay resident."""
        if not self._idle:
            self._idle.append(session)


class Session:
    """The KV caches of `batch` sequences; `lengths` [batch] counts the positions they hold."""

    def __init__(self, model: Model, batch: int) -> None:
        self.model = model
        self.batch = batch
        self.capacity = 0
        self.lengths = np.zeros(batch, np.int32)
        arguments = (argument for argument in model.executable.manifest["main"]["args"] if argument["tied"])
        self._planes = [(argument["shape"][2], argument["shape"][4]) for argument in arguments]
        self._caches: list[np.ndarray] = []

    def reset(self) -> None:
        """Forgets the sequences, keeps the memory."""
        self.lengths = np.zeros(self.batch, np.int32)

    def forward(self, ids: Any, lengths: Any = None) -> np.ndarray:
        """Appends `ids` [batch, s]; logits f32 [batch, vocabulary] (all positions for an `all_logits` model).

        `lengths` [batch] are the lengths afterwards; default: the present ones plus s. A smaller length goes
        back to an earlier position. Raises `InputError` for ids or lengths out of range.
        """
        array = _integers("ids", ids)
        model = self.model
        if array.ndim != 2 or array.shape[0] != self.batch or not array.shape[1]:
            raise InputError(f"ids has shape {list(array.shape)}, expected [{self.batch}, s] with s of at least 1")
        _check_range("token id", array, 0, model.vocabulary - 1)
        s = array.shape[1]
        after = self.lengths + s if lengths is None else _integers("lengths", lengths)
        if after.shape != (self.batch,):
            raise InputError(f"lengths has shape {list(after.shape)}, expected [{self.batch}]")
        _check_range(f"length after {s} new positions", after, s, model.context)
        if lengths is not None and (over := after > self.lengths + s).any():
            row = int(over.argmax())
            raise InputError(
                f"length of row {row} is {after[row]}, expected at most {self.lengths[row]} held + {s} new positions"
            )
        self._reserve(int(after.max(initial=s)))
        after = np.ascontiguousarray(after, np.int32)
        logits = model.executable(np.ascontiguousarray(array, np.int32), after, *self._caches)[0]
        self.lengths = after
        return logits

    def _reserve(self, positions: int) -> None:
        """Makes room; the capacity grows by powers of two, so that copying stays a constant share."""
        if positions <= self.capacity:
            return
        capacity = max(_FIRST_CAPACITY, 1 << (positions - 1).bit_length())
        capacity = min(capacity, self.model.context)
        try:
            for index, (heads, size) in enumerate(self._planes):
                grown = _aligned_zeros((self.batch, 2, heads, capacity, size))
                if self.capacity:
                    grown[:, :, :, : self.capacity] = self._caches[index]
                    self._caches[index] = grown  # one old cache at a time stays beside its copy
                else:
                    self._caches.append(grown)
        except MemoryError:
            self._caches, self.capacity = [], 0
            self.reset()
            raise ExecutionError(f"out of memory for a KV cache of {capacity} positions x {self.batch}") from None
        self.capacity = capacity


def _integers(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}, expected integers")
    return array if array.size else array.astype(np.int32)


def _check_range(name: str, array: np.ndarray, least: int, most: int) -> None:
    # Beyond it the machine code would read or write outside its buffers.
    if array.size and not (least <= (low := array.min()) and (high := array.max()) <= most):
        raise InputError(f"{name} is {low if low < least else high}, expected {least} to {most}")


def _aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros f32 whose pages the operating system gives on first use."""
    count = int(np.prod(shape, dtype=np.int64))
    memory = np.zeros(4 * count + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + 4 * count].view(np.float32).reshape(shape)
