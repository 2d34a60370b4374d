"""Checkpoints that a plan makes: transformers and compressed-tensors load them and give the plan's logits."""

from __future__ import annotations

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
import torch

from deepseek import Model
from deepseek.cli import main
from deepseek.errors import InputError
from deepseek.formats import find_format
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.precision.apply import apply_plan, block_fp8, pack_words
from deepseek.precision.plan import Plan
from deepseek.precision.planner import PlanOptions
from deepseek.precision.static import static_plan
from deepseek.precision.weights import round_to_nearest, values_of


def mixed_plan(folder) -> Plan:
    """A static plan of several formats: by layer int8 rows, 4-bit groups and 5-bit blocks, fp8 and bf16 elsewhere."""
    checkpoint = open_checkpoint(folder)
    plan = static_plan(checkpoint, PlanOptions(formats=("int8_row", "bf16")))
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


def test_what_was_written_is_the_plan_again(small_decoder, tmp_path):
    """Bit for bit, formats included, and so once more from there."""
    plan = mixed_plan(small_decoder[0])
    apply_plan(plan, open_checkpoint(small_decoder[0]), tmp_path / "once")
    loaded = open_checkpoint(tmp_path / "once")
    for name, entry in plan.tensors.items():
        tensor = loaded.tensors[name]
        assert tensor.format.name == find_format(entry["format"], tensor.shape[-1]).name
        np.testing.assert_array_equal(tensor.array, plan.arrays[name])
    second = static_plan(loaded, PlanOptions(formats=("int8", "bf16")))
    kept = [name for name in second.tensors if "layers.0" in name]
    for name in kept:  # no longer the plan's: these go through as they are
        del second.tensors[name], second.arrays[name]
    apply_plan(second, loaded, tmp_path / "twice")
    again = open_checkpoint(tmp_path / "twice")
    assert len(kept) == 7
    for name in kept:
        np.testing.assert_array_equal(again.tensors[name].array, plan.arrays[name])


def reference_block_fp8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales, block by block."""
    codes = np.zeros(values.shape, ml_dtypes.float8_e4m3fn)
    scales = np.zeros((-(-values.shape[0] // 128), -(-values.shape[1] // 128)), np.float32)
    for row, column in np.ndindex(scales.shape):
        at = np.s_[row * 128 : row * 128 + 128, column * 128 : column * 128 + 128]
        most = np.abs(values[at]).max()
        scales[row, column] = most / np.float32(448) if most else 1
        codes[at] = (values[at] / scales[row, column]).astype(codes.dtype)
    return codes, scales


@pytest.mark.parametrize("shape", [(300, 200), (128, 256), (1, 1), (5, 129)])
def test_block_fp8(shape):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[:128, :128] *= shape[0] != 300  # a block of zeros
    codes, scales = block_fp8(values)
    expected = reference_block_fp8(values)
    np.testing.assert_array_equal(codes, expected[0].view(np.uint8))
    np.testing.assert_array_equal(scales, expected[1])


def fp8_plan(folder, hidden, intermediate):
    """A static plan in fp8 of a random llama, which is written to `folder`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=300, max_position_embeddings=64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    return static_plan(open_checkpoint(folder), PlanOptions(formats=("fp8", "f32")))


@pytest.mark.parametrize(("hidden", "intermediate", "group"), [(192, 320, 64), (256, 384, 128)])
def test_block_fp8_folder(tmp_path, hidden, intermediate, group):
    """The layout against numpy, our reading of it, and that of transformers, which decodes whole blocks on a CPU."""
    plan = fp8_plan(tmp_path / "model", hidden, intermediate)
    plan.save(tmp_path / "plan.json")
    words = ["precision", "apply", str(tmp_path / "model"), "--plan", str(tmp_path / "plan.json")]
    assert main([*words, "--layout", "block-fp8", "-o", str(tmp_path / "fp8")]) == 0
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]
    assert config == {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": [128, 128],
        "activation_scheme": "dynamic",
        "modules_to_not_convert": ["lm_head"],
    }
    from safetensors.torch import load_file

    stored, loaded = load_file(tmp_path / "fp8" / "model.safetensors"), open_checkpoint(tmp_path / "fp8")
    narrow = {name for name, entry in plan.tensors.items() if entry["format"].startswith("fp8")}
    assert len(narrow) == 14
    for name in narrow:
        form = find_format(plan.tensors[name]["format"], loaded.tensors[name].shape[1])
        values = form.decode(plan.arrays[name])
        codes, scales = reference_block_fp8(values)
        np.testing.assert_array_equal(stored[name].view(torch.uint8).numpy(), codes.view(np.uint8))
        np.testing.assert_array_equal(stored[f"{name}_scale_inv"].numpy(), scales)
        each = scales.repeat(128, 0).repeat(128, 1)[: values.shape[0], : values.shape[1]]
        ours = values_of(loaded.tensors[name])
        np.testing.assert_array_equal(ours, codes.astype(np.float32) * each)
        assert loaded.tensors[name].format.name == f"fp8_e4m3_g{group}"
        # e4m3 has 3 bits behind the point: half a unit in the last place, or of the subnormals
        assert (np.abs(ours - values) <= np.maximum(np.abs(values) * 2**-4, each * 2**-10)).all()
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    ids = np.random.default_rng(0).integers(0, 300, (1, 24)).astype(np.int32)
    reading = {"quantization_config": FineGrainedFP8Config(dequantize=True)} if group == 128 else {}
    folder = tmp_path / ("fp8" if reading else "model")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **reading)
    if not reading:
        weights = {name: torch.from_numpy(values_of(tensor).copy()) for name, tensor in loaded.tensors.items()}
        theirs.load_state_dict(weights)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids).long()).logits.float().numpy()
    logits = Model.from_pretrained(tmp_path / "fp8", precision="f32", all_logits=True).forward(ids)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_block_fp8_does_not_hold(small_decoder, tmp_path):
    checkpoint = open_checkpoint(small_decoder[0])
    with pytest.raises(
        InputError, match="int8_g[0-9]+ has no place in a block-fp8 checkpoint: it holds fp8 and plain numbers"
    ):
        apply_plan(
            static_plan(checkpoint, PlanOptions(formats=("int8", "bf16"))), checkpoint, tmp_path / "a", "block-fp8"
        )
    tables = PlanOptions(formats=("fp8",))  # an embedding is looked up, not multiplied
    apply_plan(static_plan(checkpoint, tables), checkpoint, tmp_path / "b", "block-fp8")
    formats = {name: tensor.format.name for name, tensor in open_checkpoint(tmp_path / "b").tensors.items()}
    assert (formats["model.embed_tokens.weight"], formats["lm_head.weight"]) == ("f32", "fp8_e4m3_g64")
