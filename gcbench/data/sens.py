"""ScanNet's recordings (`.sens`, version 4): posed RGB-D frames straight from the file.

The layout is that of ScanNet's SensReader (sensorData.h, SensorData.py), little-endian, without padding:

    uint32 version   uint64 + name of the sensor   4 x float32[4, 4]: intrinsics and extrinsics of colour, then depth
    int32 colour compression, int32 depth compression   uint32 width, height of colour, then depth
    float32 depth shift (units per metre)   uint64 frames
    per frame: float32[4, 4] camera-to-world, uint64 time of colour, of depth, uint64 bytes of colour, of depth, data
    (motion sensor data, which is not read: a file cut there is whole)

Files are streamed: only the 96-byte record of every frame and the data of the frames kept are read. Extrinsics are
ignored, as in exported folders.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np

from gcbench.data.frame_images import MAX_PIXELS, encode_color
from gcbench.data.frames import FrameRows, SceneFrames, check_options
from gcbench.errors import DataError
from gcbench.structures import Float64Array, UInt16Array

_VERSION = 4
_LONGEST_NAME = 2**16
_START = struct.Struct("<IQ")
_REST = struct.Struct("<64f2i4IfQ")
_RECORD = struct.Struct("<16f4Q")
_RAW_COLOR, _COLOR_KINDS = 0, {0: "raw", 1: "png", 2: "jpeg"}
_RAW_DEPTH, _ZLIB_DEPTH, _DEPTH_KINDS = 0, 1, {0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_MILLIMETRES = 1000.0
_SLACK = 2**16  # bytes a compressed image may be larger than its pixels
_AGAIN = "Download it again."


@dataclass(frozen=True)
class SensHeader:
    """What a recording says of itself.

    Attributes:
        intrinsic: [4, 4] float64 of the depth camera, pixels, pixel centres at whole numbers.
        color_kind: ``"raw"``, ``"png"`` or ``"jpeg"``.
        depth_kind: ``"raw_ushort"`` or ``"zlib_ushort"``.
        color_size: (width, height).
        depth_size: (width, height).
        depth_shift: depth units per metre.
        frames: how many there should be.
        end: where the first frame begins, bytes.
    """

    intrinsic: Float64Array
    color_kind: str
    depth_kind: str
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    frames: int
    end: int


def read_sens(file: Path, *, every: int = 10, max_width: int | None = None) -> SceneFrames:
    """Read every n-th frame of a recording; a frame's number is its position in it.

    Colour is resized to the depth camera; a JPEG or PNG that has its size already is kept byte by byte. Depth is
    stored in millimetres: where the recording's unit is another it is rounded to the nearest millimetre, halves to
    even, and what exceeds 65535 mm becomes 0, no measurement. Frames whose pose is not finite or not rigid are
    dropped and counted; their images are not read. Poses and intrinsics are the file's float32; exported text files
    carry six decimals of them.

    Args:
        file: the recording.
        every: keep the frames 0, n, 2n, ...
        max_width: shrink wider images to this width (depth by nearest pixel), intrinsics with them.

    Raises:
        DataError: the file is missing, no recording, cut short or broken, or no frame has a usable pose.
        InputError: `every` or `max_width` is not positive.
    """
    check_options(every, max_width)
    with _opened(file) as stream:
        header = _read_header(stream, file)
        rows = FrameRows(file, file, header.intrinsic, max_width)
        for number, start in _find(stream, header, file, every):
            stream.seek(start)
            where = f"{file}, frame {number}"
            pose, color_bytes, depth_bytes = _record(_read(stream, _RECORD.size))
            if rows.drops(number, pose, where):
                continue
            _check_bytes("colour", color_bytes, 4, header.color_size, where)
            _check_bytes("depth", depth_bytes, 2, header.depth_size, where)
            color, depth = _read(stream, color_bytes), _read(stream, depth_bytes)
            if header.color_kind == _COLOR_KINDS[_RAW_COLOR]:
                color = _raw_color(color, header.color_size, where)
            rows.add(number, pose, _depth(depth, header, where), where, color, where)
        return rows.finish(recorded=header.frames)


def read_header(file: Path) -> SensHeader:
    """The header of a recording: a few hundred bytes are read, whatever the file's size.

    Raises:
        DataError: the file is missing, no recording, or of a kind that cannot be read.
    """
    with _opened(file) as stream:
        return _read_header(stream, file)


def frame_count(file: Path) -> int:
    """The number of frames that a recording's header promises. Raises as `read_header`."""
    return read_header(file).frames


