"""PTX text to functions of decoded statements: registers numbered, scopes and labels resolved.

Grammar: PTX ISA, chapters 'Syntax' and 'State Spaces, Types, and Variables', as far as LLVM's NVPTX back end writes it.
"""

from __future__ import annotations

import re
import struct

import numpy as np

from .errors import PtxError
from .syntax import BYTES, Function, Imm, Instruction, Mem, Module, Neg, Pair, Param, Reg, Sym, Variable, Vec

TOKEN = re.compile(
    r"""(?P<ws>[ \t\r\f]+)|(?P<nl>\n)|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<string>"[^"\n]*")
    |(?P<number>0[fF][0-9a-fA-F]{8}(?![\w])|0[dD][0-9a-fA-F]{16}(?![\w])|0[xX][0-9a-fA-F]+U?|\d+\.\d*(?:[eE][-+]?\d+)?|\d+U?)
    |(?P<name>[A-Za-z_.$%][\w$.%]*(?:::[\w.]+)*)|(?P<punct>[-+!@{}()\[\],;:<>=|*~&/])""",
    re.X | re.S,
)
SKIPPED = re.compile(r"^[ \t]*\.(loc|file)\b[^\n]*$", re.M)


class Scope:
    def __init__(self, parent: Scope | None) -> None:
        self.parent = parent
        self.registers: dict[str, Reg] = {}
        self.labels: dict[str, int] = {}
        self.branch_lists: dict[str, list[str]] = {}

    def find(self, table: str, name: str) -> object | None:
        scope: Scope | None = self
        while scope is not None:
            found = getattr(scope, table).get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None


