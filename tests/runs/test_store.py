"""Run folders: states, locks between processes, resuming, torn writes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gcbench.errors import InputError, RunError
from gcbench.runs import files
from gcbench.runs.results import SemanticResult
from gcbench.runs.store import Run, RunStore

KEY = "0123456789abcdef"
JOB = {"kind": "semantic", "seed": 0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return RunStore(tmp_path).run("semantic", "cell", KEY)


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that works on the run until it is killed."""
    code = (
        "import sys, time; from pathlib import Path; from gcbench.runs.store import Run\n"
        "with Run(Path(sys.argv[1])).lock(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_from_queue_to_result(run: Run, result: SemanticResult, tmp_path: Path) -> None:
    assert run.status is None
    assert run.folder == tmp_path / "semantic" / "cell-01234567"
    run.queue(JOB)
    assert run.status == "queued"
    worker = Run(run.folder)  # as another process sees it: only the folder is known
    with worker.lock():
        assert run.status == "running"
        worker.log(step=1, loss=np.float32(0.5), psnr=math.nan)
        worker.finish(result)
    assert run.is_done
    assert run.job() == JOB
    assert run.records() == [{"step": 1, "loss": 0.5, "psnr": None}]
    assert isinstance(run.result(), SemanticResult)
    assert run.result().model_dump_json() == result.model_dump_json()
    assert [other.folder for other in RunStore(tmp_path).runs()] == [run.folder]
    assert RunStore(tmp_path).runs("pretrain") == []
    assert run.manifest is not None
    assert (run.manifest.attempts, run.manifest.pid) == (1, os.getpid())


def test_done_is_not_started_again(run: Run) -> None:
    run.start(JOB).finish({"rooms": 3})
    assert run.output() == {"rooms": 3}
    assert run.queue(JOB).is_done
    with pytest.raises(RunError, match="done already"):
        run.start(JOB)
    with pytest.raises(RunError, match="kind"):
        run.result()


def test_a_changed_or_lost_result_is_not_done(run: Run) -> None:
    run.start(JOB).finish({"rooms": 3})
    run.result_path.write_text('{"rooms": 4}')
    assert run.status == "failed"
    with pytest.raises(RunError, match="it is failed"):
        run.output()
    run.result_path.unlink()
    assert run.status == "failed"
    run.start(JOB).finish({"rooms": 3})
    assert run.is_done


def test_a_failed_run_starts_again(run: Run) -> None:
    run.start(JOB)
    run.fail(ValueError("no data"))
    assert run.status == "failed"
    assert run.manifest is not None
    assert run.manifest.error == "ValueError: no data"
    run.start(JOB)
    assert run.manifest.error is None
    assert run.manifest.attempts == 2
    run.finish({})
    assert run.is_done


def test_one_process_at_a_time_and_a_killed_one_is_noticed(run: Run) -> None:
    run.queue(JOB)
    process = hold(run.folder)
    try:
        assert run.status == "running"
        with pytest.raises(RunError, match=f"process {process.pid} on"):
            run.start(JOB)
        with pytest.raises(RunError, match="being worked on"), run.lock():
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    assert run.status == "interrupted"
    run.start(JOB).finish({})
    assert run.is_done


def test_an_exception_leaves_the_run_interrupted_and_free(run: Run) -> None:
    run.queue(JOB)
    with pytest.raises(KeyboardInterrupt), run.lock():
        raise KeyboardInterrupt
    assert run.status == "interrupted"
    run.fail("stopped")
    assert run.status == "failed"


def test_a_torn_log_line_is_left_out_and_rewound(run: Run) -> None:
    run.start(JOB)
    for step in (1, 2, 3):
        run.log(step=step)
    with run.log_path.open("a") as stream:
        stream.write('{"step": 4, "lo')
    run.log(event="resumed")
    assert run.records() == [{"step": 1}, {"step": 2}, {"step": 3}, {"event": "resumed"}]
    run.rewind_log(2)
    assert run.records() == [{"step": 1}, {"step": 2}, {"event": "resumed"}]
    assert len(run.log_path.read_text().splitlines()) == 3
    run.fail("end of test")


@pytest.mark.parametrize(
    ("kind", "name", "key"),
    [
        ("../up", "n", KEY),
        ("k", "a/b", KEY),
        ("k", "", KEY),
        ("k", ".hidden", KEY),
        ("k", "n", "XYZ"),
        ("k", "n", "ab"),
    ],
)
def test_names_cannot_leave_the_store(tmp_path: Path, kind: str, name: str, key: str) -> None:
    with pytest.raises(InputError, match="must match"):
        RunStore(tmp_path).run(kind, name, key)


def test_another_key_or_a_broken_manifest_is_refused(run: Run, tmp_path: Path) -> None:
    run.queue(JOB)
    other = RunStore(tmp_path).run("semantic", "cell", KEY[:8] + "ffff")
    with pytest.raises(RunError, match=f"belongs to the key {KEY}"):
        _ = other.status
    (run.folder / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="not a usable manifest"):
        _ = run.status
    with pytest.raises(RunError, match="has no manifest"), Run(tmp_path / "nowhere").lock():
        pass


def test_figures_keep_their_captions(run: Run) -> None:
    run.start(JOB)
    run.save_figure("panel", b"png", title="Panel", caption="a <b> c")
    (figure,) = run.figures()
    assert (figure.title, figure.caption, figure.path.read_bytes()) == ("Panel", "a <b> c", b"png")
    with pytest.raises(InputError, match="figure's name"):
        run.save_figure("../panel", b"png", title="", caption="")
    run.finish({})


def test_plain_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"x": [np.int64(1), math.inf, Path("a")], "y": np.float64(0.25), "z": True})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, None, "a"], "y": 0.25, "z": True}
