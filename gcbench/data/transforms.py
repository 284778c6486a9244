"""Augmentation of points, each step a small function of its parameters and an explicit generator.

Steps that are similarities only add to one 4 x 4 matrix (`random_similarity`); the caller applies it to points,
normals and cameras at once (geometry.py). Steps that are not (jitter, elastic distortion, colours) change points alone.
Given the same random choices each step is that of Pointcept's `transform.py`; where it differs, its docstring says so.

Shape legend: N points; coord [N, 3] float32 metres, color [N, 3] float32 in [0, 255], index [M] int64 into the points.
Arrays in column order (`np.asfortranarray`) are several times faster; every step keeps the order it is given.
Parameters come from recipes; the two dataclasses carry the recipes' own keys. Angles in them are degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from gcbench.data import geometry
from gcbench.data.voxels import group, row_major
from gcbench.structures import Float32Array, Float64Array, Int64Array, UInt8Array

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
        anisotropic: draw one scale per axis, not one for all. No similarity: GeometricAugmentation, which moves cameras
            too, has no such option. Normals are not scaled, as in the reference.
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
    anisotropic: bool = False

    @property
    def geometric(self) -> GeometricAugmentation:
        """Its part that is a similarity: all of it but an anisotropic scale."""
        scale_p = 0.0 if self.anisotropic else 1.0
        return GeometricAugmentation(
            self.rotate_z, self.rotate_z_p, self.rotate_xy, self.rotate_xy_p, self.scale, scale_p, self.flip_p
        )


def center_shift(coord: Float32Array, *, apply_z: bool) -> Float64Array:
    """[4, 4] translation of the bounding box's centre to x = y = 0 and, with `apply_z`, of its floor to z = 0.

    The shift is computed in the precision of `coord`, as the reference does: moved float32 points are equal to its.
    """
    low, high = geometry.bounds(coord)
    center = (low + high) / 2
    return geometry.shift(-np.array([center[0], center[1], low[2] if apply_z else 0.0], dtype=np.float64))


def random_similarity(
    coord: Float32Array,
    augmentation: GeometricAugmentation,
    rng: np.random.Generator,
    *,
    origin: Float64Array | None = None,
) -> Float64Array:
    """[4, 4]: centre shift with z, then rotations about z, x and y, scale and flips, as drawn (Table S.1).

    z turns about the origin, x and y about the centre of the box around the points as they lie then.

    Args:
        coord: [N, 3] points.
        augmentation: ranges and probabilities.
        rng: what is drawn from.
        origin: [4, 4], the centre shift where it is not that of `coord` but of the scene it was drawn from.
    """
    matrix = center_shift(coord, apply_z=True) if origin is None else origin
    settings = (
        ("z", augmentation.rotate_z, augmentation.rotate_z_p),
        ("x", augmentation.rotate_xy, augmentation.rotate_xy_p),
        ("y", augmentation.rotate_xy, augmentation.rotate_xy_p),
    )
    for axis, (low, high), probability in settings:
        if rng.random() < probability:
            center = None if axis == "z" else geometry.moved_center(matrix, coord)
            angle = np.deg2rad(rng.uniform(low, high))
            matrix = geometry.rotation(cast(geometry.Axis, axis), angle, center) @ matrix
    if rng.random() < augmentation.scale_p:
        matrix = geometry.scaling(rng.uniform(*augmentation.scale)) @ matrix
    return geometry.flip(*(bool(drawn < augmentation.flip_p) for drawn in rng.random(2))) @ matrix


def anisotropic_scale(scale: Range, rng: np.random.Generator) -> Float64Array:
    """[4, 4] scaling by one factor per axis. It is no similarity: cameras cannot follow it."""
    return np.diag([*rng.uniform(*scale, size=3), 1.0])


def dropout(count: int, *, ratio: float, rng: np.random.Generator) -> Int64Array:
    """Index of the points that stay when a share `ratio` of `count` points is dropped at random; order is kept.

    As in the reference int(count * (1 - ratio)) points stay, but never none.
    """
    kept = np.zeros(count, dtype=bool)
    kept[rng.choice(count, max(int(count * (1 - ratio)), 1), replace=False, shuffle=False)] = True
    return np.flatnonzero(kept)


def block_dropout(coord: Float32Array, *, ratio: float, block_size: float, rng: np.random.Generator) -> Int64Array:
    """Index of the points that stay when a share `ratio` of the occupied blocks (cubes of that edge) is dropped."""
    blocks = np.floor((coord - geometry.bounds(coord)[0]) / block_size).astype(np.int64)
    order, starts = group(row_major(blocks, (geometry.bounds(blocks)[1] + 1).tolist()))
    kept = np.zeros(len(starts), dtype=bool)
    kept[dropout(len(starts), ratio=ratio, rng=rng)] = True
    return np.sort(order[np.repeat(kept, np.diff(starts, append=len(order)))])


def jitter(coord: Float32Array, *, sigma: float, clip: float, rng: np.random.Generator) -> Float32Array:
    """Shift every coordinate by Gaussian noise of `sigma`, clipped at `clip`, metres; drawn axis after axis."""
    noise = _noise(coord, sigma, rng)
    return cast(Float32Array, coord + np.clip(noise, -clip, clip, out=noise))


def auto_contrast(color: Float32Array, bounds: tuple[Float32Array, Float32Array], *, blend: float) -> Float32Array:
    """Blend colours with the same colours stretched to [0, 255] per channel; `blend` 1 is the stretched ones.

    A channel of one value only goes to 0 (`blend` 1), unless all three are constant: then nothing is changed.

    Args:
        color: [N, 3].
        bounds: smallest and largest colour [3] of the scene, of which `color` may be a part.
        blend: weight of the stretched colours.
    """
    low, high = bounds
    extent = high - low
    if not (extent > 0).any():
        return color
    scale = np.where(extent > 0, np.float32(255) / np.where(extent > 0, extent, 1), np.float32(1))
    return cast(Float32Array, np.float32(1 - blend) * color + np.float32(blend) * ((color - low) * scale))


def color_translation(color: Float32Array, *, ratio: float, rng: np.random.Generator) -> Float32Array:
    """Shift all colours by one random RGB offset of up to `ratio` * 255 either way."""
    offset = (rng.uniform(-1, 1, size=3) * 255 * ratio).astype(np.float32)
    return cast(Float32Array, np.clip(color + offset, 0, 255))


def color_jitter(color: Float32Array, *, std: float, rng: np.random.Generator) -> Float32Array:
    """Add Gaussian noise of `std` * 255 to every colour; drawn channel after channel."""
    noise = _noise(color, std * 255, rng)
    noise += color
    return np.clip(noise, 0, 255, out=noise)


def augment_color(
    color: UInt8Array, index: Int64Array, augmentation: SegmentationAugmentation, rng: np.random.Generator
) -> Float32Array:
    """Auto-contrast, translation and jitter, each with its probability, of the M colours that are used.

    Args:
        color: [N, 3] uint8, all colours of the sample: auto-contrast stretches between their extremes.
        index: [M], which of them are wanted.
        augmentation: probabilities and strengths.
        rng: what is drawn from.

    Returns:
        [M, 3] float32 in [0, 255], in column order.
    """
    chosen = np.stack([channel.take(index) for channel in color.T]).astype(np.float32).T
    if rng.random() < augmentation.auto_contrast_p:
        low, high = (corner.astype(np.float32) for corner in geometry.bounds(color))
        chosen = auto_contrast(chosen, (low, high), blend=rng.random())
    if rng.random() < augmentation.color_translation_p:
        chosen = color_translation(chosen, ratio=augmentation.color_translation_ratio, rng=rng)
    if rng.random() < augmentation.color_jitter_p:
        chosen = color_jitter(chosen, std=augmentation.color_jitter_std, rng=rng)
    return chosen


def sphere_crop(
    coord: Float32Array, *, points: int, rng: np.random.Generator, always: Int64Array | None = None
) -> Int64Array:
    """Index of the `points` points nearest to a random one; all of them when there are no more than that.

    Args:
        coord: [N, 3].
        points: how many stay.
        rng: what the centre is drawn from.
        always: points that stay wherever they lie, instead of the farthest others (all of them, were they more than
            `points`). The reference crops labelled points away like others.
    """
    if len(coord) <= points:
        return np.arange(len(coord))
    center = coord[rng.integers(len(coord))]
    distance = np.square(coord[:, 0] - center[0])
    for axis in (1, 2):
        distance += np.square(coord[:, axis] - center[axis])
    if always is not None and len(always):
        distance[always] = -1
        points = max(points, len(np.unique(always)))
        if points >= len(coord):
            return np.arange(len(coord))
    return cast(Int64Array, np.sort(np.argpartition(distance, points - 1)[:points]))


def _noise(values: Float32Array, std: float, rng: np.random.Generator) -> Float32Array:
    noise = rng.standard_normal(values.shape[::-1], dtype=np.float32).T
    noise *= np.float32(std)
    return noise
