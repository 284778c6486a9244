"""numba kernels that join the cells of a point cloud and number its clusters; `clustering` calls them.

Every comparison of bounds below is exact: rounding never reverses the order of two differences, two squares or two
sums, so a bound computed from a box is on the right side of the computed distance of any two points in it.

Shape legend
    N  points, ordered by cell     M  cells     L  lines of cells that differ in the last axis only
    T  nodes: the M cells, then the halves they were cut into
"""

from __future__ import annotations

import numpy as np
from numba import njit

_FEW = 64  # so many pairs of points are measured sooner than cut apart
_MANY = 512  # above so many points on both sides, a plane between them is looked for
_PLANES = 32  # at most

# Steps in x and y to half of the lines within two cells, near ones first; the other half would meet the same pairs.
_STEPS = np.array(
    [(0, 0), (0, 1), (1, 0), (1, -1), (1, 1), (0, 2), (2, 0), (1, -2), (1, 2), (2, -1), (2, 1), (2, -2), (2, 2)]
)


@njit(cache=True, nogil=True)
def connected_cells(points, cells, squared_radius):  # type: ignore[no-untyped-def]
    """Connected components of cells, two of which are joined when some pair of their points is close enough.

    Args:
        points: [N, 3] float64; reordered within the cells.
        cells: [N, 5] int64, ascending: two numbers that must be equal for points to meet, then the cell's x, y, z.
            All points of a cell are joined; cells that differ by more than two along an axis are not.
        squared_radius: the squared distance of a pair must be below it.

    Returns:
        component [N] int64, below M.
    """
    N = len(points)
    starts = _starts(cells, 5)
    M = len(starts) - 1
    firsts = np.searchsorted(starts, _starts(cells, 4))  # the first cell of each line, then M
    lines, z = cells[starts[firsts[:-1]], :4], cells[starts[:-1], 4]
    nodes, boxes, used = np.empty((2 * N, 3), np.int64), np.empty((2 * N, 6)), np.array([M])
    for m in range(M):
        _set_node(points, nodes, boxes, m, starts[m], starts[m + 1])
    parents = np.arange(M)
    for step in _STEPS:
        other = 0
        for line in range(len(lines)):
            while other < len(lines) and _compare(lines, other, line, step) < 0:
                other += 1
            if other == len(lines):
                break
            if _compare(lines, other, line, step) > 0:
                continue
            lowest, end = firsts[other], firsts[other + 1]
            for a in range(firsts[line], firsts[line + 1]):
                while lowest < end and z[lowest] < z[a] - 2:
                    lowest += 1
                b = max(lowest, a + 1)  # which matters where a line meets itself
                while b < end and z[b] <= z[a] + 2:
                    root_a, root_b = _root(parents, a), _root(parents, b)
                    if root_a != root_b and _within(points, nodes, boxes, used, a, b, squared_radius):
                        parents[max(root_a, root_b)] = min(root_a, root_b)
                    b += 1
    component = np.empty(N, np.int64)
    for m in range(M):
        component[starts[m] : starts[m + 1]] = _root(parents, m)
    return component


@njit(cache=True, nogil=True)
def number_clusters(component, minimum_points):  # type: ignore[no-untyped-def]
    """Number the components of enough points in the order of their first points.

    Args:
        component: [N] int64 below N; -1 is none.
        minimum_points: of a cluster.

    Returns:
        cluster [N] int64, -1 is none.
    """
    sizes = np.zeros(len(component), np.int64)
    for c in component:
        if c >= 0:
            sizes[c] += 1
    numbers = np.full(len(component), -1)
    cluster = np.full(len(component), -1)
    found = 0
    for n, c in enumerate(component):
        if c >= 0 and sizes[c] >= minimum_points:
            if numbers[c] < 0:
                numbers[c] = found
                found += 1
            cluster[n] = numbers[c]
    return cluster


