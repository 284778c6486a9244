from __future__ import annotations

from dataclasses import replace
from itertools import repeat

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.data.batching import PointSample, collate, mix3d
from gcbench.data.voxels import grid_sample
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
    mixed = mix3d(batch, repeat(np.random.default_rng(seed)))
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
    mixed = mix3d(batch, repeat(np.random.default_rng(0)))
    assert mixed.segment is not None
    lost = len(batch.coord) - len(mixed.coord)
    kept = [int((mixed.segment == scene).sum()) for scene in (0, 1)]
    had = batch.offsets.diff(prepend=torch.tensor([0])).tolist()
    first, second = ({tuple(voxel) for voxel in sample(seed).grid_coord} for seed in (0, 1))
    assert lost == len(first & second) > 40
    assert all(0.2 * lost < had[scene] - kept[scene] < 0.8 * lost for scene in (0, 1))


def test_mix3d_merges_the_pairs_that_dropping_every_second_offset_merges() -> None:
    """The reference's rule: offsets 1, 3, ... short of the last, and the last."""
    for scenes in range(1, 8):
        samples = [sample(index) for index in range(scenes)]
        apart = [replace(one, grid_coord=one.grid_coord + np.int32(11 * index)) for index, one in enumerate(samples)]
        batch = collate(apart)  # nothing collides
        ends = batch.offsets.tolist()
        assert mix3d(batch, repeat(np.random.default_rng(0))).offsets.tolist() == [*ends[1:-1:2], ends[-1]]


def test_mix3d_keeps_labelled_points() -> None:
    batch = collate([sample(seed) for seed in range(4)])
    assert batch.segment is not None
    rng = np.random.default_rng(0)
    few = torch.from_numpy(np.where(rng.random(len(batch.coord)) < 0.02, batch.segment.numpy(), -1))
    batch = replace(batch, segment=few)
    lost = 0
    for seed in range(5):
        mixed = mix3d(batch, repeat(np.random.default_rng(seed)), keep_labelled=True)
        assert mixed.segment is not None
        for pair, start in enumerate((0, int(batch.offsets[1]))):
            part = slice(start, int(batch.offsets[2 * pair + 1]))
            wanted = {tuple(voxel) for voxel in batch.grid_coord[part][few[part] >= 0].tolist()}
            merged = slice(0, int(mixed.offsets[0])) if pair == 0 else slice(int(mixed.offsets[0]), None)
            found = {tuple(voxel) for voxel in mixed.grid_coord[merged][mixed.segment[merged] >= 0].tolist()}
            assert found == wanted
        plain = mix3d(batch, repeat(np.random.default_rng(seed))).segment
        assert plain is not None
        lost += int((mixed.segment >= 0).sum() - (plain >= 0).sum())
    assert lost > 0  # without the rule some are lost
