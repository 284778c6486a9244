"""Augmentation of points, each step a small function of its parameters and an explicit generator.

Steps that are similarities only add to one 4 x 4 matrix (`random_similarity`); the caller applies it to points,
normals and cameras at once (geometry.py). Steps that are not (jitter, elastic distortion, colours) change points alone.

Shape legend: N points; coord [N, 3] float32 metres, color [N, 3] float32 in [0, 255], index [M] int64 into the points.
Parameters come from recipes; the two dataclasses carry the recipes' own keys. Angles in them are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import ndimage

from gcbench.data import geometry
from gcbench.structures import Float32Array, Float64Array, Int64Array

Range = tuple[float, float]
OFF: Range = (0.0, 0.0)
SAME_SIZE: Range = (1.0, 1.0)


@dataclass(frozen=True)
class GeometricAugmentation:
    """Similarities that move points and cameras together (Table S.1). The default is no augmentation.

    Attributes:
        rotate_z: range of the rotation about z through the origin, degrees.
        rotate_z_p: probability of that rotation.
        rotate_xy: range of each rotation about x and about y through the scene's centre, degrees.
        rotate_xy_p: probability of each of the two.
        scale: range of the isotropic scale.
        scale_p: probability of scaling.
        flip_p: probability of mirroring x, and of mirroring y.
    """

    rotate_z: Range = OFF
    rotate_z_p: float = 0.0
    rotate_xy: Range = OFF
    rotate_xy_p: float = 0.0
    scale: Range = SAME_SIZE
    scale_p: float = 0.0
    flip_p: float = 0.0


@dataclass(frozen=True)
class SegmentationAugmentation:
    """The downstream training transforms, in the order they are applied. The default is no augmentation.

    Attributes:
        dropout_ratio: share of the points dropped, with probability `dropout_p`.
        rotate_z, rotate_z_p, rotate_xy, rotate_xy_p, scale, flip_p: as in GeometricAugmentation; always scaled.
        jitter_sigma: standard deviation of a shift of every point, metres, clipped at `jitter_clip`.
        elastic: (granularity, magnitude) in metres of each elastic distortion, all with probability `elastic_p`.
        auto_contrast_p: probability of blending towards stretched colours.
        color_translation_p, color_translation_ratio: one shift of all colours, up to that share of 255.
        color_jitter_p, color_jitter_std: a shift of every colour, as a share of 255.
    """

    dropout_ratio: float = 0.0
    dropout_p: float = 0.0
    rotate_z: Range = OFF
    rotate_z_p: float = 0.0
    rotate_xy: Range = OFF
    rotate_xy_p: float = 0.0
    scale: Range = SAME_SIZE
    flip_p: float = 0.0
    jitter_sigma: float = 0.0
    jitter_clip: float = 0.0
    elastic: tuple[Range, ...] = ()
    elastic_p: float = 0.0
    auto_contrast_p: float = 0.0
    color_translation_p: float = 0.0
    color_translation_ratio: float = 0.0
    color_jitter_p: float = 0.0
    color_jitter_std: float = 0.0

    @property
    def geometric(self) -> GeometricAugmentation:
        """Its part that is a similarity."""
        return GeometricAugmentation(
            self.rotate_z, self.rotate_z_p, self.rotate_xy, self.rotate_xy_p, self.scale, 1.0, self.flip_p
        )


def center_shift(coord: Float32Array, *, apply_z: bool) -> Float64Array:
    """[4, 4] translation of the bounding box's centre to x = y = 0 and, with `apply_z`, of its floor to z = 0."""
    low, high = (corner.astype(np.float64) for corner in geometry.bounds(coord))
    center = (low + high) / 2
    return geometry.shift(-np.array([center[0], center[1], low[2] if apply_z else 0.0]))


def random_similarity(
    coord: Float32Array, augmentation: GeometricAugmentation, rng: np.random.Generator
) -> Float64Array:
    """[4, 4]: centre shift with z, then rotations about z, x and y, scale and flips, as drawn (Table S.1)."""
    matrix = center_shift(coord, apply_z=True)
    corners = _corners(geometry.move_points(matrix, coord))
    settings = (
        ("z", augmentation.rotate_z, augmentation.rotate_z_p),
        ("x", augmentation.rotate_xy, augmentation.rotate_xy_p),
        ("y", augmentation.rotate_xy, augmentation.rotate_xy_p),
    )
    turned = np.eye(4)
    for axis, (low, high), probability in settings:
        if rng.random() < probability:
            moved = corners @ turned[:3, :3].T + turned[:3, 3]
            center = None if axis == "z" else (moved.min(axis=0) + moved.max(axis=0)) / 2
            angle = np.deg2rad(rng.uniform(low, high))
            turned = geometry.rotation(cast(geometry.Axis, axis), angle, center) @ turned
    if rng.random() < augmentation.scale_p:
        turned = geometry.scaling(rng.uniform(*augmentation.scale)) @ turned
    turned = geometry.flip(*(bool(drawn < augmentation.flip_p) for drawn in rng.random(2))) @ turned
    return turned @ matrix


