"""Reads raw ScanNet folders.

    scans/<id>/        <id>_vh_clean_2.ply, <id>_vh_clean_2.0.010000.segs.json, <id>.aggregation.json
    scans_test/<id>/   <id>_vh_clean_2.ply
    scannetv2-labels.combined.tsv, scannetv2_{train,val,test}.txt

Arrays equal those of Pointcept's preprocess_scannet.py; coordinates stay unaligned. The official scripts disagree on a
`raw_category` that the TSV lacks: the 20-class export stops with a KeyError, the ScanNet200 one writes 0 (unannotated).
Here its points are -1 and the category is reported. Where a segment is in two groups the later group wins; where the
TSV has a category twice, its first row counts; both as in the ScanNet200 script.
"""

from __future__ import annotations

import csv
import json
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData, PlyParseError

from gcbench.data.labels import load_label_set, raw_id_lookup
from gcbench.errors import DataError
from gcbench.structures import IGNORE_INDEX, Float32Array, Int16Array, Int32Array, Int64Array, Scene, UInt8Array

TSV_NAME = "scannetv2-labels.combined.tsv"
SPLIT_FILES = {split: f"scannetv2_{split}.txt" for split in ("train", "val", "test")}
RAW_ID_COLUMNS = {"scannet20": "nyu40id", "scannet200": "id"}
"""Label set -> the TSV column with its raw ids."""
_FACE_KEYS = ("vertex_indices", "vertex_index")
_HEADER_BYTES = 65536
_LARGEST_ID = np.iinfo(np.int32).max
_AGAIN = "Download it again."

Categories = Mapping[str, Mapping[str, int]]
"""raw_category -> label set -> raw id."""


@dataclass(frozen=True)
class Mesh:
    """Vertices and faces of a scan: coord [N, 3], color [N, 3], faces [F, 3]."""

    coord: Float32Array
    color: UInt8Array
    faces: Int32Array


@dataclass(frozen=True)
class Group:
    """One annotated object: its instance id, its `raw_category`, and the segments it is made of [S]."""

    id: int
    label: str
    segments: Int64Array


def read_scene(folder: Path, categories: Categories | None) -> tuple[Scene, list[str]]:
    """Read one scene folder.

    Args:
        folder: ``scans/<id>`` or ``scans_test/<id>``.
        categories: the label table; None reads a scene without labels.

    Returns:
        The scene, and notes on what a reader should know: unknown categories, segments that only the groups name,
        instance ids that stand for several groups.

    Raises:
        DataError: a file is missing, truncated or does not fit the others; it is named.
    """
    name = folder.name
    mesh_file = folder / f"{name}_vh_clean_2.ply"
    mesh = read_mesh(mesh_file)
    normal = vertex_normals(mesh.coord, mesh.faces)
    if not np.isfinite(normal).all():
        raise DataError(f"{mesh_file}: vertices are so far apart that a normal is not finite.", _AGAIN)
    if categories is None:
        return Scene(name, mesh.coord, mesh.color, normal), []
    segments_file = folder / f"{name}_vh_clean_2.0.010000.segs.json"
    groups_file = folder / f"{name}.aggregation.json"
    segment_of = _read_segments(segments_file)
    if len(segment_of) != len(mesh.coord):
        raise DataError(
            f"{segments_file}: 'segIndices' has {len(segment_of)} entries, {mesh_file} has {len(mesh.coord)} vertices.",
            "Download both again.",
        )
    groups = _read_groups(groups_file)
    owner, absent = _owners(segment_of, groups)
    notes = _notes(owner, groups, categories)
    if absent:
        notes.append(f"{groups_file.name} names {absent} segments that {segments_file.name} does not have")
    segments = {label_set: _classes(groups, categories, label_set)[owner] for label_set in RAW_ID_COLUMNS}
    instance = np.array([*(group.id for group in groups), IGNORE_INDEX], np.int32)[owner]
    return Scene(name, mesh.coord, mesh.color, normal, segments, instance), notes


def vertex_count(root: Path, name: str) -> int:
    """Vertices of a scene's mesh in raw ScanNet: below `scans_test`, `scans` or `root` itself.

    Raises:
        DataError: it is in none of them, or is no mesh.
    """
    for folder in (root / "scans_test", root / "scans", root):
        file = folder / name / f"{name}_vh_clean_2.ply"
        if file.is_file():
            return len(read_mesh(file).coord)
    raise DataError(f"{root} has no mesh of scene '{name}'.", f"It should be scans_test/{name}/{name}_vh_clean_2.ply.")


