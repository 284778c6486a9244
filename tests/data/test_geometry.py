"""The law of geometry.py: moved points in moved cameras fall on the same pixels, at depths times the scale."""

from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gcbench.data import geometry
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
    world = seen(np.linalg.inv(viewmat), before)
    moved_camera = geometry.move_cameras(matrix, viewmat[None])[0]
    after = seen(moved_camera, world @ matrix[:3, :3].T + matrix[:3, 3])
    scale = geometry.scale_of(matrix)
    # float64 throughout; coordinates stay below about 1000 (six doublings of a few metres): 1e-9 is 1e4 roundings
    np.testing.assert_allclose(after[:, :2] / after[:, 2:], before[:, :2] / before[:, 2:], atol=1e-9)
    np.testing.assert_allclose(after[:, 2], scale * before[:, 2], rtol=1e-9)
    depths = geometry.move_depths(matrix, before[:, 2].astype(np.float32))
    np.testing.assert_allclose(depths, after[:, 2], rtol=1e-6)


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
