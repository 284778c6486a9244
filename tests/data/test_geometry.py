"""The law of geometry.py: moved points in moved cameras fall on the same pixels, at depths times the scale."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcbench.data import geometry
from gcbench.data.transforms import GeometricAugmentation, random_similarity
from gcbench.errors import InputError
from gcbench.structures import Float64Array

angles = st.floats(-np.pi, np.pi)
centers = st.tuples(*[st.floats(-5, 5)] * 3).map(np.array)
moves = st.one_of(
    st.builds(geometry.rotation, st.sampled_from("xyz"), angles, st.none() | centers),
    st.builds(geometry.scaling, st.floats(0.5, 2.0)),
    st.builds(geometry.flip, st.booleans(), st.booleans()),
    st.builds(geometry.shift, centers),
)
similarities = st.lists(moves, max_size=6).map(lambda steps: reduce(np.matmul, steps, np.eye(4)))
seeds = st.integers(0, 2**32 - 1)


def camera(rng: np.random.Generator) -> Float64Array:
    """A rigid world-to-camera matrix."""
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    viewmat = np.eye(4)
    viewmat[:3, :3] = q * np.sign(np.linalg.det(q))
    viewmat[:3, 3] = rng.uniform(-2, 2, 3)
    return viewmat


def seen(viewmat: Float64Array, points: Float64Array) -> Float64Array:
    return points @ viewmat[:3, :3].T + viewmat[:3, 3]


@given(similarities, seeds)
def test_moved_points_stay_on_their_pixels(matrix: Float64Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    viewmat = camera(rng)
    before = rng.uniform([-1, -1, 0.5], [1, 1, 4], (50, 3))  # in front of the camera
    world = seen(np.asarray(np.linalg.inv(viewmat), np.float64), before)
    moved_camera = geometry.move_cameras(matrix, viewmat[None])[0]
    after = seen(moved_camera, world @ matrix[:3, :3].T + matrix[:3, 3])
    scale = geometry.scale_of(matrix)
    # float64 throughout; coordinates stay below about 1000 (six doublings of a few metres): 1e-9 is 1e4 roundings
    np.testing.assert_allclose(after[:, :2] / after[:, 2:], before[:, :2] / before[:, 2:], atol=1e-9)
    np.testing.assert_allclose(after[:, 2], scale * before[:, 2], rtol=1e-9)
    depths = geometry.move_depths(matrix, before[:, 2].astype(np.float32))
    np.testing.assert_allclose(depths, after[:, 2], rtol=1e-6)


ranges = st.tuples(st.floats(-180, 0), st.floats(0, 180))
augmentations = st.builds(
    GeometricAugmentation,
    rotate_z=ranges,
    rotate_z_p=st.just(1.0),
    rotate_xy=st.floats(0, 45).map(lambda limit: (-limit, limit)),
    rotate_xy_p=st.just(1.0),
    scale=st.tuples(st.floats(0.5, 1), st.floats(1, 2)),
    scale_p=st.just(1.0),
    flip_p=st.sampled_from([0.0, 0.5, 1.0]),
)


@given(augmentations, seeds)
def test_a_surface_point_stays_on_its_pixel_in_what_training_sees(
    augmentation: GeometricAugmentation, seed: int
) -> None:
    """Points, cameras and depths as float32, in a room of 8 x 6 x 3 m away from the origin, 640 x 480 pixels."""
    rng = np.random.default_rng(seed)
    room = rng.uniform([2, -1, 0.2], [10, 5, 3.2], (300, 3)).astype(np.float32)
    K = np.array([[577.9, 0, 319.5], [0, 578.7, 239.5], [0, 0, 1]])
    viewmat = camera(rng)
    viewmat[:3, 3] = -viewmat[:3, :3] @ rng.uniform([3, 0, 1], [9, 4, 2])  # the camera stands in the room
    before = seen(viewmat, room.astype(np.float64))
    pixels = (before @ K.T)[:, :2] / before[:, 2:]
    visible = (before[:, 2] > 0.5) & ((pixels >= 0) & (pixels < [640, 480])).all(axis=1)
    matrix = random_similarity(room, augmentation, rng)
    points = geometry.move_points(matrix, room)
    camera_after = geometry.move_cameras(matrix, viewmat[None])[0].astype(np.float32)
    depths = geometry.move_depths(matrix, before[:, 2].astype(np.float32))
    assert points.dtype == depths.dtype == np.float32
    after = seen(camera_after.astype(np.float64), points.astype(np.float64))
    moved_pixels = (after @ K.T)[:, :2] / after[:, 2:]
    # float32 points and cameras are right to 6e-7 m here; times a focal length of 578 pixels, over 0.5 m: 7e-4
    np.testing.assert_allclose(moved_pixels[visible], pixels[visible], rtol=0, atol=1e-3)
    scale = geometry.scale_of(matrix)
    assert augmentation.scale[0] - 1e-9 <= scale <= augmentation.scale[1] + 1e-9
    np.testing.assert_allclose(after[visible, 2], scale * before[visible, 2], rtol=0, atol=4e-6)
    np.testing.assert_allclose(depths, scale * before[:, 2], rtol=2e-7)


@given(st.floats(1.01, 3), st.integers(0, 2), seeds)
def test_cameras_refuse_what_is_no_similarity(factor: float, axis: int, seed: int) -> None:
    matrix = geometry.rotation("z", 0.3)
    matrix[:, axis] *= factor
    with pytest.raises(InputError, match="similarity"):
        geometry.move_cameras(matrix, camera(np.random.default_rng(seed))[None])


@given(similarities, seeds)
def test_moved_cameras_keep_an_orthogonal_part(matrix: Float64Array, seed: int) -> None:
    moved = geometry.move_cameras(matrix, camera(np.random.default_rng(seed))[None])[0]
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(moved[:3, :3]), np.sign(np.linalg.det(matrix[:3, :3])))
    assert moved[3].tolist() == [0, 0, 0, 1]


@given(similarities, seeds)
def test_normals_stay_unit_and_perpendicular_to_the_surface(matrix: Float64Array, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    edges = np.diff(corners, axis=0).astype(np.float64)
    normal = np.cross(*edges)
    normal /= max(np.linalg.norm(normal), 1e-3)
    moved = geometry.move_normals(matrix, np.stack([normal, np.zeros(3)]).astype(np.float32))
    moved_edges = edges @ matrix[:3, :3].T
    np.testing.assert_allclose(np.linalg.norm(moved[0]), np.linalg.norm(normal), atol=1e-5)
    np.testing.assert_allclose(moved_edges @ moved[0], 0, atol=1e-5 * geometry.scale_of(matrix) * 4)
    assert moved[1].tolist() == [0, 0, 0]


@given(st.sampled_from("xyz"), angles, centers)
def test_a_rotation_turns_about_its_centre(axis: str, angle: float, center: Float64Array) -> None:
    matrix = geometry.rotation(axis, angle, center)  # type: ignore[arg-type]
    along = np.eye(3)["xyz".index(axis)]
    np.testing.assert_allclose(matrix[:3, :3] @ (center + along) + matrix[:3, 3], center + along, atol=1e-9)
    assert np.isclose(np.linalg.det(matrix), 1)


def test_a_quarter_turn_goes_from_x_to_y_to_z() -> None:
    for axis, start, end in (("z", 0, 1), ("x", 1, 2), ("y", 2, 0)):
        turned = geometry.rotation(axis, np.pi / 2)[:3, :3] @ np.eye(3)[start]  # type: ignore[arg-type]
        np.testing.assert_allclose(turned, np.eye(3)[end], atol=1e-15)
