from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.data.voxels import grid_sample, voxelize
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Int64Array

seeds = st.integers(0, 2**32 - 1)
edges = st.sampled_from([0.02, 0.05, 0.1, 0.3])


def cloud(seed: int, count: int = 300) -> Float32Array:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 3)).astype(np.float32)


def slow_cells(coord: Float32Array, grid_size: float) -> Int64Array:
    """The twin: one Python float, which is a float64, after the other."""
    cells = np.array([[int(np.floor(float(value) / grid_size)) for value in row] for row in coord])
    return np.asarray(cells - cells.min(axis=0))


@given(seeds, edges, st.booleans(), st.booleans())
def test_grid_sample_keeps_one_point_of_each_voxel(seed: int, grid_size: float, random: bool, columns: bool) -> None:
    coord = np.asfortranarray(cloud(seed)) if columns else cloud(seed)
    voxels = grid_sample(coord, grid_size, np.random.default_rng(seed) if random else None)
    expected = slow_cells(coord, grid_size)
    assert voxels.grid_coord.tolist() == np.unique(expected, axis=0).tolist()  # each once, in order
    assert voxels.grid_coord.dtype == np.int32
    assert (expected[voxels.index] == voxels.grid_coord).all()
    assert (voxels.grid_coord[voxels.inverse] == expected).all()
    assert voxelize(coord, grid_size).counts.tolist() == np.unique(expected, axis=0, return_counts=True)[1].tolist()


@given(seeds, edges)
def test_points_on_a_boundary_fall_where_float64_says(seed: int, grid_size: float) -> None:
    """A float32 quotient puts about one in a hundred of these into the neighbouring voxel."""
    steps = np.random.default_rng(seed).integers(-400, 400, (500, 3))
    coord = np.append((steps * grid_size).astype(np.float32), np.full((1, 3), -500 * grid_size, np.float32), axis=0)
    voxels = voxelize(coord, grid_size)
    assert voxels.cells.tolist() == slow_cells(coord, grid_size).tolist()


def test_a_boundary_point_that_float32_gets_wrong() -> None:
    coord = np.array([[0, 0, 0], [0.06, 0, 0]], np.float32)
    assert np.floor(coord[1, 0] / np.float32(0.02)) == 3  # float32: the quotient is rounded up to 3
    assert voxelize(coord, 0.02).cells[1, 0] == 2  # as float64 the float32 next to 0.06 is below it
    assert float(coord[1, 0]) < 0.06


@given(seeds)
def test_without_a_generator_the_first_point_stands(seed: int) -> None:
    coord = cloud(seed)
    voxels = grid_sample(coord, 0.2, None)
    for voxel, index in enumerate(voxels.index):
        assert index == np.flatnonzero(voxels.inverse == voxel)[0]


def test_every_point_of_a_voxel_has_the_same_chance() -> None:
    coord = np.array([[0.01, 0, 0], [0.02, 0, 0], [0.03, 0, 0], [0.04, 0, 0], [0.15, 0, 0]], np.float32)
    rng = np.random.default_rng(0)
    drawn = np.bincount([grid_sample(coord, 0.1, rng).index[0] for _ in range(4000)], minlength=5)
    assert drawn[4] == 0
    assert np.abs(drawn[:4] - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)  # five standard deviations


@given(seeds, st.integers(0, 40))
def test_preferred_points_stand_for_their_voxels(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    voxels = voxelize(cloud(seed), 0.2)
    preferred = np.sort(rng.choice(300, count, replace=False))
    index = voxels.draw(rng, preferred)
    assert (voxels.inverse[index] == np.arange(len(voxels))).all()
    for voxel in range(len(voxels)):
        wanted = set(preferred[voxels.inverse[preferred] == voxel].tolist())
        assert not wanted or index[voxel] in wanted


def test_preferred_points_of_one_voxel_have_the_same_chance() -> None:
    coord = np.full((6, 3), 0.05, np.float32)
    rng, voxels = np.random.default_rng(0), voxelize(coord, 0.1)
    drawn = Counter(int(voxels.draw(rng, np.array([1, 3, 4]))[0]) for _ in range(3000))
    assert set(drawn) == {1, 3, 4}
    assert max(abs(times - 1000) for times in drawn.values()) < 5 * np.sqrt(3000 * 2 / 9)


@given(seeds, edges)
def test_fragments_cover_every_point_as_often_as_the_rule_says(seed: int, grid_size: float) -> None:
    coord = cloud(seed)
    voxels = voxelize(coord, grid_size)
    fragments = list(voxels.fragments())
    members = [np.flatnonzero(voxels.inverse == voxel) for voxel in range(len(voxels))]
    fullest = max(len(points) for points in members)
    assert len(fragments) == fullest
    for number, fragment in enumerate(fragments):  # the twin: the rule, voxel by voxel
        assert fragment.tolist() == [points[number % len(points)] for points in members]
    occurs = np.bincount(np.concatenate(fragments), minlength=len(coord))
    assert occurs.min() >= 1
    for points in members:
        share, more = divmod(fullest, len(points))
        assert occurs[points].tolist() == [share + 1] * more + [share] * (len(points) - more)
        assert [-(-(fullest - rank) // len(points)) for rank in range(len(points))] == occurs[points].tolist()


def test_fragments_are_made_one_by_one() -> None:
    voxels = voxelize(np.concatenate([np.zeros((100_000, 3)), cloud(0, 1000)]).astype(np.float32), 0.02)
    assert voxels.counts.max() >= 100_000  # all at once they would be 10^8 indices
    assert [len(fragment) for fragment in islice(voxels.fragments(), 3)] == [len(voxels)] * 3


@settings(max_examples=20)
@given(seeds)
def test_the_order_in_memory_changes_nothing(seed: int) -> None:
    one, other = (voxelize(coord, 0.1) for coord in (cloud(seed), np.asfortranarray(cloud(seed))))
    assert one.order.tolist() == other.order.tolist()
    assert one.starts.tolist() == other.starts.tolist()


def test_grids_too_large_to_pack_are_sorted_the_slow_way() -> None:
    coord = np.concatenate([cloud(0) * 1e5, cloud(0) * 1e5]).astype(np.float32)
    voxels = grid_sample(coord, 0.1, None)
    assert voxels.index.max() < 300  # the second copy adds nothing
    assert (voxels.inverse[:300] == voxels.inverse[300:]).all()


def test_points_that_cannot_be_voxelised_are_refused() -> None:
    for coord in (np.empty((0, 3)), np.array([[0, np.nan, 0]]), np.array([[0, 0, 0], [np.inf, 0, 0]])):
        with pytest.raises(InputError, match="finite"):
            grid_sample(coord.astype(np.float32), 0.1, None)
    with pytest.raises(InputError, match="metres"):
        grid_sample(np.array([[0, 0, 0], [1e9, 1e9, 1e9]], np.float32), 0.1, None)
