"""A downstream training in two processes: each scene is scored once, and the numbers are those of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gcbench.data.storage import PreparedDataset
from gcbench.protocols.jobs import WORKER, SegmentationJob
from gcbench.runs.results import InstanceResult, SemanticResult
from gcbench.runs.store import Run
from gcbench.training.launch import Launch, run_worker
from tests.protocols.small_segmentation import job_of, write_rooms

WORDS = (
    "run.batchnorm=synchronised",
    "schedule.steps=4",
    "schedule.batch_size=2",
    "run.log_every=1",
    "optimizer.lr=0.00001",
)


def run(job: SegmentationJob, folder: Path, processes: int) -> tuple[SemanticResult | InstanceResult, list[float]]:
    there = Run(folder, kind=job.kind, name=job.name, key=job.key)
    there.queue(job.model_dump(mode="json"))
    launch = Launch(processes, cpu=True)
    run_worker(WORKER, there.job_path, folder / "worker.log", lambda event: None, launch)
    result = there.result()
    assert isinstance(result, SemanticResult | InstanceResult)
    return result, [record["loss"] for record in there.records() if record["event"] == "step"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Four rooms to train on, of which three are scored too: no even share for two."""
    written = write_rooms(tmp_path_factory.mktemp("data"), train=4)
    path = written.root / "dataset.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["val"] += manifest["splits"]["train"][:2]
    path.write_text(json.dumps(manifest))
    return PreparedDataset.open(written.root)


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_two_processes_score_what_one_scores(kind: str, dataset: PreparedDataset, tmp_path: Path) -> None:
    job = job_of(kind, dataset, *WORDS)
    one, of_one = run(job, tmp_path / "one", 1)
    two, of_two = run(job, tmp_path / "two", 2)
    assert one.budget is not None and two.budget is not None
    assert (one.budget.processes, two.budget.processes) == (1, 2)
    assert list(one.scenes) == list(two.scenes) == list(dataset.scene_names(("val",))) and len(one.scenes) == 3
    assert of_one[0] == pytest.approx(of_two[0], rel=1e-6)
    assert of_one == pytest.approx(of_two, rel=1e-4)
    if isinstance(one, SemanticResult) and isinstance(two, SemanticResult):
        for name, counts in one.scenes.items():
            assert counts.target == two.scenes[name].target
        assert one.metrics["allAcc"] == pytest.approx(two.metrics["allAcc"], abs=0.02)
