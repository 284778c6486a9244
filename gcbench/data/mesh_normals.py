"""Normals of S3DIS points from the meshes of 2D-3D-Semantics: each point takes the normal of its closest face.

The meshes are one per area, in their own axes (y up), and fit the unaligned release. A room sees the faces whose
corners all lie in its box widened by 0.1 m, as in Pointcept's `preprocess_s3dis.py`. Workers map the arrays of
`cache_area_mesh` instead of reading a text file of up to a gigabyte each.

Shape legend
    V  vertices        F  faces
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcbench.data.s3dis_facts import MeshPart, s3dis_facts
from gcbench.data.wavefront import read_obj
from gcbench.errors import DataError, require
from gcbench.files import write_atomic
from gcbench.structures import Float32Array, Float64Array, Int32Array, Int64Array

_MARGIN = 0.1  # metres around the room's box
_ROOM_FROM_MESH = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # (x, y, z) -> (x, -z, y)
_FLAT = 1e-13  # square metres: a face of less has no direction
_ON_EDGE = 1e-6  # barycentric weight below which a point lies on the opposite edge
_VERTICES, _FACES, _ORIGIN = "vertices.f32", "faces.i32", "origin.json"
_ANEW = "Delete the folder, and the mesh is read anew."


@dataclass(frozen=True)
class AreaMesh:
    """The mesh of an area in the axes of the points.

    Attributes:
        vertices: [V, 3] float32, metres, z up.
        faces: [F, 3] int32, counter-clockwise from the front.
    """

    vertices: Float32Array
    faces: Int32Array


def load_area_mesh(root: Path, area: str) -> AreaMesh | None:
    """Read the mesh of ``"Area_1"`` ... below the 2D-3D-S folder `root`; None if there is none.

    Raises:
        DataError: a file is broken, or one of the two halves of an area is missing; it is named.
    """
    files = _mesh_files(root, area)
    parts = [(read_obj(file), part.matrix()) for file, part in files]
    if not parts:
        return None
    vertices = []
    for (points, _), matrix in parts:
        turned = points.astype(np.float64) @ (_ROOM_FROM_MESH @ matrix[:3, :3]).T + _ROOM_FROM_MESH @ matrix[:3, 3]
        vertices.append(turned.astype(np.float32))
    starts = np.cumsum([0] + [len(points) for points in vertices])
    faces = [faces + np.int32(start) for ((_, faces), _), start in zip(parts, starts, strict=False)]
    return AreaMesh(np.concatenate(vertices), np.concatenate(faces))


def cache_area_mesh(root: Path, area: str, folder: Path) -> Path | None:
    """Write the area's mesh as arrays that many processes can share, unless that is done already.

    Args:
        root: the 2D-3D-S folder.
        area: e.g. ``"Area_1"``.
        folder: the arrays go into ``folder/<area>``, which is returned.

    Raises:
        DataError: as `load_area_mesh`.
        RunError: the disk is full.
    """
    files = [file for file, _ in _mesh_files(root, area)]
    if not files:
        return None
    target = folder / area
    origin = json.dumps([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files])
    if (target / _ORIGIN).is_file() and (target / _ORIGIN).read_text(encoding="utf-8") == origin:
        return target
    mesh = load_area_mesh(root, area)
    assert mesh is not None
    for name, array in ((_VERTICES, mesh.vertices), (_FACES, mesh.faces)):
        write_atomic(target / name, np.ascontiguousarray(array).data)
    write_atomic(target / _ORIGIN, origin)
    return target


def open_area_mesh(folder: Path) -> AreaMesh:
    """Map what `cache_area_mesh` wrote.

    Raises:
        DataError: it is not there, or broken.
    """
    try:
        vertices = np.memmap(folder / _VERTICES, np.float32, "r").reshape(-1, 3)
        faces = np.memmap(folder / _FACES, np.int32, "r").reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no mesh of an area ({error}).", _ANEW) from error
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DataError(f"{folder / _FACES} does not fit {_VERTICES}.", _ANEW)
    return AreaMesh(vertices, faces)


def crop(mesh: AreaMesh, points: Float64Array) -> tuple[Float64Array, Int64Array]:
    """Vertices [V', 3] and faces [F', 3] in the points' box widened by the margin; equal vertices are one.

    Faces without an area are left out.
    """
    low, high = points.min(axis=0) - _MARGIN, points.max(axis=0) + _MARGIN
    inside = np.ones(len(mesh.vertices), bool)
    for axis in range(3):
        values = mesh.vertices[:, axis].astype(np.float64)
        inside &= (values >= low[axis]) & (values <= high[axis])
    whole = mesh.faces[inside[mesh.faces].all(axis=1)]
    used, corners = np.unique(whole, return_inverse=True)
    vertices, merged = np.unique(mesh.vertices[used].astype(np.float64), axis=0, return_inverse=True)
    faces = merged.reshape(-1)[corners.reshape(-1, 3)].astype(np.int64)
    return vertices, faces[np.linalg.norm(_cross(vertices, faces), axis=1) > _FLAT]


def closest_normals(
    points: Float64Array, vertices: Float64Array, faces: Int64Array
) -> tuple[Float64Array, Float64Array]:
    """Unit normal [N, 3] of the face closest to each point, and the distance [N] to it.

    Where an edge or a corner is closest, its face that looks most towards the point counts, as in trimesh.

    Raises:
        MissingExtraError: libigl is not installed.
    """
    igl = require("igl", "meshes", "Taking normals from meshes")
    squared, chosen, closest = igl.point_mesh_squared_distance(points, vertices, faces)
    cross = _cross(vertices, faces)
    normals = cross / np.linalg.norm(cross, axis=1, keepdims=True)
    chosen = _most_facing(points, closest, chosen, vertices, faces, normals)
    return normals[chosen], np.sqrt(squared)


def _most_facing(
    points: Float64Array,
    closest: Float64Array,
    chosen: Int64Array,
    vertices: Float64Array,
    faces: Int64Array,
    normals: Float64Array,
) -> Int64Array:
    """`chosen` [N], with another face where several share the closest point and one looks more towards the point."""
    weights = _barycentric(closest, vertices[faces[chosen]])
    rows = np.flatnonzero(weights.min(axis=1) < _ON_EDGE)
    corners, on = faces[chosen[rows]], weights[rows] >= _ON_EDGE
    pivot = np.take_along_axis(corners, weights[rows].argmax(axis=1)[:, None], axis=1)[:, 0]
    around = np.argsort(faces, axis=None, kind="stable") // 3  # faces in the order of their corners' vertices
    ends = np.cumsum(np.bincount(faces.ravel(), minlength=len(vertices)))
    counts = np.diff(ends, prepend=0)[pivot]
    row = np.repeat(np.arange(len(rows)), counts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    candidate = around[ends[pivot[row]] - counts[row] + step]
    shares = np.ones(len(row), bool)  # the candidate has every vertex that the closest point lies between
    for corner in range(3):
        shares &= (faces[candidate] == corners[row, corner, None]).any(axis=1) | ~on[row, corner]
    row, candidate = row[shares], candidate[shares]
    facing = np.einsum("ni,ni->n", normals[candidate], (points - closest)[rows[row]])
    order = np.lexsort((candidate, -facing, row))
    first = np.unique(row[order], return_index=True)[1]
    result = chosen.copy()
    result[rows] = candidate[order[first]]
    return result


def _barycentric(points: Float64Array, corners: Float64Array) -> Float64Array:
    """Weights [N, 3] of points [N, 3] in the planes of the triangles [N, 3, 3]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    normal = np.cross(b - a, c - a)
    area = np.einsum("ni,ni->n", normal, normal)
    first = np.einsum("ni,ni->n", np.cross(c - b, points - b), normal) / area
    second = np.einsum("ni,ni->n", np.cross(a - c, points - c), normal) / area
    return np.stack([first, second, 1 - first - second], axis=1)


def _cross(vertices: Float64Array, faces: Int64Array) -> Float64Array:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    return np.asarray(np.cross(b - a, c - a))


def _mesh_files(root: Path, area: str) -> list[tuple[Path, MeshPart]]:
    """The area's mesh files in their order; none if the download has none of them."""
    try:
        folders = {folder.name.lower(): folder for folder in sorted(root.iterdir())}
    except OSError as error:
        raise DataError(
            f"{root} cannot be read ({error.strerror}).", "Give the folder that holds area_1, area_2, ..."
        ) from error
    meshes = s3dis_facts().meshes
    parts = meshes.areas.get(area, ())
    found = [(folders.get(part.folder, root / part.folder) / meshes.file, part) for part in parts]
    missing = [file for file, _ in found if not file.is_file()]
    if missing and len(missing) < len(found):
        raise DataError(
            f"{missing[0]} is missing; {area} needs both halves of its mesh.", "Get it, or take none of the two."
        )
    return [] if missing else found
