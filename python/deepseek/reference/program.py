"""Runs the entry function of a module on numpy arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepseek.errors import InputError
from deepseek.reference import arith, attention, dsc, math, order, structured, tensor  # noqa: F401 (they register)
from deepseek.reference.interpreter import DYNAMIC, Interpreter, Node, operation
from deepseek.reference.numerics import Numerics, element_of

MODES = ("float64", "strict")


def run(
    module: Any,
    *inputs: np.ndarray,
    weights: Mapping[str, np.ndarray] | None = None,
    mode: str = "float64",
    entry: str = "main",
) -> list[np.ndarray]:
    """Executes @main of a module (text, bytecode or parsed) and returns its results.

    `inputs`: the arguments without `dsc.weight`, in order, of exactly the declared element
    types; a cache is passed like any input and is not written. `weights`: raw arrays by the
    names in `dsc.weight`, int8 or uint8 for blocks. `mode`: "float64" (float results are
    float64) or "strict" (results have their declared type).

    Raises InputError when the arguments do not fit, InterpreterError for an operation that is
    not covered or whose promise is broken.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    context = None
    if isinstance(module, (str, bytes)):
        from deepseek.compiler import parse_module

        context, module = parse_module(module)
    interpreter = Interpreter(module, Numerics(strict=mode == "strict"))
    function = interpreter.function(entry)
    block = function.regions[0].blocks[0]
    attributes = _dictionaries(function, "arg_attrs", len(block.arguments))
    arrays = _select(attributes, inputs, weights or {})
    values = []
    for index, (argument, attribute, array) in enumerate(zip(block.arguments, attributes, arrays)):
        values.append(_bind(interpreter, argument.type, attribute, np.asarray(array), _label(attribute, index)))
    with np.errstate(all="ignore"):
        results = interpreter.call(entry, values)
    return_attributes = _dictionaries(function, "res_attrs", len(results))
    results = [_view_unsigned(x) if "dsc.unsigned" in a else x for x, a in zip(results, return_attributes)]
    del context  # a parsed module is valid only as long as its context
    return results


def _dictionaries(function: Any, name: str, count: int) -> list[dict[str, Any]]:
    """The attributes of the arguments or results of a function, one dictionary each."""
    if name not in function.attributes:
        return [{} for _ in range(count)]
    return [{item.name: item.attr for item in entry} for entry in function.attributes[name]]


def _label(attribute: Mapping[str, Any], index: int) -> str:
    for key in ("dsc.weight", "dsc.name"):
        if key in attribute:
            return f"'{attribute[key].value}'"
    return str(index)


def _select(attributes: list[dict], inputs: tuple, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """One array per argument of the function."""
    wanted = sum("dsc.weight" not in a for a in attributes)
    if wanted != len(inputs):
        raise InputError(f"the program takes {wanted} inputs, got {len(inputs)}")
    rest = iter(inputs)
    arrays = []
    for attribute in attributes:
        if "dsc.weight" not in attribute:
            arrays.append(next(rest))
            continue
        name = attribute["dsc.weight"].value
        if name not in weights:
            raise InputError(f"weight '{name}' is missing")
        arrays.append(weights[name])
    return arrays


def _bind(
    interpreter: Interpreter, type_: Any, attribute: Mapping[str, Any], array: np.ndarray, label: str
) -> np.ndarray:
    """Checks an argument against its type, binds its named dimensions, and returns it as it is kept."""
    element = element_of(type_)
    dtype = array.dtype
    if dtype.kind == "u" and ("dsc.unsigned" in attribute or "dsc.weight" in attribute):
        array = array.view(f"i{dtype.itemsize}")
    if array.dtype != element.dtype:
        raise InputError(f"argument {label} must be {element.dtype}, got {dtype}")
    declared = list(type_.shape) if hasattr(type_, "shape") else []
    names = re.findall(r'"([^"]*)"', str(attribute["dsc.dims"])) if "dsc.dims" in attribute else ["_"] * len(declared)
    if array.ndim != len(declared) or len(names) != len(declared):
        raise InputError(f"argument {label} must have rank {len(declared)}, got shape {list(array.shape)}")
    for dim, (size, name, actual) in enumerate(zip(declared, names, array.shape)):
        if size != DYNAMIC and size != actual:
            raise InputError(f"dimension {dim} of argument {label} must be {size}, got {actual}")
        if size == DYNAMIC and name == "_":
            raise InputError(f"dimension {dim} of argument {label} is dynamic but has no name")
        if name != "_" and interpreter.symbols.setdefault(name, actual) != actual:
            raise InputError(
                f"dimension {dim} of argument {label} is '{name}' = {interpreter.symbols[name]}, got {actual}"
            )
    return array.astype(interpreter.numerics.storage(element), copy=False)


def _view_unsigned(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}").reshape(x.shape)


@operation("func.call")
def call(node: Node) -> tuple[np.ndarray, ...]:
    return tuple(node.interpreter.call(node.attribute("callee"), node.operands))


@operation("dsc.dispatch")
def dispatch(node: Node) -> tuple[np.ndarray, ...]:
    """The region computes the results from the inputs; ties and schedules change no value."""
    return tuple(node.run_region(*node.operands))


@operation("dsc.dim")
def dim(node: Node) -> np.ndarray:
    """The size that a name was bound to; its range and divisor are promises of the caller."""
    name = node.attribute("symbol")
    if name not in node.interpreter.symbols:
        raise node.error(f"names '{name}', which no argument of the entry function has")
    size = node.interpreter.symbols[name]
    low, high = node.attribute("min", size), node.attribute("max", size)
    if not low <= size <= high:
        raise InputError(f"'{name}' must be between {low} and {high}, got {size}")
    divisor = node.attribute("divisor", 1)
    if size % divisor:
        raise InputError(f"'{name}' must be a multiple of {divisor}, got {size}")
    return np.asarray(size, np.int64)
