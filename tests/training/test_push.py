"""Pushing a model to a hub, one on the loopback address."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clipsift_common.errors import ClipsiftError
from training.push import push_model


class Hub:
    """Takes repositories and commits as the Hugging Face Hub does, all files as regular ones."""

    def __init__(self) -> None:
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                return b"".join(parts)

            def do_GET(self) -> None:
                self.reply(200, {"id": "user/model", "sha": "0" * 40, "siblings": []})

            def do_POST(self) -> None:
                body = self.body()
                if self.path == "/api/repos/create":
                    hub.made.append(json.loads(body))
                    self.reply(200, {"url": f"{hub.endpoint}/user/model", "id": "user/model"})
                elif "/preupload/" in self.path:
                    names = [file["path"] for file in json.loads(body)["files"]]
                    modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                    self.reply(200, {"files": modes})
                elif "/commit/" in self.path:
                    for line in body.splitlines():
                        entry = json.loads(line)
                        if entry["key"] == "file":
                            hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                    commit = {"commitUrl": f"{hub.endpoint}/user/model/commit/1", "commitOid": "1", "success": True}
                    self.reply(200, commit)
                else:
                    self.reply(404, {"error": self.path})

            def reply(self, status: int, value: dict) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "of-this-test")
    threading.Thread(target=hub.server.serve_forever, args=(0.01,), daemon=True).start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_the_folder_arrives_whole(hub, tmp_path):
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (tmp_path / "open_clip_model.safetensors").write_bytes(bytes(range(256)) * 10)
    assert push_model(tmp_path, "user/model").startswith(hub.endpoint)
    assert hub.made[0]["name"] == "model"
    assert hub.made[0].get("private") is True or hub.made[0].get("visibility") == "private"  # by the library's age
    assert hub.files == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ClipsiftError, match=r"hub: user/model cannot be written .* start again to push it"):
        push_model(tmp_path, "user/model")