@njit(cache=True, nogil=True)
def _within(points, nodes, boxes, used, a, b, squared_radius):  # type: ignore[no-untyped-def]
    """Whether some point of node a and some point of node b are closer than the radius.

    Pairs of nodes that are out of reach by their boxes or by a plane between them are dropped, a pair whose boxes are
    close enough altogether ends the search, and of any other the larger box is cut in two, the nearer half looked at
    first. Equal points share a box of no extent, which is never cut. Nodes are cut once, when first needed.
    """
    if _least(boxes, a, b) >= squared_radius:
        return False
    if _pairs(nodes, a, b) <= _FEW:
        return _some_pair(points, nodes, a, b, squared_radius)
    stack, size = np.empty((64, 2), np.int64), 1
    stack[0] = a, b
    while size:
        size -= 1
        a, b = stack[size]
        if _most(boxes, a, b) < squared_radius:
            return True
        if _pairs(nodes, a, b) <= _FEW:
            if _some_pair(points, nodes, a, b, squared_radius):
                return True
            continue
        if min(nodes[a, 1] - nodes[a, 0], nodes[b, 1] - nodes[b, 0]) > _MANY and _apart(
            points, nodes, a, b, squared_radius
        ):
            continue
        if _extent(boxes, a) < _extent(boxes, b):
            a, b = b, a
        if nodes[a, 2] < 0:
            _cut(points, nodes, boxes, used, a)
        near, far = nodes[a, 2], nodes[a, 2] + 1
        to_near, to_far = _least(boxes, near, b), _least(boxes, far, b)
        if to_far < to_near:
            near, far, to_near, to_far = far, near, to_far, to_near
        if size + 2 > len(stack):
            stack = np.concatenate((stack, np.empty_like(stack)))
        if to_far < squared_radius:
            stack[size] = far, b
            size += 1
        if to_near < squared_radius:
            stack[size] = near, b
            size += 1
    return False


@njit(cache=True, nogil=True)
def _apart(points, nodes, a, b, squared_radius):  # type: ignore[no-untyped-def]
    """Whether two parallel planes, a radius apart, are found with node a on one side and node b on the other.

    Without this, tilted plates just out of reach would be cut down to their points. The planes' normal is the shortest
    difference of the nodes' convex hulls, a mean of few differences of points, found by shifting weight from the
    longest to the shortest along it (Mitchell, Demyanov and Malozemov 1974). Coordinates are taken from a near point,
    so that rounding stays far below the margin of 2^-40.
    """
    origin = points[nodes[a, 0]].copy()
    differences, weights = np.empty((_PLANES + 1, 3)), np.zeros(_PLANES + 1)
    differences[0], weights[0] = points[nodes[b, 0]] - origin, 1
    normal = differences[0].copy()
    for k in range(1, _PLANES + 1):
        length = np.sqrt(_dot(normal, normal))
        if length * length < squared_radius:  # the hulls come too close
            return False
        difference = _lowest(points, nodes, b, origin, normal) - _lowest(points, nodes, a, origin, -normal)
        if _dot(normal, difference) >= length * np.sqrt(squared_radius) * (1 + 2.0**-40):
            return True
        longest = 0
        for i in range(1, k):
            if weights[i] > 0 and (weights[longest] == 0 or _dot(normal, differences[i] - differences[longest]) > 0):
                longest = i
        shift = differences[longest] - difference
        if _dot(normal, shift) <= 0:
            return False
        weight = min(weights[longest], _dot(normal, shift) / _dot(shift, shift))
        differences[k], weights[k] = difference, weight
        weights[longest] -= weight
        normal -= weight * shift
    return False


@njit(cache=True, nogil=True)
def _lowest(points, nodes, a, origin, normal):  # type: ignore[no-untyped-def]
    """The point of node a that is the lowest along the normal [3], seen from the origin [3]; [3]."""
    best, least = nodes[a, 0], np.inf
    for n in range(nodes[a, 0], nodes[a, 1]):
        x, y, z = points[n, 0] - origin[0], points[n, 1] - origin[1], points[n, 2] - origin[2]
        height = x * normal[0] + y * normal[1] + z * normal[2]
        if height < least:
            best, least = n, height
    return points[best] - origin


@njit(cache=True, nogil=True)
def _dot(x, y):  # type: ignore[no-untyped-def]
    return x[0] * y[0] + x[1] * y[1] + x[2] * y[2]


@njit(cache=True, nogil=True)
def _cut(points, nodes, boxes, used, a):  # type: ignore[no-untyped-def]
    """Cut node a in the middle of the longest side of its box, which is longer than zero; both halves have points."""
    axis = 0
    for i in range(1, 3):
        if boxes[a, 3 + i] - boxes[a, i] > boxes[a, 3 + axis] - boxes[a, axis]:
            axis = i
    low, high = boxes[a, axis], boxes[a, 3 + axis]
    middle = low + 0.5 * (high - low)
    if middle >= high:  # rounded up
        middle = low
    start, end = nodes[a, 0], nodes[a, 1]
    cut = start
    for n in range(start, end):
        if points[n, axis] <= middle:
            for i in range(3):
                points[n, i], points[cut, i] = points[cut, i], points[n, i]
            cut += 1
    half = used[0]
    used[0] += 2
    nodes[a, 2] = half
    _set_node(points, nodes, boxes, half, start, cut)
    _set_node(points, nodes, boxes, half + 1, cut, end)


