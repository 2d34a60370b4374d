"""A small key-value store over TCP, for what processes must tell each other before they have collectives.

`get` waits for a key, so the order of the processes does not matter. `torch.distributed`'s stores have the same `set`
and `get`. It listens on the loopback address unless it is told another, and has no secrets: pass another address only
within a network that you trust.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time

from deepseek.errors import ExecutionError

__all__ = ["TcpStore"]

_SET, _GET = 1, 2
_REQUEST = struct.Struct("<BIQd")  # what, bytes of the key, bytes of the value, seconds to wait
_REPLY = struct.Struct("<BQ")  # 1: there is a value, its bytes
_MOST_KEY, _MOST_VALUE = 1 << 10, 16 << 20
_RETRY_SECONDS = 0.05


class TcpStore:
    """Keys and values (bytes) of several processes; rank 0 serves them at `host`:`port`, the others connect.

    With port 0 rank 0 takes a free one: `port` tells it. A process that connects waits up to `timeout` seconds for rank
    0, and `get` as long for a key; both raise ExecutionError then.
    """

    host: str
    port: int

    def __init__(self, port: int, rank: int, *, host: str = "127.0.0.1", timeout: float = 300.0) -> None:
        self.host, self.port, self.timeout = host, port, timeout
        self._server: _Server | None = None
        if rank == 0:
            try:
                self._server = _Server((host, port), _Handler)
            except OSError as error:
                raise ExecutionError(f"rank 0 cannot listen at {host}:{port}: {error.strerror or error}") from error
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        elif port == 0:
            raise ExecutionError("only rank 0 can take a free port: pass its number to the others")

    def __enter__(self) -> TcpStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server of rank 0, which others may still need; they have nothing to end."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def set(self, key: str, value: bytes) -> None:
        """Store a value, in place of an earlier one."""
        self._ask(_SET, key, bytes(value))

    def get(self, key: str) -> bytes:
        """The value of a key, as soon as there is one."""
        value = self._ask(_GET, key, b"")
        if value is None:
            raise ExecutionError(f"no process has set {key!r} in {self.timeout:g} s: are all ranks running?")
        return value

    def _ask(self, what: int, key: str, value: bytes) -> bytes | None:
        name = key.encode()
        if len(name) > _MOST_KEY or len(value) > _MOST_VALUE:
            raise ExecutionError(f"a key may have {_MOST_KEY} bytes and a value {_MOST_VALUE}")
        with self._connect() as connection:
            try:
                connection.sendall(_REQUEST.pack(what, len(name), len(value), self.timeout) + name + value)
                found, size = _REPLY.unpack(_receive(connection, _REPLY.size))
                if size > _MOST_VALUE:
                    raise EOFError(f"it answers with {size} bytes")
                return _receive(connection, size) if found else None
            except (OSError, EOFError) as error:
                raise ExecutionError(f"the store at {self.host}:{self.port} is gone: {error}") from error

    def _connect(self) -> socket.socket:
        end = time.monotonic() + self.timeout
        while True:
            try:
                return self._connect_once(max(end - time.monotonic(), _RETRY_SECONDS))
            except OSError as error:
                if time.monotonic() > end:
                    where = f"{self.host}:{self.port}"
                    raise ExecutionError(f"rank 0 is not at {where} after {self.timeout:g} s: {error}") from error
                time.sleep(_RETRY_SECONDS)

    def _connect_once(self, seconds: float) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), seconds)
        if connection.getsockname() == connection.getpeername():
            # TCP connects a socket to itself where its own port, a free one, is the one that it asks for.
            connection.close()
            raise ConnectionRefusedError("nobody listens")
        connection.settimeout(self.timeout + 10)  # the server answers within `timeout`
        return connection


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(address, handler)
        self.values: dict[bytes, bytes] = {}
        self.changed = threading.Condition()

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client that ends early is its own business."""


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One request per connection."""
        with contextlib.suppress(OSError, EOFError):
            what, key_size, value_size, seconds = _REQUEST.unpack(_receive(self.request, _REQUEST.size))
            if key_size > _MOST_KEY or value_size > _MOST_VALUE:
                return
            key, value = _receive(self.request, key_size), _receive(self.request, value_size)
            with self.server.changed:
                if what == _SET:
                    self.server.values[key] = value
                    self.server.changed.notify_all()
                else:
                    self.server.changed.wait_for(lambda: key in self.server.values, seconds)
                found = self.server.values.get(key) if what == _GET else b""
            self.request.sendall(_REPLY.pack(found is not None, len(found or b"")) + (found or b""))


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError("the connection ended")
        parts += part
    return bytes(parts)
