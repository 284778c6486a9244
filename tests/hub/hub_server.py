"""A small Hugging Face Hub on this machine: the real client publishes to it and loads from it over HTTP.

Repositories live in memory: a line of commits with a branch `main`, tags, and an object store for large files. Requests
can be made to fail (`HubServer.fail`), and something can happen right before one (`HubServer.before`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".pth", ".pt", ".bin", ".png")
Fault = Literal["status", "cut", "corrupt", "lost-answer", "refuse"]


@dataclass(frozen=True)
class File:
    """A file of a commit."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        """As git names it; of a large file the SHA-256 of its content."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: Mapping[str, File]


@dataclass
class Repository:
    commits: list[Commit]
    private: bool = False
    gated: bool = False
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def add(self, files: Mapping[str, File | None], title: str) -> Commit:
        """A commit with these files changed, or removed where they are None."""
        kept = {**self.head.files, **files}
        oid = hashlib.sha1(repr((self.head.oid, title, len(self.commits), sorted(kept))).encode()).hexdigest()
        self.commits.append(Commit(oid, title, {name: file for name, file in kept.items() if file is not None}))
        return self.head

    def at(self, revision: str) -> Commit | None:
        oid = self.head.oid if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)


@dataclass
class _Injected:
    method: str
    path: re.Pattern[str]
    kind: Fault
    status: int
    headers: Mapping[str, str]
    left: int


class Answer(Exception):  # noqa: N818 - how a handler returns
    """What a request is answered with."""

    def __init__(self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, dict(headers or {})
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()


def refused(status: int, code: str, message: str) -> Answer:
    """An error as the Hub words it."""
    return Answer(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})