@njit(cache=True, nogil=True)
def _pairs(nodes, a, b):  # type: ignore[no-untyped-def]
    """How many pairs of points nodes a and b make."""
    return (nodes[a, 1] - nodes[a, 0]) * (nodes[b, 1] - nodes[b, 0])


@njit(cache=True, nogil=True)
def _some_pair(points, nodes, a, b, squared_radius):  # type: ignore[no-untyped-def]
    """Whether some point of node a and some point of node b are closer than the radius, one pair after the other."""
    for n in range(nodes[a, 0], nodes[a, 1]):
        for m in range(nodes[b, 0], nodes[b, 1]):
            x, y, z = points[n, 0] - points[m, 0], points[n, 1] - points[m, 1], points[n, 2] - points[m, 2]
            if x * x + y * y + z * z < squared_radius:
                return True
    return False


@njit(cache=True, nogil=True)
def _set_node(points, nodes, boxes, m, start, end):  # type: ignore[no-untyped-def]
    """Make node m, not cut yet, of the points from start to end."""
    nodes[m] = start, end, -1
    for i in range(3):
        low = high = points[start, i]
        for n in range(start + 1, end):
            low, high = min(low, points[n, i]), max(high, points[n, i])
        boxes[m, i], boxes[m, 3 + i] = low, high


@njit(cache=True, nogil=True)
def _least(boxes, a, b):  # type: ignore[no-untyped-def]
    """A squared distance that no pair of points of nodes a and b falls below."""
    x = max(boxes[a, 0] - boxes[b, 3], boxes[b, 0] - boxes[a, 3], 0.0)
    y = max(boxes[a, 1] - boxes[b, 4], boxes[b, 1] - boxes[a, 4], 0.0)
    z = max(boxes[a, 2] - boxes[b, 5], boxes[b, 2] - boxes[a, 5], 0.0)
    return x * x + y * y + z * z


@njit(cache=True, nogil=True)
def _most(boxes, a, b):  # type: ignore[no-untyped-def]
    """A squared distance that no pair of points of nodes a and b exceeds."""
    x = max(boxes[a, 3] - boxes[b, 0], boxes[b, 3] - boxes[a, 0])
    y = max(boxes[a, 4] - boxes[b, 1], boxes[b, 4] - boxes[a, 1])
    z = max(boxes[a, 5] - boxes[b, 2], boxes[b, 5] - boxes[a, 2])
    return x * x + y * y + z * z


@njit(cache=True, nogil=True)
def _extent(boxes, a):  # type: ignore[no-untyped-def]
    """The longest side of the box of node a."""
    return max(boxes[a, 3] - boxes[a, 0], boxes[a, 4] - boxes[a, 1], boxes[a, 5] - boxes[a, 2])


@njit(cache=True, nogil=True)
def _root(parents, m):  # type: ignore[no-untyped-def]
    """The cell that stands for all that cell m is joined with; shortens the way there."""
    while parents[m] != m:
        parents[m] = parents[parents[m]]
        m = parents[m]
    return m


@njit(cache=True, nogil=True)
def _starts(cells, columns):  # type: ignore[no-untyped-def]
    """Where the runs of rows that agree in the first columns start, then N; [runs + 1] int64."""
    starts, found = np.zeros(len(cells) + 1, np.int64), 1
    for n in range(1, len(cells)):
        for i in range(columns):
            if cells[n, i] != cells[n - 1, i]:
                starts[found] = n
                found += 1
                break
    starts[found] = len(cells)
    return starts[: found + 1]


@njit(cache=True, nogil=True)
def _compare(lines, there, here, step):  # type: ignore[no-untyped-def]
    """-1, 0 or 1: line `there` comes before, on or after the line a step [2] away from line `here`; lines [L, 4]."""
    for i in range(4):
        aim = lines[here, i] if i < 2 else lines[here, i] + step[i - 2]
        if lines[there, i] != aim:
            return -1 if lines[there, i] < aim else 1
    return 0