class Parser:
    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        text = SKIPPED.sub("", text)
        self.tokens: list[tuple[str, str, int]] = []
        line, at = 1, 0
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                raise PtxError(f"unknown character {text[at]!r}", line, self.lines[line - 1].strip())
            kind = match.lastgroup
            if kind not in ("ws", "nl", "comment"):
                self.tokens.append((kind, match.group(), line))
            line += match.group().count("\n")
            at = match.end()
        self.tokens.append(("end", "", line))
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)][1]

    def take(self, expected: str | None = None) -> str:
        kind, text, line = self.tokens[self.at]
        if kind == "end" or (expected is not None and text != expected):
            raise PtxError(f"expected {expected or 'a token'}, got {text!r}", line, self.source(line))
        self.at += 1
        return text

    def source(self, line: int) -> str:
        return re.sub(r"\s+", " ", self.lines[line - 1]).strip()

    def accept(self, text: str) -> bool:
        if self.peek() != text:
            return False
        self.at += 1
        return True

    # -- module ---------------------------------------------------------------------------------------------------

    def module(self) -> Module:
        module = Module({}, {}, "")
        while self.tokens[self.at][0] != "end":
            word = self.peek()
            if word in (".version", ".address_size"):
                self.at += 2
            elif word == ".target":
                self.take()
                module.target = self.take()
                while self.accept(","):
                    self.take()
            elif word == ".section":
                while self.take() != "}":
                    pass
            elif word in (".visible", ".weak", ".common", ";"):
                self.take()
            elif word in (".entry", ".func"):
                self.function(module)
            elif word in (".extern", ".global", ".const", ".shared", ".local"):
                extern = self.accept(".extern")
                if self.peek() == ".func":
                    self.function(module)
                    continue
                for variable in self.variable(extern):
                    module.variables[variable.name] = variable
            else:
                line = self.tokens[self.at][2]
                raise PtxError(f"unknown directive {word!r}", line, self.source(line))
        return module

    def variable(self, extern: bool = False) -> list[Variable]:
        space, align, count, kind = self.take()[1:], 1, 1, ""
        while self.peek().startswith("."):
            word = self.take()
            if word == ".align":
                align = int(self.take(), 0)
            elif word in (".v2", ".v4"):
                count = int(word[2:])
            elif word[1:] in BYTES:
                kind = word[1:]
            elif word not in (".managed",) and not word.startswith(".attribute"):
                raise PtxError(f"unknown word {word!r} in a variable", self.tokens[self.at][2])
        found = []
        while True:
            name, total = self.take(), count
            while self.accept("["):
                total *= 0 if self.peek() == "]" else int(self.take().rstrip("U"), 0)
                self.take("]")
            item = BYTES[kind]
            variable = Variable(name, space, total * item, max(align, item), extern=extern)
            if self.accept("="):
                self.initialiser(variable, kind)
            found.append(variable)
            if not self.accept(","):
                break
        self.take(";")
        return found

    def initialiser(self, variable: Variable, kind: str) -> None:
        out = bytearray()
        item = BYTES[kind]
        depth = 0
        while True:
            if self.accept("{"):
                depth += 1
            elif self.accept("}"):
                depth -= 1
            elif not self.accept(","):
                value = self.operand(None)
                if isinstance(value, Imm):
                    out += encode(value, kind)
                else:
                    name, addend = (value.base.name, value.offset) if isinstance(value, Mem) else (value.name, 0)
                    variable.refs.append((len(out), name, addend))
                    out += bytes(item)
            if depth == 0:
                break
        variable.init = bytes(out)

    # -- functions ------------------------------------------------------------------------------------------------

    def function(self, module: Module) -> None:
        entry = self.take() == ".entry"
        returns = self.params() if self.peek() == "(" else []
        function = Function(self.take(), entry, self.params() if self.peek() == "(" else [])
        function.directives["returns"] = tuple(p.size for p in returns)
        while self.peek() not in ("{", ";"):
            word = self.take()
            values = []
            while self.tokens[self.at][0] == "number" or self.peek() in (",", "-"):
                if (value := self.take()) not in (",", "-"):
                    values.append(int(value.rstrip("U"), 0))
            function.directives[word[1:]] = tuple(values)
            if word == ".pragma":
                self.take()
        module.functions[function.name] = function
        if self.accept(";"):
            return
        self.function_now, self.pending = function, []
        self.take("{")
        self.block(Scope(None))
        for index, scope, name in self.pending:
            self.resolve(function.code[index], scope, name)
        function.leaders.add(0)

    def params(self) -> list[Param]:
        self.take("(")
        params: list[Param] = []
        offset = 0
        while not self.accept(")"):
            if self.accept(","):
                continue
            self.take()  # .param or .reg
            align, kind = 0, ""
            while self.peek().startswith("."):
                word = self.take()
                if word == ".align":
                    value = int(self.take(), 0)
                    align = value if not kind or kind == "b8" else align
                elif word[1:] in BYTES and not kind:
                    kind = word[1:]
                elif word == ".ptr":
                    while self.peek().startswith("."):
                        if self.take() == ".align":
                            self.take()
            name, size = self.take(), BYTES[kind]
            if self.accept("["):
                size *= int(self.take(), 0)
                self.take("]")
            align = max(align, BYTES[kind])
            offset = -(-offset // align) * align
            params.append(Param(name, kind, size, align, offset))
            offset += size
        return params

    def block(self, scope: Scope) -> None:
        function = self.function_now
        while not self.accept("}"):
            word = self.peek()
            if self.accept("{"):
                self.block(Scope(scope))
            elif self.accept(";"):
                continue
            elif word == ".reg":
                self.registers(scope)
            elif word in (".local", ".shared", ".global", ".const"):
                for variable in self.variable():
                    function.variables[variable.name] = variable
            elif word in (".pragma", ".param"):
                while self.take() != ";":
                    pass
            elif self.peek(1) == ":":
                self.at += 2
                if self.peek() in (".branchtargets", ".calltargets"):
                    self.take()
                    names = [self.take()]
                    while self.accept(","):
                        names.append(self.take())
                    self.take(";")
                    scope.branch_lists[word] = names
                    continue
                if self.peek() == ".callprototype":
                    while self.take() != ";":
                        pass
                    continue
                scope.labels[word] = len(function.code)
                function.leaders.add(len(function.code))
            else:
                self.instruction(scope)

    def registers(self, scope: Scope) -> None:
        self.take()
        kind = self.take()[1:]
        while True:
            name = self.take()
            names = [name]
            if self.accept("<"):
                names = [f"{name}{i}" for i in range(int(self.take(), 0))]
                self.take(">")
            for each in names:
                register = Reg(len(self.function_now.registers), kind, each)
                self.function_now.registers.append(register)
                scope.registers[each] = register
            if not self.accept(","):
                break
        self.take(";")

    def instruction(self, scope: Scope) -> None:
        guard = None
        line = self.tokens[self.at][2]
        if self.accept("@"):
            negated = self.accept("!")
            register = scope.find("registers", self.take())
            guard = (register, negated)
        op, *mods = self.take().split(".")
        operands = []
        while not self.accept(";"):
            if not self.accept(","):
                operands.append(self.operand(scope))
        text = self.source(line)
        instruction = Instruction(op, tuple(mods), operands, guard, line, text)
        if op in ("bra", "brx"):
            self.pending.append((len(self.function_now.code), scope, operands[-1].name))
        self.function_now.code.append(instruction)

    def resolve(self, instruction: Instruction, scope: Scope, name: str) -> None:
        names = scope.find("branch_lists", name) if instruction.op == "brx" else [name]
        targets = [scope.find("labels", each) for each in names or [name]]
        if None in targets:
            raise PtxError(f"unknown label {name}", instruction.line, instruction.text)
        instruction.target, instruction.targets = targets[0], tuple(targets)

    # -- operands -------------------------------------------------------------------------------------------------

    def operand(self, scope: Scope | None) -> object:
        value = self.primary(scope)
        if self.accept("|"):
            return Pair(value, self.primary(scope))
        if self.peek() in ("+", "-") and isinstance(value, (Reg, Sym)):
            return Mem(value, self.offset())
        return value

    def offset(self) -> int:
        total = 0
        while self.peek() in ("+", "-"):
            sign = -1 if self.take() == "-" else 1
            sign = -sign if self.accept("-") else sign
            total += sign * int(self.take().rstrip("U"), 0)
        return total

    def primary(self, scope: Scope | None) -> object:
        kind, text, line = self.tokens[self.at]
        if text == "!":
            self.at += 1
            return Neg(self.primary(scope))
        if text == "-":
            self.at += 1
            value = self.primary(scope)
            return Imm(-value.value, None)
        if text in ("{", "("):
            self.at += 1
            items = []
            while not self.accept("}" if text == "{" else ")"):
                if not self.accept(","):
                    items.append(self.operand(scope))
            return Vec(tuple(items))
        if text == "[":
            self.at += 1
            base, offset = self.primary(scope), self.offset()
            rest = []
            while not self.accept("]"):
                if not self.accept(","):
                    rest.append(self.operand(scope))
            return Mem(base, offset, tuple(rest))
        self.at += 1
        if kind == "number":
            return number(text)
        if kind != "name":
            raise PtxError(f"unexpected {text!r}", line, self.source(line))
        if scope is None and self.peek() == "(" and text == "generic":
            self.take()
            name, addend = Sym(self.take()), self.offset()
            self.take(")")
            return Mem(name, addend)
        register = scope.find("registers", text) if scope else None
        return register if register is not None else Sym(text)


def number(text: str) -> Imm:
    if text[:2] in ("0f", "0F"):
        bits = int(text[2:], 16)
        return Imm(float(np.uint32(bits).view(np.float32)), bits)
    if text[:2] in ("0d", "0D"):
        bits = int(text[2:], 16)
        return Imm(struct.unpack("<d", bits.to_bytes(8, "little"))[0], bits)
    if "." in text or (("e" in text or "E" in text) and not text.startswith("0x")):
        return Imm(float(text), None)
    return Imm(int(text.rstrip("U"), 0), None)


def encode(value: Imm, kind: str) -> bytes:
    """The bytes of a constant of type `kind`."""
    size = BYTES[kind]
    if value.bits is not None:
        return value.bits.to_bytes(size, "little")
    if kind in ("f32", "f64", "f16"):
        return np.array(value.value, {"f32": np.float32, "f64": np.float64, "f16": np.float16}[kind]).tobytes()
    return (int(value.value) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
