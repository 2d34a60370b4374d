"""Compiled programs against the oracle: every `dsc` operation, elementwise, reducing and shape operations.

Each program is compiled once; hypothesis then draws sizes (0, 1, 7, 127, ...) and values. The
reference is the interpretation of the same text, in float64 but for programs about the range of a
type; tolerances stand with the programs.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from dsc_programs import DSC_PROGRAMS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from linalg_programs import LINALG_PROGRAMS
from strategies import Program, examples

from deepseek import reference
from deepseek.compiler import compile_text, parse_module
from deepseek.executable import Executable

EXAMPLES = 25
"""Calls per program, of sizes and values: enough that dropping a mask or swapping an operation is noticed."""


@functools.cache
def _compiled(program: Program) -> Executable:
    compiled = compile_text(program.text, target="cpu", source_name=program.name)
    return Executable(compiled.object, compiled.manifest, threads=2)


@functools.cache
def _parsed(program: Program):
    return parse_module(program.text)


def _check(program: Program, data: st.DataObject) -> None:
    example = data.draw(examples(program))
    module = _parsed(program)[1]
    expected = reference.run(module, *example.inputs, weights=example.weights, mode=program.mode)
    executable = _compiled(program)
    if example.weights:
        executable.bind_weights(example.weights)
    actual = executable(*[np.array(x, order="C") for x in example.inputs])
    assert len(actual) == len(expected)
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        reference.compare(a, b, program.tolerance([*example.inputs, *example.weights.values()], b, index))


# The machine code is deterministic: examples that fail are printed with their seed, and none is
# shrunk for long, because each step runs both sides.
_settings = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("program", DSC_PROGRAMS, ids=str)
@_settings
@given(data=st.data())
def test_dsc(program: Program, data: st.DataObject) -> None:
    _check(program, data)


@pytest.mark.parametrize("program", LINALG_PROGRAMS, ids=str)
@_settings
@given(data=st.data())
def test_linalg(program: Program, data: st.DataObject) -> None:
    _check(program, data)
