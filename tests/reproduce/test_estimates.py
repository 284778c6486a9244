"""What a plan will cost."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcbench.recipe.tables import load_table
from gcbench.reproduce.estimates import estimate_plan
from gcbench.reproduce.plan import Choice, Selection
from gcbench.reproduce.planner import plan_tables
from gcbench.runs.results import Budget
from gcbench.runs.store import RunStore
from tests.reporting.made_up import made_result


def test_the_papers_time_of_a_scene_times_its_samples(tmp_path: Path) -> None:
    selection = Selection.of(load_table("table3"), ("gaussiancross",), ("scannet",))
    plan = plan_tables([selection], Choice(only_show=True), tmp_path)
    estimates = estimate_plan(plan, None, tmp_path)
    pretraining, training = estimates.jobs.values()
    assert pretraining.hours == pytest.approx(1_440_000 * 0.255 / 3600)
    assert training.hours == pytest.approx(960_000 * 0.255 / 3600)
    assert estimates.hours == pytest.approx((1_440_000 + 960_000) * 0.255 / 3600)
    assert estimates.memory_mb == 5296 and estimates.device == "GPU"
    assert any(source.startswith("paper: Table 6") for source in estimates.sources)


def test_rooms_cost_nothing_to_speak_of(tmp_path: Path) -> None:
    plan = plan_tables([Selection.of(load_table("table1"))], Choice(preset="tiny"), tmp_path)
    estimates = estimate_plan(plan, "tiny", tmp_path)
    trained = {planned.run.folder for planned in plan.jobs if planned.job.kind in ("pretrain", "semantic")}
    assert set(estimates.jobs) == trained and estimates.device == "core"


def test_finished_runs_of_the_folder_count_more_than_a_guess(tmp_path: Path) -> None:
    selection = Selection.of(load_table("table1"), ("spunet-scratch",), ("scannet",))
    plan = plan_tables([selection], Choice(preset="tiny"), tmp_path)
    (training,) = (planned for planned in plan.jobs if planned.job.kind == "semantic")
    other = RunStore(tmp_path / "runs").run("semantic", "measured", "feed" * 4)
    made = made_result(preset="tiny", wall_seconds=120.0, peak_memory_mb=777.0).result
    budget = Budget(scenes=32, labelled_points=9, steps=300, samples=600, passes=18.75)
    other.start({"kind": "semantic"}).finish(made.model_copy(update={"budget": budget}))
    estimate = estimate_plan(plan, "tiny", tmp_path).jobs[training.run.folder]
    assert training.samples == 600
    assert estimate.hours == pytest.approx(120 / 3600)
    assert estimate.memory_mb == 777 and estimate.source.startswith("measured: 1 finished run")
    assert estimate_plan(plan, None, tmp_path).jobs[training.run.folder].source.startswith("assumed")  # another preset
