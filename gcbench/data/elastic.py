"""Elastic distortion: points shifted by smooth random noise (Choy et al. 2019, as Pointcept's `ElasticDistortion`).

White noise stands on the nodes of a grid over the points' box and one cell around it, is blurred twice by a box of
three nodes along x, y and z (zero outside), and moves every point by its trilinear value times a magnitude.

Shape legend: N points, X x Y x Z nodes. Lengths are metres.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from gcbench.data.geometry import bounds
from gcbench.errors import InputError
from gcbench.structures import Float32Array

_MAX_NODES = 10**8
_BLOCK = 16384  # points interpolated at once: their temporaries stay in the cache


def elastic_noise(coord: Float32Array, granularity: float, rng: np.random.Generator) -> Float32Array:
    """Standard normal noise [X, Y, Z, 3] float32 for a grid of `granularity` metres over the points [N, 3].

    Raises:
        InputError: a point is not finite, or the grid would have too many nodes.
    """
    low, high = bounds(coord)
    if not np.isfinite(high - low).all():
        raise InputError("Elastic distortion needs finite points.")
    shape = [int(cells) + 3 for cells in (high - low) // granularity]
    if shape[0] * shape[1] * shape[2] > _MAX_NODES:
        raise InputError(f"A scene of {shape} cells of {granularity} m is too large: is its unit metres?")
    return rng.standard_normal((*shape, 3), dtype=np.float32)


def elastic_distortion(
    coord: Float32Array, noise: Float32Array, *, granularity: float, magnitude: float
) -> Float32Array:
    """Points [N, 3] float32 shifted by `magnitude` times the blurred noise at their place.

    Args:
        coord: the points.
        noise: [X, Y, Z, 3] float32 on the nodes from `granularity` below the points' smallest coordinates on, as
            `elastic_noise` draws it for these points.
        granularity: distance between nodes.
        magnitude: factor of the noise.

    Raises:
        InputError: the noise does not reach to the points' largest coordinates.
    """
    low, high = bounds(coord)
    if ((high - low) / granularity > np.array(noise.shape[:3]) - 1.999).any():
        raise InputError(f"Noise of shape {noise.shape} is too small for points of an extent of {high - low} m.")
    last = np.array(noise.shape[:3], np.float32) - 2
    strides = (noise.shape[1] * noise.shape[2], noise.shape[2], 1)
    corners = [sum(np.multiply(strides, corner)) for corner in product((0, 1), repeat=3)]
    channels = [np.ascontiguousarray(channel).reshape(-1) for channel in np.moveaxis(_blurred(noise), 3, 0)]
    moved = np.empty_like(coord)
    for start in range(0, len(coord), _BLOCK):
        block = coord[start : start + _BLOCK]
        place = (block - low) / np.float32(granularity) + 1
        cell = np.minimum(np.floor(place), last)
        node = sum(stride * column.astype(np.int64) for stride, column in zip(strides, cell.T, strict=True))
        across = (place - cell).T[::-1]  # z first: its two nodes are neighbours in `corners`
        for axis, channel in enumerate(channels):
            # every node is inside; "wrap" only spares take its own check
            values = [channel[offset:].take(node, mode="wrap") for offset in corners]
            for fraction in across:
                values = [a + fraction * (b - a) for a, b in zip(values[::2], values[1::2], strict=True)]
            moved[start : start + _BLOCK, axis] = block[:, axis] + np.float32(magnitude) * values[0]
    return moved


def _blurred(noise: Float32Array) -> Float32Array:
    for _ in range(2):
        for axis in range(3):
            along = np.moveaxis(noise, axis, 0)
            total = along.copy()
            total[1:] += along[:-1]
            total[:-1] += along[1:]
            noise = np.moveaxis(total / np.float32(3), 0, axis)
    return noise
