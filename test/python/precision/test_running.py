"""Running a plan: its memory, and values that do not fit: found, counted, and computed again by a program that holds them."""

from __future__ import annotations

import copy
import logging

import numpy as np
import pytest
import torch

from deepseek import Model, load
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.precision.planner import PlanOptions, make_plan
from deepseek.runtime import SaturationCounter


@pytest.fixture(scope="module")
def loud_decoder(small_decoder, tmp_path_factory):
    """The small decoder with keys of layer 1 that are 30,000 times as large, which f16 does not hold."""
    model = copy.deepcopy(small_decoder[1])
    with torch.no_grad():
        model.model.layers[1].self_attn.k_proj.weight.mul_(3e4)
    folder = tmp_path_factory.mktemp("loud")
    model.save_pretrained(folder)
    return folder


def plan_of(folder, ids):
    settings = PlanOptions(formats=("int8", "bf16"), window=32, tokens=192, max_bytes=10**6, kv_cache="f16")
    return make_plan(open_checkpoint(folder), ids, settings)


def caches_of(plan) -> dict[str, str]:
    return {row["at"]: row["kv_cache"] for row in plan.ops if row["kv_cache"]}


def test_every_pattern_of_16_bits():
    patterns = np.arange(65536, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):
        fits = np.abs(patterns.astype(np.float64)) < 65504
    for count in (1, 3, 4, 7, 64):
        cache = np.zeros((2, 2, 1, 9, count), np.float16)
        for value, good in zip(patterns[0x7B00:0x7D00], fits[0x7B00:0x7D00]):
            cache[1, 1, 0, 5, count - 1] = value
            found = SaturationCounter([cache, cache])(np.array([0, 4], np.int32), np.array([9, 6], np.int32))
            assert (found is None) == good and (good or found.tolist() == [1, 1])
    whole = patterns.reshape(1, 1, 1, 256, 256)
    found = SaturationCounter([whole])(np.array([0], np.int32), np.array([256], np.int32))
    assert found.tolist() == [(~fits).sum()]


def test_only_the_positions_of_a_step_are_looked_at():
    cache = np.full((3, 2, 2, 8, 5), np.inf, np.float16)
    begins, ends = np.array([0, 2, 7], np.int32), np.array([1, 2, 8], np.int32)
    assert SaturationCounter([cache])(begins, ends).tolist() == [(1 + 0 + 1) * 2 * 2 * 5]


def test_a_plan_keeps_caches_wide_where_the_text_overflowed(loud_decoder, small_decoder, small_ids):
    narrow = caches_of(plan_of(small_decoder[0], small_ids))
    assert set(narrow.values()) == {"f16"}
    plan = plan_of(loud_decoder, small_ids)
    first, second, third = narrow
    assert caches_of(plan) == {first: "f16", second: "f32", third: "f16"}
    row = next(row for row in plan.ops if row["at"] == second and row["kv_cache"])
    assert row["reason"].startswith("overflow: the text reached") and row["peak"] > 65504
    assert plan.totals["kv_cache_bytes_per_position"] == 2 * 2 * 16 * (2 + 4 + 2)


@pytest.fixture
def forced(loud_decoder, small_ids, tmp_path):
    """(a plan that makes all caches f16 all the same, the same one with caches of f32)."""
    plan = plan_of(loud_decoder, small_ids)
    paths = []
    for name in ("f16", "f32"):
        for row in plan.ops:
            row["kv_cache"] = row["kv_cache"] and name
        plan.save(tmp_path / f"{name}.json")
        paths.append(str(tmp_path / f"{name}.json"))
    return paths


@pytest.mark.parametrize("saved", [False, True])
def test_an_overflow_is_caught_and_the_text_goes_on(forced, loud_decoder, small_ids, tmp_path, saved, caplog):
    caplog.set_level(logging.WARNING, "deepseek")
    planned = Model.from_pretrained(loud_decoder, precision=forced[0])
    if saved:
        planned.save(tmp_path / "m.dsc")
        planned = load(tmp_path / "m.dsc")
    wide = Model.from_pretrained(loud_decoder, precision=forced[1])
    assert wide.guard is None and planned.guard.hits == {}
    expected = wide.generate(small_ids[:20], max_new_tokens=12)
    before = planned.executable
    found = planned.generate(small_ids[:20], max_new_tokens=12)
    assert found.new_ids == expected.new_ids
    assert planned.executable is not before
    (cache,) = planned.guard.hits
    assert planned.guard.hits[cache] > 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert cache in caplog.text and "runs again" in caplog.text
    # From now on nothing is narrow, and nothing more is counted.
    hits = dict(planned.guard.hits)
    assert planned.generate([small_ids[:9], small_ids[40:55]], max_new_tokens=5)[1].new_ids
    assert planned.guard.hits == hits
    np.testing.assert_array_equal(planned.logits(small_ids[:30]), wide.logits(small_ids[:30]))


def test_a_session_that_began_narrow_goes_on_wide(small_decoder, small_ids, tmp_path):
    """Whoever overflows, all sessions change programs and keep what they hold."""
    plan = plan_of(small_decoder[0], small_ids)
    plan.save(tmp_path / "p.json")
    planned = Model.from_pretrained(small_decoder[0], precision=str(tmp_path / "p.json"))
    session, whole = planned.session(), planned.session()
    session.forward([small_ids[:8]])
    logits = np.full((1, planned.vocabulary), np.nan, np.float32)
    nowhere = np.zeros(1, np.int32)
    assert not planned.guard.admits(planned.executable, logits, None, nowhere, nowhere)
    assert planned.guard.hits == {"logits": planned.vocabulary}
    # The first eight positions were rounded to f16: their keys and values are 2^-11 off.
    np.testing.assert_allclose(session.forward([small_ids[8:16]]), whole.forward([small_ids[:16]]), atol=0.05, rtol=0)
    assert {cache.dtype.name for cache in session._caches} == {"float32"}


def test_nothing_is_counted_where_all_fits(small_decoder, small_ids, tmp_path):
    plan = plan_of(small_decoder[0], small_ids)
    plan.save(tmp_path / "p.json")
    model = Model.from_pretrained(small_decoder[0], precision=str(tmp_path / "p.json"))
    before = model.executable
    model.generate(small_ids[:20], max_new_tokens=12)
    assert model.executable is before and model.guard.hits == {}


def test_memory_is_what_the_plan_says(small_decoder, small_ids, tmp_path):
    """As the runtime counts it; scratch memory comes in steps of 2 MiB."""
    plan = plan_of(small_decoder[0], small_ids)
    plan.save(tmp_path / "p.json")
    model = Model.from_pretrained(small_decoder[0], precision=str(tmp_path / "p.json"))
    model.generate(small_ids[:20], max_new_tokens=12)
    predicted, reported = plan.totals["memory"], model.memory()
    assert reported["weights"] == predicted["weights"] >= plan.totals["weight_bytes"]
    positions = model.take_session().capacity
    assert predicted["kv_cache"] == plan.totals["kv_cache_bytes_per_position"] * predicted["positions"]
    assert reported["kv_cache"] == plan.totals["kv_cache_bytes_per_position"] * positions
    assert 0 < predicted["arena"] < 2**31 and reported["arena"] % 2**21 == 0
