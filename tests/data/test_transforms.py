from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.data import geometry, transforms
from gcbench.errors import InputError
from gcbench.structures import Float32Array, Float64Array

seeds = st.integers(0, 2**32 - 1)


def cloud(seed: int, count: int = 400) -> Float32Array:
    return np.random.default_rng(seed).uniform([-1, 2, 0.3], [3, 5, 2.5], (count, 3)).astype(np.float32)


def one_by_one(matrix: Float64Array, coord: Float32Array) -> Float32Array:
    """The twin of `move_points`: Python floats, point by point, rounded once."""
    rows = [
        [sum(m * c for m, c in zip(row[:3], point, strict=True)) + row[3] for row in matrix[:3].tolist()]
        for point in coord.tolist()
    ]
    return np.array(rows).astype(np.float32)


@given(seeds, st.booleans())
def test_a_centre_shift_is_a_float32_subtraction(seed: int, apply_z: bool) -> None:
    coord = cloud(seed)
    moved = geometry.move_points(transforms.center_shift(coord, apply_z=apply_z), coord)
    low, high = coord.min(axis=0), coord.max(axis=0)
    center = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2] if apply_z else 0], np.float32)
    assert moved.tolist() == (coord - center).tolist()


@given(seeds, st.tuples(*[st.booleans()] * 3))
def test_a_random_similarity_is_the_chain_of_its_steps(seed: int, turns: tuple[bool, bool, bool]) -> None:
    """The twin: every step on the points themselves, x and y about the centre of the box of the points as they lie."""
    z, xy = float(turns[0]), float(turns[1])
    settings = transforms.GeometricAugmentation((-180, 180), z, (-30, 30), xy, (0.5, 2), float(turns[2]), 0.5)
    coord = cloud(seed)
    matrix = transforms.random_similarity(coord, settings, np.random.default_rng(seed))
    rng, points = np.random.default_rng(seed), coord.astype(np.float64)
    low, high = coord.min(axis=0), coord.max(axis=0)
    points -= [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]
    for axis, (limits, p) in enumerate((((-180, 180), z), ((-30, 30), xy), ((-30, 30), xy))):
        if rng.random() < p:
            cos, sin = _cos_sin(rng, limits)
            turn = {
                0: np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
                1: np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]),
                2: np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]),
            }[axis]
            center = (points.min(axis=0) + points.max(axis=0)) / 2 if axis else np.zeros(3)
            points = (points - center) @ turn.T + center
    if rng.random() < float(turns[2]):
        points *= rng.uniform(0.5, 2)
    flips = rng.random(2) < 0.5
    points[:, :2] *= np.where(flips, -1, 1)
    # float64 throughout, coordinates below 20 m: 1e-12; the float32 results differ by a rounding at most
    np.testing.assert_allclose(coord @ matrix[:3, :3].T + matrix[:3, 3], points, rtol=0, atol=1e-12)
    np.testing.assert_allclose(geometry.move_points(matrix, coord), points.astype(np.float32), rtol=2e-7, atol=1e-12)


def _cos_sin(rng: np.random.Generator, limits: tuple[float, float]) -> tuple[float, float]:
    angle = np.deg2rad(rng.uniform(*limits))
    return float(np.cos(angle)), float(np.sin(angle))


@given(seeds)
def test_points_move_as_one_by_one_in_any_memory_order(seed: int) -> None:
    coord = cloud(seed, 50)
    everything = transforms.GeometricAugmentation((-180, 180), 1.0, (-3, 3), 1.0, (0.9, 1.1), 1.0, 0.5)
    matrix = transforms.random_similarity(coord, everything, np.random.default_rng(seed))
    expected = one_by_one(matrix, coord)
    for given_coord in (coord, np.asfortranarray(coord)):
        moved = geometry.move_points(matrix, given_coord)
        assert moved.tolist() == expected.tolist()
        assert moved.flags.f_contiguous == given_coord.flags.f_contiguous


def test_the_origin_of_a_similarity_can_be_that_of_the_whole_scene() -> None:
    coord = cloud(0)
    origin = transforms.center_shift(coord, apply_z=True)
    off = transforms.GeometricAugmentation()
    matrix = transforms.random_similarity(coord[:20], off, np.random.default_rng(0), origin=origin)
    assert matrix.tolist() == origin.tolist()


def test_an_anisotropic_scale_is_one_factor_per_axis_and_no_similarity() -> None:
    matrix = transforms.anisotropic_scale((0.9, 1.1), np.random.default_rng(0))
    factors = np.diag(matrix)[:3]
    assert len(set(factors.tolist())) == 3
    assert ((factors >= 0.9) & (factors <= 1.1)).all()
    assert (matrix == np.diag([*factors, 1])).all()
    with pytest.raises(InputError, match="anisotropic"):
        geometry.move_cameras(matrix, np.eye(4)[None])
    assert transforms.SegmentationAugmentation(anisotropic=True, scale=(0.9, 1.1)).geometric.scale_p == 0


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
    corners = np.array([[x, y, z] for x in (-1, 3) for y in (2, 5) for z in (0.3, 2.5)], np.float32)
    tilted = transforms.GeometricAugmentation(rotate_xy=(10, 10), rotate_xy_p=1.0)
    matrix = transforms.random_similarity(corners, tilted, np.random.default_rng(0))
    moved = geometry.move_points(matrix, corners)  # a box turns about its own middle, whichever way it lies
    np.testing.assert_allclose(moved.mean(axis=0), [0, 0, 1.1], atol=1e-6)
    assert not np.allclose(moved, geometry.move_points(transforms.center_shift(corners, apply_z=True), corners))


