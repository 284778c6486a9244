"""Figure definitions: all load, and a mistake in one names its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gcbench.errors import InputError, RecipeError
from gcbench.recipe.figures import SimilarityFigure, definition_hash, figure_names, load_figure, read_figure
from gcbench.recipe.loader import preset_names, recipe_names
from gcbench.resources import resource_path


def changed(tmp_path: Path, name: str = "figS2", **values: object) -> Path:
    """A figure's file with other values; None removes a key."""
    document = yaml.safe_load(resource_path("recipes", "figures", f"{name}.yaml").read_text())
    for key, value in values.items():
        place = document if key in document else document["values"]
        if value is None:
            del place[key]
        elif place is document:
            place[key] = value
        else:
            place[key] = {"value": value, "source": "assumed: a test"}
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / f"{name}.yaml"


@pytest.mark.parametrize("name", figure_names())
def test_every_figure_loads_with_and_without_each_preset(name: str) -> None:
    for preset in (None, *preset_names()):
        loaded = load_figure(name, preset)
        assert loaded.definition.id == name
        assert loaded.definition.pretrain in recipe_names()
        assert set(loaded.leaves) <= set(type(loaded.definition).model_fields)
        assert all(leaf.source.startswith(("paper:", "assumed:", "preset:")) for leaf in loaded.leaves.values())


def test_there_are_five_figures_and_no_other() -> None:
    assert figure_names() == ["figS1", "figS2", "figS3", "figS4", "figS5"]
    with pytest.raises(InputError, match=r"no figure 'figS9'.*figS1"):
        load_figure("figS9")


def test_a_preset_says_what_stands_in_for_a_dataset_that_is_not_there() -> None:
    paper, tiny = load_figure("figS4").definition, load_figure("figS4", "tiny").definition
    assert (paper.data, paper.note.count("stand in")) == ("scannetpp", 0)
    assert tiny.data == "s3dis"
    assert "Not ScanNet++" in tiny.note
    shown_before = load_figure("figS3", "tiny").definition.splits
    assert not set(tiny.splits) & set(shown_before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": None}, "'classes': Field required"),
        ({"scenes": "4"}, "'scenes': Input should be a valid integer"),
        ({"scenes": 0}, "'scenes': .*greater than or equal to 1"),
        ({"data": "matterport"}, "'data': Input should be 'scannet'"),
        ({"panels": ["points"]}, "'panels': Extra inputs"),
        ({"splits": []}, "'splits': Tuple should have at least 1"),
        ({"elevation": 120.0}, "'elevation': Input should be less than or equal to 90"),
        ({"kind": "movie"}, "movie"),
        ({"id": "figS3"}, "id is 'figS3', the file's name says 'figS2'"),
        (
            {"presets": {"tiny": {"scene": {"value": 1, "source": "preset: x"}}}},
            "has no such key|the key 'scene' alone",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, values: dict[str, object], message: str) -> None:
    if "presets" in values:
        path = changed(tmp_path)
        path.write_text(path.read_text() + yaml.safe_dump(values))
    else:
        path = changed(tmp_path, **values)
    with pytest.raises(RecipeError, match=message) as caught:
        read_figure(path)
    assert str(path) in caught.value.message


def test_a_value_without_a_source_and_an_unknown_key_are_refused(tmp_path: Path) -> None:
    path = changed(tmp_path)
    path.write_text(path.read_text() + "colour: red\n")
    with pytest.raises(RecipeError, match="unknown top-level key 'colour'"):
        read_figure(path)
    path = changed(tmp_path)
    document = yaml.safe_load(path.read_text())
    document["values"]["scenes"] = 4
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RecipeError, match="'scenes' has no source"):
        read_figure(path)


def test_the_hash_is_of_what_decides_the_picture(tmp_path: Path) -> None:
    definition = load_figure("figS2").definition
    assert isinstance(definition, SimilarityFigure)
    same = definition.model_copy(update={"title": "another", "source": "paper: elsewhere"})
    other = definition.model_copy(update={"classes": definition.classes[::-1]})
    assert definition_hash(same) == definition_hash(definition) != definition_hash(other)
