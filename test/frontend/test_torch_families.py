"""Small random models of transformers: within 1e-4 of eager at several sizes from one program, and what is raised.

The models are those of bench/coverage_hf.py, which runs all of them.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import deepseek
from deepseek.compiler import lower_text

torch = pytest.importorskip("torch")
pytest.importorskip("deepseek.compiler")

_SPEC = importlib.util.spec_from_file_location(
    "coverage_hf", Path(__file__).resolve().parents[2] / "bench" / "coverage_hf.py"
)
assert _SPEC is not None and _SPEC.loader is not None
coverage = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(coverage)

# What a person counts in one layer; products of queries, keys and values are inside the attention.
# Llama: q, k, v, o, gate, up, down. GPT-2: one product for q, k, v; o, up, down. BERT: q, k, v, o, up, down.
LAYERS = {
    "llama": {"rms_norm": 2, "rope": 2, "attention": 1, "matmul": 7},
    "qwen2": {"rms_norm": 2, "rope": 2, "attention": 1, "matmul": 7},
    "gemma2": {"rms_norm": 4, "rope": 2, "attention": 1, "matmul": 7},
    "mistral": {"rms_norm": 2, "rope": 2, "attention": 1, "matmul": 7},
    "gpt2": {"layer_norm": 2, "attention": 1, "matmul": 4},
    "gpt_neox": {"layer_norm": 2, "rope": 2, "attention": 1, "matmul": 4},
    "gptj": {"layer_norm": 1, "rope": 2, "attention": 1, "matmul": 6},
    "opt": {"layer_norm": 2, "attention": 1, "matmul": 6},
    "bloom": {"layer_norm": 2, "attention": 1, "matmul": 4},
    "phi": {"layer_norm": 1, "rope": 2, "attention": 1, "matmul": 6},
    "bert": {"layer_norm": 2, "attention": 1, "matmul": 6},
    "distilbert": {"layer_norm": 2, "attention": 1, "matmul": 6},
    "vit": {"layer_norm": 2, "attention": 1, "matmul": 6},
}
FLAGS = {
    "llama": "{causal, scale = 2.500000e-01 : f32}",
    "mistral": "{causal, scale = 2.500000e-01 : f32, window = 8 : i64}",
    "gpt2": "{causal, scale = 2.500000e-01 : f32}",
    "bert": "mask",
    "vit": "{scale = 2.500000e-01 : f32}",
}
_LAYER = re.compile(r"(?:layers?|h|block|blocks)\.(\d+)")


def scopes(text: str) -> dict[str, Counter[str]]:
    """Per layer, how often each dsc operation stands in the text of a module."""
    names = dict(re.findall(r'^(#loc\d*) = loc\("([^"]*)"', text, re.M))
    found: dict[str, Counter[str]] = {}
    for operation, where in re.findall(r"= dsc\.(\w+) .*loc\((#loc\d*|\"[^\"]*\")\)$", text, re.M):
        layer = _LAYER.search(names.get(where, where))
        if layer and operation != "dim":
            found.setdefault(layer[1], Counter())[operation] += 1
    return found


def compiled(family: str, **changes: Any) -> tuple[Any, Any, Any]:
    """(compiled module, module, its inputs of a size)"""
    transformers = coverage.tf
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config, arguments, model, make = coverage.FAMILIES[family]
    settings = getattr(transformers, config)(**arguments)
    if attention := changes.pop("attention", None):
        settings._attn_implementation = attention
    module = getattr(transformers, model)(settings).eval()
    return deepseek.compile(module, {**make(2, 13), **changes}), module, make


@pytest.mark.parametrize("family", LAYERS)
def test_agrees_with_eager_and_is_raised(family: str) -> None:
    exe, module, make = compiled(family)
    for batch, length in ((2, 13), (3, 31), (1, 64)):
        inputs = make(batch, length)
        with torch.no_grad():
            want = module(**inputs)
        assert coverage.difference(exe(**inputs), want) <= 1e-4
    if family != "vit":  # a batch of 1 is a case of its own there: export guards on it
        assert exe.cache_info().compiles <= 2
    text = lower_text(exe.graph.mlir, to_phase="import")
    assert scopes(text) == {str(layer): LAYERS[family] for layer in range(2)}
    assert "dsc.not_raised" not in text
    if flags := FLAGS.get(family):
        assert all(flags in line for line in text.splitlines() if " dsc.attention " in line)


@pytest.mark.parametrize(
    ("family", "attention"), [("llama", "eager"), ("gpt2", "eager"), ("bert", "eager"), ("llama", "sdpa")]
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(family: str, attention: str, side: str) -> None:
    mask = torch.ones(2, 13, dtype=torch.long)
    mask[1, : 4 if side == "left" else 13] = 0 if side == "left" else 1
    if side == "right":
        mask[0, 9:] = 0
    exe, module, make = compiled(family, attention=attention, attention_mask=mask)
    inputs = {**make(2, 13), "attention_mask": mask}
    with torch.no_grad():
        want = module(**inputs)
    assert coverage.difference(exe(**inputs), want) <= 1e-4
    text = lower_text(exe.graph.mlir, to_phase="import")
    assert sum(" dsc.attention " in line and " mask " in line for line in text.splitlines()) == 2


def test_one_program_for_twenty_sizes() -> None:
    exe, module, make = compiled("llama")
    for batch in (1, 2, 3, 5):
        for length in (2, 7, 16, 33, 127):
            inputs = make(batch, length)
            with torch.no_grad():
                want = module(**inputs)
            assert coverage.difference(exe(**inputs), want) <= 1e-4
    assert exe.cache_info().compiles == 1
