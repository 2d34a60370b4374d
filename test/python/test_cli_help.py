"""What --help says is true: its examples run, its exit statuses are those; misspelled words get a suggestion."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepseek import ACG
from deepseek.cli import build_parser, main
from deepseek.cli.parser import closest, subcommands
from deepseek.names import find_model

COMMANDS = sorted(subcommands(build_parser()))
# Long or endless by nature: their examples are only parsed.
NOT_RUN = ("deepseek bench", "deepseek chat", "deepseek precision", "deepseek quantize", "deepseek serve")


def help_of(*command: str) -> str:
    """The help text as a subprocess prints it, at a fixed width."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"}
    words = [sys.executable, "-m", "deepseek", *command, "--help"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def examples_of(text: str) -> list[str]:
    """The indented lines below "examples:"."""
    lines = text.split("examples:\n")[1].splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("  ")), len(lines))
    return [line.strip() for line in lines[:end]]


def words_of(example: str) -> list[str]:
    """The arguments of the deepseek command in a line of shell."""
    words = list(shlex.shlex(example, posix=True, punctuation_chars="|<>"))
    words = shlex.split(example) if not {"|", "<", ">"} & set(words) else words
    begin = words.index("deepseek") + 1
    ends = [number for number, word in enumerate(words) if word in ("|", "<", ">") and number > begin]
    return words[begin : min(ends, default=len(words))]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    return {command: help_of(command) for command in COMMANDS} | {"": help_of()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_summary_arguments_and_examples(helps: dict[str, str], command: str) -> None:
    text = helps[command]
    summary = text.split("\n\n")[1]
    assert "\n" not in summary and summary[0].isupper() and summary.endswith(".")
    assert re.search(rf"^ {{4}}{command} +\S", helps[""], re.M), "deepseek --help lists it with a summary"
    for action in subcommands(build_parser())[command]._actions:
        assert action.help, f"{action.dest} has no help"
        name = (action.option_strings or [str(action.metavar)])[0]
        assert re.search(rf"^  {re.escape(name)}(?!\S)|^  {re.escape(name)},", text, re.M), name
    examples = examples_of(text)
    assert len(examples) >= 2
    for example in examples:
        words = words_of(example)
        assert words[0] == command
        assert build_parser().parse_args(words).command == command


def test_the_main_help_documents_exit_statuses(helps: dict[str, str]) -> None:
    assert "exit status:" in helps[""]
    for status in ("0", "1", "2", "130", "141"):
        assert re.search(rf"^  {status} +\S", helps[""], re.M)
    for example in examples_of(helps[""]):
        build_parser().parse_args(words_of(example))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the examples name, and a `deepseek` command in bin/."""
    path = tmp_path_factory.mktemp("examples")
    (path / "model.gguf").symlink_to(find_model("smollm2-135m"))
    (path / "questions.txt").write_text("What is the capital of France?\nWhy?\n")
    for name in "xab":
        np.save(path / f"{name}.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    example = np.ones((2, 3), np.float32)
    ACG.trace(lambda x: x * 2 + 3, example).compile().save(path / "one.dsc")
    ACG.trace(lambda x, y: x * 2 + y, example, example).compile().save(path / "two.dsc")
    (path / "bin").mkdir()
    (path / "bin" / "deepseek").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deepseek "$@"\n')
    (path / "bin" / "deepseek").chmod(0o755)
    return path


def test_examples_run(helps: dict[str, str], folder: Path) -> None:
    """In one folder and in this order: what one example writes, a later one reads."""
    order = ["", "doctor", "compile", "inspect", "run", "generate", "completion"]
    assert set(COMMANDS) - set(order) <= {name.removeprefix("deepseek ") for name in NOT_RUN}
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    for example in [example for command in order for example in examples_of(helps[command])]:
        shutil.copy(folder / ("one.dsc" if example.count(".npy") == 1 else "two.dsc"), folder / "f.dsc")
        short = example + (" --max-new-tokens 2" if " generate " in example else "")
        done = subprocess.run(
            ["bash", "-c", short],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{short}: {done.stderr}"
        assert done.stdout or " -o " in example, short


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["generate", "m", "--prompt", "x", "--max-new-token", "3"], "did you mean --max-new-tokens?"),
        (["generate", "m", "--prompt", "x", "--max_new_tokens", "3"], "did you mean --max-new-tokens?"),
        (["generate", "m", "--prompt", "x", "--max-tokens=3"], "did you mean --max-new-tokens?"),
        (["generate", "m", "--promt", "x"], "did you mean --prompt?"),
        (["bench", "m", "--thread", "2", "--run", "5"], "did you mean --threads, --runs?"),
        (["compile", "m", "-o", "x.dsc", "--to", "fus"], "did you mean fuse?"),
        (["genrate", "m"], "did you mean generate?"),
        (["insp", "m"], "did you mean inspect?"),
        (["Doctor"], "did you mean doctor?"),
        (["--verison"], "did you mean --version?"),
        (["completion", "bsh"], "did you mean bash?"),
    ],
)
def test_suggestions(capsys: pytest.CaptureFixture[str], words: list[str], suggestion: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: deepseek")
    assert err.rstrip().endswith(suggestion)


@pytest.mark.parametrize(
    "words", [["doctor", "--zzz"], ["qqqq"], ["generate", "m", "--prompt", "--zzz"], ["doctor", "x"]]
)
def test_no_suggestion_without_likeness(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "did you mean" not in capsys.readouterr().err


def test_text_after_two_dashes_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--", "--chek"])
    assert "did you mean" not in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    """A script that says --ver would break with the next option that begins so."""
    with pytest.raises(SystemExit) as caught:
        main(["--ver"])
    assert caught.value.code == 2
    assert "did you mean --version?" in capsys.readouterr().err


def test_closest() -> None:
    assert closest("--THREADS", ["--threads", "--target"]) == "--threads"
    assert closest("--t", ["--threads", "--target"]) is None  # two begin so, neither is alike
    assert closest("--", ["--threads"]) is None
    assert closest("x", []) is None
