from __future__ import annotations

import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.data import geometry
from gcbench.data.prepare import prepare_scannet
from gcbench.data.samples import (
    PretrainSample,
    PretrainSamples,
    SegmentationBatches,
    SegmentationSamples,
    evaluation_fragments,
    evaluation_sample,
    scene_of_sample,
    split_frames,
)
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import GeometricAugmentation, SegmentationAugmentation
from gcbench.errors import DataError, InputError
from gcbench.protocols.loading import steps
from gcbench.structures import Float64Array
from tests.data.raw_folders import HEIGHT, WIDTH, write_scannet

MOVED = GeometricAugmentation((-180, 180), 1.0, (-3, 3), 1.0, (0.9, 1.1), 1.0, 0.5)
EVERYTHING = SegmentationAugmentation(
    dropout_ratio=0.2,
    dropout_p=0.5,
    rotate_z=(-180, 180),
    rotate_z_p=0.5,
    rotate_xy=(-3, 3),
    rotate_xy_p=0.5,
    scale=(0.9, 1.1),
    flip_p=0.5,
    jitter_sigma=0.005,
    jitter_clip=0.02,
    elastic=((0.2, 0.4), (0.8, 1.6)),
    elastic_p=0.95,
    auto_contrast_p=0.2,
    color_translation_p=0.95,
    color_translation_ratio=0.05,
    color_jitter_p=0.95,
    color_jitter_std=0.05,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("samples")
    return prepare_scannet(write_scannet(root / "raw", train=5, val=1, hidden=1, frames=10), root / "out")


def segmentation(dataset: PreparedDataset, **changes: object) -> SegmentationSamples:
    settings = {
        "label_set": "scannet20",
        "grid_size": 0.1,
        "crop_points": 60,
        "augmentation": EVERYTHING,
        "seed": 3,
        **changes,
    }
    return SegmentationSamples(dataset, dataset.scene_names("train"), **settings)  # type: ignore[arg-type]


def pretraining(dataset: PreparedDataset, **changes: object) -> PretrainSamples:
    settings = {
        "grid_size": 0.02,
        "mask_ratio": 0.5,
        "mask_block": 0.0,
        "views": 3,
        "view_size": (WIDTH, HEIGHT),
        "holdout_every": 5,
        "augmentation": MOVED,
        "seed": 3,
        **changes,
    }
    return PretrainSamples(dataset, dataset.scene_names("train"), **settings)  # type: ignore[arg-type]


def test_every_pass_takes_every_scene_once_in_its_own_order() -> None:
    passes = [[scene_of_sample(7, 3, k) for k in range(first, first + 7)] for first in range(0, 70, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) > 5
    assert [scene_of_sample(7, 4, k) for k in range(7)] != passes[0]


def test_a_segmentation_sample_depends_on_seed_and_number_alone(dataset: PreparedDataset) -> None:
    straight = [segmentation(dataset)[k] for k in range(8)]
    resumed = pickle.loads(pickle.dumps(segmentation(dataset)))
    for k in (7, 5, 6):
        one = resumed[k]
        assert one.name == straight[k].name
        for field in ("coord", "grid_coord", "feat", "segment"):
            assert getattr(one, field).tobytes() == getattr(straight[k], field).tobytes()
    other = segmentation(dataset, seed=4)
    assert any(other[k].coord.tobytes() != straight[k].coord.tobytes() for k in range(3))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_batches(dataset: PreparedDataset, workers: int) -> None:
    batches = SegmentationBatches(segmentation(dataset), batch_size=2, mix3d_p=0.5)
    alone, together = (list(steps(batches, 2, 9, count)) for count in (0, workers))
    assert {len(batch.offsets) for batch in alone} == {1, 2}  # some mixed, some not
    for one, other in zip(alone, together, strict=True):
        assert one.names == other.names
        for field in ("coord", "grid_coord", "feat", "offsets", "segment"):
            assert getattr(one, field).numpy().tobytes() == getattr(other, field).numpy().tobytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_pretraining_samples(dataset: PreparedDataset, workers: int) -> None:
    alone, together = (list(steps(pretraining(dataset), 1, 6, count)) for count in (0, workers))
    for one, other in zip(alone, together, strict=True):
        assert one.points.coord.tobytes() == other.points.coord.tobytes()
        assert one.views.frame_ids == other.views.frame_ids
        assert torch.equal(one.views.viewmats, other.views.viewmats)


def test_sampling_leaves_every_global_random_state_alone(dataset: PreparedDataset) -> None:
    batches = SegmentationBatches(segmentation(dataset), batch_size=2, mix3d_p=1.0)
    np.random.seed(5)  # noqa: NPY002
    before = global_states()
    first = batches[0]
    pretraining(dataset)[0]
    list(steps(batches, 0, 2, 1))
    assert global_states() == before
    np.random.seed(6)  # noqa: NPY002
    assert torch.equal(batches[0].coord, first.coord)


def global_states() -> tuple[object, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_mixing_follows_its_probability(dataset: PreparedDataset) -> None:
    scenes = {
        p: [len(SegmentationBatches(segmentation(dataset), batch_size=4, mix3d_p=p)[b].offsets) for b in range(20)]
        for p in (0.0, 0.5, 1.0)
    }
    assert set(scenes[0.0]) == {4}
    assert set(scenes[1.0]) == {2}
    assert 4 <= scenes[0.5].count(2) <= 16


def test_an_unaugmented_sample_carries_the_scenes_colours_normals_and_labels(dataset: PreparedDataset) -> None:
    off = SegmentationAugmentation()
    one = segmentation(dataset, augmentation=off, crop_points=None, grid_size=0.001)[0]
    scene = dataset.scene(one.name)
    shift = scene.coord[0] - one.coord[np.abs(one.feat[:, :3] - (scene.color[0] / 127.5 - 1)).sum(axis=1).argmin()]
    nearest = np.abs(scene.coord[:, None] - (one.coord + shift)[None]).sum(axis=2).argmin(axis=0)
    assert sorted(nearest) == list(range(len(scene)))  # 1 mm voxels: every point, shuffled
    assert nearest.tolist() != list(range(len(scene)))
    np.testing.assert_allclose(one.feat[:, :3], scene.color[nearest] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(one.feat[:, 3:], scene.normal[nearest], atol=1e-6)
    assert one.segment is not None
    assert one.segment.tolist() == scene.segments["scannet20"][nearest].tolist()
    np.testing.assert_allclose((one.coord.min(axis=0) + one.coord.max(axis=0))[:2], 0, atol=1e-6)


def test_samples_are_cropped_and_voxelised(dataset: PreparedDataset) -> None:
    for k in range(5):
        one = segmentation(dataset)[k]
        assert 0 < len(one) <= 60
        assert len(np.unique(one.grid_coord, axis=0)) == len(one)
        assert one.grid_coord.min() >= 0
        assert one.feat.shape == (len(one), 6)
        assert np.abs(one.feat[:, :3]).max() <= 1


def test_labels_follow_the_label_set(dataset: PreparedDataset) -> None:
    for label_set, classes in (("scannet20", {-1, 1, 4}), ("scannet200", {-1, 1, 2})):
        one = segmentation(dataset, label_set=label_set, crop_points=None)[0]
        assert one.segment is not None
        assert set(one.segment.tolist()) == classes
    with pytest.raises(DataError, match=r"no labels 's3dis'.*scannet20, scannet200"):
        segmentation(dataset, label_set="s3dis")


def test_an_evaluation_sample_goes_back_to_all_points(dataset: PreparedDataset) -> None:
    scene = dataset.scene(dataset.scene_names("val")[0])
    one = evaluation_sample(scene, grid_size=0.3, label_set="scannet20")
    assert one.segment is not None
    assert one.points.segment is not None
    assert one.segment.tolist() == scene.segments["scannet20"].tolist()
    assert one.inverse.shape == (len(scene),)
    assert np.abs(one.coord - one.points.coord[one.inverse]).max() < 0.3  # in the same voxel
    np.testing.assert_allclose(one.coord - one.coord[0], scene.coord - scene.coord[0], atol=1e-6)
    first = np.array([np.flatnonzero(one.inverse == voxel)[0] for voxel in range(len(one.points))])
    assert one.points.segment.tolist() == one.segment[first].tolist()
    hidden = evaluation_sample(dataset.scene(dataset.scene_names("test")[0]), grid_size=0.3, label_set="scannet20")
    assert (hidden.segment, hidden.points.segment) == (None, None)


@pytest.mark.parametrize("matrix", [None, geometry.scaling(0.95) @ geometry.rotation("z", np.pi / 2)])
def test_fragments_predict_every_point(dataset: PreparedDataset, matrix: Float64Array | None) -> None:
    scene = dataset.scene(dataset.scene_names("val")[0])
    parts = list(evaluation_fragments(scene, grid_size=0.3, label_set="scannet20", matrix=matrix))
    covered = np.bincount(np.concatenate([index for index, _ in parts]), minlength=len(scene))
    assert len(covered) == len(scene)
    assert covered.min() >= 1
    assert len(parts) > 1
    normal = scene.normal if matrix is None else geometry.move_normals(matrix, scene.normal)
    for index, points in parts:
        assert points.segment is not None
        assert points.segment.tolist() == scene.segments["scannet20"][index].tolist()
        assert (points.grid_coord == parts[0][1].grid_coord).all()  # one frame
        np.testing.assert_allclose(points.feat[:, :3], scene.color[index] / 127.5 - 1, atol=1e-6)
        np.testing.assert_allclose(points.feat[:, 3:], normal[index], atol=1e-6)
        np.testing.assert_allclose((points.coord.min(axis=0) + points.coord.max(axis=0))[:2], 0, atol=1e-6)
        edges = np.linalg.norm(np.diff(points.coord, axis=0), axis=1)
        scale = 1.0 if matrix is None else 0.95
        np.testing.assert_allclose(
            edges, scale * np.linalg.norm(np.diff(scene.coord[index], axis=0), axis=1), rtol=1e-5
        )
    with pytest.raises(DataError, match="no labels 's3dis'"):
        next(evaluation_fragments(scene, grid_size=0.3, label_set="s3dis"))


def test_a_share_of_the_voxels_is_cropped(dataset: PreparedDataset) -> None:
    off = SegmentationAugmentation()
    whole = segmentation(dataset, augmentation=off, crop_points=None)[0]
    cropped = segmentation(dataset, augmentation=off, crop_points=None, crop_share=0.8)[0]
    assert len(cropped) == int(0.8 * len(whole))
    for wrong in ({"crop_share": 0.5}, {"crop_points": None, "crop_share": 0.0}):
        with pytest.raises(InputError, match="crop_share"):
            segmentation(dataset, **wrong)


def test_an_anisotropic_scale_leaves_normals_alone(dataset: PreparedDataset) -> None:
    scaled = SegmentationAugmentation(scale=(0.5, 2.0), anisotropic=True)
    one = segmentation(dataset, augmentation=scaled, crop_points=None, grid_size=0.001)[0]
    scene = dataset.scene(one.name)
    ratio = np.ptp(one.coord, axis=0) / np.ptp(scene.coord, axis=0)
    assert len({round(float(value), 3) for value in ratio}) == 3
    assert ((ratio > 0.5) & (ratio < 2)).all()
    assert sorted(map(tuple, one.feat[:, 3:].tolist())) == sorted(map(tuple, scene.normal.tolist()))


def test_instances_come_along(dataset: PreparedDataset) -> None:
    one = segmentation(dataset, augmentation=SegmentationAugmentation(), crop_points=None, grid_size=0.001)[0]
    scene = dataset.scene(one.name)
    assert one.instance is not None
    assert scene.instance is not None
    both = {tuple(row) for row in np.stack([scene.instance, scene.segments["scannet20"]], axis=1).tolist()}
    assert one.segment is not None
    assert {tuple(row) for row in np.stack([one.instance, one.segment], axis=1).tolist()} == both
    assert one.instance.dtype == np.int64


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 30), crop=st.sampled_from([None, 25, 60]))
def test_labelled_points_survive_dropout_voxels_and_crop(
    dataset: PreparedDataset, seed: int, count: int, crop: int | None
) -> None:
    rng = np.random.default_rng(seed)
    heavy = replace(EVERYTHING, dropout_ratio=0.9, dropout_p=1.0, jitter_sigma=0.0, elastic_p=0.0)
    names = dataset.scene_names("train")
    ids = {name: rng.choice(dataset.point_count(name), count, replace=False) for name in names}
    chosen = segmentation(dataset, augmentation=heavy, labelled=ids, seed=seed, crop_points=crop, grid_size=0.01)
    for number in range(3):
        one = chosen[number]
        segment = dataset.scene(one.name).segments["scannet20"]
        assert one.segment is not None
        expected = segment[ids[one.name]]  # 1 cm voxels: each point in its own
        assert sorted(one.segment[one.segment >= 0].tolist()) == sorted(expected[expected >= 0].tolist())
        assert len(one) <= max(crop or len(segment), count)
        if crop is None:
            assert len(one) >= int(len(segment) * 0.1)


def test_one_of_the_labelled_points_of_a_voxel_stays(dataset: PreparedDataset) -> None:
    name = dataset.scene_names("train")[0]
    segment = dataset.scene(name).segments["scannet20"]
    named = np.flatnonzero(segment >= 0)[2::3]
    one = evaluation_sample(dataset.scene(name), grid_size=0.5, label_set="scannet20")
    with_label = np.unique(one.inverse[named])
    assert len(with_label) < len(named)  # some share a voxel
    for seed in range(5):
        samples = SegmentationSamples(
            dataset,
            [name],
            label_set="scannet20",
            grid_size=0.5,
            crop_points=None,
            augmentation=SegmentationAugmentation(),
            seed=seed,
            labelled={name: named},
        )
        found = samples[0]
        assert found.segment is not None
        assert len(found) == len(one.points)
        assert (found.segment >= 0).sum() == len(with_label)


def test_limited_annotations_that_do_not_fit_are_refused(dataset: PreparedDataset) -> None:
    names = dataset.scene_names("train")
    with pytest.raises(DataError, match=f"no scene '{names[-1]}'"):
        segmentation(dataset, labelled={name: np.array([0]) for name in names[:-1]})
    for wrong in (-1, 144):
        with pytest.raises(DataError, match=rf"scene '{names[0]}' name vertices .*; it has 144"):
            segmentation(dataset, labelled={name: np.array([3, wrong]) for name in names})
    repeated = dict.fromkeys(names, (7, 3, 7))
    kept = segmentation(dataset, labelled=repeated).labelled
    assert kept is not None
    assert {name: ids.tolist() for name, ids in kept.items()} == {name: [3, 7] for name in names}


def test_mixing_keeps_labelled_points(dataset: PreparedDataset) -> None:
    ids = {name: np.arange(5, 15) for name in dataset.scene_names("train")}
    off = SegmentationAugmentation()
    samples = segmentation(dataset, augmentation=off, crop_points=None, labelled=ids, grid_size=0.1)
    apart, mixed = (SegmentationBatches(samples, batch_size=2, mix3d_p=p)[0] for p in (0.0, 1.0))
    assert apart.segment is not None
    assert mixed.segment is not None
    wanted = {tuple(voxel) for voxel in apart.grid_coord[apart.segment >= 0].tolist()}
    assert {tuple(voxel) for voxel in mixed.grid_coord[mixed.segment >= 0].tolist()} == wanted


def depth_errors(one: PretrainSample) -> np.ndarray:
    """Measured depth minus the depth of the points, in units of the scene's scale, where a point is in a view."""
    errors = []
    for viewmat, K, depth in zip(
        one.views.viewmats.numpy(), one.views.Ks.numpy(), one.views.depths.numpy(), strict=True
    ):
        seen = one.points.coord @ viewmat[:3, :3].T + viewmat[:3, 3]
        u, v = (np.floor(K[axis, axis] * seen[:, axis] / seen[:, 2] + K[axis, 2]).astype(int) for axis in (0, 1))
        inside = (u >= 1) & (u < depth.shape[1] - 1) & (v >= 1) & (v < depth.shape[0] - 1)
        measured = depth[v[inside], u[inside]]
        errors.append((measured - seen[inside, 2])[measured > 0])
    return np.concatenate(errors)


def test_views_and_points_stay_together_under_augmentation(dataset: PreparedDataset) -> None:
    held_out = pretraining(dataset).heldout_views(dataset.scene_names("train")[0])
    # scene 0 is the sheet the frames were made from
    samples = PretrainSamples(
        dataset,
        dataset.scene_names("train")[:1],
        grid_size=0.02,
        mask_ratio=0.0,
        mask_block=0.0,
        views=5,
        view_size=(WIDTH, HEIGHT),
        holdout_every=0,
        augmentation=MOVED,
        seed=0,
    )
    for one in [held_out, *(samples[k] for k in range(6))]:
        errors = depth_errors(one)
        assert len(errors) > 70 * len(one.views.frame_ids)  # of 144 points; the sheet's edge is in no view
        assert np.abs(errors).max() < 0.04  # slope 0.4 over a pixel of 1 / 30 m, times a scale of 1.1, and a millimetre
        determinant = torch.linalg.det(one.views.viewmats[:, :3, :3])
        assert torch.allclose(determinant.abs(), torch.ones(()), atol=1e-5)


def test_resized_views_see_the_same(dataset: PreparedDataset) -> None:
    one = pretraining(dataset, view_size=(32, 24), holdout_every=2).heldout_views(dataset.scene_names("train")[0])
    assert one.views.colors.shape == (5, 24, 32, 3)
    assert np.abs(depth_errors(one)).max() < 0.06  # pixels of 1 / 15 m
    assert 0 <= one.views.colors.min() <= one.views.colors.max() <= 1


def test_held_out_frames_are_never_trained_on(dataset: PreparedDataset) -> None:
    samples = pretraining(dataset)
    trained = {frame for k in range(40) for frame in samples[k].views.frame_ids}
    assert samples.heldout_views("scene0000_00").views.frame_ids == (40, 90)
    assert trained == {0, 10, 20, 30, 50, 60, 70, 80}
    assert samples.heldout_views("scene0000_00", max_views=1).views.frame_ids == (40,)
    with pytest.raises(DataError, match="10 frames"):
        pretraining(dataset, holdout_every=11).heldout_views("scene0000_00")


def test_held_out_views_are_the_same_at_every_call(dataset: PreparedDataset) -> None:
    for masked in (False, True):
        first, second = (pretraining(dataset).heldout_views("scene0001_00", masked=masked) for _ in range(2))
        assert first.points.coord.tobytes() == second.points.coord.tobytes()
        assert torch.equal(first.views.viewmats, second.views.viewmats)
    whole = pretraining(dataset).heldout_views("scene0001_00").points
    assert len(whole) == 144
    assert len(first.points) == 72


def test_masking_drops_its_share_before_grid_sampling(dataset: PreparedDataset) -> None:
    assert len(pretraining(dataset, mask_ratio=0.25)[0].points) == 108  # 144 points, all in voxels of their own
    blocks = pretraining(dataset, mask_block=0.5, augmentation=GeometricAugmentation())[0].points
    assert 20 < len(blocks) < 124
    scene = dataset.scene(blocks.name)
    kept = {tuple(row) for row in np.round(blocks.feat, 4).tolist()}
    feat = np.concatenate([scene.color / np.float32(127.5) - 1, scene.normal], axis=1).astype(np.float32)
    is_kept = np.array([tuple(row) in kept for row in np.round(feat, 4).tolist()])
    block = np.floor((scene.coord - scene.coord.min(axis=0)) / 0.5).astype(int)
    for corner in np.unique(block, axis=0):
        inside = (block == corner).all(axis=1)
        assert is_kept[inside].all() or not is_kept[inside].any()


def test_a_pretraining_sample_depends_on_seed_and_number_alone(dataset: PreparedDataset) -> None:
    straight = [pretraining(dataset)[k] for k in range(4)]
    resumed = pickle.loads(pickle.dumps(pretraining(dataset)))
    for k in (3, 2):
        assert resumed[k].points.coord.tobytes() == straight[k].points.coord.tobytes()
        assert torch.equal(resumed[k].views.colors, straight[k].views.colors)
        assert resumed[k].views.frame_ids == straight[k].views.frame_ids
    assert len({one.views.frame_ids for one in straight}) > 1


def test_more_views_than_frames_repeat_some(dataset: PreparedDataset) -> None:
    assert len(set(pretraining(dataset, views=8)[0].views.frame_ids)) == 8
    assert pretraining(dataset, views=12)[0].views.colors.shape[0] == 12


def test_split_frames() -> None:
    assert split_frames(10, 5) == ([0, 1, 2, 3, 5, 6, 7, 8], [4, 9])
    assert split_frames(3, 0) == ([0, 1, 2], [])
    assert split_frames(3, 5) == ([0, 1, 2], [])
    with pytest.raises(InputError, match="at least 2"):
        split_frames(3, 1)


def test_what_cannot_be_sampled_is_refused(dataset: PreparedDataset, tmp_path: Path) -> None:
    empty = replace(dataset, manifest={**dataset.manifest, "splits": {"train": []}})
    for build in (segmentation, pretraining):
        with pytest.raises(DataError, match="No scene"):
            build(empty)
    unknown = replace(dataset, manifest={**dataset.manifest, "splits": {"train": ["elsewhere"]}})
    with pytest.raises(DataError, match="no scene 'elsewhere'"):
        segmentation(unknown)
    plain = prepare_scannet(write_scannet(tmp_path / "raw"), tmp_path / "out")
    with pytest.raises(DataError, match="0 RGB-D frames"):
        pretraining(plain)
    with pytest.raises(IndexError, match="start at 0"):
        segmentation(dataset)[-1]
