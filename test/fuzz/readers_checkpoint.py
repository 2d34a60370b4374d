"""What reads checkpoints: GGUF files, Hugging Face folders, tokenizers, chat templates."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import seeds_checkpoint as seeds
from harness import Reader
from mutate import BOUNDARIES, Sizes, Vocabulary, damage_bytes, damage_json, damage_text, dump_json, integer

from deepseek.errors import DeepseekError

_TEXTS = ["", "abc cab", " the abcing!  </s> é😀\u2581\n\0"]
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # GGUF value type: bytes


def use(path: Path) -> None:
    """Everything that happens to a checkpoint before it is compiled; raises the first error at the end."""
    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.frontend.checkpoint.families import find_family

    checkpoint = open_checkpoint(path)
    for array in checkpoint.arrays().values():
        array.view("u1").sum() if array.size and array.ndim else array.sum()
    errors: list[DeepseekError] = []
    try:
        data = checkpoint.tokenizer_data()
        if data is not None:
            use_tokenizer(data)
    except DeepseekError as error:
        errors.append(error)
    family = find_family(checkpoint)
    family.build_graph(family.read_config(checkpoint))
    checkpoint.release()
    if errors:
        raise errors[0]


def use_tokenizer(data: Any) -> None:
    """Encodes and decodes texts, and renders a conversation."""
    from deepseek.frontend.checkpoint.tokenizer import Tokenizer, TokenizerData

    assert TokenizerData.from_json(data.to_json()) == data
    tokenizer = Tokenizer(data)
    tokenizer.decode(range(min(len(tokenizer), 300)))
    for text in _TEXTS:
        ids = tokenizer.encode(text)
        assert all(0 <= token < len(tokenizer) for token in ids), (text, ids)
        tokenizer.decode(ids, skip_special=False)
    if data.chat_template is not None:
        tokenizer.chat([{"role": "system", "content": "ab"}, {"role": "user", "content": "c\u2581"}])


class GGUF(Reader):
    """A GGUF file, opened and traced but not compiled."""

    name = "gguf"
    summary = "GGUF files: container, tokenizer, configuration, graph"

    def prepare(self, folder: Path) -> None:
        kinds = [("llama", "Q4_0", "gpt2"), ("llama", "F16", "llama"), ("qwen2", "Q8_0", "gpt2")]
        self.files = [seeds.gguf_file(folder, *kind) for kind in kinds]
        self.layouts = [_Layout(data) for data in self.files]

    def seeds(self) -> list[bytes]:
        return self.files

    def damaged(self, draw: random.Random) -> bytes:
        index = draw.randrange(len(self.files))
        layout = self.layouts[index]
        if draw.random() < 0.4:
            return damage_bytes(draw, self.files[index], self.files, layout.fields)
        return layout.damaged(draw, draw.choice(self.layouts))

    def read(self, data: bytes, folder: Path) -> None:
        path = folder / "model.gguf"
        path.write_bytes(data)
        use(path)


class _Layout:
    """A GGUF file cut into entries that can be moved, changed and written again with right counts."""

    def __init__(self, data: bytes) -> None:
        sizes = Sizes(data)
        sizes.skip(4)
        sizes.read(4)
        tensors, entries = sizes.read(8), sizes.read(8)
        self.entries: list[tuple[bytes, int, bytes]] = []
        for _ in range(entries):
            key, kind, begin = sizes.skip(sizes.read(8)), sizes.read(4), sizes.position
            self._value(sizes, kind)
            self.entries.append((key, kind, data[begin : sizes.position]))
        self.tensors = []
        for _ in range(tensors):
            begin = sizes.position
            sizes.skip(sizes.read(8))
            for _ in range(sizes.read(4)):
                sizes.read(8)
            sizes.read(4)
            sizes.read(8)
            self.tensors.append(data[begin : sizes.position])
        self.fields = sizes.fields
        self.data = data[-(-sizes.position // 32) * 32 :]

    def _value(self, sizes: Sizes, kind: int) -> None:
        if kind == 8:
            sizes.skip(sizes.read(8))
        elif kind == 9:
            inner, count = sizes.read(4), sizes.read(8)
            if inner in _SCALARS:
                sizes.skip(count * _SCALARS[inner])
            else:
                for _ in range(count):
                    self._value(sizes, inner)
        else:
            sizes.read(_SCALARS[kind])

    def damaged(self, draw: random.Random, other: _Layout) -> bytes:
        """One to three entries changed; what remains is a well-formed file most of the time."""
        entries, tensors = list(self.entries), list(self.tensors)
        for _ in range(draw.choice((1, 1, 2, 3))):
            at, kind = draw.randrange(len(entries)), draw.randrange(9)
            key, form, value = entries[at]
            if kind == 0 and len(entries) > 1:
                del entries[at]
            elif kind == 1:
                entries[at] = (key, *draw.choice(other.entries)[1:])
            elif kind == 2:
                entries[at] = (draw.choice(other.entries)[0], form, value)
            elif kind == 3:
                which = draw.randrange(len(tensors))
                tensors[which] = draw.choice((damage_bytes(draw, tensors[which], tensors), draw.choice(other.tensors)))
            elif kind < 7 and form in (8, 9):
                entries[at] = (key, form, self._changed(draw, form, value))
            elif kind == 7 and form in _SCALARS:
                entries[at] = (key, form, integer(draw, _SCALARS[form]))
            else:
                entries[at] = (key, *_new_value(draw, 0))
        out = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(entries))
        for key, form, value in entries:
            out += struct.pack("<Q", len(key)) + key + struct.pack("<I", form) + value
        out += b"".join(tensors)
        return out + bytes(-len(out) % 32) + self.data

    @staticmethod
    def _changed(draw: random.Random, form: int, value: bytes) -> bytes:
        if form == 8:
            text = value[8:].decode(errors="replace")
            changed = damage_text(draw, text, Vocabulary([text, seeds.TEMPLATE]), seeds.TEMPLATES).encode(
                errors="replace"
            )
            return struct.pack("<Q", len(changed)) + changed
        inner, count = struct.unpack_from("<IQ", value)
        if inner != 8 and inner not in _SCALARS:  # an array of arrays, from the round before
            return value
        items, position = [], 12
        for _ in range(count):
            size = _SCALARS.get(inner) or 8 + struct.unpack_from("<Q", value, position)[0]
            items.append(value[position : position + size])
            position += size
        for _ in range(draw.choice((1, 1, 4))):
            if not items:
                break
            at, kind = draw.randrange(len(items)), draw.randrange(5)
            if kind == 0:
                del items[at]
            elif kind == 1:
                items[at] = draw.choice(items)
            elif kind == 2:
                items.insert(at, draw.choice(items))
            elif inner == 8:
                text = draw.choice((b"", b"a", b" ", b"a b c", b"\xff", b"\xc4\xa0", b"x" * 5000, b"[UNK]"))
                items[at] = struct.pack("<Q", len(text)) + text
            else:
                items[at] = integer(draw, _SCALARS[inner])
        return struct.pack("<IQ", inner, len(items)) + b"".join(items)


def _new_value(draw: random.Random, depth: int) -> tuple[int, bytes]:
    kind = draw.choice((*_SCALARS, 8, 9, 9, 9, 13, 200) if depth < 6 else (4,))
    if kind == 8:
        text = draw.choice((b"", b"llama", b"gpt2", b"none", b"\xff", b"{% for x in messages %}"))
        return kind, struct.pack("<Q", len(text)) + text
    if kind == 9:
        inner, value = _new_value(draw, depth + 1)
        count = draw.choice((0, 1, 2, 300))
        return kind, struct.pack("<IQ", inner, count) + value * count
    return kind, integer(draw, _SCALARS.get(kind, 8))


class Folder(Reader):
    """A Hugging Face folder, as a tar archive."""

    name = "folder"
    summary = "Hugging Face folders: configuration, safetensors, tokenizer.json, graph"

    def prepare(self, folder: Path) -> None:
        import safetensors.numpy  # noqa: F401  before workers are forked
        import tokenizers  # noqa: F401

        self.folders = seeds.folders()
        self.packed = [seeds.pack(files) for files in self.folders]

    def seeds(self) -> list[bytes]:
        return self.packed

    def damaged(self, draw: random.Random) -> bytes:
        files = dict(draw.choice(self.folders))
        for _ in range(draw.choice((1, 1, 2))):
            name = draw.choice(list(files))
            kind = draw.randrange(12)
            if kind == 0:
                del files[name]
                files = files or {"config.json": b""}
            elif kind == 1:
                other = draw.choice(self.folders)
                files[name] = other[draw.choice(list(other))]
            elif kind == 2 or not files[name]:
                files[name] = damage_bytes(draw, files[name], list(files.values()))
            elif name.endswith(".safetensors"):
                files[name] = _damaged_safetensors(draw, files[name])
            elif name.endswith(".jinja"):
                files[name] = _damaged_template(draw).encode(errors="replace")
            else:
                with contextlib.suppress(ValueError, RecursionError):  # damaged by the round before
                    files[name] = dump_json(draw, damage_json(draw, json.loads(files[name])))
        return seeds.pack(files)

    def read(self, data: bytes, folder: Path) -> None:
        path = folder / "model"
        shutil.rmtree(path, ignore_errors=True)
        for name, content in seeds.unpack(data).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        path.mkdir(exist_ok=True)
        use(path)


def _damaged_safetensors(draw: random.Random, data: bytes) -> bytes:
    if draw.random() < 0.3:
        return damage_bytes(draw, data, [data], [(0, 8)])
    try:
        header, begin = seeds.safetensors_header(data)
    except (ValueError, RecursionError, struct.error):
        return data
    values = header.values() if isinstance(header, dict) else ()
    entries = [entry for entry in values if isinstance(entry, dict) and isinstance(entry.get("shape"), list)]
    if entries and draw.random() < 0.6:
        entry = draw.choice(entries)
        place = draw.choice(("shape", "data_offsets", "dtype"))
        if not isinstance(entry.get(place), list) or not entry[place]:
            entry["dtype"] = draw.choice(("F32", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "F4", "", None))
        else:
            at = draw.randrange(len(entry[place]))
            was = entry[place][at] if isinstance(entry[place][at], int) else 1  # damaged once already
            entry[place][at] = draw.choice((*BOUNDARIES, was + 1, was - 2, was * 2))
        text = json.dumps(header).encode()
    else:
        text = dump_json(draw, damage_json(draw, header))
    return struct.pack("<Q", len(text)) + text + data[begin:]


def _damaged_template(draw: random.Random) -> str:
    return damage_text(draw, draw.choice(seeds.TEMPLATES), Vocabulary(seeds.TEMPLATES), seeds.TEMPLATES)


class ChatTemplate(Reader):
    """A chat template, rendered."""

    name = "template"
    summary = "chat templates"

    def prepare(self, folder: Path) -> None:
        import jinja2.sandbox  # noqa: F401  before workers are forked

    def seeds(self) -> list[bytes]:
        return [text.encode() for text in seeds.TEMPLATES]

    def damaged(self, draw: random.Random) -> bytes:
        return _damaged_template(draw).encode(errors="replace")

    def read(self, data: bytes, folder: Path) -> None:
        from deepseek.frontend.checkpoint.tokenizer import Tokenizer, TokenizerData

        ids: dict[str, Any] = {"bos": 0, "eos": 1, "unk": None, "stop_ids": [1], "prefix_ids": [], "suffix_ids": []}
        tokens = {"tokens": ["<s>", "</s>"], "types": [3, 3], "add_space_prefix": False}
        template = data.decode(errors="replace")
        described = TokenizerData(kind="bpe-bytes", backend="{}", **ids, **tokens, chat_template=template)
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": " x </think> y "}]
        text = Tokenizer(described).chat(messages)
        assert isinstance(text, str)


class TokenizerJson(Reader):
    """The tokenizer stored in an artifact, `TokenizerData` as JSON."""

    name = "tokenizer"
    summary = "tokenizers as artifacts hold them"

    def prepare(self, folder: Path) -> None:
        import tokenizers  # noqa: F401  before workers are forked

        from deepseek.frontend.checkpoint.checkpoint import open_checkpoint

        self.trees = []
        for kind in (("llama", "F16", "gpt2"), ("llama", "F16", "llama")):
            path = folder / f"{kind[2]}.gguf"
            path.write_bytes(seeds.gguf_file(folder, *kind))
            self.trees.append(json.loads(open_checkpoint(path).tokenizer_data().to_json()))
        for index, files in enumerate(seeds.folders()):
            path = folder / str(index)
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
            self.trees.append(json.loads(open_checkpoint(path).tokenizer_data().to_json()))

    def seeds(self) -> list[bytes]:
        return [json.dumps(tree).encode() for tree in self.trees]

    def damaged(self, draw: random.Random) -> bytes:
        tree = dict(draw.choice(self.trees))
        if draw.random() < 0.5:
            backend = damage_json(draw, json.loads(tree["backend"]))
            return json.dumps(tree | {"backend": dump_json(draw, backend).decode(errors="replace")}).encode()
        return dump_json(draw, damage_json(draw, tree))

    def read(self, data: bytes, folder: Path) -> None:
        from deepseek.frontend.checkpoint.tokenizer import TokenizerData

        use_tokenizer(TokenizerData.from_json(data.decode(errors="replace")))
