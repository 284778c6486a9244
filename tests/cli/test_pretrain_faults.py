"""Faults around `gcbench pretrain`: no room, no access, no time; what was kept goes on to the same encoder."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig

from gcbench.cli.main import main
from gcbench.data.storage import PreparedDataset
from gcbench.errors import InputError
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import PretrainRecipe
from gcbench.training.loop import build_accelerator
from tests.cli.test_pretrain import ENVIRONMENT
from tests.protocols.small_pretraining import SMALL, write_dataset

LARGEST = 200_000  # bytes: pictures are smaller, checkpoints larger


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_dataset(tmp_path_factory.mktemp("data"))


def words(dataset: PreparedDataset, out: Path, *more: str | Path) -> list[str]:
    """A pre-training of four steps, with a checkpoint after each."""
    sets = [part for text in SMALL for part in ("--set", text)]
    return ["pretrain", "--preset", "tiny", *sets, "--data", str(dataset.root), "--out", str(out), *map(str, more)]


def gcbench(arguments: list[str], *, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command, in which no file may grow beyond `largest_file` bytes."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-m", "gcbench", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
        preexec_fn=limit,
    )


def encoder(run: Path) -> bytes:
    return (run / "encoder" / "model.safetensors").read_bytes()


def checkpoints(run: Path) -> dict[str, bytes]:
    """Content by name of all that lies in the folder of checkpoints."""
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


@pytest.fixture(scope="module")
def undisturbed(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The encoder of a run that nothing happened to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    answer = gcbench(words(dataset, run, "--cpu-processes", "1"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return encoder(run)


@pytest.fixture(scope="module")
def stopped(
    dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run whose time was up before its first step, and what the command said."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    return run, gcbench(words(dataset, run, "--cpu-processes", "1", "--time-limit", "0.1s"))


def test_a_time_limit_stops_with_a_checkpoint_and_the_run_goes_on_to_the_same_encoder(
    dataset: PreparedDataset,
    stopped: tuple[Path, subprocess.CompletedProcess[str]],
    undisturbed: bytes,
    tmp_path: Path,
) -> None:
    first, answer = stopped
    assert answer.returncode == 75, answer.stdout + answer.stderr
    assert answer.stderr.split("\n")[-3:-1] == [
        "Error: Stopped with a checkpoint.",
        "Run the same command to go on from there.",
    ]
    assert [name[:14] for name in checkpoints(first)] == ["step-000000001"]
    assert not (first / "result.json").exists()
    run = shutil.copytree(first, tmp_path / "run")
    answer = gcbench(words(dataset, run, "--cpu-processes", "1", "--time-limit", "2h"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "going on" in answer.stdout
    assert encoder(run) == undisturbed


def test_no_room_for_a_checkpoint_costs_no_earlier_one_and_the_run_goes_on_to_the_same_encoder(
    dataset: PreparedDataset,
    stopped: tuple[Path, subprocess.CompletedProcess[str]],
    undisturbed: bytes,
    tmp_path: Path,
) -> None:
    run = shutil.copytree(stopped[0], tmp_path / "run")
    before = checkpoints(run)
    assert all(len(content) > LARGEST for content in before.values())
    arguments = words(dataset, run, "--cpu-processes", "1")
    answer = gcbench(arguments, largest_file=LARGEST)
    text = " ".join(answer.stderr.split())
    assert answer.returncode == 74, answer.stdout + answer.stderr
    assert (
        f"Error: {run}/checkpoints/step-000000002" in text and "larger than a file may be here. Raise the limit" in text
    )
    assert checkpoints(run) == before  # and nothing half-written beside it
    assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
    answer = gcbench(arguments)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["event"] == "step"] == [1, 2, 3, 4]
    assert encoder(run) == undisturbed


def test_a_file_of_accelerate_starts_its_processes_and_a_run_may_do_without_trackers(
    dataset: PreparedDataset, tmp_path: Path
) -> None:
    file, run = tmp_path / "accelerate.yaml", tmp_path / "run"
    ClusterConfig(
        compute_environment="LOCAL_MACHINE",
        distributed_type="MULTI_CPU",
        mixed_precision="no",
        use_cpu=True,
        debug=False,
        num_processes=2,
    ).to_yaml_file(str(file))
    short = ("--set", "schedule.steps=1")
    answer = gcbench(words(dataset, run, "--accelerate-config", file, "--tracker", "none", *short))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "(2 processes)" in answer.stdout
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    assert not (run / "tensorboard").exists()


def test_a_file_in_the_way_of_the_run(
    dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path / "notes.txt", tmp_path / "notes.txt" / "run"):
        assert main(words(dataset, out)) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert error == f"Error: {out} cannot be a run's folder: a file is in the way. Give another."
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(
    dataset: PreparedDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Acted out, as some users may write anywhere."""
    make = Path.mkdir

    def refuse(path: Path, *arguments: Any, **options: Any) -> None:
        if path == tmp_path / "runs":
            raise OSError(number, os.strerror(number), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert main(words(dataset, tmp_path / "runs")) == 74
    error = " ".join(capsys.readouterr().err.split())
    assert error.startswith(
        f"Error: {tmp_path / 'runs'} cannot be used: {os.strerror(number)}. Allow it, or give another"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_a_refused_precision_offers_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        build_accelerator("fp16")
    said = [word.rstrip(",.") for word in shlex.split(caught.value.way_out)]
    overrides = [word for before, word in pairwise(said) if before == "--set"]
    precisions = []
    for override in overrides:
        recipe = load_recipe("pretrain/gaussiancross", overrides=[override]).recipe
        assert isinstance(recipe, PretrainRecipe)
        precisions.append(recipe.run.precision)
    assert precisions == ["bf16", "no"]
    with pytest.raises(InputError, match=r"""'run\.precision' is False.*YAML reads no as false: write "no", with"""):
        load_recipe("pretrain/gaussiancross", overrides=["run.precision=no"])
