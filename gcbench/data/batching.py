"""Voxels and batches.

Shape legend: N raw points, M voxels (one point each), B scenes. A voxel is floor(coord / grid_size), minus the scene's
smallest voxel, so voxel coordinates are >= 0 per scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gcbench.data.geometry import bounds
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Int32Array, Int64Array, PointBatch

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
class PointSample:
    """The voxelised points of one scene, ready to be collated (numpy).

    Attributes:
        name: the scene.
        coord: [M, 3] float32, metres, after augmentation.
        grid_coord: [M, 3] int32, >= 0.
        feat: [M, 6] float32: colour / 127.5 - 1, then normal.
        segment: [M] int64 class indices, -1 ignored; None without labels.
    """

    name: str
    coord: Float32Array
    grid_coord: Int32Array
    feat: Float32Array
    segment: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.coord)


def grid_sample(coord: Float32Array, grid_size: float, rng: np.random.Generator | None) -> GridSample:
    """One point per voxel: a random one (training), or with `rng` None the first in the scene's order (evaluation).

    Raises:
        InputError: there are no points, one is not finite, or the grid would have too many cells to number.
    """
    if not len(coord) or not np.isfinite(coord).all():
        raise InputError(f"Grid sampling needs finite points; got {len(coord)}, not all of them finite.")
    voxels = np.floor(coord / np.float32(grid_size)).astype(np.int64)
    low, high = bounds(voxels)
    voxels -= low
    extent = [int(size) for size in high - low + 1]
    if extent[0] * extent[1] * extent[2] >= _MAX_CELLS or max(extent) >= 2**31:
        raise InputError(f"A scene of {extent} voxels of {grid_size} m is too large: is its unit metres?")
    order, starts = _groups((voxels[:, 0] * extent[1] + voxels[:, 1]) * extent[2] + voxels[:, 2])
    counts = np.diff(starts, append=len(order))
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.repeat(np.arange(len(starts)), counts)
    within = 0 if rng is None else (rng.random(len(starts)) * counts).astype(np.int64)
    index = order[starts + within]
    return GridSample(voxels[index].astype(np.int32), index, inverse)


def collate(samples: Sequence[PointSample]) -> PointBatch:
    """Put the samples of B scenes one after the other; `segment` is kept when all of them have it."""
    lengths = [len(sample) for sample in samples]
    segments = [sample.segment for sample in samples if sample.segment is not None]
    return PointBatch(
        coord=_joined([sample.coord for sample in samples]),
        grid_coord=_joined([sample.grid_coord for sample in samples]),
        feat=_joined([sample.feat for sample in samples]),
        offsets=torch.tensor(np.cumsum(lengths), dtype=torch.int64),
        segment=_joined(segments) if len(segments) == len(samples) else None,
        names=tuple(sample.name for sample in samples),
    )


def mix3d(batch: PointBatch, rng: np.random.Generator) -> PointBatch:
    """Merge a batch's scenes in pairs, 1 with 2, 3 with 4, ...; a last odd one joins no other (Mix3D, 2021).

    Each scene keeps its own corner at voxel (0, 0, 0), so two scenes overlap. Where both fill a voxel, one of the two
    points, at random, stays: a sparse tensor has one row per voxel. (The reference code leaves both rows in.)
    """
    ends = batch.offsets.tolist()
    merged_ends = ends[1::2] + ([ends[-1]] if len(ends) % 2 else [])
    grid_coord = batch.grid_coord.numpy().astype(np.int64)
    kept, lengths = [], []
    for start, end in zip([0, *merged_ends], merged_ends, strict=False):
        part = grid_coord[start:end]
        extent = bounds(part)[1] + 1
        order, starts = _groups((part[:, 0] * extent[1] + part[:, 1]) * extent[2] + part[:, 2])
        counts = np.diff(starts, append=len(order))
        chosen = np.sort(order[starts + (rng.random(len(starts)) * counts).astype(np.int64)])
        kept.append(chosen + start)
        lengths.append(len(chosen))
    index = torch.from_numpy(np.concatenate(kept))
    names = [*batch.names] or [""] * len(ends)
    return replace(
        batch,
        coord=batch.coord[index],
        grid_coord=batch.grid_coord[index],
        feat=batch.feat[index],
        offsets=torch.tensor(np.cumsum(lengths), dtype=torch.int64),
        segment=None if batch.segment is None else batch.segment[index],
        names=tuple("+".join(names[first : first + 2]) for first in range(0, len(names), 2)),
    )


def _groups(key: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Order that sorts `key` [N] stably, and where each run of equal keys starts in it."""
    count = len(key)
    if (int(key.max()) + 1) * count < _MAX_CELLS:  # sorting key and position in one number: 4 times faster
        packed = np.sort(key * count + np.arange(count))
        ordered, order = np.divmod(packed, count)
    else:
        order = np.argsort(key, kind="stable")
        ordered = key[order]
    new = np.empty(count, dtype=bool)
    new[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return order, np.flatnonzero(new)


def _joined(arrays: Sequence[NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays))
