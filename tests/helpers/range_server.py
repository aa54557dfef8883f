"""A web server of a folder on loopback that knows ranges and misbehaves when told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RangeServer(ThreadingHTTPServer):
    """Serves ``folder``. ``misbehave(path, number)`` says how the number-th GET (from 0) of a path goes wrong.

    ``cut`` (the connection ends in the middle), ``busy`` (503), ``stall`` (the rest comes never), ``whole`` (ranges
    are not known), ``gone`` (404); anything else is answered well.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.misbehave: Callable[[str, int], str | None] = lambda path, number: None
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self._headers(path, path.stat().st_size)

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        number = self.server.asked[self.path]
        self.server.asked[self.path] += 1
        fault = self.server.misbehave(self.path, number)
        if fault == "busy":
            self.send_error(503)
            return
        if fault == "gone" or not path.is_file():
            self.send_error(404)
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted and fault != "whole":
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = int(first), min(int(last) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
            data = data[start:stop]
        else:
            self.send_response(200)
        self._headers(path, len(data))
        if fault in ("cut", "stall"):
            self._send(data[: len(data) // 2])
            if fault == "stall":
                self.server.closing.wait(20)
            self.close_connection = True
        else:
            self._send(data)

    def _headers(self, path: Path, length: int) -> None:
        self.send_header("Content-Length", str(length))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.server.sent[self.path] += len(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
