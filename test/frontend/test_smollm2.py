"""SmolLM2-135M against transformers in f32 on the same GGUF: greedy tokens and logits, max abs difference 1e-3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.errors import ExecutionError
from deepseek.model import Model

TOLERANCE = 1e-3
NEW_TOKENS = 32
PROMPTS = [
    "The capital of France is",
    "Once upon a time, a small robot",
    "def fibonacci(n):",
    "Water boils at",
    "1, 1, 2, 3, 5, 8, 13,",
    "Die Hauptstadt von Österreich ist",
    "<|im_start|>user\nName three colors.<|im_end|>\n<|im_start|>assistant\n",
    "In a distant valley between two mountains there was a village whose people had never seen the sea. "
    "One morning a stranger arrived, carrying a shell in his hand, and told them",
]


@pytest.fixture(scope="module")
def model(smollm2_path: Path) -> Model:
    return Model.from_pretrained(smollm2_path, precision="f32")


def all_logits(smollm2_reference: Any, ids: list[int]) -> np.ndarray:
    """[s, vocabulary] f32."""
    import torch

    with torch.no_grad():
        return smollm2_reference(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_and_logits(model: Model, smollm2_reference: Any, prompt: str) -> None:
    result = model.generate(prompt, max_new_tokens=NEW_TOKENS)
    ids = result.prompt_ids
    sequence = ids + result.new_ids
    logits = all_logits(smollm2_reference, sequence)
    # Each token is the reference's choice behind those before it, so all of them are what it generates.
    assert result.new_ids == logits[len(ids) - 1 : -1].argmax(-1).tolist()
    assert len(result.new_ids) == NEW_TOKENS or result.new_ids[-1] == model.tokenizer.eos
    session = model.session()
    # Prefill, then token by token over what was generated.
    parts = [session.forward([ids])]
    parts += [session.forward([[token]]) for token in result.new_ids]
    np.testing.assert_allclose(np.concatenate(parts), logits[len(ids) - 1 :], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1e-308, 1.7])
def test_candidates_are_the_greatest_logits(model: Model, temperature: float) -> None:
    """In order, with the sum over all tokens, f32 sums of 49,152 terms in parts: 1e-5."""
    ids = np.array([model.tokenizer.encode(PROMPTS[-1])[:12], model.tokenizer.encode(PROMPTS[2] * 4)[:12]])
    session = model.session(2)
    for own in session.step(ids, temperature=temperature):
        logits = own.everything().astype(np.float64)
        order = np.argsort(-logits, kind="stable")[: len(own.ids)]
        np.testing.assert_array_equal(own.ids, order)
        np.testing.assert_array_equal(own.logits, logits[order])
        with np.errstate(over="ignore"):
            total = np.exp((logits - logits.max()) / (temperature or 1)).sum()
        np.testing.assert_allclose(own.total, total, rtol=1e-5)
        assert len(own.ids) == 64


def test_steps_keep_what_they_gave(model: Model) -> None:
    """The next step writes its results where the last one's were."""
    session, other = model.session(3), model.session(3)
    session.forward([[5, 6], [7, 8], [9, 10]])
    other.forward([[5, 6], [7, 8], [9, 10]])
    steps = [([[11], [12], [13]], None), ([[14]], range(1, 2)), ([[15], [16], [17]], None), ([[18], [19]], range(2))]
    given = []
    for ids, rows in steps:
        found = session.step(ids, rows=rows)
        expected = other.forward(ids, rows=rows)
        for own, logits in zip(found, expected, strict=True):
            given.append((own, own.ids.copy(), own.logits.copy(), own.total, logits, logits.copy()))
            np.testing.assert_array_equal(own.everything(), logits)
            np.testing.assert_array_equal(own.logits, logits[own.ids])
    for own, ids, greatest, total, logits, copy in given:
        np.testing.assert_array_equal(own.ids, ids)
        np.testing.assert_array_equal(own.logits, greatest)
        np.testing.assert_array_equal(logits, copy)
        assert own.total == total
    with pytest.raises(ExecutionError, match="the logits of an earlier step are gone"):
        given[0][0].everything()


def test_steps_while_caches_grow(model: Model) -> None:
    """Past 128 and 256 positions, token by token: as at once."""
    ids = np.random.default_rng(0).integers(0, model.vocabulary, 300).tolist()
    session = model.session()
    for token in ids:
        last = session.step([[token]])[0]
    np.testing.assert_allclose(last.everything(), model.logits(ids), rtol=0, atol=TOLERANCE)


def test_token_by_token_from_the_first(model: Model, smollm2_reference: Any) -> None:
    ids = model.tokenizer.encode(PROMPTS[-1])
    session = model.session()
    ours = np.concatenate([session.forward([[token]]) for token in ids])
    np.testing.assert_allclose(ours, all_logits(smollm2_reference, ids), rtol=0, atol=TOLERANCE)


def test_batch_of_different_lengths(model: Model, smollm2_reference: Any) -> None:
    """Rows of 3 and 5 tokens: the shorter row is padded at its end, then both go on from their own lengths."""
    rows = [model.tokenizer.encode(prompt)[:count] for prompt, count in zip(PROMPTS[:2], (3, 5), strict=True)]
    following = [101, 202]
    model.forward(np.array([rows[0] + [0, 0], rows[1]]))
    ours = model.forward(np.array(following)[:, None], np.array([4, 6]))
    for row in range(2):
        expected = all_logits(smollm2_reference, [*rows[row], following[row]])[-1]
        np.testing.assert_allclose(ours[row], expected, rtol=0, atol=TOLERANCE)


def test_growing_cache_keeps_its_content(model: Model, smollm2_reference: Any) -> None:
    ids = (model.tokenizer.encode(PROMPTS[-1]) * 5)[:140]
    session = model.session()
    session.forward([ids[:120]])
    first = session.capacity
    ours = session.forward([ids[120:]])
    assert session.capacity > first
    np.testing.assert_allclose(ours[0], all_logits(smollm2_reference, ids)[-1], rtol=0, atol=TOLERANCE)


def test_sampling_is_reproducible(model: Model) -> None:
    first = model.generate(PROMPTS[1], max_new_tokens=8, temperature=0.9, seed=5)
    assert model.generate(PROMPTS[1], max_new_tokens=8, temperature=0.9, seed=5).new_ids == first.new_ids
    assert model.generate(PROMPTS[1], max_new_tokens=8, temperature=0.9, seed=6).new_ids != first.new_ids


def test_stream_equals_generate(model: Model) -> None:
    pieces = list(model.stream(PROMPTS[0], max_new_tokens=8))
    assert len(pieces) > 1
    assert "".join(pieces) == model.generate(PROMPTS[0], max_new_tokens=8).text


@pytest.mark.parametrize("precision", ["as-stored", "bf16"])
def test_strict_gives_the_same_bits_for_one_and_two_threads(
    smollm2_path: Path, smollm2_reference: Any, precision: str
) -> None:
    logits = []
    for threads in (1, 2):
        model = Model.from_pretrained(smollm2_path, precision=precision, target="cpu+strict", threads=threads)
        session = model.session()
        ids = model.tokenizer.encode(PROMPTS[-1])
        logits.append([session.forward([ids[:-1]]), session.forward([ids[-1:]])])
    np.testing.assert_array_equal(logits[0], logits[1])
    expected = all_logits(smollm2_reference, ids)[-1]
    assert np.argmax(logits[0][1]) == np.argmax(expected)