class HubServer:
    """The server; use it with `with`. `user` owns `token`."""

    user = "user"

    def __init__(self) -> None:
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
        self.token = "hf_" + "".join(random.choices(letters, k=34))
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.errors: list[BaseException] = []
        self.lock = threading.RLock()
        self._faults: list[_Injected] = []
        self._hooks: list[tuple[str, re.Pattern[str], Callable[[], object]]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo: str, files: Mapping[str, bytes | None], title: str = "put") -> Commit:
        """Commit without HTTP; makes the repository if it is not there."""
        with self.lock:
            made = {
                name: None if content is None else File(content, name.endswith(LARGE))
                for name, content in files.items()
            }
            return self.repositories.setdefault(repo, new_repository()).add(made, title)

    def read(self, repo: str, name: str) -> bytes:
        return self.repositories[repo].head.files[name].content

    def fail(
        self,
        method: str,
        path: str,
        kind: Fault = "status",
        *,
        status: int = 503,
        times: int = 1,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next `times` requests whose path matches go wrong.

        ``status`` answers with it; ``cut`` ends in the middle of the body; ``corrupt`` changes a byte of it;
        ``lost-answer`` does the work and does not say so; ``refuse`` ends the connection at once.
        """
        self._faults.append(_Injected(method, re.compile(path), kind, status, headers or {}, times))

    @property
    def faults_left(self) -> int:
        return sum(fault.left for fault in self._faults)

    def before(self, method: str, path: str, happens: Callable[[], object]) -> None:
        """Once, right before the next request whose path matches."""
        self._hooks.append((method, re.compile(path), happens))

    def take_fault(self, method: str, path: str) -> _Injected | None:
        with self.lock:
            for fault in self._faults:
                if fault.left and fault.method == method and fault.path.search(path):
                    fault.left -= 1
                    return fault
        return None

    def run_hooks(self, method: str, path: str) -> None:
        with self.lock:
            due = [hook for hook in self._hooks if hook[0] == method and hook[1].search(path)]
            self._hooks = [hook for hook in self._hooks if hook not in due]
        for _, _, happens in due:
            happens()


def new_repository() -> Repository:
    first = Commit(hashlib.sha1(random.randbytes(8)).hexdigest(), "initial commit", {})
    return Repository([first])


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._handle("GET")

    def do_HEAD(self) -> None:
        self._handle("HEAD")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PUT(self) -> None:
        self._handle("PUT")

    def _handle(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        authorization = self.headers.get("Authorization", "")
        self.token = authorization.removeprefix("Bearer ") or None
        self.hub.requests.append((method, path, self.token))
        self.hub.run_hooks(method, path)
        fault = self.hub.take_fault(method, path)
        if fault is not None and fault.kind == "refuse":
            self.close_connection = True
            return
        try:
            if fault is not None and fault.kind == "status":
                raise Answer(fault.status, {"error": "injected"}, fault.headers)
            with self.hub.lock:
                self._route(method, path)
            raise AssertionError(f"{method} {path} gave no answer")
        except Answer as answer:
            self._send(answer, method, fault)
        except Exception as error:
            self.hub.errors.append(error)
            self._send(Answer(500, {"error": str(error)}), method, None)

    def _send(self, answer: Answer, method: str, fault: _Injected | None) -> None:
        if fault is not None and fault.kind == "lost-answer":
            self.close_connection = True
            return
        body = answer.body
        if fault is not None and fault.kind == "corrupt" and body:
            body = body[: len(body) // 2] + bytes([body[len(body) // 2] ^ 1]) + body[len(body) // 2 + 1 :]
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if method != "HEAD":
            cut = fault is not None and fault.kind == "cut"
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.close_connection |= cut

    def _route(self, method: str, path: str) -> None:
        for pattern, name in _ROUTES:
            match = re.fullmatch(pattern, f"{method} {path}")
            if match:
                getattr(self, name)(*(unquote(part) for part in match.groups()))
        raise Answer(404, {"error": f"no route for {method} {path}"})

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        if self.token not in (None, self.hub.token):
            raise refused(401, "", "Invalid credentials in Authorization header")
        found = self.hub.repositories.get(repo)
        if write:
            self._check_writer(repo)
        if found is None or (found.private and self.token is None):
            raise refused(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        if found.gated:
            raise refused(403, "GatedRepo", "Access to this model is restricted")
        return found

    def _check_writer(self, repo: str) -> None:
        if self.token != self.hub.token:
            raise refused(401, "", "Invalid username or password.")
        if not repo.startswith(f"{self.hub.user}/"):
            raise refused(403, "", f"You don't have the rights to write to {repo}")

    def _commit(self, repo: str, revision: str) -> Commit:
        commit = self._repository(repo).at(revision)
        if commit is None:
            raise refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def who(self) -> None:
        if self.token != self.hub.token:
            raise refused(401, "", "Invalid credentials in Authorization header")
        raise Answer(200, {"name": self.hub.user, "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        self._check_writer(repo)
        address = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            raise Answer(409, {"error": "You already created this model repo", **address})
        self.hub.repositories[repo] = new_repository()
        self.hub.repositories[repo].private = asked.get("private") is True or asked.get("visibility") == "private"
        raise Answer(200, address)

    def info(self, repo: str, revision: str = "main") -> None:
        commit, found = self._commit(repo, revision), self._repository(repo)
        siblings = [{"rfilename": name} for name in commit.files]
        raise Answer(200, {"id": repo, "sha": commit.oid, "private": found.private, "tags": [], "siblings": siblings})

    def refs(self, repo: str) -> None:
        found = self._repository(repo)
        branches = [{"name": "main", "ref": "refs/heads/main", "targetCommit": found.head.oid}]
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid} for name, oid in sorted(found.tags.items())
        ]
        raise Answer(200, {"branches": branches, "converts": [], "tags": tags})

    def preupload(self, repo: str, revision: str) -> None:
        files = self._repository(repo, write=True).head.files
        asked = json.loads(self.body)["files"]
        raise Answer(
            200,
            {
                "files": [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": files[one["path"]].oid if one["path"] in files else None,
                    }
                    for one in asked
                ]
            },
        )

    def batch(self, repo: str) -> None:
        self._repository(repo, write=True)
        objects = []
        for one in json.loads(self.body)["objects"]:
            address = f"{self.hub.url}/objects/{one['oid']}"
            actions = {"upload": {"href": address}, "verify": {"href": f"{self.hub.url}/verify"}}
            known = one["oid"] in self.hub.objects
            objects.append({"oid": one["oid"], "size": one["size"], **({} if known else {"actions": actions})})
        raise Answer(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, {"error": "the content has another hash"})
        self.hub.objects[oid] = self.body
        raise Answer(200)

    def check_object(self) -> None:
        raise Answer(200 if json.loads(self.body)["oid"] in self.hub.objects else 404, {})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repository(repo, write=True)
        header: dict[str, Any] = {}
        changed: dict[str, File | None] = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                header = value
            elif entry["key"] == "file":
                changed[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif entry["key"] == "lfsFile":
                changed[value["path"]] = File(self.hub.objects[value["oid"]], large=True)
            elif entry["key"] == "deletedFile":
                changed[value["path"]] = None
        if header.get("parentCommit") not in (None, found.head.oid):
            raise Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        made = found.add(changed, header["summary"])
        address = f"{self.hub.url}/{repo}/commit/{made.oid}"
        raise Answer(200, {"success": True, "commitOid": made.oid, "commitUrl": address, "hookOutput": ""})

    def tag(self, repo: str, revision: str) -> None:
        found, name = self._repository(repo, write=True), json.loads(self.body)["tag"]
        if name in found.tags:
            raise Answer(409, {"error": "Tag already exists"})
        found.tags[name] = self._commit(repo, revision).oid
        raise Answer(200, {})

    def validate(self) -> None:
        raise Answer(200, {"errors": [], "warnings": []})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        commit = self._commit(repo, revision)
        file = commit.files.get(name)
        if file is None:
            raise Answer(
                404,
                {"error": "Entry not found"},
                {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit.oid},
            )
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.large:
            self.hub.objects[file.oid] = file.content
            # another host name: the client keeps X-Repo-Commit of this answer only if the file lies elsewhere
            there = f"http://localhost:{self.hub.port}/objects/{file.oid}"
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content)), "Location": there}
            raise Answer(302, b"", headers)
        self._content(file.content, headers)

    def download(self, oid: str) -> None:
        self._content(self.hub.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            raise Answer(200, content, headers)
        start = int(wanted[1])
        part = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        raise Answer(206, content[start:], headers | part)


_ID = r"([^/]+/[^/]+)"
_ROUTES = (
    (r"GET /api/whoami-v2", "who"),
    (r"POST /api/repos/create", "create"),
    (r"POST /api/validate-yaml", "validate"),
    (rf"GET /api/models/{_ID}", "info"),
    (rf"GET /api/models/{_ID}/revision/([^/]+)", "info"),
    (rf"GET /api/models/{_ID}/refs", "refs"),
    (rf"POST /api/models/{_ID}/preupload/([^/]+)", "preupload"),
    (rf"POST /api/models/{_ID}/commit/([^/]+)", "commit"),
    (rf"POST /api/models/{_ID}/tag/([^/]+)", "tag"),
    (rf"POST /{_ID}\.git/info/lfs/objects/batch", "batch"),
    (r"PUT /objects/([0-9a-f]{64})", "upload"),
    (r"(?:GET|HEAD) /objects/([0-9a-f]{64})", "download"),
    (r"POST /verify", "check_object"),
    (rf"(?:GET|HEAD) /{_ID}/resolve/([^/]+)/(.+)", "resolve"),
)
