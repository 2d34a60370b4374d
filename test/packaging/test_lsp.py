"""dsc-lsp-server, spoken to as an editor does: JSON-RPC with headers over stdin and stdout."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

URI = "file:///f.mlir"
# 0-based line 2 holds the error: the minimum of a dimension is negative.
TEXT = """\
func.func @f() -> index {
  %good = dsc.dim "b" : index
  %0 = dsc.dim "b" {min = -1 : i64} : index
  return %0 : index
}
"""


class Editor:
    """One session with a server; every wait ends when the server does."""

    def __init__(self, server: Path) -> None:
        self.process = subprocess.Popen([str(server)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.next_id = 0

    def send(self, method: str, parameters: Any, **fields: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", "method": method, "params": parameters, **fields}).encode()
        assert self.process.stdin
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout
        length = 0
        while line := self.process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        assert length, "the server ended"
        return json.loads(self.process.stdout.read(length))

    def notified(self, method: str) -> dict[str, Any]:
        while (message := self.receive()).get("method") != method:
            pass
        return message["params"]

    def request(self, method: str, parameters: Any) -> Any:
        self.next_id += 1
        self.send(method, parameters, id=self.next_id)
        while (message := self.receive()).get("id") != self.next_id:
            pass
        assert "error" not in message, message
        return message["result"]


@pytest.fixture
def editor(tool: Callable[[str], Path]) -> Iterator[Editor]:
    editor = Editor(tool("dsc-lsp-server"))
    try:
        yield editor
    finally:
        editor.process.kill()
        editor.process.communicate()


def test_diagnostics_hover_and_shutdown(editor: Editor) -> None:
    found = editor.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
    assert found["capabilities"]["hoverProvider"] is True
    editor.send("initialized", {})
    document = {"uri": URI, "languageId": "mlir", "version": 1, "text": TEXT}
    editor.send("textDocument/didOpen", {"textDocument": document})
    published = editor.notified("textDocument/publishDiagnostics")
    assert published["uri"] == URI
    (diagnostic,) = published["diagnostics"]
    assert diagnostic["message"] == "'dsc.dim' op min must not be negative, got: -1"
    assert diagnostic["severity"] == 1 and diagnostic["range"]["start"]["line"] == 2

    mended = [{"text": TEXT.replace("-1", "1")}]
    editor.send("textDocument/didChange", {"textDocument": {"uri": URI, "version": 2}, "contentChanges": mended})
    assert editor.notified("textDocument/publishDiagnostics")["diagnostics"] == []
    place = {"textDocument": {"uri": URI}, "position": {"line": 1, "character": 12}}
    hover = editor.request("textDocument/hover", place)
    assert '"dsc.dim"' in hover["contents"]["value"] and "index" in hover["contents"]["value"]

    editor.request("shutdown", None)
    editor.send("exit", None)
    assert editor.process.wait(timeout=10) == 0


def test_help(tool: Callable[[str], Path]) -> None:
    done = subprocess.run([str(tool("dsc-lsp-server")), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OVERVIEW: MLIR LSP Language Server")
