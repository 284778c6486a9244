"""Posed RGB-D frames: exported folders in, one Arrow file per scene out, decoded when asked for.

    <folder>/color/N.jpg (or .jpeg, .png)   <folder>/depth/N.png (uint16 millimetres)
    <folder>/pose/N.txt (camera-to-world 4x4)   <folder>/intrinsic/intrinsic_depth.txt or <folder>/intrinsics_depth.txt

N may have leading zeros (``scannet_frames_25k`` writes 000100.jpg). Recordings (`.sens`) are read by sens.py.

Intrinsics: ScanNet's files put pixel centres at whole numbers (its tools unproject with the bare pixel index); ours
lie at + 0.5, so the principal point is moved by half a pixel when a folder is read, and scales with the image from
then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from gcbench.data.arrow_files import read_table, view
from gcbench.data.frame_images import decode_color, decode_depth, encode_depth, fit_color, resize_nearest
from gcbench.errors import DataError, InputError
from gcbench.structures import Float64Array, Frame, Int32Array, UInt16Array

_RIGID_TOLERANCE = 0.02
_LARGEST_FOCAL = 1e6  # pixels
_CENTRE = (0.1, 0.9)  # where the principal point may lie, as a part of the image
_LARGEST_NUMBER = 2**31 - 1
_COLOR_SUFFIXES = (".jpg", ".jpeg", ".png")
_INTRINSIC_FILES = ("intrinsic/intrinsic_depth.txt", "intrinsics_depth.txt", "intrinsic_depth.txt")
_WINDOWS_NOT_FINITE = re.compile(r"-?\d\.#\w+")  # how older Windows compilers print infinity and NaN
_SCHEMA = pa.schema(
    {
        "index": pa.int32(),
        "color": pa.large_binary(),
        "depth": pa.large_binary(),
        "camera_to_world": pa.list_(pa.float64()),
        "intrinsic": pa.list_(pa.float64()),
        "width": pa.int32(),
        "height": pa.int32(),
    }
)


@dataclass(frozen=True)
class SceneFrames:
    """What was read of one scene's recording.

    Attributes:
        batch: Arrow record batch, one row per frame.
        dropped: numbers of the frames whose pose is unusable.
        reasons: why, one for each of `dropped`.
        recorded: frames the source has, read or not.
    """

    batch: Any
    dropped: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    recorded: int = 0

    def __len__(self) -> int:
        return int(self.batch.num_rows)


def read_exported_frames(folder: Path, *, every: int = 1, max_width: int | None = None) -> SceneFrames:
    """Read the RGB-D frames of one scene.

    Colour is resized to the depth image (as the paper's data is); images that already have their size are kept byte
    by byte. Frames whose pose is not finite or not rigid are dropped and counted.

    Args:
        folder: the scene's folder with `color`, `depth`, `pose` and `intrinsic`, as ScanNet's exporter writes it, or
            as in `scannet_frames_25k` (numbers with leading zeros, `intrinsics_depth.txt` beside the three folders).
        every: keep every n-th frame, in the order of their numbers.
        max_width: shrink wider images to this width (depth by nearest pixel), intrinsics with them.

    Raises:
        DataError: a file is missing or broken, or no frame has a usable pose; the file or folder is named.
        InputError: `every` or `max_width` is not positive.
    """
    check_options(every, max_width)
    depth_files, color_files, pose_files = (_numbered(folder / part) for part in ("depth", "color", "pose"))
    if not depth_files:
        raise DataError(f"{folder / 'depth'} has no PNG files.")
    intrinsic_file = _intrinsic_file(folder)
    rows = FrameRows(folder, intrinsic_file, read_matrix(intrinsic_file), max_width)
    for number in sorted(depth_files)[::every]:
        depth_file = depth_files[number]
        pose_file = pose_files.get(number, folder / "pose" / f"{depth_file.stem}.txt")
        pose = read_matrix(pose_file)
        if rows.drops(number, pose, pose_file):
            continue
        color_file = color_files.get(number, folder / "color" / f"{depth_file.stem}.jpg")
        png = _read(depth_file)
        rows.add(number, pose, decode_depth(png, depth_file), depth_file, _read(color_file), color_file, png=png)
    return rows.finish(recorded=len(depth_files))


class FrameRows:
    """Collects the frames of one scene: poses are checked, images brought to one size, intrinsics with them.

    Args:
        source: the folder or file the frames come from.
        intrinsic_source: the file of the intrinsics.
        intrinsic: [4, 4], of the depth camera, pixel centres at whole numbers.
        max_width: shrink wider images to this width.

    Raises:
        DataError: the intrinsics are not those of a camera.
    """

    def __init__(self, source: Path, intrinsic_source: Path, intrinsic: Float64Array, max_width: int | None) -> None:
        self._source, self._intrinsic_source, self._max_width = source, intrinsic_source, max_width
        self._intrinsic = _checked_intrinsic(intrinsic, intrinsic_source)
        self._full: tuple[int, int] | None = None
        self._rows: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
        self._dropped: list[tuple[int, str, object]] = []

    def drops(self, number: int, pose: Float64Array, where: object) -> bool:
        """Whether a frame is left out for its camera-to-world pose [4, 4]; it is counted."""
        defect = pose_defect(pose)
        if defect:
            self._dropped.append((number, defect, where))
        return bool(defect)

    def add(
        self,
        number: int,
        pose: Float64Array,
        depth: UInt16Array,
        depth_source: object,
        color: bytes,
        color_source: object,
        *,
        png: bytes | None = None,
    ) -> None:
        """Add a frame: depth [H, W] in millimetres (`png`: the same, encoded), colour as JPEG or PNG.

        Raises:
            DataError: the colour image is broken, or depth has another size than in the frames before.
        """
        full = (depth.shape[1], depth.shape[0])
        if self._full is None:
            self._check_centre(full)
            self._full = full
        elif full != self._full:
            raise DataError(
                f"{depth_source} is {full[0]} x {full[1]} pixels, the frames before it {self._full[0]} x "
                f"{self._full[1]}: one matrix of intrinsics cannot hold for both."
            )
        size = full if self._max_width is None or full[0] <= self._max_width else _fit(full, self._max_width)
        if size != full:
            depth, png = resize_nearest(depth, size), None
        self._rows["index"].append(number)
        self._rows["color"].append(fit_color(color, size, color_source))
        self._rows["depth"].append(encode_depth(depth) if png is None else png)
        self._rows["camera_to_world"].append(pose.reshape(-1))
        self._rows["intrinsic"].append(scale_intrinsic(self._intrinsic, full, size).reshape(-1))
        self._rows["width"].append(size[0])
        self._rows["height"].append(size[1])

    def finish(self, recorded: int) -> SceneFrames:
        """The frames that were added.

        Raises:
            DataError: every frame was dropped.
        """
        if self._dropped and not self._rows["index"]:
            _, reason, where = self._dropped[0]
            raise DataError(
                f"{self._source}: none of {len(self._dropped)} frames has a usable pose (first: {where}: {reason}).",
                "Leave this scene's frames out, or get them again.",
            )
        batch = pa.record_batch([pa.array(self._rows[field.name], field.type) for field in _SCHEMA], schema=_SCHEMA)
        numbers, reasons, _ = zip(*self._dropped, strict=True) if self._dropped else ((), (), ())
        return SceneFrames(batch, tuple(numbers), tuple(reasons), recorded)

    def _check_centre(self, full: tuple[int, int]) -> None:
        if any(not _CENTRE[0] < self._intrinsic[axis, 2] / full[axis] < _CENTRE[1] for axis in (0, 1)):
            at = ", ".join(f"{value:g}" for value in self._intrinsic[:2, 2])
            raise DataError(
                f"{self._intrinsic_source}: the principal point ({at}) is not near the middle of the depth images, "
                f"{full[0]} x {full[1]} pixels.",
                "If they were resized after the export, scale the matrix's first two rows with them.",
            )


def check_options(every: int, max_width: int | None) -> None:
    """Raises InputError if `every` or `max_width` is not positive."""
    for name, value in (("every", every), ("max_width", max_width)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, but must be at least 1.")


def pose_defect(pose: Float64Array) -> str:
    """Why a camera-to-world matrix [4, 4] is no pose; empty if it is one."""
    if not np.isfinite(pose).all():
        return "not finite"
    rotation = pose[:3, :3]
    if (
        np.abs(rotation).max() > 1 + _RIGID_TOLERANCE  # first: squares of huge numbers overflow
        or np.abs(rotation @ rotation.T - np.eye(3)).max() > _RIGID_TOLERANCE
        or np.linalg.det(rotation) < 0
    ):
        return "its 3 x 3 part is no rotation"
    if np.abs(pose[3] - (0, 0, 0, 1)).max() > _RIGID_TOLERANCE:
        return "its last row is not 0 0 0 1"
    return ""


def scale_intrinsic(intrinsic: Float64Array, old: tuple[int, int], new: tuple[int, int]) -> Float64Array:
    """Intrinsics [3, 3] of an image resized from `old` (width, height) to `new`; pixel centres at + 0.5."""
    factors = np.array([new[0] / old[0], new[1] / old[1], 1.0])
    return cast(Float64Array, intrinsic * factors[:, None])


def read_matrix(file: Path) -> Float64Array:
    """A text file of 4 x 4 numbers, which may be infinite or NaN.

    Raises:
        DataError: the file is missing or something else.
    """
    try:
        text = _WINDOWS_NOT_FINITE.sub("nan", _read(file).decode())
        matrix = np.array([line.split() for line in text.splitlines() if line.strip()], np.float64)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not a 4 x 4 matrix of numbers ({error}).") from error
    if matrix.shape != (4, 4):
        raise DataError(f"{file} is not a 4 x 4 matrix: it has shape {matrix.shape}.")
    return matrix


class FrameSequence:
    """The frames of one scene, decoded when asked for. Pickles to its path.

    Args:
        path: a frames file of a prepared dataset.

    Raises:
        DataError: on first use, when the file is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_table": None}

    def __len__(self) -> int:
        return int(self._rows().num_rows)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))

    @property
    def indices(self) -> tuple[int, ...]:
        """The frames' numbers in the recording."""
        return tuple(self._rows()["index"].to_pylist())

    def __getitem__(self, position: int) -> Frame:
        """The frame at a position, 0 .. len - 1, at its stored size."""
        return self._decode(position, None)

    def resized(self, position: int, size: tuple[int, int]) -> Frame:
        """The frame at (width, height): colour by area, depth by nearest pixel, intrinsics to match."""
        return self._decode(position, size)

    def cameras(self) -> tuple[Float64Array, Float64Array, Int32Array]:
        """camera_to_world [V, 4, 4], intrinsics [V, 3, 3] and (width, height) [V, 2] of all frames; decodes no image.

        Raises:
            DataError: a matrix has another size.
        """
        rows, count = self._rows(), len(self)
        poses, intrinsics = (rows[name].combine_chunks() for name in ("camera_to_world", "intrinsic"))
        for matrices, size in ((poses, 16), (intrinsics, 9)):
            if any(len(matrix) != size for matrix in matrices):
                raise DataError(
                    f"{self.path} is broken: its sizes contradict each other.", "Prepare the dataset again."
                )
        sizes = np.stack([view(rows[name].combine_chunks()) for name in ("width", "height")], axis=1)
        return view(poses.flatten()).reshape(count, 4, 4), view(intrinsics.flatten()).reshape(count, 3, 3), sizes

    def _rows(self) -> Any:
        if self._table is None:
            table = read_table(self.path)[0]
            if not table.schema.equals(_SCHEMA, check_metadata=False):
                raise DataError(f"{self.path} is not a file of RGB-D frames.", "Prepare the dataset again.")
            self._table = table
        return self._table

    def _decode(self, position: int, size: tuple[int, int] | None) -> Frame:
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, there is no frame {position}.")
        row = {name: self._rows()[name][position] for name in self._rows().column_names}
        full = (row["width"].as_py(), row["height"].as_py())
        where = f"{self.path}, frame {row['index'].as_py()}"
        depth = decode_depth(row["depth"].as_buffer(), where)
        pose, intrinsic = view(row["camera_to_world"].values), view(row["intrinsic"].values)
        if depth.shape != full[::-1] or len(pose) != 16 or len(intrinsic) != 9:
            raise DataError(f"{where} is broken: its sizes contradict each other.", "Prepare the dataset again.")
        size = size or full
        return Frame(
            index=row["index"].as_py(),
            color=decode_color(row["color"].as_buffer(), size, where),
            depth=depth if size == full else resize_nearest(depth, size),
            camera_to_world=pose.reshape(4, 4),
            intrinsic=scale_intrinsic(intrinsic.reshape(3, 3), full, size),
        )


