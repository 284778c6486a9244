"""Reads the aligned S3DIS release: `Area_k/<room>/Annotations/<class>_<n>.txt`, one "x y z r g b" per line.

A file is one instance. `stairs` and names that are no class count as the label set's fallback (clutter), as in the
reference preprocessing. The release has a stray control byte inside one number (`103.0\\x100000`): control bytes are
dropped and reported. The release has no normals: they are estimated, and the dataset's notes say so.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from gcbench.data.labels import fallback_class, load_label_set
from gcbench.errors import DataError
from gcbench.structures import Float32Array, Float64Array, Scene

LABEL_SET = "s3dis"
NORMALS_SOURCE = "estimated: PCA over the {neighbours} nearest points, towards the room's centre"
_COLUMNS = ("x", "y", "z", "r", "g", "b")
_CONTROL = bytes(sorted({*range(32), 127} - set(b"\t\n\r")))
_CHUNK = 200_000


def read_room(folder: Path, *, neighbours: int) -> tuple[Scene, list[str]]:
    """Read one room.

    Args:
        folder: ``Area_k/<room>``; the scene is called ``"Area_k/<room>"``.
        neighbours: points a normal is estimated from.

    Returns:
        The scene, and notes on what a reader should know (tolerated bytes, names taken as the fallback class).

    Raises:
        DataError: there are no annotations, or a file is empty or no table of six numbers; it is named.
    """
    files = sorted((folder / "Annotations").glob("*.txt"), key=_natural_order)
    if not files:
        raise DataError(f"{folder / 'Annotations'} has no .txt files.", "Use the release with annotations, unpacked.")
    classes = {name: index for index, name in enumerate(load_label_set(LABEL_SET).classes)}
    fallback = fallback_class(LABEL_SET)
    notes: list[str] = []
    tables, segment_of, other = [], [], set()
    for file in files:
        table, stray = read_annotation(file)
        if stray:
            notes.append(f"{file.parent.parent.name}/{file.name}: {stray} control bytes dropped")
        name = file.stem.split("_")[0]
        if name not in classes:
            other.add(name)
        tables.append(table)
        segment_of.append(classes.get(name, fallback))
    if other:
        notes.append(f"taken as {load_label_set(LABEL_SET).classes[fallback]}: {', '.join(sorted(other))}")
    lengths = [len(table) for table in tables]
    points = np.concatenate(tables)
    coord = points[:, :3].astype(np.float32)
    scene = Scene(
        name=f"{folder.parent.name}/{folder.name}",
        coord=coord,
        color=points[:, 3:].round().astype(np.uint8),
        normal=estimate_normals(coord, neighbours=neighbours),
        segments={LABEL_SET: np.repeat(np.array(segment_of, np.int16), lengths)},
        instance=np.repeat(np.arange(len(files), dtype=np.int32), lengths),
    )
    return scene, notes


def read_annotation(file: Path) -> tuple[Float64Array, int]:
    """Read one annotation file: [n, 6] (x, y, z metres, r, g, b in 0 .. 255) and the number of bytes dropped.

    Raises:
        DataError: the file is empty or no table of six numbers.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    clean = content.translate(None, _CONTROL)
    if not clean.strip():
        raise DataError(f"{file} is empty.")
    try:
        values = np.loadtxt(io.StringIO(clean.decode("latin-1")), comments=None, ndmin=2)
    except ValueError as error:
        raise DataError(f"{file} is no table of numbers: {error}") from error
    if values.shape[1] != len(_COLUMNS):
        raise DataError(f"{file} has {values.shape[1]} columns instead of 6 ({' '.join(_COLUMNS)}).")
    if not np.isfinite(values).all() or values[:, 3:].min() < 0 or values[:, 3:].max() > 255:
        raise DataError(f"{file}: a number that is not finite, or a colour outside 0 .. 255.")
    return values, len(content) - len(clean)


def estimate_normals(coord: Float32Array, *, neighbours: int) -> Float32Array:
    """Unit normals [N, 3]: the direction of least spread of each point's neighbours, towards the room's centre."""
    tree = cKDTree(coord)
    count = min(neighbours, len(coord))
    center = (coord.min(axis=0) + coord.max(axis=0)) / 2
    normal = np.empty_like(coord)
    for start in range(0, len(coord), _CHUNK):
        part = coord[start : start + _CHUNK]
        near = coord[tree.query(part, k=count)[1].reshape(len(part), count)].astype(np.float64)
        near -= near.mean(axis=1, keepdims=True)
        direction = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))[1][:, :, 0]
        away = np.einsum("ni,ni->n", direction, center - part) < 0
        normal[start : start + _CHUNK] = np.where(away[:, None], -direction, direction)
    return normal


def _natural_order(file: Path) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]
