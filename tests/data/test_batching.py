from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.data.batching import PointSample, collate, grid_sample, mix3d
from gcbench.errors import InputError
from gcbench.structures import Float32Array

seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, count: int = 300) -> Float32Array:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (count, 3)).astype(np.float32)


def sample(seed: int, *, labelled: bool = True) -> PointSample:
    coord = cloud(seed)
    voxels = grid_sample(coord, 0.1, None)
    feat = np.random.default_rng(seed).standard_normal((len(voxels.index), 6)).astype(np.float32)
    segment = np.full(len(voxels.index), seed % 7) if labelled else None
    return PointSample(f"scene{seed}", coord[voxels.index], voxels.grid_coord, feat, segment)


@given(seeds, st.sampled_from([0.05, 0.1, 0.3]), st.booleans())
def test_grid_sample_keeps_one_point_of_each_voxel(seed: int, grid_size: float, random: bool) -> None:
    coord = cloud(seed)
    voxels = grid_sample(coord, grid_size, np.random.default_rng(seed) if random else None)
    expected = np.floor(coord / np.float32(grid_size)).astype(int)
    expected -= expected.min(axis=0)
    assert voxels.grid_coord.tolist() == np.unique(expected, axis=0).tolist()  # each once, in order
    assert (expected[voxels.index] == voxels.grid_coord).all()
    assert (voxels.grid_coord[voxels.inverse] == expected).all()


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


def test_collate_puts_scenes_one_after_the_other() -> None:
    samples = [sample(seed) for seed in range(3)]
    batch = collate(samples)
    assert batch.names == ("scene0", "scene1", "scene2")
    assert batch.segment is not None
    assert [tensor.dtype for tensor in (batch.coord, batch.grid_coord, batch.feat, batch.offsets, batch.segment)] == [
        torch.float32,
        torch.int32,
        torch.float32,
        torch.int64,
        torch.int64,
    ]
    start = 0
    for end, one in zip(batch.offsets.tolist(), samples, strict=True):
        assert batch.feat[start:end].numpy().tolist() == one.feat.tolist()
        assert batch.grid_coord[start:end].numpy().tolist() == one.grid_coord.tolist()
        start = end
    assert start == len(batch.coord)
    assert collate([sample(0), sample(1, labelled=False)]).segment is None


@settings(max_examples=25)
@given(st.integers(1, 5), seeds)
def test_mix3d_merges_pairs_without_doubled_voxels(scenes: int, seed: int) -> None:
    batch = collate([sample(index) for index in range(scenes)])
    mixed = mix3d(batch, np.random.default_rng(seed))
    assert len(mixed.offsets) == len(mixed.names) == (scenes + 1) // 2
    assert mixed.names[0] == ("scene0+scene1" if scenes > 1 else "scene0")
    bounds = [0, *batch.offsets.tolist()]
    start = 0
    for pair, end in enumerate(mixed.offsets.tolist()):
        before = batch.grid_coord[bounds[2 * pair] : bounds[min(2 * pair + 2, scenes)]].numpy()
        after = mixed.grid_coord[start:end].numpy()
        assert len(np.unique(after, axis=0)) == len(after)
        assert {tuple(voxel) for voxel in before} == {tuple(voxel) for voxel in after}
        start = end
    assert start == len(mixed.coord) == len(mixed.feat)


def test_mix3d_takes_collided_voxels_from_both_scenes() -> None:
    batch = collate([sample(0), sample(1)])
    mixed = mix3d(batch, np.random.default_rng(0))
    assert mixed.segment is not None
    lost = len(batch.coord) - len(mixed.coord)
    kept = [int((mixed.segment == scene).sum()) for scene in (0, 1)]
    had = batch.offsets.diff(prepend=torch.tensor([0])).tolist()
    first, second = ({tuple(voxel) for voxel in sample(seed).grid_coord} for seed in (0, 1))
    assert lost == len(first & second) > 40
    assert all(0.2 * lost < had[scene] - kept[scene] < 0.8 * lost for scene in (0, 1))
