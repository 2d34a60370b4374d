"""Every operation and form of `linalg` on the emulated GPUs, against the oracle.

Programs, values and tolerances are those of test/python, the reference is float64 there. Sizes are drawn.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from dsc_programs import DSC_PROGRAMS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from linalg_programs import LINALG_PROGRAMS
from strategies import examples

from deepseek import reference
from deepseek.compiler import compile_text, parse_module
from deepseek.executable import Executable
from gpu.virtual_gpu import VirtualGpu

EXAMPLES = 1
PROGRAMS = {program.name: program for program in (*DSC_PROGRAMS, *LINALG_PROGRAMS)}


# Kernels of the two targets differ in products and attention only.
CASES = [(name, "sm_80") for name in PROGRAMS]
CASES += [(name, "sm_90a") for name in PROGRAMS if "matmul" in name or "attention" in name]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_program(gpu: VirtualGpu, name: str, target: str) -> None:
    program = PROGRAMS[name]
    gpu.set(capability=target[3:5])
    code = compile_text(program.text, target=target, source_name=name)
    executable = Executable(code.object, code.manifest)
    context, module = parse_module(program.text)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        example = data.draw(examples(program))
        expected = reference.run(module, *example.inputs, weights=example.weights, mode=program.mode)
        if example.weights:
            executable.bind_weights(example.weights)
        actual = executable(*[np.array(x, order="C") for x in example.inputs])
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            reference.compare(a, b, program.tolerance([*example.inputs, *example.weights.values()], b, index))

    check()


@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_attention_ignores_what_lies_behind_the_length(gpu: VirtualGpu, target: str) -> None:
    program = PROGRAMS["attention-cache-bf16-causal-4/2x32"]
    gpu.set(capability=target[3:5])
    code = compile_text(program.text, target=target)
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 17, 4, 32)).astype(ml_dtypes.bfloat16)
    cache = rng.standard_normal((2, 2, 2, 17, 32)).astype(ml_dtypes.bfloat16)
    cache[0, :, :, 9:] = np.nan
    (result,) = Executable(code.object, code.manifest)(query, cache, np.array([9, 17], np.int32))
    assert np.isfinite(result.astype(np.float32)).all()
