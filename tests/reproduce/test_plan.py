"""The plan of a table: which jobs, in which order, shared and keyed by content."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gcbench.data.storage import PreparedDataset
from gcbench.data.subsets import draw, subset_file
from gcbench.errors import DataError, InputError, RecipeError
from gcbench.files import short_sha256
from gcbench.protocols.jobs import FoldsJob, InstanceJob, Job, PretrainJob, SemanticJob, read_job
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import SemanticRecipe
from gcbench.recipe.tables import load_table
from gcbench.reproduce.plan import Choice, Plan, choose, plan_table, variants
from tests.protocols.small_segmentation import write_rooms

TABLE = load_table("table1")
ALL = Choice(choose(TABLE, (), "row"), choose(TABLE, (), "column"), 1, "tiny", {}, ())


def jobs(plan: Plan, kind: str) -> list[Job]:
    return [planned.job for planned in plan.jobs if planned.job.kind == kind]


def test_shared_jobs_stand_once_and_before_those_that_need_them(tmp_path: Path) -> None:
    plan = plan_table(TABLE, replace(ALL, seeds=2), tmp_path)
    assert len(jobs(plan, "rooms")) == len(jobs(plan, "prepare")) == 2
    assert len(jobs(plan, "pretrain")) == 2  # one per seed, for all four columns
    assert len(jobs(plan, "semantic")) == 2 * 4 * 9 - 2 * 4  # Area 5 is a column and one of the six folds
    assert len(plan.cells) == 2 * 4 * 4
    seen: set[Path] = set()
    for planned in plan.jobs:
        assert set(planned.needs) <= seen
        seen.add(planned.run.folder)


def test_only_the_paper_has_some_rows() -> None:
    rows = ("spunet-scratch", "random-frozen", "gaussiancross", "gaussiancross-fixed-batchnorm")
    assert choose(TABLE, (), "row") == rows
    with pytest.raises(InputError, match="no row 'csc' to run"):
        choose(TABLE, ("csc",), "row")


def test_rows_and_columns_narrow_the_plan(tmp_path: Path) -> None:
    choice = replace(ALL, rows=("random-frozen",), columns=("s3dis-area5",))
    plan = plan_table(TABLE, choice, tmp_path)
    assert [planned.job.kind for planned in plan.jobs] == ["rooms", "prepare", "semantic"]


def test_keys_change_with_what_decides_the_result_and_only_then(tmp_path: Path) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        choice = replace(ALL, columns=("scannet",), overrides=overrides)
        return {f"{p.job.kind}-{p.job.name}": p.job.key for p in plan_table(TABLE, choice, tmp_path).jobs}

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
    choice = replace(ALL, columns=("scannet",), encoder=folder)
    with pytest.raises(InputError, match="no exported encoder"):
        plan_table(TABLE, choice, tmp_path / "out")
    (folder / "model.safetensors").write_bytes(b"weights")
    plan = plan_table(TABLE, choice, tmp_path / "out")
    assert jobs(plan, "pretrain") == []
    keys = {job.row: job.encoder_key for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)}
    given = f"given:{short_sha256(folder / 'model.safetensors')}"
    assert keys.pop("gaussiancross") == keys.pop("gaussiancross-fixed-batchnorm") == given
    assert set(keys.values()) == {None}
    of_run = plan_table(TABLE, replace(choice, encoder=tmp_path), tmp_path / "out")  # the folder of a run
    assert [planned.job.key for planned in of_run.jobs] == [planned.job.key for planned in plan.jobs]
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="does not tell the sizes"):
        plan_table(TABLE, choice, tmp_path / "out")
    with pytest.raises(InputError, match="none of the chosen rows takes an encoder"):
        plan_table(TABLE, replace(choice, rows=("random-frozen",)), tmp_path / "out")


def test_six_folds_are_joined(tmp_path: Path) -> None:
    choice = replace(ALL, rows=("random-frozen",), columns=("s3dis-6fold",))
    plan = plan_table(TABLE, choice, tmp_path)
    (joined,) = jobs(plan, "folds")
    assert isinstance(joined, FoldsJob)
    assert len(joined.folds) == 6
    folds = [job for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)]
    assert {job.column for job in folds if job.fold is None} == {"s3dis-area5"}
    assert {job.val for job in folds} == {(f"Area_{k}",) for k in range(1, 7)}


def test_a_job_file_is_self_contained(tmp_path: Path) -> None:
    (job,) = jobs(plan_table(TABLE, replace(ALL, columns=("scannet",)), tmp_path), "pretrain")
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
def test_errors_say_the_way_out(
    tmp_path: Path, change: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_table(TABLE, replace(ALL, **change), tmp_path)  # type: ignore[arg-type]


def choice_of(table_id: str, **changes: object) -> Choice:
    table = load_table(table_id)
    whole = Choice(choose(table, (), "row"), choose(table, (), "column"), 1, "tiny", {}, ())
    return replace(whole, **changes)  # type: ignore[arg-type]


def test_the_columns_of_table_2_are_trained_on_their_sets(tmp_path: Path) -> None:
    plan = plan_table(load_table("table2"), choice_of("table2"), tmp_path)
    trainings = [job for job in jobs(plan, "semantic") if isinstance(job, SemanticJob)]
    assert {job.limit for job in trainings} == {job.column for job in trainings}
    assert len({job.key for job in trainings}) == len(trainings) == 16
    assert len(jobs(plan, "pretrain")) == 1


def test_table_4_is_instance_segmentation(tmp_path: Path) -> None:
    plan = plan_table(load_table("table4"), choice_of("table4"), tmp_path)
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
        plan = plan_table(table, choice_of(table_id, variant=variant), tmp_path)
        return {p.job.name: p.job.key for p in plan.jobs if p.job.kind in ("semantic", "instance")}

    paper, official = keys(None), keys("official")
    assert paper.keys() == official.keys()
    assert all(paper[name] != official[name] for name in paper)
    with pytest.raises(InputError, match=f"Known: {known}"):
        keys("newest")


def test_one_training_serves_the_tables_that_share_it(tmp_path: Path) -> None:
    """Table 1's first row is Table 3's SpUNet: the runs are the same."""
    first, third = (
        plan_table(load_table(name), choice_of(name, rows=("spunet-scratch",)), tmp_path)
        for name in ("table1", "table3")
    )
    assert [run.folder for run in first.cells] == [run.folder for run in third.cells]
    for name, other in (("table1", "table3"), ("table3", "table1")):
        (row,) = (row for row in load_table(name).rows if row.id == "spunet-scratch")
        assert row.also == (other,)


def test_the_budget_is_in_steps_and_samples_with_the_epochs_beside_it(tmp_path: Path) -> None:
    dataset = write_rooms(tmp_path / "data", train=10)
    draw(dataset, 0)
    table = load_table("table2")
    given = {"rows": ("spunet-scratch",), "preset": None, "data": {"scannet": dataset.root}}
    plan = plan_table(table, choice_of("table2", **given, columns=("scenes-20", "points-50")), tmp_path)
    # 100 rounds of 8 passes: 2 * 8 // 24 is no whole batch, so one step; 10 * 8 // 24 are three
    assert [planned.effort for planned in plan.jobs] == [
        "100 steps, 2,400 samples (800 epochs)",
        "300 steps, 7,200 samples (800 epochs)",
    ]
    before = [planned.job.key for planned in plan.jobs]
    draw(PreparedDataset.open(dataset.root), 1)  # other scenes, other points
    again = plan_table(table, choice_of("table2", **given, columns=("scenes-20", "points-50")), tmp_path)
    assert all(key != planned.job.key for key, planned in zip(before, again.jobs, strict=True))
    subset_file(dataset, "points-50").unlink()
    with pytest.raises(DataError, match="gcbench data subsets"):
        plan_table(table, choice_of("table2", **given, columns=("points-50",)), tmp_path)
