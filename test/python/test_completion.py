"""`deepseek completion`: each shell really loads its script and completes; what is expected comes from --help."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepseek.cli import common, main
from deepseek.names import KNOWN_NAMES


@pytest.fixture
def scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Path]:
    """The three scripts as files, in a folder with a checkpoint, a folder and a name with a space."""
    paths = {}
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        paths[shell] = tmp_path / f"script.{shell}"
        paths[shell].write_text(capsys.readouterr().out)
    (tmp_path / "tiny.gguf").touch()
    (tmp_path / "tiny model.gguf").touch()
    (tmp_path / "tiny_folder").mkdir()
    return paths


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def options_in(text: str) -> set[str]:
    """The options that a --help text lists: its lines that begin with a dash."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  -")]
    return {name for line in lines for name in re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", line.split("   ")[0])}


def bash(script: Path, line: str) -> list[str]:
    """What bash offers at the end of `line`; a line that ends in a space begins a new word."""
    words = [part for word in shlex.split(line) for part in re.split(r"(=)", word) if part]
    words += [""] if line.endswith(" ") else []
    program = f"""source {shlex.quote(str(script))}
        complete -p deepseek >/dev/null || exit 3
        COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _deepseek
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    command = ["bash", "--norc", "-c", program]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return [word for word in done.stdout.splitlines() if word]


def test_bash_completes_commands_and_options(scripts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    script = scripts["bash"]
    assert bash(script, "deepseek gen") == ["generate"]
    commands = bash(script, "deepseek ")
    assert "bench" in commands and "completion" in commands
    assert set(bash(script, "deepseek -")) == options_in(help_of(capsys))
    for command in commands:
        assert set(bash(script, f"deepseek {command} -")) == options_in(help_of(capsys, command)), command
    assert bash(script, "deepseek generate --thr") == ["--threads"]
    assert bash(script, "deepseek generate smollm2-135m --prompt 'a b' --thr") == ["--threads"]


def test_bash_completes_values(scripts: dict[str, Path]) -> None:
    script = scripts["bash"]
    assert bash(script, "deepseek compile m --to ") == list(common.PHASES)
    assert bash(script, "deepseek compile m --to=f") == ["fuse"]
    assert bash(script, "deepseek completion ") == ["bash", "zsh", "fish"]
    assert bash(script, "deepseek generate smol") == ["smollm2-135m"]
    assert set(bash(script, "deepseek generate ")) >= {*KNOWN_NAMES, "tiny.gguf", "tiny model.gguf", "tiny_folder"}
    assert set(bash(script, "deepseek generate tiny")) == {"tiny.gguf", "tiny model.gguf", "tiny_folder"}
    assert bash(script, "deepseek inspect tiny.gguf --dump ti") == ["tiny_folder"]
    assert bash(script, "deepseek generate --threads ") == []  # a number: nothing to offer
    assert bash(script, "deepseek generate tiny.gguf ") == []  # one model only
    assert set(bash(script, "deepseek generate --prompt x tiny")) == {"tiny.gguf", "tiny model.gguf", "tiny_folder"}
    inputs = bash(script, "deepseek run x.dsc --input tiny.gguf tiny")  # --input takes several files
    assert "tiny model.gguf" in inputs
    assert bash(script, "deepseek run x.dsc --input tiny.gguf --out") == ["--output-dir"]


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(scripts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    script = scripts["fish"]

    def fish(*lines: str) -> list[set[str]]:
        program = f"source {script}\n" + "\n".join(f"complete -C {shlex.quote(line)}; echo ===" for line in lines)
        command = ["fish", "--no-config", "-c", program]
        done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        return [{row.split("\t")[0] for row in part.split("\n") if row} for part in done.stdout.split("===\n")[:-1]]

    begun, options, phases, models, dump, number, shells = fish(
        "deepseek gen",
        "deepseek generate -",
        "deepseek compile m --to ",
        "deepseek generate ",
        "deepseek inspect tiny.gguf --dump ti",
        "deepseek generate --threads ",
        "deepseek completion ",
    )
    assert begun == {"generate"}
    assert options == options_in(help_of(capsys, "generate"))
    assert phases == set(common.PHASES)
    assert models >= {*KNOWN_NAMES, "tiny.gguf", "tiny model.gguf", "tiny_folder/"}
    assert dump == {"tiny_folder/"}
    assert number == set()
    assert shells == {"bash", "zsh", "fish"}


def typed(command: list[str], setup: str, line: str, expected: str, folder: Path) -> str:
    """What an interactive shell shows after `line` and a Tab, read until `expected` appears (at most 20 s)."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(PS1="> ", TERM="xterm", HOME=str(folder), ZDOTDIR=str(folder), HISTFILE="/dev/null")
        os.execvp(command[0], command)
    shown, steps, deadline = "", [f"{setup}; echo rea''dy\n", line + "\t"], time.monotonic() + 20
    os.write(terminal, steps.pop(0).encode())
    try:
        while time.monotonic() < deadline and expected not in plain(shown):
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536).decode(errors="replace")
            if steps and "ready" in plain(shown):
                shown = ""
                os.write(terminal, steps.pop(0).encode())
    finally:
        os.kill(child, 9)
        os.close(terminal)
        os.waitpid(child, 0)
    return plain(shown)


def plain(shown: str) -> str:
    """Without what moves the cursor or colors."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r|\x07|\x08", "", shown)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deepseek gen", "deepseek generate "),
        ("deepseek compile m --to fu", "--to fuse "),
        ("deepseek generate --thr", "--threads"),
        ("deepseek generate smo", "smollm2-135m "),
        ("deepseek inspect tiny.gguf --dump tiny", "tiny_folder/"),
        ("deepseek generate 'tiny m", "tiny model.gguf"),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_in_a_terminal(scripts: dict[str, Path], shell: str, line: str, expected: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    folder = scripts[shell].parent
    command, setup = {
        "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
        "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit && compinit -u -D && "),
    }[shell]
    shown = typed(command, f"{setup}source {scripts[shell]}", line, expected, folder)
    assert expected in shown


def test_json_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["shell"] == "bash" and "complete -F _deepseek deepseek" in report["script"]
    with pytest.raises(SystemExit) as caught:
        main(["completion", "tcsh"])
    assert caught.value.code == 2
    assert "expected one of bash, zsh, fish" in capsys.readouterr().err


def test_the_script_needs_no_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = None; from deepseek.cli import main; main(['completion', 'zsh'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("#compdef deepseek\n")
