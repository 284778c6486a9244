"""Worker processes: events come through, several find each other, and a dead one ends the others soon."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gcbench.errors import GcbenchError, InputError, RefusedError, RunError
from gcbench.training.launch import Launch, check_gpus, run_worker

WORKER = """
import json, os, signal, sys, time
rank = int(os.environ.get("RANK", "0"))

def say(**event):
    print(json.dumps(event), flush=True)

def place():
    say(event="place", **{name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")})

"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts workers with a body of their own; returns their events."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(body: str, processes: int = 1, **options: Any) -> list[dict[str, Any]]:
        (tmp_path / "small_worker.py").write_text(WORKER + body)
        (tmp_path / "job.json").touch()
        events: list[dict[str, Any]] = []
        log = tmp_path / "worker.log"
        run_worker("small_worker", tmp_path / "job.json", log, events.append, Launch(processes, **options))
        return events

    return run


def test_one_process_has_no_place_among_others(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    events = start("place(); print('just text')")
    assert events == [{"event": "place", "RANK": None, "LOCAL_RANK": None, "WORLD_SIZE": None, "MASTER_PORT": None}]
    assert "just text" in (tmp_path / "worker.log").read_text()


def test_jobs_that_run_at_once_have_their_own_gpus_and_their_share_of_the_cores(start: Any) -> None:
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    (event,) = start(f"say(event='x', **{{n: os.environ.get(n) for n in {names}}})", threads=3, devices=(4, 6))
    assert [event[name] for name in names] == ["4,6", "3", "3"]


def test_several_know_their_places(start: Any) -> None:
    events = start("place()", processes=3)
    assert sorted(event["RANK"] for event in events) == ["0", "1", "2"]
    assert {event["WORLD_SIZE"] for event in events} == {"3"}
    assert len({event["MASTER_PORT"] for event in events}) == 1


def test_one_of_several_ends_without_the_clean_up_of_its_libraries(start: Any, tmp_path: Path) -> None:
    body = f"""
import atexit
from gcbench.training.launch import end_worker
atexit.register(lambda: open({str(tmp_path)!r} + f"/tidied{{rank}}", "w").close())
say(event="done")
end_worker(0)
"""
    assert len(start(body, processes=2)) == 2
    assert not list(tmp_path.glob("tidied*"))
    assert start(body) == [{"event": "done"}]
    assert [path.name for path in tmp_path.glob("tidied*")] == ["tidied0"]


def test_the_gpus_can_be_hidden(start: Any) -> None:
    assert start('say(event=os.environ["CUDA_VISIBLE_DEVICES"])', cpu=True) == [{"event": ""}]


def test_an_error_of_any_process_is_the_jobs_and_ends_the_others(start: Any) -> None:
    body = """
if rank == 1:
    say(event="error", message="The roof fell in.", way_out="Mend it.", exit_code=3)
    sys.exit(1)
time.sleep(60)
"""
    started = time.monotonic()
    with pytest.raises(GcbenchError, match=r"The roof fell in\. Mend it\.") as caught:
        start(body, processes=3)
    assert caught.value.exit_code == 3
    assert time.monotonic() - started < 10


def test_a_job_that_is_refused_says_why_and_needs_no_log(start: Any) -> None:
    body = 'say(event="error", message="No.", way_out="Ask again.", exit_code=2, refused=True); sys.exit(1)'
    with pytest.raises(RefusedError) as caught:
        start(body)
    assert str(caught.value) == "No. Ask again."


@pytest.mark.parametrize("deaf", [False, True])
def test_a_killed_process_ends_the_others_and_is_named(start: Any, deaf: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcbench.training.worker_processes._GRACE", 0.5)
    body = f"""
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 1:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
    started = time.monotonic()
    with pytest.raises(RunError, match=r"Process 2 of 2 was killed \(SIGKILL\)"):
        start(body, processes=2)
    assert time.monotonic() - started < 10


def test_an_interrupted_job_saves_what_it_has(start: Any, tmp_path: Path) -> None:
    body = f"""
def save(number, frame):
    time.sleep(0.3)
    open({str(tmp_path)!r} + f"/saved{{rank}}", "w").close()
    sys.exit(130)

signal.signal(signal.SIGTERM, save)
open({str(tmp_path)!r} + f"/ready{{rank}}", "w").close()
time.sleep(60)
"""

    def interrupt() -> None:
        while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        start(body, processes=2)
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()


def test_no_process_is_no_job(start: Any) -> None:
    with pytest.raises(InputError, match="at least one process"):
        start("", processes=0)


def test_more_gpus_than_there_are() -> None:
    with pytest.raises(InputError, match=r"--gpus 99: this machine has (no|\d+) GPU"):
        check_gpus(99)
