"""dump_ir: a file per phase that continues where the one before stopped, and a page that compares them."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deepseek import ACG, phases
from deepseek.cli import main
from deepseek.compiler import PHASES, lower_text
from deepseek.errors import CompileError, InputError
from deepseek.phases_html import compare

pytest.importorskip("deepseek._mlir")


class Page(HTMLParser):
    """Tags that are open, ids, and the text of the page."""

    VOID = {"meta", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if "href" in found else []
        assert not {"src", "onclick"} & found.keys()
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def graph() -> ACG.Graph:
    return ACG.trace(lambda x, w: ACG.silu(x @ w) * 2, np.ones((3, 8), np.float32), np.ones((8, 4), np.float32))


def test_every_phase_and_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "phases"
    graph().dump(folder)
    names = [f"{i}-{name}.mlir" for i, name in enumerate(("traced", *PHASES))]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*names, "index.html"])
    assert (folder / names[0]).read_text() == graph().mlir
    for name, phase in zip(names[1:], PHASES, strict=True):
        assert f'dsc.phase = "{phase}"' in (folder / name).read_text()
    # Phase by phase is the same as at once.
    assert (folder / "4-fuse.mlir").read_text().count("dsc.dispatch") == lower_text(
        graph().mlir, to_phase="fuse"
    ).count("dsc.dispatch")

    page = Page()
    page.feed((folder / "index.html").read_text())
    assert page.open == ["html"] or not page.open
    assert set(page.links) == {f"#{a}-{b}" for a, b in zip(("traced", *PHASES), PHASES)}
    assert {link[1:] for link in page.links} <= set(page.ids)
    text = "".join(page.words)
    assert "dsc.dispatch" in text and "linalg.generic" in text and "loc(" not in text
    assert {"from", "to", "search"} <= set(page.ids)
    graph().dump(folder)  # again, over the files


def test_a_later_phase_starts_there(tmp_path: Path) -> None:
    fused = lower_text(graph().mlir, to_phase="fuse")
    written = phases.dump(fused, tmp_path)
    assert [p.name for p in written] == [
        "4-fuse.mlir",
        *(f"{i}-{p}.mlir" for i, p in enumerate(PHASES[4:], 5)),
        "index.html",
    ]


def test_what_appears_and_disappears() -> None:
    before = '    %0 = "dsc.matmul"(%a) : f32\n    %1 = dsc.add %0 : f32'
    page = compare("x", {"one": before, "two": "    %0 = dsc.add %a : f32\n    dsc.launch @k\n    dsc.launch @k"})
    assert "<p>appeared: 2 dsc.launch</p><p>disappeared: 1 dsc.matmul</p>" in page
    assert '<option value="1" selected>two</option>' in page
    assert "appeared" not in compare("x", {"one": before, "two": before})


def test_a_large_phase_is_named_and_not_compared() -> None:
    page = compare("x", {"one": "    dsc.a\n", "two": "    dsc.b\n" * 20_001})
    assert "Not compared: two has 20,001 lines; more than 20,000 are not compared." in page and "one has" not in page


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "0-traced.mlir").mkdir()
    with pytest.raises(InputError, match="dump_ir: .*0-traced.mlir cannot be written: "):
        graph().dump(tmp_path)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    with pytest.raises(InputError, match="dump_ir: .*taken is no folder and cannot be made one: File exists"):
        graph().dump(taken)


def test_a_phase_that_fails_leaves_what_was_before(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="unknown target"):
        graph().dump(tmp_path, target="tpu")
    assert {p.name for p in tmp_path.iterdir()} == {"0-traced.mlir", "index.html"}


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.mlir"
    source.write_text(graph().mlir)
    folder, output = tmp_path / "phases", tmp_path / "x.dsc"
    assert main(["compile", str(source), "--dump-ir", str(folder), "-o", str(output)]) in (0, None)
    assert (folder / "index.html").is_file() and output.is_file()


def test_torch_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import deepseek

    exe = deepseek.compile(torch.nn.Linear(8, 4), (torch.ones(2, 8),), dump_ir=tmp_path)
    assert (tmp_path / "0-traced.mlir").read_text() == exe.graph.mlir
    assert 'dsc.phase = "llvm"' in (tmp_path / "8-llvm.mlir").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="dump_ir: .*file is no folder"):
        deepseek.compile(torch.nn.Linear(8, 4), (torch.ones(2, 8),), dump_ir=tmp_path / "file")
