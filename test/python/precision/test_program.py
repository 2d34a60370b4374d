"""Modules as differentiable functions: values against transformers, gradients against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepseek import ACG
from deepseek.compiler import lower_text
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.package import describe
from deepseek.precision.torch.program import TorchProgram
from deepseek.precision.weights import values_of


def program_of(folder) -> TorchProgram:
    checkpoint = open_checkpoint(folder)
    text = lower_text(describe(checkpoint, precision="f32", all_logits=True)[1], to_phase="import")
    return TorchProgram(text, {n: torch.from_numpy(values_of(t).copy()) for n, t in checkpoint.tensors.items()})


def arguments(program: TorchProgram, ids: torch.Tensor) -> list[torch.Tensor]:
    b, s = ids.shape
    return [ids, torch.full((b,), s, dtype=torch.int32)] + [
        torch.zeros(b, *shape[1:3], s, shape[4]) for name, shape, _ in program.input_types if name.startswith("cache")
    ]


def test_values_and_gradients_are_those_of_transformers(small_decoder, small_ids):
    folder, model = small_decoder
    program = program_of(folder)
    ids = torch.tensor(small_ids[:64]).reshape(2, 32)
    outputs, expected = {}, {}

    def observe(site, x, y):
        outputs[site.at] = y if y.requires_grad else y.requires_grad_(True)
        return y

    logits = program(arguments(program, ids.int()), observe)[0]
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: expected.__setitem__(name, o))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    ]
    reference = model(ids).logits
    for hook in hooks:
        hook.remove()
    assert (logits - reference).abs().max() <= 1e-4 * reference.abs().max()
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    names = {f"model.{at.replace('/', '.')}" if at != "lm_head" else at: at for at in outputs}
    assert names.keys() == expected.keys()
    ours = torch.autograd.grad((logits * direction).sum(), [outputs[at] for at in names.values()])
    theirs = torch.autograd.grad((reference * direction).sum(), [expected[name] for name in names])
    for name, mine, other in zip(names, ours, theirs):
        assert (mine - other).abs().max() <= 2e-4 * other.abs().max(), name


def test_sites_name_weights_and_sizes(small_decoder):
    sites = program_of(small_decoder[0]).sites()
    found = {site.at: (site.op, site.weight, site.shape) for site in sites}
    assert found["layers.1/mlp/down_proj"] == ("dsc.matmul", "model.layers.1.mlp.down_proj.weight", (64, 96))
    assert found["embed_tokens"] == ("dsc.embedding", "model.embed_tokens.weight", (320, 64))
    assert len(sites) == 3 * 7 + 2


def graph_values(function, *specs):
    """(our values, compiled values) of a traced function on random inputs."""
    graph = ACG.trace(function, *specs)
    rng = np.random.default_rng(0)
    inputs = [
        rng.standard_normal([3 if isinstance(n, str) else n for n in shape]).astype(np.float32) for shape in SHAPES
    ]
    ours = TorchProgram(lower_text(graph.mlir, to_phase="import"), {})([torch.from_numpy(x) for x in inputs])
    compiled = graph.compile()(*inputs)
    return ours, compiled if isinstance(compiled, tuple) else (compiled,)


SHAPES = [("n", 8), ("n", 8)]
FUNCTIONS = {
    "elementwise": lambda x, y: ACG.where(x > y, ACG.exp(x) - 1, ACG.tanh(y) / (1 + ACG.abs(x))),
    "reductions": lambda x, y: ACG.sum(x * y, -1) + ACG.max(x, -1) - ACG.min(y, 1),
    "layout": lambda x, y: ACG.concatenate([x[:, 2:6], y[:, ::2].reshape(-1, 4)], 1).T,
    "softmax": lambda x, y: ACG.softmax(x) @ y.T,
    "layer_norm": lambda x, y: ACG.layer_norm(x, ACG.sum(y, 0), ACG.max(y, 0)),
    "casts": lambda x, y: (x.astype("f16") * 2).astype("f32") + y.astype("i32"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_operations_equal_compiled_code(name):
    ours, compiled = graph_values(FUNCTIONS[name], *(ACG.spec("f32", shape) for shape in SHAPES))
    for mine, other in zip(ours, compiled):
        assert np.allclose(mine.numpy(), other, rtol=1e-5, atol=1e-5)


def test_an_unknown_operation_is_named():
    from deepseek.errors import InputError

    graph = ACG.trace(lambda x: ACG.sort(x), ACG.spec("f32", ("n", 8)))
    with pytest.raises(InputError, match=r"does not know the operation dsc\.sort"):
        TorchProgram(lower_text(graph.mlir, to_phase="import"), {})([torch.zeros(3, 8)])
