"""`gcbench pretrain` as a user calls it, on a few small scenes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gcbench.cli.pretrain import open_run
from gcbench.data.storage import PreparedDataset
from tests.protocols.small_pretraining import SMALL, change_frames, small_job, write_dataset

LONGER = ("schedule.steps=12", "run.evaluate_every=12")  # long enough to be interrupted
ENVIRONMENT = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}


def command(*arguments: str | Path) -> list[str]:
    sets = [part for text in (*SMALL, *LONGER) for part in ("--set", text)]
    return [sys.executable, "-m", "gcbench", "pretrain", "--preset", "tiny", *sets, *map(str, arguments)]


def gcbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=300, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def done(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("runs") / "run"
    answer = gcbench("--data", dataset.root, "--out", run)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return run, answer.stdout


def refused(*arguments: str | Path) -> str:
    answer = gcbench(*arguments)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    return " ".join(answer.stderr.split())


def test_a_run_ends_with_a_summary_and_an_encoder(done: tuple[Path, str]) -> None:
    run, output = done
    assert [line.split()[1] for line in output.splitlines() if line.startswith("step ")] == ["0/12", "12/12"]
    for word in ("held-out views", "s per scene", "MB at its peak", "kept per scene", "Warnings   none"):
        assert word in output
    assert f"gcbench render {run} scene0000_00" in output
    assert load_file(run / "encoder" / "model.safetensors")
    assert json.loads((run / "encoder" / "config.json").read_text())["pretraining"]["steps"] == 12
    assert len(list((run / "panels").glob("*.png"))) == 2


def test_a_finished_run_returns_at_once(done: tuple[Path, str], dataset: PreparedDataset) -> None:
    manifest = (done[0] / "manifest.json").read_bytes()
    answer = gcbench("--data", dataset.root, "--out", done[0])
    assert answer.returncode == 0 and "is done already" in answer.stdout
    assert (done[0] / "manifest.json").read_bytes() == manifest


def test_a_run_of_other_settings_is_left_alone_and_what_differs_is_told(
    done: tuple[Path, str], dataset: PreparedDataset
) -> None:
    answer = gcbench("--data", dataset.root, "--out", done[0], "--set", "optimizer.lr=0.5", "--seed", "3")
    text = " ".join(answer.stderr.split())
    assert answer.returncode == 1
    assert "seed is 0 there, 3 here; optimizer.lr is 0.006 there, 0.5 here" in text


def test_an_interrupted_run_goes_on_to_the_same_encoder(
    done: tuple[Path, str], dataset: PreparedDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("--data", dataset.root, "--out", run, "--cpu-processes", "1")
    process = subprocess.Popen(command(*arguments), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not list(run.glob("checkpoints/*.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()  # SIGINT may be ignored where a shell started the tests in the background
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75 and "Run the same command to go on" in errors
    assert not (run / "result.json").exists()
    answer = gcbench(*arguments)
    assert answer.returncode == 0, answer.stderr
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert "resumed" in [record["event"] for record in records]
    assert [record["step"] for record in records if record["event"] == "step"] == list(range(1, 13))
    one, other = ((folder / "encoder" / "model.safetensors").read_bytes() for folder in (done[0], run))
    assert one == other


def test_two_processes_log_what_one_does(done: tuple[Path, str], dataset: PreparedDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    synchronised = ("--set", "run.batchnorm=synchronised")
    answer = gcbench("--data", dataset.root, "--out", run, "--cpu-processes", "2", *synchronised)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "(2 processes)" in answer.stdout
    alone, together = (
        [record for record in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if "lr" in record]
        for folder in (done[0], run)
    )
    assert len(alone) == len(together) == 12
    for one, other in zip(alone, together, strict=True):
        assert other["lr"] == one["lr"]
        for key in ("loss", "image", "depth", "semantic"):
            # Adam's steps make differences of rounding grow
            assert other[key] == pytest.approx(one[key], rel=1e-5 if one["step"] < 3 else 2e-2)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.views=9"], ["Scene 'scene0000_00' has 8 frames to train on", "--set data.views=8"]),
        (["volume.grid=[0,12,8]"], ["volume.grid", "greater than or equal to 1"]),
        (["teacher.name=dinov2", "teacher.model=/nowhere/dinov2"], ["/nowhere/dinov2"]),
    ],
)
def test_wrong_settings_are_told_before_training(
    dataset: PreparedDataset, tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    sets = [part for text in overrides for part in ("--set", text)]
    text = refused("--data", dataset.root, "--out", tmp_path / "run", *sets)
    assert all(word in text for word in words), text
    assert text.startswith("Error: ")
    assert list(tmp_path.iterdir()) == []


def test_wrong_frames_are_told_and_the_folder_is_left_as_it_was(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    change_frames(dataset, "scene0001_00", 2, camera_to_world=[0.0] * 16)
    text = refused("--data", dataset.root, "--out", run)
    assert "Scene 'scene0001_00', frame 20: its pose is singular or not rigid" in text
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_run_of_other_settings_in_which_nothing_was_trained_gives_way(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    small_job(dataset, tmp_path / "run")  # queued, and killed before its first checkpoint
    job, _ = small_job(dataset, tmp_path / "other", "schedule.steps=1")
    run = open_run(tmp_path / "run", job).queue(job.model_dump(mode="json"))
    assert run.manifest is not None and run.manifest.key == job.key


def test_a_dry_run_shows_sizes_and_writes_nothing(dataset: PreparedDataset, tmp_path: Path) -> None:
    answer = gcbench("--data", dataset.root, "--out", tmp_path / "run", "--dry-run")
    assert answer.returncode == 0, answer.stderr
    for words in ("M parameters", "12 steps of 2 scenes, 2 views each", "3 scenes, 30 frames, 6 of them held out"):
        assert words in answer.stdout
    assert "classical" in answer.stdout and list(tmp_path.iterdir()) == []


def test_without_data_a_preset_makes_rooms_that_runs_share(tmp_path: Path) -> None:
    size = ("rooms.scannet.frame_width=64", "rooms.scannet.frame_height=48")
    rooms = ("rooms.scannet.scenes=1", "rooms.scannet.val=1", "rooms.scannet.frames=10", *size, "schedule.steps=1")
    sets = [part for text in rooms for part in ("--set", text)]
    first = gcbench("--out", tmp_path / "runs" / "a", *sets)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "making rooms" in first.stdout and "preparing" in first.stdout
    second = gcbench("--out", tmp_path / "runs" / "b", *sets, "--seed", "1", "--dry-run")
    assert second.returncode == 0 and "1 scene, 10 frames" in second.stdout
    answer = subprocess.run(
        [sys.executable, "-m", "gcbench", "pretrain"], capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    assert answer.returncode == 2 and "give --data" in answer.stderr
    assert "gcbench data prepare scannet" in answer.stderr and "--preset tiny makes synthetic rooms" in answer.stderr


def test_gpus_that_are_not_there(dataset: PreparedDataset, tmp_path: Path) -> None:
    assert "--gpus 2: this machine has no GPUs" in refused("--data", dataset.root, "--out", tmp_path, "--gpus", "2")
    both = refused("--data", dataset.root, "--gpus", "1", "--cpu-processes", "1")
    assert "exclude each other" in both


def test_help_has_examples() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "gcbench", "pretrain", "--help"], capture_output=True, text=True, env=ENVIRONMENT
    )
    for words in ("--gpus", "--preset tiny", "--dry-run", "goes on where an interrupted run stopped"):
        assert words in answer.stdout
