"""One line on the terminal about work that takes long; nothing at all when stderr is not a terminal.

with progress.task("compiling smollm2-135m"):            compiling smollm2-135m ... 3 s
for x in progress.bar(items, "runs"):                    runs [######......] 3/6  12 s left
with progress.bar(size, "hashing", unit="B") as bar:     hashing [######......] 0.3/0.6 GB  2 s left
    bar.update(len(block))
"""

from __future__ import annotations

import os
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sized
from typing import Any

__all__ = ["Line", "bar", "clear", "message", "silence", "task"]

_TICK_SECONDS = 0.2
_BAR_COLUMNS = 24
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))

_lock = threading.RLock()
_open: list[Line] = []  # the innermost is shown
_silent = False
_shown = False  # the terminal's last line is ours


def silence(silent: bool) -> None:
    """With True nothing is shown from now on: the caller wants machine-readable output."""
    global _silent
    _silent = silent


def task(text: str) -> Line:
    """A context manager that shows `text` and the seconds since it began."""
    return Line(text)


def bar(items: Iterable[Any] | int, text: str, unit: str = "") -> Line:
    """A bar over `items` (iterate over the result), or of a known total (`update` it); `unit` "B" is bytes."""
    if isinstance(items, int):
        return Line(text, items, unit)
    return Line(text, len(items) if isinstance(items, Sized) else None, unit, items)


def message(text: str) -> None:
    """Prints `text` on stderr in place of the line, which comes back below with the next change."""
    with _lock:  # a thread draws the line
        clear()
        print(text, file=sys.stderr)


def clear() -> None:
    """Erases the line; it comes back with the next change."""
    global _shown
    with _lock:
        if _shown:
            _write("\r\033[K")
            _shown = False


class Line:
    """What `task` and `bar` return. `total` None is an unknown length; it may be set later."""

    def __init__(self, text: str, total: int | None = None, unit: str = "", items: Iterable[Any] = ()) -> None:
        self.text, self.total, self.unit, self.done = text, total, unit, 0
        self._items, self._finished = items, threading.Event()
        self._thread: threading.Thread | None = None
        self._line = ""

    def __enter__(self) -> Line:
        self._begin = self._drawn = time.monotonic()
        if _silent or not sys.stderr.isatty():
            return self
        if os.environ.get("TERM", "dumb") == "dumb":  # it cannot take a line back: one plain line, no escapes
            _write(f"{_printable(self.text)} ...\n")
            return self
        try:
            with _lock:
                _open.append(self)
                self._draw()
            self._thread = threading.Thread(target=self._tick, daemon=True, name="progress")
            self._thread.start()
        except BaseException:  # Ctrl-C can come this early, and __exit__ is not called then
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        with _lock:
            if self in _open:
                _open.remove(self)
                clear()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self._items:
                yield item
                self.update()

    def update(self, amount: int = 1) -> None:
        """`amount` more items or bytes are done."""
        self.reach(self.done + amount, self.total)

    def reach(self, done: int, total: int | None) -> None:
        """`done` of `total` items or bytes are done."""
        self.done, self.total = done, total
        if self._thread is not None and time.monotonic() - self._drawn >= _TICK_SECONDS:
            self._draw()

    def _tick(self) -> None:
        while not self._finished.wait(_TICK_SECONDS):
            self._draw()

    def _draw(self) -> None:
        global _shown
        with _lock:
            if not _open or _open[-1] is not self:
                return
            self._drawn = time.monotonic()
            line = self._render(_columns() - 1)  # the last column would wrap on some terminals
            if line == self._line and _shown:
                return
            self._line, _shown = line, True  # before it is: Ctrl-C can come in between
            _write(f"\r{line}\033[K")

    def _render(self, columns: int) -> str:
        elapsed = time.monotonic() - self._begin
        text = _printable(self.text)
        if not self.total:
            return _fit(text, f" ... {_duration(elapsed)}" if elapsed >= 1 else " ...", columns)
        part = min(self.done / self.total, 1.0)
        left = f"  {_duration(elapsed * (1 / part - 1))} left" if self.done and part < 1 and elapsed >= 1 else ""
        end = f" {self._amount()}{left}"
        cells = min(_BAR_COLUMNS, columns - _width(text) - len(end) - 3)
        if cells < 4:  # a narrow terminal: the numbers say more
            return _fit(text, end if _width(text) + len(end) <= columns else f" {part:.0%}", columns)
        filled = int(part * cells)
        drawn, rest = "#" * filled, "." * (cells - filled)
        if os.environ.get("NO_COLOR"):
            return f"{text} [{drawn}{rest}]{end}"
        return f"{text} [\033[32m{drawn}\033[0m{rest}]{end}"

    def _amount(self) -> str:
        if self.unit != "B":
            return f"{self.done}/{self.total} {self.unit}".rstrip()
        scale, name = next(((s, n) for s, n in _UNITS if (self.total or 0) >= s), (1, "B"))
        return f"{self.done / scale:.{int(scale > 1)}f}/{(self.total or 0) / scale:.{int(scale > 1)}f} {name}"


def _write(text: str) -> None:
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(True)  # the terminal has gone, the work goes on


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def _fit(text: str, end: str, columns: int) -> str:
    """`text` cut to leave room for `end`; on the narrowest terminals `end` goes first."""
    if _width(text) + len(end) <= columns:
        return text + end
    room = columns - len(end) if columns >= 2 * len(end) else columns
    end = end if columns >= 2 * len(end) else ""
    while text and _width(text) > room:
        text = text[:-1]
    return text + end


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d} h"
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"
