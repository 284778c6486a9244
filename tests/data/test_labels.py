from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gcbench.data import labels
from gcbench.errors import DataError


def test_label_sets_have_the_published_sizes() -> None:
    sizes = {name: len(labels.load_label_set(name)) for name in labels.label_set_names()}
    assert sizes == {"scannet20": 20, "scannet200": 200, "s3dis": 13}


def test_scannet200_groups_are_disjoint_and_cover_all_classes() -> None:
    label_set = labels.load_label_set("scannet200")
    assert {group: len(indices) for group, indices in label_set.groups.items()} == {
        "head": 66,
        "common": 68,
        "tail": 66,
    }
    assert sorted(index for indices in label_set.groups.values() for index in indices) == list(range(200))


def test_known_ids() -> None:
    scannet20 = labels.load_label_set("scannet20")
    assert (scannet20.classes[-1], scannet20.ids[-1]) == ("otherfurniture", 39)
    scannet200 = labels.load_label_set("scannet200")
    assert scannet200.ids[scannet200.classes.index("mattress")] == 1191
    s3dis = labels.load_label_set("s3dis")
    assert s3dis.classes[labels.fallback_class("s3dis")] == "clutter"


def test_raw_id_lookup_inverts_ids_and_ignores_the_rest() -> None:
    label_set = labels.load_label_set("scannet20")
    table = labels.raw_id_lookup(label_set)
    assert table[list(label_set.ids)].tolist() == list(range(20))
    assert (table == -1).sum() == 40 - 20  # ids 0 .. 39


def test_colors_are_the_customary_ones_and_tell_classes_apart() -> None:
    for name in labels.label_set_names():
        colors = labels.class_colors(name)
        assert colors.dtype == np.uint8
        assert colors.shape == (len(labels.load_label_set(name)), 3)
        assert len(np.unique(colors, axis=0)) == len(colors)
    for name, label, color in (
        ("scannet20", "floor", [152, 223, 138]),
        ("scannet200", "floor", [152, 223, 138]),
        ("scannet200", "mattress", [42, 94, 198]),
        ("s3dis", "clutter", [50, 50, 50]),
    ):
        assert labels.class_colors(name)[labels.load_label_set(name).classes.index(label)].tolist() == color


def test_a_label_set_without_colors_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text("name: x\ndataset: d\nsource: s\nclasses: [{id: 1, name: a}]\n")
    monkeypatch.setattr(labels, "resource_path", lambda *parts: tmp_path.joinpath(*parts[2:]))
    with pytest.raises(DataError, match="'x' has no colours"):
        labels.class_colors("x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "as YAML"),
        ("name: x\ndataset: d\nsource: s\nclasses: []\n", "no class"),
        ("name: x\ndataset: d\nsource: s\nclasses: [{id: 1, name: a}, {id: 1, name: b}]\n", "id '1' stands twice"),
        ("name: x\ndataset: d\nsource: s\nclasses: [{id: 1, name: a}, {id: 2, name: a}]\n", "name 'a' stands twice"),
        ("name: x\ndataset: d\nsource: s\nclasses: [{id: one, name: a}]\n", "classes.0.id"),
        ("name: x\ndataset: d\nsource: s\ncolours: 3\nclasses: [{id: 1, name: a}]\n", "colours"),
        ("name: x\ndataset: d\nsource: s\nfallback: z\nclasses: [{id: 1, name: a}]\n", "'z' is not one"),
        ("name: x\ndataset: d\nsource: s\nclasses: [{id: 1, name: a, color: [1, 2]}]\n", "classes.0.color"),
        ("name: x\ndataset: d\nsource: s\nclasses: [{id: 1, name: a, color: [1, 2, 256]}]\n", "classes.0.color.2"),
        ("name: x\ndataset: d\nsource: s\ncolors: c\nclasses: [{id: 1, name: a}]\n", "a class has no color"),
        ("name: y\ndataset: d\nsource: s\nclasses: [{id: 1, name: a}]\n", "must be 'x'"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    (tmp_path / "x.yaml").write_text(text)
    monkeypatch.setattr(labels, "resource_path", lambda *parts: tmp_path.joinpath(*parts[2:]))
    with pytest.raises(DataError, match=r"x\.yaml") as caught:
        labels.load_label_set("x")
    assert expected in str(caught.value)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"no label set 'scannet21'.*scannet20"):
        labels.load_label_set("scannet21")
    with pytest.raises(DataError, match="no fallback"):
        labels.fallback_class("scannet20")
