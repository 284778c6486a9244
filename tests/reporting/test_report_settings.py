"""What a result did differently from the table's own recipe."""

from __future__ import annotations

from typing import Any

import pytest

from gcbench.recipe.loader import load_recipe
from gcbench.recipe.tables import load_table
from gcbench.reporting.compare import Departures
from gcbench.reporting.settings import TableSettings
from gcbench.runs.results import SceneCounts
from tests.reporting.made_up import Made, made_pretraining, made_result

TABLE = load_table("table1")
ROWS = {row.id: row for row in TABLE.rows}


def recipe_values(name: str, row: str | None = None, **changed: Any) -> dict[str, Any]:
    """A recipe's values as a result stores them; keywords have ``__`` for a dot, None leaves a key out."""
    leaves = load_recipe(name, row=ROWS[row].values if row else None, pretrained=row == "gaussiancross").leaves
    values = {key: leaf.value for key, leaf in leaves.items()}
    values.update({key.replace("__", "."): value for key, value in changed.items()})
    return {key: value for key, value in values.items() if value != "absent"}


def probe(scenes: int = 312, **changed: Any) -> Made:
    counts = SceneCounts(intersection=[1], union=[1], target=[1])
    of_recipe = {key: changed.pop(key) for key in list(changed) if "__" in key}
    return made_result(
        "gaussiancross",
        "scannet",
        scenes={f"scene{number:04d}": counts for number in range(scenes)},
        resolved_recipe=recipe_values("semantic/scannet", "gaussiancross", **of_recipe),
        **changed,
    )


def test_the_tables_own_recipe_departs_in_nothing() -> None:
    assert TableSettings(TABLE)(probe()) == Departures()
    assert TableSettings(TABLE)(probe(run__workers=1, run__precision="fp32")) == Departures()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"evaluation__inference": "tta"}, "evaluation.inference is tta, not single-pass"),
        ({"evaluation__checkpoint": "best"}, "evaluation.checkpoint is best, not last"),
        ({"data__grid_size": 0.05}, "data.grid_size is 0.05, not 0.02"),
        ({"schedule__epochs": 10}, "schedule.epochs is 10, not 800"),
        ({"schedule__steps": 7}, "schedule.steps is 7, not unset"),
        ({"probe__frozen": False}, "probe.frozen is False, not True"),
        ({"label_set": "scannet200"}, "label set scannet200, not scannet20"),
        ({"split": "train"}, "split train, not val"),
        ({"scenes": 12}, "scored on 12 scenes, not on 312"),
    ],
)
def test_what_makes_it_another_number_is_named(changed: dict[str, Any], said: str) -> None:
    departures = TableSettings(TABLE)(probe(**changed))
    assert departures == Departures((said,))


def test_other_settings_are_said_but_do_not_forbid_a_verdict() -> None:
    departures = TableSettings(TABLE)(probe(optimizer__lr=0.1, losses__lovasz="absent"))
    assert departures.protocol == ()
    assert departures.others == ("losses.lovasz is only in the table’s recipe", "optimizer.lr is 0.1, not 0.005")


def test_the_encoders_recipe_counts_too() -> None:
    values = recipe_values("pretrain/gaussiancross")
    short = {**values, "schedule.epochs": 3}
    before = made_pretraining(resolved_recipe=values).result
    shortened = made_pretraining(resolved_recipe=short).result
    assert before.kind == shortened.kind == "pretrain"
    whole = probe()
    settings = TableSettings(TABLE)
    assert settings(Made(whole.row, whole.column, 0, whole.result, before)) == Departures()
    (said,) = settings(Made(whole.row, whole.column, 0, whole.result, shortened)).protocol
    assert said == f"pre-training: schedule.epochs is 3, not {values['schedule.epochs']}"


def test_a_pretraining_column_is_held_to_the_rows_recipe() -> None:
    settings = TableSettings(load_table("table6"))
    values = recipe_values("pretrain/opacity-0.1")
    found = made_pretraining("opacity-0.1", "pretraining", resolved_recipe=values)
    assert settings(found) == Departures()
    (said,) = settings(made_pretraining("opacity-0.3", "pretraining", resolved_recipe=values)).others
    assert said.endswith(" is 0.1, not 0.3")


def test_presets_and_rooms_are_not_looked_at_twice() -> None:
    settings = TableSettings(TABLE)
    assert settings(probe(preset="tiny", schedule__epochs=1)) == Departures()
    assert settings(probe(synthetic=True, schedule__epochs=1)) == Departures()
    assert settings(made_result("stranger", "scannet")) == Departures()


def test_both_counts_of_the_rooms_of_area_5_are_whole() -> None:
    counts = SceneCounts(intersection=[1], union=[1], target=[1])
    settings = TableSettings(TABLE)

    def scored_on(rooms: int) -> tuple[str, ...]:
        found = made_result(
            "spunet-scratch",
            "s3dis-area5",
            scenes={f"room{number}": counts for number in range(rooms)},
            label_set="s3dis",
            split="Area_5",
            resolved_recipe=recipe_values("semantic/s3dis"),
        )
        return settings(found).protocol

    assert (scored_on(68), scored_on(67)) == ((), ())
    assert scored_on(66) == ("scored on 66 scenes, not on 68 or 67",)
