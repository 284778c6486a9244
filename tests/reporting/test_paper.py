"""The paper's files: complete for the tables that are reproduced, strict, and the source of the recipes' settings."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

import gcbench.reporting.paper as paper_module
from gcbench.errors import DataError
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.tables import load_table, table_names
from gcbench.recipe.yaml_files import read_yaml
from gcbench.reporting.paper import (
    PaperSetting,
    load_paper,
    load_paper_settings,
    load_paper_table,
    paper_table_names,
)
from gcbench.resources import resource_path

OURS = {"table1": {"random-frozen", "gaussiancross-fixed-batchnorm"}}  # rows that the paper does not have
SETTINGS = load_paper_settings()


def test_there_is_a_file_for_every_table() -> None:
    assert sorted(paper_table_names()) == sorted(table_names())


@pytest.mark.parametrize("table_id", table_names())
def test_every_cell_of_a_table_is_printed_or_a_dash(table_id: str) -> None:
    table, paper = load_table(table_id), load_paper_table(table_id)
    expected = {
        f"{table_id}/{row.id}/{column.id}/{metric}"
        for row in table.rows
        if row.id not in OURS.get(table_id, set())
        for column in table.columns
        if column.has(row.id)
        for metric in column.metrics
    }
    assert set(paper.cells) | set(paper.blanks) == expected
    assert not set(paper.cells) & set(paper.blanks)


@pytest.mark.parametrize("table_id", table_names())
def test_values_have_the_digits_that_their_metric_is_printed_with(table_id: str) -> None:
    paper = load_paper_table(table_id)
    for key, cell in paper.cells.items():
        decimals = paper.decimals_of(key.split("/")[3])
        assert cell.value == round(cell.value, decimals), key
        assert cell.place
    for delta in paper.deltas:
        assert delta.value == round(delta.value, paper.decimals), delta.cell


def test_places_name_the_table_and_differ() -> None:
    for table_id in (name for name in table_names() if name.startswith("table")):
        paper = load_paper_table(table_id)
        places = [cell.place for cell in paper.cells.values()]
        assert len(set(places)) == len(places)
        assert paper.printed_as == f"Table {table_id.removeprefix('table')}"
        assert all(place.startswith(f"{paper.printed_as}, ") for place in places)


def test_deltas_are_of_one_column_and_to_the_row_trained_from_scratch() -> None:
    counts = {}
    for table_id in ("table2", "table3", "table4"):
        paper = load_paper_table(table_id)
        counts[table_id] = len(paper.deltas)
        for delta in paper.deltas:
            (_, _, *cell), (_, row, *to) = delta.cell.split("/"), delta.to.split("/")
            assert cell == to
            assert paper.rows[row].setting == "scratch"
    assert counts == {"table2": 8, "table3": 34, "table4": 6}


def test_averages_are_those_of_the_tables_that_are_reproduced() -> None:
    for table_id in table_names():
        of = {column.id: column.of for column in load_table(table_id).columns if column.kind == "mean"}
        assert load_paper_table(table_id).averages == of


def test_units() -> None:
    paper = load_paper_table("table6")
    metrics = ("mIoU", "PSNR", "memory", "seconds")
    assert [paper.unit(metric) for metric in metrics] == ["percent", "dB", "MB", "s/scene"]
    assert [paper.decimals_of(metric) for metric in metrics] == [1, 2, 0, 3]
    assert [paper.within(metric) for metric in metrics] == [0.5, 0.5, None, None]
    assert [paper.lower_is_better(metric) for metric in metrics] == [False, False, True, True]
    assert load_paper_table("fig3").decimals_of("PSNR") == 1


def test_boards_say_the_same_of_the_papers_rows() -> None:
    for table_id in ("table1", "table2", "table3", "table4"):
        facts = load_paper_table(table_id).rows
        rows = read_yaml(resource_path("evaluation", "leaderboard", f"{table_id}.yaml"))["rows"]
        assert [row["paper"].split("/")[1] for row in rows] == list(facts)
        for row, fact in zip(rows, facts.values(), strict=True):
            board = (row["setting"], row.get("venue", ""), row.get("datasets", ""), row.get("type", ""))
            assert board == (fact.setting, fact.venue, fact.datasets, fact.type), fact.id


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS if setting.recipes], ids=lambda setting: setting.id
)
def test_recipes_hold_the_papers_settings(setting: PaperSetting) -> None:
    for name in setting.recipes:
        leaves = load_recipe(name).leaves
        assert {key: leaves[key].value for key in setting.values} == dict(setting.values), name


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS if "schedule.warmup" in s.values], ids=lambda setting: setting.id
)
def test_warm_up_is_the_printed_share_of_the_epochs(setting: PaperSetting) -> None:
    for name in setting.recipes:
        epochs = load_recipe(name).leaves["schedule.epochs"].value
        assert Fraction(str(setting.values["schedule.warmup"])) == Fraction(int(setting.printed), epochs)


@pytest.mark.parametrize(
    "setting",
    [s for s in SETTINGS if len(s.values) == 1 and re.fullmatch(r"[\d.]+m?", s.printed) and "warmup" not in s.id],
    ids=lambda setting: setting.id,
)
def test_a_setting_that_is_a_number_is_the_printed_one(setting: PaperSetting) -> None:
    (value,) = setting.values.values()
    assert value == float(setting.printed.removesuffix("m"))


def test_every_value_that_a_recipe_has_from_the_supplement_is_a_setting() -> None:
    for name in {recipe for setting in SETTINGS for recipe in setting.recipes}:
        own = {
            key for key, leaf in load_recipe(name).leaves.items() if re.match(r"paper: (Table|Sec\.) S\.", leaf.source)
        }
        assert own <= {key for setting in SETTINGS if name in setting.recipes for key in setting.values}, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("unit: percent", "unit: metre"), "'unit' is 'metre'"),
        (("cells:", "surprise: 1\ncells:"), "'surprise' is unknown"),
        (("setting: scratch}", "setting: scratch, colour: red}"), "'rows.0.colour' is unknown"),
        (("setting: scratch}", "setting: magic}"), "'rows.0.setting' is 'magic'"),
        (("value: 6.2", "value: six"), "'deltas.1.value' is not a number"),
        (("value: 6.2", "value: .nan"), "'deltas.1.value' is"),
        (("decimals: 1 # as printed\n", ""), "'decimals' is missing"),
        (("- table4/gs3/scannet/mAP25", "- table4/pc/scannet/mAP"), "'table4/pc/scannet/mAP' stands twice"),
        (("- table4/gs3/scannet/mAP25", "- table5/gs3/scannet/mAP25"), "'table5/gs3/scannet/mAP25' is not of table4"),
        (("- {id: gs3,", "- {id: gs4,"), "'table4/gs3/scannet/mAP50' is of none of the rows"),
        (("to: table4/pointgroup-scratch/scannet/mAP50", "to: table4/pc/scannet/mAP"), "of cells without a number"),
        (("id: table4/pc/scannet/mAP50", "id: table4/pc/mAP50"), "'cells.6.id' is 'table4/pc/mAP50'"),
        (("table: table4", "table: table5"), "is not of table5"),
    ],
)
def test_a_broken_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    text = resource_path("reports", "paper", "table4.yaml").read_text()
    assert text.count(change[0]) >= 1
    (tmp_path / "table4.yaml").write_text(text.replace(*change, 1))
    monkeypatch.setattr(paper_module, "resource_path", lambda *parts: tmp_path / parts[-1])
    with pytest.raises(DataError, match=re.escape(message)):
        load_paper_table("table4")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("statements", ("    printed: 9.3\n", ""), "'abstract-semantic-gain' must say one thing"),
        ("statements", ("    printed: 9.3\n", "    printed: 9.3\n    at_most: 1.0\n"), "must say one thing"),
        ("statements", ("    printed_table: table7\n", ""), "needs both of rows and printed_table"),
        (
            "statements",
            ("id: abstract-instance-gain", "id: abstract-semantic-gain"),
            "'abstract-semantic-gain' stands twice",
        ),
        ("settings", ("    recipes: [pretrain/gaussiancross]\n", ""), "needs both of recipes and values"),
        ("settings", ("id: pretrain-betas", "id: pretrain-optimizer"), "'pretrain-optimizer' stands twice"),
    ],
)
def test_broken_statements_and_settings_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: tuple[str, str], message: str
) -> None:
    for path in resource_path("reports", "paper").glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    text = (tmp_path / f"{file}.yaml").read_text()
    assert change[0] in text
    (tmp_path / f"{file}.yaml").write_text(text.replace(*change, 1))
    monkeypatch.setattr(paper_module, "resource_path", lambda *parts: tmp_path.joinpath(*parts[2:]))
    with pytest.raises(DataError, match=message):
        load_paper()
