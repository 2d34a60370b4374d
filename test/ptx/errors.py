"""The one exception of the emulator: it names the instruction, the thread and what was wrong."""

from __future__ import annotations


class PtxError(Exception):
    """A kernel did something that the PTX ISA forbids, or that the emulator does not know.

    `line` is the 1-based line of the PTX text, `text` the instruction there; both are filled in by the run loop.
    """

    def __init__(self, message: str, line: int | None = None, text: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.text = message, line, text

    def __str__(self) -> str:
        if not self.line:
            return self.message
        text = self.text if len(self.text) < 160 else f"{self.text[:150]} ..."
        return f"line {self.line}: {text}: {self.message}"


class Unsupported(PtxError):  # noqa: N818
    """An instruction or a form of it that the emulator does not implement."""
