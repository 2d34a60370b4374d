"""Damage done on purpose: bytes, text and JSON trees, drawn from one `random.Random`.

Every function returns a new value and is a pure function of its arguments and the generator's state.
"""

from __future__ import annotations

import copy
import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

# Values at which sizes, counts and offsets overflow, wrap or change sign.
BOUNDARIES = [0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1]
BOUNDARIES += [2**63, -1, -2, -(2**31), -(2**63)]
_FLOATS = [0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), -1.5]
_STRINGS = ["", " ", "\0", "é\u2581", "😀", "a" * 3000, "../../x", "%s{}", "-1", "null"]
_TOKEN = re.compile(r"\s+|\d+\.\d+(?:e[-+]?\d+)?|\d+|[A-Za-z_][\w.$]*|[%@#!^][\w.$]+|->|::|\*\*|[{}%][{}%]|.", re.S)
_NUMBER = re.compile(r"\d")


def integer(draw: random.Random, size: int) -> bytes:
    """A boundary value as `size` little-endian bytes."""
    return (draw.choice(BOUNDARIES) % (1 << 8 * size)).to_bytes(size, "little")


def damage_bytes(
    draw: random.Random, data: bytes, others: Sequence[bytes], fields: Sequence[tuple[int, int]] = ()
) -> bytes:
    """One to four edits. `fields` are (offset, size) of integers in `data` worth a boundary value."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        if not out:
            break
        # Headers decide how the rest is read, so that half of the edits go there.
        at = draw.randrange(min(len(out), 2048) if draw.random() < 0.5 else len(out))
        kind = draw.randrange(10)
        if kind < 4 and fields:
            at, size = draw.choice(fields)
            if at + size <= len(out):
                out[at : at + size] = _near(draw, bytes(out[at : at + size]))
        elif kind == 4:
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 5:
            out[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif kind == 6:
            del out[at:]
        elif kind == 7:
            size = draw.choice((1, 2, 4, 8))
            out[at : at + size] = integer(draw, size)
        elif kind == 8:
            begin = draw.randrange(len(out))
            out[at:at] = out[begin : begin + draw.choice((1, 4, 8, 64, 512))]
        else:
            other = draw.choice(others)
            begin = draw.randrange(max(len(other), 1))
            length = draw.choice((1, 4, 8, 64, 512))
            out[at : at + length] = other[begin : begin + draw.choice((0, length, length))]
    return bytes(out)


def _near(draw: random.Random, field: bytes) -> bytes:
    size = len(field)
    if draw.random() < 0.6:
        return integer(draw, size)
    value = int.from_bytes(field, "little") + draw.choice((-1, 1, -8, 8, -64, 64, 4096))
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def damage_text(draw: random.Random, text: str, vocabulary: Vocabulary, others: Sequence[str]) -> str:
    """One to four edits of tokens or lines. `others` are whole texts to splice."""
    tokens = _TOKEN.findall(text)
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
        places = [index for index, token in enumerate(tokens) if token.strip()]
        if not places:
            break
        at, kind = draw.choice(places), draw.randrange(13)
        if kind == 0:
            del tokens[at : at + draw.choice((1, 1, 2, 5))]
        elif kind == 1:
            tokens[at:at] = tokens[at : at + draw.choice((1, 3, 8))]
        elif kind == 2:
            other = draw.choice(places)
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind in (3, 4, 5):
            numbers = [index for index in places if _NUMBER.match(tokens[index])]
            if numbers:
                tokens[draw.choice(numbers)] = _number(draw)
        elif kind in (6, 7, 8):
            tokens[at] = vocabulary.like(draw, tokens[at])
        elif kind == 9:
            tokens = _TOKEN.findall(_damage_lines(draw, "".join(tokens), others))
        elif kind == 10:
            # Another name of the same text: operands, symbols and dims that exist, but elsewhere.
            same = [token for token in set(tokens) if token[:1] == tokens[at][0] and token != tokens[at]]
            tokens[at] = draw.choice(sorted(same) or [tokens[at]])
        elif kind == 11:
            del tokens[at:]
        else:
            tokens[at] = draw.choice(_STRINGS)
    return "".join(tokens)


def _number(draw: random.Random) -> str:
    if draw.random() < 0.6:
        return str(draw.choice((0, 1, 2, 3, 4, 5, 8, 16, 31, 33, 64, 100, -1, -2)))
    return str(draw.choice(BOUNDARIES + _FLOATS + [2**64, 10**30]))


def _damage_lines(draw: random.Random, text: str, others: Sequence[str]) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[other])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        source = draw.choice(others).splitlines(keepends=True) or [""]
        begin = draw.randrange(len(source))
        lines[at:at] = source[begin : begin + draw.choice((1, 2, 5))]
    return "".join(lines)


class Vocabulary:
    """The distinct tokens of texts, by their first character: letters, digits and sigils stay what they are."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.groups: dict[str, list[str]] = {}
        for token in sorted({token for text in texts for token in _TOKEN.findall(text) if token.strip()}):
            self.groups.setdefault(self._group(token), []).append(token)
        self.all = [token for group in self.groups.values() for token in group]

    def like(self, draw: random.Random, token: str) -> str:
        """Another token, mostly of the same kind."""
        return draw.choice(self.groups.get(self._group(token), self.all) if draw.random() < 0.8 else self.all)

    @staticmethod
    def _group(token: str) -> str:
        return "a" if token[0].isalpha() else "0" if token[0].isdigit() else token[0]


