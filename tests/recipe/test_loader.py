"""Recipes: sources, strict keys and types, layers, hashes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gcbench.errors import RecipeError
from gcbench.recipe.loader import SOURCES, content_hash, load_recipe, preset_names, recipe_from_values, recipe_names
from gcbench.recipe.schema import PretrainRecipe, SemanticRecipe
from gcbench.recipe.tables import load_table, table_names

RECIPE = """
kind: semantic
title: mine
extends: semantic/scannet
values:
  optimizer:
    lr: {value: 0.001, source: "assumed: test"}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_every_recipe_is_valid_and_every_value_has_a_source(name: str, preset: str | None) -> None:
    loaded = load_recipe(name, preset=preset)
    assert loaded.leaves
    assert all(leaf.source.startswith(SOURCES) and len(leaf.source) > 12 for leaf in loaded.leaves.values())


def test_paper_values_of_pre_training() -> None:
    recipe = load_recipe("pretrain/gaussiancross").recipe
    assert isinstance(recipe, PretrainRecipe)
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.schedule.batch_size) == (0.002, 1200, 32)
    assert (recipe.data.mask_ratio, recipe.data.views, recipe.gaussians.opacity_threshold) == (0.5, 5, 0.3)


def test_official_number_of_steps() -> None:
    # 1201 scenes, batch 32, 800 epochs as 100 rounds of 8 passes: 100 * floor(9608 / 32)
    recipe = load_recipe("semantic/scannet").recipe
    assert isinstance(recipe, SemanticRecipe)
    assert recipe.schedule.total_steps(1201) == 30_000


def test_extends_keeps_what_is_not_changed(tmp_path: Path) -> None:
    mine, base = load_recipe(write(tmp_path, RECIPE)), load_recipe("semantic/scannet")
    changed = {key for key in base.leaves if base.leaves[key].value != mine.leaves[key].value}
    assert changed == {"optimizer.lr"}
    assert mine.hash != base.hash


ABLATIONS = {
    "targets-image": {"losses.depth": 0.0, "losses.semantic": 0.0},
    "targets-image-depth": {"losses.semantic": 0.0},
    "targets-image-semantic": {"losses.depth": 0.0},
    "opacity-0.1": {"gaussians.opacity_threshold": 0.1},
    "opacity-0.5": {"gaussians.opacity_threshold": 0.5},
    "opacity-0.7": {"gaussians.opacity_threshold": 0.7},
    "views-2": {"data.views": 2},
    "views-8": {"data.views": 8},
    "mask-10": {"data.mask_ratio": 0.1},
    "mask-30": {"data.mask_ratio": 0.3},
    "mask-70": {"data.mask_ratio": 0.7},
    "mask-90": {"data.mask_ratio": 0.9},
    "without-cuboid": {"volume.anchors": "points"},
    "without-offsets": {"gaussians.offsets": False},
}


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_an_ablation_changes_only_what_it_is_about_under_every_preset(name: str, preset: str | None) -> None:
    full, ablated = (load_recipe(f"pretrain/{n}", preset=preset).leaves for n in ("gaussiancross", name))
    changed = {key: ablated[key].value for key in full if full[key].value != ablated[key].value}
    assert changed == ABLATIONS[name]


@pytest.mark.parametrize("name", ["clip", "dinov2"])
@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_a_teacher_of_table_7_is_pinned_and_the_only_change(name: str, preset: str | None) -> None:
    full, ablated = (load_recipe(f"pretrain/{n}", preset=preset) for n in ("gaussiancross", f"teacher-{name}"))
    changed = {key for key in full.leaves if full.leaves[key].value != ablated.leaves[key].value}
    assert changed <= {"teacher.name", "teacher.model", "teacher.revision", "teacher.rows"}
    assert isinstance(ablated.recipe, PretrainRecipe)
    assert ablated.recipe.teacher.name == name
    assert re.fullmatch("[0-9a-f]{40}", ablated.recipe.teacher.revision or "")


