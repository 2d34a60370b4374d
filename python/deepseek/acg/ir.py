"""The recorded program and its text: values with symbolic shapes, printed once everything about dims is known.

Printing is deterministic: values are numbered in program order, index arithmetic is emitted at its first use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import sizes
from .dims import Dims
from .dtypes import DType
from .sizes import Opaque, Size, Symbol
from .source import location, quote

Shape = tuple[Size, ...]


@dataclass(eq=False)
class Value:
    node: Node
    shape: Shape
    dtype: DType


class Node:
    """One operation; `write` prints it. Subclasses add what they need."""

    def __init__(self, inputs: list[Value], results: list[tuple[Shape, DType]]) -> None:
        self.inputs = inputs
        self.location = location()
        self.results = [Value(self, shape, dtype) for shape, dtype in results]

    def write(self, p: Printer) -> None:
        raise NotImplementedError


class Argument(Node):
    """An entry argument; kind is "input" or "weight"."""

    def __init__(self, name: str, kind: str, shape: Shape, dtype: DType, tied: bool = False) -> None:
        super().__init__([], [(shape, dtype)])
        self.name, self.kind, self.tied = name, kind, tied


@dataclass
class Printer:
    dims: Dims
    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    used: dict[str, None] = field(default_factory=dict)
    locations: dict[str, str] = field(default_factory=dict)
    location: str = ""
    _index: dict[object, str] = field(default_factory=dict)
    _count: int = 0

    def enter(self, location: str) -> None:
        """Makes `location` that of the following lines, through an alias printed once at the end."""
        self.location = f"loc({self.locations.setdefault(location, f'#loc{len(self.locations)}')})"

    def line(self, text: str) -> None:
        self.lines.append(f"    {text} {self.location}")

    def fresh(self) -> str:
        self._count += 1
        return f"%{self._count - 1}"

    def assign(self, text: str, value: Value | None = None) -> str:
        """Prints `%n = text` and names `value` by it."""
        name = self.fresh()
        self.line(f"{name} = {text}")
        if value is not None:
            self.names[id(value)] = name
        return name

    def value(self, value: Value) -> str:
        return self.names[id(value)]

    def shape(self, shape: Shape) -> Shape:
        return tuple(self.dims.resolve(size) for size in shape)

    def type(self, value: Value) -> str:
        return self.tensor(value.shape, value.dtype)

    def tensor(self, shape: Shape, dtype: DType) -> str:
        parts = [str(size) if isinstance(size, int) else "?" for size in self.shape(shape)]
        return f"tensor<{'x'.join([*parts, dtype.mlir])}>"

    def empty(self, shape: Shape, dtype: DType) -> str:
        dynamic = [self.index(size) for size in self.shape(shape) if not isinstance(size, int)]
        return self.assign(f"tensor.empty({', '.join(dynamic)}) : {self.tensor(shape, dtype)}")

    def sizes(self, shape: Shape) -> str:
        """A static-or-dynamic list, `4, %a`."""
        return ", ".join(str(s) if isinstance(s, int) else self.index(s) for s in self.shape(shape))

    def index(self, size: Size) -> str:
        """The SSA name of `size` as an index."""
        size = self.dims.resolve(size)
        if size not in self._index:
            self._index[size] = self._index_value(size)
        return self._index[size]

    def _index_value(self, size: Size) -> str:
        if isinstance(size, int):
            return self.assign(f"arith.constant {size} : index")
        total = None
        for mono, c in size.terms.items():
            names = [self._atom(atom) for atom in mono]
            if c != 1 or not mono:
                names.append(self.index(c))
            term = names[0]
            for name in names[1:]:
                term = self.assign(f"arith.muli {term}, {name} : index")
            total = term if total is None else self.assign(f"arith.addi {total}, {term} : index")
        return total

    def _atom(self, atom: Symbol | Opaque) -> str:
        if atom in self._index:
            return self._index[atom]
        if isinstance(atom, Symbol):
            self.used[atom.name] = None
            ranges = [f"min = {atom.low}"] * (atom.low > 0) + [f"max = {atom.high}"] * (atom.high is not None)
            ranges += [f"divisor = {atom.divisor}"] * (atom.divisor > 1)
            text = f"dsc.dim {quote(atom.name)}{' {' + ', '.join(ranges) + '}' if ranges else ''} : index"
        else:
            text = self._opaque(atom)
        self._index[atom] = self.assign(text)
        return self._index[atom]

    def _opaque(self, atom: Opaque) -> str:
        low = min(self.dims.bounds(atom.lhs)[0], self.dims.bounds(atom.rhs)[0])
        lhs, rhs = self.index(atom.lhs), self.index(atom.rhs)
        if atom.op == "%" and low < 0:
            whole = self.assign(f"arith.floordivsi {lhs}, {rhs} : index")
            return f"arith.subi {lhs}, {self.assign(f'arith.muli {whole}, {rhs} : index')} : index"
        op = {"min": "minsi", "max": "maxsi", "%": "remui", "//": "divui" if low >= 0 else "floordivsi"}[atom.op]
        return f"arith.{op} {lhs}, {rhs} : index"


def live(outputs: list[Value], nodes: list[Node]) -> list[Node]:
    """The nodes that the outputs need, in program order."""
    needed: set[int] = set()
    work = [value.node for value in outputs]
    while work:
        node = work.pop()
        if id(node) not in needed:
            needed.add(id(node))
            work.extend(value.node for value in node.inputs)
    return [node for node in nodes if id(node) in needed]


def dims_attribute(shape: Shape) -> str | None:
    """`#dsc.dims<["b", "_"]>`, None if the shape is static or a size is not just a symbol."""
    names = ["_" if isinstance(s, int) else getattr(sizes.as_symbol(s), "name", None) for s in shape]
    if None in names or all(name == "_" for name in names):
        return None
    return f"#dsc.dims<[{', '.join(map(quote, names))}]>"


def print_module(
    dims: Dims,
    arguments: list[Argument],
    nodes: list[Node],
    outputs: list[tuple[str, Value, int | None]],
    signature: str,
) -> str:
    """The module's text. `outputs`: (name, value, index of the argument whose buffer it is or None)."""
    p = Printer(dims)
    heads = []
    for number, argument in enumerate(arguments):
        (value,) = argument.results
        p.names[id(value)] = f"%arg{number}"
        key = "dsc.weight" if argument.kind == "weight" else "dsc.name"
        attributes = [f"{key} = {quote(argument.name)}", *_type_attributes(p, value)]
        heads.append(f"      %arg{number}: {p.type(value)} {{{', '.join(attributes)}}} loc({quote(argument.name)})")
    for node in live([value for _, value, _ in outputs], nodes):
        if not isinstance(node, Argument):
            p.enter(node.location)
            node.write(p)
    results = []
    for name, value, tied in outputs:
        attributes = [f"dsc.name = {quote(name)}", *_type_attributes(p, value)]
        attributes += [f"dsc.tied = {tied} : i64"] if tied is not None else []
        results.append(f"{p.type(value)} {{{', '.join(attributes)}}}")
    arrow = f" -> ({', '.join(results)})" if results else ""
    types = ", ".join(p.type(value) for _, value, _ in outputs)
    returned = ", ".join(p.value(value) for _, value, _ in outputs)
    ret = f'    return {returned} : {types} loc("main")' if outputs else '    return loc("main")'
    body = "\n".join([*p.lines, ret])
    attributes = f" attributes {{dsc.signature = {quote(signature)}}}" if signature else ""
    arguments_text = ("\n" + ",\n".join(heads)) if heads else ""
    aliases = "".join(f"{alias} = {text}\n" for text, alias in p.locations.items())
    function = f'  func.func @main({arguments_text}){arrow} {{\n{body}\n  }} loc("main")'
    return f'module{attributes} {{\n{function}\n}} loc("main")\n{aliases}'


