"""The documentation: links lead somewhere, tables match the code, the quick start runs, the site needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deepseek.cli import build_parser
from deepseek.cli.parser import subcommands
from deepseek.frontend.checkpoint.families import FAMILIES
from deepseek.frontend.checkpoint.tensors import BLOCK_FORMATS, PLAIN_FORMATS
from deepseek.names import KNOWN_NAMES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LANGUAGES = ("quickstart.md", "quickstart.zh.md")
BLOCK = re.compile(r"(<!-- differs by machine -->\n)?```(\w+)\n(.*?)\n```", re.DOTALL)


def blocks(page: str) -> list[tuple[bool, str, str]]:
    """(differs by machine, language, text) of every fenced block."""
    return [(bool(note), kind, text) for note, kind, text in BLOCK.findall((DOCS / page).read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES}


def test_checkpoints_page_matches_the_code() -> None:
    text = (DOCS / "checkpoints.md").read_text()
    known = dict(re.findall(r"^\| `([\w.-]+)` \| .* \| `(pip install .*)` \|$", text, re.M))
    assert known == {name: model.install for name, model in KNOWN_NAMES.items()}
    section = text.split("## Architectures")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == FAMILIES.keys()
    gguf, safetensors = (
        set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (?:GGUF|safe).*\| (.*) \|$", text, re.M)
    )
    assert gguf == {form.name for form in BLOCK_FORMATS.values()}
    assert safetensors == set(PLAIN_FORMATS)


def test_command_line_page_names_every_command() -> None:
    text = (DOCS / "generated" / "cli.md").read_text()
    assert set(re.findall(r"^### `deepseek (\w+)`$", text, re.M)) == subcommands(build_parser()).keys()


def test_both_quick_starts_have_the_same_content() -> None:
    english, chinese = LANGUAGES
    assert blocks(english) == blocks(chinese)
    headings = [re.findall(r"^(#+) ", (DOCS / page).read_text(), re.M) for page in LANGUAGES]
    assert headings[0] == headings[1]
    links = [set(re.findall(r"\]\(((?!quickstart)[^)]+)\)", (DOCS / page).read_text())) for page in LANGUAGES]
    assert links[0] == links[1]


def expect(shown: str, printed: str) -> None:
    """Compares line by line; "..." stands for any text or lines, and figures of time differ."""

    def normal(text: str) -> str:
        return re.sub(r"\d+\.\d+(?= s\b| tokens/s)", "#", text).replace("compiled in # s", "cached")

    pattern = re.escape(normal(shown)).replace(r"\.\.\.", ".*")
    assert re.fullmatch(pattern, normal(printed).rstrip("\n"), re.DOTALL), f"{shown}\n--- is not\n{printed}"


def test_quick_start_runs(tmp_path: Path) -> None:
    """All commands and programs of the page, in its order, in one folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "deepseek").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deepseek "$@"\n')
    (folder / "deepseek").chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "COLUMNS": "80"}

    def run(*command: str, status: bool) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert not status or done.returncode == 0, done.stdout
        return done.stdout

    printed = ""
    for differs, kind, text in blocks(LANGUAGES[0]):
        if kind == "python":
            (tmp_path / "program.py").write_text(text)
            printed = run(sys.executable, "program.py", status=True)
        elif kind == "text":
            expect(text, printed)
        elif kind == "console":
            commands, status = re.split(r"^\$ ", text, flags=re.M)[1:], "echo $?\n0\n"
            for entry in commands:
                command, _, shown = entry.rstrip("\n").partition("\n")
                if command == "echo $?":
                    expect(shown, status)
                    continue
                output = run("bash", "-c", f"{command}; echo status $?", status=True)
                output, _, status = output.rpartition("status ")
                if not differs:
                    expect(shown, output)


def test_generator_of_the_command_line_page() -> None:
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "tools" / "gen_docs.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    row = generator.option_row(build_parser(), build_parser()._actions[1])
    assert row == "| `--version` | print the version and exit |  |"
    assert generator.code_cell("a|<b>") == "<code>a&#124;&lt;b&gt;</code>"
    assert generator.describe_epilog("plain text\n\nexamples:\n  one\n  two") == [
        "Plain text",
        "",
        "Examples:",
        "",
        "```text",
        "one",
        "two",
        "```",
        "",
    ]


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="make site installs MkDocs")
def test_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES)
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//", text), page
        assert not re.findall(r"@import|fonts\.g", text), page
        assert "mermaid" not in text, f"{page}: the theme loads what draws diagrams from elsewhere"
    for sheet in tmp_path.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet
