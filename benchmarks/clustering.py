"""Clustering of predicted instances: ours beside a k-d tree and connected components of scipy, in one run, one thread.

    python benchmarks/clustering.py [--points 150000] [--repeats 3] [--case collapsed spread_room one_spot two_plates]

Prints both medians, the ratio, and whether the clusters are equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gcbench.models.clustering import cluster_points
from gcbench.structures import Float32Array, Int64Array

RADIUS, MINIMUM_POINTS, IGNORED = 1.5, 50, (0, 1)  # shifted units; any two classes
ROOM = np.array([300.0, 300.0, 150.0])


def collapsed(count: int, rng: np.random.Generator) -> tuple[Float32Array, Int64Array]:
    """40 instances around their centres, and a fifth of all points anywhere."""
    centres, spread, kinds = rng.uniform(0, ROOM, (40, 3)), rng.uniform(0.2, 1, 40), rng.integers(2, 20, 40)
    of = rng.integers(0, 40, count)
    coord, classes = centres[of] + rng.normal(size=(count, 3)) * spread[of, None], kinds[of]
    strays = rng.random(count) < 0.2
    coord[strays] = rng.uniform(0, ROOM, (int(strays.sum()), 3))
    return coord.astype(np.float32), classes


def spread_room(count: int, rng: np.random.Generator) -> tuple[Float32Array, Int64Array]:
    """No offsets: a floor, two walls and boxes, a point about every unit, classes by surface."""
    edge = np.sqrt(count / 4)  # the surfaces below cover about four squares of that edge
    u, v = rng.uniform(0, edge, (2, count))
    surface = rng.integers(0, 4, count)
    height = np.where(surface == 3, np.floor(u / 20) % 2 * 15, 0)
    coord = np.where((surface == 1)[:, None], np.stack([u, height, v], 1), np.stack([u, v, height], 1))
    coord = np.where((surface == 2)[:, None], np.stack([height, u, v], 1), coord)
    return (coord + rng.normal(size=coord.shape) * 0.2).astype(np.float32), 1 + surface.astype(np.int64)


def one_spot(count: int, rng: np.random.Generator) -> tuple[Float32Array, Int64Array]:
    """All points equal."""
    return np.tile(rng.uniform(0, ROOM), (count, 1)).astype(np.float32), np.full(count, 2)


def two_plates(count: int, rng: np.random.Generator) -> tuple[Float32Array, Int64Array]:
    """Two tilted plates, in a cell each, just out of reach of one another: every box reaches, no pair does."""
    normal = np.array([1.0, 1.0, 1.0]) / np.sqrt(3)
    across = np.array([1.0, -1.0, 0.0]) / np.sqrt(2)
    flat = rng.uniform(-0.2, 0.2, (count, 2)) @ np.stack([across, np.cross(normal, across)])
    flat[count // 2 :] += normal * (RADIUS + 1e-4)
    return (flat + 10.5 * RADIUS / np.sqrt(3)).astype(np.float32), np.full(count, 2)


Case = Callable[[int, np.random.Generator], tuple[Float32Array, Int64Array]]
# The pairs of the last two grow with the square of the points; there the baseline takes part with fewer.
CASES: tuple[tuple[Case, int], ...] = ((collapsed, 150_000), (spread_room, 150_000), (one_spot, 8_000))
CASES += ((two_plates, 8_000),)


def ours(coord: Float32Array, classes: Int64Array) -> Int64Array:
    scenes = np.zeros(len(coord), np.int64)
    return cluster_points(coord, classes, scenes, radius=RADIUS, minimum_points=MINIMUM_POINTS, ignored=IGNORED)


def baseline(coord: Float32Array, classes: Int64Array) -> Int64Array:
    """The same clusters from scipy, class by class, so that the pairs of 150,000 collapsed points fit in memory."""
    component = np.full(len(coord), -1)
    for kind in set(classes.tolist()) - set(IGNORED):
        rows = np.flatnonzero(classes == kind)
        pairs = cKDTree(coord[rows]).query_pairs(np.nextafter(RADIUS, 0), output_type="ndarray")
        graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (len(rows),) * 2)
        component[rows] = rows[0] + len(coord) * connected_components(graph, directed=False)[1]
    _, first, of, sizes = np.unique(component, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.full(len(first), -1)
    large = np.flatnonzero((component[first] >= 0) & (sizes >= MINIMUM_POINTS))
    numbers[large[np.argsort(first[large])]] = np.arange(len(large))
    return numbers[of]


def seconds(function: Callable[..., Int64Array], *arguments: NDArray[np.generic]) -> tuple[float, Int64Array]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=150_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=[case.__name__ for case, _ in CASES], nargs="*")
    options = parser.parse_args()
    first, _ = seconds(ours, *collapsed(100, np.random.default_rng(0)))
    print(f"first call: {first:.2f} s (compiles, or reads what numba kept)")
    for case, most in CASES:
        if options.case and case.__name__ not in options.case:
            continue
        print(case.__name__)
        for points in sorted({options.points, min(most, options.points)}, reverse=True):
            data = case(points, np.random.default_rng(0))
            fast, slow, equal = [], [], True
            for _ in range(options.repeats):  # in turn, so that a busy machine disturbs both alike
                spent, clusters = seconds(ours, *data)
                fast.append(spent)
                if points <= most:
                    spent, expected = seconds(baseline, *data)
                    slow.append(spent)
                    equal &= bool((clusters == expected).all())
            line = f"  {points} points, {clusters.max() + 1} clusters: ours {statistics.median(fast) * 1e3:.1f} ms"
            if slow:
                ratio = statistics.median(slow) / statistics.median(fast)
                line += f", scipy {statistics.median(slow) * 1e3:.0f} ms: {ratio:.1f} times faster, clusters "
                line += "equal" if equal else "DIFFER"
            print(line, flush=True)


if __name__ == "__main__":
    main()