def _read_header(stream: IO[bytes], file: Path) -> SensHeader:
    start = _read(stream, _START.size)
    version, name_bytes = _START.unpack(start) if len(start) == _START.size else (None, 0)
    if version != _VERSION or name_bytes > _LONGEST_NAME:
        raise DataError(f"{file} is not a .sens file of version {_VERSION}.", _AGAIN)
    _read(stream, name_bytes)
    rest = _read(stream, _REST.size)
    if len(rest) < _REST.size:
        raise DataError(f"{file} is cut short: it ends within its header.", _AGAIN)
    *matrices, color, depth, color_width, color_height, depth_width, depth_height, shift, frames = _REST.unpack(rest)
    for kind, known in ((color, _COLOR_KINDS), (depth, _DEPTH_KINDS)):
        if kind not in known:
            raise DataError(f"{file}: compression {kind} is not known, only {known}.", _AGAIN)
    if depth not in (_RAW_DEPTH, _ZLIB_DEPTH):
        raise DataError(
            f"{file} stores depth as {_DEPTH_KINDS[depth]}, which only its recorder reads.",
            "Export its frames with ScanNet's SensReader and give the exported folders instead.",
        )
    for what, width, height in (("colour", color_width, color_height), ("depth", depth_width, depth_height)):
        if not 0 < width * height <= MAX_PIXELS:
            raise DataError(f"{file}: its {what} images would be {width} x {height} pixels.", _AGAIN)
    if not (np.isfinite(shift) and shift > 0):
        raise DataError(f"{file}: its depth shift is {shift}, but must be positive.", _AGAIN)
    if frames == 0:
        raise DataError(f"{file} has no frames.", _AGAIN)
    return SensHeader(
        intrinsic=np.array(matrices[32:48], np.float64).reshape(4, 4),
        color_kind=_COLOR_KINDS[color],
        depth_kind=_DEPTH_KINDS[depth],
        color_size=(color_width, color_height),
        depth_size=(depth_width, depth_height),
        depth_shift=shift,
        frames=frames,
        end=stream.tell(),
    )


def _find(stream: IO[bytes], header: SensHeader, file: Path, every: int) -> list[tuple[int, int]]:
    """Number and place of every n-th frame, after a walk over all of them: nothing is decoded of a file cut short."""
    size = os.fstat(stream.fileno()).st_size
    kept, at = [], header.end
    for number in range(header.frames):
        stream.seek(at)
        record = _read(stream, _RECORD.size)
        if len(record) == _RECORD.size:
            _, color_bytes, depth_bytes = _record(record)
            end = at + _RECORD.size + color_bytes + depth_bytes
        if len(record) < _RECORD.size or end > size:
            raise DataError(
                f"{file} is cut short or damaged: {number} of {header.frames} frames are whole.",
                f"{_AGAIN} It has {size} bytes.",
            )
        if number % every == 0:
            kept.append((number, at))
        at = end
    return kept


def _record(record: bytes) -> tuple[Float64Array, int, int]:
    """Pose [4, 4], bytes of colour, bytes of depth."""
    values = _RECORD.unpack(record)
    return np.array(values[:16], np.float64).reshape(4, 4), values[18], values[19]


def _check_bytes(what: str, count: int, per_pixel: int, size: tuple[int, int], where: str) -> None:
    if not 0 < count <= per_pixel * size[0] * size[1] + _SLACK:
        raise DataError(f"{where}: {count} bytes are no {what} image of {size[0]} x {size[1]} pixels.", _AGAIN)


def _depth(content: bytes, header: SensHeader, where: str) -> UInt16Array:
    """[H, W] uint16, millimetres."""
    width, height = header.depth_size
    if header.depth_kind == _DEPTH_KINDS[_ZLIB_DEPTH]:
        content = _inflate(content, width * height * 2, where)
    if len(content) != width * height * 2:
        raise DataError(f"{where}: {len(content)} bytes are no depth image of {width} x {height} pixels.", _AGAIN)
    depth = np.frombuffer(content, "<u2").reshape(height, width).astype(np.uint16, copy=False)
    return depth if header.depth_shift == _MILLIMETRES else _millimetres(depth, header.depth_shift)


def _inflate(content: bytes, count: int, where: str) -> bytes:
    """`count` bytes of a zlib stream; one of more is not unpacked further than one byte beyond."""
    stream = zlib.decompressobj()
    try:
        inflated = stream.decompress(content, count + 1)
    except zlib.error as error:
        raise DataError(f"{where}: the depth image is broken ({error}).", _AGAIN) from error
    if len(inflated) == count and not stream.eof:
        raise DataError(f"{where}: the depth image is broken (its end is missing).", _AGAIN)
    return inflated


def _millimetres(depth: UInt16Array, shift: float) -> UInt16Array:
    values = np.rint(depth * _MILLIMETRES / shift)
    return cast(UInt16Array, np.where(values < 2**16, values, 0).astype(np.uint16))


def _raw_color(content: bytes, size: tuple[int, int], where: str) -> bytes:
    if len(content) != size[0] * size[1] * 3:
        raise DataError(f"{where}: {len(content)} bytes are no colour image of {size[0]} x {size[1]} pixels.", _AGAIN)
    return encode_color(np.frombuffer(content, np.uint8).reshape(size[1], size[0], 3))


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    try:
        if file.exists() and not file.is_file():
            raise DataError(f"{file} is not a file.")
        with file.open("rb", buffering=0) as stream:  # unbuffered: a skipped frame costs its record alone
            yield stream
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).", _AGAIN) from error


def _read(stream: IO[bytes], count: int) -> bytes:
    """`count` bytes, fewer only at the file's end."""
    parts = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
