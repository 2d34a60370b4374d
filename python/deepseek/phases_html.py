"""A page that compares a module's phases: side by side, function by function. One file, no network."""

from __future__ import annotations

import difflib
import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping

_LOCATION = re.compile(r" loc\((?:[^()\"]|\"[^\"]*\"|\((?:[^()\"]|\"[^\"]*\")*\))*\)")
_OPERATION = re.compile(r'^\s*(?:%[\w$.:#, %-]+ = )?"?([a-z_][a-z_0-9]*\.[a-z_][\w.]*)"?[\s(<]', re.M)
_FUNCTION = re.compile(r"^  (?:func|llvm)\.func .*?@([\w.$-]+)", re.M)
_CONTEXT = 3  # lines around a change
_LARGEST = 20_000  # lines of a phase that is compared; more is summed up only
_LONGEST = 320  # characters of a line

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --old: #ff000022; --new: #00aa0022; --mark: #ffcc0066; }
body { font: 14px/1.5 system-ui, sans-serif; margin: 1rem 2rem; }
table { border-collapse: collapse; } td, th { padding: 0 .6rem; text-align: left; vertical-align: top; }
.diff { table-layout: fixed; width: 100%; font: 12px/1.45 ui-monospace, monospace; }
.diff td { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 1px solid var(--line); }
.diff td.n { width: 3.5em; text-align: right; color: #888; border: 0; }
.old { background: var(--old); } .new { background: var(--new); } mark { background: var(--mark); color: inherit; }
.fold { color: #888; text-align: center; } summary { cursor: pointer; } nav a { margin-right: 1rem; }
.counts td { border-bottom: 1px solid var(--line); } .gone { opacity: .45; }
"""
_SCRIPT = """
const box = document.getElementById("search");
box.addEventListener("input", () => {
  for (const part of document.querySelectorAll("details"))
    part.hidden = box.value !== "" && !part.textContent.includes(box.value);
});
"""


def compare(name: str, texts: Mapping[str, str]) -> str:
    """The page for phases in their order, by name."""
    plain = {phase: _without_places(text) for phase, text in texts.items()}
    pairs = list(zip(plain, list(plain)[1:]))
    links = "".join(f'<a href="#{a}-{b}">{a} → {b}</a>' for a, b in pairs)
    sections = "".join(f'<h2 id="{a}-{b}">{a} → {b}</h2>' + "".join(_functions(plain[a], plain[b])) for a, b in pairs)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}: phases</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(name)}</h1><nav>{links}</nav>"
        f'<p><input id="search" placeholder="only functions with this text" size="40"></p>'
        f"<h2>Operations</h2>{_counts(plain)}{sections}<script>{_SCRIPT}</script></html>\n"
    )


def _without_places(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("#loc"))
    return "\n".join(_LOCATION.sub("", line) for line in lines)


def _counts(texts: Mapping[str, str]) -> str:
    """Operations per phase; faint where there are none."""
    counts = {phase: Counter(_OPERATION.findall(text)) for phase, text in texts.items()}
    names = dict.fromkeys(name for found in counts.values() for name, _ in found.most_common())
    head = "".join(f"<th>{phase}</th>" for phase in texts)
    lines = "".join(f"<td>{len(text.splitlines()):,}</td>" for text in texts.values())
    rows = "".join(
        f"<tr><td>{name}</td>"
        + "".join(
            f"<td>{found[name]:,}</td>" if found[name] else '<td class="gone">0</td>' for found in counts.values()
        )
        + "</tr>"
        for name in names
    )
    return f'<table class="counts"><tr><th></th>{head}</tr><tr><td>lines</td>{lines}</tr>{rows}</table>'


def _split(text: str) -> dict[str, list[str]]:
    """Lines of each function by its name; what stands outside is the module's."""
    parts: dict[str, list[str]] = {"module": []}
    current = "module"
    for line in text.splitlines():
        if found := _FUNCTION.match(line):
            current = found[1]
            while current in parts:
                current += "'"
            parts[current] = []
        parts[current].append(line)
        if line.startswith("  }"):
            current = "module"
    return parts


def _functions(before: str, after: str) -> Iterator[str]:
    if max(before.count("\n"), after.count("\n")) > _LARGEST:
        yield f"<p>Not compared: more than {_LARGEST:,} lines. The files hold them.</p>"
        return
    old, new = _split(before), _split(after)
    same = 0
    for name in dict.fromkeys([*old, *new]):
        a, b = old.get(name, []), new.get(name, [])
        if a == b:
            same += 1
            continue
        kind = "new" if not a else "gone" if not b else "changed"
        is_open = " open" if name == "main" else ""
        label = html.escape(name if name == "module" else f"@{name}")
        yield f"<details{is_open}><summary>{label}: {kind}, {len(a)} → {len(b)} lines</summary>{_table(a, b)}</details>"
    yield f"<p>{same} functions are the same.</p>"


def _table(a: list[str], b: list[str]) -> str:
    rows: list[str] = []
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False) if len(a) * len(b) < 4_000_000 else None
    steps = matcher.get_opcodes() if matcher else [("replace", 0, len(a), 0, len(b))]
    for kind, a0, a1, b0, b1 in steps:
        if kind == "equal":
            rows += _equal(a, a0, a1, b0)
            continue
        for i in range(max(a1 - a0, b1 - b0)):
            left = a[a0 + i] if a0 + i < a1 else None
            right = b[b0 + i] if b0 + i < b1 else None
            rows.append(_row(a0 + i, left, b0 + i, right))
    return f'<table class="diff">{"".join(rows)}</table>'


def _equal(lines: list[str], a0: int, a1: int, b0: int) -> Iterator[str]:
    count = a1 - a0
    for i in range(count):
        if count > 2 * _CONTEXT + 1 and _CONTEXT <= i < count - _CONTEXT:
            if i == _CONTEXT:
                yield f'<tr><td class="fold" colspan="4">{count - 2 * _CONTEXT} lines are the same</td></tr>'
            continue
        text = html.escape(_short(lines[a0 + i]))
        yield f'<tr><td class="n">{a0 + i + 1}</td><td>{text}</td><td class="n">{b0 + i + 1}</td><td>{text}</td></tr>'


def _row(a: int, left: str | None, b: int, right: str | None) -> str:
    """A line of each side; in two that differ, the parts that do are marked."""
    marked = ["", ""]
    if left is not None and right is not None:
        left, right = _short(left), _short(right)
        matcher = difflib.SequenceMatcher(None, re.split(r"(\W)", left), re.split(r"(\W)", right), autojunk=False)
        sides = matcher.a, matcher.b
        for kind, *ends in matcher.get_opcodes():
            for side in (0, 1):
                text = html.escape("".join(sides[side][ends[2 * side] : ends[2 * side + 1]]))
                marked[side] += text if kind == "equal" or not text else f"<mark>{text}</mark>"
    else:
        marked = [html.escape(_short(left or "")), html.escape(_short(right or ""))]
    numbers = ["" if left is None else a + 1, "" if right is None else b + 1]
    return (
        f'<tr><td class="n">{numbers[0]}</td><td{_class("old", left)}>{marked[0]}</td>'
        f'<td class="n">{numbers[1]}</td><td{_class("new", right)}>{marked[1]}</td></tr>'
    )


def _class(name: str, line: str | None) -> str:
    return "" if line is None else f' class="{name}"'


def _short(line: str) -> str:
    return line if len(line) <= _LONGEST else line[:_LONGEST] + " …"
