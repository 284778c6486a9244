"""Posed RGB-D frames: exported folders in, one Arrow file per scene out, decoded when asked for.

    <folder>/color/N.jpg (or .png)   <folder>/depth/N.png (uint16 millimetres)
    <folder>/pose/N.txt (camera-to-world 4x4)   <folder>/intrinsic/intrinsic_depth.txt

Intrinsics: ScanNet's files put pixel centres at whole numbers (its tools unproject with the bare pixel index); ours
lie at + 0.5, so the principal point is moved by half a pixel when a folder is read, and scales with the image from
then on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from gcbench.data.arrow_files import read_table
from gcbench.errors import DataError
from gcbench.structures import Float64Array, Frame, UInt8Array, UInt16Array

_JPEG_QUALITY = 95
_RIGID_TOLERANCE = 0.02


@dataclass(frozen=True)
class ExportedFrames:
    """What was read from an exported folder.

    Attributes:
        batch: Arrow record batch, one row per frame.
        dropped: numbers of the frames without a finite pose.
    """

    batch: Any
    dropped: tuple[int, ...]

    def __len__(self) -> int:
        return int(self.batch.num_rows)


def read_exported_frames(folder: Path, *, every: int = 1, max_width: int | None = None) -> ExportedFrames:
    """Read the RGB-D frames of one scene.

    Colour is resized to the depth image; images that already have their size are kept byte by byte.

    Args:
        folder: the scene's folder with `color`, `depth`, `pose` and `intrinsic`.
        every: keep every n-th frame, in the order of their numbers.
        max_width: shrink wider images to this width (depth by nearest pixel), intrinsics with them.

    Raises:
        DataError: a file is missing or broken; it is named.
    """
    numbers = _frame_numbers(folder)[::every]
    intrinsic = _read_matrix(folder / "intrinsic" / "intrinsic_depth.txt")[:3, :3]
    intrinsic[:2, 2] += 0.5
    rows: dict[str, list[Any]] = {
        key: [] for key in ("index", "color", "depth", "camera_to_world", "intrinsic", "width", "height")
    }
    dropped = []
    for number in numbers:
        pose_file = folder / "pose" / f"{number}.txt"
        pose = _read_matrix(pose_file)
        if not np.isfinite(pose).all():
            dropped.append(number)
            continue
        _check_rigid(pose, pose_file)
        depth_file = folder / "depth" / f"{number}.png"
        depth = _decode_depth(depth_file.read_bytes(), depth_file)
        full = (depth.shape[1], depth.shape[0])
        size = full if max_width is None or full[0] <= max_width else _fit(full, max_width)
        rows["index"].append(number)
        rows["color"].append(_color_bytes(_color_file(folder, number), size))
        rows["depth"].append(depth_file.read_bytes() if size == full else _encode_depth(resize_nearest(depth, size)))
        rows["camera_to_world"].append(pose.reshape(-1))
        rows["intrinsic"].append(scale_intrinsic(intrinsic, full, size).reshape(-1))
        rows["width"].append(size[0])
        rows["height"].append(size[1])
    return ExportedFrames(_record_batch(rows), tuple(dropped))


def scale_intrinsic(intrinsic: Float64Array, old: tuple[int, int], new: tuple[int, int]) -> Float64Array:
    """Intrinsics [3, 3] of an image resized from `old` (width, height) to `new`; pixel centres at + 0.5."""
    factors = np.array([new[0] / old[0], new[1] / old[1], 1.0])
    return cast(Float64Array, intrinsic * factors[:, None])


def resize_nearest(image: UInt16Array, size: tuple[int, int]) -> UInt16Array:
    """[H, W] resized to (width, height): each pixel takes the one its centre falls on."""
    rows = ((np.arange(size[1]) + 0.5) * image.shape[0] / size[1]).astype(np.int64)
    columns = ((np.arange(size[0]) + 0.5) * image.shape[1] / size[0]).astype(np.int64)
    return cast(UInt16Array, image[rows[:, None], columns])


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

    def _rows(self) -> Any:
        if self._table is None:
            self._table = read_table(self.path)[0]
        return self._table

    def _decode(self, position: int, size: tuple[int, int] | None) -> Frame:
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path} has {len(self)} frames, there is no frame {position}.")
        row = {name: self._rows()[name][position] for name in self._rows().column_names}
        full = (row["width"].as_py(), row["height"].as_py())
        size = size or full
        depth = _decode_depth(row["depth"].as_buffer(), self.path)
        color = _decode_color(row["color"].as_buffer(), self.path, size)
        intrinsic = row["intrinsic"].values.to_numpy().reshape(3, 3)
        return Frame(
            index=row["index"].as_py(),
            color=color,
            depth=depth if size == full else resize_nearest(depth, size),
            camera_to_world=row["camera_to_world"].values.to_numpy().reshape(4, 4),
            intrinsic=scale_intrinsic(intrinsic, full, size),
        )


def _record_batch(rows: dict[str, list[Any]]) -> Any:
    types = {
        "index": pa.int32(),
        "color": pa.large_binary(),
        "depth": pa.large_binary(),
        "camera_to_world": pa.list_(pa.float64()),
        "intrinsic": pa.list_(pa.float64()),
        "width": pa.int32(),
        "height": pa.int32(),
    }
    return pa.record_batch({name: pa.array(rows[name], type_) for name, type_ in types.items()})


def _frame_numbers(folder: Path) -> list[int]:
    for part in ("color", "depth", "pose"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder} has no folder '{part}'.", "Export color, depth, pose and intrinsic first.")
    files = sorted((folder / "depth").glob("*.png"))
    if not files:
        raise DataError(f"{folder / 'depth'} has no PNG files.")
    for file in files:
        if not file.stem.isdigit():
            raise DataError(f"{file}: a frame's file is called by its number, e.g. 120.png.")
    return sorted(int(file.stem) for file in files)


def _color_file(folder: Path, number: int) -> Path:
    for suffix in ("jpg", "png"):
        file = folder / "color" / f"{number}.{suffix}"
        if file.is_file():
            return file
    raise DataError(f"{folder / 'color' / str(number)}.jpg is missing: the frame has depth but no colour.")


def _read_matrix(file: Path) -> Float64Array:
    try:
        matrix = np.array([line.split() for line in file.read_text().splitlines() if line.strip()], np.float64)
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except ValueError as error:
        raise DataError(f"{file} is not a 4 x 4 matrix of numbers ({error}).") from error
    if matrix.shape != (4, 4):
        raise DataError(f"{file} is not a 4 x 4 matrix: it has shape {matrix.shape}.")
    return matrix


def _check_rigid(pose: Float64Array, file: Path) -> None:
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        raise DataError(f"{file} is not a camera-to-world pose: its 3 x 3 part is no rotation.")


def _fit(full: tuple[int, int], max_width: int) -> tuple[int, int]:
    return max_width, max(round(full[1] * max_width / full[0]), 1)


def _decode_depth(content: Any, file: Path) -> UInt16Array:
    try:
        with Image.open(io.BytesIO(content)) as image:
            depth = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{file}: the depth image is broken ({error}).") from error
    if depth.ndim != 2 or depth.dtype != np.uint16:
        raise DataError(f"{file}: depth must be one channel of 16 bits (millimetres).")
    return depth


def _encode_depth(depth: UInt16Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(depth).save(buffer, format="PNG")
    return buffer.getvalue()


def _color_bytes(file: Path, size: tuple[int, int]) -> bytes:
    content = file.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.size == size and image.mode == "RGB":
                return content
            resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{file}: the colour image is broken ({error}).") from error
    buffer = io.BytesIO()
    resized.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _decode_color(content: Any, file: Path, size: tuple[int, int]) -> UInt8Array:
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width % size[0] == 0 and image.height % size[1] == 0:
                image.draft("RGB", size)  # JPEG decodes straight to 1/2, 1/4 or 1/8, several times faster
            resized = image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(resized)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{file}: the colour image is broken ({error}).") from error