def _type_attributes(p: Printer, value: Value) -> list[str]:
    named = dims_attribute(p.shape(value.shape))
    return [f"dsc.dims = {named}"] * (named is not None) + ["dsc.unsigned"] * (value.dtype.kind == "u")


class Body:
    """The scalar computation inside one linalg.generic, as lines of arith and math."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.captures: list[Size] = []
        self.tensors: list[Value] = []
        self._count = 0

    def emit(self, text: str) -> str:
        self._count += 1
        self.lines.append(f"%b{self._count - 1} = {text}")
        return f"%b{self._count - 1}"

    def capture(self, size: Size) -> str:
        """`size` as an index value inside the body."""
        if size not in self.captures:
            self.captures.append(size)
        return f"%cap{self.captures.index(size)}"

    def tensor(self, value: Value) -> str:
        """A tensor read at computed positions (tensor.extract)."""
        if value not in self.tensors:
            self.tensors.append(value)
        return f"%ten{self.tensors.index(value)}"


Map = tuple["int | str | None", ...]


def _affine(entry: int | str | None) -> str:
    return "0" if entry is None else entry if isinstance(entry, str) else f"d{entry}"


class Generic(Node):
    """linalg.generic. A map lists, per operand dim, the loop that indexes it, None for constant 0, or an affine
    expression of loops as text ("d2 * 2 + d5").

    `starts` are the scalar texts that the results begin from (reductions), e.g. "0.0 : f32"; None for elementwise.
    """

    def __init__(
        self,
        inputs: list[Value],
        maps: list[Map],
        results: list[tuple[Shape, DType]],
        result_map: Map,
        loops: int,
        body: Body,
        yields: list[str],
        starts: list[str] | None = None,
    ) -> None:
        super().__init__([*inputs, *body.tensors], results)
        self.operands, self.maps, self.result_map, self.loops = inputs, maps, result_map, loops
        self.body, self.yields, self.starts = body, yields, starts
        # The axes in order if this is just a transpose; a matmul then reads the operand itself.
        self.transposed: tuple[int, ...] | None = None

    def write(self, p: Printer) -> None:
        outs = []
        for number, result in enumerate(self.results):
            out = p.empty(result.shape, result.dtype)
            if self.starts is not None:
                start = p.assign(f"arith.constant {self.starts[number]}")
                kind = p.type(result)
                out = p.assign(f"linalg.fill ins({start} : {result.dtype.mlir}) outs({out} : {kind}) -> {kind}")
            outs.append(out)
        body = self._body(p)
        loops = ", ".join(f"d{i}" for i in range(self.loops))
        maps = [
            f"affine_map<({loops}) -> ({', '.join(map(_affine, m))})>"
            for m in [*self.maps, *[self.result_map] * len(outs)]
        ]
        kinds = ['"parallel"' if i in self.result_map else '"reduction"' for i in range(self.loops)]
        ins = f" ins({', '.join(map(p.value, self.operands))} : {', '.join(map(p.type, self.operands))})"
        types = [p.type(result) for result in self.results]
        block = [f"%in{i}: {v.dtype.mlir} {p.location}" for i, v in enumerate(self.operands)]
        block += [f"%out{i}: {v.dtype.mlir} {p.location}" for i, v in enumerate(self.results)]
        name = p.fresh()
        head = f"{name}{f':{len(types)}' if len(types) > 1 else ''} = linalg.generic "
        head += f"{{indexing_maps = [{', '.join(maps)}], iterator_types = [{', '.join(kinds)}]}}"
        head += f"{ins if self.operands else ''} outs({', '.join(outs)} : {', '.join(types)}) {{"
        p.lines += [f"    {head}", f"    ^bb0({', '.join(block)}):"]
        p.lines += [f"      {line} {p.location}" for line in body]
        p.line("} -> " + (types[0] if len(types) == 1 else f"({', '.join(types)})"))
        for i, result in enumerate(self.results):
            p.names[id(result)] = name if len(types) == 1 else f"{name}#{i}"

    def _body(self, p: Printer) -> list[str]:
        """The lines with captured sizes and tensors named; static sizes become constants inside."""
        inside, names = [], {}
        for number, size in enumerate(self.body.captures):
            resolved = p.dims.resolve(size)
            if isinstance(resolved, int):
                inside.append(f"%cap{number} = arith.constant {resolved} : index")
            else:
                names[f"%cap{number}"] = p.index(resolved)
        for number, value in enumerate(self.body.tensors):
            names[f"%ten{number}"] = p.value(value)
            names[f"!ten{number}"] = p.type(value)
        types = ", ".join(result.dtype.mlir for result in self.results)
        lines = [*inside, *self.body.lines, f"linalg.yield {', '.join(self.yields)} : {types}"]
        return [re.sub(r"[%!](?:cap|ten)\d+", lambda m: names.get(m[0], m[0]), line) for line in lines]


class Op(Node):
    """An op printed from a template: {0}, {1}.. are operand names, {t0}.. operand types, {r} the result type.

    `in_place`: the operand whose buffer the result is (kv_append).
    """

    def __init__(
        self,
        template: str,
        inputs: list[Value],
        shape: Shape,
        dtype: DType,
        in_place: int | None = None,
        **lists: Shape,
    ) -> None:
        super().__init__(inputs, [(shape, dtype)])
        self.template, self.in_place, self.lists = template, in_place, lists

    def write(self, p: Printer) -> None:
        fields = {f"t{i}": p.type(value) for i, value in enumerate(self.inputs)}
        fields |= {name: p.sizes(shape) for name, shape in self.lists.items()}
        (result,) = self.results
        names = [p.value(value) for value in self.inputs]
        p.assign(self.template.format(*names, r=p.type(result), **fields), result)
