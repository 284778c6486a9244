from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcbench.data.arrow_files import write_batch
from gcbench.data.frames import FrameSequence, read_exported_frames, resize_nearest, scale_intrinsic
from gcbench.errors import DataError
from tests.data.raw_folders import FOCAL, HEIGHT, WIDTH, sheet, write_frames


def stored(folder: Path, **options: int) -> FrameSequence:
    write_batch(folder / "frames.arrow", read_exported_frames(folder, **options).batch, {})
    return FrameSequence(folder / "frames.arrow")


def test_depth_agrees_with_the_points_it_was_made_from(tmp_path: Path) -> None:
    write_frames(tmp_path, count=3)
    points, _ = sheet(side=40)
    points = points[np.abs(points[:, :2]).max(axis=1) < 0.9]  # beyond its edge nothing is measured
    for frame in stored(tmp_path):
        seen = np.linalg.inv(frame.camera_to_world)[:3] @ np.vstack([points.T, np.ones(len(points))])
        u, v, _ = np.floor(frame.intrinsic @ seen / seen[2]).astype(int)  # pixel (0, 0) reaches from 0 to 1
        inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
        assert inside.sum() > 500
        error = frame.depth[v[inside], u[inside]] / 1000 - seen[2, inside]
        assert np.abs(error).max() < 0.03  # slope 0.4 over half a pixel of 1 / 30 m, and a millimetre


def test_the_principal_point_moves_to_pixel_centres_at_one_half(tmp_path: Path) -> None:
    write_frames(tmp_path, count=1)
    assert stored(tmp_path)[0].intrinsic.tolist() == [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]


def test_images_of_the_right_size_are_kept_byte_by_byte(tmp_path: Path) -> None:
    write_frames(tmp_path, count=1)
    batch = read_exported_frames(tmp_path).batch
    assert batch["color"][0].as_py() == (tmp_path / "color" / "0.jpg").read_bytes()
    assert batch["depth"][0].as_py() == (tmp_path / "depth" / "0.png").read_bytes()


def test_colour_takes_the_size_of_depth(tmp_path: Path) -> None:
    write_frames(tmp_path, count=2, color_size=2)
    frame = stored(tmp_path)[1]
    assert frame.color.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(frame.color.astype(int) - 20).max() <= 2  # JPEG of a flat colour


def test_max_width_shrinks_everything_together(tmp_path: Path) -> None:
    write_frames(tmp_path, count=1)
    frame = stored(tmp_path, max_width=32)[0]
    assert (frame.color.shape, frame.depth.shape) == ((24, 32, 3), (24, 32))
    assert frame.intrinsic.tolist() == [[FOCAL / 2, 0, 16], [0, FOCAL / 2, 12], [0, 0, 1]]
    assert read_exported_frames(tmp_path, max_width=640).batch["width"].to_pylist() == [WIDTH]


def test_frames_without_a_finite_pose_are_dropped_and_named(tmp_path: Path) -> None:
    write_frames(tmp_path, count=5, lost=(10, 30))
    exported = read_exported_frames(tmp_path)
    assert (exported.dropped, len(exported)) == ((10, 30), 3)


def test_every_takes_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_frames(tmp_path, count=12)
    assert stored(tmp_path, every=4).indices == (0, 40, 80)
    assert stored(tmp_path).indices == tuple(range(0, 120, 10))  # not 0, 10, 100, 110, 20, ...


def test_a_sequence_pickles_to_its_path(tmp_path: Path) -> None:
    write_frames(tmp_path, count=2)
    frames = stored(tmp_path)
    assert len(frames) == 2
    pickled = pickle.dumps(frames)
    assert len(pickled) < 500
    assert (pickle.loads(pickled)[1].depth == frames[1].depth).all()
    with pytest.raises(IndexError, match="2 frames"):
        frames[2]


def test_a_resized_view_sees_the_same_directions(tmp_path: Path) -> None:
    write_frames(tmp_path, count=1)
    full, small = stored(tmp_path)[0], stored(tmp_path).resized(0, (32, 16))
    assert (small.color.shape, small.depth.shape) == ((16, 32, 3), (16, 32))
    corner = np.array([WIDTH, HEIGHT, 1.0])  # the image's lower right edge, in pixels
    np.testing.assert_allclose(
        np.linalg.inv(full.intrinsic) @ corner, np.linalg.inv(small.intrinsic) @ [32, 16, 1], atol=1e-12
    )


def test_nearest_takes_the_pixel_under_the_centre() -> None:
    image = np.arange(48, dtype=np.uint16).reshape(6, 8)
    assert resize_nearest(image, (8, 6)).tolist() == image.tolist()
    assert resize_nearest(image, (4, 2)).tolist() == [[9, 11, 13, 15], [33, 35, 37, 39]]
    assert resize_nearest(image, (16, 6))[0].tolist() == np.repeat(image[0], 2).tolist()


def test_scaled_intrinsics_project_to_scaled_pixels() -> None:
    intrinsic = np.array([[500.0, 0, 320], [0, 480.0, 250], [0, 0, 1]])
    scaled = scale_intrinsic(intrinsic, (640, 480), (160, 240))
    point = np.array([0.3, -0.2, 1.7])
    (u, v, w), (su, sv, sw) = intrinsic @ point, scaled @ point
    assert (su / sw, sv / sw) == pytest.approx((u / w / 4, v / w / 2))


def break_depth(folder: Path) -> None:
    (folder / "depth" / "0.png").write_bytes((folder / "depth" / "0.png").read_bytes()[:60])


def eight_bit_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "depth" / "0.png")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_depth, "depth.0.png.*broken"),
        (eight_bit_depth, "depth.0.png.*16 bits"),
        (lambda folder: (folder / "color" / "0.jpg").write_bytes(b"\xff\xd8"), "color.0.jpg.*broken"),
        (lambda folder: (folder / "color" / "0.jpg").unlink(), "color.0.jpg is missing"),
        (lambda folder: (folder / "pose" / "0.txt").unlink(), "pose.0.txt is missing"),
        (lambda folder: (folder / "pose" / "0.txt").write_text("1 0 0\n"), "pose.0.txt is not a 4 x 4"),
        (lambda folder: np.savetxt(folder / "pose" / "0.txt", np.diag([2, 1, 1, 1])), "pose.0.txt.*no rotation"),
        (lambda folder: (folder / "intrinsic" / "intrinsic_depth.txt").write_text("a b"), "intrinsic_depth.txt"),
        (lambda folder: (folder / "depth" / "0.png").rename(folder / "depth" / "first.png"), "first.png.*number"),
        (lambda folder: (folder / "depth" / "0.png").unlink(), "no PNG files"),
        (lambda folder: (folder / "pose").rename(folder / "poses"), "no folder 'pose'"),
    ],
)
def test_a_damaged_export_is_named(tmp_path: Path, damage, named: str) -> None:  # type: ignore[no-untyped-def]
    write_frames(tmp_path, count=1)
    damage(tmp_path)
    with pytest.raises(DataError, match=named):
        read_exported_frames(tmp_path)
