"""Reads what `deepseek inspect` shows out of a module's text, without the compiler."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from deepseek.errors import InputError

_OPERATION = re.compile(r'^\s*(?:%[\w$.:#, %-]+ = )?"?([a-z_][a-z_0-9]*\.[a-z_][\w.]*)"?[\s(<]', re.MULTILINE)
_RETURN = re.compile(r"^\s*return\b", re.MULTILINE)
_PHASE = re.compile(r'\bdsc\.phase = "([^"]+)"')
_ENTRY = re.compile(r"\bfunc\.func (?:\w+ )?@main\(")
_ARGUMENT = re.compile(r"(%[\w$.-]+): (.+)", re.DOTALL)
_NAME = re.compile(r'dsc\.(name|weight) = "([^"]*)"')
_DIMS = re.compile(r"dsc\.dims = #dsc\.dims<\[([^\]]*)\]>")


def summarize(text: str, source: str) -> dict[str, Any]:
    """Phase, operation counts and entry arguments of a module. Raises `InputError` if it has no @main."""
    entry = _ENTRY.search(text)
    if entry is None:
        raise InputError(f"{source}: there is no function @main, expected a module of this compiler")
    phase = _PHASE.search(text)
    counts = Counter(_OPERATION.findall(text))
    counts["func.return"] += len(_RETURN.findall(text))
    return {
        "phase": phase[1] if phase else "import",
        "operations": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "arguments": [_describe(argument) for argument in _split(text, entry.end())],
    }


def _split(text: str, begin: int) -> list[str]:
    """The comma-separated items from `begin` to the parenthesis that closes them."""
    items, depth, start, quoted = [], 0, begin, False
    for position in range(begin, len(text)):
        character = text[position]
        if character == '"' and text[position - 1] != "\\":
            quoted = not quoted
        if quoted:
            continue
        if character in "([{<":
            depth += 1
        elif character in ")]}>" and text[position - 1] != "-":
            depth -= 1
        if depth < 0 or (character == "," and depth == 0):
            items.append(text[start:position].strip())
            start = position + 1
        if depth < 0:
            break
    return [item for item in items if item]


def _describe(argument: str) -> dict[str, Any]:
    match = _ARGUMENT.match(argument)
    kind, _, attributes = (match[2] if match else argument).partition(" {")
    name, dims = _NAME.search(attributes), _DIMS.search(attributes)
    return {
        "name": name[2] if name else (match[1] if match else None),
        "kind": "weight" if name and name[1] == "weight" else "input",
        "type": kind.split(" loc(")[0].strip(),
        "dims": re.findall(r'"([^"]*)"', dims[1]) if dims else None,
    }
