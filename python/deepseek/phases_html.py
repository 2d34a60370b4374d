"""A page that compares a module's phases: side by side, function by function. One file, no network."""

from __future__ import annotations

import difflib
import html
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

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
const [box, from, to] = ["search", "from", "to"].map(id => document.getElementById(id));
box.addEventListener("input", () => {
  for (const part of document.querySelectorAll("details"))
    part.hidden = box.value !== "" && !part.textContent.includes(box.value);
});
function pick() {
  const first = Math.min(+from.value, +to.value), last = Math.max(+from.value, +to.value);
  document.querySelectorAll("section").forEach((step, i) => { step.hidden = i < first || i >= last; });
}
for (const choice of [from, to]) choice.addEventListener("change", pick);
document.querySelectorAll("nav a").forEach((link, i) => link.addEventListener("click", () => {
  from.value = i; to.value = i + 1; pick();
}));
"""


def compare(name: str, texts: Mapping[str, str]) -> str:
    """The page for phases in their order, by name."""
    plain = {phase: _without_places(text) for phase, text in texts.items()}
    counts = {phase: Counter(_OPERATION.findall(text)) for phase, text in plain.items()}
    pairs = list(zip(plain, list(plain)[1:]))
    links = "".join(f'<a href="#{a}-{b}">{a} → {b}</a>' for a, b in pairs)
    sections = "".join(
        f'<section><h2 id="{a}-{b}">{a} → {b}</h2>{_changes(counts[a], counts[b])}'
        + "".join(_functions(plain[a], plain[b], a, b))
        + "</section>"
        for a, b in pairs
    )
    choice = f"<p>every step from {_select('from', plain, 0)} to {_select('to', plain, len(plain) - 1)}</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}: phases</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(name)}</h1><nav>{links}</nav>{choice}"
        f'<p><input id="search" placeholder="only functions with this text" size="40"></p>'
        f"<h2>Operations</h2>{_counts(plain, counts)}{sections}<script>{_SCRIPT}</script></html>\n"
    )


def _select(name: str, phases: Iterable[str], chosen: int) -> str:
    options = "".join(
        f'<option value="{i}"{" selected" if i == chosen else ""}>{phase}</option>' for i, phase in enumerate(phases)
    )
    return f'<select id="{name}">{options}</select>'


def _changes(before: Counter[str], after: Counter[str]) -> str:
    """Operations that only one of two neighbouring phases has, with their counts."""

    def only(here: Counter[str], there: Counter[str]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in here.most_common() if name not in there)

    lists = (("appeared", only(after, before)), ("disappeared", only(before, after)))
    return "".join(f"<p>{what}: {names}</p>" for what, names in lists if names)


def _without_places(text: str) -> str:
    lines = (line for line in text.splitlines() if not line.startswith("#loc"))
    return "\n".join(_LOCATION.sub("", line) for line in lines)


def _counts(texts: Mapping[str, str], counts: Mapping[str, Counter[str]]) -> str:
    """Operations per phase; faint where there are none."""
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


def _functions(before: str, after: str, a: str, b: str) -> Iterator[str]:
    lines = {a: len(before.splitlines()), b: len(after.splitlines())}
    if large := [f"{phase} has {count:,} lines" for phase, count in lines.items() if count > _LARGEST]:
        limit = f"more than {_LARGEST:,} are not compared"
        yield f"<p>Not compared: {' and '.join(large)}; {limit}. The files hold them.</p>"
        return
    old, new = _split(before), _split(after)
    same = 0
    for name in dict.fromkeys([*old, *new]):
        left, right = old.get(name, []), new.get(name, [])
        if left == right:
            same += 1
            continue
        kind = "new" if not left else "gone" if not right else "changed"
        is_open = " open" if name == "main" else ""
        label = html.escape(name if name == "module" else f"@{name}")
        summary = f"{label}: {kind}, {len(left)} → {len(right)} lines"
        yield f"<details{is_open}><summary>{summary}</summary>{_table(left, right)}</details>"
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
