"""PTX text to a list of instructions (PTX ISA 8.x, what LLVM's NVPTX back end writes)."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_ENTRY = re.compile(r"\.(?:visible\s+)?\.?entry\s+([\w$]+)\s*\((.*?)\)(.*?)\{", re.S)
_VARIABLE = re.compile(
    r"(?:\.extern\s+|\.visible\s+)?\.(shared|global|const|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*(\[\d*\])?"
    r"\s*(?:=\s*(.*?))?;",
    re.S,
)


class PtxError(Exception):
    """What a kernel must not do, or what the emulator does not know."""


@dataclass
class Instruction:
    """`guard` is (register, negated) or None, `name` is split at its dots, `line` counts from 1."""

    name: tuple[str, ...]
    operands: list[str]
    guard: tuple[str, bool] | None
    line: int
    text: str


@dataclass
class Variable:
    """Memory that a module or kernel declares; `size` in bytes, 0 if the launch says it."""

    space: str
    align: int
    size: int
    data: bytes | None = None


@dataclass
class Program:
    """One entry point."""

    name: str
    parameters: list[tuple[str, str, int]]  # name, type, bytes
    threads: int
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    registers: dict[str, str] = field(default_factory=dict)  # prefix or name -> class
    variables: dict[str, Variable] = field(default_factory=dict)


_BYTES = {"b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8}
_BYTES |= {"s64": 8, "f64": 8, "s16": 2, "f16": 2}


def parse(text: str) -> Program:
    """The only entry point of `text`. Raises `PtxError`."""
    clean = _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)
    found = re.search(r"\.entry\s+([\w$]+)\s*\((.*?)\)([^{]*)\{", clean, re.S)
    if not found:
        raise PtxError("no entry point")
    parameters = []
    for part in found.group(2).split(","):
        if part.strip():
            match = re.search(r"\.param\s+(.*?)\s([\w$]+)(\[(\d+)\])?\s*$", part.strip(), re.S)
            kind = re.search(r"\.([bus]\d+|f\d+)", match.group(1)).group(1)
            parameters.append((match.group(2), kind, int(match.group(4)) if match.group(4) else _BYTES[kind]))
    threads = re.search(r"\.reqntid\s+(\d+)", found.group(3))
    program = Program(found.group(1), parameters, int(threads.group(1)) if threads else 0)
    _variables(clean[: found.start()], program)
    body_begin = found.end()
    body = clean[body_begin : clean.rindex("}")]
    line = clean.count("\n", 0, body_begin) + 1
    _body(body, line, program)
    return program


def _variables(text: str, program: Program) -> None:
    for space, align, kind, name, extent, data in _VARIABLE.findall(text):
        count = int(extent[1:-1] or 0) if extent else 1
        size = count * _BYTES[kind]
        values = None
        if data:
            numbers = [int(part, 0) for part in re.findall(r"-?\b(?:0x[0-9a-fA-F]+|\d+)\b", data)]
            values = b"".join((number % (1 << 8 * _BYTES[kind])).to_bytes(_BYTES[kind], "little") for number in numbers)
            values = values.ljust(size, b"\0")
        program.variables[name] = Variable(space, int(align or 1), size, values)


def _body(text: str, line: int, program: Program) -> None:
    scopes: list[str] = []
    count = 0
    position = 0
    token = re.compile(r"\s*(?:(\{)|(\})|([\w$]+)\s*:(?!:)|([^;{}]*(?:\{[^}]*\}[^;{}]*)*);)", re.S)
    while position < len(text):
        if not text[position:].strip():
            break
        match = token.match(text, position)
        if not match:
            raise PtxError(f"line {line}: cannot be read: {text[position : position + 60].strip()!r}")
        begin = match.start() + len(match.group()) - len(match.group().lstrip())
        here = line + text.count("\n", 0, begin)
        opened, closed, label, statement = match.groups()
        position = match.end()
        if opened:
            count += 1
            scopes.append(f"@{count}")
        elif closed:
            scopes.pop()
        elif label:
            program.labels[label + "".join(scopes)] = len(program.instructions)
        else:
            _statement(" ".join(statement.split()), here, "".join(scopes), program)


def _statement(text: str, line: int, scope: str, program: Program) -> None:
    if text.startswith(".reg"):
        kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text).groups()
        for name in names.split(","):
            name = name.strip()
            if "<" in name:
                program.registers[name[: name.index("<")]] = kind
            else:
                program.registers[name + scope] = kind
        return
    if text.startswith((".shared", ".local", ".global", ".const")):
        _variables(text + ";", program)
        return
    if text.startswith((".pragma", ".loc", ".file")):
        return
    guard = None
    if text.startswith("@"):
        name, text = text.split(None, 1)
        guard = (_scoped(name.lstrip("@!"), scope, program), name.startswith("@!"))
    name, _, rest = text.partition(" ")
    operands = [_scoped(operand, scope, program) for operand in _split(rest)]
    if name.split(".")[0] == "bra" and scope:
        operands = [operands[0].split("@")[0] + scope]
    program.instructions.append(Instruction(tuple(name.split(".")), operands, guard, line, text))


def _scoped(operand: str, scope: str, program: Program) -> str:
    """Registers and labels of an inline block carry its number."""
    while scope:
        if operand + scope in program.registers:
            return operand + scope
        scope = scope[: scope.rindex("@")]
    return operand


def _split(text: str) -> list[str]:
    parts, depth, current = [], 0, ""
    for character in text:
        depth += character in "{["
        depth -= character in "}]"
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return parts


def immediate(text: str) -> int | None:
    """An integer, or the bits of a float; None if `text` is neither."""
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return None


def float_bits(value: float) -> int:
    """Bits of an f32."""
    return struct.unpack("<I", struct.pack("<f", value))[0]
