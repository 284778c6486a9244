"""Reads raw ScanNet folders.

    scans/<id>/        <id>_vh_clean_2.ply, <id>_vh_clean_2.0.010000.segs.json, <id>.aggregation.json
    scans_test/<id>/   <id>_vh_clean_2.ply
    scannetv2-labels.combined.tsv, scannetv2_{train,val,test}.txt

Coordinates stay unaligned. The official scripts disagree on a `raw_category` that the TSV lacks: the 20-class export
stops with a KeyError, the ScanNet200 one writes 0 (unannotated). Here its points are -1 and the category is reported.
Where a segment is in two groups the later group wins; where the TSV has a category twice, its first row counts; both
as in the ScanNet200 script.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from plyfile import PlyData, PlyParseError

from gcbench.data.labels import load_label_set, raw_id_lookup
from gcbench.errors import DataError
from gcbench.structures import IGNORE_INDEX, Float32Array, Int32Array, Int64Array, Scene, UInt8Array

TSV_NAME = "scannetv2-labels.combined.tsv"
SPLIT_FILES = {split: f"scannetv2_{split}.txt" for split in ("train", "val", "test")}
RAW_ID_COLUMNS = {"scannet20": "nyu40id", "scannet200": "id"}
"""Label set -> the TSV column with its raw ids."""
_FACE_KEYS = ("vertex_indices", "vertex_index")

Categories = Mapping[str, Mapping[str, int]]
"""raw_category -> label set -> raw id."""


@dataclass(frozen=True)
class Mesh:
    """Vertices and faces of a scan: coord [N, 3], color [N, 3], faces [F, 3]."""

    coord: Float32Array
    color: UInt8Array
    faces: Int32Array


def read_scene(folder: Path, categories: Categories | None) -> tuple[Scene, list[str]]:
    """Read one scene folder.

    Args:
        folder: ``scans/<id>`` or ``scans_test/<id>``.
        categories: the label table; None reads a scene without labels.

    Returns:
        The scene, and notes on what a reader should know (unknown categories).

    Raises:
        DataError: a file is missing, truncated or does not fit the others; it is named.
    """
    name = folder.name
    mesh = read_mesh(folder / f"{name}_vh_clean_2.ply")
    normal = vertex_normals(mesh.coord, mesh.faces)
    if categories is None:
        return Scene(name, mesh.coord, mesh.color, normal), []
    segments_file = folder / f"{name}_vh_clean_2.0.010000.segs.json"
    groups_file = folder / f"{name}.aggregation.json"
    raw_ids, instance, unknown = _annotate(
        _read_segments(segments_file, len(mesh.coord)), _read_groups(groups_file), categories
    )
    segments = {}
    for label_set, ids in raw_ids.items():
        table = raw_id_lookup(load_label_set(label_set))
        inside = (ids >= 0) & (ids < len(table))
        segments[label_set] = np.where(inside, table[np.where(inside, ids, 0)], IGNORE_INDEX).astype(np.int16)
    notes = [f"raw_category '{label}' is not in {TSV_NAME}: {points} points unlabelled" for label, points in unknown]
    return Scene(name, mesh.coord, mesh.color, normal, segments, instance), notes


def read_mesh(file: Path) -> Mesh:
    """Read a triangle mesh with vertex colours.

    Raises:
        DataError: the file is missing, truncated, or not such a mesh.
    """
    try:
        ply = PlyData.read(str(file), known_list_len={"face": dict.fromkeys(_FACE_KEYS, 3)})
        vertex, face = ply["vertex"].data, ply["face"].data
        coord = np.stack([vertex[axis] for axis in "xyz"], axis=1).astype(np.float32)
        color = np.stack([vertex[channel] for channel in ("red", "green", "blue")], axis=1)
        faces = np.array(face[next(key for key in _FACE_KEYS if key in face.dtype.names)]).astype(np.int32)
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except (PlyParseError, ValueError, KeyError, StopIteration, OSError) as error:
        raise DataError(
            f"{file} is not a whole triangle mesh with colours ({error!r}).", "Download it again."
        ) from error
    if color.dtype != np.uint8 or faces.ndim != 2 or faces.shape[1] != 3:
        raise DataError(f"{file}: colours must be 8 bits, faces triangles; got {color.dtype} and {faces.shape[1:]}.")
    if not len(coord) or not np.isfinite(coord).all():
        raise DataError(f"{file} has no vertices, or a coordinate that is not finite.")
    if faces.size and (faces.min() < 0 or faces.max() >= len(coord)):
        raise DataError(f"{file}: a face names vertex {int(faces.max())} of {len(coord)}.")
    return Mesh(coord, color, faces)


def vertex_normals(coord: Float32Array, faces: Int32Array) -> Float32Array:
    """Area-weighted vertex normals [N, 3], unit length; 0 for vertices without a face of any area.

    A face's cross product is its normal times twice its area, so summing cross products weighs by area.
    """
    points = coord.astype(np.float64)
    cross = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(cross[:, axis], 3), len(coord)) for axis in range(3)], axis=1
    )
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return cast(Float32Array, np.divide(total, length, out=np.zeros_like(total), where=length > 0).astype(np.float32))


def read_categories(file: Path) -> Categories:
    """Read the label table.

    Raises:
        DataError: it is missing, lacks a column, or an id is no number.
    """
    columns = ("raw_category", *RAW_ID_COLUMNS.values())
    categories: dict[str, dict[str, int]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, delimiter="\t")
            absent = [column for column in columns if column not in (reader.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{file} has no column '{absent[0]}'.", "It must be ScanNet's tab-separated label table."
                )
            for row in reader:
                ids = {label_set: int(row[column]) for label_set, column in RAW_ID_COLUMNS.items()}
                categories.setdefault(row["raw_category"], ids)
    except FileNotFoundError as error:
        raise DataError(
            f"{file} is missing.", "It comes with ScanNet; put it beside `scans`, or name its folder with --meta-dir."
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}.") from error
    return categories


def _annotate(
    segment_of: Int64Array, groups: list[dict[str, Any]], categories: Categories
) -> tuple[dict[str, Int32Array], Int32Array, list[tuple[str, int]]]:
    """Raw ids per label set [N] (0: unannotated), instance [N] and the unknown categories with their points."""
    instance = np.full(len(segment_of), IGNORE_INDEX, np.int32)
    raw_ids = {label_set: np.zeros(len(segment_of), np.int32) for label_set in RAW_ID_COLUMNS}
    present, compact = np.unique(segment_of, return_inverse=True)
    group_of = np.full(len(present), -1, np.int64)
    for position, group in enumerate(groups):
        group_of[np.isin(present, group["segments"])] = position
    owner = group_of[compact]
    annotated = owner >= 0
    instance[annotated] = np.array([group["id"] for group in groups], np.int32)[owner[annotated]]
    unknown: dict[str, int] = {}
    for position, group in enumerate(groups):
        if group["label"] not in categories:
            points = int((owner == position).sum())
            unknown[group["label"]] = unknown.get(group["label"], 0) + points
    for label_set, values in raw_ids.items():
        of_group = np.array([categories.get(group["label"], {}).get(label_set, 0) for group in groups], np.int32)
        values[annotated] = of_group[owner[annotated]]
    return raw_ids, instance, sorted(unknown.items())


def _read_segments(file: Path, vertices: int) -> Int64Array:
    try:
        values = np.asarray(_read_json(file)["segIndices"], np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} has no list 'segIndices' of whole numbers ({error!r}).") from error
    if values.shape != (vertices,):
        raise DataError(f"{file}: 'segIndices' has {values.size} entries, the mesh has {vertices} vertices.")
    return values


def _read_groups(file: Path) -> list[dict[str, Any]]:
    try:
        return [
            {"id": int(group["id"]), "label": str(group["label"]), "segments": np.asarray(group["segments"], np.int64)}
            for group in _read_json(file)["segGroups"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: 'segGroups' needs id, label and segments in every group ({error!r}).") from error


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.") from error
    except ValueError as error:
        raise DataError(f"{file} is not JSON: truncated or damaged ({error}).", "Download it again.") from error
