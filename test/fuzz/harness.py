"""Runs a reader on damaged inputs in forked processes and names whatever is neither success nor a `DeepseekError`.

A worker writes the number of the input that it begins into shared memory, so that its parent knows which input
ended it by a signal, used too much processor time, or waited for ever. Input `index` of a run depends on
(reader, seed, index) alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import random
import re
import resource
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deepseek.errors import DeepseekError

CPU_SECONDS = 5.0  # of processor time that one input may take
WALL_SECONDS = 60.0  # for an input that waits: generous, since the machine may be busy
MEMORY_BYTES = 4 << 30
_BROKEN = 70  # exit status of a worker whose harness failed, not the reader
_BATCH = 500  # inputs per process: what leaks stays small
_STATE = struct.Struct("<qd")  # index of the input in work, processor time at its begin
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")


class Reader(ABC):
    """One entry of the system for data from outside."""

    name: str
    summary: str
    count = 1000  # inputs of the run within `make test`

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Makes the seeds once, before workers are forked; `folder` lasts as long as the run."""

    @abstractmethod
    def damaged(self, draw: random.Random) -> bytes:
        """One input."""

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Inputs that must be read without any error."""

    def stack(self, data: bytes, folder: Path) -> str:
        """Frames of an input that has ended its process, as LLVM prints them, where Python sees only its own."""
        return ""

    def foreign(self, signature: str) -> bool:
        """Whether a failure is in code that is not ours; it is reported but fails no run."""
        return False

    @abstractmethod
    def read(self, data: bytes, folder: Path) -> None:
        """Reads one input; `folder` is the worker's own, on a memory file system where there is one."""


@dataclass
class Failure:
    """Inputs that ended in the same way; `data` is the smallest of them."""

    signature: str
    detail: str
    index: int
    data: bytes
    count: int = 1


@dataclass
class Report:
    """What a run found."""

    reader: str
    seed: int
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    failures: dict[str, Failure] = field(default_factory=dict)

    def add(self, failure: Failure) -> None:
        """Merges a failure with those of the same signature."""
        known = self.failures.setdefault(failure.signature, failure)
        if known is failure:
            return
        known.count += 1
        if len(failure.data) < len(known.data):
            known.index, known.data, known.detail = failure.index, failure.data, failure.detail


def make(reader: Reader, seed: int, index: int) -> bytes:
    """Input `index` of the run with `seed`."""
    return reader.damaged(random.Random(f"{reader.name}:{seed}:{index}"))


