"""What reads `.dsc` artifacts."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path

import numpy as np
import seeds_checkpoint as seeds
from harness import Reader, in_child
from mutate import damage_bytes, damage_json, dump_json

_PREFIX = 64  # bytes before the header: magic, sizes, checksum (docs/artifact.md)
_CHUNK = 4 << 20


class ArtifactFile(Reader):
    """An artifact, opened, inspected and made callable; its code is not run."""

    name = "artifact"
    summary = "artifacts: a program, a model with weights, a model that refers to its weights"

    def prepare(self, folder: Path) -> None:
        self.weights = folder / "model.gguf"
        self.weights.write_bytes(seeds.gguf_file(folder))

        def write() -> list[bytes]:
            from deepseek import ACG
            from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
            from deepseek.package import Package

            paths = [folder / f"{name}.dsc" for name in ("program", "model", "external")]
            ACG.trace(lambda x: x * 2 + 3, np.ones(5, np.float32)).compile().save(paths[0])
            package = Package.compile(open_checkpoint(self.weights))
            package.save(paths[1])
            package.save(paths[2], external_weights=True)
            return [path.read_bytes() for path in paths]

        self.files = in_child(write)

    def seeds(self) -> list[bytes]:
        return self.files

    def damaged(self, draw: random.Random) -> bytes:
        data = draw.choice(self.files)
        if draw.random() < 0.3:
            return damage_bytes(draw, data, self.files, [(8, 8), (16, 8), (24, 8)])
        # The checksums are made right again: what follows sees the damage.
        size = struct.unpack_from("<Q", data, 8)[0]
        header, body = json.loads(data[_PREFIX : _PREFIX + size]), data[_PREFIX + size :]
        if draw.random() < 0.3:
            body = damage_bytes(draw, body, self.files)
            header["body_bytes"] = len(body)
        if draw.random() < 0.8:
            header = damage_json(draw, header)
        if isinstance(header, dict) and draw.random() < 0.9:
            header["chunks"] = [
                hashlib.sha256(body[at : at + _CHUNK]).hexdigest() for at in range(0, len(body), _CHUNK)
            ]
        text = dump_json(draw, header)
        text += b" " * (-len(text) % 64)
        sizes = struct.pack("<QQQ", len(text), _PREFIX + len(text) + len(body), 0)
        return data[:8] + sizes + hashlib.sha256(text).digest() + text + body

    def read(self, data: bytes, folder: Path) -> None:
        from deepseek.artifact import Artifact
        from deepseek.executable import Executable
        from deepseek.package import Package

        path = folder / "model.dsc"
        path.write_bytes(data)
        opened = Artifact(path)
        assert isinstance(opened.text, str)
        for array in (opened.weights or {}).values():
            array.sum()
        if opened.model is not None:
            package = Package.of(opened)
            package.tokenizer()
            package.release()
        else:
            Executable(opened.object, opened.manifest, threads=1)
