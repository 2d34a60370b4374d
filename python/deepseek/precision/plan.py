"""A plan: which format every operation reads and computes in, with the reason, and the rounded weights beside it.

`NAME.json` holds the decisions (`docs/precision.md` describes its keys), `NAME.safetensors` the weights as products
read them: raw blocks, named as in the checkpoint. Both are the same bytes for the same model, options and calibration.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import InputError
from deepseek.files import replacing

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.frontend.checkpoint.safetensors import SafetensorsFile

__all__ = ["VERSION", "Plan", "fingerprint", "is_plan_name", "write_safetensors"]

VERSION = 1
_COMPILER_KEYS = ("at", "op", "weight", "activation", "accumulate", "kv_cache", "reason")
_SAMPLE = 4096  # bytes of each tensor's beginning and end that tell models apart


def is_plan_name(precision: str | None) -> bool:
    """Whether a precision names a plan file."""
    return precision is not None and precision.endswith(".json")


def fingerprint(checkpoint: Checkpoint) -> str:
    """Digest of a checkpoint's tensor table and of the ends of each tensor: tells models apart without reading them."""
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        digest.update(f"{name} {tensor.format.name} {list(tensor.shape)}\n".encode())
        for source in tensor.sources:
            data = source.reshape(-1)
            digest.update(data[:_SAMPLE].tobytes())
            digest.update(data[-_SAMPLE:].tobytes())
    return digest.hexdigest()


@dataclass
class Plan:
    """`ops`: one row per operation. `tensors`: by weight name its format and rounding. `arrays`: the rounded weights.

    `model`, `options`, `calibration` and `totals` say what the plan is for, what was asked, what was measured.
    """

    model: dict[str, Any]
    options: dict[str, Any]
    calibration: dict[str, Any]
    totals: dict[str, Any]
    tensors: dict[str, dict[str, Any]]
    ops: list[dict[str, Any]]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    file: SafetensorsFile | None = field(default=None, repr=False)  # that `arrays` are views of

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, weights: bool = False) -> Plan:
        """Reads a plan and, with `weights`, its weights. Raises `InputError` for a file that is none or is damaged."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as a plan: {getattr(error, 'strerror', error)}") from None
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}: is not JSON ({error}), expected a plan of deepseek precision plan") from None
        if not isinstance(data, dict) or "ops" not in data:
            raise InputError(f"{path}: is not a plan, expected an object with version and ops")
        if data.get("version") != VERSION:
            raise InputError(
                f"{path}: is a plan of version {data.get('version')!r}, expected {VERSION}: make it again "
                "with deepseek precision plan"
            )
        keys = ("model", "options", "calibration", "totals", "tensors")
        missing = [key for key in keys if not isinstance(data.get(key), dict)]
        if missing or not isinstance(data["ops"], list):
            raise InputError(f"{path}: is a damaged plan: {', '.join(missing) or 'ops'} is missing")
        plan = cls(*(data[key] for key in keys), ops=data["ops"])
        if weights:
            plan.arrays = plan._read_weights(path)
        return plan

    def _read_weights(self, path: Path) -> dict[str, np.ndarray]:
        from deepseek.frontend.checkpoint.safetensors import SafetensorsFile

        if not self.tensors:
            return {}
        file = path.with_suffix(".safetensors")
        if not file.exists():
            raise InputError(f"{file}: is missing; it holds the weights that {path.name} rounds, keep the two together")
        opened = self.file = SafetensorsFile(file)
        if opened.metadata.get("plan") != self.weights_key:
            raise InputError(f"{file}: holds the weights of another plan than {path.name}: copy both files again")
        arrays = {name: tensor.array for name, tensor in opened.tensors.items()}

        def intact(name: str) -> bool:
            return name in arrays and hashlib.sha256(arrays[name].data).hexdigest() == self.tensors[name].get("sha256")

        with ThreadPoolExecutor() as pool:  # hashing lets other threads run
            for name, good in zip(self.tensors, pool.map(intact, self.tensors)):
                if not good:
                    raise InputError(f"{file}: {name} is not what the plan rounded: the file is damaged, copy it again")
        return arrays

    @property
    def weights_key(self) -> str:
        """Digest of what decides the rounded weights; stands in both files."""
        return _digest(self.calibration, self.tensors)

    @property
    def name(self) -> str:
        """What a compiled model says of its precision: a digest of all decisions and weights."""
        return f"plan {_digest(self.for_compiler(), self.weights_key)[:12]}"

    def check_model(self, checkpoint: Checkpoint) -> None:
        """Raises `InputError` when the plan is for another model than `checkpoint`."""
        if self.ops and not self.tensors:
            raise InputError("the plan was made from shapes alone and rounds no weights: make it again for the model")
        if self.model.get("fingerprint") != fingerprint(checkpoint):
            raise InputError(
                f"the plan is for {self.model.get('name')}, whose tensors are others than those of {checkpoint.path}"
            )

    def for_compiler(self) -> str:
        """The decisions alone, as `--dsc-select-precision` reads them; the same text for the same decisions."""
        ops = [{key: row[key] for key in _COMPILER_KEYS if row.get(key)} for row in self.ops if row["at"]]
        return json.dumps({"version": VERSION, "ops": ops})

    def safer(self) -> Plan | None:
        """The same weights under formats that cannot overflow: f32 activations and caches; None if they are so already."""
        wide = [row | {"activation": "f32", "kv_cache": row["kv_cache"] and "f32"} for row in self.ops]
        return None if wide == self.ops else replace(self, ops=wide)

    def weights(self, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
        """Every tensor of the checkpoint as weight arguments take it, rounded where the plan says so."""
        kept = {name: tensor.array for name, tensor in checkpoint.tensors.items() if name not in self.arrays}
        return kept | dict(self.arrays)

    def release(self) -> None:
        """Lets the operating system take back the pages of weights that were read."""
        if self.file is not None:
            self.file.release()

    def to_json(self) -> str:
        """The text of the plan file."""
        parts = {
            "version": VERSION,
            "model": self.model,
            "options": self.options,
            "calibration": self.calibration,
            "totals": self.totals,
            "tensors": self.tensors,
            "ops": self.ops,
        }
        return json.dumps(parts, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes both files, each whole or not at all. Raises `InputError`."""
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"{path}: a plan's name ends in .json")
        try:
            if self.arrays:
                write_safetensors(path.with_suffix(".safetensors"), self.arrays, {"plan": self.weights_key})
            with replacing(path) as file:
                file.write(self.to_json().encode())
        except OSError as error:
            raise InputError(f"{error.filename or path}: cannot be written: {error.strerror}") from None


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


_DTYPES = {
    "uint8": "U8",
    "int8": "I8",
    "int32": "I32",
    "uint16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "int64": "I64",
}


def write_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, whole or not at all; uint16 is bf16, `dtypes` names other types. Raises OSError.

    Format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, array in arrays.items():
        kind = (dtypes or {}).get(name, _DTYPES[array.dtype.name])
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
