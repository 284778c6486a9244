"""Reads S3DIS: `Area_k/<room>/Annotations/<class>_<n>.txt`, one "x y z r g b" per line, aligned or unaligned release.

Equal to Pointcept's `preprocess_s3dis.py`: a file is one instance, files count in the order of their names as strings,
`stairs` and names that are no class are the label set's fallback (clutter), colours lose their fraction, and rooms of
the unaligned release are turned about their centre in float64. Known defects of the release are mended and noted (see
`evaluation/datasets/s3dis.yaml`). The release has no normals: they come from the meshes of 2D-3D-S or are estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from gcbench.data.labels import fallback_class, load_label_set
from gcbench.data.mesh_normals import closest_normals, crop, open_area_mesh
from gcbench.data.s3dis_annotations import annotation_files, printable, read_annotation
from gcbench.data.s3dis_release import Release, check_rooms, find_release, rotation
from gcbench.errors import DataError
from gcbench.structures import Float32Array, Float64Array, Scene

__all__ = ["LABEL_SET", "MESH_NORMALS", "NORMALS_SOURCE", "Release", "RoomReading", "check_rooms", "find_release",
           "read_annotation", "read_room", "rotation"]  # fmt: skip

LABEL_SET = "s3dis"
NORMALS_SOURCE = "estimated: PCA over the {neighbours} nearest points, towards the room's centre"
MESH_NORMALS = "2D-3D-S mesh: the closest face's"
_FAR = 0.05  # metres: points of a room lie on its mesh, up to millimetres
_CHUNK = 200_000


@dataclass(frozen=True)
class RoomReading:
    """One room as read.

    Attributes:
        scene: called ``"Area_k/<room>"``.
        notes: what a reader should know (mended bytes, names taken as the fallback class).
        normals: where this room's normals are from.
    """

    scene: Scene
    notes: list[str]
    normals: str


def read_room(folder: Path, *, neighbours: int, angle: float | None = None, mesh: Path | None = None) -> RoomReading:
    """Read one room.

    Args:
        folder: ``Area_k/<room>``.
        neighbours: points a normal is estimated from.
        angle: degrees the room stands at, of the unaligned release: it is turned back. None leaves it as it is, bit
            by bit (0 would not: the reference turns such rooms, too).
        mesh: folder of the area's mesh (`mesh_normals.cache_area_mesh`); None estimates the normals.

    Raises:
        DataError: there are no annotations, or a file is empty or no table of six numbers; it is named. A mesh is
            given without an angle.
        MissingExtraError: a mesh is given and libigl is not installed.
    """
    if mesh is not None and angle is None:
        raise DataError(
            f"{folder} is of the aligned release, and the 2D-3D-S meshes fit the unaligned one.",
            "Use the unaligned release, or leave the meshes out.",
        )
    files, notes = annotation_files(folder)
    tables = []
    for file in files:
        table, mended = read_annotation(file)
        tables.append(table)
        notes += [f"{folder.name}/{printable(file.name)}: {note}" for note in mended]
    label_set = load_label_set(LABEL_SET)
    classes = {name: index for index, name in enumerate(label_set.classes)}
    fallback = fallback_class(LABEL_SET)
    names = [file.name.split("_")[0] for file in files]
    other = sorted({printable(name) for name in names if name not in classes})
    if other:
        notes.append(f"taken as {label_set.classes[fallback]}: {', '.join(other)}")
    points = np.concatenate([table[:, :3] for table in tables])
    coord, normal, source = _place(points, neighbours=neighbours, angle=angle, mesh=mesh, notes=notes)
    lengths = [len(table) for table in tables]
    scene = Scene(
        name=f"{folder.parent.name}/{folder.name}",
        coord=coord,
        color=np.concatenate([table[:, 3:] for table in tables]).astype(np.uint8),
        normal=normal,
        segments={LABEL_SET: np.repeat(np.array([classes.get(name, fallback) for name in names], np.int16), lengths)},
        instance=np.repeat(np.arange(len(files), dtype=np.int32), lengths),
    )
    return RoomReading(scene, notes, source)


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


def _place(
    points: Float64Array, *, neighbours: int, angle: float | None, mesh: Path | None, notes: list[str]
) -> tuple[Float32Array, Float32Array, str]:
    """Coordinates and normals [N, 3] in the room's final place, and where the normals are from."""
    turn = None if angle is None else rotation(angle)
    normals = None if mesh is None else _mesh_normals(points, mesh, notes)
    if turn is not None:
        center = (points.max(axis=0) + points.min(axis=0)) / 2
        points = (points - center) @ np.transpose(turn) + center
    coord = points.astype(np.float32)
    if normals is None:
        return coord, estimate_normals(coord, neighbours=neighbours), NORMALS_SOURCE.format(neighbours=neighbours)
    if turn is not None:
        normals = normals @ np.transpose(turn)
    return coord, normals.astype(np.float32), MESH_NORMALS


def _mesh_normals(points: Float64Array, folder: Path, notes: list[str]) -> Float64Array | None:
    """Normals from the mesh; None, and a note why, where the mesh is not of this room."""
    vertices, faces = crop(open_area_mesh(folder), points)
    if not len(faces):
        notes.append("the mesh has no faces in this room's place")
        return None
    normals, distance = closest_normals(points, vertices, faces)
    typical = float(np.median(distance))
    if typical > _FAR:
        notes.append(f"the mesh does not fit this room: its points lie {typical:.2f} m from it")
        return None
    return normals
