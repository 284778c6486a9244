"""Pictures of a scan: points in a depth buffer, from obliquely above, with walls and ceiling cut away.

Left out are points that face away from the viewer, which are the near walls and the ceiling seen from outside, and
points higher above the floor than a cut. Projection is orthographic, so lengths along one direction compare.

Shape legend: N points, H x W pixels of the picture, S times as many of the depth buffer along each side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcbench.structures import Float32Array, Float64Array, Int64Array

WIDTH, HEIGHT = 400, 300
_S = 2
_MARGIN = 0.03  # of the picture, left free at each side
_NEIGHBOURS = 5
_LARGEST_DOT = 8  # pixels of the depth buffer from a dot's middle to its side


@dataclass(frozen=True)
class ScanImage:
    """A scan as seen by the viewer.

    Attributes:
        index: [S H, S W] the point that each pixel shows, -1 for none.
        pixel: [N, 2] where each point lies in the picture (x, y), pixels of H x W.
    """

    index: Int64Array
    pixel: Float64Array

    @property
    def shown(self) -> Int64Array:
        """Points that are visible, ascending."""
        found: Int64Array = np.unique(self.index)
        return found[found >= 0]

    def paint(self, colors: NDArray[np.floating] | NDArray[np.uint8]) -> Float32Array:
        """The picture [H, W, 3] in [0, 1], on white.

        Args:
            colors: [N, 3] in [0, 1], or uint8.
        """
        values = colors.astype(np.float32) / (255 if colors.dtype == np.uint8 else 1)
        fine = np.where(self.index[..., None] >= 0, values[self.index], np.float32(1))
        height, width = self.index.shape
        picture: Float32Array = fine.reshape(height // _S, _S, width // _S, _S, 3).mean(axis=(1, 3))
        return picture


def project_scan(
    coord: Float32Array, normal: Float32Array, *, elevation: float, azimuth: float, cut_height: float
) -> ScanImage:
    """See a scan from outside.

    Args:
        coord: [N, 3], metres, z up.
        normal: [N, 3], unit, 0 where undefined: such points face everywhere.
        elevation, azimuth: of the viewer, degrees above the floor and around z.
        cut_height: metres above the floor, the first percentile of z.
    """
    right, up, towards = _axes(elevation, azimuth)
    floor = np.percentile(coord[:, 2], 1)
    kept = np.flatnonzero((normal @ towards >= -1e-3) & (coord[:, 2] <= floor + cut_height))
    if not len(kept):
        kept = np.arange(len(coord))
    plane = np.stack([coord @ right, coord @ -up], axis=1)
    low, high = np.percentile(plane[kept], [0.1, 99.9], axis=0)
    room = np.array([WIDTH, HEIGHT]) * (1 - 2 * _MARGIN)
    scale = float((room / np.maximum(high - low, 1e-6)).min())  # pixels per metre, the same for both axes
    pixel = (plane - (low + high) / 2) * scale + np.array([WIDTH, HEIGHT]) / 2
    dot = int(np.clip(np.ceil(0.7 * _spacing(coord[kept]) * scale * _S), 1, _LARGEST_DOT))
    nearness = coord[kept] @ towards
    return ScanImage(_buffer(np.floor(pixel[kept] * _S).astype(np.int64), nearness, kept, dot), pixel)


def _axes(elevation: float, azimuth: float) -> tuple[Float64Array, Float64Array, Float64Array]:
    """The picture's right and up, and the direction to the viewer, each [3]."""
    high, around = np.radians(elevation), np.radians(azimuth)
    towards = np.array([np.cos(high) * np.cos(around), np.cos(high) * np.sin(around), np.sin(high)])
    right = np.array([-np.sin(around), np.cos(around), 0.0])
    return right, np.cross(towards, right), towards


def _spacing(coord: Float32Array) -> float:
    """Distance to the fifth nearest other point, metres, of nine in ten points: dots as wide leave few holes."""
    from scipy.spatial import cKDTree

    if len(coord) <= _NEIGHBOURS:
        return 0.0
    some = coord[:: max(1, len(coord) // 20_000)]
    distances = cKDTree(coord).query(some, k=[_NEIGHBOURS + 1])[0]  # the first one is the point itself
    return float(np.percentile(distances, 90))


def _buffer(pixel: Int64Array, nearness: Float64Array, points: Int64Array, dot: int) -> Int64Array:
    """The nearest point of each pixel, with every point a round dot."""
    order = np.argsort(nearness, kind="stable")  # far ones first: of equal pixels the last assignment stays
    pixel, nearness, points = pixel[order], nearness[order], points[order]
    index: Int64Array = np.full((HEIGHT * _S, WIDTH * _S), -1, dtype=np.int64)
    depth = np.full(index.shape, -np.inf)
    reach = range(-dot, dot + 1)
    for dx, dy in ((dx, dy) for dx in reach for dy in reach if dx * dx + dy * dy <= dot * dot):
        x, y = pixel[:, 0] + dx, pixel[:, 1] + dy
        inside = (x >= 0) & (x < WIDTH * _S) & (y >= 0) & (y < HEIGHT * _S)
        here = np.full(index.shape, -1, dtype=np.int64)
        here[y[inside], x[inside]] = np.flatnonzero(inside)
        nearer = (here >= 0) & (nearness[here] > depth)
        index[nearer], depth[nearer] = points[here[nearer]], nearness[here[nearer]]
    return index
