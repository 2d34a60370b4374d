"""Options, the sampler against transformers' logits processors, and stop strings against a definition by letters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.errors import ExecutionError, InputError
from deepseek.sampling import Candidates, Sampler, SamplingOptions, StopFilter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens is -1, expected a whole number of at least 0"),
        ({"max_new_tokens": 1.5}, "max_new_tokens is 1.5, expected a whole number"),
        ({"temperature": -0.5}, "temperature is -0.5, expected a finite number of at least 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "1"}, "temperature is '1'"),
        ({"temperature": None}, "temperature is None"),
        ({"top_k": -3}, "top_k is -3, expected a whole number of at least 0"),
        ({"top_p": 1.1}, "top_p is 1.1, expected a number from 0 to 1"),
        ({"min_p": -0.1}, "min_p is -0.1, expected a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, expected a finite number above 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty is inf"),
        ({"stop": ""}, "stop is '', expected a string or a list of strings, none of them empty"),
        ({"stop": ["a", ""]}, "none of them empty"),
        ({"stop": 3}, "stop is 3"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"topk": 3}, "there is no option topk, expected one of max_new_tokens, temperature, top_k, "),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SamplingOptions.of(options)


def test_options_are_normalized() -> None:
    options = SamplingOptions(max_new_tokens=np.int64(3), temperature=1, stop="end", seed=2**70)
    assert options == SamplingOptions(3, 1.0, stop=("end",), seed=2**70)
    assert SamplingOptions(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize("vocabulary", [7, 1000, 150_000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 1},
        {"top_k": 40},
        {"top_p": 0.0},
        {"top_p": 0.4},
        {"top_p": 0.95},
        {"top_p": 0.9999},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.8, "temperature": 1.7},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 1.5, "temperature": 0.7},
        {"top_k": 5000, "top_p": 0.9, "min_p": 0.001, "temperature": 2.0},
    ],
)
@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_same_tokens_and_probabilities_as_transformers(
    vocabulary: int, options: dict[str, float], spread: float
) -> None:
    import torch
    import transformers.generation as hf

    random = np.random.default_rng(vocabulary)
    logits = spread * random.standard_normal(vocabulary)  # f64, so that no sum is near its limit by rounding alone
    seen = random.integers(0, vocabulary, 200)
    chain = hf.LogitsProcessorList()
    if (penalty := options.get("repetition_penalty", 1.0)) != 1.0:
        chain.append(hf.RepetitionPenaltyLogitsProcessor(penalty))
    chain.append(hf.TemperatureLogitsWarper(options.get("temperature", 1.0)))
    if "top_k" in options:
        chain.append(hf.TopKLogitsWarper(int(options["top_k"])))
    if "top_p" in options:
        chain.append(hf.TopPLogitsWarper(options["top_p"]))
    if "min_p" in options:
        chain.append(hf.MinPLogitsWarper(options["min_p"]))
    scores = chain(torch.tensor(seen)[None], torch.tensor(logits)[None])
    expected = torch.softmax(scores, -1)[0].numpy()

    sampler = Sampler(SamplingOptions(**{"temperature": 1.0, **options}), seen)
    ids, weights, total = sampler.distribution(Candidates.of(logits))
    np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(expected))
    np.testing.assert_allclose(weights / total, expected[ids], rtol=1e-10)
    assert (np.diff(weights) <= 0).all()


def test_equal_logits_are_kept_by_id() -> None:
    candidates = Candidates.of(np.zeros(1000, np.float32))
    kept = Sampler(SamplingOptions(temperature=1, top_p=0.25)).distribution(candidates)[0]
    np.testing.assert_array_equal(kept, np.arange(250))
    kept = Sampler(SamplingOptions(temperature=1, top_k=3)).distribution(candidates)[0]
    assert len(kept) == 1000  # as transformers: all that are not below the third


def found(logits: np.ndarray, count: int, temperature: float, asked: list[int]) -> Candidates:
    """What a program finds: the greatest logits in order, and the sum of all weights in f32."""
    order = np.argsort(-logits, kind="stable")[:count].astype(np.int32)
    total = np.exp((logits - logits.max()) / np.float32(temperature or 1)).sum(dtype=np.float32)
    return Candidates(order, logits[order], float(total), lambda: asked.append(1) or logits)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"temperature": 0.0}, 0),
        ({"top_k": 40}, 0),
        ({"top_k": 64}, 200),  # the next one may be equal to the last
        ({"top_k": 100}, 200),
        ({"top_p": 0.7}, 5),
        ({"min_p": 0.1}, 0),
        ({"top_k": 20, "top_p": 0.9, "min_p": 0.02}, 0),
        ({}, 100),
        ({"repetition_penalty": 1.2, "top_k": 30}, 400),
        ({"repetition_penalty": 1.2}, 400),
        ({"repetition_penalty": 0.7, "top_p": 0.8}, 400),
        ({"repetition_penalty": 50.0}, 400),
    ],
)
def test_the_first_candidates_choose_as_all_logits_do(options: dict[str, float], most: int) -> None:
    """`most`: how often 200 steps may ask for all logits."""
    random = np.random.default_rng(1)
    settings = SamplingOptions(**{"temperature": 0.8, "seed": 3, **options})
    asked: list[int] = []
    few, many = Sampler(settings, [5]), Sampler(settings, [5])
    for _ in range(200):
        logits = (3 * random.standard_normal(5000)).astype(np.float32)
        assert few.choose(found(logits, 64, settings.temperature, asked)) == many.choose(Candidates.of(logits))
    assert len(asked) <= most


def test_greedy_with_repetition_penalty() -> None:
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0), [3])
    logits = np.array([4, 3, -1, 6, -1.5], np.float32)
    # 3 counts 3, then 0 counts 2, 1 counts 1.5; an unseen token is not changed.
    assert [sampler.choose(Candidates.of(logits)) for _ in range(4)] == [0, 1, 3, 3]
    assert (
        Sampler(SamplingOptions(repetition_penalty=2.0), [0]).choose(Candidates.of(np.array([-1, -1.5], np.float32)))
        == 1
    )
    assert Sampler(SamplingOptions()).choose(Candidates.of(logits)) == 3


def test_draws_follow_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    draws = [Sampler(SamplingOptions(temperature=1, seed=11)) for _ in range(2)]
    first = [draws[0].choose(Candidates.of(logits)) for _ in range(20000)]
    assert first == [draws[1].choose(Candidates.of(logits)) for _ in range(20000)]
    # Standard deviation of each frequency: 0.0035.
    np.testing.assert_allclose(np.bincount(first) / 20000, [0.5, 0.3, 0.2], atol=0.015)
    cold = Sampler(SamplingOptions(temperature=1e-308, seed=0))
    assert {cold.choose(Candidates.of(logits)) for _ in range(50)} == {0}
    sharp = Sampler(SamplingOptions(temperature=0.5, seed=0))
    counts = np.bincount([sharp.choose(Candidates.of(logits)) for _ in range(20000)]) / 20000
    np.testing.assert_allclose(counts, np.array([0.25, 0.09, 0.04]) / 0.38, atol=0.015)
    masked = np.array([-np.inf, 0, -np.inf], np.float32)
    for temperature in (0.0, 1.0):
        assert Sampler(SamplingOptions(temperature=temperature)).choose(Candidates.of(masked)) == 1


def test_rows_draw_independently() -> None:
    logits = np.zeros(1000, np.float32)
    options = SamplingOptions(temperature=1, seed=5)
    rows = np.array(
        [
            [sampler.choose(Candidates.of(logits)) for _ in range(500)]
            for sampler in (Sampler(options, (), 0), Sampler(options, (), 1))
        ]
    )
    assert (rows[0] == rows[1]).mean() < 0.02
    assert abs(np.corrcoef(rows)[0, 1]) < 0.2


def test_stream_of_draws_is_that_of_pcg64() -> None:
    """numpy documents PCG64 and SeedSequence as stable, and random() as the top 53 bits: another way to the draws."""
    logits = np.zeros(2**16, np.float32)
    sampler = Sampler(SamplingOptions(temperature=1, seed=7), row=3)
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence(7, spawn_key=(3,))))
    assert [sampler.choose(Candidates.of(logits)) for _ in range(100)] == [
        int(random.random() * 2**16) for _ in range(100)
    ]


@pytest.mark.parametrize("logits", [[np.nan, 1], [np.inf, 1], [-np.inf, -np.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers(logits: list[float], temperature: float) -> None:
    with pytest.raises(ExecutionError, match="the greatest logit is .*, expected a finite number"):
        Sampler(SamplingOptions(temperature=temperature)).choose(Candidates.of(np.array(logits, np.float32)))


def ended_by_letters(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: read letter by letter, the longest stop string that the text ends with is cut off."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(
    pieces=st.lists(st.text("abc", max_size=5), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings(pieces: list[str], stops: list[str]) -> None:
    expected, found = ended_by_letters("".join(pieces), stops)
    filtered = StopFilter(stops)
    given, passed = "", ""
    for piece in pieces:
        given += piece
        passed += filtered.push(piece)
        assert expected.startswith(passed)
        if not filtered.found:
            # Held back is only what may still become a stop string.
            held = given[len(passed) :]
            assert not held or any(stop.startswith(held) for stop in stops)
    assert passed + filtered.finish() == expected
    assert filtered.found == found
