"""Plans of a small random decoder: budgets, repeated runs, the compiled model, and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from deepseek import Model
from deepseek.errors import CompileError, InputError
from deepseek.formats import find_format
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.package import describe
from deepseek.precision.apply import apply_plan
from deepseek.precision.evaluate import evaluate, windows_of
from deepseek.precision.graph import weight_elements
from deepseek.precision.plan import write_safetensors
from deepseek.precision.planner import PlanOptions, make_plan, parse_budget
from deepseek.precision.timing import product_seconds

BF16 = 2 * (2 * 320 * 64 + 3 * (64 * 64 * 2 + 2 * 32 * 64 + 3 * 64 * 96) + 7 * 64)


def options(**more) -> PlanOptions:
    base = {"formats": ("int8", "int4", "bf16"), "window": 32, "tokens": 6 * 32, "kv_cache": "f32"}
    return PlanOptions(**base | more)


@pytest.fixture(scope="module")
def plan(small_decoder, small_ids):
    return make_plan(open_checkpoint(small_decoder[0]), small_ids, options(max_bytes=int(0.5 * BF16)))


def test_a_plan_keeps_its_budget_and_says_so(plan):
    stored = sum(array.nbytes for array in plan.arrays.values()) + 4 * 7 * 64
    assert plan.totals["weight_bytes"] == stored <= 0.5 * BF16
    assert plan.totals["weight_bytes_bf16"] == BF16
    assert plan.totals["kv_cache_bytes_per_position"] == 3 * 2 * 2 * 16 * 4
    assert plan.totals["predicted_error"] > 0 and plan.totals["measured_error"] > 0


def test_every_operation_has_a_reason(plan):
    assert {row["op"] for row in plan.ops} >= {"dsc.matmul", "dsc.embedding", "dsc.attention", "dsc.kv_append"}
    assert all(row["reason"] and row["activation"] and row["accumulate"] for row in plan.ops)
    grouped = {row["at"]: row["weight"] for row in plan.ops}
    for layer in range(3):
        assert len({grouped[f"layers.{layer}/self_attn/{x}_proj"] for x in "qkv"}) == 1
        assert len({grouped[f"layers.{layer}/mlp/{x}_proj"] for x in ("gate", "up")}) == 1


@contextmanager
def weights_of(plan, model):
    """Inside, transformers' model has the plan's numbers in the place of its weights."""
    state = dict(model.state_dict())
    kept = {name: value.clone() for name, value in state.items()}
    try:
        with torch.no_grad():
            for name, entry in plan.tensors.items():
                array = plan.arrays[name]
                form = find_format(entry["format"], state[name].shape[-1])
                if form.codes:
                    array = form.decode(array)
                elif form.name == "bf16":
                    array = (array.astype(np.uint32) << 16).view(np.float32)
                state[name].copy_(torch.from_numpy(array))
            yield
    finally:
        for name, value in kept.items():
            state[name].data.copy_(value)


def check_compiled(plan, folder, model, ids, path) -> float:
    """The compiled model against transformers' with the plan's weights; returns its divergence from the model in f32."""
    plan.save(path)
    compiled = Model.from_pretrained(folder, precision=str(path), all_logits=True)
    assert compiled.weight_bytes == plan.totals["weight_bytes"]
    first = np.array([ids[:32]], np.int32)
    with torch.no_grad(), weights_of(plan, model):
        expected = model(torch.from_numpy(first).long()).logits[0].numpy()
    found = compiled.forward(first)[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    reference = Model.from_pretrained(folder, precision="f32", all_logits=True)
    result = evaluate(reference, compiled, windows_of(ids, 32))
    assert result.tokens == len(ids) // 32 * 32
    return result.mean_kl


def test_the_compiled_model_is_the_one_that_was_measured(plan, small_decoder, small_ids, tmp_path):
    found = check_compiled(plan, *small_decoder, small_ids, tmp_path / "a b.json")
    assert 0.3 < found / plan.totals["measured_error"] < 3


def test_scaled_channels_help_where_a_few_are_large(small_decoder, tmp_path):
    """Inputs of eight channels are 20 times as large, as language models have them."""
    model = copy.deepcopy(small_decoder[1])
    with torch.no_grad():
        for layer in model.model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[::8] *= 20
            attention = layer.self_attn
            for product in (
                layer.mlp.gate_proj,
                layer.mlp.up_proj,
                attention.q_proj,
                attention.k_proj,
                attention.v_proj,
            ):
                product.weight[:] /= 7
    folder = tmp_path / "loud channels"
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    ids = np.random.default_rng(5).integers(0, 320, 48 * 32).tolist()
    settings = {"formats": ("int4_g32", "int4_g64"), "max_bytes": BF16, "tokens": len(ids)}
    plain = make_plan(checkpoint, ids, options(**settings))
    scaled = make_plan(checkpoint, ids, options(**settings, rounding="awq"))
    assert scaled.totals["measured_error"] < plain.totals["measured_error"]
    before, after = ({row["group"]: row["predicted_error"] for row in p.ops if "group" in row} for p in (plain, scaled))
    changed = {row["group"] for row in scaled.ops if "exponents" in scaled.tensors.get(row.get("tensor"), {})}
    assert len(changed) >= 6
    assert np.mean([after[group] / before[group] for group in changed]) < 0.75
    assert 0.3 < check_compiled(scaled, folder, model, ids, tmp_path / "p.json") / scaled.totals["measured_error"] < 3
    for row in scaled.ops:  # what was proved of products holds, whose weights are scaled
        if row["op"] == "dsc.matmul" and row.get("range_source") == "proved":
            low, high = (1.01 * end for end in row["range"])
            assert low <= row["seen"][0] and row["seen"][1] <= high
    weights = {
        name: entry for name, entry in scaled.tensors.items() if entry["rounding"] == "awq" and "scaled_by" in entry
    }
    assert weights
    for name, entry in weights.items():
        norm = scaled.tensors[entry["scaled_by"]]
        assert norm["format"] == "f32" and norm["rounding"] == "awq" and "layernorm" in entry["scaled_by"]
        assert entry["exponents"] in [[0.25, 0.0], [0.5, 0.0], [0.75, 0.0], [0.5, 0.5]]
        assert name.split(".")[:3] == entry["scaled_by"].split(".")[:3]
    said = [row["reason"] for row in scaled.ops if row["op"] == "dsc.rms_norm"]
    assert sum("are scaled with" in reason for reason in said) == len({e["scaled_by"] for e in weights.values()})
    again = make_plan(checkpoint, ids, options(**settings, rounding="awq"), threads=1)
    assert again.to_json() == scaled.to_json()
    # The normalizations go with the weights into a checkpoint for others.
    apply_plan(scaled, checkpoint, tmp_path / "applied")
    written = open_checkpoint(tmp_path / "applied").tensors
    for name in scaled.tensors:
        np.testing.assert_array_equal(written[name].array, scaled.arrays[name])


def test_caches_are_narrow_where_that_costs_little(small_decoder, small_ids):
    checkpoint, auto = open_checkpoint(small_decoder[0]), {"kv_cache": "auto"}
    plan = make_plan(checkpoint, small_ids, options(max_bytes=int(0.5 * BF16), **auto))
    caches = [row for row in plan.ops if row["kv_cache"]]
    assert plan.totals["kv_cache_bytes_per_position"] == 3 * 2 * 2 * 16 * 2
    assert {row["kv_cache"] for row in caches} == {"f16"}
    assert all("within 1% of the plan's error" in row["reason"] for row in caches)
    exact = make_plan(checkpoint, small_ids, options(formats=("f32",), max_bytes=2 * BF16, **auto))
    caches = [row for row in exact.ops if row["kv_cache"]]
    assert {row["kv_cache"] for row in caches} == {"f32"}
    assert all("more than 1% of the plan's error" in row["reason"] for row in caches)


def test_plans_are_the_same_bytes_again(plan, small_decoder, small_ids):
    again = make_plan(open_checkpoint(small_decoder[0]), small_ids, options(max_bytes=int(0.5 * BF16)), threads=1)
    assert again.to_json() == plan.to_json()
    assert all(np.array_equal(again.arrays[name], plan.arrays[name]) for name in plan.arrays)


def test_compensated_rounding_beats_plain_rounding(small_decoder, small_ids):
    checkpoint = open_checkpoint(small_decoder[0])
    ids = np.random.default_rng(5).integers(0, 320, 48 * 32).tolist()  # more tokens than a row has numbers
    costs = {
        method: make_plan(
            checkpoint, ids, options(formats=("q4_0",), max_bytes=BF16, rounding=method, tokens=len(ids))
        ).totals["measured_error"]
        for method in ("rtn", "gptq")
    }
    assert costs["gptq"] < costs["rtn"]


def test_a_perplexity_budget_is_kept(small_decoder, small_ids):
    plan = make_plan(open_checkpoint(small_decoder[0]), small_ids, options(max_perplexity_increase=0.05))
    assert plan.totals["measured_perplexity_increase"] <= 0.05
    assert plan.totals["weight_bytes"] < 0.9 * BF16


def test_time_can_be_what_is_saved(small_decoder, small_ids, monkeypatch):
    """A format that is measured to be slow is not chosen, however small it is."""

    def measured(products, *_):
        return {key: 1e-3 if key[2] == "int4_g64" else 1e-6 * find_format(key[2], key[1]).bytes for key in products}

    monkeypatch.setattr("deepseek.precision.planner.product_seconds", measured)
    loose = {"max_perplexity_increase": 0.5, "formats": ("int8", "int4_g64")}
    small = make_plan(open_checkpoint(small_decoder[0]), small_ids, options(**loose))
    fast = make_plan(open_checkpoint(small_decoder[0]), small_ids, options(**loose, minimize="seconds"))
    multiplied = [row for row in fast.ops if row["op"] == "dsc.matmul"]
    assert {row["weight"] for row in multiplied}.isdisjoint({"int4_g64"})
    assert any(row["weight"] == "int4_g64" for row in small.ops if row["op"] == "dsc.matmul")
    groups = {row["group"]: row["seconds"] for row in multiplied}
    assert fast.totals["product_seconds"] == pytest.approx(sum(groups.values()))
    assert fast.totals["measured_perplexity_increase"] <= 0.5


def test_products_are_timed():
    names = ("f32", "bf16", "f16", "int8_row", "q8_0", "q5_0", "int4_g64", "fp8_e4m3_row", "fp8_e5m2_row")
    found = product_seconds([(96, 64, name) for name in names])
    assert set(found) == {(96, 64, name) for name in names} and all(0 < t < 1 for t in found.values())


def test_activations_of_8_bits(small_decoder, small_ids, tmp_path):
    folder = small_decoder[0]
    plan = make_plan(
        open_checkpoint(folder),
        small_ids,
        options(formats=("fp8", "bf16"), max_bytes=int(0.75 * BF16), activation="fp8_e4m3_row", kv_cache="f16"),
    )
    rounded = [row for row in plan.ops if row["activation"] != "f32"]
    assert rounded and all(row["weight"].startswith("fp8") for row in rounded)
    plan.save(tmp_path / "p.json")
    compiled = Model.from_pretrained(folder, precision=str(tmp_path / "p.json"), all_logits=True)
    assert {a["dtype"] for a in compiled.executable.manifest["main"]["args"] if a["tied"]} == {"f16"}
    reference = Model.from_pretrained(folder, precision="f32", all_logits=True)
    found = evaluate(reference, compiled, windows_of(small_ids, 32)[2::3])
    assert found.mean_kl == pytest.approx(plan.totals["measured_error"], rel=0.1)


def test_what_cannot_be_planned(small_decoder, small_ids, tmp_path):
    folder = small_decoder[0]
    checkpoint = open_checkpoint(folder)
    with pytest.raises(InputError, match="need at least"):
        make_plan(checkpoint, small_ids, options(max_bytes=1000))
    with pytest.raises(InputError, match="has 31 tokens, expected at least 32"):
        make_plan(checkpoint, small_ids[:31], options())
    with pytest.raises(InputError, match="has 2 windows, expected at least 3"):
        make_plan(checkpoint, small_ids[:64], options())
    with pytest.raises(InputError, match="no plan keeps"):
        make_plan(checkpoint, small_ids, options(formats=("int4",), max_perplexity_increase=1e-6))
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    arrays = {n: np.array(t.array) for n, t in checkpoint.tensors.items()}
    arrays["model.layers.1.mlp.up_proj.weight"][3, 3] = np.nan
    write_safetensors(damaged / "model.safetensors", arrays)
    with pytest.raises(InputError, match="NaN or infinity"):
        make_plan(open_checkpoint(damaged), small_ids, options(max_bytes=int(0.5 * BF16)))


def test_an_encoder_needs_a_budget_of_bytes():
    from deepseek.names import find_model

    encoder = open_checkpoint(find_model("all-minilm-l6-v2"))
    for more in ({}, {"max_perplexity_increase": 0.01}):
        with pytest.raises(InputError, match="is an encoder and has no perplexity: give a budget of bytes"):
            make_plan(encoder, [[101, 102]] * 48, options(**more))


def test_plans_that_do_not_fit(plan, small_decoder, tmp_path):
    folder = small_decoder[0]
    path = tmp_path / "p.json"
    plan.save(path)

    def load() -> Model:
        return Model.from_pretrained(folder, precision=str(path))

    text = path.read_text()
    for changed, said in (
        (text.replace('"fingerprint": "', '"fingerprint": "0'), "is for"),
        (text.replace('"version": 1', '"version": 7'), "version 7"),
        (text[: len(text) // 2], "is not JSON"),
        ("[]", "is not a plan"),
        (text.replace("q8_0", "q4_0").replace("int8_row", "int4_row"), "another plan"),
    ):
        path.write_text(changed)
        with pytest.raises(InputError, match=said):
            load()
    path.write_text(text)
    weights = path.with_suffix(".safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with pytest.raises(InputError, match="the file is damaged"):
        load()
    weights.write_bytes(whole)
    data = json.loads(text)
    data["ops"][0]["weight"] = "int9_g64"
    path.write_text(json.dumps(data))
    with pytest.raises(CompileError, match="which is no format"):
        load()
    path.write_text(text)
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match=r"p\.safetensors: is missing"):
        load()


@pytest.mark.parametrize(
    ("text", "expected"), [("62%", 620), ("90MB", 90_000_000), ("1.5 kB", 1500), ("2MiB", 2 * 2**20), ("123", 123)]
)
def test_budgets(text, expected):
    assert parse_budget(text, 1000) == expected


@pytest.mark.parametrize("text", ["", "62 percent", "-3MB", "90XB", "%"])
def test_budgets_that_are_none(text):
    with pytest.raises(InputError, match="budget"):
        parse_budget(text, 1000)


def test_biases_are_weights_too():
    """What a plan counts is what its program reads: not the pooler of the file, but every bias."""
    from deepseek.names import find_model

    checkpoint = open_checkpoint(find_model("all-minilm-l6-v2"))
    elements = weight_elements(describe(checkpoint, precision="f32")[1])
    skipped = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    expected = {n: int(np.prod(t.shape)) for n, t in checkpoint.tensors.items() if n not in skipped}
    assert elements == expected