def damage_json(draw: random.Random, value: Any) -> Any:
    """One to three edits of a JSON tree: nodes replaced, removed, duplicated, moved, wrapped."""
    root = [copy.deepcopy(value)]
    for _ in range(draw.choice((1, 1, 2, 3))):
        holders = [(holder, key) for holder in _containers(root) for key in _keys(holder)]
        holder, key = draw.choice(holders)
        kind = draw.randrange(8)
        if kind == 0 and holder is not root:
            del holder[key]
        elif kind == 1:
            other, name = draw.choice(holders)
            if key in _keys(holder) and name in _keys(other):
                holder[key] = copy.deepcopy(other[name])
        elif kind == 2:
            holder[key] = draw.choice(([holder[key]], {"a": holder[key]}, [holder[key]] * 3))
        elif kind == 3 and isinstance(holder, dict):
            holder[draw.choice(_STRINGS)] = holder.pop(key)
        else:
            holder[key] = _leaf(draw, holder[key])
    return root[0]


def _containers(root: list[Any]) -> list[Any]:
    found, pending = [], [root]
    while pending:
        node = pending.pop()
        found.append(node)
        children = node.values() if isinstance(node, dict) else node
        pending += [child for child in children if isinstance(child, (dict, list)) and child]
    return found


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _leaf(draw: random.Random, value: Any) -> Any:
    if isinstance(value, str) and value and draw.random() < 0.4:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice(["", value[at] * 2, *_STRINGS]) + value[at + 1 :]
    if type(value) is int and draw.random() < 0.4:
        return value + draw.choice((-1, 1, 8, -8))
    choices = (*BOUNDARIES, *_FLOATS, *_STRINGS, 10**30, None, True, False, [], {}, [0], {"a": 1}, [[[[0]]]])
    return draw.choice(choices)


def dump_json(draw: random.Random, tree: Any) -> bytes:
    """Text of a tree; sometimes nested too deeply for a reader without a limit, or with a key said twice."""
    text = json.dumps(tree, ensure_ascii=draw.random() < 0.5)
    kind = draw.randrange(60)
    if kind == 0:
        depth = draw.choice((1, 900, 100_000))
        before, colon, after = text.partition(":")
        text = f"{before}{colon}{'[' * depth}0{']' * depth},{after}"
    elif kind == 1:
        text = "[" * 100_000 + text
    elif kind == 2:
        text = text.replace(",", "," + text[1 : text.find(",") + 1], 1)
    return text.encode(errors="surrogatepass")


class Sizes:
    """Cuts a buffer into little-endian fields while remembering where each one was."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.fields: list[tuple[int, int]] = []

    def read(self, size: int) -> int:
        """The unsigned integer at the position, which moves on."""
        self.fields.append((self.position, size))
        (value,) = struct.unpack_from({1: "<B", 2: "<H", 4: "<I", 8: "<Q"}[size], self.data, self.position)
        self.position += size
        return value

    def skip(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.position += count
        return self.data[self.position - count : self.position]


Mutator = Callable[[random.Random], bytes]
