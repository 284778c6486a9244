"""Runs at a glance: found wherever a command puts them, summed up from their logs, compared, and cleaned with care."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcbench.errors import InputError, RunError
from gcbench.runs.overview import RunSummary, differences, find_runs, removable, size_of
from gcbench.runs.store import Run, RunStore

JOB = {"kind": "semantic", "seed": 0, "recipe": {"name": "r", "preset": "tiny", "values": {"optimizer.lr": 0.1}}}


def make(root: Path, name: str, *, kind: str = "semantic", done: bool = False, job: dict[str, Any] = JOB) -> Run:
    """A run of 20 of 100 steps."""
    run = RunStore(root).run(kind, name, "0" * 16).start(job)
    for step in range(5, 25, 5):
        seconds = 9.0 if step == 5 else 0.5
        run.log(event="step", step=step, total=100, loss=10.0 / step, seconds=seconds, warnings={"odd": step})
    run.log(event="evaluation", step=20, total=100, mIoU=0.25)
    for step in (10, 20):
        (run.checkpoints / f"step-{step:09d}-{'0' * 16}.pt").write_bytes(b"x" * 100)
    (run.folder / "predictions").mkdir()
    (run.folder / "predictions" / "a.safetensors").write_bytes(b"y" * 50)
    if done:
        run.finish({"kind": "x"})
    else:
        run.fail("the roof fell in")
    return run


def test_a_summary_is_what_the_log_says_last(tmp_path: Path) -> None:
    one = RunSummary.of(make(tmp_path, "a"))
    assert (one.status, one.kind, one.name, one.step, one.total) == ("failed", "semantic", "a", 20, 100)
    assert one.values["loss"] == 0.5 and one.headline == ("mIoU", 0.25)
    assert one.seconds_per_step == 0.5 and one.seconds_left == 40.0
    assert one.warnings == {"odd": 20} and one.error == "the roof fell in"
    assert RunSummary.of(make(tmp_path, "b", done=True)).seconds_left is None


def test_a_run_without_a_log_has_a_summary(tmp_path: Path) -> None:
    one = RunSummary.of(RunStore(tmp_path).run("folds", "f", "0" * 16).queue({"kind": "folds"}))
    assert (one.status, one.step, one.headline, one.seconds_left) == ("queued", None, None, None)
    with pytest.raises(RunError, match="not a run folder"):
        RunSummary.of(Run(tmp_path))


def test_runs_are_found_wherever_commands_put_them(tmp_path: Path) -> None:
    make(tmp_path / "reproduction" / "runs", "b")
    make(tmp_path / "runs", "a", kind="pretrain")
    (tmp_path / "data" / "scannet").mkdir(parents=True)
    names = [run.folder.name.removesuffix("-00000000") for run in find_runs(tmp_path)]
    assert names == ["b", "a"]
    (inner,) = find_runs(tmp_path / "runs" / "pretrain" / "a-00000000")
    assert inner.manifest is not None and inner.manifest.name == "a"
    with pytest.raises(InputError, match="There is no folder"):
        find_runs(tmp_path / "nowhere")


def test_what_differs(tmp_path: Path) -> None:
    other = {**JOB, "seed": 1, "recipe": {**JOB["recipe"], "values": {"optimizer.lr": 0.1, "run.workers": 2}}}
    runs = [make(tmp_path, "a"), make(tmp_path, "b", job=other)]
    assert differences(runs) == {"seed": [0, 1], "run.workers": [None, 2]}


def test_of_a_finished_run_checkpoints_and_predictions_can_go(tmp_path: Path) -> None:
    found = removable(make(tmp_path, "a", done=True))
    assert found is not None and found.size == 250
    assert {path.name[:6] for path in found.paths} == {"step-0", "predic"}
    last = removable(make(tmp_path, "p", kind="pretrain", done=True))
    assert last is not None and last.paths[0].name.startswith("step-000000010")
    assert len([path for path in last.paths if path.suffix == ".pt"]) == 1


def test_what_can_go_on_stays(tmp_path: Path) -> None:
    run = make(tmp_path, "a")
    assert removable(run) is removable(run, failed=True) is None
    leftover = run.checkpoints / ".step-000000030-0.pt.12345678.part"
    leftover.write_bytes(b"z" * 7)
    found = removable(run)
    assert found is not None and found.paths == (leftover,) and found.size == 7
    for path in run.checkpoints.iterdir():
        path.unlink()
    assert removable(run) is None
    whole = removable(run, failed=True)
    assert whole is not None and whole.paths == (run.folder,)
    running = RunStore(tmp_path).run("semantic", "r", "0" * 16).start(JOB)
    assert removable(running, failed=True) is None
    running.fail("end")


def test_links_have_no_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert size_of(tmp_path) == 5
