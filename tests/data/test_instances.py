"""Centres of instances: the mean of an instance's points in the sample, and nothing for all others."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcbench.data.batching import PointSample, collate, mix3d
from gcbench.data.instances import with_centroids
from gcbench.errors import DataError

COUNTED = (2, 3)


def sample(seed: int, count: int) -> PointSample:
    draw = np.random.default_rng(seed)
    grid = draw.permutation(1000)[:count]
    return PointSample(
        name=f"scene{seed}",
        coord=draw.normal(0, 3, (count, 3)).astype(np.float32),
        grid_coord=np.stack(np.unravel_index(grid, (10, 10, 10)), axis=1).astype(np.int32),
        feat=np.zeros((count, 6), np.float32),
        segment=draw.integers(-1, 4, count),
        instance=draw.integers(-1, 4, count) * 7,
    )


@given(st.integers(0, 10**6), st.integers(0, 40))
def test_a_centre_is_the_mean_of_its_members(seed: int, count: int) -> None:
    points = sample(seed, count)
    assert points.segment is not None
    assert points.instance is not None
    found = with_centroids(points, COUNTED).centroid
    assert found is not None
    for n in range(count):
        member = points.segment[n] in COUNTED and points.instance[n] >= 0
        if not member:
            assert np.isnan(found[n]).all()
            continue
        same = (points.instance == points.instance[n]) & np.isin(points.segment, COUNTED)
        assert found[n] == pytest.approx(points.coord[same].astype(float).mean(axis=0), abs=1e-5)


@given(st.integers(0, 10**6))
def test_order_and_numbering_do_not_matter(seed: int) -> None:
    points = sample(seed, 30)
    order = np.random.default_rng(seed).permutation(30)
    assert points.segment is not None
    assert points.instance is not None
    moved = replace(
        points,
        coord=points.coord[order],
        segment=points.segment[order],
        instance=np.where(points.instance[order] >= 0, 100 - points.instance[order], -1),
    )
    one, other = with_centroids(points, COUNTED).centroid, with_centroids(moved, COUNTED).centroid
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one[order], other, atol=1e-5)


def test_batches_carry_centres_and_mixing_keeps_them() -> None:
    samples = [with_centroids(sample(seed, 200), COUNTED) for seed in (1, 2)]
    batch = collate(samples)
    assert batch.centroid is not None
    expected = np.concatenate([one.centroid for one in samples if one.centroid is not None])
    np.testing.assert_array_equal(batch.centroid.numpy(), expected)
    assert collate([samples[0], sample(3, 5)]).centroid is None
    mixed = mix3d(batch, repeat(np.random.default_rng(0)))
    assert mixed.centroid is not None
    rows = {tuple(row): centre for row, centre in zip(batch.coord.tolist(), batch.centroid, strict=True)}
    for row, centre in zip(mixed.coord.tolist(), mixed.centroid, strict=True):
        assert torch.equal(centre.nan_to_num(9.0), rows[tuple(row)].nan_to_num(9.0))


def test_without_instances_there_are_no_centres() -> None:
    with pytest.raises(DataError, match="Scene 'scene1' has no instances"):
        with_centroids(replace(sample(1, 5), instance=None), COUNTED)
