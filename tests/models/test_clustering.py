"""Clusters against all pairs, one after the other, on points where a pair more or less would show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gcbench.errors import InputError
from gcbench.models.clustering import _cells, cluster_points

RADIUS = 1.5
SIDE = RADIUS / math.sqrt(3)


def brute_force(coord: Any, classes: Any, scenes: Any, radius: float, minimum_points: int, ignored: Any) -> Any:
    """The readable twin: every point asks every other, then clusters are followed from their first points."""
    points = np.asarray(coord, np.float64)
    taking_part = ~np.isin(classes, ignored)
    cluster, seen, found = np.full(len(points), -1), ~taking_part, 0
    for first in range(len(points)):
        if seen[first]:
            continue
        members, front = [first], [first]
        seen[first] = True
        while front:
            n = front.pop()
            x, y, z = (points - points[n]).T
            joined = (x * x + y * y + z * z < radius**2) & (classes == classes[n]) & (scenes == scenes[n]) & ~seen
            seen |= joined
            front += np.flatnonzero(joined).tolist()
            members += np.flatnonzero(joined).tolist()
        if len(members) >= minimum_points:
            cluster[members] = found
            found += 1
    return cluster


def check(
    coord: Any, classes: Any = None, scenes: Any = None, *, radius: float = RADIUS, least: int = 2, ignored: Any = ()
) -> Any:
    """The clusters, after a comparison with brute force: the same numbers point by point."""
    classes = np.zeros(len(coord), np.int64) if classes is None else classes
    scenes = np.zeros(len(coord), np.int64) if scenes is None else scenes
    got = cluster_points(coord, classes, scenes, radius=radius, minimum_points=least, ignored=ignored)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, brute_force(coord, classes, scenes, radius, least, ignored))
    return got


def blobs(rng: np.random.Generator, count: int, spread: float, room: float) -> Any:
    """Points around 8 centres in a room, and a fifth of them anywhere; [count, 3] float32."""
    centres = rng.uniform(-room, room, (8, 3))
    points = centres[rng.integers(0, 8, count)] + rng.normal(size=(count, 3)) * spread
    strays = rng.random(count) < 0.2
    points[strays] = rng.uniform(-room, room, (int(strays.sum()), 3))
    return points.astype(np.float32)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5, 1.5, 5.0])
@pytest.mark.parametrize("room", [2.0, 12.0])
@pytest.mark.parametrize("around", [0.0, -50.0, 1e6])
def test_clusters_are_those_of_brute_force(spread: float, room: float, around: float) -> None:
    rng = np.random.default_rng(int(spread * 10 + room))
    for least in (1, 5, 50):
        coord = blobs(rng, 1200, spread, room) + np.float32(around)
        classes, scenes = rng.integers(-1, 3, len(coord)), rng.integers(0, 2, len(coord))
        check(coord, classes, scenes, least=least, ignored=(-1, 2))


def test_both_sides_of_the_comparison_with_brute_force_occur() -> None:
    """Sparse points near the threshold of percolation: many clusters, few of one point, none of all."""
    coord = np.random.default_rng(0).uniform(0, 20, (2000, 3)).astype(np.float32)
    sizes = np.bincount(check(coord, least=1))
    assert len(sizes) > 100 and sizes.max() > 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_at_the_radius_are_not_joined_and_points_just_below_are(dtype: Any) -> None:
    below = np.nextafter(dtype(RADIUS), dtype(0))
    for axis in range(3):
        for start in (0.0, -1.5, 3.0, -0.75):
            coord = np.full((2, 3), start, dtype)
            coord[1, axis] += dtype(RADIUS)
            assert check(coord).tolist() == [-1, -1]
            coord = np.zeros((2, 3), dtype)
            coord[1, axis] = -below
            assert check(coord).tolist() == [0, 0]
    # (2, 3, 6) is 7 long, (1, 2, 2) is 3 long
    for step, radius in (((2, 3, 6), 7.0), ((1, 2, 2), 3.0), ((-6, 2, -3), 7.0)):
        coord = np.array([(0, 0, 0), step], dtype)
        assert check(coord, radius=radius).tolist() == [-1, -1]
        assert check(coord, radius=float(np.nextafter(radius, 8))).tolist() == [0, 0]


def test_a_pair_at_the_radius_is_not_joined_where_the_boxes_of_its_cells_are_nearer() -> None:
    coord = np.array([(0.25, 0.25, 0.25), (0.5, 0, 0.25), (1.25, 1.25, 0.75)])  # the first and last are a radius apart
    assert check(coord, least=1).tolist() == [0, 0, 1]


def test_a_lattice_at_the_radius_falls_apart() -> None:
    lattice = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), axis=-1).reshape(-1, 3) * np.float32(RADIUS)
    assert (check(lattice, least=1) == np.arange(len(lattice))).all()
    assert (check(lattice, radius=RADIUS * (1 + 1e-7)) == 0).all()


@pytest.mark.parametrize("radius", [1e-90, 0.1, RADIUS, 7.3, 1e90])
def test_points_of_one_cell_are_closer_than_the_radius_also_far_away(radius: float) -> None:
    """The corners of a cell, as near to its neighbours as floats come: what the argument in `_cells` promises."""
    side = radius / math.sqrt(3) * (1 - 2**-20)
    for cell in (0, 1, -1, 12345, 2**30 - 1, -(2**30)):
        low, high = cell * side, (cell + 1) * side if cell != -1 else -side * 2**-60
        while math.floor(low / side) < cell:
            low = float(np.nextafter(low, math.inf))
        while math.floor(high / side) > cell:
            high = float(np.nextafter(high, -math.inf))
        corners = np.array([(low,) * 3, (high,) * 3])
        assert (_cells(corners, radius) == cell).all() and high - low > 0.999999 * side
        check(corners, radius=radius)


def test_cells_meet_all_their_neighbours() -> None:
    """Two lone points in every pair of cells within two of one another, as near together as the cells allow."""
    side, inset = SIDE * (1 - 2**-20), 1e-7
    for step in np.ndindex(5, 5, 5):
        away = np.array(step) - 2
        first = np.where(away > 0, 1 - inset, np.where(away < 0, inset, 0.5))
        pair = (np.stack([first, away + 1 - first]) + 10) * side
        assert (np.diff(_cells(pair, RADIUS), axis=0) == away).all()
        assert check(pair).tolist() == [0, 0]


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_equal_points_are_one_cluster_of_enough(count: int) -> None:
    coord = np.full((count, 3), -3.7, np.float32)
    assert (check(coord, least=count) == 0).all()
    assert (check(coord, least=count + 1) == -1).all()


def test_nothing_and_all_ignored_have_no_clusters() -> None:
    assert check(np.zeros((0, 3), np.float32)).shape == (0,)
    assert check(np.zeros((9, 3), np.float32), np.repeat([0, 4, 7], 3), ignored=(0, 4, 7)).tolist() == [-1] * 9


def test_classes_and_scenes_on_one_spot_never_meet() -> None:
    classes, scenes = np.tile([5, 5, 2, -9, 2, 2], 20), np.tile([0, 1, 0, 0, 0, 2**62], 20)
    clusters = check(np.zeros((120, 3), np.float32), classes, scenes, least=20)
    assert clusters[:6].tolist() == [0, 1, 2, 3, 2, 4]  # in the order of first points
    assert check(np.zeros((120, 3)), classes, scenes, least=21)[:6].tolist() == [-1, -1, 0, -1, 0, -1]
    extremes = np.array([-(2**63), 2**63 - 1] * 60)
    assert check(np.zeros((120, 3)), extremes, extremes)[:2].tolist() == [0, 1]


def test_cells_too_many_for_one_number_are_sorted_too() -> None:
    rng = np.random.default_rng(1)
    coord = np.concatenate([blobs(rng, 400, 0.5, 8), np.eye(3) * 9e8, np.eye(3) * -9e8])
    check(coord, rng.integers(0, 2, len(coord)), rng.integers(0, 3, len(coord)), least=1)


def plates(count: int, normal: Any, gap: float) -> Any:
    """Two parallel plates inside one cell each, `RADIUS + gap` apart; [count, 3] float64."""
    rng = np.random.default_rng(2)
    normal = np.array(normal) / np.linalg.norm(normal)
    across = np.cross(normal, (0.3, -0.2, 1))
    across /= np.linalg.norm(across)
    flat = rng.uniform(-0.2, 0.2, (count, 2)) @ np.stack([across, np.cross(normal, across)])
    flat[count // 2 :] += normal * (RADIUS + gap)
    return flat + 10.5 * SIDE


def shells(count: int, normal: Any, gap: float) -> Any:
    """A small ball, and a patch of a shell around it: the hulls are closer than the points."""
    rng = np.random.default_rng(3)
    ball, patch = rng.normal(size=(2, count // 2, 3))
    patch = np.array(normal) / np.linalg.norm(normal) + 0.1 * patch
    ball *= 0.01 / np.linalg.norm(ball, axis=1)[:, None]
    patch *= (RADIUS + 0.01 + gap) / np.linalg.norm(patch, axis=1)[:, None]
    return np.concatenate([ball, patch]) + 10.5 * SIDE


@pytest.mark.parametrize("shape", [plates, shells])
@pytest.mark.parametrize("normal", [(1, 0, 0), (1, 1, 1), (1, -0.6, 0.3), (0, 0.1, -1)])
@pytest.mark.parametrize("gap", [1e-3, 1e-9, 1e-13])
def test_crowds_just_out_of_reach_are_not_joined_but_by_a_bridge(
    shape: Callable[..., Any], normal: Any, gap: float
) -> None:
    coord = shape(3000, normal, gap)
    assert check(coord).tolist() == [0] * 1500 + [1] * 1500
    inside = np.array(normal) / np.linalg.norm(normal)
    coord[2500] = coord[17] + (RADIUS - 1e-12) * inside
    assert (check(coord) == 0).all()


def test_crowds_are_cut_down_to_neighbouring_floats() -> None:
    """Between two floats that follow each other there is no middle; only the lower one is in reach."""
    low, high = 1.25 + 2**-52, 1.25 + 2**-51
    coord = np.zeros((60, 3))
    coord[:, 0] = np.repeat([low, high, high - RADIUS], 20)
    assert (check(coord) == 0).all()
    assert check(coord[20:]).tolist() == [0] * 20 + [1] * 20


def test_crowds_of_many_scales_are_cut_apart() -> None:
    """Points ever nearer to the ends of a line of the radius, at right angles to it: over a hundred cuts deep."""
    scale = 2.0 ** -np.repeat(np.arange(2, 50), 4) * np.tile([1, 0.9, 0.8, 0.7], 48)
    across = np.repeat(scale, 9)[:, None] * [1, -1, 0]
    end = np.array([1, 1, 0]) * RADIUS / math.sqrt(2) * (1 + 2**-50)
    coord = np.concatenate([across, across + end]) + 0.4
    assert set(check(coord).tolist()) == {0, 1}


small = hnp.arrays(
    np.float32, st.tuples(st.integers(0, 60), st.just(3)), elements=st.integers(-24, 24).map(lambda i: i / 4)
)


@settings(max_examples=80)
@given(coord=small, seed=st.integers(0, 2**16), least=st.integers(1, 4))
@example(coord=np.array([(0, 0, 0), (1.5, 0, 0), (1, 1, 0.5)], np.float32), seed=0, least=1)
def test_a_permutation_of_points_permutes_the_clusters(coord: Any, seed: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    classes, scenes = rng.integers(0, 2, len(coord)), rng.integers(0, 2, len(coord))
    order = rng.permutation(len(coord))
    clusters = check(coord, classes, scenes, least=least, ignored=(3,))
    permuted = check(coord[order], classes[order], scenes[order], least=least, ignored=(3,))
    pairs = set(zip(clusters[order].tolist(), permuted.tolist(), strict=True))
    assert len(pairs) == len(set(clusters)) == len(set(permuted))  # one number for one number
    assert all((old == -1) == (new == -1) for old, new in pairs)


@settings(max_examples=80)
@given(coord=small, away=st.tuples(*[st.integers(-(10**6), 10**6)] * 3), least=st.integers(1, 4))
def test_a_translation_changes_nothing(coord: Any, away: tuple[int, ...], least: int) -> None:
    """By whole units, which quarters of a unit bear without rounding, so that cells fall differently."""
    moved = coord + np.array(away, np.float64)
    np.testing.assert_array_equal(check(coord, least=least), check(moved, least=least))


@settings(max_examples=60)
@given(coord=small, power=st.integers(-40, 40))
def test_a_power_of_two_changes_nothing(coord: Any, power: int) -> None:
    scaled = check(coord.astype(np.float64) * 2.0**power, radius=RADIUS * 2.0**power, least=1)
    np.testing.assert_array_equal(check(coord, least=1), scaled)


def test_tensors_and_other_types_give_the_same() -> None:
    rng = np.random.default_rng(5)
    coord, classes, scenes = blobs(rng, 500, 0.5, 8), rng.integers(0, 3, 500), rng.integers(0, 2, 500)
    expected = check(coord, classes, scenes)
    options: Any = {"radius": RADIUS, "minimum_points": 2, "ignored": ()}
    tensors = torch.tensor(coord, requires_grad=True), torch.tensor(classes), torch.tensor(scenes)
    np.testing.assert_array_equal(cluster_points(*tensors, **options), expected)
    turned = np.asfortranarray(coord), classes.astype(np.uint8), scenes.astype(np.int16)
    np.testing.assert_array_equal(cluster_points(*turned, **options), expected)
    assert (coord == tensors[0].detach().numpy()).all()  # left as it was


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0.0}, "radius of 0.0"),
        ({"radius": -1.0}, "radius of -1.0"),
        ({"radius": math.nan}, "radius of nan"),
        ({"radius": math.inf}, "radius of inf"),
        ({"coord": np.zeros((4, 2))}, r"float64 and shape \(4, 2\)"),
        ({"coord": np.zeros((4, 3), np.int64)}, "Coordinates of int64"),
        (
            {"coord": np.array([(0, 0, 0), (0, 0, 0), (0, math.nan, 0), (math.inf, 0, 0)])},
            r"Point 2 .*nan.* not finite",
        ),
        ({"coord": np.array([(0, 0, 0), (0, 0, -2e9), (0, 0, 0), (0, 0, 0)])}, "Point 1 .*too far from the origin"),
        ({"classes": np.zeros(3, np.int64)}, r"The classes of int64 and shape \(3,\) do not number 4 points"),
        ({"classes": np.zeros(4)}, "The classes of float64"),
        ({"scenes": np.zeros((4, 1), np.int64)}, r"The scenes of int64 and shape \(4, 1\)"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    nothing = np.zeros(4, np.int64)
    arguments: dict[str, Any] = {"coord": np.zeros((4, 3)), "classes": nothing, "scenes": nothing, "radius": RADIUS}
    with pytest.raises(InputError, match=message):
        cluster_points(**{**arguments, **changes}, minimum_points=1, ignored=())