def dropout(count: int, *, ratio: float, rng: np.random.Generator) -> Int64Array:
    """Index of the points that stay when a share `ratio` of `count` points is dropped at random; order is kept."""
    keep = max(count - round(count * ratio), 1)
    return cast(Int64Array, np.sort(rng.permutation(count)[:keep]))


def block_dropout(coord: Float32Array, *, ratio: float, block_size: float, rng: np.random.Generator) -> Int64Array:
    """Index of the points that stay when a share `ratio` of the occupied blocks (cubes of that edge) is dropped."""
    blocks = np.floor((coord - geometry.bounds(coord)[0]) / block_size).astype(np.int64)
    extent = geometry.bounds(blocks)[1] + 1
    _, block_of = np.unique((blocks[:, 0] * extent[1] + blocks[:, 1]) * extent[2] + blocks[:, 2], return_inverse=True)
    kept = np.zeros(int(block_of.max()) + 1, dtype=bool)
    kept[dropout(len(kept), ratio=ratio, rng=rng)] = True
    return cast(Int64Array, np.flatnonzero(kept[block_of]))


def jitter(coord: Float32Array, *, sigma: float, clip: float, rng: np.random.Generator) -> Float32Array:
    """Shift every coordinate by clipped Gaussian noise, metres."""
    noise = rng.standard_normal(coord.shape, dtype=np.float32) * np.float32(sigma)
    return cast(Float32Array, coord + np.clip(noise, -clip, clip))


def elastic_distortion(
    coord: Float32Array, *, granularity: float, magnitude: float, rng: np.random.Generator
) -> Float32Array:
    """Shift points by smooth noise: Gaussian on a grid of `granularity` metres, box-blurred twice, times `magnitude`.

    The transform of Choy et al. 2019 (4D spatio-temporal ConvNets), as all sparse-convolution recipes use it.
    """
    low, high = geometry.bounds(coord)
    shape = tuple(((high - low) // granularity).astype(int) + 3)
    positions = ((coord - low) / np.float32(granularity) + 1).T
    moved = coord.copy()
    for axis in range(3):
        noise = rng.standard_normal(shape, dtype=np.float32)
        for _ in range(2):
            noise = ndimage.uniform_filter(noise, size=3, mode="constant")
        shifts = ndimage.map_coordinates(noise, positions, order=1, mode="constant", prefilter=False)
        moved[:, axis] += np.float32(magnitude) * shifts
    return moved


def auto_contrast(color: Float32Array, *, blend: float) -> Float32Array:
    """Blend colours with the same colours stretched to [0, 255] per channel; `blend` 1 is the stretched ones."""
    low, high = geometry.bounds(color)
    stretched = (color - low) * (np.float32(255.0) / np.maximum(high - low, np.float32(1e-3)))
    return cast(Float32Array, color + np.float32(blend) * (np.clip(stretched, 0, 255) - color))


def color_translation(color: Float32Array, *, ratio: float, rng: np.random.Generator) -> Float32Array:
    """Shift all colours by one random RGB offset of up to `ratio` * 255 either way."""
    offset = (rng.uniform(-1, 1, size=(1, 3)) * 255 * ratio).astype(np.float32)
    return cast(Float32Array, np.clip(color + offset, 0, 255))


def color_jitter(color: Float32Array, *, std: float, rng: np.random.Generator) -> Float32Array:
    """Add Gaussian noise of `std` * 255 to every colour."""
    noise = rng.standard_normal(color.shape, dtype=np.float32) * np.float32(std * 255)
    return cast(Float32Array, np.clip(color + noise, 0, 255))


def augment_color(
    color: Float32Array, augmentation: SegmentationAugmentation, rng: np.random.Generator
) -> Float32Array:
    """Auto-contrast, translation and jitter, each with its probability."""
    if rng.random() < augmentation.auto_contrast_p:
        color = auto_contrast(color, blend=rng.random())
    if rng.random() < augmentation.color_translation_p:
        color = color_translation(color, ratio=augmentation.color_translation_ratio, rng=rng)
    if rng.random() < augmentation.color_jitter_p:
        color = color_jitter(color, std=augmentation.color_jitter_std, rng=rng)
    return color


def sphere_crop(coord: Float32Array, *, points: int, rng: np.random.Generator) -> Int64Array:
    """Index of the `points` points nearest to a random one; all of them when there are no more than that."""
    if len(coord) <= points:
        return np.arange(len(coord))
    offset = coord - coord[rng.integers(len(coord))]
    distance = np.einsum("ni,ni->n", offset, offset)
    return cast(Int64Array, np.sort(np.argpartition(distance, points - 1)[:points]))


def _corners(coord: Float32Array) -> Float64Array:
    box = np.stack(geometry.bounds(coord)).astype(np.float64)
    return np.array([[box[i, 0], box[j, 1], box[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
