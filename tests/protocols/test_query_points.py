"""Query points: the rule that chooses them, and cosine similarity."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.protocols.query_points import choose_query, class_means, cosine_similarity
from gcbench.structures import Scene

NAMES = load_label_set("scannet20").classes
CHAIR, TABLE = NAMES.index("chair"), NAMES.index("table")
EVERY = np.arange(10)


def scene(*, labelled: bool = True, instances: bool = True) -> Scene:
    """Ten points on a line: a chair of two points, one of four, a table of three, and one without a label."""
    coord = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], axis=1).astype(np.float32)
    labels = np.array([CHAIR] * 6 + [TABLE] * 3 + [-1], dtype=np.int16)
    objects = np.array([5, 5, 7, 7, 7, 7, 1, 1, 1, -1], dtype=np.int32)
    return Scene(
        "room",
        coord,
        np.zeros((10, 3), np.uint8),
        np.zeros_like(coord),
        {"scannet20": labels} if labelled else {},
        objects if instances else None,
    )


def test_the_query_is_on_the_largest_object_nearest_to_its_centroid() -> None:
    query = choose_query(scene(), EVERY, "scannet20", ["chair"])
    assert (query.point, query.name) == (3, "chair")  # centroid 3.5; of two equally near the first
    assert query.label is not None
    assert query.label.tolist() == [True] * 6 + [False] * 4


def test_only_visible_points_are_chosen() -> None:
    assert choose_query(scene(), np.array([0, 5, 9]), "scannet20", ["chair"]).point == 5
    hidden = choose_query(scene(), np.array([0, 7, 9]), "scannet20", ["chair", "table"])
    assert (hidden.point, hidden.name) == (7, "table"), "the largest chair cannot be seen"


def test_classes_that_are_not_there_are_passed_over() -> None:
    assert choose_query(scene(), EVERY, "scannet20", ["sofa", "table"]).name == "table"


def test_without_instances_the_class_is_one_object() -> None:
    assert choose_query(scene(instances=False), EVERY, "scannet20", ["chair"]).point == 2


@pytest.mark.parametrize(("label_set", "classes", "labelled"), [(None, (), True), ("scannet20", ("chair",), False)])
def test_without_labels_the_query_is_at_the_median(
    label_set: str | None, classes: tuple[str, ...], labelled: bool
) -> None:
    query = choose_query(scene(labelled=labelled), EVERY, label_set, classes)
    assert (query.point, query.name) == (4, None)
    assert all(map(math.isnan, class_means(np.ones(10, np.float32), query)))


def test_an_unknown_class_is_named() -> None:
    with pytest.raises(InputError, match="scannet20 has no class 'throne'"):
        choose_query(scene(), EVERY, "scannet20", ["throne"])


def test_similarity_is_the_cosine() -> None:
    features = np.array([[2, 0], [0, 3], [-1, 0], [5, 5], [0, 0]], dtype=np.float32)
    assert cosine_similarity(features, 0) == pytest.approx([1, 0, -1, math.sqrt(0.5), 0])


def test_means_leave_points_without_a_label_out() -> None:
    query = choose_query(scene(), EVERY, "scannet20", ["table"])
    similarity = np.array([0.1] * 6 + [0.7] * 3 + [9.0], dtype=np.float32)
    assert class_means(similarity, query) == pytest.approx((0.7, 0.1))
