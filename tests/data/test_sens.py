from __future__ import annotations

import contextlib
import errno
import io
import itertools
import math
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gcbench.data import sens
from gcbench.data.arrow_files import write_batch
from gcbench.data.frames import FrameSequence, SceneFrames, read_exported_frames
from gcbench.errors import DataError, GcbenchError, InputError
from tests.data.mutations import assert_survives
from tests.data.raw_folders import write_frames

WIDTH, HEIGHT = 32, 24
INTRINSIC = np.array([[30.0, 0, 15.5, 0], [0, 30.0, 11.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
LOST = np.full((4, 4), -np.inf)
Picture = tuple[NDArray[Any], bytes, bytes]  # camera-to-world [4, 4], colour and depth as in the file


def encode(
    frames: list[Picture],
    *,
    color: int = 2,
    depth: int = 1,
    color_size: tuple[int, int] = (WIDTH, HEIGHT),
    depth_size: tuple[int, int] = (WIDTH, HEIGHT),
    intrinsic: NDArray[Any] = INTRINSIC,
    shift: float = 1000.0,
    version: int = 4,
    count: int | None = None,
    tail: bytes = struct.pack("<Q", 1) + bytes(15 * 8 + 8),
) -> bytes:
    """A recording: header, frames, one frame of the motion sensor."""
    matrices = (np.eye(4), np.eye(4), intrinsic, np.eye(4))
    parts = [
        struct.pack("<IQ", version, 6) + b"Sensor",
        *(np.asarray(matrix, "<f4").tobytes() for matrix in matrices),
        struct.pack("<ii4IfQ", color, depth, *color_size, *depth_size, shift, len(frames) if count is None else count),
    ]
    for number, (pose, color_data, depth_data) in enumerate(frames):
        parts.append(np.asarray(pose, "<f4").tobytes())
        parts.append(struct.pack("<4Q", number * 33, number * 33 + 1, len(color_data), len(depth_data)))
        parts += [color_data, depth_data]
    return b"".join([*parts, tail])


def jpeg(value: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 2 * value, 3 * value)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def depths(seed: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 2**16, shape, np.uint16)


def pose(step: float = 0.0) -> NDArray[Any]:
    matrix = np.diag([1.0, -1.0, -1.0, 1.0])
    matrix[0, 3] = step
    return matrix


def pictures(count: int, lost: tuple[int, ...] = ()) -> list[Picture]:
    return [
        (LOST if k in lost else pose(0.1 * k), jpeg(k), zlib.compress(depths(k).tobytes(), 8)) for k in range(count)
    ]


def put(folder: Path, content: bytes) -> Path:
    file = folder / "scene0000_00.sens"
    file.write_bytes(content)
    return file


def stored(folder: Path, frames: SceneFrames) -> FrameSequence:
    write_batch(folder / "frames.arrow", frames.batch, {})
    return FrameSequence(folder / "frames.arrow")


def test_frames_are_what_was_recorded(tmp_path: Path) -> None:
    file = put(tmp_path, encode(pictures(4)))
    read = sens.read_sens(file, every=1)
    assert (read.dropped, read.reasons, read.recorded, len(read)) == ((), (), 4, 4)
    for number, frame in enumerate(stored(tmp_path, read)):
        assert frame.index == number
        assert (frame.depth == depths(number)).all()
        assert (frame.camera_to_world == np.float32(pose(0.1 * number))).all()
        assert frame.intrinsic.tolist() == [[30, 0, 16], [0, 30, 12], [0, 0, 1]]  # pixel centres at + 0.5
        assert read.batch["color"][number].as_py() == jpeg(number)  # its bytes are kept
        assert (frame.color == np.asarray(Image.open(io.BytesIO(jpeg(number))))).all()


def test_a_recording_reads_as_its_export(tmp_path: Path) -> None:
    """Both readers, the same frames: colour twice the size of depth, one lost pose, half the width."""
    folder = tmp_path / "scene0000_00"
    write_frames(folder, count=5, lost=(20,), color_size=2)
    frames = []
    for number in range(0, 50, 10):
        values = np.asarray(Image.open(folder / "depth" / f"{number}.png")).astype("<u2")
        matrix = np.loadtxt(folder / "pose" / f"{number}.txt")
        frames.append((matrix, (folder / "color" / f"{number}.jpg").read_bytes(), zlib.compress(values.tobytes())))
    intrinsic = np.loadtxt(folder / "intrinsic" / "intrinsic_depth.txt")
    file = put(tmp_path, encode(frames, color_size=(128, 96), depth_size=(64, 48), intrinsic=intrinsic))
    for max_width in (None, 32):
        exported = read_exported_frames(folder, max_width=max_width)
        recorded = sens.read_sens(file, every=1, max_width=max_width)
        assert exported.batch["index"].to_pylist() == [10 * k for k in recorded.batch["index"].to_pylist()]
        assert (exported.dropped, recorded.dropped, recorded.reasons) == ((20,), (2,), ("not finite",))
        for name in ("color", "intrinsic", "width", "height"):
            assert exported.batch[name].equals(recorded.batch[name])
        pairs = zip(stored(tmp_path, exported), stored(tmp_path / "sens", recorded), strict=True)
        for first, second in pairs:
            assert (first.depth == second.depth).all()
            np.testing.assert_allclose(first.camera_to_world, second.camera_to_world, atol=1e-6)


def test_every_takes_positions_in_the_recording(tmp_path: Path) -> None:
    file = put(tmp_path, encode(pictures(9, lost=(1, 4))))
    read = sens.read_sens(file, every=4)
    assert (read.batch["index"].to_pylist(), read.dropped, read.recorded) == ([0, 8], (4,), 9)
    assert sens.read_sens(file).batch["index"].to_pylist() == [0]
    assert sens.frame_count(file) == 9


def test_skipped_frames_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their images are a gigabyte of nothing, and so are those of a frame without a pose."""
    kept = (pose(), jpeg(1), zlib.compress(depths(0).tobytes()))
    file = put(tmp_path, encode([kept], count=11, tail=b""))
    first = file.stat().st_size
    with file.open("r+b") as stream:
        for number in range(1, 11):
            stream.seek(0, os.SEEK_END)
            stream.write(np.asarray(LOST if number == 10 else pose(), "<f4").tobytes())
            stream.write(struct.pack("<4Q", 0, 0, 1, 10**8))
            stream.truncate(stream.tell() + 10**8 + 1)
    counts, plain = [], sens._read
    monkeypatch.setattr(sens, "_read", lambda stream, count: counts.append(count) or plain(stream, count))
    read = sens.read_sens(file, every=10)
    assert (len(read), read.dropped) == (1, (10,))
    assert sum(counts) == first + 12 * 96  # 11 records on the first walk, of which 2 again


def test_colour_takes_the_size_of_depth(tmp_path: Path) -> None:
    big = (pose(), jpeg(40, (81, 60)), zlib.compress(depths(0).tobytes()))
    frame = stored(tmp_path, sens.read_sens(put(tmp_path, encode([big], color_size=(81, 60)))))[0]
    assert frame.color.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(frame.color.astype(int) - (40, 80, 120)).max() <= 3  # JPEG of a flat colour


def test_raw_images_are_lossless(tmp_path: Path) -> None:
    color = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    content = encode([(pose(), color.tobytes(), depths(1).tobytes())], color=0, depth=0)
    frame = stored(tmp_path, sens.read_sens(put(tmp_path, content)))[0]
    assert (frame.color == color).all()
    assert (frame.depth == depths(1)).all()


def test_png_colour_is_kept(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (1, 2, 3)).save(buffer, "PNG")
    content = encode([(pose(), buffer.getvalue(), zlib.compress(depths(1).tobytes()))], color=1)
    assert sens.read_sens(put(tmp_path, content)).batch["color"][0].as_py() == buffer.getvalue()


@pytest.mark.parametrize(
    ("shift", "units", "millimetres"),
    [
        (1000.0, [0, 1, 65535], [0, 1, 65535]),
        (5000.0, [0, 1, 2, 3, 5, 12, 13, 65535], [0, 0, 0, 1, 1, 2, 3, 13107]),
        (2000.0, [1, 3, 5, 7], [0, 2, 2, 4]),  # halves to even
        (500.0, [1, 32767, 32768, 65535], [2, 65534, 0, 0]),  # beyond 65535 mm nothing is measured
    ],
)
def test_depth_becomes_millimetres(tmp_path: Path, shift: float, units: list[int], millimetres: list[int]) -> None:
    values = np.zeros((HEIGHT, WIDTH), "<u2")
    values[0, : len(units)] = units
    content = encode([(pose(), jpeg(1), zlib.compress(values.tobytes()))], shift=shift)
    depth = stored(tmp_path, sens.read_sens(put(tmp_path, content)))[0].depth
    assert depth[0, : len(units)].tolist() == millimetres
    assert not depth[1:].any()


def test_frames_without_a_usable_pose_are_dropped_with_the_reason(tmp_path: Path) -> None:
    sheared, mirrored, open_row = pose(), np.eye(4), pose()
    sheared[0, 1], mirrored[2, 2], open_row[3, 0] = 0.3, -1, 1
    bad = [LOST, sheared, mirrored, np.zeros((4, 4)), open_row, np.full((4, 4), 1e38), np.full((4, 4), np.nan)]
    good = pictures(1)[0]
    file = put(tmp_path, encode([(matrix, b"", b"") for matrix in bad] + [good]))
    read = sens.read_sens(file, every=1)
    assert (read.batch["index"].to_pylist(), read.dropped) == ([7], tuple(range(7)))
    rotation, row = "its 3 x 3 part is no rotation", "its last row is not 0 0 0 1"
    assert read.reasons == ("not finite", rotation, rotation, rotation, row, rotation, "not finite")


def test_a_scene_without_any_pose_is_refused(tmp_path: Path) -> None:
    file = put(tmp_path, encode(pictures(3, lost=(0, 1, 2))))
    with pytest.raises(DataError, match=r"scene0000_00.sens: none of 3 frames has a usable pose.*not finite"):
        sens.read_sens(file, every=1)


def test_a_recording_cut_short_says_how_much_is_whole(tmp_path: Path) -> None:
    content = encode(pictures(4), tail=b"")
    two = len(encode(pictures(2), tail=b""))
    for length in (two, two + 50, two + 97, len(content) - 1):
        whole = 2 if length < len(content) - 1 else 3
        with pytest.raises(DataError, match=rf"scene0000_00.sens.*{whole} of 4 frames are whole.*Download it again"):
            sens.read_sens(put(tmp_path, content[:length]), every=4)
    assert len(sens.read_sens(put(tmp_path, content), every=1)) == 4  # without the motion sensor's frames it is whole


def bomb(factor: int) -> bytes:
    return zlib.compress(bytes(WIDTH * HEIGHT * 2 * factor), 9)


def with_sizes(color: int, depth: int) -> bytes:
    content = encode(pictures(1), tail=b"")
    at = len(encode([], tail=b"")) + 64 + 16
    return content[:at] + struct.pack("<QQ", color, depth) + content[at + 16 :]


def tilted(row: int, column: int, value: float) -> NDArray[Any]:
    matrix = INTRINSIC.copy()
    matrix[row, column] = value
    return matrix


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .sens file"),
        (b"ply\nformat ascii 1.0\n" * 20, "not a .sens file"),
        (encode(pictures(1), version=3), "not a .sens file of version 4"),
        (struct.pack("<IQ", 4, 2**63), "not a .sens file"),
        (encode([])[:200], "ends within its header"),
        (encode([]), "no frames"),
        (encode(pictures(2), count=2**63, tail=b""), f"2 of {2**63} frames are whole"),
        (with_sizes(2**60, 5), "0 of 1 frames are whole"),
        (with_sizes(5, 2**64 - 1), "0 of 1 frames are whole"),
        (encode(pictures(1), color=3), "compression 3 is not known"),
        (encode(pictures(1), depth=-1), "compression -1 is not known"),
        (encode(pictures(1), depth=2), "occi_ushort.*exported folders"),
        (encode(pictures(1), depth_size=(0, 24)), "depth images would be 0 x 24"),
        (encode(pictures(1), depth_size=(2**32 - 1, 2**32 - 1)), "depth images would be"),
        (encode(pictures(1), color_size=(32, 0)), "colour images would be 32 x 0"),
        (encode(pictures(1), shift=0.0), "depth shift"),
        (encode(pictures(1), shift=math.nan), "depth shift"),
        (encode(pictures(1), intrinsic=tilted(0, 0, 0)), "no intrinsics"),
        (encode(pictures(1), intrinsic=tilted(1, 1, -30)), "no intrinsics"),
        (encode(pictures(1), intrinsic=tilted(0, 2, math.nan)), "no intrinsics"),
        (encode(pictures(1), intrinsic=tilted(2, 2, 0)), "no intrinsics"),
        (encode(pictures(1), intrinsic=tilted(0, 2, 31.5)), "principal point .32, 12. is not near the middle"),
        (encode([(pose(), b"", bomb(1))]), "frame 0: 0 bytes are no colour image"),
        (encode([(pose(), jpeg(0), b"")]), "frame 0: 0 bytes are no depth image"),
        (encode([(pose(), jpeg(0)[:100], bomb(1))]), "frame 0: the colour image is broken"),
        (encode([(pose(), jpeg(0), bomb(1)[:-5])]), "frame 0: the depth image is broken"),
        (encode([(pose(), jpeg(0), bytes(99))]), "frame 0: the depth image is broken"),
        (encode([(pose(), jpeg(0), bomb(2))]), "frame 0: 1537 bytes are no depth image of 32 x 24"),
        (encode([(pose(), jpeg(0), bytes(1534))], depth=0), "frame 0: 1534 bytes are no depth image of 32 x 24"),
        (encode([(pose(), bytes(9), bomb(1))], color=0), "frame 0: 9 bytes are no colour image of 32 x 24"),
        (encode([(pose(), bytes(2**17), bomb(1))], color=0), "frame 0: 131072 bytes are no colour image"),
    ],
)
def test_a_damaged_recording_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"scene0000_00.sens.*{message}"):
        sens.read_sens(put(tmp_path, content), every=1)


def test_a_zlib_bomb_is_not_unpacked(tmp_path: Path) -> None:
    file = put(tmp_path, encode([(pose(), jpeg(0), bomb(2**14))]))  # 25 MB
    tracemalloc.start()
    with pytest.raises(DataError, match="1537 bytes"):
        sens.read_sens(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def forbidden(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none.sens is missing"):
        sens.read_sens(tmp_path / "none.sens")
    with pytest.raises(DataError, match="is not a file"):
        sens.frame_count(tmp_path)
    with pytest.raises(InputError, match="every is 0"):
        sens.read_sens(tmp_path / "none.sens", every=0)
    file = put(tmp_path, encode(pictures(1)))
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match=r"scene0000_00.sens cannot be read .Permission denied"):
        sens.read_sens(file)


def test_mutants_of_a_recording_are_read_or_refused(tmp_path: Path) -> None:
    content = encode(pictures(4))
    file = put(tmp_path, content)
    assert 150 < assert_survives(lambda: sens.read_sens(file, every=1), file, content, 400) < 400
    raw = encode([(pose(), bytes(WIDTH * HEIGHT * 3), depths(k).tobytes()) for k in range(4)], color=0, depth=0)
    assert_survives(lambda: sens.read_sens(file, every=2), file, raw, 200)


def test_odd_numbers_in_the_header_are_read_or_refused(tmp_path: Path) -> None:
    content = encode(pictures(2))
    first = len(encode([], tail=b""))
    at = range(0, first + 96, 4)  # every number, up to the first frame's data
    for place, value in itertools.product(at, (0, 1, 2**31, 2**32 - 1, 0x7FC00000, 0xFF800000)):
        file = put(tmp_path, content[:place] + struct.pack("<I", value) + content[place + 4 :])
        with contextlib.suppress(GcbenchError):
            assert len(sens.read_sens(file, every=1)) <= 2


@settings(max_examples=50, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from((0, 1)),
    level=st.integers(0, 9),
)
def test_depth_survives_every_size_and_compression(
    tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int], seed: int, kind: int, level: int
) -> None:
    width, height = size
    values = depths(seed, (height, width))
    data = zlib.compress(values.tobytes(), level) if kind else values.tobytes()
    intrinsic = np.array([[9.0, 0, width / 2 - 0.5, 0], [0, 9, height / 2 - 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    folder = tmp_path_factory.mktemp("depth")
    file = put(folder, encode([(pose(), jpeg(0, size), data)], depth=kind, depth_size=size, intrinsic=intrinsic))
    assert (stored(folder, sens.read_sens(file))[0].depth == values).all()