def run(
    reader: Reader,
    seed: int,
    begin: int,
    count: int,
    jobs: int = 1,
    progress: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Runs inputs [begin, begin + count) on `jobs` processes; `reader` is prepared already."""
    report, start = Report(reader.name, seed), time.monotonic()
    pending = [(at, min(at + _BATCH, begin + count)) for at in range(begin, begin + count, _BATCH)][::-1]
    workers: list[_Worker] = []
    try:
        while pending or workers:
            while pending and len(workers) < jobs:
                workers.append(_Worker(reader, *pending.pop(), lambda index: make(reader, seed, index)))
            for worker in _ready(workers):
                rest = worker.collect(report)
                if worker.ended:
                    workers.remove(worker)
                if rest is not None:
                    pending.append(rest)
            report.seconds = time.monotonic() - start
            progress(report)
    finally:
        for worker in workers:
            worker.end()
    return report


def run_inputs(reader: Reader, inputs: list[bytes]) -> Report:
    """Runs given inputs instead of made ones; a failure's index counts them."""
    report, rest = Report(reader.name, 0), (0, len(inputs))
    while rest is not None and rest[0] < rest[1]:
        worker = _Worker(reader, *rest, inputs.__getitem__)
        rest = None
        while not worker.ended:
            _ready([worker])
            rest = worker.collect(report)
    return report


def refusals(reader: Reader, inputs: list[bytes]) -> list[str]:
    """Why each input is not read, "" where it is."""

    def read() -> list[bytes]:
        reasons = []
        with tempfile.TemporaryDirectory(prefix="dsc-fuzz-") as folder:
            for data in inputs:
                try:
                    reader.read(data, Path(folder))
                    reasons.append(b"")
                except Exception as error:
                    reasons.append(f"{type(error).__name__}: {error}".encode())
        return reasons

    return [reason.decode() for reason in in_child(read)]


def _ready(workers: list[_Worker]) -> list[_Worker]:
    readable, _, _ = select.select(workers, [], [], 0.25)
    return [worker for worker in workers if worker in readable or worker.overdue()]


class _Worker:
    """A forked process that reads inputs [begin, end)."""

    def __init__(self, reader: Reader, begin: int, end: int, source: Callable[[int], bytes]) -> None:
        self.reader, self.begin, self.end_index, self.source = reader, begin, end, source
        self.state = mmap.mmap(-1, _STATE.size)
        self.state[:] = _STATE.pack(begin, 0.0)
        self.folder = Path(tempfile.mkdtemp(prefix="dsc-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.log = self.folder.with_name(self.folder.name + ".log")
        self.pipe, write = os.pipe()
        self.reported = begin - 1  # the last input that an exception ended
        self.seen, self.since = begin, time.monotonic()
        self.ended = False
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            self._work(reader, write)
        os.close(write)

    def fileno(self) -> int:
        return self.pipe

    def _work(self, reader: Reader, write: int) -> None:
        """In the child: never returns."""
        code = _BROKEN
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            for descriptor in (1, 2):
                os.dup2(log, descriptor)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
            faulthandler.enable(log, all_threads=False)
            faulthandler.register(signal.SIGUSR1, log, all_threads=False)
            for index in range(self.begin, self.end_index):
                data = self.source(index)
                os.ftruncate(log, 0)
                self.state[:] = _STATE.pack(index, time.process_time())
                outcome = _outcome(reader, data, self.folder)
                os.write(write, (json.dumps([index, *outcome]) + "\n").encode())
            code = 0
        except BaseException:  # a bug of the harness or of a seed, told through the log
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def overdue(self) -> bool:
        """Whether the input in work has used up its time."""
        index, before = _STATE.unpack(self.state[:])
        if index != self.seen:
            self.seen, self.since = index, time.monotonic()
        return _cpu_seconds(self.pid) - before > CPU_SECONDS or time.monotonic() - self.since > WALL_SECONDS

    def collect(self, report: Report) -> tuple[int, int] | None:
        """Takes what there is to know; returns the inputs that are left when the process has ended early."""
        late = self.overdue()
        if late:
            os.kill(self.pid, signal.SIGUSR1)  # writes where it is
            time.sleep(0.2)
            os.kill(self.pid, signal.SIGKILL)
        text = b""
        while chunk := os.read(self.pipe, 1 << 16):
            text += chunk
            if not late and text.endswith(b"\n"):
                break
        for line in text.splitlines():
            index, accepted, signature, detail = json.loads(line)
            report.inputs += 1
            report.accepted += accepted
            self.reported = index
            if signature:
                report.add(Failure(signature, detail, index, self.source(index)))
        if chunk and not late:
            return None
        _, status = os.waitpid(self.pid, 0)
        log = self.log.read_text(errors="replace") if self.log.exists() else ""
        index, _ = _STATE.unpack(self.state[:])
        if status and not late:
            log += self.reader.stack(self.source(index), self.folder)
        self.end()
        if status == 0:
            return None
        if os.waitstatus_to_exitcode(status) == _BROKEN or self.reported >= index:
            raise RuntimeError(f"{report.reader}: the harness failed near input {index}:\n{log[-2000:]}")
        name = "hang" if late else _ending(os.waitstatus_to_exitcode(status))
        report.inputs += 1
        report.add(Failure(f"{name}: {_where(log)}", log[-4000:], index, self.source(index)))
        return (index + 1, self.end_index) if index + 1 < self.end_index else None

    def end(self) -> None:
        """Removes what the worker has left."""
        if self.ended:
            return
        self.ended = True
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.pipe)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.log.unlink(missing_ok=True)


class DiedError(Exception):
    """A program that a reader started was ended by a signal, or ran too long; `log` is its stderr."""

    def __init__(self, status: int, log: str) -> None:
        super().__init__(f"ended by {_ending(status)}\n{log[-4000:]}")
        self.signature = f"{_ending(status)}: {_where(log)}"


def in_child(function: Callable[[], list[bytes]]) -> list[bytes]:
    """Calls `function` in a forked process: threads and locks that it leaves behind would be lost in workers."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as file:
                for data in function():
                    file.write(struct.pack("<Q", len(data)) + data)
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        content = file.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the seeds could not be made")
    results = []
    while content:
        (size,) = struct.unpack_from("<Q", content)
        results.append(content[8 : 8 + size])
        content = content[8 + size :]
    return results


def _outcome(reader: Reader, data: bytes, folder: Path) -> tuple[bool, str, str]:
    """(accepted, signature, detail); the last two are empty unless the reader failed."""
    try:
        reader.read(data, folder)
    except DeepseekError as error:
        text = str(error)
        if not text.strip():
            return False, f"{type(error).__name__} without a message", traceback.format_exc()[-4000:]
        return False, "", ""
    except DiedError as error:
        return False, error.signature, str(error)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/fuzz/" not in f.filename]
        ours = [f for f in frames if "deepseek" in f.filename or "frontend" in f.filename]
        frame = (ours or frames or traceback.extract_tb(error.__traceback__))[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        return False, f"{type(error).__name__} at {where}", traceback.format_exc()[-4000:]
    return True, "", ""


def _ending(status: int) -> str:
    """An exit status as subprocess counts it: negative for a signal."""
    return signal.Signals(-status).name if status < 0 else f"exit {status}"


def _where(log: str) -> str:
    """One line of a dead process's last words: an assertion or fatal error, and the innermost frame of our own."""
    lines = log.splitlines()
    patterns = ("Assertion `", "LLVM ERROR", "UNREACHABLE", "terminate called")
    said = next((line for line in lines if any(pattern in line for pattern in patterns)), "")
    found = [_NUMBERS.sub("N", said.rpartition(": ")[2] if "Assertion" in said else said)[:160]] if said else []
    frames = [match[1] for line in lines if (match := re.match(r" *#\d+ 0x[0-9a-f]+ ([^(].*)", line))]
    frame = next((frame for frame in frames if "mlir::dsc::" in frame or "dsc_rt" in frame), "")
    if not frame:  # upstream all the way down: name the place that failed
        system = re.compile(
            r"Signals\.cpp|PrintStackTrace|SignalHandler|libc\.so|pthread|raise|abort|__assert|_nl_load|llvm::report|/sig"
        )
        frame = next((frame for frame in frames if not system.search(frame)), "")
    if not frame:
        frame = next((line.strip() for line in lines if line.lstrip().startswith('File "')), "no message")
        frame = frame[frame.rfind("/") + 1 :]
    return " in ".join([*found, frame.partition("(")[0] if "(anonymous" not in frame else frame[:120]])


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def prepared(reader: Reader) -> Iterator[Reader]:
    """The reader with its seeds made; caches go to a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="dsc-fuzz-seeds-") as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        os.environ["DEEPSEEK_CACHE_MAX_BYTES"] = "0"
        (Path(folder) / "seeds").mkdir()
        reader.prepare(Path(folder) / "seeds")
        yield reader


def smaller(reader: Reader, failure: Failure, rounds: int = 400) -> Failure:
    """The failure with parts of its input removed as long as the same signature remains."""
    data, text = failure.data, failure.data.decode("utf-8", "surrogateescape")
    unit = text.splitlines(keepends=True) if "\n" in text and "\0" not in text else list(map(chr, data))
    encode: Callable[[list[str]], bytes] = (
        (lambda parts: "".join(parts).encode("utf-8", "surrogateescape"))
        if "\n" in text and "\0" not in text
        else (lambda parts: bytes(map(ord, parts)))
    )
    chunk = max(len(unit) // 2, 1)
    while chunk and rounds:
        at, shrunk = 0, False
        while at < len(unit) and rounds:
            rounds -= 1
            candidate = unit[:at] + unit[at + chunk :]
            found = run_inputs(reader, [encode(candidate)]).failures
            if failure.signature in found:
                unit, failure, shrunk = candidate, found[failure.signature], True
            else:
                at += chunk
        chunk = chunk if shrunk and chunk == 1 else chunk // 2
    return failure
