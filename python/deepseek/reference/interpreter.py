"""Walks the operations of a module and keeps their values as numpy arrays.

Handlers register by operation name with `@operation("dsc.softmax")`, take a `Node` and return
the result array (a tuple for several results). Scalars are arrays of rank 0. Inside the body of
a structured operation the same handlers run once on whole index spaces: a scalar is then an
array that broadcasts against the space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepseek.errors import DeepseekError
from deepseek.reference.numerics import Element, Numerics, element_of, round_to, wrap

DYNAMIC = -(2**63)
"""MLIR's ShapedType::kDynamic."""


class InterpreterError(DeepseekError):
    """An operation that the oracle does not know, or whose promise is broken by its operands."""


HANDLERS: dict[str, Callable[[Node], Any]] = {}


def operation(*names: str) -> Callable:
    """Registers a handler for the operations of these names."""

    def register(handler: Callable[[Node], Any]) -> Callable[[Node], Any]:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


@dataclass
class Node:
    """One operation being executed: its operand arrays, attributes and result types."""

    interpreter: Interpreter
    op: Any
    values: dict = field(repr=False)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def numerics(self) -> Numerics:
        return self.interpreter.numerics

    @property
    def operands(self) -> list[np.ndarray]:
        return [self.values[operand] for operand in self.op.operands]

    def operand_element(self, index: int) -> Element:
        return element_of(self.op.operands[index].type)

    def result_element(self, index: int = 0) -> Element:
        return element_of(self.op.results[index].type)

    def segments(self) -> list[list[np.ndarray]]:
        """The operands grouped as `operandSegmentSizes` says."""
        rest = iter(self.operands)
        return [[next(rest) for _ in range(size)] for size in self.attribute("operandSegmentSizes")]

    def has(self, name: str) -> bool:
        return name in self.op.attributes

    def attribute(self, name: str, default: Any = None) -> Any:
        """The Python value of an attribute: number, string or list where it has one."""
        if not self.has(name):
            if default is None:
                raise self.error(f"needs the attribute '{name}'")
            return default
        attribute = self.op.attributes[name]
        return attribute.value if hasattr(attribute, "value") else list(attribute)

    def result(self, x: np.ndarray, index: int = 0) -> np.ndarray:
        """Rounds or wraps a computed array to the type of a result."""
        return self.numerics.result(x, self.result_element(index))

    def check_shape(self, x: np.ndarray, index: int = 0) -> np.ndarray:
        """The array, if its shape fits the declared type of the result; an error else."""
        declared = list(self.op.results[index].type.shape)
        if len(declared) != x.ndim or any(d not in (DYNAMIC, n) for d, n in zip(declared, x.shape)):
            raise self.error(f"result {index} has shape {list(x.shape)}, declared {self.op.results[index].type}")
        return x

    def run_region(self, *arguments: np.ndarray, region: int = 0) -> list[np.ndarray]:
        """Executes the single block of a region and returns what it yields."""
        return self.interpreter.run_block(self.op.regions[region].blocks[0], arguments, self.values)

    def error(self, message: str) -> InterpreterError:
        return InterpreterError(f"{self.op.location}: '{self.name}' {message}")


@dataclass
class Interpreter:
    """Executes the functions of one module.

    `symbols`: sizes of the named dimensions, bound from the arguments of the entry function.
    `grids`: per loop of the structured operation being executed, the indices of its space.
    """

    module: Any
    numerics: Numerics
    symbols: dict[str, int] = field(default_factory=dict)
    grids: list[np.ndarray] = field(default_factory=list)

    def function(self, name: str) -> Any:
        """The operation of the `func.func` of a name."""
        for op in self.module.body.operations:
            op = op.operation
            if op.name == "func.func" and op.attributes["sym_name"].value == name:
                return op
        raise InterpreterError(f"the module has no function @{name}")

    def call(self, name: str, arguments: list[np.ndarray]) -> list[np.ndarray]:
        return self.run_block(self.function(name).regions[0].blocks[0], arguments, {}, free=True)

    def run_block(
        self, block: Any, arguments: Iterable[np.ndarray], values: dict, free: bool = False
    ) -> list[np.ndarray]:
        """Binds the block's arguments, executes it and returns the operands of its terminator.

        `values` maps SSA values to arrays and is added to. With `free`, values of the block are
        dropped after their last use, which keeps whole models in memory.
        """
        values.update(zip(block.arguments, arguments))
        operations = [op.operation for op in block.operations]
        dead = _last_uses(operations, block) if free else {}
        for position, op in enumerate(operations[:-1]):
            results = self.execute(op, values)
            values.update(zip(op.results, results))
            for value in dead.get(position, ()):
                values.pop(value, None)
        return [values[operand] for operand in operations[-1].operands]

    def execute(self, op: Any, values: dict) -> tuple[np.ndarray, ...]:
        """The results of one operation."""
        node = Node(self, op, values)
        handler = HANDLERS.get(op.name)
        if handler is None:
            raise node.error("is not known to the reference interpreter")
        try:
            results = handler(node)
        except DeepseekError:
            raise
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise node.error(f"cannot be executed: {error}") from error
        return results if isinstance(results, tuple) else (results,)


def _last_uses(operations: list, block: Any) -> dict[int, list]:
    """Position of an operation: the values of this block whose last use (or definition) it is."""
    own = {result for op in operations for result in op.results} | set(block.arguments)
    last: dict[Any, int] = {}
    for position, op in enumerate(operations):
        for value in (*_used_values(op), *op.results):
            if value in own:
                last[value] = position
    dead: dict[int, list] = {}
    for value, position in last.items():
        dead.setdefault(position, []).append(value)
    return dead


def _used_values(op: Any) -> Iterable:
    yield from op.operands
    for region in op.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _used_values(inner.operation)


_HEX = re.compile(r'dense<"0x([0-9A-Fa-f]*)">')
_NUMBER = re.compile(r"0x[0-9A-Fa-f]+|true|false|[-+0-9.eE]+")


def constant_array(attribute: Any) -> np.ndarray:
    """The array of a number or dense attribute, in the exact numpy type of its elements.

    The bindings have no buffer for bf16 and odd integer widths: those are read from the text.
    """
    element = element_of(attribute.type)
    if not hasattr(attribute.type, "shape"):
        text = str(attribute)
        if element.is_float and text.startswith("0x"):
            return _from_bits([int(text.split(" ")[0], 16)], element).reshape(())
        value = np.asarray(attribute.value if element.is_float else int(attribute.value))
        return round_to(value, element) if element.is_float else wrap(value, element)
    shape = list(attribute.type.shape)
    if element.name != "bf16" and (element.is_float or element.width in (1, 8, 16, 32, 64)):
        return np.array(attribute).reshape(shape).astype(element.dtype, copy=False)
    text = str(attribute)
    if match := _HEX.match(text):
        values = np.frombuffer(bytes.fromhex(match[1]), element.dtype)
    else:
        tokens = _NUMBER.findall(text[len("dense<") : text.rindex("> : ")])
        if element.is_float:
            values = np.concatenate([_literal(t, element) for t in tokens] or [np.empty(0, element.dtype)])
        else:
            values = np.array([int(t) for t in tokens], element.dtype)
    return np.broadcast_to(values, shape) if values.size == 1 else values.reshape(shape)


def _literal(token: str, element: Element) -> np.ndarray:
    if token.startswith("0x"):
        return _from_bits([int(token, 16)], element)
    return round_to(np.array([float(token)]), element)


def _from_bits(bits: list[int], element: Element) -> np.ndarray:
    return np.array(bits, f"uint{8 * element.dtype.itemsize}").view(element.dtype)
