"""Reads the triangles of Wavefront OBJ files, also of a gigabyte: `v` and `f` lines; everything else is passed over."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import DataError
from gcbench.structures import Float32Array, Int32Array, Int64Array

_BLOCK = 16 * 2**20
_VERTEX = re.compile(rb"^[ \t]*v[ \t]+([^\r\n]*)", re.MULTILINE)
_FACE = re.compile(rb"^[ \t]*f[ \t]+([^\r\n]*)", re.MULTILINE)
_TEXTURE = re.compile(rb"/[^\s]*")


def read_obj(file: Path) -> tuple[Float32Array, Int32Array]:
    """Vertices [V, 3] float32 and faces [F, 3] int32; polygons are cut into the triangles of their first corner.

    Raises:
        DataError: the file cannot be read, has no face, or a line of it is no vertex or face; it is named.
    """
    vertices: list[Float32Array] = []
    faces: list[Int64Array] = []
    count = 0
    for block in _blocks(file):
        try:
            positions = _vertices(block)
            vertices.append(positions)
            faces += _faces(block, count)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{file} has a broken line: {error}", "Unpack or download the file again.") from error
        count += len(positions)
    if not count or not faces:
        raise DataError(f"{file} has no {'faces' if count else 'vertices'}.", "It must be a Wavefront OBJ mesh.")
    triangles = np.concatenate(faces)
    if triangles.min() < 0 or triangles.max() >= count:
        raise DataError(f"{file}: a face names a vertex that is not among its {count}.", "Download the file again.")
    return np.concatenate(vertices), triangles.astype(np.int32)


def _blocks(file: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    try:
        with file.open("rb") as stream:
            rest = b""
            while piece := stream.read(_BLOCK):
                cut = piece.rfind(b"\n") + 1
                if cut == 0 and len(rest) + len(piece) > _BLOCK:
                    raise DataError(f"{file} is no Wavefront OBJ mesh: a line of it is over {_BLOCK} bytes long.")
                if cut:
                    yield rest + piece[:cut]
                    rest = b""
                rest += piece[cut:]
            yield rest
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error


def _vertices(block: bytes) -> Float32Array:
    lines = _VERTEX.findall(block)
    if not lines:
        return np.empty((0, 3), np.float32)
    with np.errstate(over="ignore"):
        values = _table(lines, "f8", usecols=(0, 1, 2)).astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a vertex is not finite.")
    return values


def _faces(block: bytes, count: int) -> list[Int64Array]:
    """Triangles [F, 3] of the block's faces, from 0; `count` vertices stand before the block."""
    lines = [_TEXTURE.sub(b"", line) for line in _FACE.findall(block)]
    if not lines:
        return []
    corners = np.array([len(line.split()) for line in lines])
    if corners.min() < 3:
        raise ValueError("a face has fewer than 3 corners.")
    before = _vertices_before(block, count) if any(b"-" in line for line in lines) else np.empty(0, np.int64)
    triangles = np.empty((int((corners - 2).sum()), 3), np.int64)
    starts = np.cumsum(corners - 2) - (corners - 2)
    for size in np.unique(corners):
        rows = np.flatnonzero(corners == size)
        table = _table([lines[row] for row in rows], "i8")
        if (table == 0).any():
            raise ValueError("a face names vertex 0; they count from 1.")
        table = np.where(table > 0, table - 1, table + before[rows, None]) if len(before) else table - 1
        for corner in range(size - 2):  # in the file's order
            triangles[starts[rows] + corner] = table[:, [0, corner + 1, corner + 2]]
    return [triangles]


def _vertices_before(block: bytes, count: int) -> Int64Array:
    """How many vertices stand before each face of the block: what its negative numbers count back from."""
    vertices = [match.start() for match in _VERTEX.finditer(block)]
    faces = [match.start() for match in _FACE.finditer(block)]
    return np.asarray(count + np.searchsorted(vertices, faces), np.int64)


def _table(lines: list[bytes], dtype: str, usecols: tuple[int, ...] | None = None) -> NDArray[Any]:
    text = io.BytesIO(b"\n".join(lines))
    return np.loadtxt(text, dtype, comments=None, usecols=usecols, ndmin=2, encoding="latin-1")
