"""One scene out of anyone's file, as encoders and predictions take it: PLY, .npz, or a scene of a prepared dataset.

Lengths are metres, z up; colours are 0 to 255; normals are unit vectors. All files are untrusted: sizes are checked
before anything is allocated, and nothing in them runs.

Shape legend: N points.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyParseError

from gcbench.data.scannet import check_ply_header, read_mesh, vertex_normals
from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError
from gcbench.structures import Float32Array, Scene, UInt8Array

_LARGEST = 8 * 2**30  # bytes of an .npz, unpacked: some 300 million points
_BROKEN_NPZ = (
    *(OSError, ValueError, TypeError, SyntaxError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error),
    RuntimeError,  # encrypted, or packed in a way that Python does not know
)
_UNIT = 1e-3  # lengths of normals may differ from 1 by so much; others are made unit vectors
_NO_NORMALS = "Give normals (PLY: nx ny nz, or faces; .npz: normal), or take zeros with --no-normals."


def read_scene(where: str, *, normals: bool = True) -> Scene:
    """A scene without labels, its points in the order of the file.

    Args:
        where: a `.ply` (x y z, red green blue of 8 bits, nx ny nz or faces), an `.npz` (coord [N, 3], color [N, 3],
            normal [N, 3]), or ``DATASET:SCENE``, a scene of a prepared dataset.
        normals: False takes zeros where there are no normals.

    Raises:
        InputError: it is none of these, or has no normals.
        DataError: it is broken; the file and what is wrong are named.
    """
    path = Path(where)
    readers = {".ply": _read_ply, ".npz": _read_npz}
    if path.suffix.lower() in readers:
        if not path.is_file():
            raise InputError(f"There is no file '{path}'.", "Give a .ply, an .npz, or DATASET:SCENE.")
        coord, color, normal = readers[path.suffix.lower()](path)
        if normal is None and normals:
            raise InputError(f"{path} has no normals, which are half of the network's input.", _NO_NORMALS)
        return _scene(path, coord, color, normal)
    folder, separator, name = where.rpartition(":")
    if not separator or not Path(folder).is_dir():
        raise InputError(
            f"'{where}' is no .ply or .npz file, and no scene of a prepared dataset.",
            "Give a file, or DATASET:SCENE, such as prepared/scannet:scene0000_00.",
        )
    return replace(PreparedDataset.open(Path(folder)).scene(name), segments={}, instance=None)


def _read_ply(file: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    try:
        check_ply_header(file)
        vertex = PlyData.read(str(file), known_list_len={"face": {"vertex_indices": 3, "vertex_index": 3}})["vertex"]
        names = vertex.data.dtype.names
        coord, color = (np.stack([vertex[key] for key in keys], axis=1) for keys in ("xyz", ("red", "green", "blue")))
        with_normals = {"nx", "ny", "nz"} <= set(names)
        normal = np.stack([vertex[key] for key in ("nx", "ny", "nz")], axis=1) if with_normals else None
        has_faces = b"element face" in file.open("rb").read(65536)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error}).") from error
    except (PlyParseError, ValueError, KeyError, OverflowError) as error:
        reason = str(error) if str(error) else repr(error)
        raise DataError(
            f"{file} is no whole PLY of points with colours ({reason}).",
            "It needs the vertex properties x y z, red green blue.",
        ) from error
    if normal is None and has_faces:
        mesh = read_mesh(file)
        normal = vertex_normals(mesh.coord, mesh.faces)
    return coord, color, normal


def _read_npz(file: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _LARGEST:
            raise DataError(f"{file} unpacks to {size / 1e9:,.1f} GB.", "Split the cloud into scenes.")
        with np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in ("coord", "color") if key not in arrays]
            if missing:
                raise DataError(
                    f"{file} has no array '{missing[0]}'; it has {', '.join(arrays) or 'none'}.",
                    "It needs coord [N, 3], color [N, 3] and normal [N, 3].",
                )
            return arrays["coord"], arrays["color"], arrays.get("normal")
    except _BROKEN_NPZ as error:
        raise DataError(f"{file} is no whole .npz of plain arrays ({error}).", "Write it with numpy.savez.") from error


def _scene(file: Path, coord: NDArray[Any], color: NDArray[Any], normal: NDArray[Any] | None) -> Scene:
    """The arrays as a scene.

    Raises:
        DataError: shapes, types or values are not what they must be.
    """
    points = _rows(file, "coord", coord, len(coord) if coord.ndim else 0)
    if not len(points):
        raise DataError(f"{file} has no points.")
    if normal is None:
        normals = np.zeros_like(points)
    else:
        normals = _rows(file, "normal", normal, len(points))
        length = np.linalg.norm(normals.astype(np.float64), axis=1)
        odd = (length > 0) & (np.abs(length - 1) > _UNIT)
        normals[odd] = (normals[odd] / length[odd, None]).astype(np.float32)
    return Scene(name=file.stem, coord=points, color=_colors(file, color, len(points)), normal=normals)


def _rows(file: Path, name: str, values: NDArray[Any], count: int) -> Float32Array:
    """[N, 3] float32, finite."""
    if values.shape != (count, 3) or values.dtype.kind not in "fiu":
        raise DataError(f"{file}: '{name}' is {values.dtype} of shape {list(values.shape)}, not [{count or 'N'}, 3].")
    with np.errstate(over="ignore"):  # what is too large becomes inf, and is refused
        rows = np.array(values, np.float32)
    if not np.isfinite(rows).all():
        first = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise DataError(f"{file}: '{name}' of point {first} is {values[first].tolist()}, which is not finite.")
    return rows


def _colors(file: Path, color: NDArray[Any], count: int) -> UInt8Array:
    """[N, 3] uint8, from 0 to 255."""
    if color.shape != (count, 3) or color.dtype.kind not in "fiu":
        raise DataError(f"{file}: 'color' is {color.dtype} of shape {list(color.shape)}, not [{count}, 3].")
    low, high = float(color.min()), float(color.max())
    if not (low >= 0 and high <= 255):
        raise DataError(f"{file}: 'color' goes from {low:g} to {high:g}, not from 0 to 255.")
    if color.dtype.kind == "f" and 0 < high <= 1:
        raise DataError(f"{file}: 'color' goes from {low:g} to {high:g}; it must be 0 to 255.", "Multiply it by 255.")
    colors: UInt8Array = np.rint(color).astype(np.uint8)
    return colors
