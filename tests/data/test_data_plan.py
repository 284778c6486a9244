from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from gcbench.cli import data_check
from gcbench.data.plan import Plan, plan_table, raw_files
from gcbench.data.plan_facts import DATASETS, DatasetPlan, Size, Step, dataset_plan, table_names
from gcbench.errors import DataError, InputError

TABLES = [f"table{number}" for number in range(1, 8)]


def all_sizes() -> list[tuple[str, Size]]:
    found: list[tuple[str, Size]] = []
    for name in DATASETS:
        facts = dataset_plan(name)
        for step in (*facts.steps, *(step for item in facts.alternatives for step in item.steps)):
            sizes = [step.download, step.unpacked, *step.prepares.values()]
            found += [(f"{name} {step.id}", size) for size in sizes if size is not None]
    return found


def test_every_table_has_a_plan_that_ends_with_a_check() -> None:
    assert [*TABLES, "fig3"] == list(table_names())
    for table in TABLES:
        made = plan_table(table)
        assert [step.number for step in made.steps] == list(range(1, len(made.steps) + 1))
        assert made.steps[-1].command.startswith("gcbench data audit")
        assert all(step.command for step in made.steps)


@pytest.mark.parametrize(("table", "datasets"), [("table1", 2), ("table3", 2), ("table2", 1), ("table5", 1)])
def test_s3dis_is_needed_for_tables_1_and_3_only(table: str, datasets: int) -> None:
    assert len(plan_table(table).uses) == datasets


def test_every_size_has_a_source_and_every_estimate_says_how() -> None:
    for where, size in all_sizes():
        assert size.source, where
        assert size.basis == "measured" or size.formula or len(size.source) > 20, where


def test_totals_add_up_from_the_facts() -> None:
    for table in TABLES:
        made = plan_table(table)
        steps = [
            step
            for name in DATASETS
            if table in dataset_plan(name).tables
            for step in dataset_plan(name).steps
            if step.needed_by is None or table in step.needed_by
        ]
        download = sum(step.download.total for step in steps if step.download)
        prepared = sum(size.total for step in steps for size in step.prepares.values())
        unpacked = sum(step.unpacked.total for step in steps if step.unpacked)
        assert made.download_gb == pytest.approx(download)
        assert made.prepared_gb == pytest.approx(prepared)
        assert made.peak_disk_gb == pytest.approx(download + prepared + unpacked)
        assert made.smallest_gb <= made.download_gb


def test_without_recordings_a_table_with_scratch_rows_takes_a_hundredth() -> None:
    made = plan_table("table4")
    other = next(item for item in made.alternatives if item.id == "without-frames")
    recordings = next(step for step in made.steps if step.id == "sens")
    assert other.replaces == [recordings.number]
    assert other.download_gb == pytest.approx(made.download_gb - recordings.download_gb)
    assert other.download_gb < made.download_gb / 50
    assert [item.id for item in plan_table("table6").alternatives] == ["frames-25k"]  # an ablation of pre-training


def test_the_processed_rooms_take_the_place_of_three_steps() -> None:
    made = plan_table("table1")
    other = next(item for item in made.alternatives if item.id == "processed")
    numbers = {step.id: step.number for step in made.steps if step.dataset == "S3DIS"}
    assert other.replaces == [numbers["release"], numbers["meshes"], numbers["prepare"]]
    assert [step.id for step in other.steps] == ["archive", "import"]


def test_only_table_2_takes_the_data_efficient_files() -> None:
    assert [table for table in TABLES if any(s.id == "data-efficient" for s in plan_table(table).steps)] == ["table2"]


def raw_scannet(root: Path, meshes: int) -> Path:
    for number in range(meshes):
        folder = root / "scans" / f"scene{number:04d}_00"
        folder.mkdir(parents=True)
        for suffix in ("_vh_clean_2.ply", "_vh_clean.aggregation.json", ".aggregation.json"):
            (folder / f"{folder.name}{suffix}").touch()
    (root / "scannetv2-labels.combined.tsv").touch()
    return root


@pytest.mark.parametrize("below", ["", "ScanNet"])
def test_what_is_there_is_left_out(tmp_path: Path, below: str) -> None:
    raw_scannet(tmp_path / below, 13)
    before, after = plan_table("table4"), plan_table("table4", [tmp_path])
    meshes = [next(step for step in made.steps if step.id == "mesh") for made in (before, after)]
    assert meshes[1].files == meshes[0].files - 13
    assert meshes[1].download_gb == pytest.approx(meshes[0].download_gb * (1 - 13 / 1613))
    assert not [step for step in after.steps if step.id == "label-map"]
    assert next(step for step in after.steps if step.id == "aggregation").files == 1500
    assert any("13 of 1,613" in line for line in after.present)


