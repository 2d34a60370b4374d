"""explain(): operations per layer, kernels with costs, memory; numbers against what can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepseek import ACG
from deepseek.errors import InputError
from deepseek.explain import Explanation, _layers

pytest.importorskip("deepseek._mlir")


def program(layers: int) -> ACG.Graph:
    def fn(x: np.ndarray) -> np.ndarray:
        for i in range(layers):
            with ACG.scope(f"layers.{i}"), ACG.scope("mlp"):
                x = ACG.rms_norm(x, ACG.weight(f"n{i}", (64,), np.float32)) @ ACG.weight(f"w{i}", (64, 64), np.float32)
        with ACG.scope("head"):
            return x @ ACG.weight("head", (64, 96), np.float32)

    return ACG.trace(fn, ACG.spec("f32", ("rows", 64)), dims={})


def test_layers_kernels_memory() -> None:
    found = program(3).explain()
    assert isinstance(found, Explanation)
    assert found.layers == [("layers.0 to 2, each", {"rms_norm": 1, "matmul": 1}), ("elsewhere", {"matmul": 1})]
    kernels = {(k["kernel"], k["program"]): k for k in found.kernels}
    assert kernels["rms_norm_0", "main"]["launches"] == 3
    assert kernels["rms_norm_0", "main"]["where"] == ["layers.*/mlp"]
    assert {k["launches"] for k in found.kernels if k["kernel"].startswith("matmul")} == {3, 1}
    assert "rows" in kernels["rms_norm_0", "main"]["operations"]
    assert found.memory["weights"] == 4 * (3 * (64 + 64 * 64) + 64 * 96)
    assert found.memory["arena of a call"] is None
    text = str(found)
    assert "layers.0 to 2, each: 1 rms_norm, 1 matmul" in text and "rms_norm_0" in text
    assert json.loads(json.dumps(found.to_json()))["layers"][1] == {"where": "elsewhere", "operations": {"matmul": 1}}
    page = found._repr_html_()
    assert page.count("<table>") == page.count("</table>") == 3 and "layers.0 to 2, each" in page


def test_numbers_for_sizes() -> None:
    rows = 10
    found = program(2).explain({"rows": rows})
    kernels = [k for k in found.kernels if k["kernel"].startswith("matmul")]
    # Two products of 64 x 64 and one of 64 x 96, two operations a step.
    assert sum(k["operations"] for k in kernels) == 2 * rows * 64 * (64 + 64 + 96)
    # At least the row that leaves a layer and the normalized one; whole cache lines.
    arena = found.memory["arena of a call"]
    assert arena % 64 == 0 and 2 * rows * 64 * 4 <= arena <= 8 * rows * 64 * 4
    with pytest.raises(InputError, match="cannot evaluate"):
        program(2).explain({"columns": 3})


def test_layers_that_differ_and_names_that_do_not_count() -> None:
    text = "\n".join(
        [
            '#loc1 = loc("model/layers.0/attn")',
            '#loc2 = loc("model/layers.1/attn")',
            '#loc3 = loc("encoder/block.3")',
            "    %1 = dsc.matmul %0, %0 : tensor<f32> loc(#loc1)",
            "    %2 = dsc.softmax %1 : tensor<f32> loc(#loc2)",
            "    %3 = dsc.matmul %1, %0 : tensor<f32> loc(#loc2)",
            "    %4 = dsc.matmul %1, %0 : tensor<f32> loc(#loc3)",
            '    %5 = dsc.embedding %1, %0 : tensor<f32> loc("embed")',
            '    %6 = dsc.dim "b" : index loc("embed")',
        ]
    )
    assert _layers(text) == [
        ("model/layers.0", {"matmul": 1}),
        ("model/layers.1", {"softmax": 1, "matmul": 1}),
        ("encoder/block.3", {"matmul": 1}),
        ("elsewhere", {"embedding": 1}),
    ]


def test_torch_modules() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import deepseek

    sizes = {"hidden_size": 64, "intermediate_size": 112, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=3, vocab_size=211)
    module = transformers.LlamaForCausalLM(config).eval()
    exe = deepseek.compile(module, {"input_ids": torch.randint(0, 200, (2, 13)), "use_cache": False})
    found = exe.explain()
    assert found.name == "LlamaForCausalLM" and found.not_raised == []
    assert found.imported["direct"] > 100
    assert found.layers == [
        ("model/layers.0 to 2, each", {"rms_norm": 2, "matmul": 7, "rope": 2, "attention": 1}),
        ("elsewhere", {"embedding": 1, "rms_norm": 1, "matmul": 1}),
    ]

    def unusual(q, k, v):
        return torch.softmax(torch.exp(q @ k.mT), -1) @ v

    q = torch.randn(2, 3, 5, 8)
    found = deepseek.compile(unusual, (q, q, q)).explain()
    assert len(found.not_raised) == 1 and "its scores are not a product of queries and keys" in found.not_raised[0]
    assert "not recognised: attention at" in str(found)
