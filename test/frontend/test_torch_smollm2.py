"""SmolLM2 as transformers' module: the kernels of the checkpoint path, and the same greedy tokens."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

import deepseek
from deepseek.compiler import lower_text
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.families import find_family
from deepseek.model import Model

torch = pytest.importorskip("torch")

NEW_TOKENS = 12
PROMPTS = ["The capital of France is", "def fibonacci(n):"]


@pytest.fixture(scope="module")
def module(smollm2_reference: Any) -> Any:
    start = time.perf_counter()
    exe = deepseek.compile(smollm2_reference, {"input_ids": torch.randint(0, 1000, (2, 17)), "use_cache": False})
    exe.seconds = time.perf_counter() - start
    return exe


def test_greedy_tokens(module: Any, smollm2_reference: Any, smollm2_path: Path) -> None:
    model = Model.from_pretrained(smollm2_path, precision="f32")
    for prompt in PROMPTS:
        expected = model.generate(prompt, max_new_tokens=NEW_TOKENS)
        ids = list(expected.prompt_ids)
        for token in expected.new_ids:
            logits = module(input_ids=torch.tensor([ids]), use_cache=False).logits
            assert logits[0, -1].argmax().item() == token
            ids.append(token)
        with torch.no_grad():
            want = smollm2_reference(input_ids=torch.tensor([ids]), use_cache=False).logits
        got = module(input_ids=torch.tensor([ids]), use_cache=False).logits
        assert (got - want).abs().max().item() <= 1e-3
    assert module.cache_info().compiles == 1


def kernels(text: str) -> dict[str, str]:
    """Text of each kernel without places and with the sizes' names b and s, by name."""
    maps = dict(re.findall(r"^(#map\d*) = (.*)$", text, re.M))
    found = {}
    for match in re.finditer(r"^  func\.func private @(\w+)\(.*?^  } loc\(.*?\)$", text, re.S | re.M):
        body = re.sub(r" loc\((?:[^()\"]|\"[^\"]*\"|\([^()]*\))*\)", "", match[0])
        body = re.sub(r"#map\d*", lambda m: maps[m[0]], body)
        body = body.replace("input_ids_0", "b").replace("input_ids_1", "s").replace(f"@{match[1]}", "@kernel")
        found[match[1]] = re.sub(r" \{(?:max = \d+ : i64, )?(?:min = \d+ : i64)\}", "", body)
    return found


def test_kernels_of_the_checkpoint_path(module: Any, smollm2_path: Path) -> None:
    checkpoint = open_checkpoint(smollm2_path)
    family = find_family(checkpoint)
    graph = family.build_graph(family.read_config(checkpoint), "f32", all_logits=True)
    texts = [lower_text(g.mlir, to_phase="schedule") for g in (graph, module.graph)]
    theirs, ours = map(kernels, texts)
    # The cache, and how weights are stored, are the checkpoint's; it has heads whose pairs lie beside each other.
    compute = ("matmul", "rms_norm")
    assert len(set(theirs.values())) > 20
    assert {k for k in theirs.values() if "dsc.matmul" in k} == {k for k in ours.values() if "dsc.matmul" in k}
    for kind in compute:
        launches = [len(re.findall(rf"dsc\.launch \[@{kind}", text)) for text in texts]
        assert launches[0] == launches[1] > 0
    assert len(re.findall(r"dsc\.launch \[@attention", texts[1])) == 30
