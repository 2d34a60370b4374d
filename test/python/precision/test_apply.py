"""Checkpoints that a plan makes: transformers and compressed-tensors load them and give the plan's logits."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from deepseek import Model
from deepseek.cli import main
from deepseek.errors import InputError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.precision.apply import apply_plan, pack_words
from deepseek.precision.plan import Plan
from deepseek.precision.planner import PlanOptions
from deepseek.precision.static import static_plan


def mixed_plan(folder) -> Plan:
    """A static plan of several formats: by layer int8 rows, 4-bit groups and 5-bit blocks, fp8 and bf16 elsewhere."""
    checkpoint = open_checkpoint(folder)
    plan = static_plan(checkpoint, PlanOptions(formats=("int8_row", "bf16")))
    from deepseek.formats import find_format
    from deepseek.precision.weights import round_to_nearest, values_of

    for row in plan.ops:
        layer = {"layers.0": "q4_0", "layers.1": "fp8_e4m3_row"}.get(row["at"].split("/")[0])
        name = {"lm_head": "int8_row", "layers.2/mlp/down_proj": "q5_0"}.get(row["at"], layer)
        if row["weight"] and name:
            tensor = checkpoint.tensors[row["tensor"]]
            form = find_format(name, tensor.shape[1])
            plan.arrays[row["tensor"]] = round_to_nearest(values_of(tensor), form)
            digest = hashlib.sha256(plan.arrays[row["tensor"]].data).hexdigest()
            plan.tensors[row["tensor"]] |= {"format": form.name, "sha256": digest}
            row["weight"] = name
    return plan


def test_transformers_gives_the_plans_logits(small_decoder, small_ids, tmp_path):
    folder = small_decoder[0]
    plan = mixed_plan(folder)
    assert {entry["format"] for entry in plan.tensors.values()} >= {"q4_0", "q5_0", "bf16", "int8_g64", "fp8_e4m3_g64"}
    plan.save(tmp_path / "plan.json")
    assert (
        main(["precision", "apply", str(folder), "--plan", str(tmp_path / "plan.json"), "-o", str(tmp_path / "a b")])
        == 0
    )
    from transformers import AutoModelForCausalLM

    ids = np.array([small_ids[:32]], np.int32)
    ours = Model.from_pretrained(folder, precision=str(tmp_path / "plan.json"), all_logits=True).forward(ids)[0]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "a b", dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = loaded(torch.from_numpy(ids).long()).logits[0].float().numpy()
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
    config = json.loads((tmp_path / "a b" / "config.json").read_text())
    assert config["quantization_config"]["format"] == "mixed-precision"


@pytest.mark.parametrize("bits", [4, 5])
def test_packing_is_that_of_compressed_tensors(bits):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    numbers = np.random.default_rng(0).integers(-(1 << bits - 1), 1 << bits - 1, (7, 96)).astype(np.int8)
    assert np.array_equal(pack_words(numbers, bits), pack_to_int32(torch.from_numpy(numbers), bits).numpy())


def test_what_is_not_written(small_decoder, tmp_path, smollm2):
    folder = small_decoder[0]
    plan = static_plan(open_checkpoint(folder), PlanOptions(formats=("int8", "bf16")))
    (tmp_path / "there").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        apply_plan(plan, open_checkpoint(folder), tmp_path)
    with pytest.raises(InputError, match="only Hugging Face folders"):
        apply_plan(plan, open_checkpoint(smollm2), tmp_path / "new")
