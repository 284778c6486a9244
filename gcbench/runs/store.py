"""Run folders: one job each, with its manifest, log and result. Everything here survives a kill at any moment.

    <root>/<kind>/<name>-<key8>/
        job.json        the self-contained job            manifest.json   status, times, process, error
        log.jsonl       one JSON object per line          result.json     what the job returned
        checkpoints/    figures/                          run.lock        held while a process works on the job

`key` is a hash of all that decides the result; `key8` is its beginning. A file is replaced as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from gcbench.errors import InputError, RunError
from gcbench.files import write_atomic
from gcbench.runs.files import plain, read_json, write_json
from gcbench.runs.results import AnyResult, parse_result

Status = Literal["queued", "running", "interrupted", "done", "failed"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEY = re.compile(r"[0-9a-f]{8,64}")
_LOCK_SECONDS = 2.0  # a look at the lock from outside holds it for far less


class Manifest(BaseModel):
    """What `manifest.json` says. `interrupted` is never written: it is a `running` whose process is gone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    kind: str
    name: str
    key: str
    status: Literal["queued", "running", "done", "failed"]
    queued: datetime
    started: datetime | None = None
    ended: datetime | None = None
    attempts: int = 0
    pid: int | None = None
    host: str | None = None
    error: str | None = None
    result_sha256: str | None = None


@dataclass(frozen=True)
class StoredFigure:
    """A picture in a run folder: a PNG file, and the same as SVG where it was drawn."""

    path: Path
    title: str
    caption: str
    svg: Path | None = None


