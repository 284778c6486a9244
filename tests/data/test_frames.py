from __future__ import annotations

import errno
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gcbench.data.arrow_files import write_batch
from gcbench.data.frame_images import decode_depth, depth_values, encode_depth, fit_color, resize_nearest
from gcbench.data.frames import FrameSequence, read_exported_frames, scale_intrinsic
from gcbench.errors import DataError, InputError
from tests.data.mutations import assert_survives
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
    assert (exported.dropped, len(exported), exported.recorded) == ((10, 30), 3, 5)
    assert exported.reasons == ("not finite", "not finite")


def test_frames_with_a_pose_that_is_not_rigid_are_dropped(tmp_path: Path) -> None:
    write_frames(tmp_path, count=4)
    (tmp_path / "pose" / "10.txt").write_text("2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    (tmp_path / "pose" / "20.txt").write_text("-1.#INF 1.#QNAN -1.#IND 0\n" * 4)  # older Windows programs
    exported = read_exported_frames(tmp_path)
    assert (exported.dropped, exported.reasons) == ((10, 20), ("its 3 x 3 part is no rotation", "not finite"))


def test_a_scene_without_any_pose_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, count=2, lost=(0, 10))
    with pytest.raises(
        DataError, match=rf"{tmp_path.name}: none of 2 frames has a usable pose .first: .*0.txt: not fin"
    ):
        read_exported_frames(tmp_path)