def read_mesh(file: Path) -> Mesh:
    """Read a triangle mesh with vertex colours: PLY, binary or ascii.

    Raises:
        DataError: the file is missing, truncated, or not such a mesh.
    """
    try:
        check_ply_header(file)
        ply = PlyData.read(str(file), known_list_len={"face": dict.fromkeys(_FACE_KEYS, 3)})
        vertex, face = ply["vertex"].data, ply["face"].data
        with np.errstate(over="ignore"):  # a double too large for float32 becomes inf, which is refused below
            coord = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
        color = np.stack([vertex[channel] for channel in ("red", "green", "blue")], axis=1)
        corners = face[next(key for key in _FACE_KEYS if key in face.dtype.names)]
        faces = np.stack(corners) if corners.dtype == object and len(corners) else np.array(corners)  # ascii: object
    except OSError as error:
        raise _cannot_read(file, error) from error
    except (PlyParseError, ValueError, KeyError, StopIteration, OverflowError) as error:
        raise DataError(f"{file} is not a whole triangle mesh with colours ({_said(error)}).", _AGAIN) from error
    if not len(coord) or not np.isfinite(coord).all():
        raise DataError(f"{file} has no vertices, or a coordinate that is not finite.", _AGAIN)
    if not len(faces):
        raise DataError(f"{file} has no faces, so there is nothing to take normals from.", _AGAIN)
    if color.dtype != np.uint8 or faces.shape[1:] != (3,) or faces.dtype.kind not in "iu":
        raise DataError(
            f"{file}: colours must be 8 bits and faces triangles of whole numbers;"
            f" got {color.dtype} and {faces.shape[1:]} of {faces.dtype}."
        )
    if faces.min() < 0 or faces.max() >= len(coord):
        wrong = faces.min() if faces.min() < 0 else faces.max()
        raise DataError(f"{file}: a face names vertex {wrong} of {len(coord)}.", _AGAIN)
    return Mesh(coord, color, faces.astype(np.int32))


def vertex_normals(coord: Float32Array, faces: Int32Array) -> Float32Array:
    """Area-weighted vertex normals [N, 3]; 0 for vertices without a face of any area.

    Equal to the last bit to `vertex_normal` of Pointcept's preprocess_scannet.py, whose result depends on its roundings
    where faces cancel or are tiny: float32 throughout, 1e-8 added to each face's and each sum's length, faces added in
    their order. So lengths are 1 but for that 1e-8. Not finite where a product overflows.
    """
    tiny, half = np.float32(1e-8), np.float32(0.5)
    points = np.ascontiguousarray(coord.T)
    first, second, third = points[:, faces[:, 0]], points[:, faces[:, 1]], points[:, faces[:, 2]]
    with np.errstate(over="ignore", invalid="ignore"):
        u, v = second - first, third - first
        face_normal = np.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]])
        length = np.sqrt(face_normal[0] ** 2 + face_normal[1] ** 2 + face_normal[2] ** 2) + tiny
        face_normal /= length
        face_normal *= length * half
        total = np.zeros_like(points)
        corners = faces.reshape(-1)
        for axis in range(3):  # one after the other, in order; a face with a vertex twice adds 0
            np.add.at(total[axis], corners, np.repeat(face_normal[axis], 3))
        total /= np.sqrt(total[0] ** 2 + total[1] ** 2 + total[2] ** 2) + tiny
    return np.ascontiguousarray(total.T)


