from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import interpolate, ndimage

from gcbench.data import geometry, transforms
from gcbench.structures import Float32Array

seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, count: int = 400) -> Float32Array:
    return np.random.default_rng(seed).uniform([-1, 2, 0.3], [3, 5, 2.5], (count, 3)).astype(np.float32)


@given(seeds, st.booleans())
def test_centre_shift_puts_the_box_where_it_says(seed: int, apply_z: bool) -> None:
    coord = cloud(seed)
    moved = geometry.move_points(transforms.center_shift(coord, apply_z=apply_z), coord)
    low, high = moved.min(axis=0), moved.max(axis=0)
    np.testing.assert_allclose((low + high)[:2], 0, atol=1e-6)
    np.testing.assert_allclose(low[2], 0 if apply_z else coord[:, 2].min(), atol=1e-6)


@given(seeds)
def test_a_random_similarity_stays_in_its_ranges(seed: int) -> None:
    coord = cloud(seed)
    augmentation = transforms.GeometricAugmentation((-180, 180), 1.0, (-3, 3), 1.0, (0.9, 1.1), 1.0, 0.5)
    matrix = transforms.random_similarity(coord, augmentation, np.random.default_rng(seed))
    scale = geometry.scale_of(matrix)
    assert 0.9 <= scale <= 1.1
    tilt = np.rad2deg(np.arccos(np.clip(matrix[2, 2] / scale, -1, 1)))
    assert tilt <= np.hypot(3, 3) + 1e-6
    assert np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, scale**2 * np.eye(3))


def test_no_augmentation_is_a_centre_shift() -> None:
    coord = cloud(0)
    matrix = transforms.random_similarity(coord, transforms.GeometricAugmentation(), np.random.default_rng(0))
    assert matrix.tolist() == transforms.center_shift(coord, apply_z=True).tolist()


def test_every_part_of_the_geometric_augmentation_acts() -> None:
    coord, found = cloud(0), set()
    augmentation = transforms.GeometricAugmentation(flip_p=0.5)
    for seed in range(50):
        linear = transforms.random_similarity(coord, augmentation, np.random.default_rng(seed))[:3, :3]
        found.add(tuple(np.diag(linear)))
    assert found == {(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)}
    turned = transforms.GeometricAugmentation(rotate_z=(30, 30), rotate_z_p=1.0, scale=(2, 2), scale_p=1.0)
    linear = transforms.random_similarity(coord, turned, np.random.default_rng(0))[:3, :3]
    np.testing.assert_allclose(linear, 2 * geometry.rotation("z", np.pi / 6)[:3, :3])


def test_x_and_y_turn_about_the_scenes_centre() -> None:
    coord = cloud(0)
    tilted = transforms.GeometricAugmentation(rotate_xy=(10, 10), rotate_xy_p=1.0)
    matrix = transforms.random_similarity(coord, tilted, np.random.default_rng(0))
    shifted = geometry.move_points(transforms.center_shift(coord, apply_z=True), coord)
    center = (coord.min(axis=0) + coord.max(axis=0)).astype(np.float64) / 2
    middle = (shifted.min(axis=0) + shifted.max(axis=0)) / 2
    np.testing.assert_allclose(matrix[:3, :3] @ center + matrix[:3, 3], middle, atol=1e-5)


@given(st.integers(1, 500), st.floats(0, 0.99), seeds)
def test_dropout_keeps_its_share(count: int, ratio: float, seed: int) -> None:
    kept = transforms.dropout(count, ratio=ratio, rng=np.random.default_rng(seed))
    assert len(kept) == max(count - round(count * ratio), 1)
    assert (np.diff(kept) > 0).all()
    assert kept.min() >= 0
    assert kept.max() < count


def test_block_dropout_drops_whole_blocks() -> None:
    coord = cloud(0, 5000)
    kept = transforms.block_dropout(coord, ratio=0.5, block_size=0.5, rng=np.random.default_rng(0))
    blocks = [tuple(block) for block in np.floor((coord - coord.min(axis=0)) / 0.5).astype(int)]
    kept_blocks = {blocks[index] for index in kept}
    assert len(kept) == sum(block in kept_blocks for block in blocks)
    assert len(kept_blocks) == pytest.approx(len(set(blocks)) / 2, abs=1)


@given(seeds)
def test_jitter_is_clipped(seed: int) -> None:
    coord = np.zeros((1000, 3), np.float32)
    moved = transforms.jitter(coord, sigma=0.01, clip=0.015, rng=np.random.default_rng(seed))
    assert np.abs(moved).max() <= np.float32(0.015)
    assert 0.007 < moved.std() < 0.01  # clipped at 1.5 sigma: 0.0087


def test_elastic_distortion_equals_its_slow_twin() -> None:
    """The twin: separable box filters and a grid interpolator, in double precision."""
    coord, granularity, magnitude = cloud(3), 0.4, 1.6
    rng = np.random.default_rng(5)
    low = coord.min(axis=0)
    shape = ((coord.max(axis=0) - low) // granularity).astype(int) + 3
    axes = [low[d] - granularity + granularity * np.arange(shape[d]) for d in range(3)]
    expected = coord.astype(np.float64)
    for d in range(3):
        noise = rng.standard_normal(tuple(shape), dtype=np.float32).astype(np.float64)
        for _ in range(2):
            for axis in range(3):
                noise = ndimage.uniform_filter1d(noise, 3, axis=axis, mode="constant")
        expected[:, d] += magnitude * interpolate.RegularGridInterpolator(axes, noise)(coord)
    actual = transforms.elastic_distortion(
        coord, granularity=granularity, magnitude=magnitude, rng=np.random.default_rng(5)
    )
    assert np.abs(actual - coord).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=2e-5)  # float32 noise and positions on a grid of 0.4 m


def test_auto_contrast() -> None:
    color = np.array([[50, 0, 10], [150, 255, 10]], np.float32)
    assert transforms.auto_contrast(color, blend=1.0).tolist() == [[0, 0, 0], [255, 255, 0]]
    assert transforms.auto_contrast(color, blend=0.0).tolist() == color.tolist()


@given(seeds)
def test_colours_stay_in_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    color = rng.integers(0, 256, (200, 3)).astype(np.float32)
    augmentation = transforms.SegmentationAugmentation(
        auto_contrast_p=0.5,
        color_translation_p=1.0,
        color_translation_ratio=0.5,
        color_jitter_p=1.0,
        color_jitter_std=0.2,
    )
    changed = transforms.augment_color(color, augmentation, rng)
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    assert (changed != color).any()
    shifted = transforms.color_translation(np.full((9, 3), 128, np.float32), ratio=0.05, rng=rng)
    assert (shifted == shifted[0]).all()
    assert np.abs(shifted - 128).max() <= 12.75


def test_no_colour_augmentation_changes_nothing() -> None:
    color = np.random.default_rng(0).uniform(0, 255, (50, 3)).astype(np.float32)
    off = transforms.SegmentationAugmentation()
    assert transforms.augment_color(color, off, np.random.default_rng(0)).tolist() == color.tolist()


@given(seeds, st.integers(1, 500))
def test_a_sphere_crop_takes_the_nearest(seed: int, points: int) -> None:
    coord = cloud(seed)
    kept = transforms.sphere_crop(coord, points=points, rng=np.random.default_rng(seed))
    assert len(kept) == min(points, len(coord))
    assert len(set(kept.tolist())) == len(kept)
    if points < len(coord):
        center = coord[np.random.default_rng(seed).integers(len(coord))]
        distance = np.square(coord - center).sum(axis=1)
        assert distance[kept].max() <= np.delete(distance, kept).min()
