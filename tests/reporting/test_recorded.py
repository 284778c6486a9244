"""Reading a reproduction's folder: its tables in order, each run once, and the encoder behind a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gcbench.reporting.recorded import Recorded, encoder_run, natural_order
from gcbench.runs.cells import CellRun, record_cells
from gcbench.runs.results import AnyResult
from gcbench.runs.store import Run, RunStore
from tests.reporting.made_up import made_pretraining, made_result


def add(out: Path, kind: str, name: str, job: dict[str, Any], result: AnyResult) -> Run:
    run = RunStore(out / "runs").run(kind, name, "0123456789").start(job)
    run.finish(result)
    return run


def cell(run: Run, row: str, column: str, seed: int) -> CellRun:
    return CellRun(row=row, column=column, seed=seed, run=f"{run.folder.parent.name}/{run.folder.name}")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two seeds of a pre-training; a training from each; the folds of one more from the first."""
    out = tmp_path / "out"
    cells = []
    for seed in (0, 1):
        before = add(out, "pretrain", f"gc-seed{seed}", {}, made_pretraining(seed=seed).result)
        job = {"encoder": str(before.folder / "encoder" / "model.safetensors"), "encoder_key": "abc"}
        run = add(out, "semantic", f"cell-seed{seed}", job, made_result(seed=seed).result)
        cells.append(cell(run, "gaussiancross", "scannet", seed))
    folds = add(out, "folds", "sixfold", {"folds": [str(run.folder / "result.json")]}, made_result(seed=1).result)
    add(out, "pretrain", "unused", {}, made_pretraining(recipe_hash="ffff").result)
    record_cells(out, "table1", [*cells, cell(folds, "gaussiancross", "s3dis-6fold", 1)])
    record_cells(out, "table10", cells[:1])
    record_cells(out, "fig3", [])
    record_cells(out, "table2", [])
    return out


def test_tables_stand_in_natural_order(out: Path) -> None:
    assert Recorded(out).tables() == ["table1", "table2", "table10", "fig3"]
    assert sorted(["s1", "fig3", "table2"], key=natural_order)[0] == "table2"


def test_a_run_is_read_once_however_many_tables_it_stands_in(out: Path) -> None:
    recorded = Recorded(out)
    first, *_ = recorded.cells("table1")
    (again,) = recorded.cells("table10")
    assert (first.row, first.column, first.seed) == ("gaussiancross", "scannet", 0)
    assert first.result is again.result
    assert first.encoder is again.encoder


def test_every_run_knows_its_pre_training_also_through_folds_and_after_a_move(out: Path) -> None:
    seeds = [item.encoder.seed if item.encoder else None for item in Recorded(out).cells("table1")]
    assert seeds == [0, 1, 1]
    moved = out.with_name("moved")
    shutil.move(out, moved)
    folders = [encoder_run(item.run) for item in Recorded(moved).cells("table1")]
    assert all(folder is not None and folder.is_relative_to(moved) and folder.is_dir() for folder in folders)


@pytest.mark.parametrize(
    "job",
    [{}, {"encoder": None, "encoder_key": None}, {"encoder": "/w/model.safetensors", "encoder_key": "given:12"}],
)
def test_a_random_start_and_a_given_encoder_have_no_pre_training(tmp_path: Path, job: dict[str, Any]) -> None:
    assert encoder_run(add(tmp_path, "semantic", "cell", job, made_result().result)) is None


def test_pictures_are_of_the_first_seed_of_each_recipe_that_was_used(out: Path) -> None:
    recorded = Recorded(out)
    assert [run.folder.name for run in recorded.pretrainings(["table1"])] == ["gc-seed0-01234567"]
    assert recorded.pretrainings(["table2"]) == []
