"""Folders that other libraries quantized: numbers against a scalar decoder, logits against transformers in f32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_layouts import BF16, COMPRESSED, FP8, OTHERS, Case, compressed, linears, quantized, stored_only, write

from deepseek import InputError, Model
from deepseek.cli import main
from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import find_family
from deepseek.precision.plan import fingerprint
from deepseek.precision.planner import PlanOptions
from deepseek.precision.static import static_plan
from deepseek.precision.weights import values_of

TOLERANCE = 1e-4  # max|a - b| <= TOLERANCE * max|b|
AS_STORED = 2**-6  # products of blocks may round their operands to bf16, each by 2^-9
VOCABULARY = 61
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A random llama saved by transformers, and its weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    folder = tmp_path_factory.mktemp("plain")
    model.save_pretrained(folder)
    return folder, {name: value.numpy() for name, value in model.state_dict().items()}


def transformers_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.from_numpy(ids).long()).logits.float().numpy()


def check(folder: Path, expected: np.ndarray, ids: np.ndarray) -> None:
    """Our logits of the folder in f32 and as stored."""
    for precision, tolerance in (("f32", TOLERANCE), ("as-stored", AS_STORED)):
        ours = Model.from_pretrained(folder, precision=precision, all_logits=True).forward(ids)
        assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max(), precision


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, (2, 12)).astype(np.int32)


@pytest.mark.parametrize("name", [*OTHERS, *COMPRESSED])
def test_numbers(name: str, plain: Any, tmp_path: Path) -> None:
    case = (OTHERS | COMPRESSED)[name]
    folder, decoded = quantized(tmp_path / "model", plain, case)
    checkpoint = open_checkpoint(folder)
    find_family(checkpoint).read_config(checkpoint)
    fingerprint(checkpoint)
    for module, (_, columns) in linears(decoded):
        tensor = checkpoint.tensors[f"{module}.weight"]
        assert tensor.format.name == case.formats[columns]
        size = tensor.nbytes
        assert "data" not in vars(tensor), "it was repacked before it was needed"
        ours, expected = values_of(tensor), decoded[f"{module}.weight"]
        assert tensor.nbytes == size == tensor.data.nbytes and not tensor.data.flags.writeable
        if tensor.format.name == "q4_1":  # the compiled decoder may fuse the product and the sum
            assert np.abs(ours - expected).max() <= 1e-6 * np.abs(expected).max()
        else:
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(
    "name",
    [
        "gptq 4, g32",
        "gptq 4, g64, zeros",
        "gptq 4, g32, out of order",
        "awq g64",
        "fp8 128x128",
        "pack 5, g64",
        "pack 4, g32, zeros",
        "int 8, rows",
        "fp8, 64x96",
    ],
)
def test_logits(name: str, plain: Any, ids: np.ndarray, tmp_path: Path) -> None:
    folder, decoded = quantized(tmp_path / "model", plain, (OTHERS | COMPRESSED)[name])
    check(folder, transformers_logits(write(tmp_path / "plain", plain[0], decoded, None), ids), ids)


@pytest.mark.parametrize("name", [name for name in COMPRESSED if "out of order" not in name])
def test_compressed_tensors_decodes_the_same(name: str, plain: Any, tmp_path: Path) -> None:
    """Its decompressor, module by module, f32 scales; offsets that q4_1 rounds to f16 are not the same numbers."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    case = COMPRESSED[name]
    folder, stored = stored_only(tmp_path, plain, name)
    scheme = QuantizationScheme(**case.config["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(case.config["format"])
    tensors = open_checkpoint(folder).tensors
    for module, _ in linears(plain[1]):
        parts = {key.rpartition(".")[2]: array for key, array in stored.items() if key.startswith(f"{module}.")}
        scales = {"weight_scale": parts["weight_scale"].astype(np.float32)}
        raw = {
            part: torch.from_numpy(array.view("i1") if array.dtype == FP8 else array)
            for part, array in (parts | scales).items()
        }
        if case.config["format"] == "float-quantized":
            raw["weight"] = raw["weight"].view(torch.float8_e4m3fn)
        expected = compressor.decompress(raw, scheme)["weight"].float().numpy()
        ours = values_of(tensors[f"{module}.weight"])
        if "q4_1" in case.formats.values():
            assert np.abs(ours - expected).max() <= 2**-11 * 16 * scales["weight_scale"].max()
        else:
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", ["pack 4, g64", "pack 4, rows, f32", "int 8, rows", "int 8, g64", "fp8, tensor"])
def test_transformers_gives_the_same_logits(name: str, plain: Any, ids: np.ndarray, tmp_path: Path) -> None:
    """transformers with compressed-tensors, of the same folder."""
    folder, _ = stored_only(tmp_path, plain, name)
    expected = transformers_logits(folder, ids)
    ours = Model.from_pretrained(folder, precision="f32", all_logits=True).forward(ids)
    assert np.abs(ours - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_zero_points_are_rounded_little(plain: Any, tmp_path: Path) -> None:
    """q4_1's offset: off by at most 2^-11 of it, from (code - zero) * scale."""
    case = COMPRESSED["pack 4, g32, zeros"]
    folder, _ = quantized(tmp_path / "model", plain, case)
    exact = Case(
        case.config, case.quantize, compressed("pack-quantized", 4, "group", {}, group=32, zeros=True).number, {}
    )
    _, decoded = quantized(tmp_path / "exact", plain, exact)
    tensors = open_checkpoint(folder).tensors
    for module, _ in linears(decoded):
        error = np.abs(values_of(tensors[f"{module}.weight"]) - decoded[f"{module}.weight"])
        assert 0 < error.max() <= 2**-11 * 16 * 0.1 / 8


def test_mixed_groups(plain: Any, ids: np.ndarray, tmp_path: Path) -> None:
    """Names and expressions go before classes; what no group quantizes stays as it is."""
    narrow, floats = COMPRESSED["pack 4, g64"], COMPRESSED["fp8, rows"]
    rng = np.random.default_rng(2)
    stored = dict(plain[1])
    for module, shape in linears(plain[1]):
        if module.endswith("v_proj"):
            continue
        del stored[f"{module}.weight"]
        case = floats if "mlp" in module else narrow
        stored |= {f"{module}.{part}": array for part, array in case.quantize(rng, *shape).items()}
    stored["model.layers.0.self_attn.k_scale"] = np.ones(1, np.float32)
    groups = {
        "a": narrow.config["config_groups"]["group_0"] | {"format": "pack-quantized"},
        "b": floats.config["config_groups"]["group_0"] | {"format": "float-quantized", "targets": [r"re:.*mlp\..*"]},
    }
    ignore = ["lm_head", r"re:.*v_proj"]
    config = narrow.config | {"format": "mixed-precision", "config_groups": groups, "ignore": ignore}
    folder = write(tmp_path / "model", plain[0], stored, config)
    formats = {name.split(".")[-2]: tensor.format.name for name, tensor in open_checkpoint(folder).tensors.items()}
    assert (formats["q_proj"], formats["v_proj"], formats["down_proj"]) == ("int4_g64", "f32", "fp8_e4m3_g192")
    del stored["model.layers.0.self_attn.k_scale"]  # transformers has no such parameter
    check(folder, transformers_logits(write(tmp_path / "theirs", plain[0], stored, config), ids), ids)


def test_the_rest_of_the_program(plain: Any, ids: np.ndarray, tmp_path: Path, capsys: Any) -> None:
    """Artifacts, inspect, plans and their fingerprints."""
    folder, _ = quantized(tmp_path / "model", plain, OTHERS["gptq 4, g32"])
    model = Model.from_pretrained(folder)
    model.save(tmp_path / "a.dsc")
    np.testing.assert_array_equal(Model.from_pretrained(tmp_path / "a.dsc").forward(ids), model.forward(ids))
    with pytest.raises(InputError, match="those of a quantized folder are repacked"):
        model.save(tmp_path / "b.dsc", external_weights=True)
    assert main(["inspect", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint"]["formats"]["q4_0"]["tensors"] == 7
    plan = static_plan(open_checkpoint(folder), PlanOptions(formats=("int8", "f32")))
    plan.save(tmp_path / "plan.json")
    planned = Model.from_pretrained(folder, precision=str(tmp_path / "plan.json")).forward(ids)
    expected = Model.from_pretrained(folder, precision="f32").forward(ids)
    assert 0 < np.abs(planned - expected).max() <= 0.05 * np.abs(expected).max()
    other, _ = quantized(tmp_path / "other", plain, OTHERS["gptq 4, g64, zeros"])
    assert fingerprint(open_checkpoint(other)) != fingerprint(open_checkpoint(folder))


def failure(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint = open_checkpoint(folder)
        find_family(checkpoint).read_config(checkpoint)
        checkpoint.arrays()
    message = str(caught.value)
    assert message.startswith(f"{folder}: ") and "\n" not in message and len(message) < 600
    return message


Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gptq 4, g32", {"quant_method": "bitsandbytes"}, "quant_method is 'bitsandbytes', expected one of compressed-tensors, gptq, awq, fp8"),
        ("gptq 4, g32", {"quant_method": ...}, "quant_method is missing"),
        ("gptq 4, g32", {"bits": 3}, "bits is 3, expected 4 or 8"),
        ("gptq 4, g32", {"bits": 8}, f"tensor {Q}.scales has shape [4, 128], expected [2, 128]"),
        ("gptq 4, g32", {"group_size": 64}, f"tensor {Q}.scales has shape [4, 128], expected [2, 128]"),
        ("gptq 4, g32", {"group_size": 0}, "group_size is 0, expected -1 or a positive number"),
        ("gptq 4, g32", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin', expected gptq or gptq_v2"),
        ("gptq 4, g32", {"dynamic": {"+:a": {}}}, "dynamic is {'+:a': {}}, which is not supported"),
        ("awq g64", {"bits": 8}, "bits is 8, which is not supported; expected 4"),
        ("awq g64", {"version": "gemv"}, "version is 'gemv', expected gemm"),
        ("fp8 128x128", {"fmt": "e5m2"}, "fmt is 'e5m2', which is not supported"),
        ("fp8 128x128", {"weight_block_size": [128]}, "weight_block_size is [128], expected two sizes"),
        ("fp8 128x128", {"weight_block_size": [64, 128]}, f"tensor {Q}.weight_scale_inv has shape [1, 1], expected [2, 1]"),
        ("pack 4, g64", {"format": "marlin-24", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, "group_0: format is 'marlin-24', expected one of pack-quantized, int-quantized"),
        ("pack 4, g64", {"format": "int-quantized", "config_groups": {"g": {"weights": {"num_bits": 4, "group_size": 64}}}}, f"tensor {Q}.weight is missing, but there is weight_packed, weight_scale, weight_shape"),
        ("pack 4, g64", {"config_groups": {}}, f"tensor {Q}.weight_packed belongs to no config_groups"),
        ("pack 4, g64", {"config_groups": {"g": {"weights": {"num_bits": 16}}}}, "g: has weights of type 'int' with 16 bits, which pack-quantized does not hold"),
        ("pack 4, g64", {"config_groups": {"g": {"weights": {"num_bits": 5, "group_size": 64}}}}, "weight_packed has shape [128, 16], expected [128, 20] for 5 bits of the weight_shape [128, 128]"),
        ("pack 4, g64", {"config_groups": {"g": {"weights": {"num_bits": 4, "strategy": "tensor_group"}}}}, "strategy is 'tensor_group', expected one of tensor, channel, group, block"),
        ("pack 4, g64", {"transform_config": {"a": 1}}, "transform_config is {'a': 1}, which is not supported"),
        ("pack 4, g64", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config has format 'sparse-24-bitmask', expected dense"),
    ],
)  # fmt: skip
def test_bad_configuration(case: str, changes: dict[str, Any], message: str, plain: Any, tmp_path: Path) -> None:
    folder, _ = stored_only(tmp_path, plain, case)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    edited = values["quantization_config"] | changes
    values["quantization_config"] = {key: value for key, value in edited.items() if value is not ...}
    path.write_text(json.dumps(values))
    assert message in failure(folder)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("gptq 4, g32", {"scales": None}, f"tensor {Q}.scales is missing, but there is bias, g_idx, qweight, qzeros"),
        ("gptq 4, g32", {"qweight": None}, f"tensor {Q}.qweight is missing"),
        ("gptq 4, g32", {"qzeros": np.zeros((4, 15), np.int32)}, f"tensor {Q}.qzeros has shape [4, 15], expected [4, 16]"),
        ("gptq 4, g32", {"qweight": np.zeros((16, 128), np.int64)}, f"tensor {Q}.qweight is i64, expected i32"),
        ("gptq 4, g32", {"qweight": np.zeros(16, np.int32)}, f"tensor {Q}.qweight has shape [16], expected a matrix"),
        ("gptq 4, g32", {"g_idx": np.arange(128, dtype=np.int32)}, f"tensor {Q}.g_idx names groups 0 to 127, expected 0 to 3"),
        ("gptq 4, g32", {"weight": np.zeros((128, 128), np.float32)}, f"tensor {Q}.weight stands beside qweight, expected one of the two"),
        ("gptq 4, g32", {"bias": np.ones(128, np.float32)}, f"family does not use: {Q}.bias"),
        ("gptq 4, g64, zeros", {"scales": np.full((2, 128), 60000, np.float16)}, f"tensor {Q}.weight: its zero points times its scales are beyond"),
        ("awq g64", {"qzeros": None}, f"tensor {Q}.qzeros is missing"),
        ("fp8 128x128", {"weight_scale_inv": None}, f"tensor {Q}.weight_scale_inv is missing, but there is input_scale, weight"),
        ("fp8 128x128", {"weight": np.zeros((128, 128), np.float32)}, f"tensor {Q}.weight is f32, expected f8_e4m3"),
        ("pack 4, g64", {"weight_scale": None}, f"tensor {Q}.weight_scale is missing"),
        ("pack 4, g64", {"weight_shape": np.array([128, 256])}, f"tensor {Q}.weight_packed has shape [128, 16], expected [128, 32]"),
        ("pack 4, g64", {"weight_scale": np.zeros((128, 2), np.int8)}, f"tensor {Q}.weight_scale is i8, expected f16 or bf16 or f32"),
        ("fp8, rows", {"weight_scale": None}, f"tensor {Q}.weight_scale is missing"),
        ("fp8, rows", {"weight": np.zeros((96, 128), FP8), "weight_scale": np.zeros((96, 1), BF16)}, f"tensor {Q}.weight has shape [96, 128], expected [128, 128]"),
    ],
)  # fmt: skip
def test_bad_tensors(case: str, changes: dict[str, Any], message: str, plain: Any, tmp_path: Path) -> None:
    folder, stored = stored_only(tmp_path, plain, case)
    stored |= {f"{Q}.{part}": array for part, array in changes.items()}
    write(
        folder,
        plain[0],
        {name: array for name, array in stored.items() if array is not None},
        (OTHERS | COMPRESSED)[case].config,
    )
    assert message in failure(folder)
