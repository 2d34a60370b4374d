"""A model ready to run: compiled code with its weights bound, tokenizer, KV caches and sampling."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import CheckpointError, GpuError, InputError
from deepseek.generation import Generation, TextStream, encode_prompt, encode_prompts, generate_batch, is_batch
from deepseek.guard import Guard
from deepseek.sampling import SamplingOptions
from deepseek.session import Session, integers

if TYPE_CHECKING:
    from deepseek.compiler import Compiled
    from deepseek.executable import Executable
    from deepseek.frontend.checkpoint.tokenizer import Tokenizer
    from deepseek.package import Package

__all__ = ["Generation", "Model", "Session", "TextStream"]

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]  # a text, token ids, or messages

_EMBED_BATCH = 32  # texts of one forward pass


class Model:
    """A compiled decoder (`generate`, `stream`, `forward`) or encoder (`embed`). Make one with `from_pretrained`.

    `compile_s` (0 on a cache hit and for an artifact), `cache_hit`, `load_s` (map, verify and pack), `file_bytes`, and
    `weight_bytes`, the bytes of weights that one forward pass reads. Calls from several threads take turns. `guard`
    watches a plan whose formats may overflow, and counts what did; None where nothing can.
    """

    def __init__(self, package: Package, *, threads: int | None = None, context: int | None = None) -> None:
        """Binds the weights of `package` on `threads` threads (None: all CPUs of the process), or on the GPU of its target.

        `context`: most positions of a sequence, at most the package's. Raises `InputError`, `ExecutionError`.
        """
        from deepseek.executable import Executable

        info = package.info
        if context is not None and not 0 < context <= info.context:
            raise InputError(f"context is {context}, expected 1 to {info.context}, the most the model supports")
        begin = time.perf_counter()

        def load(code: Compiled) -> Executable:
            program = Executable(code.object, code.manifest, threads=threads)
            program.bind_weights(package.weights)
            package.release()
            return program

        self._planned = load(package.code)
        safer = package.safer
        self.guard = None if safer is None else Guard(self._planned, lambda: load(safer()))
        self.load_s = time.perf_counter() - begin
        self.package = package
        self.info = info
        self.context = context or info.context
        self.vocabulary = info.vocabulary
        self.weight_bytes = info.weight_bytes
        self.file_bytes = package.file_bytes
        self.compile_s = package.code.compile_s
        self.cache_hit = package.code.cache_hit
        self._idle: list[Session] = []
        self._shared: Session | None = None

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str],
        target: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        *,
        all_logits: bool = False,
    ) -> Model:
        """Loads a GGUF file, a Hugging Face folder, a .dsc file or a known name (`deepseek.names`).

        `target` ("cpu"; "sm_90a" or "sm_80" for a GPU) and `precision` ("as-stored") are decided when a model is
        compiled: naming others for a .dsc file is an error. `threads`: None takes all CPUs of the process. `context`:
        most positions of a sequence, at most the model's own. `all_logits` makes `forward` return the logits of every
        position, not only the last. Raises `CheckpointError` or `ArtifactError` for a file that is damaged or not
        supported, `GpuError` where no GPU runs the target, `CompileError`, `InputError`.
        """
        from deepseek.package import open_model
        from deepseek.runtime import gpu_target

        # Before compiling, which takes much longer than to see that there is no GPU.
        if target and gpu_target.is_gpu(target) and (problem := gpu_target.unsupported(target)):
            raise GpuError(problem)
        begin = time.perf_counter()
        package = open_model(path_or_name, target=target, precision=precision, all_logits=all_logits)
        opened = time.perf_counter()
        model = cls(package, threads=threads, context=context)
        model.load_s += opened - begin - package.code.compile_s
        return model

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_weights: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes the model as an artifact (`Package.save`). Raises `ArtifactError`."""
        self.package.save(path, external_weights=external_weights, progress=progress)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises `CheckpointError` if it has none that is supported."""
        from deepseek.frontend.checkpoint.tokenizer import Tokenizer

        data = self.package.tokenizer()
        if data is None:
            raise CheckpointError(f"the model {self.info.name} has no tokenizer, so it takes and gives token ids only")
        return Tokenizer(data)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model takes and gives text; one that does not takes and gives token ids only."""
        return "tokenizer" in self.__dict__ or self.package.tokenizer() is not None

    @property
    def executable(self) -> Executable:
        """The program that runs now."""
        return self._planned if self.guard is None else self.guard.program

    def memory(self) -> dict[str, int]:
        """Bytes of `weights` as the program keeps them, of the `kv_cache` of sessions that the model holds, and of the
        `arena` of its threads."""
        held = [*self._idle, *([self._shared] if self._shared else [])]
        return {
            "weights": self.executable.kept_bytes,
            "kv_cache": sum(session.cache_bytes for session in held),
            "arena": self.executable.context.arena_bytes,
        }

    @property
    def target(self) -> str:
        """What the code was compiled for."""
        return self.executable.manifest["target"]

    @property
    def threads(self) -> int:
        """Threads that a forward pass uses; of a GPU its multiprocessors."""
        return self.executable.context.threads

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        *,
        chat: bool = False,
        **options: Any,
    ) -> Generation | list[Generation]:
        """Continues `prompt`: a text, token ids, or messages ({"role", "content"}) by the model's chat template.

        A list of such prompts gives a list of generations, each as it would be alone: prompts run together.
        `chat` makes a text a user's message. `options` are those of `deepseek.sampling.SamplingOptions`: top_k, top_p,
        min_p, repetition_penalty, stop, seed. Stops after an end token, at a stop string, at `max_new_tokens`, or when
        the context is full. Raises `InputError`, `ExecutionError`.
        """
        if not is_batch(prompt):
            return self.stream(prompt, max_new_tokens, temperature, chat=chat, **options).run()
        settings = SamplingOptions.of({"max_new_tokens": max_new_tokens, "temperature": temperature, **options})
        return generate_batch(self, encode_prompts(self, prompt, chat), settings)

    def stream(
        self,
        prompt: Prompt,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        *,
        chat: bool = False,
        **options: Any,
    ) -> TextStream:
        """Like `generate` of one prompt, but an iterator over pieces of the text; its `result` is the `Generation`."""
        settings = SamplingOptions.of({"max_new_tokens": max_new_tokens, "temperature": temperature, **options})
        return TextStream(self, encode_prompt(self, prompt, chat), settings)

    def embed(self, texts: str | Sequence[str]) -> np.ndarray:
        """One vector per text: f32 [n, hidden], or [hidden] for a single string.

        Texts longer than the context are cut, as the model's publisher does. Raises `InputError` for a decoder.
        """
        if self.info.kind != "encoder":
            raise InputError(f"{self.info.name} is a {self.info.kind}, expected an encoder; decoders generate text")
        single = isinstance(texts, str)
        tokenizer = self.tokenizer
        room = self.context - len(tokenizer.prefix_ids) - len(tokenizer.suffix_ids)
        rows = [
            [*tokenizer.prefix_ids, *tokenizer.encode(text, add_special=False)[:room], *tokenizer.suffix_ids]
            for text in ([texts] if single else texts)
        ]
        # Texts of similar length share a pass, so that little of it is padding.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        hidden = self.executable.manifest["main"]["results"][0]["shape"][-1]
        vectors = np.empty((len(rows), hidden), np.float32)
        for begin in range(0, len(order), _EMBED_BATCH):
            chosen = order[begin : begin + _EMBED_BATCH]
            lengths = np.array([len(rows[index]) for index in chosen], np.int32)
            ids = np.zeros((len(chosen), int(lengths[-1])), np.int32)
            for row, index in enumerate(chosen):
                ids[row, : lengths[row]] = rows[index]
            vectors[chosen] = self.executable(ids, lengths)[0]
        return vectors[0] if single else vectors

    def benchmark(self, prompt_tokens: int, new_tokens: int, seed: int) -> Generation:
        """Runs a seeded random prompt and exactly `new_tokens` greedy tokens, whatever they are."""
        ids = np.random.Generator(np.random.PCG64(seed)).integers(0, self.vocabulary, prompt_tokens).tolist()
        if prompt_tokens + new_tokens > self.context:
            raise InputError(f"{prompt_tokens} + {new_tokens} tokens do not fit into the context of {self.context}")
        return TextStream(self, ids, SamplingOptions(new_tokens), end_tokens=False).run()

    def logits(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits after `ids` [s] or [b, s], from an empty cache: f32 [vocabulary] or [b, vocabulary]."""
        array = integers("ids", ids)
        result = self.forward(np.atleast_2d(array))
        return result[0] if array.ndim == 1 else result

    def forward(self, ids: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """One pass over `ids` [b, s]; returns logits f32 [b, vocabulary] of the last position.

        `lengths` [b] counts each row's valid positions including these s; None starts new sequences. Rows are
        remembered between calls of one batch size.
        """
        array = integers("ids", ids)
        if array.ndim != 2:
            raise InputError(f"ids has shape {list(array.shape)}, expected [b, s]")
        if self._shared is None or self._shared.batch != array.shape[0]:
            self._shared = self.session(array.shape[0])
        elif lengths is None:
            self._shared.reset()
        return self._shared.forward(array, lengths)

    def session(self, batch: int = 1) -> Session:
        """Caches of its own for `batch` sequences. Raises `InputError` for an encoder, which has none."""
        if self.info.kind != "decoder":
            raise InputError(f"{self.info.name} is an {self.info.kind}, expected a decoder: use embed")
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
