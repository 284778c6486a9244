"""Jobs over scenes: errors collected or not, names, locks, killed parents."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gcbench.data.scene_jobs import build_dataset
from gcbench.data.storage import MANIFEST, PreparedDataset
from gcbench.errors import DataError, RunError

HEADER = {"layout": "scannet", "synthetic": False, "label_sets": []}


@dataclass(frozen=True)
class Job:
    name: str
    broken: bool = False
    seconds: float = 0.0

    def run(self) -> dict[str, Any]:
        time.sleep(self.seconds)
        if self.broken:
            raise DataError(f"{self.name}.ply is broken.", "Download it again.")
        return {"points": 1, "labels": [], "sha256": "0", "notes": []}


def build(out: Path, jobs: list[Job], **options: Any) -> PreparedDataset:
    return build_dataset(out, jobs, splits={"train": [job.name for job in jobs]}, header=HEADER, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_broken_scene_stops_everything(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError, match=r"b: b.ply is broken.*Download it again.*--keep-going"):
        build(tmp_path, [Job("a"), Job("b", broken=True)], workers=workers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_keep_going_does_the_rest_and_lists_what_is_broken(tmp_path: Path, workers: int) -> None:
    seen: list[int] = []
    jobs = [Job("a"), Job("b", broken=True), Job("c"), Job("d", broken=True)]
    dataset = build(
        tmp_path, jobs, workers=workers, keep_going=True, on_scene=lambda name, done, total: seen.append(done)
    )
    assert dataset.splits == {"train": ("a", "c")}
    assert list(dataset.manifest["scenes"]) == ["a", "c"]
    assert dataset.manifest["failed"] == {name: f"{name}.ply is broken. Download it again." for name in "bd"}
    assert seen == [1, 2, 3, 4]


def test_nothing_but_broken_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)None of 1 scenes.*b.ply"):
        build(tmp_path, [Job("b", broken=True)], keep_going=True)
    assert not (tmp_path / MANIFEST).exists()


def test_two_scenes_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 names stand for two scenes each: a"):
        build(tmp_path, [Job("a"), Job("b"), Job("a")])


def test_only_one_process_prepares_into_a_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".prepare.lock"), pytest.raises(RunError, match="Another process"):
        build(tmp_path, [Job("a")])


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.data.test_scene_jobs import Job, build\n"
        "if __name__ == '__main__': build(Path(sys.argv[1]), [Job(str(k), seconds=60) for k in range(4)], workers=2)"
    )
    script = tmp_path / "main.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment)
    deadline = time.monotonic() + 60
    while len(workers := _spawned(process.pid)) < 2:
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.1)
    time.sleep(2)  # past their imports
    process.send_signal(signal.SIGKILL)
    process.wait()
    while any(_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def _spawned(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:
            continue
        if int(status[1]) == parent and "spawn_main" in command:
            found.append(int(folder.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
