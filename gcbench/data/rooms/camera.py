"""A hand-held walk through a furnished room, and what a depth camera makes of a clean image.

Poses are camera-to-world [4, 4], OpenCV axes (x right, y down, z forward), metres.
"""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
from numba import njit
from PIL import Image
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from gcbench.data.rooms.bvh import Hierarchy, trace
from gcbench.data.rooms.layout import CELL, BoolArray, FloorPlan
from gcbench.structures import Float32Array, Float64Array, UInt16Array

_FIELD_OF_VIEW = (60.0, 70.0)  # degrees, horizontal
_CLEARANCE = 0.28  # metres between the camera and anything on the floor plan
_MAX_RANGE = 5.0


def draw_intrinsic(size: tuple[int, int], rng: np.random.Generator) -> Float64Array:
    """Pinhole matrix [3, 3] in pixels for (width, height); pixel centres at whole numbers."""
    focal = 0.5 * size[0] / np.tan(np.deg2rad(rng.uniform(*_FIELD_OF_VIEW)) / 2)
    middle = (size[0] - 1) / 2 + rng.normal(0, 0.004 * size[0]), (size[1] - 1) / 2 + rng.normal(0, 0.004 * size[1])
    return np.array([[focal, 0, middle[0]], [0, focal * rng.uniform(0.995, 1.005), middle[1]], [0, 0, 1.0]])


def walking_space(plan: FloorPlan) -> BoolArray:
    """[X, Y] bool: raster cells where a person with a camera can be; the largest connected part."""
    free = np.pad(plan.inside & ~plan.taken, 1)
    distance = ndimage.distance_transform_edt(free)[1:-1, 1:-1] * CELL
    for clearance in (_CLEARANCE, 0.75 * _CLEARANCE, 0.5 * _CLEARANCE):
        parts, count = ndimage.label(distance > clearance)
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            if sizes.max() * CELL**2 > 0.4 or clearance < 0.6 * _CLEARANCE:
                return np.asarray(parts == 1 + int(sizes.argmax()))
    return np.asarray(distance >= distance.max())


def _route(space: BoolArray, rng: np.random.Generator) -> Float64Array:
    """Positions [P, 2] along shortest ways between spread-out places of the walking space, smoothed."""
    cells = np.argwhere(space)
    number = np.full(space.shape, -1)
    number[tuple(cells.T)] = np.arange(len(cells))
    rows, columns, weights = [], [], []
    for dx, dy in ((0, 1), (1, 0), (1, 1), (1, -1)):
        other = cells + np.array([dx, dy])
        ok = np.asarray(((other >= 0) & (other < space.shape)).all(axis=1))
        ok[ok] = space[tuple(other[ok].T)]
        rows.append(np.flatnonzero(ok))
        columns.append(number[tuple(other[ok].T)])
        weights.append(np.full(int(ok.sum()), np.hypot(dx, dy)))
    ends = (np.concatenate(rows), np.concatenate(columns))
    graph = sparse.csr_matrix((np.concatenate(weights), ends), shape=(len(cells), len(cells)))
    stops = [int(rng.integers(len(cells)))]
    nearest = np.full(len(cells), np.inf)
    for _ in range(5):
        nearest = np.minimum(nearest, np.hypot(*(cells - cells[stops[-1]]).T))
        stops.append(int(nearest.argmax()))
    steps: list[int] = [stops[0]]
    for a, b in pairwise(stops):
        before = csgraph.dijkstra(graph, directed=False, indices=a, return_predecessors=True)[1]
        way = [b]
        while way[-1] != a and before[way[-1]] >= 0:
            way.append(int(before[way[-1]]))
        steps += way[::-1][1:]
    way_points = (cells[steps] + 0.5) * CELL
    smooth = ndimage.uniform_filter1d(way_points, 9, axis=0, mode="nearest")
    at = np.minimum((smooth / CELL).astype(int), np.array(space.shape) - 1)
    return np.where(space[tuple(at.T)][:, None], smooth, way_points)


