"""Generation around a model whose answers are known: limits, streams, stop strings, batches, conversations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_model import CONTEXT, VOCABULARY, Successor, make_model

from deepseek.errors import ExecutionError, InputError
from deepseek.generation import TextStream
from deepseek.model import Model
from deepseek.sampling import SamplingOptions


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return make_model(monkeypatch)


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


def test_forms_of_a_prompt(model: Model) -> None:
    assert model.generate([4, 7], 1).new_ids == [8]
    assert model.generate(np.array([4, 7]), 1).prompt_ids == [4, 7]
    chat = model.generate("X", 1, chat=True)
    assert chat.prompt_ids == model.tokenizer.encode("UXrA")
    assert model.generate([{"role": "user", "content": "X"}], 1).prompt_ids == chat.prompt_ids
    turns = [{"role": "system", "content": "B"}, {"role": "user", "content": "X"}]
    assert model.generate(turns, 1, chat=True).prompt_ids == model.tokenizer.encode("SBrUXrA")
    batch = model.generate(["A", [1], [{"role": "user", "content": "X"}]], 1)
    assert [result.prompt_ids for result in batch] == [[0], [1], chat.prompt_ids]


def test_end_token_and_limits(model: Model) -> None:
    result = model.generate(chr(65 + 46))
    assert (result.new_ids, result.stop_reason) == ([47, 48, 49], "eos")
    passes = len(model.executable.shapes)
    nothing = model.generate("A", max_new_tokens=0)
    assert len(model.executable.shapes) == passes
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
        ({"prompt": []}, "the prompt is an empty list"),
        ({"prompt": np.array([], np.int32)}, "the prompt is an empty list"),
        ({"prompt": None}, "the prompt is None, expected a text, token ids, messages or a list of such prompts"),
        ({"prompt": ["A", ""]}, r"prompts\[1\]: the prompt has no tokens"),
        ({"prompt": ["A", 3]}, r"prompts\[1\]: the prompt is 3"),
        ({"prompt": [1.5]}, "a token id is 1.5, expected a whole number"),
        ({"prompt": np.array([[1, 2]])}, r"a token id is \[1, 2\]"),
        ({"prompt": [3, 50]}, "token id is 50, expected 0 to 49"),
        ({"prompt": [3, -1]}, "token id is -1, expected 0 to 49"),
        ({"prompt": "z"}, "token id is 57, expected 0 to 49"),
        ({"prompt": [1, 2], "chat": True}, "the prompt is a list of token ids, but chat takes a text or messages"),
        ({"prompt": [{"role": "user"}]}, "a message is {'role': 'user'}, expected a dict with the texts role and"),
        ({"prompt": [{"role": "user", "content": "A"}, 3]}, "a message is 3"),
        ({"prompt": "A", "max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"prompt": "A", "temperature": -0.5}, "temperature is -0.5"),
        ({"prompt": ["A", "B"], "top_p": 2}, "top_p is 2"),
        ({"prompt": "A", "top": 2}, "there is no option top"),
    ],
)
def test_bad_calls_leave_the_model_usable(model: Model, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(**arguments)
    assert model.generate("A", max_new_tokens=2).text == "BC"


def test_an_encoder_does_not_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_model(monkeypatch, "encoder")
    for prompt in ("A", ["A"]):
        with pytest.raises(InputError, match="successor is an encoder, expected a decoder: use embed"):
            encoder.generate(prompt)


def test_damaged_logits(model: Model) -> None:
    model.executable.poisoned = 10
    for temperature in (0.0, 1.0):
        with pytest.raises(ExecutionError, match="the greatest logit is nan"):
            model.generate("M", temperature=temperature)
    with pytest.raises(ExecutionError, match=r"prompts\[1\]: the greatest logit is nan"):
        model.generate(["A", "I"], 5)
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
        patch.setattr(Successor, "__call__", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    assert model.generate("A", max_new_tokens=2).text == "BC"


@pytest.mark.parametrize(
    ("stop", "pieces", "new_tokens", "reason"),
    [
        ("D", ["B", "C"], 3, "stop"),
        ("DE", ["B", "C"], 4, "stop"),
        (["EF", "DEX"], ["B", "C", "D"], 5, "stop"),
        ("EX", ["B", "C", "D", "EF", "G", "H"], 7, "length"),
        ("GHI", ["B", "C", "D", "E", "F", "GH"], 7, "length"),  # held back to the end, then passed on
        ("B", [], 1, "stop"),
        ("H", ["B", "C", "D", "E", "F", "G"], 7, "stop"),  # the last token allowed
    ],
)
def test_stop_strings(model: Model, stop: Any, pieces: list[str], new_tokens: int, reason: str) -> None:
    stream = model.stream("A", 7, stop=stop)
    seen = []
    for piece in stream:
        seen.append(piece)
        assert stream.result.text == "".join(seen)
    assert seen == pieces
    result = stream.result
    assert (result.new_ids, result.stop_reason) == (list(range(1, new_tokens + 1)), reason)
    assert model.generate(["A", "A"], 7, stop=stop)[1].text == result.text == "".join(pieces)


def test_stop_string_within_and_across_tokens(model: Model) -> None:
    """Tokens of several letters: the stop string begins in one and ends in another."""
    model.tokenizer.stream = lambda: SimpleNamespace(push=lambda token: f"x{token}y", finish=lambda: "?")
    assert "".join(stream := model.stream("A", 5, stop=["yx3"])) == "x1yx2" == stream.result.text
    assert stream.result.new_ids == [1, 2, 3]
    # The incomplete character at the end comes after what was held back.
    assert list(model.stream("A", 2, stop=["yx3"])) == ["x1", "yx2y?"]


def test_without_a_tokenizer(model: Model) -> None:
    del model.__dict__["tokenizer"]
    result = model.generate([3, 4], 3)
    assert (result.text, result.new_ids, result.stop_reason) == ("", [5, 6, 7], "length")
    assert not model.has_tokenizer


def test_batch_equals_single_runs(model: Model) -> None:
    """More prompts than rows, of all lengths, most of which end early: every hole is filled or closed."""
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 48, random.integers(1, 30)).tolist() for _ in range(60)]
    batch = model.generate(prompts, 20)
    assert len({len(result.new_ids) for result in batch}) > 10
    model.executable.shapes.clear()
    for prompt, result in zip(prompts, batch):
        single = model.generate(prompt, 20)
        assert (result.text, result.prompt_ids, result.new_ids, result.stop_reason) == (
            single.text,
            single.prompt_ids,
            single.new_ids,
            single.stop_reason,
        )
    assert [result.text for result in model.generate(["A"], 3)] == ["BCD"]


def test_ended_rows_cost_nothing(model: Model) -> None:
    starts = [40, 10, 44, 20, 47]
    model.generate([[start] for start in starts], 8)
    # All prompts of one length run together; then as many rows as have not ended.
    left = [sum(1 for start in starts if start + step < 49) for step in range(1, 8)]
    assert model.executable.shapes == [(5, 1)] + [(rows, 1) for rows in left]


def test_equal_lengths_are_prefilled_together(model: Model) -> None:
    model.generate([[1, 2], [3], [4, 5], [6], [7]] + [[8] * 200] * 3, 1)
    assert model.executable.shapes == [(3, 1), (2, 2), (2, 200), (1, 200)]


def test_batch_rows_reach_the_end_of_the_context(model: Model) -> None:
    model.tokenizer.stop_ids = frozenset()
    results = model.generate([[0] * CONTEXT, [0] * (CONTEXT - 3), [0]], 10)
    assert [(len(r.new_ids), r.stop_reason) for r in results] == [(1, "context"), (4, "context"), (10, "length")]
    assert [r.stop_reason for r in model.generate(["A", "B"], 0)] == ["length", "length"]


def test_a_row_samples_the_same_in_every_batch(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(
        self: Successor, ids: np.ndarray, lengths: np.ndarray, *caches: np.ndarray, out: None = None
    ) -> tuple[np.ndarray, ...]:
        return np.zeros((len(ids), VOCABULARY), np.float32), *caches

    monkeypatch.setattr(Successor, "__call__", flat)
    model.tokenizer.stop_ids = frozenset()
    options = {"max_new_tokens": 20, "temperature": 1.0, "seed": 4}
    whole = [result.new_ids for result in model.generate(["ABC", "D", "EF"] * 10, **options)]
    assert whole[:3] == [result.new_ids for result in model.generate(["ABC", "D", "EF"], **options)]
    assert whole[0] == model.generate("ABC", **options).new_ids
    assert len({tuple(ids) for ids in whole}) == 30
    assert model.generate("A", 20, 1.0).new_ids != model.generate("A", 20, 1.0).new_ids  # without a seed


def test_repetition_penalty_counts_the_prompt(model: Model) -> None:
    sampled = model.generate([0, 1, 2, 3, 0], 1, 1.0, repetition_penalty=1e9, seed=1)
    assert sampled.new_ids[0] != 1  # its logit was 9, now it is nearly 0, as those of all others


def test_benchmark_ignores_end_tokens(model: Model) -> None:
    result = model.benchmark(5, 60, 0)
    assert (len(result.prompt_ids), len(result.new_ids)) == (5, 60)
    assert result.prompt_ids == model.benchmark(5, 2, 0).prompt_ids
    with pytest.raises(InputError, match="290 \\+ 20 tokens do not fit into the context of 300"):
        model.benchmark(290, 20, 0)


def test_a_model_of_all_logits(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that returns every position's logits generates from the last ones."""

    def every(
        self: Any, ids: np.ndarray, lengths: np.ndarray, *caches: np.ndarray, out: None = None
    ) -> tuple[np.ndarray, ...]:
        logits = np.zeros((*ids.shape, VOCABULARY), np.float32)
        np.put_along_axis(logits, ids[..., None] + 1, 1, axis=-1)
        return logits, *caches

    monkeypatch.setattr(Successor, "__call__", every)
    assert TextStream(model, [4, 1], SamplingOptions(2)).run().new_ids == [2, 3]
    assert [result.new_ids for result in model.generate([[4, 1], [7]], 2)] == [[2, 3], [8, 9]]
