"""explain(): operations per layer, kernels with costs, memory; numbers against what can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from deepseek import ACG
from deepseek.costs import evaluate
from deepseek.errors import InputError
from deepseek.explain import Explanation, _kernels, _layers
from deepseek.explain_host import arena, kernels_of

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
    assert found.memory["arena of a call"] == "rows * 512"  # two arrays of 64 f32 a row
    assert kernels["rms_norm_0", "main"]["shapes"] == "f32 [rows, 64], f32 [64] -> f32 [rows, 64]"
    assert kernels["rms_norm_0", "main"]["dispatches"] == [0, 2, 4]
    assert all(k["shapes"] and len(k["dispatches"]) == k["launches"] for k in found.kernels)
    matmul = kernels["matmul_0", "main"]
    assert matmul["variants"] == len(matmul["schedules"]) == len(matmul["rows"]) and matmul["rows"][-1] == "any"
    text = str(found)
    assert "layers.0 to 2, each: 1 rms_norm, 1 matmul" in text and "rms_norm_0" in text
    assert "arena of a call: rows * 512 bytes" in text and "f32 [rows, 64], f32 [64] -> f32 [rows, 64]" in text
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


def test_arena_expressions_have_the_values_of_numbers() -> None:
    body = """
  func.func @main(%arg0: memref<?xf32> loc("main")) -> i32 {
    %0 = dsc.dim "b" : index loc(#loc)
    %1 = dsc.dim "s" : index loc(#loc)
    %c12 = arith.constant 12 : index loc(#loc)
    %2 = arith.muli %0, %c12 : index loc(#loc)
    %c64 = arith.constant 64 : index loc(#loc)
    %3 = arith.ceildivsi %2, %c64 : index loc(#loc)
    %4 = arith.muli %3, %c64 : index loc(#loc)
    %5 = arith.muli %0, %1 : index loc(#loc)
    %6 = arith.addi %4, %5 : index loc(#loc)
    %7 = arith.addi %6, %5 : index loc(#loc)
    %arena, %ok = dsc.arena %7 : memref<?xi8> loc(#loc)
  }
"""
    text = arena(body, {})
    assert text == "b * s * 2 + ((b * 12) ^/ 64) * 64"
    for sizes in ({"b": 1, "s": 1}, {"b": 6, "s": 5}, {"b": 16, "s": 7}):
        expected = -(-sizes["b"] * 12 // 64) * 64 + 2 * sizes["b"] * sizes["s"]
        assert arena(body, sizes) == evaluate(text, sizes) == expected
    assert arena(body.replace("arith.ceildivsi", "arith.shli"), {}) is None  # not arithmetic that is known
    assert arena(body.replace("dsc.arena", "dsc.other"), {}) == 0
    with pytest.raises(InputError, match="cannot evaluate 's'"):
        arena(body, {"b": 1})


def test_costs_that_are_unknown_or_differ() -> None:
    launch = {"program": "main", "kernel": "k", "location": "layers.0/k", "variants": 1}
    manifest = {
        "dispatches": [
            launch | {"index": 0, "operations": None, "bytes": "b * 2"},
            launch | {"index": 1, "operations": "b", "bytes": "b * 2"},
            launch | {"index": 2, "operations": "b", "bytes": "b * 2"},
        ]
    }
    assert [(k["launches"], k["operations"], k["bytes"]) for k in _kernels(manifest, {}, {"b": 5})] == [
        (1, None, 10),
        (2, 10, 20),
    ]


def test_launches_with_other_attributes_and_no_operands() -> None:
    kind = '() -> (tensor<?xi64> {dsc.dims = #dsc.dims<["s"]>}) attributes {dsc.kernel, dsc.schedule = #dsc.variant'
    host = f"""
    dsc.launch [@k_rows1](%a) workgroups %c {{concurrent, dispatch = 3 : i64}} : (memref<?xi64>) -> () loc(#loc)
    dsc.launch [@k](%a) workgroups %c {{dispatch = 3 : i64}} : (memref<?xi64>) -> () loc(#loc)
  func.func private @k_rows1{kind}<max_rows = 1, tile = [1]>}} {{
  func.func private @k{kind}<tile = [8]>}} {{
"""
    kernel = kernels_of(host)[3]
    assert kernel.shapes == "-> i64 [s]" and kernel.rows == ["1", "any"]
    assert kernel.schedules == ["max_rows = 1, tile = [1]", "tile = [8]"]


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
    assert found.imported["direct"] > 100 and f"{found.imported['direct']} direct" in found._repr_html_()
    assert all(kernel["shapes"] for kernel in found.kernels)
    names = {"input_ids_0": 2, "input_ids_1": 13}
    assert evaluate(found.memory["arena of a call"], names) == exe.explain(names).memory["arena of a call"] > 0
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
