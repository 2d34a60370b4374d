"""A roofline picture (Williams et al. 2009) of a profile: arithmetic rate over operations per byte, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1120, 720
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 30, 64, 58  # margins around the plot, px
_LEAST_SHARE = 0.001  # kernels below it are not drawn
_COLORS = {"prefill": "#1f5fa8", "decode": "#c2541b"}
_ROOF = "#333333"
_FONT = 12  # px
_CHARACTER = 6.9  # px, wider than most of that size
_UNITS = {"int8": "GOP/s", "int8_tiles": "GOP/s"}  # the others: GFLOP/s


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


@dataclass(frozen=True)
class _Dot:
    phase: str
    label: str
    kernel: str
    intensity: float  # operations per byte
    rate: float  # GFLOP/s
    share: float  # of the pass

    @property
    def radius(self) -> float:
        return 3.5 + 12 * math.sqrt(self.share)


class _Axes:
    """Pixels of values; all dots and all roofs lie within."""

    def __init__(self, dots: Iterable[_Dot], memory: float, roofs: Mapping[str, float]) -> None:
        ridges = [roof / memory for roof in roofs.values()]
        intensities = [dot.intensity for dot in dots] + ridges
        rates = [dot.rate for dot in dots] + list(roofs.values())
        self.x = min(intensities) / 2, max(intensities) * 4
        self.y = min(rates) / 3, max(rates) * 2

    def left(self, intensity: float) -> float:
        return _LEFT + _part(intensity, self.x) * (WIDTH - _LEFT - _RIGHT)

    def top(self, rate: float) -> float:
        return HEIGHT - _BOTTOM - _part(rate, self.y) * (HEIGHT - _TOP - _BOTTOM)


def _along(x1: float, y1: float, x2: float, y2: float) -> list[_Box]:
    """Small boxes that cover a line."""
    pieces = math.ceil(max(abs(x2 - x1), abs(y2 - y1)) / 10) + 1
    points = [(x1 + (x2 - x1) * i / pieces, y1 + (y2 - y1) * i / pieces) for i in range(pieces + 1)]
    return [_Box(min(a, c), min(b, d) - 1, max(a, c), max(b, d) + 1) for (a, b), (c, d) in zip(points, points[1:])]


class _Labels:
    """Places texts where they meet neither each other, nor a dot, nor a line, nor the border."""

    def __init__(self, marks: Iterable[_Box] = (), texts: Iterable[_Box] = ()) -> None:
        self.marks = list(marks)  # dots and lines
        self.texts = list(texts)
        self.cost = 0.0  # distances and detours of all texts, px

    def place(self, text: str, x: float, y: float, radius: float, color: str) -> Iterator[str]:
        """`text` as near to the edge of a dot as there is room, with a thin line to it from further away.

        The line rather takes a longer way than one across marks or even texts. Without a dot (radius 0) there is none.
        """
        width = _CHARACTER * len(text)
        best: tuple[float, tuple[float, float, str, _Box, list[_Box]]] | None = None
        for distance, step in product(range(int(radius) + 5, WIDTH, 6), range(32)):
            if best is not None and best[0] <= distance:
                break
            # To the right and to the left first: there a text is read together with its dot.
            angle = math.pi / 16 * ((step + 1) // 2 * (1 if step % 2 else -1))
            cos, middle = math.cos(angle), y + distance * math.sin(angle)
            end = x + distance * cos
            anchor = "start" if cos > 0.3 else "end" if cos < -0.3 else "middle"
            left = end - width * {"start": 0, "middle": 0.5, "end": 1}[anchor]
            box = _Box(left - 3, middle - _FONT / 2 - 1, left + width + 3, middle + _FONT / 2 + 1)
            if not self._is_free(box):
                continue
            line = _along(x, y, end, middle) if radius and distance > radius + 10 else []
            cost = distance + 8 * self._crossed(line, self.marks) + 100 * self._crossed(line, self.texts)
            if best is None or cost < best[0]:
                best = cost, (end, middle, anchor, box, line)
        if best is None:
            self.cost += math.inf
            return
        self.cost += best[0]
        end, middle, anchor, box, line = best[1]
        self.texts.append(box)
        self.marks += line
        if line:
            edge = radius / math.hypot(end - x, middle - y)
            yield _line(x + (end - x) * edge, y + (middle - y) * edge, end, middle, color, 0.7)
        yield _text(text, end, middle + _FONT / 3, anchor=anchor, color=color)

    def _is_free(self, box: _Box) -> bool:
        inside = box.left > _LEFT and box.right < WIDTH - _RIGHT and box.top > _TOP and box.bottom < HEIGHT - _BOTTOM
        return inside and not any(box.meets(other) for other in (*self.texts, *self.marks))

    @staticmethod
    def _crossed(line: Iterable[_Box], others: Iterable[_Box]) -> int:
        return sum(any(piece.meets(other) for other in others) for piece in line)


def draw(report: Mapping[str, Any]) -> str:
    """SVG of what `profile.measure` reports; empty of dots where costs or limits are not known."""
    memory = report["limits"].get("read")
    roofs = {kind: value for kind, value in report["limits"].items() if kind != "read"}
    dots = list(_dots(report)) if memory and roofs else []
    title = f"{report['model']}, {report['precision']}, {report['threads']} threads"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="{_FONT}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(title, _LEFT, 26, size=17),
    ]
    if memory and roofs:
        axes, labels = _Axes(dots, memory, roofs), _Labels()
        for dot in dots:
            x, y = axes.left(dot.intensity), axes.top(dot.rate)
            labels.marks.append(_Box(x - dot.radius, y - dot.radius, x + dot.radius, y + dot.radius))
        parts += [*_grid(axes), *_roofs(axes, labels, memory, roofs), *_marks(axes, labels, dots), *_legend(report)]
    else:
        parts.append(_text("the limits of this machine are not known", _LEFT, 50))
    return "\n".join([*parts, "</svg>\n"])


def _dots(report: Mapping[str, Any]) -> Iterator[_Dot]:
    """Kernels are called by where they stand in the model; by their own names where two stand at one place."""
    for phase in _COLORS:
        kernels = report[phase]["kernels"]
        rows = [row for row in kernels if row["share"] >= _LEAST_SHARE and row["bytes"] and row["operations"]]
        places = [", ".join(dict.fromkeys(place.rsplit("/", 1)[-1] for place in row["locations"])) for row in rows]
        for row, place in zip(rows, places):
            label = place if place and places.count(place) == 1 else row["kernel"]
            yield _Dot(phase, label, row["kernel"], row["operations"] / row["bytes"], row["gflops"], row["share"])


def _part(value: float, ends: tuple[float, float]) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


def _decades(ends: tuple[float, float]) -> list[float]:
    """Powers of ten within."""
    return [10.0**e for e in range(math.ceil(math.log10(ends[0])), math.floor(math.log10(ends[1])) + 1)]


def _grid(axes: _Axes) -> Iterator[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value in _decades(axes.x):
        x = axes.left(value)
        yield _line(x, _TOP, x, bottom, "#e3e3e3")
        yield _text(f"{value:g}", x, bottom + 18, anchor="middle")
    for value in _decades(axes.y):
        y = axes.top(value)
        yield _line(_LEFT, y, right, y, "#e3e3e3")
        yield _text(f"{value:g}", _LEFT - 8, y + 4, anchor="end")
    yield _line(_LEFT, bottom, right, bottom, "#666666")
    yield _line(_LEFT, _TOP, _LEFT, bottom, "#666666")
    yield _text("operations per byte", (_LEFT + right) / 2, HEIGHT - 16, anchor="middle")
    middle = (_TOP + bottom) / 2
    yield f'<g transform="rotate(-90 18 {middle:.1f})">{_text("GFLOP/s", 18, middle, anchor="middle")}</g>'


def _roofs(axes: _Axes, labels: _Labels, memory: float, roofs: Mapping[str, float]) -> Iterator[str]:
    """The memory's slope up to the highest roof, and every roof from the slope on, with numbers."""
    # The slope enters at the left border or at the bottom.
    begin, highest = max(axes.x[0], axes.y[0] / memory), max(roofs.values())
    slope = axes.left(begin), axes.top(begin * memory), axes.left(highest / memory), axes.top(highest)
    lines = {kind: (axes.left(roof / memory), axes.top(roof)) for kind, roof in roofs.items()}
    yield _line(*slope, _ROOF, 1.6)
    labels.marks += _along(*slope)
    for x, y in lines.values():
        yield _line(x, y, WIDTH - _RIGHT, y, _ROOF, 1.6)
        labels.marks += _along(x, y, WIDTH - _RIGHT, y)
    for kind, (_, y) in lines.items():
        yield from labels.place(f"{kind} {roofs[kind]:.0f} {_UNITS.get(kind, 'GFLOP/s')}", WIDTH - _RIGHT, y, 0, _ROOF)
    middle = begin * (min(roofs.values()) / memory / begin) ** 0.3
    yield from labels.place(f"memory {memory:.1f} GB/s", axes.left(middle), axes.top(middle * memory), 0, _ROOF)


