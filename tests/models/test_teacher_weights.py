"""The Hub, played by a small server: what its answers become, and how fast."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_averysecrettoken"
CONFIG, WEIGHTS = b'{"model_type": "dinov2"}', b"weights"
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "owner/whole": {
        "config.json": CONFIG,
        "model.safetensors": WEIGHTS,
        "preprocessor_config.json": b'{"image_mean": [0, 0, 0]}',
        "code.py": b"raise SystemExit",
    },
    "owner/shards": {
        "config.json": CONFIG,
        "model.safetensors.index.json": b'{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}',
        "one.safetensors": b"1",
        "two.safetensors": b"2",
    },
    "owner/pickle": {"config.json": CONFIG, "pytorch_model.bin": b"pickle"},
    "owner/bare": {"README.md": b"hello"},
}

# One line of JSON per (model, revision): what came, or the error, and the seconds it took.
ASK = """
import json, sys, time
from gcbench.errors import GcbenchError
from gcbench.models.teacher_weights import find_model
for model, revision in json.loads(sys.argv[1]):
    start = time.perf_counter()
    try:
        files = find_model(model, revision)
        answer = {"revision": files.revision, "weights": [path.name for path in files.weights],
                  "config": dict(files.config), "preprocessor": dict(files.preprocessor),
                  "files": sorted(path.name for path in files.folder.iterdir())}
    except GcbenchError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer | {"seconds": time.perf_counter() - start}))
"""


class Hub(BaseHTTPRequestHandler):
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(self.path)
        api = self.path.startswith("/api/models/")
        path = self.path.removeprefix("/api/models/").strip("/")
        name = "/".join(path.split("/")[:2])
        rest = path.split("/")[2:]
        if name == "owner/gated":
            return self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        if name == "owner/down":
            return self.send(500, b"", {})
        if name not in REPOSITORIES:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT, "v1"):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if api:
            siblings = [{"rfilename": file} for file in REPOSITORIES[name]]
            return self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {})
        content = REPOSITORIES[name].get("/".join(rest[2:]))
        if content is None:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        etag = hashlib.sha1(content).hexdigest()
        return self.send(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, body)

    def send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(home: Path, port: int, *cases: tuple[str, str | None], offline: bool = False) -> list[dict[str, Any]]:
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(home),
        "HF_TOKEN": SECRET,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": str(int(offline)),
    }
    unwanted = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    kept = {key: value for key, value in os.environ.items() if key not in unwanted}
    run = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(cases)], env={**kept, **settings}, capture_output=True, text=True
    )
    assert SECRET not in run.stdout + run.stderr
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_model_is_downloaded_at_one_commit_and_kept(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    port = hub.server_address[1]
    whole, shards, tagged = ask(tmp_path, port, ("owner/whole", None), ("owner/shards", "v1"), ("owner/whole", "v1"))
    assert whole["revision"] == tagged["revision"] == COMMIT
    assert whole["config"] == {"model_type": "dinov2"} and whole["preprocessor"] == {"image_mean": [0, 0, 0]}
    assert whole["files"] == ["config.json", "model.safetensors", "preprocessor_config.json"]  # and no code
    assert shards["weights"] == ["one.safetensors", "two.safetensors"] and shards["preprocessor"] == {}

    Hub.asked.clear()
    (pinned,) = ask(tmp_path, port, ("owner/whole", COMMIT))
    assert pinned["revision"] == COMMIT and not Hub.asked  # a commit never changes: nobody is asked

    closed = 9  # nothing listens there
    for where, offline in ((closed, False), (port, True)):
        (kept,) = ask(tmp_path, where, ("owner/whole", None), offline=offline)
        assert kept["revision"] == COMMIT and kept["seconds"] < 5


def test_what_the_hub_does_not_have_is_named_at_once(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    cases = {
        ("owner/unknown", None): ("InputError", "no model 'owner/unknown'"),
        ("owner/whole", "v2"): ("InputError", "no revision 'v2'"),
        ("owner/gated", None): ("InputError", "licence"),
        ("owner/pickle", None): ("InputError", "only pytorch_model.bin, which can run code"),
        ("owner/bare", None): ("InputError", "no config.json"),
        ("owner/down", None): ("DataError", "did not give it (HfHubHTTPError)"),
        ("a b", None): ("InputError", "neither a folder nor an id"),
        ("owner/name/more", None): ("InputError", "no such folder"),
    }
    for answer, (kind, message) in zip(ask(tmp_path, hub.server_address[1], *cases), cases.values(), strict=True):
        assert answer["error"] == kind and message in answer["message"]
        assert answer["seconds"] < 5


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_network_the_ways_out_are_named(tmp_path: Path, offline: bool) -> None:
    (answer,) = ask(tmp_path, 9, ("owner/whole", None), offline=offline)
    assert answer["error"] == "DataError" and answer["seconds"] < 5
    for word in ("owner/whole", "hf download owner/whole", "folder", "teacher.name=classical"):
        assert word in answer["message"]
