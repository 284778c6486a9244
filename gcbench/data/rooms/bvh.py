"""A bounding volume hierarchy over triangles, and rays through it: numba kernels.

Shape legend
    T  triangles        M  nodes

    triangles [T, 9] float32: corner v0, edges v1 - v0 and v2 - v0.
    boxes [M, 6] float32: low and high corner.    links [M, 2] int32: (first child, 0) or (first triangle, count).

Everything here is serial: rooms are made one per process, and one process must give the same bytes as many.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from gcbench.structures import Float32Array, Int32Array

_LEAF = 4
_BINS = 12
_DEPTH = 64


@dataclass(frozen=True)
class Hierarchy:
    """Triangles in leaf order, with the tree over them.

    Attributes:
        triangles: [T, 9] float32, reordered.
        order: [T] int32, the caller's index of each reordered triangle.
        boxes, links: the nodes, root first.
    """

    triangles: Float32Array
    order: Int32Array
    boxes: Float32Array
    links: Int32Array


def build_hierarchy(corners: Float32Array) -> Hierarchy:
    """Build the tree over `corners` [T, 3, 3] float32."""
    low, high = corners.min(axis=1), corners.max(axis=1)
    order = np.arange(len(corners), dtype=np.int32)
    boxes = np.zeros((2 * len(corners) + 1, 6), np.float32)
    links = np.zeros((2 * len(corners) + 1, 2), np.int32)
    count = int(_split_all(low, high, order, boxes, links))
    v0 = corners[:, 0]
    triangles = np.concatenate([v0, corners[:, 1] - v0, corners[:, 2] - v0], axis=1)[order]
    return Hierarchy(np.ascontiguousarray(triangles), order, boxes[:count].copy(), links[:count].copy())


@njit(cache=True, nogil=True)
def _half_area(low, high):  # type: ignore[no-untyped-def]
    x, y, z = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    return x * y + y * z + z * x


@njit(cache=True, nogil=True)
def _fill_bins(low, high, members, axis, bounds):  # type: ignore[no-untyped-def]
    """Boxes [12, 6] and sizes [12] of the triangles, sorted by centre into equal bins between two `bounds`."""
    boxes, sizes = np.empty((_BINS, 6)), np.zeros(_BINS, np.int64)
    boxes[:, :3], boxes[:, 3:] = np.inf, -np.inf
    scale = _BINS / (bounds[1] - bounds[0])
    for k in members:
        b = min(int((low[k, axis] + high[k, axis] - bounds[0]) * scale), _BINS - 1)
        sizes[b] += 1
        for d in range(3):
            boxes[b, d] = min(boxes[b, d], low[k, d])
            boxes[b, 3 + d] = max(boxes[b, 3 + d], high[k, d])
    return boxes, sizes


@njit(cache=True, nogil=True)
def _best_split(low, high, members):  # type: ignore[no-untyped-def]
    """Axis and centre value of the cheapest plane between bins (surface area heuristic); axis -1 for a leaf."""
    best_cost, best_axis, best_value = np.inf, -1, 0.0
    for axis in range(3):
        smallest, largest = np.inf, -np.inf
        for k in members:
            centre = low[k, axis] + high[k, axis]
            smallest, largest = min(smallest, centre), max(largest, centre)
        if largest - smallest < 1e-6:
            continue
        boxes, sizes = _fill_bins(low, high, members, axis, (smallest, largest))
        costs = np.zeros(_BINS)
        for side in range(2):
            box, count = np.empty(6), 0
            box[:3], box[3:] = np.inf, -np.inf
            for step in range(_BINS - 1):
                b = step if side == 0 else _BINS - 1 - step
                count += sizes[b]
                box[:3], box[3:] = np.minimum(box[:3], boxes[b, :3]), np.maximum(box[3:], boxes[b, 3:])
                plane = b + 1 if side == 0 else b
                costs[plane] += count * _half_area(box[:3], box[3:]) if count > 0 else np.inf
        for plane in range(1, _BINS):
            if costs[plane] < best_cost:
                best_cost, best_axis = costs[plane], axis
                best_value = smallest + (largest - smallest) * plane / _BINS
    return best_axis, best_value


@njit(cache=True, nogil=True)
def _split_all(low, high, order, boxes, links):  # type: ignore[no-untyped-def]
    """Fill `order`, `boxes` and `links` top down; returns the number of nodes."""
    stack = np.zeros((2 * _DEPTH, 3), np.int64)  # node, first triangle, count
    stack[0, 2] = order.shape[0]
    top, nodes = 1, 1
    while top > 0:
        top -= 1
        node, first, count = stack[top]
        for d in range(3):
            boxes[node, d], boxes[node, 3 + d] = np.inf, -np.inf
            for i in range(first, first + count):
                boxes[node, d] = min(boxes[node, d], low[order[i], d])
                boxes[node, 3 + d] = max(boxes[node, 3 + d], high[order[i], d])
        axis, value = -1, 0.0
        if count > _LEAF and top < 2 * _DEPTH - 2:
            axis, value = _best_split(low, high, order[first : first + count])
        if axis < 0:
            links[node, 0], links[node, 1] = first, count
            continue
        middle = first
        for i in range(first, first + count):
            k = order[i]
            if low[k, axis] + high[k, axis] < value:
                order[i] = order[middle]
                order[middle] = k
                middle += 1
        if middle == first or middle == first + count:  # rounding put all on one side
            middle = first + count // 2
        links[node, 0], links[node, 1] = nodes, 0
        stack[top] = (nodes, first, middle - first)
        stack[top + 1] = (nodes + 1, middle, first + count - middle)
        top += 2
        nodes += 2
    return nodes


@njit(cache=True, nogil=True)
def _enters(box, ox, oy, oz, ix, iy, iz, limit):  # type: ignore[no-untyped-def]
    """Ray parameter at which the box is entered, or infinity."""
    ax, bx = (box[0] - ox) * ix, (box[3] - ox) * ix
    ay, by = (box[1] - oy) * iy, (box[4] - oy) * iy
    az, bz = (box[2] - oz) * iz, (box[5] - oz) * iz
    near = max(max(min(ax, bx), min(ay, by)), max(min(az, bz), 0.0))
    far = min(min(max(ax, bx), max(ay, by)), min(max(az, bz), limit))
    return near if near <= far * 1.00001 else np.inf


@njit(cache=True, nogil=True)
def _hit(t, ox, oy, oz, dx, dy, dz):  # type: ignore[no-untyped-def]
    """Moeller and Trumbore: (ray parameter or -1, second and third barycentric weight)."""
    px, py, pz = dy * t[8] - dz * t[7], dz * t[6] - dx * t[8], dx * t[7] - dy * t[6]
    determinant = t[3] * px + t[4] * py + t[5] * pz
    if abs(determinant) < 1e-12:
        return -1.0, 0.0, 0.0
    inverse = 1.0 / determinant
    sx, sy, sz = ox - t[0], oy - t[1], oz - t[2]
    u = (sx * px + sy * py + sz * pz) * inverse
    if u < -1e-6 or u > 1.000001:
        return -1.0, 0.0, 0.0
    qx, qy, qz = sy * t[5] - sz * t[4], sz * t[3] - sx * t[5], sx * t[4] - sy * t[3]
    v = (dx * qx + dy * qy + dz * qz) * inverse
    if v < -1e-6 or u + v > 1.000001:
        return -1.0, 0.0, 0.0
    return (t[6] * qx + t[7] * qy + t[8] * qz) * inverse, u, v


@njit(cache=True, nogil=True)
def trace(triangles, boxes, links, stack, origin, direction, limit, any_hit):  # type: ignore[no-untyped-def]
    """The nearest triangle along a ray, or with `any_hit` whichever is met first.

    `stack` is scratch space, [128] int32; `direction` need not be of unit length.
    Returns (ray parameter, index of the reordered triangle or -1, second and third barycentric weight).
    """
    ox, oy, oz = origin
    dx, dy, dz = direction
    tiny = 1e-9
    ix = 1.0 / (dx if abs(dx) > tiny else tiny)
    iy = 1.0 / (dy if abs(dy) > tiny else tiny)
    iz = 1.0 / (dz if abs(dz) > tiny else tiny)
    best, found, best_u, best_v = limit, -1, 0.0, 0.0
    node, top = 0, 0
    if _enters(boxes[0], ox, oy, oz, ix, iy, iz, best) == np.inf:
        return best, found, best_u, best_v
    while True:
        first, count = links[node, 0], links[node, 1]
        if count > 0:
            for k in range(first, first + count):
                at, u, v = _hit(triangles[k], ox, oy, oz, dx, dy, dz)
                if 1e-5 < at < best:
                    best, found, best_u, best_v = at, k, u, v
                    if any_hit:
                        return best, found, best_u, best_v
        else:
            left = _enters(boxes[first], ox, oy, oz, ix, iy, iz, best)
            right = _enters(boxes[first + 1], ox, oy, oz, ix, iy, iz, best)
            near, far = (first, first + 1) if left <= right else (first + 1, first)
            if max(left, right) < np.inf:
                stack[top] = far
                top += 1
            if min(left, right) < np.inf:
                node = near
                continue
        if top == 0:
            return best, found, best_u, best_v
        top -= 1
        node = stack[top]
