"""The progress line, watched through a pty: a small terminal emulator says what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PREAMBLE = "import sys, time, warnings\nfrom deepseek.cli import progress, main\nprogress._TICK_SECONDS = 0.02\n"
BAR = "for _ in progress.bar(range(4), 'runs'): time.sleep(0.05)"


@dataclass
class Terminal:
    """What a program wrote to a terminal, and the screens that it passed through."""

    raw: str
    status: int
    columns: int

    @property
    def screens(self) -> list[list[str]]:
        """The lines on the screen after each redrawn line; understands CR, LF, erase to the end, and colors."""
        seen, lines, place = [], [""], 0
        for token in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[^\x1b]", self.raw):
            if token == "\r":
                place = 0
            elif token == "\n":
                lines.append("")
                place = 0
            elif token == "\x1b[K":
                lines[-1] = lines[-1][:place]
                seen.append(list(lines))
            elif token.startswith("\x1b"):
                assert token.endswith("m"), f"unexpected escape {token!r}"
            else:
                lines[-1] = lines[-1][:place].ljust(place) + token + lines[-1][place + 1 :]
                place += 1
        return [*seen, lines]

    @property
    def final(self) -> str:
        """What stays on the screen."""
        return "\n".join(self.screens[-1]).rstrip()

    def shows(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for screen in self.screens for line in screen)


def watch(program: str, columns: int = 80, interrupt: str | None = None, **environment: str) -> Terminal:
    """Runs Python code whose stdout and stderr are a terminal; `interrupt`: Ctrl-C once this text is shown."""
    ended, end = os.pipe()
    leader, terminal = pty.fork()
    if leader == 0:
        # When the leader of a terminal's session ends, Linux drops what is still on its way to the reader: it waits.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ.pop("NO_COLOR", None)
            os.environ.update({"TERM": "xterm"} | environment)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, "-c", PREAMBLE + program])
        os.write(end, struct.pack("i", os.waitpid(child, 0)[1]))
        time.sleep(60)
        os._exit(1)
    shown, status, deadline = b"", None, time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            ready = select.select([terminal, ended] if status is None else [terminal], [], [], 0.1)[0]
            if ended in ready:
                (status,) = struct.unpack("i", os.read(ended, 4))
            if terminal in ready:
                shown += os.read(terminal, 65536)
            elif status is not None and not ready:
                break
            if interrupt and interrupt.encode() in shown:
                os.write(terminal, b"\x03")
                interrupt = None
    finally:
        os.kill(leader, signal.SIGKILL)
        os.waitpid(leader, 0)
        for file in (ended, end, terminal):
            os.close(file)
    assert status is not None, f"it did not end: {shown!r}"
    return Terminal(shown.decode(), os.waitstatus_to_exitcode(status), columns)


def test_task_shows_seconds_and_leaves_nothing() -> None:
    seen = watch("with progress.task('compiling smollm2-135m'): time.sleep(1.2)\nprint('done')")
    assert seen.shows(r"^compiling smollm2-135m \.\.\.$")
    assert seen.shows(r"^compiling smollm2-135m \.\.\. 1 s$")
    assert seen.final == "done" and seen.status == 0


def test_bar_counts_and_estimates() -> None:
    seen = watch("for _ in progress.bar(range(4), 'runs'): time.sleep(0.4)\nprint('done')")
    for done, filled in ((0, 0), (1, 6), (2, 12), (3, 18)):
        assert seen.shows(rf"^runs \[#{{{filled}}}\.{{{24 - filled}}}\] {done}/4")
    assert seen.shows(r"3/4  [01] s left$")
    assert seen.final == "done"


def test_bar_of_bytes() -> None:
    seen = watch(
        """with progress.bar(600_000_000, 'hashing', unit='B') as bar:
    for _ in range(5): bar.update(100_000_000); time.sleep(0.05)
