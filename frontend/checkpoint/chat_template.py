"""Renders chat templates in a process of its own, which is started at the first use and kept.

The process bounds the time and the memory that a template takes (`template_worker.py`).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from deepseek.errors import CheckpointError, DeepseekError
from deepseek.frontend.checkpoint.template_worker import CPU_SECONDS

__all__ = ["render_chat"]

_SCRIPT = Path(__file__).with_name("template_worker.py")


def render_chat(template: str, variables: dict[str, Any]) -> str:
    """The text of `template` with `variables`, which are plain JSON values.

    Raises `CheckpointError` for a template that fails or takes too much, `DeepseekError` when jinja2 is missing.
    """
    reply = _WORKER.ask({"template": template, "variables": variables})
    if "error" in reply:
        raise CheckpointError(f"the chat template cannot be rendered: {reply['error']}")
    return reply["text"]


class _Worker:
    """The process, or none yet. Calls from several threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # after a fork, the parent's process must not be talked to
        atexit.register(self.stop)

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            process = self._running()
            reply = b""
            try:
                process.stdin.write(line)
                process.stdin.flush()
                reply = process.stdout.readline()
            except OSError:  # it ended while we wrote
                pass
            except BaseException:  # Ctrl-C: the reply of this request must not answer the next one
                self.stop()
                raise
            if reply.endswith(b"\n"):
                return json.loads(reply)
            code = process.wait()
            self._process = None
        if code == -signal.SIGPROF:
            return {"error": f"it takes more than {CPU_SECONDS:g} seconds"}
        return {"error": f"its process ended with code {code}"}

    def stop(self) -> None:
        """Ends the process, if it is ours."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self.stop()
        # The process starts isolated: PYTHONPATH and the current folder do not count, so it is told where to look.
        folders = [_folder_of(package) for package in ("jinja2", "markupsafe")]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT), *folders],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us
            )
        except OSError as error:
            raise DeepseekError(f"the process for chat templates cannot be started: {error}") from None
        self._owner = os.getpid()
        return self._process


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DeepseekError("chat templates need jinja2: pip install jinja2")
    return str(Path(spec.origin).parent.parent)


_WORKER = _Worker()
