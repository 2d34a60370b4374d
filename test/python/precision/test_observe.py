"""Calibration files: plans from one equal plans from the text, and what they are not for is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from deepseek.cli import main
from deepseek.errors import CheckpointError, InputError
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.safetensors import SafetensorsFile
from deepseek.precision.observe import load_observation, observe
from deepseek.precision.planner import PlanOptions, make_plan, plan_from

OPTIONS = PlanOptions(formats=("int8", "int4"), window=32, tokens=192, max_bytes=100_000, activation="int8_row")


@pytest.fixture(scope="module")
def observation(small_decoder, small_ids):
    return observe(open_checkpoint(small_decoder[0]), small_ids, OPTIONS, text_name="random")


@pytest.fixture(scope="module")
def saved(observation, tmp_path_factory):
    path = tmp_path_factory.mktemp("seen") / "a b.safetensors"
    observation.save(path)
    return path


def test_a_plan_from_the_file_is_the_plan_from_the_text(saved, small_decoder, small_ids):
    checkpoint = open_checkpoint(small_decoder[0])
    direct = make_plan(checkpoint, small_ids, OPTIONS, text_name="random", threads=1)
    loaded = load_observation(saved, checkpoint, PlanOptions(activation="int8_row"))
    again = plan_from(checkpoint, loaded, OPTIONS)
    assert again.to_json() == direct.to_json()
    for name, array in direct.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_what_was_seen_is_what_transformers_computes(observation, small_decoder, small_ids):
    seen: dict[str, list] = {}

    def hook(name):
        def remember(module, inputs, output):
            seen.setdefault(name, []).append((inputs[0].detach(), output.detach()))

        return remember

    model = small_decoder[1]
    hooks = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    with torch.no_grad():
        for window in range(6):
            model(torch.tensor([small_ids[window * 32 : window * 32 + 32]]))
    for handle in hooks:
        handle.remove()
    ranges = observation.calibration.seen_ranges()
    parts = observation.calibration.fitted, observation.calibration.judged
    for layer in range(3):
        name = f"layers.{layer}/mlp/down_proj"
        inputs = torch.cat([x.reshape(-1, x.shape[-1]) for x, _ in seen[f"model.layers.{layer}.mlp.down_proj"]])
        outputs = torch.cat([y for _, y in seen[f"model.layers.{layer}.mlp.down_proj"]])
        assert ranges[name, "dsc.matmul"] == pytest.approx([float(outputs.min()), float(outputs.max())], rel=1e-4)
        peaks = torch.maximum(*(part.sites[name].peaks for part in parts))
        torch.testing.assert_close(peaks, inputs.abs().amax(0), rtol=1e-4, atol=1e-6)
        counts = sum(part.sites[name].exponents for part in parts)
        assert int(counts.sum()) == inputs.numel()
        large = inputs.abs() >= 2.0**-4  # biased exponents of 123 and more
        assert abs(int(counts[123:].sum()) - int(large.sum())) <= 2


def test_what_was_seen_lies_in_what_is_proved(observation, small_decoder):
    """This model's ranges all follow from its weights: norms bound what products read."""
    plan = plan_from(open_checkpoint(small_decoder[0]), observation, OPTIONS)
    rows = [row for row in plan.ops if "seen" in row]
    assert {row["op"] for row in rows} == {"dsc.matmul", "dsc.embedding"} and len(rows) == 3 * 7 + 2
    for row in rows:
        assert row["range_source"] == "proved"
        assert row["range"][0] <= row["seen"][0] < row["seen"][1] <= row["range"][1]


def test_files_that_do_not_fit(saved, small_decoder, small_ids, tmp_path):
    checkpoint = open_checkpoint(small_decoder[0])
    with pytest.raises(InputError, match="was made with --activation int8_row, but f32 is asked for"):
        load_observation(saved, checkpoint, PlanOptions())
    other = tmp_path / "other"
    other.mkdir()
    for file in small_decoder[0].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (other / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match="is the calibration of another model"):
        load_observation(saved, open_checkpoint(other), OPTIONS)
    with pytest.raises(InputError, match="is no calibration, expected a file of"):
        load_observation(small_decoder[0] / "model.safetensors", checkpoint, OPTIONS)
    truncated = tmp_path / "t.safetensors"
    truncated.write_bytes(saved.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_observation(truncated, checkpoint, OPTIONS)
    opened = SafetensorsFile(saved)
    damaged = bytearray(saved.read_bytes())
    tensor = next(t for name, t in opened.tensors.items() if "hessian" in name)
    damaged[tensor.offset : tensor.offset + 4] = np.float32(np.nan).tobytes()
    truncated.write_bytes(damaged)
    with pytest.raises(InputError, match="not finite"):
        load_observation(truncated, checkpoint, OPTIONS)


def test_the_commands(tmp_path, capsys):
    seen, plan = tmp_path / "seen.safetensors", tmp_path / "p.json"
    words = ["precision", "plan", "all-minilm-l6-v2", "--calibration", str(seen), "-o", str(plan)]
    assert main([*words, "--text", "x.txt"]) == 1
    assert "has decided on --text already" in capsys.readouterr().err
    assert main([*words, "--static"]) == 1
    assert "--static reads no --calibration" in capsys.readouterr().err
    assert main([*words, "--max-bytes", "60%"]) == 1
    assert "seen.safetensors" in capsys.readouterr().err
    assert main(["precision", "calibrate", "all-minilm-l6-v2", "-o", str(seen), "--tokens", "3072", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["operations"] > 30 and report["objective"] == "1 - cosine" and not report["cache_peaks"]
    assert main([*words, "--formats", "int8", "--rounding", "rtn", "--max-bytes", "60%", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weight_bytes"] > 0
