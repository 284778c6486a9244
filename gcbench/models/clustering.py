"""Clusters of PointGroup: connected components of the points that moved to their objects' centres, on the CPU.

Shape legend
    N  points of all scenes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models import clustering_kernels as kernels
from gcbench.structures import Float64Array, Int64Array

_MOST_CELLS = 2**30  # from the origin, along an axis
_RADII = 1e-100, 1e100  # whose squares neither vanish nor overflow


def cluster_points(
    coord: NDArray[Any] | Tensor,
    classes: NDArray[Any] | Tensor,
    scenes: NDArray[Any] | Tensor,
    *,
    radius: float,
    minimum_points: int,
    ignored: Sequence[int],
) -> Int64Array:
    """Cluster the points of each class and scene.

    Two points of one class and one scene are joined when they are closer than `radius`; equal distance does not count.
    Clusters are the connected components of enough points. The result is exact: the ball query of PointGroup's CUDA
    code stops at 1000 neighbours of a point, this one sees every pair.

    Args:
        coord: [N, 3] float, in the unit of `radius`. Distances are those of float64.
        classes: [N] int, predicted.
        scenes: [N] int, number of the scene in a batch.
        radius: above 0.
        minimum_points: a smaller component is no cluster.
        ignored: classes that form no clusters.

    Returns:
        [N] int64: the cluster of every point, numbered from 0 in the order of their first points; -1 is none.

    Raises:
        InputError: wrong shapes or types, a radius that is not above 0, a coordinate that is not finite or too large.

    Source: Jiang et al., PointGroup, CVPR 2020, Algorithm 1.
    """
    if not _RADII[0] <= radius <= _RADII[1]:
        raise InputError(f"Points cannot be joined within a radius of {radius}.", "Give a finite radius above 0.")
    coords = _coordinates(coord)
    labels = [_numbers(scenes, "scenes", len(coords)), _numbers(classes, "classes", len(coords))]
    component = np.full(len(coords), -1, np.int64)
    chosen = np.flatnonzero(~np.isin(labels[1], np.array(ignored, np.int64)))
    if len(chosen):
        cells = np.column_stack([*labels, _cells(coords, radius)])[chosen]
        order = _sorted(cells)
        rows = chosen[order]
        component[rows] = kernels.connected_cells(coords[rows], cells[order], float(radius) ** 2)
    clusters: Int64Array = kernels.number_clusters(component, minimum_points)
    return clusters


def _cells(coords: Float64Array, radius: float) -> Int64Array:
    """The cell of every point; [N, 3] int64.

    All points of a cell are joined. The quotient below is at most 2^30 and rounded by at most 2^-53 of itself (or by
    next to nothing, where it underflows), so along an axis two points of a cell differ by less than (1 + 2^-22) sides,
    hence by less than (1 + 2^-22) (1 - 2^-20) radius / sqrt(3) < (1 - 2^-21) radius / sqrt(3). Three squares of that
    add up to less than (1 - 2^-21) radius^2, and all roundings of a distance to less than 2^-49 of it. Points whose
    cells differ by three along an axis are more than (2 - 2^-22) sides apart, which is more than 1.15 radius.
    """
    side = radius / math.sqrt(3) * (1 - 2**-20)
    quotient = np.floor(coords / side)
    far = np.abs(quotient).max(axis=1, initial=0) > _MOST_CELLS
    if far.any():
        n = int(far.argmax())
        raise InputError(
            f"Point {n} at {tuple(coords[n].tolist())} is too far from the origin for a radius of {radius}.",
            f"Keep coordinates within {_MOST_CELLS * side:.3g}; offsets that large come from a network gone wrong.",
        )
    cells: Int64Array = quotient.astype(np.int64)
    return cells


def _sorted(cells: Int64Array) -> Int64Array:
    """The order of the rows of cells [N, 5], the first column counting most; rows that are equal come in any order."""
    lowest = cells.min(axis=0)
    spans = [int(high) - int(low) + 1 for high, low in zip(cells.max(axis=0), lowest, strict=True)]
    if math.prod(spans) >= 2**63:
        return np.lexsort(cells.T[::-1])
    return np.argsort(np.ravel_multi_index(tuple((cells - lowest).T), spans))


def _coordinates(coord: NDArray[Any] | Tensor) -> Float64Array:
    array = coord.detach().cpu().numpy() if isinstance(coord, Tensor) else np.asarray(coord)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind != "f":
        raise InputError(f"Coordinates of {array.dtype} and shape {array.shape} are not points.", "Give [N, 3] float.")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        n = int(finite.argmin())
        raise InputError(
            f"Point {n} has coordinates {tuple(array[n].tolist())}, which are not finite.",
            "Offsets that are not finite come from a network gone wrong.",
        )
    return np.ascontiguousarray(array, np.float64)


def _numbers(values: NDArray[Any] | Tensor, name: str, count: int) -> Int64Array:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(
            f"The {name} of {array.dtype} and shape {array.shape} do not number {count} points.", "Give [N] int."
        )
    return array.astype(np.int64)