def _numbered(folder: Path) -> dict[int, Path]:
    """The files of `color`, `depth` or `pose` by their numbers; hidden files and other kinds are passed over."""
    kinds = {"color": _COLOR_SUFFIXES, "depth": (".png",), "pose": (".txt",)}[folder.name]
    found: dict[int, Path] = {}
    for file in sorted(_listed(folder)):
        if file.name.startswith(".") or file.suffix.lower() not in kinds:
            continue
        if not (file.stem.isascii() and file.stem.isdigit()) or int(file.stem) > _LARGEST_NUMBER:
            raise DataError(f"{file}: a frame's file is called by its number, e.g. 120{file.suffix}.")
        other = found.setdefault(int(file.stem), file)
        if other.suffix.lower() == file.suffix.lower() and other != file:
            raise DataError(f"{other} and {file.name} are the same frame.", "Remove one of them.")
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{folder.parent} has no folder '{folder.name}'.", "Export color, depth, pose and intrinsic first."
        ) from error
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}).") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing: a frame needs colour, depth, pose and intrinsics.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error


def _intrinsic_file(folder: Path) -> Path:
    files = [folder / name for name in _INTRINSIC_FILES]
    return next((file for file in files if _exists(file)), files[0])


def _exists(file: Path) -> bool:
    """As Path.exists, but true where looking is forbidden: then reading says so."""
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _checked_intrinsic(intrinsic: Float64Array, where: Path) -> Float64Array:
    """[3, 3] with pixel centres at + 0.5."""
    matrix = intrinsic[:3, :3].copy()
    focal = np.diag(matrix)[:2]
    if not (
        (np.abs(intrinsic) < _LARGEST_FOCAL).all()  # false for NaN
        and (focal > 0).all()
        and (matrix[2] == (0, 0, 1)).all()
    ):
        raise DataError(
            f"{where}: these are no intrinsics of a depth camera: {matrix.tolist()}.",
            "Wanted are fx 0 cx, 0 fy cy, 0 0 1 in pixels.",
        )
    matrix[:2, 2] += 0.5
    return matrix


def _fit(full: tuple[int, int], max_width: int) -> tuple[int, int]:
    return max_width, max(round(full[1] * max_width / full[0]), 1)