@njit(cache=True, nogil=True)
def _free_distance(triangles, boxes, links, eye, forward):  # type: ignore[no-untyped-def]
    """Mean distance, at most 3.5 m, to what lies ahead in a fan of 15 rays, less where it is very close."""
    stack, total = np.zeros(128, np.int32), 0.0
    for i in range(5):
        for j in range(3):
            a, up = 0.24 * (i - 2), -0.35 + 0.25 * (j - 1)
            c, s = np.cos(a), np.sin(a)
            d = (forward[0] * c - forward[1] * s, forward[0] * s + forward[1] * c, up)
            at, _, _, _ = trace(triangles, boxes, links, stack, (eye[0], eye[1], eye[2]), d, 3.5, False)
            total += at if at > 0.6 else at - 1.0
    return total / 15


def walk(plan: FloorPlan, tree: Hierarchy, count: int, rng: np.random.Generator) -> Float64Array:
    """Poses [count, 4, 4] of a walk, looking round the room and slightly down."""
    route = _route(walking_space(plan), rng)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(route, axis=0).T))])
    at = np.linspace(0, along[-1], count)
    xy = np.stack([np.interp(at, along, route[:, k]) for k in (0, 1)], axis=1)
    phase = np.linspace(0, 1, count)
    height = 1.5 + 0.12 * np.sin(2 * np.pi * (1.3 * phase + rng.random())) + rng.normal(0, 0.015, count)
    sweep = rng.uniform(0, 2 * np.pi) + rng.choice([-1, 1]) * 2 * np.pi * rng.uniform(1.8, 2.4) * phase
    poses = np.zeros((count, 4, 4))
    for k in range(count):
        eye = np.array([*xy[k], float(np.clip(height[k], 1.3, 1.7))])
        yaws = sweep[k] + np.array([0.0, 0.35, -0.35, 0.8, -0.8, 1.4, -1.4])
        scores = [
            _free_distance(tree.triangles, tree.boxes, tree.links, eye, np.array([np.cos(a), np.sin(a)]))
            - 0.35 * abs(float(a - sweep[k]))
            for a in yaws
        ]
        yaw = float(yaws[int(np.argmax(scores))]) + float(rng.normal(0, 0.06))
        pitch = float(np.clip(rng.normal(-0.38, 0.13), -0.75, 0.0))
        poses[k] = look(eye, yaw, pitch, float(rng.normal(0, 0.035)))
    return poses


def look(eye: Float64Array, yaw: float, pitch: float, roll: float) -> Float64Array:
    """Camera-to-world of an eye that looks along `yaw` (from x towards y) and `pitch` (up), rolled; radians."""
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    matrix = np.eye(4)
    matrix[:3, 0] = np.cos(roll) * right + np.sin(roll) * down
    matrix[:3, 1] = np.cos(roll) * down - np.sin(roll) * right
    matrix[:3, 2], matrix[:3, 3] = forward, eye
    return matrix


def measure_depth(depth: Float32Array, cosine: Float32Array, rng: np.random.Generator) -> UInt16Array:
    """Depth [H, W] metres to what a structured-light camera gives: millimetres with noise and holes (0).

    Noise grows with the square of the distance; grazing surfaces, depth edges and far ones drop out.
    """
    noise = 0.001 + 0.0016 * (depth - 0.4) ** 2
    z = depth + noise * ndimage.gaussian_filter(rng.normal(0, 1.6, depth.shape), 0.6)
    step = ndimage.maximum_filter(depth, 3) - ndimage.minimum_filter(depth, 3)
    lost = 0.004 + 0.5 * (step > 0.12 * depth) + 0.8 * np.clip((0.16 - cosine) / 0.16, 0, 1)
    lost += np.clip((depth - 0.85 * _MAX_RANGE) / (0.3 * _MAX_RANGE), 0, 1)
    blotches = ndimage.gaussian_filter(rng.normal(0, 1, depth.shape), max(depth.shape) / 60)
    hole = (rng.random(depth.shape) < lost) | (blotches > 3.1 * blotches.std()) | (depth < 0.25)
    return np.where(hole, 0, np.clip(np.rint(1000 * z), 0, 65535)).astype(np.uint16)


def photograph(color: Float32Array, rng: np.random.Generator) -> bytes:
    """Colour [H, W, 3] in [0, 1] to a JPEG: a little blur, exposure and sensor noise."""
    soft = 0.72 * color + 0.28 * ndimage.uniform_filter(color, (3, 3, 1))
    exposed = soft * rng.uniform(0.94, 1.06) + rng.normal(0, 0.008, color.shape)
    stream = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(exposed, 0, 1)).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()
