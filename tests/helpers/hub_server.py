"""A Hugging Face Hub in small, on the loopback address: dataset repositories out of a folder, faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".tar", ".zip", ".parquet")  # what the hub keeps in LFS: found by SHA-256, served from elsewhere


class Hub:
    """Serves ``folder/<user>/<repository>/...``; use as a context manager.

    ``faults[path]`` is what happens to the next requests for the content of ``user/repository/file``, one word each:
    ``cut`` (the line breaks in the middle), a status (``503``), ``garble`` (another byte at the front), ``ok``.
    ``requests`` lists (path, Range header) of all requests for contents, ``listings`` all repositories asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.extra: dict[str, list[dict]] = defaultdict(list)  # entries that a repository's listing has in addition
        self.requests: list[tuple[str, str | None]] = []
        self.listings: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self.elsewhere = f"http://localhost:{self._server.server_port}/elsewhere"  # another host, by name

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def revision(self, repository: str) -> str:
        return hashlib.sha1(repository.encode()).hexdigest()

    def listing(self, repository: str) -> dict:
        entries = []
        for path in sorted((self.folder / repository).rglob("*")):
            if path.is_file():
                name, data = path.relative_to(self.folder / repository).as_posix(), path.read_bytes()
                entry = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
                if path.suffix in LARGE:
                    entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
                entries.append(entry)
        # The hub's own administration is always there; it must not be fetched.
        entries.append({"rfilename": ".gitattributes", "size": 3, "blobId": git_hash(b"abc")})
        return {"id": repository, "sha": self.revision(repository), "siblings": entries + self.extra[repository]}

    def tree(self, repository: str, folder: str, recursive: bool) -> list[dict] | None:
        """The entries of a folder of a repository, as the hub's ``tree`` lists them; None when it is not there."""
        root = self.folder / repository
        if not (root / folder).is_dir():
            return None
        entries: list[dict] = []
        for path in sorted((root / folder).rglob("*") if recursive else (root / folder).iterdir()):
            entry: dict = {"path": path.relative_to(root).as_posix(), "size": 0, "type": "directory", "oid": "0" * 40}
            if path.is_file():
                data = path.read_bytes()
                entry |= {"type": "file", "size": len(data), "oid": git_hash(data)}
                if path.suffix in LARGE:
                    digest = hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
            entries.append(entry)
        return entries

    def ranges(self, path: str) -> list[str | None]:
        return [header for asked, header in self.requests if asked == path]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.answer()

            def answer(self) -> None:
                path = unquote(urlsplit(self.path).path)
                if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(/revision/[^/]+)?", path):
                    self.list(match[1])
                elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+(?:/(.+))?", path):
                    self.tree(match[1], match[2] or "", "recursive=true" in self.path.lower())
                elif match := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                    self.resolve(match[1], match[3])
                elif path.startswith("/elsewhere/"):
                    self.content(path.removeprefix("/elsewhere/"), {})
                else:
                    self.reply(404, b"")

            def list(self, repository: str) -> None:
                hub.listings.append(repository)
                if fault := next(iter(hub.faults.get(repository, [])), None):
                    hub.faults[repository].pop(0)
                    self.reply(int(fault), b"")
                elif (hub.folder / repository).is_dir():
                    self.reply(200, json.dumps(hub.listing(repository)).encode(), {"Content-Type": "application/json"})
                else:
                    self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})

            def tree(self, repository: str, folder: str, recursive: bool) -> None:
                entries = hub.tree(repository, folder, recursive)
                if entries is None:
                    self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                else:
                    self.reply(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

            def resolve(self, repository: str, name: str) -> None:
                path = hub.folder / repository / name
                if not path.is_file():
                    self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
                    return
                data = path.read_bytes()
                headers = {"X-Repo-Commit": hub.revision(repository), "ETag": f'"{git_hash(data)}"'}
                if path.suffix in LARGE:
                    headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": hashlib.sha256(data).hexdigest()}
                    headers["Location"] = f"{hub.elsewhere}/{repository}/{name}"
                    self.reply(302, b"", headers)
                else:
                    self.content(f"{repository}/{name}", headers)

            def content(self, name: str, headers: dict[str, str]) -> None:
                data = (hub.folder / name).read_bytes()
                if self.command == "HEAD":
                    self.reply(200, data, headers)
                    return
                asked = self.headers.get("Range")
                hub.requests.append((name, asked))
                fault = hub.faults[name].pop(0) if hub.faults[name] else "ok"
                if fault.isdigit():
                    self.reply(int(fault), b"")
                    return
                if fault == "garble":
                    data = bytes([data[0] ^ 1]) + data[1:]
                status = 200
                if asked and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", asked)):
                    start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
                    headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
                    data, status = data[start:stop], 206
                self.reply(status, data, headers, cut=fault == "cut")

            def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

        return Handler


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
