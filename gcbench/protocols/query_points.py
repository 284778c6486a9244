"""Which point of a scene the others are compared with, and how similar they are.

The rule: of a class, the largest object (by points; all of the class where there are no instances); of it, the visible
point nearest to its centroid. Without labels: the visible point nearest to the scene's median.

Shape legend: N points, F channels of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcbench.data.labels import load_label_set
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Int64Array, Scene


@dataclass(frozen=True)
class Query:
    """A query point.

    Attributes:
        point: its index.
        name: of its class; None where it lies at the scene's median.
        label: [N] whether a point is of that class, and `labelled`: whether it is of any; None without a class.
    """

    point: int
    name: str | None
    label: NDArray[np.bool_] | None = None
    labelled: NDArray[np.bool_] | None = None


def choose_query(scene: Scene, visible: Int64Array, label_set: str | None, classes: Sequence[str]) -> Query:
    """The query point of a scene.

    Args:
        visible: indices of the points that a reader can see.
        classes: in the order in which they are tried; one that the scene does not show is passed over.

    Raises:
        InputError: the label set has no such class.
    """
    labels = None if label_set is None else scene.segments.get(label_set)
    if label_set is not None and labels is not None:
        names = load_label_set(label_set).classes
        for name in classes:
            if name not in names:
                raise InputError(f"Label set {label_set} has no class '{name}'.", f"It has: {', '.join(names)}.")
            of_class = labels == names.index(name)
            largest = _largest_object(of_class, scene.instance)
            seen = visible[largest[visible]]
            if len(seen):
                centroid = scene.coord[largest].mean(axis=0, dtype=np.float64)
                return Query(_nearest(scene.coord, seen, centroid), name, of_class, labels >= 0)
    return Query(_nearest(scene.coord, visible, np.median(scene.coord, axis=0)), None)


def cosine_similarity(features: Float32Array, point: int) -> Float32Array:
    """[N] of every feature [N, F] to that of one point; a feature of zeros is similar to nothing."""
    lengths = np.maximum(np.linalg.norm(features, axis=1), np.finfo(np.float32).tiny)
    similarity: Float32Array = (features @ features[point]) / (lengths * lengths[point])
    return np.clip(similarity, -1.0, 1.0)


def class_means(similarity: Float32Array, query: Query) -> tuple[float, float]:
    """Mean similarity of the labelled points of the query's class, and of the others; NaN where there are none."""
    if query.label is None or query.labelled is None:
        return math.nan, math.nan
    groups = (query.label, query.labelled & ~query.label)
    same, other = (float(similarity[group].mean(dtype=np.float64)) if group.any() else math.nan for group in groups)
    return same, other


def _largest_object(of_class: NDArray[np.bool_], instance: NDArray[np.int32] | None) -> NDArray[np.bool_]:
    if instance is None or not (of_class & (instance >= 0)).any():
        return of_class
    numbers, sizes = np.unique(instance[of_class & (instance >= 0)], return_counts=True)
    largest: NDArray[np.bool_] = of_class & (instance == numbers[sizes.argmax()])
    return largest


def _nearest(coord: Float32Array, among: Int64Array, place: NDArray[np.floating]) -> int:
    return int(among[((coord[among] - place) ** 2).sum(axis=1).argmin()])