def read_categories(file: Path) -> Categories:
    """Read the label table.

    Raises:
        DataError: it is missing, empty, lacks a column, or an id is no whole number.
    """
    columns = ("raw_category", *RAW_ID_COLUMNS.values())
    categories: dict[str, dict[str, int]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t", strict=True)
            absent = [column for column in columns if column not in (reader.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{file} has no column '{absent[0]}'.", "It must be ScanNet's tab-separated label table."
                )
            for row in reader:
                ids = {label_set: int(row[column]) for label_set, column in RAW_ID_COLUMNS.items()}
                categories.setdefault(row["raw_category"], ids)
    except OSError as error:
        way_out = "It comes with ScanNet; put it beside `scans`, or name its folder with --meta-dir."
        raise _cannot_read(file, error, way_out) from error
    except DataError:
        raise
    except (csv.Error, ValueError, TypeError) as error:
        raise DataError(f"{file}, line {reader.reader.line_num}: {error}.", _AGAIN) from error
    if not categories:
        raise DataError(f"{file} has no rows.", _AGAIN)
    return categories


def check_ply_header(file: Path) -> None:
    """Refuse a PLY header that asks for more than the file can hold, before anything is allocated for it.

    Raises:
        ValueError: it does, or it is no PLY header.
    """
    with file.open("rb") as stream:
        start = stream.read(_HEADER_BYTES)
        size = stream.seek(0, 2)
    newline = re.match(rb"ply(\r\n|\r|\n)", start)
    header, end, _ = start.partition(newline[1] + b"end_header" + newline[1]) if newline else (b"", b"", b"")
    if newline is None or not end:
        raise ValueError("no PLY header")
    count = properties = 0
    lists: tuple[str, ...] = ()
    what = ""
    for words in map(str.split, header.decode("ascii").split(newline[1].decode())):
        if words[:1] == ["element"]:
            if len(words) != 3:
                raise ValueError(f"an element '{' '.join(words)}'")
            what, count, properties = words[1], int(words[-1]), 0
            lists = _FACE_KEYS if words[1] == "face" else ()
        elif words[:1] == ["property"]:
            properties += 1
            if words[1:2] == ["list"] and words[-1] not in lists:
                raise ValueError(f"a list '{words[-1]}'")
        if not 0 <= count * max(properties, 1) <= size:  # a value takes at least a byte
            raise ValueError(f"truncated: {count} x {what} do not fit into its {size} bytes")


def _said(error: Exception) -> str:
    """An exception's words, or its kind where it has none that help."""
    return str(error) if isinstance(error, ValueError) and str(error) else repr(error)


def _owners(segment_of: Int64Array, groups: Sequence[Group]) -> tuple[Int64Array, int]:
    """Of each vertex [N] the position of its group, -1 without one; and how many segments only the groups name."""
    named = np.concatenate([np.zeros(0, np.int64), *(group.segments for group in groups)])
    positions = np.repeat(np.arange(len(groups)), [len(group.segments) for group in groups])
    keys, last = np.unique(named[::-1], return_index=True)  # reversed: a segment's first entry is its last group's
    if not len(keys):
        return np.full(len(segment_of), -1), 0
    slot = np.minimum(np.searchsorted(keys, segment_of), len(keys) - 1)
    found = keys[slot] == segment_of
    seen = np.zeros(len(keys), bool)
    seen[slot[found]] = True
    return np.where(found, positions[::-1][last][slot], -1), int((~seen).sum())


def _classes(groups: Sequence[Group], categories: Categories, label_set: str) -> Int16Array:
    """The groups' class indices [groups + 1]; the last, which a position of -1 reaches, is -1."""
    table = raw_id_lookup(load_label_set(label_set))
    raw_ids = [categories[group.label][label_set] if group.label in categories else -1 for group in groups]
    classes = [table[raw_id] if 0 <= raw_id < len(table) else IGNORE_INDEX for raw_id in raw_ids]
    return np.array([*classes, IGNORE_INDEX], np.int16)


def _notes(owner: Int64Array, groups: Sequence[Group], categories: Categories) -> list[str]:
    points = np.bincount(owner + 1, minlength=len(groups) + 1)[1:]
    unknown: Counter[str] = Counter()
    for group, count in zip(groups, points, strict=True):
        if group.label not in categories:
            unknown[group.label] += int(count)
    notes = [
        f"raw_category {label!r} is not in {TSV_NAME}: {count} points unlabelled"
        for label, count in sorted(unknown.items())
    ]
    shared = sum(count > 1 for count in Counter(group.id for group in groups).values())
    return [*notes, f"{shared} instance ids stand for more than one group each"] if shared else notes


def _read_segments(file: Path) -> Int64Array:
    try:
        return _whole_numbers(_read_json(file)["segIndices"])
    except (KeyError, TypeError, OverflowError) as error:
        raise DataError(f"{file} has no list 'segIndices' of whole numbers ({_said(error)}).", _AGAIN) from error


def _read_groups(file: Path) -> list[Group]:
    try:
        groups = _read_json(file)["segGroups"]
        if not isinstance(groups, list):
            raise TypeError(f"{type(groups).__name__}, not a list")
        return [_group(group) for group in groups]
    except (KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"{file}: 'segGroups' needs id, label and segments in every group ({_said(error)}).", _AGAIN
        ) from error


def _group(content: Any) -> Group:
    number, label = content["id"], content["label"]
    if type(number) is not int or not isinstance(label, str):
        raise TypeError(f"an id of {type(number).__name__}, a label of {type(label).__name__}")
    if not 0 <= number <= _LARGEST_ID:
        raise OverflowError(f"id {number}")
    return Group(number, label, _whole_numbers(content["segments"]))


def _whole_numbers(values: Any) -> Int64Array:
    """A JSON list of integers; TypeError for any other thing, OverflowError beyond 64 bits."""
    if not isinstance(values, list):
        raise TypeError(f"{type(values).__name__}, not a list")
    return np.frombuffer(array("q", values), np.int64)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise _cannot_read(file, error) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: truncated or damaged ({error}).", _AGAIN) from error


def _cannot_read(file: Path, error: OSError, way_out: str = "") -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{file} is missing.", way_out)
    return DataError(f"{file} cannot be read ({error.strerror or error}).")
