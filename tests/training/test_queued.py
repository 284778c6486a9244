"""A queue, tried on this machine: a job that has to make room writes a checkpoint and goes on to the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gcbench.cli.main import main
from gcbench.training.queued import _place
from tests.protocols.small_pretraining import SMALL, write_dataset


def test_every_node_is_told_its_place() -> None:
    assert _place(1, 0, ["a"], "7") == []
    first, second = (_place(2, node, ["a", "b"], "7") for node in range(2))
    assert first[:5] == ["--nodes", "2", "--node-rank", "0", "--main-address"]
    assert second[:5] == ["--nodes", "2", "--node-rank", "1", "--main-address"]
    assert first[5] == second[5] and first[5].startswith("a:") and 20000 <= int(first[5][2:]) < 40000
    assert _place(2, 0, ["a", "b"], "8")[5] != first[5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "table1"], "'report table1' does not run in a queue"),
        (["runs", "list"], "'runs list' does not run in a queue"),
        (["--slurm", "gpu", "pretrain"], "--slurm gpu is not NAME=VALUE"),
        (["--nodes", "2", "reproduce", "table1"], "The jobs of reproduce run on one node"),
        (["--time", "soon", "pretrain"], "soon is no time"),
    ],
)
def test_what_cannot_be_queued(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_shows_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = tmp_path / "queue"
    options = ["--nodes", "2", "--gpus", "8", "--time", "24h", "--slurm", "partition=gpu", "--logs", str(logs)]
    assert main(["submit", "--dry-run", *options, "pretrain", "--data", "prepared", "--set", "a.b=1"]) == 0
    text = capsys.readouterr().out
    assert "gcbench pretrain --data prepared --set a.b=1 --gpus 8" in text
    assert "2 x 8 GPUs, 1440 minutes at a time, partition gpu" in text
    assert not logs.exists()


def test_without_slurm_the_way_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--logs", str(tmp_path), "pretrain"]) == 2
    assert "--cluster local" in capsys.readouterr().err


def test_a_job_that_must_make_room_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data, sets = write_dataset(tmp_path / "data").root, [part for text in SMALL for part in ("--set", text)]
    words = ["pretrain", "--preset", "tiny", "--data", str(data), *sets, "--set", "schedule.steps=90"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GCBENCH_TRACKERS": ""}
    straight, queued, logs = tmp_path / "straight", tmp_path / "queued", tmp_path / "queue"
    gcbench = [sys.executable, "-m", "gcbench"]
    subprocess.run([*gcbench, *words, "--out", str(straight)], check=True, env=environment, capture_output=True)
    submission = ["submit", "--cluster", "local", "--logs", str(logs), *words, "--out", str(queued)]
    with (tmp_path / "said").open("w") as said:  # the job keeps it open
        subprocess.run([*gcbench, *submission], check=True, env=environment, stdout=said)
    assert f"Log      {logs}" in (tmp_path / "said").read_text()

    wait_for(lambda: any((queued / "checkpoints").glob("*.pt")))
    (job,) = {path.name.split("_")[0] for path in logs.glob("*_submitted.pkl")}
    (task,) = psutil.Process(int(job)).children()
    task.send_signal(signal.SIGUSR2)  # what Slurm sends before its limit
    wait_for(lambda: (queued / "result.json").is_file())
    log = "".join(path.read_text() for path in logs.glob("*_log.out"))
    assert "Stopped with a checkpoint" in log + "".join(path.read_text() for path in logs.glob("*_log.err"))
    name = Path("encoder") / "model.safetensors"
    assert (queued / name).read_bytes() == (straight / name).read_bytes()


def wait_for(there: object) -> None:
    assert callable(there)
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)