def test_every_and_max_width_are_positive(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every is 0"):
        read_exported_frames(tmp_path, every=0)
    with pytest.raises(InputError, match="max_width is -1"):
        read_exported_frames(tmp_path, max_width=-1)


def test_the_layout_of_the_25k_frames_reads_the_same(tmp_path: Path) -> None:
    """Numbers with leading zeros, larger colour, intrinsics beside the folders, labels that nobody asked for."""
    write_frames(tmp_path / "a", count=3, color_size=2)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for part in ("color", "depth", "pose"):
        for file in (tmp_path / "b" / part).iterdir():
            file.rename(file.with_name(f"{int(file.stem):06d}{file.suffix}"))
    (tmp_path / "b" / "intrinsic" / "intrinsic_depth.txt").rename(tmp_path / "b" / "intrinsics_depth.txt")
    (tmp_path / "b" / "intrinsic").rmdir()
    (tmp_path / "b" / "label").mkdir()
    (tmp_path / "b" / "depth" / "._000000.png").write_bytes(b"what an archive from a Mac leaves")
    first, second = (read_exported_frames(tmp_path / name) for name in "ab")
    assert first.batch.equals(second.batch)
    (tmp_path / "b" / "pose" / "000010.txt").unlink()
    with pytest.raises(DataError, match=r"pose.000010.txt is missing"):
        read_exported_frames(tmp_path / "b")


def test_one_matrix_does_not_hold_for_two_sizes(tmp_path: Path) -> None:
    write_frames(tmp_path, count=2)
    Image.fromarray(np.ones((24, 32), np.uint16)).save(tmp_path / "depth" / "10.png")
    with pytest.raises(DataError, match=r"depth.10.png is 32 x 24 pixels, the frames before it 64 x 48"):
        read_exported_frames(tmp_path)


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


matrices = st.builds(
    lambda fx, fy, x, y: np.array([[fx, 0, x], [0, fy, y], [0, 0, 1]]),
    *[st.floats(50, 2000)] * 2,
    *[st.floats(0, 1000)] * 2,
)
sizes = st.tuples(st.integers(1, 2000), st.integers(1, 2000))


@settings(deadline=None)
@given(intrinsic=matrices, old=sizes, new=sizes, seed=st.integers(0, 2**32 - 1))
def test_a_point_falls_on_the_same_part_of_an_image_of_any_size(intrinsic, old, new, seed) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    camera_to_world = np.eye(4)
    camera_to_world[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    camera_to_world[:3, 3] = rng.normal(size=3)
    seen = np.append(rng.normal(size=2), rng.uniform(0.1, 10))
    world = camera_to_world @ np.append(seen, 1)
    camera = (np.linalg.inv(camera_to_world) @ world)[:3]
    first, second = intrinsic @ camera, scale_intrinsic(intrinsic, old, new) @ camera
    np.testing.assert_allclose(first[:2] / first[2] / old, second[:2] / second[2] / new, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(intrinsic=matrices, full=st.tuples(st.integers(1, 60), st.integers(1, 60)), factor=st.integers(1, 5))
def test_depth_shrunk_is_measured_on_the_ray_of_its_pixel(intrinsic, full, factor) -> None:  # type: ignore[no-untyped-def]
    """What the small image holds was measured within half a large pixel of the centre of the small one's."""
    size = tuple(max(side // factor, 1) for side in full)
    rows, columns = np.mgrid[: full[1], : full[0]]
    numbered = (rows * full[0] + columns).astype(np.uint16)
    taken = resize_nearest(numbered, size).astype(int)
    scaled = scale_intrinsic(intrinsic, full, size)
    for axis, (places, side) in enumerate(((taken % full[0], size[0]), (taken // full[0], size[1]))):
        centre = (np.arange(side) + 0.5 - scaled[axis, 2]) / scaled[axis, axis]
        found = (places + 0.5 - intrinsic[axis, 2]) / intrinsic[axis, axis]
        apart = np.abs(found - (centre if axis == 0 else centre[:, None])) * intrinsic[axis, axis]
        assert apart.max() <= 0.5 + 1e-6


def test_depth_survives_for_every_value() -> None:
    depth = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    for values in (depth, depth.T, depth[::-1, ::3], depth[:1], depth[:, :1]):
        assert (decode_depth(encode_depth(values), "depth") == values).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_depth_is_read_whatever_mode_pillow_opens_it_in(mode: str) -> None:
    depth = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "=i4"}[mode]
    values = depth_values(Image.frombytes(mode, (256, 256), depth.astype(kind).tobytes()))
    assert values is not None
    assert (values.dtype, values.dtype.isnative) == (np.uint16, True)
    assert (values == depth).all()


def test_depth_out_of_range_is_none() -> None:
    for value in (-1, 2**16):
        assert depth_values(Image.new("I", (2, 2), value)) is None
    assert depth_values(Image.new("L", (2, 2))) is None


def test_a_grey_or_translucent_colour_image_becomes_rgb(tmp_path: Path) -> None:
    for mode in ("L", "LA", "RGBA", "P"):
        Image.new(mode, (8, 6)).save(tmp_path / "0.png")
        stored_image = fit_color((tmp_path / "0.png").read_bytes(), (8, 6), "0.png")
        (tmp_path / "1.jpg").write_bytes(stored_image)
        with Image.open(tmp_path / "1.jpg") as image:
            assert (image.mode, image.size) == ("RGB", (8, 6))


DAMAGED: dict[str, Callable[[Path], Path]] = {
    "pose": lambda folder: folder / "pose" / "10.txt",
    "intrinsics": lambda folder: folder / "intrinsic" / "intrinsic_depth.txt",
    "colour": lambda folder: folder / "color" / "10.jpg",
    "depth": lambda folder: folder / "depth" / "10.png",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_mutants_of_an_export_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    write_frames(tmp_path, count=2)
    file = DAMAGED[kind](tmp_path)
    assert assert_survives(lambda: read_exported_frames(tmp_path), file, file.read_bytes(), 250) > 20


def test_mutants_of_png_colour_are_read_or_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, count=1)
    file = tmp_path / "color" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).save(file)
    (tmp_path / "color" / "0.jpg").unlink()
    assert assert_survives(lambda: read_exported_frames(tmp_path), file, file.read_bytes(), 250) > 20


def test_mutants_of_stored_frames_are_read_or_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, count=2)
    stored(tmp_path, max_width=16)
    file = tmp_path / "frames.arrow"
    assert assert_survives(lambda: list(FrameSequence(file)), file, file.read_bytes(), 250) > 20


def test_another_table_is_not_taken_for_frames(tmp_path: Path) -> None:
    write_batch(tmp_path / "frames.arrow", pa.record_batch({"index": pa.array([1, 2])}), {})
    with pytest.raises(DataError, match=r"frames.arrow is not a file of RGB-D frames"):
        len(FrameSequence(tmp_path / "frames.arrow"))


def forbidden(*_: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize(("method", "named"), [("read_bytes", "intrinsic_depth.txt"), ("iterdir", "depth")])
def test_what_must_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, named: str
) -> None:
    write_frames(tmp_path, count=1)
    monkeypatch.setattr(Path, method, forbidden)
    with pytest.raises(DataError, match=rf"{named} cannot be read .Permission denied"):
        read_exported_frames(tmp_path)


def break_depth(folder: Path) -> None:
    (folder / "depth" / "0.png").write_bytes((folder / "depth" / "0.png").read_bytes()[:60])


def eight_bit_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "depth" / "0.png")


def replace_by_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def intrinsics(folder: Path, row: int, column: int, value: float) -> None:
    file = folder / "intrinsic" / "intrinsic_depth.txt"
    matrix = np.loadtxt(file)
    matrix[row, column] = value
    np.savetxt(file, matrix)


def huge(file: Path) -> None:
    """A tiny PNG whose header claims 81 million pixels: fewer than Pillow refuses or warns of."""
    size = struct.pack(">IIBBBBB", 9000, 9000, 16, 0, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_depth, "depth.0.png.*broken"),
        (eight_bit_depth, "depth.0.png.*16 bits"),
        (lambda folder: (folder / "color" / "0.jpg").write_bytes(b"\xff\xd8"), "color.0.jpg.*broken"),
        (lambda folder: (folder / "color" / "0.jpg").unlink(), "color.0.jpg is missing"),
        (lambda folder: (folder / "pose" / "0.txt").unlink(), "pose.0.txt is missing"),
        (lambda folder: (folder / "pose" / "0.txt").write_text("1 0 0\n"), "pose.0.txt is not a 4 x 4"),
        (
            lambda folder: np.savetxt(folder / "pose" / "0.txt", np.diag([2, 1, 1, 1])),
            "none of 1 .*0.txt: .*no rotation",
        ),
        (lambda folder: (folder / "pose" / "0.txt").write_bytes(b"\xff\xfe1 0 0 0"), "pose.0.txt is not a 4 x 4"),
        (lambda folder: replace_by_folder(folder / "pose" / "0.txt"), "pose.0.txt cannot be read"),
        (lambda folder: replace_by_folder(folder / "depth" / "0.png"), "depth.0.png cannot be read"),
        (lambda folder: intrinsics(folder, 0, 0, 0.0), "intrinsic_depth.txt.*no intrinsics"),
        (lambda folder: intrinsics(folder, 1, 1, -60.0), "intrinsic_depth.txt.*no intrinsics"),
        (lambda folder: intrinsics(folder, 0, 2, np.nan), "intrinsic_depth.txt.*no intrinsics"),
        (lambda folder: intrinsics(folder, 0, 0, np.inf), "intrinsic_depth.txt.*no intrinsics"),
        (lambda folder: intrinsics(folder, 0, 2, 63.5), "principal point .64, 24. is not near the middle.*64 x 48"),
        (lambda folder: (folder / "intrinsic" / "intrinsic_depth.txt").unlink(), "intrinsic_depth.txt is missing"),
        (lambda folder: (folder / "depth" / "0.png").rename(folder / "depth" / "²³.png"), "number"),
        (lambda folder: (folder / "depth" / "0.png").rename(folder / "depth" / f"{2**31}.png"), "number"),
        (lambda folder: shutil.copy(folder / "depth" / "0.png", folder / "depth" / "000.png"), "are the same frame"),
        (lambda folder: huge(folder / "depth" / "0.png"), "depth.0.png.*9000 x 9000 pixels are more"),
        (lambda folder: huge(folder / "color" / "0.jpg"), "color.0.jpg.*9000 x 9000 pixels are more"),
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


def test_cameras_are_those_of_the_frames(tmp_path: Path) -> None:
    write_frames(tmp_path, count=3)
    frames = stored(tmp_path)
    poses, intrinsics, sizes = frames.cameras()
    for position, frame in enumerate(frames):
        assert np.array_equal(poses[position], frame.camera_to_world)
        assert np.array_equal(intrinsics[position], frame.intrinsic)
        assert tuple(sizes[position]) == frame.color.shape[1::-1]
