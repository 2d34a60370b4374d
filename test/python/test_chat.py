"""Conversations: what is prefilled and what is remembered, and `deepseek chat` on SmolLM2, piped and in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from fake_model import Successor, make_model

from deepseek.errors import InputError
from deepseek.generation import Conversation
from deepseek.model import Model
from deepseek.sampling import SamplingOptions

OPTIONS = SamplingOptions(3)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return make_model(monkeypatch)


def contents(conversation: Conversation) -> list[str]:
    conversation.end_turn()
    return [message["content"] for message in conversation.messages]


def test_only_what_is_new_is_prefilled(model: Model) -> None:
    conversation = Conversation(model, "BCD")
    assert conversation.ask("E", OPTIONS).run().text == "BCD"
    assert model.executable.shapes == [(1, len("SBCDrUErA")), (1, 1), (1, 1)]
    model.executable.shapes.clear()
    result = conversation.ask("F", OPTIONS).run()
    # Held: SBCDrUErABC. New: the answer's last letter (which never ran), its end, the message, the answer's begin.
    assert result.cached_tokens == 11
    assert model.executable.shapes[0] == (1, len("DrUFrA"))
    assert result.prompt_ids == model.tokenizer.encode("SBCDrUErABCDrUFrA")
    np.testing.assert_array_equal(model.executable.history[-3], np.array(result.prompt_ids) + 1)
    assert contents(conversation) == ["BCD", "E", "BCD", "F", "BCD"]
    assert [message["role"] for message in conversation.messages] == ["system"] + ["user", "assistant"] * 2


def test_reset_keeps_what_is_the_same(model: Model) -> None:
    conversation = Conversation(model, "BCD")
    conversation.ask("E", OPTIONS).run()
    conversation.reset()
    assert contents(conversation) == ["BCD"]
    result = conversation.ask("E", OPTIONS).run()  # the same once more: only its last token runs, for the logits
    assert (result.text, result.cached_tokens) == ("BCD", len("SBCDrUEr"))


def test_a_template_that_renders_earlier_turns_differently(model: Model) -> None:
    conversation = Conversation(model)
    conversation.ask("BC", OPTIONS).run()
    whole = model.tokenizer.chat
    model.tokenizer.chat = lambda messages: whole(messages[-1:])  # forgets the earlier turns
    result = conversation.ask("BD", OPTIONS).run()
    assert (result.prompt_ids, result.cached_tokens) == (model.tokenizer.encode("UBDrA"), 2)
    np.testing.assert_array_equal(model.executable.history[-1], np.array(model.tokenizer.encode("UBDrABC")) + 1)


def test_an_answer_that_is_left(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(model)
    stream = conversation.ask("E", SamplingOptions(10))
    assert [next(stream), next(stream)] == ["B", "C"]
    assert conversation.ask("F", OPTIONS).run().prompt_ids == model.tokenizer.encode("UErABCrUFrA")
    assert contents(conversation) == ["E", "BC", "F", "BCD"]
    # Ctrl-C during the prefill: the turn did not happen, and what was held before is held still.
    with monkeypatch.context() as patch:
        patch.setattr(Successor, "__call__", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            conversation.ask("G", OPTIONS).run()
    result = conversation.ask("H", OPTIONS).run()
    assert result.prompt_ids == model.tokenizer.encode("UErABCrUFrABCDrUHrA")
    assert result.cached_tokens == len("UErABCrUFrABC")


def test_interrupt_while_the_cache_grows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation(model)
    conversation.ask("E", OPTIONS).run()
    allocate, calls = Successor.zeros, []

    def second_fails(self: Successor, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        calls.append(shape)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return allocate(self, shape, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(Successor, "zeros", second_fails)
        with pytest.raises(KeyboardInterrupt):
            conversation.ask("E" * 200, OPTIONS).run()
    result = conversation.ask("F", OPTIONS).run()
    assert (result.text, result.cached_tokens) == ("BCD", 0)


def test_a_turn_that_does_not_fit(model: Model) -> None:
    conversation = Conversation(model)
    conversation.ask("E", OPTIONS).run()
    with pytest.raises(InputError, match="the prompt has 313 tokens, but the context holds 300"):
        conversation.ask("E" * 302, OPTIONS)
    assert conversation.ask("F", OPTIONS).run().cached_tokens == len("UErABC")
    assert contents(conversation) == ["E", "BCD", "F", "BCD"]


def test_a_model_without_a_template_is_refused_at_once(model: Model) -> None:
    def fail(_: Any) -> str:
        raise InputError("has no chat template")

    model.tokenizer.chat = fail
    with pytest.raises(InputError, match="has no chat template"):
        Conversation(model)


MODEL = ("smollm2-135m", "--max-new-tokens", "12")


def run(text: str | bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "deepseek", "chat", *MODEL, *arguments]
    data = text.encode() if isinstance(text, str) else text
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, input=data, capture_output=True, timeout=120, check=False, env=strict)


@pytest.fixture(scope="module")
def smollm2() -> Model:
    return Model.from_pretrained("smollm2-135m", precision="f32")  # as stored, what is cached is rounded otherwise


def test_turns_equal_those_of_an_empty_cache(smollm2: Model) -> None:
    conversation = Conversation(smollm2, "You are a helpful assistant.")
    options = SamplingOptions(16)
    for text in ("Name a color.", "And one more?", "Which of these is warmer?"):
        result = conversation.ask(text, options).run()
        alone = smollm2.generate([*conversation.messages, {"role": "user", "content": text}], 16)
        assert (result.prompt_ids, result.new_ids) == (alone.prompt_ids, alone.new_ids)
        before = 0 if not conversation.messages[1:] else len(result.prompt_ids) // 2
        assert result.cached_tokens >= before
    assert len(contents(conversation)) == 7


def test_piped(smollm2: Model) -> None:
    question = "What is the capital of France?"
    child = run(f"{question}\n\n/reset\n{question}\n/help\n/nosuch\n")
    assert child.returncode == 0, child.stderr
    answer = smollm2.generate(question, 12, chat=True).text
    assert child.stdout.decode() == f"{answer}\n{answer}\n"
    errors = child.stderr.decode()
    assert errors.count("/exit") == 2 and "there is no command /nosuch" in errors
    assert "tokens/s" not in errors  # for terminals


def test_json(smollm2: Model) -> None:
    child = run("Hello\n/exit\nnever read\n", "--json", "--system", "Be brief.", "--stop", "!", "--seed", "1")
    assert child.returncode == 0, child.stderr
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = smollm2.generate(messages, 12, stop="!").text
    assert json.loads(child.stdout) == {"messages": [*messages, {"role": "assistant", "content": answer}]}


def test_piped_errors() -> None:
    child = run("Hello\n" * 3, "--context", "40")
    assert child.returncode == 1
    assert b"tokens, but the context holds 40" in child.stderr and child.stderr.count(b"deepseek: error") == 1
    child = run(b"a\xff\n", "--json")
    assert (child.returncode, child.stdout) == (1, b"")
    assert b"stdin is not valid utf-8" in child.stderr


class Terminal:
    """`deepseek chat` with a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process, self.terminal = pty.fork()
        if not self.process:
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, "-m", "deepseek", "chat", "smollm2-135m", *arguments])
        self.seen = ""

    def wait(self, pattern: str, seconds: float = 60) -> str:
        """Reads until `pattern` comes; returns all up to its end."""
        limit = time.monotonic() + seconds
        while not (match := re.search(pattern, self.seen, re.DOTALL)):
            ready, _, _ = select.select([self.terminal], [], [], max(0.0, limit - time.monotonic()))
            assert ready, f"no {pattern!r} in {self.seen!r}"
            try:
                data = os.read(self.terminal, 65536)
            except OSError:  # the other end is closed
                data = b""
            assert data, f"ended without {pattern!r}: {self.seen!r}"
            self.seen += data.decode(errors="replace")
        found, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return found

    def send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def end(self) -> int:
        """The exit status."""
        limit = time.monotonic() + 30
        while not (done := os.waitpid(self.process, os.WNOHANG))[0]:
            assert time.monotonic() < limit
            time.sleep(0.05)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(done[1])


def test_terminal(smollm2: Model) -> None:
    chat = Terminal("--context", "400", "--stop", ".")
    try:
        chat.wait("/help lists commands\r\n> ")
        chat.send("Tell a very long story.\n")
        chat.wait("story.\r\n.{5}")
        chat.send("\x03")  # stops the answer
        chat.wait("\r\n> ")
        chat.send("half a li")
        chat.wait("half a li")
        time.sleep(0.3)  # CPython's input() misses a signal that comes between its check and its select
        chat.send("\x03")  # drops the line
        chat.wait("\r\n> ")
        chat.send("What is 1+1?\n")
        chat.wait(r"\d+ tokens, \d+\.\d tokens/s\r\n> ", 120)
        chat.send("word " * 400 + "\n")
        chat.wait("tokens, but the context holds 400; /reset forgets the conversation\r\n> ")
        chat.send("/reset\n")
        chat.wait("> ")
        chat.send("\x04")
        assert chat.end() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chat.process, signal.SIGKILL)
