"""One training sample of segmentation: a scene dropped, moved, distorted, voxelised and cropped, in that order.

The chain of Pointcept's ScanNet and S3DIS configurations, with the same distributions. Nothing is touched that is
dropped later: colours, normals and labels are taken of the points that survive the crop. What depends on points that
do not (the box of the centre shift and of the rotations, the extremes of auto-contrast) is computed before.

Shape legend: N points of the scene, M voxels of the sample. Lengths are metres. Feature = [colour / 127.5 - 1, normal].
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gcbench.data import geometry
from gcbench.data.batching import PointSample
from gcbench.data.elastic import elastic_distortion, elastic_noise
from gcbench.data.transforms import (
    SegmentationAugmentation,
    anisotropic_scale,
    augment_color,
    center_shift,
    dropout,
    jitter,
    random_similarity,
    sphere_crop,
)
from gcbench.data.voxels import voxelize
from gcbench.structures import IGNORE_INDEX, Float32Array, Int64Array, Scene

_Scalar = TypeVar("_Scalar", bound=np.generic)


def training_points(
    scene: Scene,
    *,
    label_set: str,
    grid_size: float,
    crop: int | float | None,
    augmentation: SegmentationAugmentation,
    rng: np.random.Generator,
    labelled: Int64Array | None = None,
) -> PointSample:
    """The scene as a training sample.

    Args:
        scene: the scene.
        label_set: which labels become `segment`.
        grid_size: voxel edge.
        crop: what stays around a random voxel: that many voxels (int) or that share of them (float); None keeps all.
        augmentation: all parameters of the transforms.
        rng: everything random comes from it.
        labelled: ids of the only points with a label, ascending; they survive dropout, voxels and crop. Where several
            share a voxel one of them stays: a sparse tensor has one row per voxel. (The reference keeps all of their
            rows, and crops labelled points away like others.) None: all points keep their labels.
    """
    coord, color, kept = np.asfortranarray(scene.coord), scene.color, np.arange(len(scene))
    origin = center_shift(coord, apply_z=True)
    if rng.random() < augmentation.dropout_p:
        kept = dropout(len(scene), ratio=augmentation.dropout_ratio, rng=rng)
        if labelled is not None:
            kept = np.union1d(kept, labelled)
        coord, color = take_rows(coord, kept), take_rows(color, kept)
    matrix = random_similarity(coord, augmentation.geometric, rng, origin=origin)
    coord = _distorted(geometry.move_points(_scaled(matrix, augmentation, rng), coord), augmentation, rng)
    voxels = voxelize(coord, grid_size)
    preferred = None if labelled is None else np.searchsorted(kept, labelled)
    index = voxels.draw(rng, preferred)
    chosen = np.arange(len(index))
    if crop is not None:
        points = crop if isinstance(crop, int) else max(int(crop * len(index)), 1)
        always = None if preferred is None else np.unique(voxels.inverse[preferred])
        chosen = sphere_crop(take_rows(coord, index), points=points, rng=rng, always=always)
    index = index[rng.permutation(chosen)]
    source = kept[index]
    final = take_rows(coord, index)
    return PointSample(
        name=scene.name,
        coord=np.ascontiguousarray(geometry.move_points(center_shift(final, apply_z=False), final)),
        grid_coord=voxels.grid_coord(index),
        feat=features(
            augment_color(color, index, augmentation, rng),
            geometry.move_normals(matrix, take_rows(scene.normal, source)),
        ),
        segment=labels_of(scene, label_set, source, labelled),
        instance=None if scene.instance is None else scene.instance[source].astype(np.int64),
    )


def take_rows(values: NDArray[_Scalar], index: Int64Array) -> NDArray[_Scalar]:
    """``values[index]`` of [N, C] in column order: each column lies in one piece, as the transforms like it."""
    taken = np.empty((len(index), values.shape[1]), values.dtype, order="F")
    for column, target in zip(values.T, taken.T, strict=True):
        np.take(column, index, out=target, mode="clip")  # "clip" writes to `out` directly; no index is outside
    return taken


def features(color: Float32Array, normal: Float32Array) -> Float32Array:
    """Network input [M, 6] float32: colour / 127.5 - 1, then normal."""
    feat = np.empty((len(color), 6), np.float32)
    for axis in range(3):
        feat[:, axis] = color[:, axis] / np.float32(127.5) - 1
        feat[:, 3 + axis] = normal[:, axis]
    return feat


def labels_of(scene: Scene, label_set: str, index: Int64Array, labelled: Int64Array | None = None) -> Int64Array | None:
    """Class indices [M] int64 of the points `index`, -1 where `labelled` does not name them; None without labels."""
    if not scene.segments:
        return None
    segment = scene.segments[label_set][index].astype(np.int64)
    assert segment.size == 0 or segment.min() >= IGNORE_INDEX
    if labelled is not None:
        named = np.zeros(len(scene), dtype=bool)
        named[labelled] = True
        segment[~named[index]] = IGNORE_INDEX
    return segment


def _scaled(
    matrix: NDArray[np.float64], augmentation: SegmentationAugmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    return anisotropic_scale(augmentation.scale, rng) @ matrix if augmentation.anisotropic else matrix


def _distorted(coord: Float32Array, augmentation: SegmentationAugmentation, rng: np.random.Generator) -> Float32Array:
    if augmentation.jitter_sigma > 0:
        coord = jitter(coord, sigma=augmentation.jitter_sigma, clip=augmentation.jitter_clip, rng=rng)
    if rng.random() < augmentation.elastic_p:
        for granularity, magnitude in augmentation.elastic:
            noise = elastic_noise(coord, granularity, rng)
            coord = elastic_distortion(coord, noise, granularity=granularity, magnitude=magnitude)
    return coord
