"""`gcbench explain` on real runs of a few steps, on rooms of a floor and some boxes."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.store import RunStore
from tests.protocols.small_segmentation import job_of, run_job, write_rooms

CELL = "table1/spunet-scratch/scannet"
FEW_VARIANTS = ("evaluation.tta_rotations=[90.0]", "evaluation.tta_scales=[1.0]")


def gcbench(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gcbench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def explained(out: Path, cell: str = CELL, *arguments: str) -> dict[str, Any]:
    done = gcbench("explain", cell, "--runs", out, "--format", "json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def scoring(found: dict[str, Any]) -> dict[str, float]:
    return {share["change"]: share["number"] for share in found["shares"] if share["kind"] == "scoring"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One semantic and one instance run, named and keyed as a reproduction would."""
    out = tmp_path_factory.mktemp("explained") / "out"
    dataset = write_rooms(out / "data" / "scannet")
    for kind, table, row in (("semantic", "table1", "spunet-scratch"), ("instance", "table4", "pointgroup-scratch")):
        job = job_of(kind, dataset, *(FEW_VARIANTS if kind == "semantic" else ())).model_copy(
            update={"name": f"scannet-{row}-seed0", "table": table, "row": row}
        )
        folder = RunStore(out / "runs").run(job.kind, job.name, job.key).folder
        run_job(job, folder)
        record_cells(out, table, [CellRun(row=row, column="scannet", seed=0, run=f"{kind}/{folder.name}")])
    return out


def test_the_predictions_of_a_run_are_scored_again(trained: Path) -> None:
    found = explained(trained)
    (path,) = trained.glob("runs/semantic/*/result.json")
    assert found["values"] == {"0": pytest.approx(100 * json.loads(path.read_text())["metrics"]["mIoU"])}
    assert found["not_comparable"] == "measured on synthetic rooms"
    assert set(scoring(found)) == {
        "scored on points",
        "policy scannet-official",
        "scored on points, policy scannet-official",
        "unlabelled points count as errors",
    }
    assert [recipe["kind"] for recipe in found["recipes"]] == ["semantic"]
    assert found["notes"] == []


def test_points_score_as_a_run_that_was_scored_on_points(trained: Path, tmp_path: Path) -> None:
    """The class of a point by the nearest voxel is what the protocol itself gives."""
    from gcbench.data.storage import PreparedDataset

    dataset = PreparedDataset.open(trained / "data" / "scannet")
    result, _, _ = run_job(job_of("semantic", dataset, "evaluation.resolution=points"), tmp_path / "run")
    again = explained(trained)
    assert scoring(again)["scored on points"] == pytest.approx(100 * result.metrics["mIoU"])


def test_kept_models_run_again_under_augmentation(trained: Path, tmp_path: Path) -> None:
    from gcbench.data.storage import PreparedDataset

    out = tmp_path / "out"
    shutil.copytree(trained, out)
    dataset = PreparedDataset.open(trained / "data" / "scannet")
    changes = ("evaluation.inference=tta", "evaluation.resolution=points")
    result, _, _ = run_job(job_of("semantic", dataset, *FEW_VARIANTS, *changes), tmp_path / "run")
    first = explained(out)
    assert first["unmeasured"][0]["what"] == "test-time augmentation"
    assert first["unmeasured"][0]["command"] == f"gcbench explain {CELL}/mIoU --runs {out} --predict"
    found = explained(out, CELL, "--predict")
    assert scoring(found)["test-time augmentation, on points"] == pytest.approx(100 * result.metrics["mIoU"])
    assert "test-time augmentation" not in [one["what"] for one in found["unmeasured"]]
    shutil.rmtree(next(out.glob("runs/semantic/*/models")))
    assert "is no trained segmentation model" in explained(out, CELL, "--predict")["notes"][0]


def test_proposed_commands_find_the_run_again_and_change_one_thing(trained: Path) -> None:
    commands = [one["command"] for one in explained(trained)["unmeasured"] if "reproduce" in one["command"]]
    assert len(commands) == 2
    one_key, seeds = (gcbench(*shlex.split(command)[1:], "--dry-run") for command in commands)
    assert (one_key.returncode, seeds.returncode) == (0, 0), one_key.stderr + seeds.stderr
    assert (states(one_key.stdout).count("done"), states(one_key.stdout).count("to do")) == (0, 1)
    assert (states(seeds.stdout).count("done"), states(seeds.stdout).count("to do")) == (1, 2)


def states(plan: str) -> list[str]:
    return [state for line in plan.splitlines() for state in ("done", "to do") if line.rstrip().endswith(f" {state}")]


def test_instances_are_scored_again(trained: Path) -> None:
    found = explained(trained, "table4/pointgroup-scratch/scannet/mAP50")
    assert "policy scannet-official" in scoring(found)
    assert found["notes"] == []


def test_it_is_shown_and_written(trained: Path, tmp_path: Path) -> None:
    shown = gcbench("explain", f"{CELL}/mAcc", "--runs", trained)
    assert shown.returncode == 0, shown.stderr
    assert "no verdict, measured on synthetic rooms" in " ".join(shown.stdout.split())
    written = gcbench("explain", CELL, "--runs", trained, "--format", "md", "--out", tmp_path / "why.md")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "why.md").read_text().startswith("# Table 1")


def test_without_predictions_the_rest_is_said(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    shutil.rmtree(next(out.glob("runs/semantic/*/predictions")))
    found = explained(out)
    assert "the predictions were removed" in found["notes"][0]
    assert set(scoring(found)) == {"policy scannet-official"}


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("table9/spunet-scratch/scannet", "Known: table1, table2"),
        ("table1/nobody/scannet", "Its rows: spunet-scratch"),
        ("table1/spunet-scratch/scannet/mAP", "It has: mIoU, mAcc"),
        ("table1/gaussiancross/scannet200", "gcbench reproduce table1 --rows gaussiancross --columns scannet200"),
    ],
)
def test_wrong_cells_are_named(trained: Path, cell: str, message: str) -> None:
    done = gcbench("explain", cell, "--runs", trained)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
