"""Voxels of a scene: one point of each for training and evaluation, and fragments that cover every point for testing.

A voxel is floor(coord / grid_size), divided in float64, minus the scene's smallest voxel, so voxel coordinates are >= 0
per scene. The rules are those of Pointcept's `GridSample` (modes "train" and "test").

Shape legend: N points, M voxels with a point, F fragments = points of the fullest voxel. Lengths are metres.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gcbench.data.geometry import bounds
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Int32Array, Int64Array

_MAX_CELLS = 2**62


@dataclass(frozen=True)
class GridSample:
    """One point per voxel.

    Attributes:
        grid_coord: [M, 3] int32 voxel coordinates, in ascending order of (x, y, z).
        index: [M] int64, the point that stands for the voxel.
        inverse: [N] int64, the voxel of every raw point: ``prediction[inverse]`` goes back to all points.
    """

    grid_coord: Int32Array
    index: Int64Array
    inverse: Int64Array


@dataclass(frozen=True)
class Voxels:
    """The points of a scene grouped by voxel, in ascending order of (x, y, z); within a voxel in the scene's order.

    Attributes:
        cells: [N, 3] int64, the voxel coordinates of every point.
        order: [N] int64, the points, voxel after voxel.
        starts: [M] int64, where each voxel begins in `order`.
    """

    cells: Int64Array
    order: Int64Array
    starts: Int64Array

    def __len__(self) -> int:
        """M, the number of voxels."""
        return len(self.starts)

    @cached_property
    def counts(self) -> Int64Array:
        """[M] int64, the number of points of each voxel."""
        return np.diff(self.starts, append=len(self.order))

    @cached_property
    def inverse(self) -> Int64Array:
        """[N] int64, the voxel of every point."""
        inverse = np.empty_like(self.order)
        inverse[self.order] = np.repeat(np.arange(len(self)), self.counts)
        return inverse

    def grid_coord(self, index: Int64Array) -> Int32Array:
        """Voxel coordinates [K, 3] int32 of the K points `index`."""
        taken = np.empty((len(index), 3), np.int32)
        for column, target in zip(self.cells.T, taken.T, strict=True):
            target[:] = column.take(index)
        return taken

    def first(self) -> Int64Array:
        """[M] int64: the first point of each voxel in the scene's order."""
        return self.order[self.starts]

    def draw(self, rng: np.random.Generator, preferred: Int64Array | None = None) -> Int64Array:
        """[M] int64: a random point of each voxel, each with the same chance.

        Args:
            rng: what is drawn from.
            preferred: points that stand for their voxels; where several share one, each has the same chance.
        """
        index = self.order[self.starts + (rng.random(len(self)) * self.counts).astype(np.int64)]
        if preferred is not None:
            shuffled = rng.permutation(preferred)
            index[self.inverse[shuffled]] = shuffled  # the last of a voxel stays
        return index

    def fragments(self) -> Iterator[Int64Array]:
        """F index arrays [M] int64, made one by one: fragment f holds point f % count of each voxel of `count` points.

        Every fragment has one point per voxel, all have the same voxels, and together they cover every point: point r
        of a voxel is in ceil((F - r) / count) of them. Points of a voxel count in the scene's order; the reference's
        order is that of an unstable sort, so there only how often the points of one voxel occur is the same, not which.
        """
        for number in range(int(self.counts.max())):
            yield self.order[self.starts + number % self.counts]


def voxelize(coord: Float32Array, grid_size: float) -> Voxels:
    """Group the points [N, 3] by voxels of edge `grid_size`.

    Raises:
        InputError: there are no points, one is not finite, or the grid would have too many cells to number.
    """
    if not len(coord) or not np.isfinite(coord).all():
        raise InputError(f"Grid sampling needs finite points; got {len(coord)}, not all of them finite.")
    cells = np.empty(coord.shape, np.int64, order="F")
    for column, cell in zip(coord.T, cells.T, strict=True):
        np.floor(np.divide(column, grid_size, dtype=np.float64), out=cell, casting="unsafe")
    low, high = bounds(cells)
    cells -= low
    extent = [int(size) for size in high - low + 1]
    if extent[0] * extent[1] * extent[2] >= _MAX_CELLS or max(extent) >= 2**31:
        raise InputError(f"A scene of {extent} voxels of {grid_size} m is too large: is its unit metres?")
    order, starts = group(row_major(cells, extent))
    return Voxels(cells, order, starts)


def grid_sample(coord: Float32Array, grid_size: float, rng: np.random.Generator | None) -> GridSample:
    """One point per voxel: a random one (training), or with `rng` None the first in the scene's order (evaluation).

    Raises:
        InputError: there are no points, one is not finite, or the grid would have too many cells to number.
    """
    voxels = voxelize(coord, grid_size)
    index = voxels.first() if rng is None else voxels.draw(rng)
    return GridSample(voxels.grid_coord(index), index, voxels.inverse)


def row_major(cells: Int64Array, extent: list[int]) -> Int64Array:
    """Number of each cell [N, 3] in a grid of `extent` cells, z fastest."""
    return (cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2]


def group(key: NDArray[np.int64]) -> tuple[Int64Array, Int64Array]:
    """Order that sorts `key` [N] (>= 0) stably, and where each run of equal keys starts in it."""
    count = len(key)
    bits = count.bit_length()
    if int(key.max()).bit_length() + bits <= 62:  # sorting key and position in one number: 10 times faster
        packed = (key << bits) | np.arange(count)
        packed.sort()
        order = packed & ((1 << bits) - 1)
        ordered = packed >> bits
    else:
        order = np.argsort(key, kind="stable")
        ordered = key[order]
    new = np.empty(count, dtype=bool)
    new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return order, np.flatnonzero(new)