def _marks(axes: _Axes, labels: _Labels, dots: Iterable[_Dot]) -> Iterator[str]:
    ordered = sorted(dots, key=lambda dot: -dot.share)
    for dot in ordered:
        color = _COLORS[dot.phase]
        yield (
            f'<circle cx="{axes.left(dot.intensity):.1f}" cy="{axes.top(dot.rate):.1f}" r="{dot.radius:.1f}" '
            f'fill="{color}" fill-opacity="0.55" stroke="{color}"><title>{escape(dot.kernel)}: {dot.share:.1%}</title>'
            "</circle>"
        )
    places = {dot: (axes.left(dot.intensity), axes.top(dot.rate)) for dot in ordered}

    def crowd(dot: _Dot) -> float:
        return -min((math.dist(places[dot], place) for other, place in places.items() if other != dot), default=0.0)

    best, least = [], math.nan
    for key in (crowd, lambda dot: -dot.share, lambda dot: dot.intensity):
        trial = _Labels(labels.marks, labels.texts)
        texts = [
            part
            for dot in sorted(ordered, key=key)
            for part in trial.place(dot.label, *places[dot], dot.radius, _COLORS[dot.phase])
        ]
        if not trial.cost >= least:
            best, least = texts, trial.cost
    yield from best


def _legend(report: Mapping[str, Any]) -> Iterator[str]:
    left = _LEFT
    for phase, color in _COLORS.items():
        values = report[phase]
        what = f"{values['tokens']} tokens" if phase == "prefill" else f"1 token after {values['past']}"
        text = f"{phase}, {what}: {values['seconds'] * 1e3:.2f} ms"
        yield f'<circle cx="{left + 6}" cy="45" r="6" fill="{color}" fill-opacity="0.55" stroke="{color}"/>'
        yield _text(text, left + 18, 49, color=color)
        left += 40 + _CHARACTER * len(text)
    yield _text(f"areas: share of the pass, {_LEAST_SHARE:.1%} at least", left, 49, color="#666666")


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1.0) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}" stroke-width="{width:g}" fill="none"/>'


def _text(text: str, x: float, y: float, *, anchor: str = "start", color: str = "#222222", size: int = _FONT) -> str:
    halo = 'stroke="white" stroke-width="3" paint-order="stroke" stroke-linejoin="round"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}" {halo}>'
        f"{escape(text)}</text>"
    )
