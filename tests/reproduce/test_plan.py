"""The plan of a table: which jobs, in which order, shared and keyed by content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gcbench.data.storage import PreparedDataset
from gcbench.data.subsets import draw, subset_file
from gcbench.errors import DataError, InputError, RecipeError
from gcbench.files import short_sha256
from gcbench.protocols.jobs import FoldsJob, InstanceJob, Job, PretrainJob, SemanticJob, read_job
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import SemanticRecipe
from gcbench.recipe.tables import Table, load_table, table_names
from gcbench.reproduce.plan import Choice, Plan, Selection
from gcbench.reproduce.planner import plan_tables, variants
from tests.protocols.small_segmentation import write_rooms

TABLE = load_table("table1")
TINY = Choice(preset="tiny")


def plan_table(
    table: Table, out: Path, rows: tuple[str, ...] = (), columns: tuple[str, ...] = (), **changes: Any
) -> Plan:
    return plan_tables([Selection.of(table, rows, columns)], replace(TINY, **changes), out)


def folders(plan: Plan) -> list[str]:
    return [cell.run for cells in plan.cells.values() for cell in cells]


def jobs(plan: Plan, kind: str) -> list[Job]:
    return [planned.job for planned in plan.jobs if planned.job.kind == kind]


def test_shared_jobs_stand_once_and_before_those_that_need_them(tmp_path: Path) -> None:
    plan = plan_table(TABLE, tmp_path, seeds=2)
    assert len(jobs(plan, "rooms")) == len(jobs(plan, "prepare")) == 2
    assert len(jobs(plan, "pretrain")) == 2  # one per seed, for all four columns
    assert len(jobs(plan, "semantic")) == 2 * 4 * 9 - 2 * 4  # Area 5 is a column and one of the six folds
    assert len(plan.cells["table1"]) == 2 * 4 * 4
    seen: set[Path] = set()
    for planned in plan.jobs:
        assert set(planned.needs) <= seen
        seen.add(planned.run.folder)


def test_only_the_paper_has_some_rows() -> None:
    rows = ("spunet-scratch", "random-frozen", "gaussiancross", "gaussiancross-fixed-batchnorm")
    assert Selection.of(TABLE).rows == rows
    with pytest.raises(InputError, match="no row 'csc' to run"):
        Selection.of(TABLE, ("csc",))


def test_rows_and_columns_narrow_the_plan(tmp_path: Path) -> None:
    plan = plan_table(TABLE, tmp_path, ("random-frozen",), ("s3dis-area5",))
    assert [planned.job.kind for planned in plan.jobs] == ["rooms", "prepare", "semantic"]


def test_keys_change_with_what_decides_the_result_and_only_then(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        plan = plan_table(TABLE, tmp_path, columns=("scannet",), overrides=overrides)
        return {f"{p.job.kind}-{p.job.name}": p.job.key for p in plan.jobs}

    def changed(*overrides: str) -> set[str]:
        before, after = keys(), keys(*overrides)
        return {name for name in before if before[name] != after[name]}

    probe = "semantic-scannet-gaussiancross-seed0"
    everything = {name for name in keys() if name != "rooms-s3dis"}
    assert changed() == set()
    other = "semantic-scannet-gaussiancross-fixed-batchnorm-seed0"
    assert changed("pretrain.schedule.steps=7") == {"pretrain-gaussiancross-seed0", probe, other}
    assert changed("rooms.scannet.seed=5") == everything
    assert changed("rooms.s3dis.seed=5") == set()


def test_a_given_encoder_replaces_the_pretraining(tmp_path: Path) -> None:
    loaded = load_recipe("semantic/scannet", preset="tiny").recipe
    assert isinstance(loaded, SemanticRecipe)
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "x", **loaded.encoder.model_dump(mode="json")}))
    choice: dict[str, Any] = {"columns": ("scannet",), "encoder": folder}
    with pytest.raises(InputError, match="no exported encoder"):
        plan_table(TABLE, tmp_path / "out", **choice)
    (folder / "model.safetensors").write_bytes(b"weights")
    plan = plan_table(TABLE, tmp_path / "out", **choice)
    assert jobs(plan, "pretrain") == []
    keys = {job.row: job.encoder_key for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)}
    given = f"given:{short_sha256(folder / 'model.safetensors')}"
    assert keys.pop("gaussiancross") == keys.pop("gaussiancross-fixed-batchnorm") == given
    assert set(keys.values()) == {None}
    of_run = plan_table(TABLE, tmp_path / "out", **{**choice, "encoder": tmp_path})  # the folder of a run
    assert [planned.job.key for planned in of_run.jobs] == [planned.job.key for planned in plan.jobs]
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="does not tell the sizes"):
        plan_table(TABLE, tmp_path / "out", **choice)
    with pytest.raises(InputError, match="none of the chosen rows takes an encoder"):
        plan_table(TABLE, tmp_path / "out", ("random-frozen",), **choice)


def test_six_folds_are_joined(tmp_path: Path) -> None:
    plan = plan_table(TABLE, tmp_path, ("random-frozen",), ("s3dis-6fold",))
    (joined,) = jobs(plan, "folds")
    assert isinstance(joined, FoldsJob)
    assert len(joined.folds) == 6
    folds = [job for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)]
    assert {job.column for job in folds if job.fold is None} == {"s3dis-area5"}
    assert {job.val for job in folds} == {(f"Area_{k}",) for k in range(1, 7)}


def test_a_job_file_is_self_contained(tmp_path: Path) -> None:
    (job,) = jobs(plan_table(TABLE, tmp_path, columns=("scannet",)), "pretrain")
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    again = read_job(path)
    assert again == job
    assert isinstance(again, PretrainJob)
    assert again.recipe.build().kind == "pretrain"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"preset": "big"}, InputError, "Known: tiny"),
        ({"preset": None}, InputError, "--data ROOT"),
        ({"overrides": ("schedule.steps=3",)}, InputError, "Start it with pretrain"),
        ({"overrides": ("pretrain.schedule.stepz=3",)}, RecipeError, "stepz"),
        ({"data": {"s3dis": Path("x")}, "columns": ("scannet",)}, InputError, "data prepare scannet"),
    ],
)
def test_errors_say_the_way_out(tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan_table(TABLE, tmp_path, **change)


def test_the_columns_of_table_2_are_trained_on_their_sets(tmp_path: Path) -> None:
    plan = plan_table(load_table("table2"), tmp_path)
    trainings = [job for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)]
    assert {job.limit for job in trainings} == {job.column for job in trainings}
    assert len({job.key for job in trainings}) == len(trainings) == 16
    assert len(jobs(plan, "pretrain")) == 1


def test_table_4_is_instance_segmentation(tmp_path: Path) -> None:
    plan = plan_table(load_table("table4"), tmp_path)
    trainings = [job for job in jobs(plan, "instance") if isinstance(job, InstanceJob)]
    assert {(job.row, job.label_set) for job in trainings} == {
        (row, labels) for row in ("pointgroup-scratch", "gaussiancross") for labels in ("scannet20", "scannet200")
    }
    again = read_job(_written(trainings[0], tmp_path))
    assert again == trainings[0]


def _written(job: Job, folder: Path) -> Path:
    path = folder / "job.json"
    path.write_text(job.model_dump_json())
    return path


@pytest.mark.parametrize(("table_id", "known"), [("table1", "official"), ("table4", "lovasz, official")])
def test_variants_take_other_recipes(table_id: str, known: str, tmp_path: Path) -> None:
    table = load_table(table_id)
    assert ", ".join(variants(table)) == known

    def keys(variant: str | None) -> dict[str, str]:
        plan = plan_table(table, tmp_path, variant=variant)
        return {p.job.name: p.job.key for p in plan.jobs if p.job.kind in ("semantic", "instance")}

    paper, official = keys(None), keys("official")
    assert paper.keys() == official.keys()
    assert all(paper[name] != official[name] for name in paper)
    with pytest.raises(InputError, match=f"Known: {known}"):
        keys("newest")


def test_one_training_serves_the_tables_that_share_it(tmp_path: Path) -> None:
    """Table 1's first row is Table 3's SpUNet, and the full method stands in Tables 3, 5, 6 and 7 and in Figure 3."""
    data = write_rooms(tmp_path / "data")
    words: dict[str, Any] = {"preset": None, "data": {"scannet": data.root}, "columns": ("scannet",)}
    first, third = (
        plan_table(load_table(name), tmp_path, ("spunet-scratch",), **words) for name in ("table1", "table3")
    )
    assert folders(first) == folders(third)
    rows = {"table3": "gaussiancross", "table5": "all", "table6": "opacity-0.3", "table7": "radio", "fig3": "full"}
    selections = [Selection.of(load_table(name), (row,), ("scannet",)) for name, row in rows.items()]
    plan = plan_tables(selections, Choice(data={"scannet": data.root}), tmp_path)
    assert [planned.job.kind for planned in plan.jobs] == ["pretrain", "semantic"]
    assert len(set(folders(plan))) == 1 and len(folders(plan)) == 5


def test_a_run_that_is_there_under_another_name_is_taken(tmp_path: Path) -> None:
    data = write_rooms(tmp_path / "data")
    words: dict[str, Any] = {"preset": None, "data": {"scannet": data.root}, "columns": ("scannet",)}
    of_seven = plan_table(load_table("table7"), tmp_path, ("radio",), **words)
    (training,) = (planned for planned in of_seven.jobs if planned.job.kind == "semantic")
    training.run.queue(training.job.model_dump(mode="json"))
    assert folders(plan_table(load_table("table5"), tmp_path, ("all",), **words)) == folders(of_seven)


def test_tables_that_are_smaller_under_a_preset_have_runs_of_their_own(tmp_path: Path) -> None:
    third = plan_table(load_table("table3"), tmp_path, ("gaussiancross",), ("scannet",))
    fifth = plan_table(load_table("table5"), tmp_path, ("all",), ("scannet",))
    assert not set(folders(third)) & set(folders(fifth))
    (job,) = (job for job in jobs(fifth, "pretrain") if isinstance(job, PretrainJob))
    assert job.recipe.values["schedule.steps"] == 100


def test_what_a_preset_has_not_is_stood_in_for_and_said(tmp_path: Path) -> None:
    table = load_table("table7")
    plan = plan_table(table, tmp_path, ("clip", "dinov2", "radio"), ("scannet",))
    teachers = {job.recipe.name: job.recipe.values for job in jobs(plan, "pretrain") if isinstance(job, PretrainJob)}
    assert {values["teacher.name"] for values in teachers.values()} == {"classical"}
    assert len({values["teacher.rows"] for values in teachers.values()}) == 3
    notes = {job.row: job.notes for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)}
    assert "stand in for CLIP" in notes["clip"][0] and not notes["radio"]
    real = plan_table(table, tmp_path, ("clip",), ("scannet",), preset=None, only_show=True)
    (job,) = (job for job in jobs(real, "pretrain") if isinstance(job, PretrainJob))
    assert job.recipe.values["teacher.name"] == "clip" and not job.notes


def test_pretraining_columns_have_the_pretraining_and_means_have_no_run(tmp_path: Path) -> None:
    plan = plan_table(load_table("table6"), tmp_path, ("opacity-0.5",))
    runs = {cell.column: cell.run for cell in plan.cells["table6"]}
    assert set(runs) == {"scannet", "scannet200", "pretraining"}
    assert runs["pretraining"].startswith("pretrain/opacity-0.5-seed0-")
    fig3 = plan_table(load_table("fig3"), tmp_path)
    assert {(cell.row, cell.column) for cell in fig3.cells["fig3"]} >= {("full", "scannet"), ("full", "pretraining")}
    assert ("without-cuboid", "scannet") not in {(cell.row, cell.column) for cell in fig3.cells["fig3"]}


def test_figures_of_scenes_share_the_pretraining_of_the_tables(tmp_path: Path) -> None:
    selection = Selection.of(load_table("table1"), ("gaussiancross",), ("scannet",))
    plan = plan_tables([selection], TINY, tmp_path, figures=["figS1", "figS3"])
    assert [planned.job.kind for planned in plan.jobs].count("pretrain") == 1
    s1, s3 = (planned for planned in plan.jobs if planned.job.kind == "figure")
    assert [run.folder for run in plan.figures] == [s1.run.folder, s3.run.folder]
    assert {need.parent.name for need in s3.needs} == {"rooms", "prepare", "pretrain"}
    assert any(need.name.startswith("s3dis") for need in s3.needs)


def test_scannetpp_is_asked_for_where_the_paper_shows_it(tmp_path: Path) -> None:
    data = write_rooms(tmp_path / "data")
    with pytest.raises(InputError, match="needs 'scannetpp'"):
        plan_tables([], Choice(data={"scannet": data.root}), tmp_path, figures=["figS4"])


def test_a_plan_can_be_shown_without_any_data(tmp_path: Path) -> None:
    plan = plan_tables([Selection.of(load_table(name)) for name in table_names()], Choice(only_show=True), tmp_path)
    assert {planned.lacks for planned in plan.jobs} == {"scannet", "s3dis"}
    efforts = {planned.job.name: planned.effort for planned in plan.jobs}
    assert efforts["scannet-spunet-scratch-seed0"] == "30,000 steps, 960,000 samples (800 epochs)"
    assert "samples" in efforts["scenes-10-spunet-scratch-seed0"]
    assert not any(tmp_path.iterdir())


def test_the_budget_is_in_steps_and_samples_with_the_epochs_beside_it(tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path / "data", train=10)
    draw(dataset, 0)
    table = load_table("table2")
    given: dict[str, Any] = {"rows": ("spunet-scratch",), "preset": None, "data": {"scannet": dataset.root}}
    plan = plan_table(table, tmp_path, **given, columns=("scenes-20", "points-50"))
    # 100 rounds of 8 passes: 2 * 8 // 24 is no whole batch, so one step; 10 * 8 // 24 are three
    assert [planned.effort for planned in plan.jobs] == [
        "100 steps, 2,400 samples (800 epochs)",
        "300 steps, 7,200 samples (800 epochs)",
    ]
    before = [planned.job.key for planned in plan.jobs]
    draw(PreparedDataset.open(dataset.root), 1)  # other scenes, other points
    again = plan_table(table, tmp_path, **given, columns=("scenes-20", "points-50"))
    assert all(key != planned.job.key for key, planned in zip(before, again.jobs, strict=True))
    subset_file(dataset, "points-50").unlink()
    with pytest.raises(DataError, match="gcbench data subsets"):
        plan_table(table, tmp_path, **given, columns=("points-50",))
