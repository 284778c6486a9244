"""Similarities: one 4 x 4 matrix that moves points, normals, cameras and depths together.

A similarity is M = [[s L, b], [0, 1]] with L orthogonal (determinant - 1 after a mirror flip) and one scale s > 0.
Moved by `move_points`, `move_cameras` and `move_depths` with the same M, a point falls on the same pixel as before, and
its depth is s times what it was. Moved cameras keep an orthogonal 3 x 3 part: the scale is in their translation. After
a mirror flip that part has determinant - 1; projection, depth and covariance (R Sigma R^T) hold as they are.

Shape legend: N points, V views; `viewmats` are world-to-camera with OpenCV axes, lengths metres, angles radians.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import InputError
from gcbench.structures import Float32Array, Float64Array

Axis = Literal["x", "y", "z"]


def rotation(axis: Axis, angle: float, center: Float64Array | None = None) -> Float64Array:
    """[4, 4] rotation by `angle` about an axis through `center` [3] (the origin if None)."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(4)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    if center is not None:
        matrix[:3, 3] = center - matrix[:3, :3] @ center
    return matrix


def scaling(factor: float) -> Float64Array:
    """[4, 4] isotropic scaling about the origin by a factor > 0."""
    return np.diag([factor, factor, factor, 1.0])


def flip(x: bool, y: bool) -> Float64Array:
    """[4, 4] mirror flips of the x and the y axis."""
    return np.diag([-1.0 if x else 1.0, -1.0 if y else 1.0, 1.0, 1.0])


def shift(offset: Float64Array) -> Float64Array:
    """[4, 4] translation by `offset` [3]."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def bounds(coord: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lowest and highest corner [3] of the box around points [N, 3]; column by column is ten times faster."""
    return np.array([column.min() for column in coord.T]), np.array([column.max() for column in coord.T])


def scale_of(matrix: Float64Array) -> float:
    """The scale s of a similarity [4, 4]."""
    return float(np.cbrt(abs(np.linalg.det(matrix[:3, :3]))))


def move_points(matrix: Float64Array, coord: NDArray[np.floating[Any]]) -> Float32Array:
    """Points [N, 3] -> [N, 3] float32, computed in float64; arrays in column order are faster and stay so."""
    moved = np.empty_like(coord, dtype=np.float32)
    _apply(matrix[:3], coord, np.float64, moved)
    return moved


def moved_center(matrix: Float64Array, coord: NDArray[np.floating[Any]]) -> Float64Array:
    """Centre [3] of the box around the moved points [N, 3], without rounding them to float32."""
    moved = np.empty_like(coord, dtype=np.float64)
    _apply(matrix[:3], coord, np.float64, moved)
    low, high = bounds(moved)
    return cast(Float64Array, (low + high) / 2)


def move_normals(matrix: Float64Array, normal: Float32Array) -> Float32Array:
    """Unit normals [N, 3] -> [N, 3]; undefined (zero) normals stay zero."""
    moved = np.empty_like(normal)
    _apply((matrix[:3] / scale_of(matrix)) * [1, 1, 1, 0], normal, np.float32, moved)
    return moved


def move_cameras(matrix: Float64Array, viewmats: Float64Array) -> Float64Array:
    """World-to-camera [V, 4, 4] of the unmoved points -> [V, 4, 4] of the moved ones.

    Raises:
        InputError: the matrix is no similarity, as after an anisotropic scale: pixels would not stay where they are.
    """
    factor = scale_of(matrix)
    if not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, factor**2 * np.eye(3), rtol=0, atol=1e-6 * factor**2):
        raise InputError("Cameras can follow a similarity only; an anisotropic scale or a shear is none.")
    return cast(Float64Array, np.diag([factor, factor, factor, 1.0]) @ viewmats @ np.linalg.inv(matrix))


def move_depths(matrix: Float64Array, depths: Float32Array) -> Float32Array:
    """Depths (any shape) as the moved cameras see them; 0, no measurement, stays 0."""
    return cast(Float32Array, depths * np.float32(scale_of(matrix)))


def _apply(rows: Float64Array, coord: NDArray[Any], dtype: type[np.floating[Any]], out: NDArray[Any]) -> None:
    """``out[:, j] = coord @ rows[j, :3] + rows[j, 3]``, computed in `dtype`."""
    # column by column, not @: threads of a BLAS stall loader workers and may change the last bit
    columns = [column.astype(dtype) for column in coord.T]
    for row, target in zip(rows.astype(dtype), out.T, strict=True):
        moved = columns[0] * row[0]
        moved += columns[1] * row[1]
        moved += columns[2] * row[2]
        moved += row[3]
        target[:] = moved
