from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from gcbench.data import metadata
from gcbench.errors import DataError
from gcbench.resources import resource_path

NAME = "scannetv2_train.txt"
CONTENT = "".join(f"scene{number:04d}_00\n" for number in range(200)).encode()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """A local server that answers with the next of `answers` and then with the last one for ever."""

    def __init__(self) -> None:
        self.answers = ["good"]
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                answer = outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0]
                content = CONTENT if answer != "wrong" else b"scene0000_00\n"
                self.send_response(int(answer) if answer.isdecimal() else 200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if answer == "cut" else content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/{COMMIT}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def write_facts(folder: Path, url: str) -> None:
    """Facts like the package's own, but with one small file on a server of ours."""
    facts = yaml.safe_load(resource_path("evaluation", "splits", "scannet.yaml").read_text())
    facts["origins"] = {"here": {"source": "test", "commit": COMMIT, "url": url}}
    digest = hashlib.sha256(CONTENT).hexdigest()
    entry = {"name": NAME, "origin": "here", "entries": 200, "sha256": digest, "lines_sha256": digest, "split": "train"}
    facts["files"] = [entry]
    folder.mkdir(parents=True)
    (folder / "scannet.yaml").write_text(yaml.safe_dump(facts))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Facts that point at a local server, an empty cache folder, and no waiting between attempts."""
    running = Server()
    write_facts(tmp_path / "splits", running.url)
    monkeypatch.setattr(metadata, "resource_path", lambda *parts: tmp_path.joinpath(*parts[1:]))
    monkeypatch.setenv(metadata.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    yield running
    running.stop()


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_a_good_file_is_downloaded_once_and_then_used_without_the_server(server: Server, tmp_path: Path) -> None:
    path = metadata.find(NAME)
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "cache")
    assert server.requests == [f"/{COMMIT}/{NAME}"]
    server.stop()
    assert metadata.find(NAME) == path
    assert metadata.find(NAME, download=False) == path
    assert files_in(tmp_path / "cache") == [NAME]


def test_the_first_folder_that_has_it_wins(server: Server, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("empty", "first", "second")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[1:]:
        (folder / NAME).write_bytes(b"mine\n")
    assert metadata.find(NAME, folders) == folders[1] / NAME
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "expected"), [("wrong", "another content than the pinned one"), ("404", "404"), ("cut", "could not be")]
)
def test_what_is_not_the_pinned_file_is_not_kept(server: Server, tmp_path: Path, answer: str, expected: str) -> None:
    server.answers = [answer]
    with pytest.raises(DataError, match=expected) as caught:
        metadata.find(NAME, [tmp_path / "mine", tmp_path / "yours"])
    for part in (NAME, f"{server.url}/{NAME}", str(tmp_path / "mine"), str(tmp_path / "yours"), "--meta-dir"):
        assert part in str(caught.value)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.parametrize("bad", ["503", "cut", "wrong"])
def test_a_failed_attempt_is_repeated(server: Server, bad: str) -> None:
    server.answers = [bad, bad, "good"]
    assert metadata.find(NAME).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_without_a_server_the_error_names_the_way_out(server: Server, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        metadata.find(NAME, [tmp_path])
    for part in (NAME, f"{server.url}/{NAME}", str(tmp_path), "--meta-dir"):
        assert part in str(caught.value)


def test_download_off_asks_nobody(server: Server) -> None:
    with pytest.raises(DataError, match=f"{NAME} is not in .*cache.*--meta-dir"):
        metadata.find(NAME, download=False)
    assert server.requests == []


def test_a_damaged_cache_is_replaced(server: Server) -> None:
    path = metadata.find(NAME)
    path.write_bytes(CONTENT[:100])
    assert metadata.find(NAME).read_bytes() == CONTENT
    path.write_bytes(CONTENT[:100])
    with pytest.raises(DataError, match="not in"):
        metadata.find(NAME, download=False)


def test_a_cache_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match=metadata.CACHE_VARIABLE):
        metadata.find(NAME)


def test_two_processes_at_once_both_get_the_whole_file(server: Server, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from gcbench.data import metadata; root = pathlib.Path(sys.argv[1]);"
        "metadata.resource_path = lambda *parts: root.joinpath(*parts[1:]);"
        f"sys.stdout.buffer.write(metadata.find({NAME!r}).read_bytes())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [process.communicate()[0] for process in processes] == [CONTENT, CONTENT]
    assert len(server.requests) == 1
    assert files_in(tmp_path / "cache") == [NAME]


def test_unknown_files_and_datasets_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'skip\.lst' is not a file.*scannetv2_train\.txt"):
        metadata.find("skip.lst")
    with pytest.raises(DataError, match=r"no split lists for the dataset 'rooms'.*scannet"):
        metadata.expected_scenes("rooms")


def test_the_official_numbers() -> None:
    assert metadata.expected_scenes("scannet") == {"train": 1201, "val": 312, "test": 100}
    sets = metadata.data_efficient("scannet")
    assert [(share.percent, share.names) for share in sets.scenes] == [(1, 12), (5, 60), (10, 120), (20, 240)]
    assert [share.percent * 1201 // 100 for share in sets.scenes] == [share.names for share in sets.scenes]
    assert sets.points == [20, 50, 100, 200]


def test_the_test_scenes_are_known_without_a_file() -> None:
    names = metadata.numbered_scenes("scannet", "test")
    assert (names[0], names[-1], len(names)) == ("scene0707_00", "scene0806_00", 100)
    with pytest.raises(DataError, match="'val' of scannet do not count through"):
        metadata.numbered_scenes("scannet", "val")


def test_the_cache_is_the_users_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(metadata.CACHE_VARIABLE, raising=False)
    assert "gcbench" in metadata.cache_folder().parts
    monkeypatch.setenv(metadata.CACHE_VARIABLE, "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert metadata.cache_folder() == tmp_path / "elsewhere"


def test_a_list_that_is_not_the_official_one_is_noted(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / NAME
    mine.write_bytes(CONTENT)
    assert metadata.check(mine) is None
    mine.write_bytes(CONTENT.replace(b"\n", b"\r\n").rstrip())
    assert metadata.check(mine) is None
    mine.write_bytes(CONTENT[13:])
    note = metadata.check(mine)
    assert note is not None
    assert NAME in note
    assert "199 entries, the official one 200" in note
    mine.write_bytes(CONTENT.replace(b"0000", b"0999"))
    assert metadata.check(mine) is not None
    other = tmp_path / "other.txt"
    other.write_text("x")
    assert metadata.check(other) is None
    with pytest.raises(DataError, match="cannot be read"):
        metadata.check(tmp_path / "absent" / NAME)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"origins": {}}, "not one of the origins"),
        ({"origins": {"here": {"source": "s", "commit": COMMIT, "url": "http://x/main"}}}, "does not name the commit"),
        ({"colour": 1}, "colour"),
        ({"files": [{"name": "../x"}]}, "files.0"),
    ],
)
def test_broken_facts_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], expected: str
) -> None:
    write_facts(tmp_path / "splits", f"http://x/{COMMIT}")
    file = tmp_path / "splits" / "scannet.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change))
    monkeypatch.setattr(metadata, "resource_path", lambda *parts: tmp_path.joinpath(*parts[1:]))
    with pytest.raises(DataError, match=r"scannet\.yaml") as caught:
        metadata.expected_scenes("scannet")
    assert expected in str(caught.value)