def test_extends_goes_one_level(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="Only one level"):
        load_recipe(write(tmp_path, RECIPE.replace("semantic/scannet", "semantic/s3dis")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: {value", "lrr: {value", r"'optimizer.lrr' is not a key.*Allowed: betas, clip_norm, lr, weight_decay"),
        ("0.001", "1e-3", r"'optimizer.lr' is '1e-3'.*write 3.0e-4"),
        ("0.001", "-1.0", r"'optimizer.lr' is -1.0: .*greater than 0"),
        (', source: "assumed: test"', "", r"needs exactly 'value' and a 'source'"),
        ("assumed: test", "I think", r"starts with paper:"),
        ('{value: 0.001, source: "assumed: test"}', "0.001", r"'optimizer.lr' has no source"),
        ("kind: semantic", "kind: segmentation", r"kind is 'segmentation'.*pretrain"),
        ("title: mine", "titel: mine", r"unknown top-level key 'titel'"),
        ("kind: semantic", "kind: [semantic", r"cannot be read as YAML"),
    ],
)
def test_errors_name_file_key_and_what_is_allowed(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert path in str(caught.value)
    assert re.search(message, str(caught.value), re.DOTALL)


def test_missing_value_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'data' is missing"):
        load_recipe(write(tmp_path, RECIPE.replace("extends: semantic/scannet\n", "")))


def test_override_wins_over_preset_and_says_so() -> None:
    loaded = load_recipe("pretrain/gaussiancross", preset="tiny", overrides=["schedule.steps=7"])
    assert loaded.leaves["schedule.steps"].value == 7
    assert loaded.leaves["schedule.steps"].source.startswith("override:")
    assert loaded.leaves["schedule.batch_size"].source.startswith("preset:")


@pytest.mark.parametrize("text", ["schedule.steps", "=3", "schedule.steps=[1", "no.such=1"])
def test_bad_overrides(text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe("pretrain/gaussiancross", preset="tiny", overrides=[text])


def test_a_wrong_entry_of_a_list_is_told_with_the_list_and_where_it_comes_from() -> None:
    with pytest.raises(
        RecipeError, match=r"\(override: command line\): 'volume\.grid' is \[0, 48, 48\]: .* equal to 1"
    ):
        load_recipe("pretrain/gaussiancross", preset="tiny", overrides=["volume.grid=[0,48,48]"])


def test_unknown_names() -> None:
    with pytest.raises(RecipeError, match=r"Known: instance/scannet, .*pretrain/gaussiancross"):
        load_recipe("pretrain/gaussian")
    with pytest.raises(RecipeError, match="Known: scan, tiny"):
        load_recipe("pretrain/gaussiancross", preset="huge")


def test_a_job_rebuilds_the_same_recipe() -> None:
    loaded = load_recipe("semantic/s3dis", preset="tiny")
    values = {key: leaf.value for key, leaf in loaded.leaves.items()}
    assert recipe_from_values("semantic", loaded.recipe.title, values) == loaded.recipe


def test_hash_ignores_order_and_sources() -> None:
    assert content_hash({"a": 1, "b": [2.0]}) == content_hash({"b": [2.0], "a": 1})
    plain = load_recipe("semantic/scannet")
    same = load_recipe("semantic/scannet", overrides=["optimizer.lr=0.005"])
    assert plain.hash == same.hash


def test_the_frozen_rows_of_table_1_get_the_probe_section_of_a_preset() -> None:
    table = load_table("table1")
    rows = {
        row.id: load_recipe("semantic/scannet", row=row.values, preset="tiny").recipe for row in table.rows if row.runs
    }
    assert all(isinstance(recipe, SemanticRecipe) for recipe in rows.values())
    features = {name: recipe.probe.features for name, recipe in rows.items() if isinstance(recipe, SemanticRecipe)}
    assert features.pop("spunet-scratch") == "online"
    assert set(features.values()) == {"extracted"}
    batchnorm = {name: recipe.probe.batchnorm for name, recipe in rows.items() if isinstance(recipe, SemanticRecipe)}
    assert batchnorm["gaussiancross"] == "reestimated"  # the preset's
    assert batchnorm["gaussiancross-fixed-batchnorm"] == "frozen"  # the row's own, which is what it is about


@pytest.mark.parametrize("name", table_names())
def test_tables_point_at_recipes_that_exist(name: str) -> None:
    table = load_table(name)
    trained = [column for column in table.columns if column.kind == "trained"]
    assert trained and all(column.recipe in recipe_names() for column in trained)
    assert {other for column in table.columns for other in column.of} <= {column.id for column in trained}
    assert all(row.pretrain in (None, *recipe_names()) for row in table.rows)
    for column in table.columns:
        for fold in column.folds:
            assert not set(fold.train) & set(fold.val)
