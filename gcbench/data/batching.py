"""Batches of voxelised scenes.

Shape legend: M voxels (one point each), B scenes. Voxel coordinates are >= 0 per scene (see voxels.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gcbench.data.geometry import bounds
from gcbench.data.voxels import Voxels, group, row_major
from gcbench.structures import Float32Array, Int32Array, Int64Array, PointBatch


@dataclass(frozen=True)
class PointSample:
    """The voxelised points of one scene, ready to be collated (numpy).

    Attributes:
        name: the scene.
        coord: [M, 3] float32, metres, after augmentation.
        grid_coord: [M, 3] int32, >= 0.
        feat: [M, 6] float32: colour / 127.5 - 1, then normal.
        segment: [M] int64 class indices, -1 ignored; None without labels.
        instance: [M] int64 instance ids as in the scene, -1 none; None without labels.
        centroid: [M, 3] float32, of each point's instance, NaN where it has none; None unless asked for
            (`gcbench.data.instances`).
    """

    name: str
    coord: Float32Array
    grid_coord: Int32Array
    feat: Float32Array
    segment: Int64Array | None = None
    instance: Int64Array | None = None
    centroid: Float32Array | None = None

    def __len__(self) -> int:
        return len(self.coord)


def collate(samples: Sequence[PointSample]) -> PointBatch:
    """Put the samples of B scenes one after the other; `segment` and `centroid` are kept when all of them have it."""
    lengths = [len(sample) for sample in samples]
    segments = [sample.segment for sample in samples if sample.segment is not None]
    centroids = [sample.centroid for sample in samples if sample.centroid is not None]
    return PointBatch(
        coord=_joined([sample.coord for sample in samples]),
        grid_coord=_joined([sample.grid_coord for sample in samples]),
        feat=_joined([sample.feat for sample in samples]),
        offsets=torch.tensor(np.cumsum(lengths), dtype=torch.int64),
        segment=_joined(segments) if len(segments) == len(samples) else None,
        centroid=_joined(centroids) if len(centroids) == len(samples) else None,
        names=tuple(sample.name for sample in samples),
    )


def mix3d(batch: PointBatch, rngs: Iterable[np.random.Generator], *, keep_labelled: bool = False) -> PointBatch:
    """Merge a batch's scenes in pairs, 1 with 2, 3 with 4, ...; a last odd one joins no other (Mix3D, 2021).

    Each scene keeps its own corner at voxel (0, 0, 0), so two scenes overlap. Where both fill a voxel, one of the two
    points, at random, stays: a sparse tensor has one row per voxel. (The reference leaves both rows in: it only drops
    every second offset.)

    Args:
        batch: collated scenes.
        rngs: what is drawn from, one for each pair, and one for a last odd scene.
        keep_labelled: of two points in a voxel a labelled one stays before one that is not (limited annotations).
    """
    ends = batch.offsets.tolist()
    merged_ends = ends[1::2] + ([ends[-1]] if len(ends) % 2 else [])
    grid_coord = np.asfortranarray(batch.grid_coord.numpy()).astype(np.int64)
    labelled = batch.segment.numpy() >= 0 if keep_labelled and batch.segment is not None else None
    kept, lengths = [], []
    for start, end, rng in zip([0, *merged_ends], merged_ends, rngs, strict=False):
        part = grid_coord[start:end]
        voxels = Voxels(part, *group(row_major(part, (bounds(part)[1] + 1).tolist())))
        preferred = None if labelled is None else np.flatnonzero(labelled[start:end])
        chosen = np.sort(voxels.draw(rng, preferred))
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
        centroid=None if batch.centroid is None else batch.centroid[index],
        names=tuple("+".join(names[first : first + 2]) for first in range(0, len(names), 2)),
    )


def _joined(arrays: Sequence[NDArray[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(arrays))