def test_synthetic_rooms_are_no_part_of_a_dataset(tmp_path: Path) -> None:
    raw_scannet(tmp_path, 3)
    assert raw_files(dataset_plan("scannet"), tmp_path)
    (tmp_path / "SYNTHETIC.json").write_text("{}")
    assert not raw_files(dataset_plan("scannet"), tmp_path)
    assert plan_table("table4", [tmp_path]) == plan_table("table4")


def prepared(root: Path, layout: str, scenes: int, frames: int) -> Path:
    names = [f"scene{number:04d}_00" for number in range(scenes)]
    entries = {name: {"points": 1, "sha256": "0", "frames": frames, "frames_sha256": "0"} for name in names}
    manifest = {"format_version": 1, "layout": layout, "synthetic": False, "label_sets": [], "normals": "x"}
    rest = {"splits": {"train": names}, "scenes": entries, "notes": [], "fingerprint": "f"}
    root.mkdir(parents=True)
    (root / "dataset.json").write_text(json.dumps(manifest | rest))
    return root


def test_a_whole_prepared_dataset_leaves_only_the_check(tmp_path: Path) -> None:
    whole = prepared(tmp_path / "whole", "scannet", 1613, 100)
    made = plan_table("table4", [whole])
    assert [step.id for step in made.steps] == ["audit"]
    assert (made.download_gb, made.prepared_gb) == (0, 0)
    s3dis = prepared(tmp_path / "s3dis", "s3dis", 271, 0)
    assert {step.id for step in plan_table("table1", [whole, s3dis]).steps} == {"audit"}


def test_points_without_frames_are_not_all_that_pretraining_needs(tmp_path: Path) -> None:
    made = plan_table("table5", [prepared(tmp_path / "points", "scannet", 1613, 0)])
    assert {"mesh", "sens", "prepare"} <= {step.id for step in made.steps}
    other = plan_table("table4", [tmp_path / "points"]).alternatives[0]
    assert other.download_gb == 0  # rows from scratch have all they need


def test_processed_rooms_that_are_there_are_taken(tmp_path: Path) -> None:
    for number in range(271):
        room = tmp_path / "Area_1" / f"office_{number}"
        room.mkdir(parents=True)
        (room / "coord.npy").touch()
    steps = [step.id for step in plan_table("table1", [tmp_path]).steps if step.dataset == "S3DIS"]
    assert steps == ["import", "audit"]


def test_unknown_tables_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no plan for 'table9'.*table1"):
        plan_table("table9")
    with pytest.raises(DataError, match=r"no folder.*gone"):
        plan_table("table1", [tmp_path / "gone"])


@given(st.dictionaries(st.sampled_from("abc"), st.integers(1, 10**6), min_size=1))
def test_a_size_is_the_product_of_its_factors(product: dict[str, int]) -> None:
    size = Size.model_validate({"product": product, "basis": "estimated", "source": "x"})
    expected = 1
    for value in product.values():
        expected *= value
    assert size.total == pytest.approx(expected / 1e9)
    assert size.formula.count(" x ") == len(product) - 1


@pytest.mark.parametrize("change", [{"gb": 1.0}, {"product": {}}, {"source": ""}, {"basis": "guessed"}, {"mb": 3}])
def test_a_size_that_does_not_say_how_it_is_known_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Size.model_validate({"product": {"a": 1.0}, "basis": "estimated", "source": "x", **change})


def test_a_plan_that_names_unknown_steps_is_refused() -> None:
    facts = dataset_plan("scannet").model_dump()
    facts["alternatives"][0]["replaces"] = ["no-such-step"]
    with pytest.raises(ValidationError, match="no-such-step"):
        DatasetPlan.model_validate(facts)


def test_a_step_counts_what_it_finds_against_its_files() -> None:
    step = next(step for step in dataset_plan("scannet").steps if step.id == "mesh")
    assert isinstance(step, Step)
    assert step.expected == 1201 + 312 + 100


def run(*arguments: str, columns: int = 80) -> str:
    import typer

    app = typer.Typer()
    app.command()(data_check.plan)
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(columns)}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("columns", [80, 140])
def test_commands_are_printed_whole(columns: int) -> None:
    printed = run("table1", columns=columns)
    made = plan_table("table1")
    for step in (*made.steps, *(step for item in made.alternatives for step in item.steps)):
        assert step.command in printed
    assert "…" not in printed


def test_the_json_is_the_whole_plan(tmp_path: Path) -> None:
    run("table3", "--json", str(tmp_path / "plan.json"))
    assert Plan.model_validate_json((tmp_path / "plan.json").read_text()) == plan_table("table3")
