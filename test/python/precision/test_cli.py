"""The commands: plans by shapes, what they show, and how they fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek.cli import main
from deepseek.precision.plan import Plan

# deepseek-llm-7b-base's configuration, from its model card.
SEVEN = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 102400,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of a configuration without weights."""
    folder = tmp_path_factory.mktemp("a 7b shape")
    (folder / "config.json").write_text(json.dumps(SEVEN))
    output = folder / "plan.json"
    assert main(["precision", "plan", str(folder), "--formats", "fp8,bf16", "-o", str(output)]) == 0
    return output


def test_a_plan_from_shapes_alone(seven, capsys):
    """Products in fp8, embedding and head in bf16: 43.9 % less than bf16, counted by hand."""
    assert main(["precision", "explain", str(seven), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    layer = 4 * 4096 * (4096 + 4) + 2 * 11008 * (4096 + 4) + 4096 * (11008 + 4)
    assert plan["totals"]["weight_bytes"] == 30 * layer + 2 * 2 * 102400 * 4096 + 61 * 4096 * 2
    assert plan["totals"]["weight_bytes"] / plan["totals"]["weight_bytes_bf16"] == pytest.approx(1 - 0.439, abs=0.003)
    assert all(row["reason"] for row in plan["ops"]) and len(plan["ops"]) > 300


def test_plans_are_shown_and_compared(seven, tmp_path, capsys):
    page = tmp_path / "a page.html"
    assert main(["precision", "explain", str(seven), "--html", str(page)]) == 0
    assert "fp8_e4m3_row" in page.read_text() and "<svg" in page.read_text()
    assert main(["precision", "diff", str(seven), str(seven)]) == 0
    plan = Plan.load(seven)
    plan.ops[2]["weight"] = "int8_row"
    plan.save(tmp_path / "other.json")
    capsys.readouterr()
    assert main(["precision", "diff", str(seven), str(tmp_path / "other.json"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["count"] == 1 and found["changes"][0]["to"] == "int8_row"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--formats", "fp9"], "format 'fp9' is not known"),
        (["--formats", "q4_1"], "format 'q4_1' is not known"),  # it has minimums, which rounding does not choose
        (["--activation", "f16"], "activation 'f16' is not known"),
        (["--activation", "int4"], "activation 'int4' is not known"),
        (["--target", "z80"], "z80"),
        (["--max-bytes", "half"], "is not understood"),
        (["--max-bytes", "50%"], "keeps no budget"),
        (["--formats", ","], "no format is named"),
    ],
)
def test_plans_that_are_refused(seven, tmp_path, capsys, words, said):
    assert main(["precision", "plan", str(seven.parent), *words, "-o", str(tmp_path / "p.json")]) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_plans_without_weights_run_nothing(seven, capsys):
    assert main(["generate", str(seven.parent), "--precision", str(seven), "--prompt", "x"]) == 1
    assert "model.safetensors" in capsys.readouterr().err


def test_smollm2_with_a_static_plan(tmp_path, capsys):
    """Weights to nearest; bytes as the runtime counts them, and the text goes on."""
    output = tmp_path / "plan.json"
    assert main(["precision", "plan", "smollm2-135m", "--static", "--formats", "int8,bf16", "-o", str(output)]) == 0
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 200)
    logits = tmp_path / "logits.npy"
    capsys.readouterr()
    words = ["precision", "eval", "smollm2-135m", "--plan", str(output), "--text", str(text)]
    assert main([*words, "--dump-logits", str(logits), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["weight_bytes"] == Plan.load(output).totals["weight_bytes"]
    assert found["tokens"] == 1024 and 0 < found["mean_kl"] < 0.01 and found["top1_agreement"] > 0.9
    assert np.load(logits).shape == (1024, 49152)
    text.write_text("too short")
    assert main(words) == 1
    assert "expected at least 1024" in capsys.readouterr().err


def test_an_encoder_is_compared_by_its_vectors(tmp_path, capsys):
    output, text = tmp_path / "plan.json", tmp_path / "text.txt"
    assert main(["precision", "plan", "all-minilm-l6-v2", "--static", "--formats", "int8", "-o", str(output)]) == 0
    text.write_text("\n\n".join(f"The {n} ships came home at dusk, and nobody had been waiting." for n in range(2, 30)))
    words = ["precision", "eval", "all-minilm-l6-v2", "--plan", str(output), "--text", str(text)]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["texts"] == 28 and 1e-7 < found["mean_drift"] < 1e-3
    assert main([*words, "--tokens", "5"]) == 1
    assert "has no logits" in capsys.readouterr().err


def test_help_says_what_there_is():
    child = subprocess.run([sys.executable, "-m", "deepseek", "precision", "--help"], capture_output=True, text=True)
    assert child.returncode == 0 and all(word in child.stdout for word in ("plan", "explain", "diff", "eval"))


def test_a_plan_can_be_seen_in_the_ir(tmp_path):
    """Phase by phase and in one go the object is the same; the decision and its reason stand in between."""
    plan = tmp_path / "plan.json"
    assert main(["precision", "plan", "smollm2-135m", "--static", "--formats", "int8,bf16", "-o", str(plan)]) == 0
    common = ["compile", "smollm2-135m", "--precision", str(plan)]
    assert main([*common, "--to", "precision", "-o", str(tmp_path / "p.mlir")]) == 0
    text = (tmp_path / "p.mlir").read_text()
    assert 'storage = "int8_g576", reason = "static: its place in the model' in text
    assert "dsc.dequantize %" in text and 'format = "int8_g1536"' in text
    assert main([*common, "-o", str(tmp_path / "a.dsc")]) == 0
    resumed = ["compile", str(tmp_path / "p.mlir"), "--checkpoint", "smollm2-135m", "--precision", str(plan)]
    assert main([*resumed, "-o", str(tmp_path / "b.dsc")]) == 0
    from deepseek.artifact import Artifact

    a, b = (Artifact(tmp_path / name) for name in ("a.dsc", "b.dsc"))
    assert a.object == b.object
    assert all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)
