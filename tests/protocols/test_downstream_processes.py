"""Trainings of either kind, as their workers run them: two processes share each batch and the scoring, one result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcbench.data.storage import PreparedDataset
from gcbench.protocols.jobs import WORKER
from gcbench.runs.results import InstanceResult, SemanticResult
from gcbench.runs.store import Run
from gcbench.training.launch import Launch, run_worker
from tests.protocols.small_segmentation import job_of, write_rooms

SCENES = [f"scene{number:04d}_00" for number in range(5)]  # an odd number: one process scores more than the other
OVERRIDES = (
    *("run.batchnorm=synchronised", "schedule.steps=2"),
    *("optimizer.lr=1.0e-6", "optimizer.weight_decay=0.0"),
)
Outcome = tuple[SemanticResult | InstanceResult, list[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_rooms(tmp_path_factory.mktemp("rooms"), train=4)


def train(kind: str, dataset: PreparedDataset, folder: Path, processes: int) -> Outcome:
    """The result of a job, its events, and its run folder."""
    job = job_of(kind, dataset, *OVERRIDES).model_copy(update={"val": ("train", "val")})
    run = Run(folder, kind=job.kind, name=job.name, key=job.key).queue(job.model_dump(mode="json"))
    events: list[dict[str, Any]] = []
    run_worker(WORKER, run.job_path, folder / "worker.log", events.append, Launch(processes, cpu=True))
    result = run.result()
    assert isinstance(result, SemanticResult | InstanceResult)
    return result, events, folder


@pytest.fixture(scope="module", params=["semantic", "instance"])
def both(
    request: pytest.FixtureRequest, dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory
) -> list[Outcome]:
    """The same job in one process and in two."""
    root = tmp_path_factory.mktemp(request.param)
    return [train(request.param, dataset, root / str(processes), processes) for processes in (1, 2)]


def test_two_processes_take_the_steps_of_one(both: list[Outcome]) -> None:
    logs = [[event for event in events if event["event"] == "step"] for _, events, _ in both]
    assert len(logs[0]) == len(logs[1]) == 2
    for one, other in zip(*logs, strict=True):
        for key in one.keys() & {"lr", "grad_norm", "loss", "cross_entropy", "lovasz", "offset", "cosine"}:
            assert other[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key


def test_every_scene_is_scored_once(both: list[Outcome]) -> None:
    """Each evaluation counts all scenes; of two processes the first one predicts three of the five."""
    for (result, events, folder), counts in zip(both, ([1, 2, 3, 4, 5], [2, 4, 5]), strict=True):
        assert list(result.scenes) == SCENES
        assert [event["step"] for event in events if event.get("phase") == "scoring"] == counts * 2
        assert sorted(path.stem for path in folder.glob("predictions/*/*")) == SCENES


def test_the_scenes_have_the_same_counts(both: list[Outcome]) -> None:
    (one, _, _), (other, _, _) = both
    if isinstance(one, SemanticResult) and isinstance(other, SemanticResult):
        for name in SCENES:
            assert other.scenes[name] == one.scenes[name], name
        assert sum(sum(scene.target) for scene in one.scenes.values()) > 1000  # voxels with a class
        return
    assert isinstance(one, InstanceResult) and isinstance(other, InstanceResult)
    for name in SCENES:
        assert other.scenes[name]["targets"] == one.scenes[name]["targets"], name
        assert len(one.scenes[name]["targets"]) == 3
        for left, right in zip(one.scenes[name]["predictions"], other.scenes[name]["predictions"], strict=True):
            assert right == pytest.approx(left, rel=1e-4), name  # class, score, points, of them without a target
    assert any(scene["predictions"] for scene in one.scenes.values())


def test_metrics_and_budget_are_those_of_one_process_and_say_how_many_there_were(both: list[Outcome]) -> None:
    (one, _, _), (other, _, _) = both
    assert one.budget is not None and other.budget is not None
    assert (one.budget.processes, other.budget.processes) == (1, 2)
    assert other.budget.model_copy(update={"processes": 1}) == one.budget
    assert other.metrics == pytest.approx(one.metrics, abs=1e-6)
    assert other.checkpoints["last"].metrics == other.metrics
    assert other.protocol == one.protocol
