"""What a text shows of a model: made once, and kept in a file that any number of plans start from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import InputError
from deepseek.precision.graph import describe_to_plan
from deepseek.precision.plan import fingerprint, write_safetensors

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.package import ModelInfo
    from deepseek.precision.planner import PlanOptions
    from deepseek.precision.torch.calibration import Calibration

__all__ = ["Observation", "load_observation", "observe"]

Progress = Callable[[str, int, int], None]

_VERSION = 1
_KEY = "deepseek.calibration"
_DTYPES = {"f32": np.dtype("<f4"), "i32": np.dtype("<i4"), "i64": np.dtype("<i8")}


@dataclass(frozen=True)
class Observation:
    """A model, its module `text` at the end of `import`, and the `calibration` on windows of a text.

    `details` says which text, `fingerprint` and `digest` which model and which graph of it. `options` are those that
    were observed with: another activation needs another observation.
    """

    info: ModelInfo
    text: str
    calibration: Calibration
    details: dict[str, Any]
    options: PlanOptions
    fingerprint: str
    digest: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file, whole or not at all: the windows, and sums over their positions. Raises
        `InputError`."""
        arrays, sites = self.calibration.to_arrays()
        head = {
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "module": self.digest,
            "details": self.details,
            "options": {key: getattr(self.options, key) for key in ("activation", "tokens", "window", "seed")},
            "sites": sites,
        }
        try:
            write_safetensors(path, arrays, {_KEY: json.dumps(head)})
        except OSError as error:
            raise InputError(f"{error.filename or path}: cannot be written: {error.strerror}") from None


def observe(
    checkpoint: Checkpoint,
    ids: Sequence[int] | Sequence[Sequence[int]],
    options: PlanOptions,
    *,
    text_name: str = "",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Observation:
    """Reads token `ids`: of a text for a decoder, of each of many texts for an encoder. Raises `InputError`."""
    from deepseek.precision.evaluate import batches_of, windows_of
    from deepseek.precision.torch.calibration import calibrate

    info, text, digest = _module(checkpoint)
    if info.kind == "decoder":
        windows = windows_of(list(ids[: options.tokens]), options.window, "the calibration text")
    else:
        windows = batches_of(ids, info.context)
    calibration = calibrate(
        checkpoint, text, windows, seed=options.seed, threads=threads, activation=options.activation, progress=progress
    )
    details = {
        "text": text_name,
        "text_sha256": _digest(json.dumps([*map(_plain, ids)])),
        "windows": len(windows),
        "seed": options.seed,
        "objective": "mean KL divergence, nats" if info.kind == "decoder" else "1 - cosine",
    }
    return Observation(info, text, calibration, details, options, fingerprint(checkpoint), digest)


def load_observation(
    path: str | os.PathLike[str],
    checkpoint: Checkpoint,
    options: PlanOptions,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Observation:
    """What `Observation.save` wrote; its tokens, windows and seed replace those of `options`.

    Raises `InputError` for a file of another model, of another activation or that is damaged.
    """
    from deepseek.frontend.checkpoint.safetensors import SafetensorsFile
    from deepseek.precision.torch.calibration import calibrate

    path = Path(path)
    opened = SafetensorsFile(path)
    try:
        head = json.loads(opened.metadata[_KEY])
        version, given, sites = head["version"], head["options"], head["sites"]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: is no calibration, expected a file of deepseek precision calibrate") from None
    if version != _VERSION:
        raise InputError(f"{path}: is a calibration of version {version!r}, expected {_VERSION}: make it again")
    if head["fingerprint"] != fingerprint(checkpoint):
        raise InputError(f"{path}: is the calibration of another model than {checkpoint.path}")
    if given["activation"] != options.activation:
        raise InputError(
            f"{path}: was made with --activation {given['activation']}, but {options.activation} is asked for: "
            "calibrate again"
        )
    options = replace(options, **given)
    info, text, digest = _module(checkpoint)
    if head["module"] != digest:
        raise InputError(f"{path}: was made by another version of the compiler: calibrate again")
    arrays = {
        name: tensor.data.view(_DTYPES.get(tensor.format.name, np.uint8)) for name, tensor in opened.tensors.items()
    }
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise InputError(f"{path}: holds numbers that are not finite: the file is damaged, calibrate again")
    try:
        calibration = calibrate(
            checkpoint,
            text,
            [],
            seed=options.seed,
            threads=threads,
            activation=options.activation,
            progress=progress,
            saved=(arrays, sites),
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: is damaged ({type(error).__name__}: {error}): calibrate again") from None
    return Observation(info, text, calibration, head["details"], options, head["fingerprint"], digest)


def _module(checkpoint: Checkpoint) -> tuple[ModelInfo, str, str]:
    """What the model is, its module at the end of `import`, and the digest of what it was made from: the module names
    the machine that it is for, what was observed does not depend on it."""
    from deepseek.compiler import lower_text

    info, text = describe_to_plan(checkpoint)
    return info, lower_text(text, to_phase="import"), _digest(text)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(item: Any) -> Any:
    return int(item) if np.isscalar(item) else [int(number) for number in item]