with progress.bar(0, 'writing', unit='B') as bar:
    time.sleep(0.05); bar.reach(2_500, 5_000); time.sleep(0.05)"""
    )
    assert seen.shows(r"^hashing \[#{4}\.{20}\] 100\.0/600\.0 MB$")
    assert seen.shows(r"^writing \.\.\.$")  # the length is not known yet
    assert seen.shows(r"^writing \[#{12}\.{12}\] 2\.5/5\.0 kB$")
    assert seen.final == ""


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 40])
def test_narrow_terminals_never_wrap(columns: int) -> None:
    seen = watch(
        "with progress.task('compiling a model with a long name'): time.sleep(0.05)\n"
        "with progress.task('\\u6a21\\u578b' * 30): time.sleep(0.05)\n" + BAR,
        columns,
    )
    wide = {"\u6a21", "\u578b"}
    assert all(sum(2 if c in wide else 1 for c in line) < max(columns, 2) for screen in seen.screens for line in screen)
    assert seen.final == "" and seen.status == 0
    if columns >= 12:
        assert seen.shows(r"^runs (\[.*\] )?[1-4]/4|^runs \d+%")


def test_no_color_and_dumb_terminals() -> None:
    assert "\x1b[32m" in watch(BAR).raw
    assert not re.search(r"\x1b\[[0-9;]*m", watch(BAR, NO_COLOR="1").raw)
    dumb = watch("with progress.task('loading'): time.sleep(0.1)\n" + BAR, TERM="dumb")
    assert dumb.raw == "loading ...\r\nruns ...\r\n"  # the terminal's own line ends


def test_the_line_goes_before_errors_and_warnings() -> None:
    seen = watch("for _ in progress.bar(range(4), 'runs'):\n    time.sleep(0.1)\n    sys.exit('it broke')")
    assert seen.final == "it broke" and seen.status == 1
    seen = watch(
        """from deepseek import cli
with progress.task('loading'):
    time.sleep(0.1); cli._show_warning('mind this'); time.sleep(0.1)"""
    )
    assert seen.final == "deepseek: warning: mind this"
    seen = watch(
        """from deepseek import cli
progress._TICK_SECONDS = 0
sys.setswitchinterval(1e-6)
with progress.task('loading'):
    time.sleep(0.01)
    for number in range(300): cli._show_warning(number)"""
    )
    assert seen.final.splitlines() == [f"deepseek: warning: {number}" for number in range(300)]


def test_ctrl_c_cleans_the_line() -> None:
    seen = watch(
        """import deepseek.names
def wait(_):
    with progress.task('working'): time.sleep(30)
deepseek.names.find_model = wait
sys.exit(main(['inspect', 'm']))""",
        interrupt="working",
    )
    assert seen.status == 130
    assert seen.final in ("", "^C")


def test_nested_lines() -> None:
    seen = watch(
        "for _ in progress.bar(range(2), 'runs'):\n    with progress.task('inside'): time.sleep(0.1)\n    time.sleep(0.1)"
    )
    assert seen.shows("^inside") and seen.shows("^runs .* 1/2")
    assert not seen.shows("inside.*runs|runs.*inside")
    assert seen.final == ""


def test_names_cannot_move_the_cursor() -> None:
    seen = watch("with progress.task('a\\x1b[2Jb\\nc'): time.sleep(0.05)")
    assert seen.shows(r"^a\?\[2Jb\?c \.\.\.$")


def test_silent_when_piped_and_with_json(tmp_path: Path) -> None:
    program = PREAMBLE + "with progress.task('loading'): time.sleep(0.1)\n" + BAR
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert watch("progress.silence(True)\n" + BAR).raw == ""
    module = tmp_path / "m.mlir"
    module.write_text("module { func.func @main() { return } }\n")
    seen = watch(f"sys.exit(main(['inspect', {str(module)!r}, '--json']))")
    assert seen.status == 0 and seen.raw.startswith("{") and seen.raw.count("\n") == 1


def test_a_terminal_that_goes_away_stops_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "finished"
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        program = f"{PREAMBLE}import pathlib\n{BAR}\npathlib.Path({str(mark)!r}).touch()"
        os.execv(sys.executable, [sys.executable, "-c", program])
    os.read(terminal, 1)
    os.close(terminal)
    os.waitpid(child, 0)
    assert mark.exists()
