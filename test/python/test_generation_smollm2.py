"""Generation on a real model: batches, streams of partial characters, stop strings across tokens."""

from __future__ import annotations

import numpy as np
import pytest

from deepseek.model import Model

PROMPTS = [
    "The capital of France is",
    "Once",
    "def fib(n):\n",
    "A list: " + ", ".join(f"item {number}" for number in range(40)),
    "Dear Sir,",
    "1 2 3 4 5 6 7 8",
    "Water boils at a temperature of",
    "Q: What is the largest planet of our solar system, and how many moons does it have?\nA:",
]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.from_pretrained("smollm2-135m")  # make test installs it: a missing model is a failure


def test_batch_equals_single_runs(model: Model) -> None:
    lengths = {len(model.tokenizer.encode(prompt)) for prompt in PROMPTS}
    assert min(lengths) == 1 and max(lengths) > 100
    batch = model.generate(PROMPTS, 10)
    singles = [model.generate(prompt, 10) for prompt in PROMPTS]
    assert [result.new_ids for result in batch] == [result.new_ids for result in singles]
    assert [(result.text, result.stop_reason) for result in batch] == [(r.text, r.stop_reason) for r in singles]
    # Two rows end early, at different tokens, and the others do not change.
    stops = [singles[1].text[-4:], singles[5].text[4:7]]
    stopped = model.generate(PROMPTS, 10, stop=stops)
    assert {result.stop_reason for result in stopped} >= {"stop", "length"}
    for early, whole in zip(stopped, singles):
        assert early.new_ids == whole.new_ids[: len(early.new_ids)]
        assert early.text == min((whole.text.partition(stop)[0] for stop in stops), key=len)


def test_a_row_samples_the_same_in_every_batch(model: Model) -> None:
    options = {"max_new_tokens": 8, "temperature": 1.0, "top_k": 40, "top_p": 0.95, "seed": 3}
    batch = model.generate(PROMPTS[:3], **options)
    assert [r.new_ids for r in model.generate(PROMPTS[:2], **options)] == [r.new_ids for r in batch[:2]]
    assert model.generate(PROMPTS[0], **options).new_ids == batch[0].new_ids
    assert len({tuple(r.new_ids) for r in model.generate(["Once"] * 4, **options)}) == 4


@pytest.mark.parametrize("new_tokens", range(10, 14))  # some end within a character
def test_pieces_join_to_the_text(model: Model, new_tokens: int) -> None:
    stream = model.stream("\U0001f600\U0001f680" * 8, new_tokens)
    pieces = list(stream)
    ids = stream.result.new_ids
    assert "".join(pieces) == stream.result.text == model.tokenizer.decode(ids)
    assert stream.result.text == b"".join(map(model.tokenizer.piece, ids)).decode(errors="replace")
    assert "\U0001f600" in pieces and len(pieces) < new_tokens  # a character of several tokens comes at once


def test_stop_string_across_tokens(model: Model) -> None:
    whole = model.generate(PROMPTS[0], 16)
    borders = np.cumsum([len(model.tokenizer.decode([token])) for token in whole.new_ids])
    border = int(borders[6])
    stop = whole.text[border - 2 : border + 2]
    assert whole.text.index(stop) == border - 2
    result = model.generate(PROMPTS[0], 16, stop=["never", stop])
    assert (result.text, result.stop_reason) == (whole.text[: border - 2], "stop")
    assert result.new_ids == whole.new_ids[: int(np.searchsorted(borders, border + 2)) + 1]


def test_repetition_penalty_as_transformers_defines_it(model: Model) -> None:
    """Each token is the greatest of the logits after the penalty on all ids so far, computed here in float64."""
    result = model.generate(PROMPTS[5], 8, repetition_penalty=1.3)
    ids = list(result.prompt_ids)
    for token in result.new_ids:
        logits = model.logits(ids).astype(np.float64)
        seen = np.unique(ids)
        logits[seen] = np.where(logits[seen] < 0, logits[seen] * 1.3, logits[seen] / 1.3)
        assert logits[token] >= logits.max() - 1e-3
        ids.append(token)
    assert result.new_ids != model.generate(PROMPTS[5], 8).new_ids