class RunStore:
    """All runs under one folder.

    Args:
        root: the folder; it is made when the first run is queued.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, kind: str, name: str, key: str) -> Run:
        """The run of a job, whether it exists yet or not.

        Args:
            kind: kind of job, e.g. ``"pretrain"``.
            name: readable, e.g. ``"table1-gaussiancross-scannet-seed0"``.
            key: hex digest of all that decides the result, 8 to 64 digits.

        Raises:
            InputError: a name or a key that cannot be a folder's.
        """
        for what, value, pattern in (("kind", kind, _NAME), ("name", name, _NAME), ("key", key, _KEY)):
            if not pattern.fullmatch(value):
                raise InputError(f"A run's {what} cannot be {value!r}.", f"It must match {pattern.pattern}.")
        return Run(self.root / kind / f"{name}-{key[:8]}", kind=kind, name=name, key=key)

    def find(self, kind: str, key: str) -> Run | None:
        """The run of a key, whatever its name is; None if there is none yet."""
        for path in sorted(self.root.glob(f"{kind}/*-{key[:8]}/manifest.json")):
            manifest = Run(path.parent).manifest
            if manifest is not None and manifest.key == key:
                return self.run(kind, manifest.name, key)
        return None

    def runs(self, kind: str | None = None) -> list[Run]:
        """All runs with a manifest, sorted by folder."""
        manifests = sorted(self.root.glob(f"{kind or '*'}/*/manifest.json"))
        return [Run(path.parent) for path in manifests]


class Run:
    """One run folder.

    Args:
        folder: the run folder.
        kind, name, key: what `RunStore.run` knows; without them the manifest must exist.
    """

    def __init__(self, folder: Path, *, kind: str = "", name: str = "", key: str = "") -> None:
        self.folder = folder
        self._identity = (kind, name, key)
        self._lock = FileLock(folder / "run.lock", thread_local=False)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def figures_folder(self) -> Path:
        return self.folder / "figures"

    @property
    def job_path(self) -> Path:
        return self.folder / "job.json"

    @property
    def result_path(self) -> Path:
        return self.folder / "result.json"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def manifest(self) -> Manifest | None:
        """The manifest, or None for a run that was never queued.

        Raises:
            InputError: the folder, or one above it, is a file.
            RunError: it is not readable, or belongs to another key.
        """
        path = self.folder / "manifest.json"
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise InputError(
                f"{self.folder} cannot be a run's folder: a file is in the way.", "Give another."
            ) from error
        except (OSError, ValidationError) as error:
            raise RunError(f"{path} is not a usable manifest: {error}", "Remove the folder to run again.") from error
        key = self._identity[2]
        if key and manifest.key != key:
            raise RunError(f"{path} belongs to the key {manifest.key}, not {key}.", "Use another --runs folder.")
        return manifest

    @property
    def status(self) -> Status | None:
        """None when never queued; `done` only if the result is still the one that was written."""
        manifest = self.manifest
        if manifest is None:
            return None
        if manifest.status == "running" and not self._is_held():
            return "interrupted"
        if manifest.status == "done" and manifest.result_sha256 != self._result_sha256():
            return "failed"
        return manifest.status

    @property
    def is_done(self) -> bool:
        return self.status == "done"

    def job(self) -> dict[str, Any]:
        """The job as it was queued.

        Raises:
            RunError: it is missing or broken.
        """
        return read_json(self.job_path)

    def queue(self, job: Mapping[str, Any]) -> Run:
        """Write the job, ready to be started by another process. A done or running job is left as it is."""
        if self.status in ("done", "running"):
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.job_path, job)
        before = self.manifest
        kind, name, key = self._identity
        if before is None:
            self._write(Manifest(kind=kind, name=name, key=key, status="queued", queued=_now()))
        else:
            self._write(before.model_copy(update={"status": "queued", "queued": _now(), "error": None}))
        return self

    def start(self, job: Mapping[str, Any]) -> Run:
        """Queue the job and begin it in this process; ends with `finish` or `fail`.

        Raises:
            RunError: it is done, or another process works on it.
        """
        if self.is_done:
            raise RunError(f"{self.folder} is done already.", "Read its result, or remove the folder to run again.")
        if not self._lock.is_locked and self.status == "running":
            raise self._taken()
        self.queue(job)
        self._begin()
        return self

    @contextmanager
    def lock(self) -> Iterator[Run]:
        """Work on a queued job: marks it as running here and lets go at the end. End it with `finish` or `fail`.

        Raises:
            RunError: it was never queued, or another process works on it.
        """
        self._begin()
        try:
            yield self
        finally:
            self._lock.release()

    def finish(self, result: BaseModel | Mapping[str, Any]) -> None:
        """Store the result and mark the run as done."""
        content = result.model_dump(mode="json") if isinstance(result, BaseModel) else result
        write_json(self.result_path, content)
        self._end(status="done", error=None, result_sha256=self._result_sha256())

    def fail(self, error: str | BaseException) -> None:
        """Mark the run as failed; it can be started again and goes on from its checkpoint."""
        text = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
        self._end(status="failed", error=text, result_sha256=None)

    def log(self, **values: Any) -> None:
        """Append one line to the log. NaN becomes null; what JSON does not know becomes text."""
        line = json.dumps(plain(values), allow_nan=False) + "\n"
        with self.log_path.open("ab+") as stream:
            if stream.tell() and not _ends_with_newline(stream.fileno()):
                line = "\n" + line  # the line before was torn by a kill
            stream.write(line.encode())

    def records(self) -> list[dict[str, Any]]:
        """All lines of the log; a line torn by a kill is left out."""
        if not self.log_path.is_file():
            return []
        records = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # torn
            if isinstance(record, dict):
                records.append(record)
        return records

    def rewind_log(self, step: int) -> None:
        """Drop what was logged after `step`, so that a run resumed from there logs it once."""
        kept = [record for record in self.records() if not _is_after(record, step)]
        write_atomic(self.log_path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def output(self) -> dict[str, Any]:
        """What the job returned, as it stands in `result.json`.

        Raises:
            RunError: the run is not done, or its result was changed.
        """
        status = self.status
        if status != "done":
            raise RunError(f"{self.folder} has no result: it is {status or 'not queued'}.")
        return read_json(self.result_path)

    def result(self) -> AnyResult:
        """The result, typed.

        Raises:
            RunError: the run is not done, its result was changed, or its kind of job has no typed result.
        """
        self.output()
        return parse_result(self.result_path.read_bytes(), self.result_path)

    def save_figure(self, name: str, png: bytes, *, title: str, caption: str, svg: bytes | None = None) -> Path:
        """Store a picture with its title and caption; returns the path of the PNG file.

        Raises:
            InputError: a name that cannot be a file's.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"A figure's name cannot be {name!r}.", f"It must match {_NAME.pattern}.")
        self.figures_folder.mkdir(parents=True, exist_ok=True)
        path = self.figures_folder / f"{name}.png"
        write_atomic(path, png)
        if svg is None:
            path.with_suffix(".svg").unlink(missing_ok=True)  # of an older picture
        else:
            write_atomic(path.with_suffix(".svg"), svg)
        write_json(path.with_suffix(".json"), {"title": title, "caption": caption})
        return path

    def figures(self) -> list[StoredFigure]:
        """The stored pictures, sorted by name."""
        found = []
        for path in sorted(self.figures_folder.glob("*.png")):
            words = read_json(path.with_suffix(".json")) if path.with_suffix(".json").is_file() else {}
            svg = path.with_suffix(".svg")
            title, caption = str(words.get("title", path.stem)), str(words.get("caption", ""))
            found.append(StoredFigure(path, title, caption, svg if svg.is_file() else None))
        return found

    def _begin(self) -> None:
        manifest = self.manifest
        if manifest is None:
            raise RunError(f"{self.folder} is not a run folder: it has no manifest.", "Queue the job first.")
        try:
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout as error:
            raise self._taken() from error
        self.checkpoints.mkdir(exist_ok=True)
        update = {
            "status": "running",
            "started": _now(),
            "ended": None,
            "attempts": manifest.attempts + 1,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "error": None,
            "result_sha256": None,
        }
        self._write(manifest.model_copy(update=update))

    def _end(self, **update: Any) -> None:
        manifest = self.manifest
        if manifest is None:
            raise RunError(f"{self.folder} is not a run folder: it has no manifest.", "Queue the job first.")
        self._write(manifest.model_copy(update={**update, "ended": _now()}))
        self._lock.release()

    def _taken(self) -> RunError:
        manifest = self.manifest
        who = f"process {manifest.pid} on {manifest.host}" if manifest else "another process"
        return RunError(f"{self.folder} is being worked on by {who}.", "Wait for it, or stop it first.")

    def _is_held(self) -> bool:
        """Whether a living process holds the lock: the system frees a dead one's."""
        if self._lock.is_locked:
            return True
        if not os.access(self.folder, os.W_OK):
            return True  # somebody else's runs: take the manifest's word
        probe = FileLock(self.folder / "run.lock")
        try:
            probe.acquire(timeout=0)
        except Timeout:
            return True
        probe.release()
        return False

    def _result_sha256(self) -> str | None:
        if not self.result_path.is_file():
            return None
        return hashlib.sha256(self.result_path.read_bytes()).hexdigest()

    def _write(self, manifest: Manifest) -> None:
        write_json(self.folder / "manifest.json", manifest.model_dump(mode="json"))


def _is_after(record: Mapping[str, Any], step: int) -> bool:
    logged = record.get("step")
    return isinstance(logged, int) and logged > step


def _ends_with_newline(descriptor: int) -> bool:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, end - 1, os.SEEK_SET)
    return os.read(descriptor, 1) == b"\n"


def _now() -> datetime:
    return datetime.now(timezone.utc)