@given(st.integers(1, 500), st.floats(0, 0.99), seeds)
def test_dropout_keeps_its_share(count: int, ratio: float, seed: int) -> None:
    kept = transforms.dropout(count, ratio=ratio, rng=np.random.default_rng(seed))
    assert len(kept) == max(int(count * (1 - ratio)), 1)
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
def test_jitter_and_colour_jitter_are_clipped_noise(seed: int) -> None:
    coord = cloud(seed)
    noise = np.random.default_rng(seed).standard_normal((3, len(coord)), dtype=np.float32).T
    moved = transforms.jitter(coord, sigma=0.005, clip=0.007, rng=np.random.default_rng(seed))
    assert moved.tolist() == (coord + np.clip(np.float32(0.005) * noise, -0.007, 0.007, dtype=np.float32)).tolist()
    color = coord * 50
    changed = transforms.color_jitter(color, std=0.05, rng=np.random.default_rng(seed))
    assert changed.tolist() == np.clip(color + np.float32(0.05 * 255) * noise, 0, 255).tolist()


@given(seeds)
def test_jitter_is_clipped(seed: int) -> None:
    coord = np.zeros((1000, 3), np.float32)
    moved = transforms.jitter(coord, sigma=0.01, clip=0.015, rng=np.random.default_rng(seed))
    assert np.abs(moved).max() <= np.float32(0.015)
    assert 0.007 < moved.std() < 0.01  # clipped at 1.5 sigma: 0.0087


@given(seeds, st.floats(0, 1), st.integers(0, 3))
def test_auto_contrast_equals_its_slow_twin(seed: int, blend: float, constant: int) -> None:
    color = np.random.default_rng(seed).integers(30, 200, (40, 3)).astype(np.float32)
    color[:, :constant] = 77
    bounds = geometry.bounds(color)
    changed = transforms.auto_contrast(color, bounds, blend=blend)
    if constant == 3:
        assert changed.tolist() == color.tolist()
        return
    for channel in range(3):
        low, high = float(color[:, channel].min()), float(color[:, channel].max())
        scale = 255 / (high - low) if high > low else 1.0
        expected = [(1 - blend) * float(value) + blend * (float(value) - low) * scale for value in color[:, channel]]
        np.testing.assert_allclose(changed[:, channel], expected, rtol=1e-5, atol=1e-4)  # of 255, in float32


def test_auto_contrast() -> None:
    color = np.array([[50, 0, 10], [150, 255, 10]], np.float32)
    bounds = geometry.bounds(color)
    assert transforms.auto_contrast(color, bounds, blend=1.0).tolist() == [[0, 0, 0], [255, 255, 0]]
    assert transforms.auto_contrast(color, bounds, blend=0.0).tolist() == color.tolist()


def test_auto_contrast_stretches_between_the_extremes_of_all_colours() -> None:
    color = np.array([[0, 0, 0], [100, 100, 100], [200, 200, 200]], np.uint8)
    always = transforms.SegmentationAugmentation(auto_contrast_p=1.0)
    kept = np.array([1])
    for seed in range(5):
        found = transforms.augment_color(color, kept, always, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        rng.random()  # the decision
        np.testing.assert_allclose(found[0], 100 + rng.random() * 27.5, rtol=1e-5)


@given(seeds)
def test_colours_stay_in_range(seed: int) -> None:
    rng = np.random.default_rng(seed)
    color = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    augmentation = transforms.SegmentationAugmentation(
        auto_contrast_p=0.5,
        color_translation_p=1.0,
        color_translation_ratio=0.5,
        color_jitter_p=1.0,
        color_jitter_std=0.2,
    )
    changed = transforms.augment_color(color, np.arange(200), augmentation, rng)
    assert changed.dtype == np.float32
    assert 0 <= changed.min() <= changed.max() <= 255
    assert (changed != color).any()
    shifted = transforms.color_translation(np.full((9, 3), 128, np.float32), ratio=0.05, rng=rng)
    assert (shifted == shifted[0]).all()
    assert np.abs(shifted - 128).max() <= 12.75


def test_no_colour_augmentation_changes_nothing() -> None:
    color = np.random.default_rng(0).integers(0, 256, (50, 3)).astype(np.uint8)
    off, index = transforms.SegmentationAugmentation(), np.arange(50)[::-2]
    assert transforms.augment_color(color, index, off, np.random.default_rng(0)).tolist() == color[index].tolist()


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


@given(seeds, st.integers(1, 300), st.integers(0, 60))
def test_a_sphere_crop_never_drops_what_must_stay(seed: int, points: int, wanted: int) -> None:
    coord = cloud(seed)
    always = np.random.default_rng(seed + 1).choice(len(coord), wanted, replace=False)
    kept = transforms.sphere_crop(coord, points=points, rng=np.random.default_rng(seed), always=always)
    assert set(always.tolist()) <= set(kept.tolist())
    assert len(set(kept.tolist())) == len(kept) == max(points, wanted)
    center = coord[np.random.default_rng(seed).integers(len(coord))]
    distance = np.square(coord - center).sum(axis=1)
    others = np.setdiff1d(kept, always)
    left_out = np.setdiff1d(np.arange(len(coord)), kept)
    assert not len(others) or distance[others].max() <= distance[left_out].min()  # and the nearest of the others


def test_a_sphere_crop_keeps_all_where_all_must_stay() -> None:
    coord = cloud(0, 30)
    kept = transforms.sphere_crop(coord, points=3, rng=np.random.default_rng(0), always=np.arange(30))
    assert kept.tolist() == list(range(30))
