"""Writes scanned rooms in the raw layouts of ScanNet and S3DIS (see the README and BenchmarkScripts of ScanNet/ScanNet,
and the ReadMe of the Stanford3dDataset_v1.2)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gcbench.data.rooms.catalogue import Catalogue
from gcbench.data.rooms.scan import ScannedRoom
from gcbench.structures import Float64Array, Int64Array

_FRAME_STEP = 10
_SEGMENT = 0.55  # metres, the edge of the blocks that large surfaces are over-segmented into
_UNANNOTATED = 0.015  # share of segments that no annotator touched
_S3DIS_POINTS_PER_M2 = 400.0
_MESH = "{0}_vh_clean_2.ply"
_SEGMENTS = "{0}_vh_clean_2.0.010000.segs.json"
_AGGREGATION = "{0}.aggregation.json"


def write_scannet_scan(room: ScannedRoom, name: str, folder: Path, rng: np.random.Generator) -> None:
    """Mesh, segments, aggregation and scene text of one scan into an existing folder."""
    _write_ply(room, folder / _MESH.format(name))
    segments = _over_segment(room)
    parameters = {"kThresh": "0.010000", "segMinVerts": "20", "minPoints": "750", "maxPoints": "30000",
                  "thinThresh": "0.05", "flatThresh": "0.001", "minLength": "0.02", "maxLength": "1"}  # fmt: skip
    content = {"params": parameters, "sceneId": name, "segIndices": segments.tolist()}
    (folder / _SEGMENTS.format(name)).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    groups: list[dict[str, object]] = []
    ids, first = np.unique(segments, return_index=True)
    owners, skipped = room.owner[first], rng.random(len(ids)) < _UNANNOTATED
    for number, item in enumerate(room.objects):
        mine = ids[(owners == number) & ~skipped]
        if item.label is not None and len(mine):
            where = len(groups)
            groups.append({"id": where, "objectId": where, "segments": mine.tolist(), "label": item.label})
    content = {"sceneId": f"scannet.{name}", "appId": "gcbench.synthetic_rooms", "segGroups": groups,
               "segmentsFile": f"scannet.{_SEGMENTS.format(name)}"}  # fmt: skip
    (folder / _AGGREGATION.format(name)).write_text(json.dumps(content), encoding="utf-8")
    width, height = (room.frames[0].depth.shape[::-1]) if room.frames else (0, 0)
    k = room.intrinsic
    lines = {
        "axisAlignment": " ".join(f"{x:.6f}" for x in room.alignment.ravel()),
        "colorHeight": height, "colorWidth": width, "depthHeight": height, "depthWidth": width,
        "fx_color": f"{k[0, 0]:.6f}", "fx_depth": f"{k[0, 0]:.6f}", "fy_color": f"{k[1, 1]:.6f}",
        "fy_depth": f"{k[1, 1]:.6f}", "mx_color": f"{k[0, 2]:.6f}", "mx_depth": f"{k[0, 2]:.6f}",
        "my_color": f"{k[1, 2]:.6f}", "my_depth": f"{k[1, 2]:.6f}", "numColorFrames": len(room.frames) * _FRAME_STEP,
        "numDepthFrames": len(room.frames) * _FRAME_STEP,
    }  # fmt: skip
    (folder / f"{name}.txt").write_text("".join(f"{key} = {value}\n" for key, value in lines.items()), encoding="utf-8")


def write_frames(room: ScannedRoom, folder: Path) -> None:
    """The exported RGB-D frames, numbered 0, 10, 20, ..."""
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir()
    matrix = np.eye(4)
    matrix[:3, :3] = room.intrinsic
    for kind in ("depth", "color"):
        (folder / "intrinsic" / f"intrinsic_{kind}.txt").write_text(_matrix_text(matrix), encoding="utf-8")
        (folder / "intrinsic" / f"extrinsic_{kind}.txt").write_text(_matrix_text(np.eye(4)), encoding="utf-8")
    for k, frame in enumerate(room.frames):
        number = str(_FRAME_STEP * k)
        (folder / "color" / f"{number}.jpg").write_bytes(frame.jpeg)
        Image.fromarray(frame.depth).save(folder / "depth" / f"{number}.png", compress_level=1)
        (folder / "pose" / f"{number}.txt").write_text(_matrix_text(frame.pose), encoding="utf-8")


def write_label_table(path: Path, catalogue: Catalogue, counts: Mapping[str, int]) -> None:
    """`scannetv2-labels.combined.tsv`, with the columns of the release and the counts of these rooms."""
    lines = ["\t".join(catalogue.labels.columns)]
    for row in catalogue.labels.rows:
        values = {**row.model_dump(), "count": counts.get(row.raw_category, 0)}
        lines.append("\t".join(str(values.get(column, "")) for column in catalogue.labels.columns))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def count_scannet_labels(scans: Sequence[Path]) -> Counter[str]:
    """Annotated objects per raw category over whole scan folders."""
    counts: Counter[str] = Counter()
    for scan in scans:
        groups = json.loads((scan / _AGGREGATION.format(scan.name)).read_text(encoding="utf-8"))["segGroups"]
        counts.update(group["label"] for group in groups)
    return counts


def write_s3dis_room(room: ScannedRoom, name: str, folder: Path, rng: np.random.Generator) -> None:
    """`<room>.txt` and `Annotations/<class>_<n>.txt`, points sampled on the scan's surface."""
    a, b, c = (room.points[room.faces[:, k]].astype(np.float64) for k in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    share = np.cumsum(area) / area.sum()
    count = round(_S3DIS_POINTS_PER_M2 * float(area.sum()))
    pick = np.sort(np.searchsorted(share, rng.random(count)))
    weights = rng.dirichlet((1.0, 1.0, 1.0), count)[:, :, None]
    corners = room.faces[pick]
    points = (room.points[corners] * weights).sum(axis=1)
    colors = np.rint((room.colors[corners] * weights).sum(axis=1)).astype(np.int64)
    owners = room.owner[corners[:, 0]]
    (folder / "Annotations").mkdir()
    numbers: Counter[str] = Counter()
    texts = []
    for number, item in enumerate(room.objects):
        mine = owners == number
        if not mine.any():
            continue
        numbers[item.s3dis] += 1
        texts.append(_point_text(points[mine], colors[mine]))
        path = folder / "Annotations" / f"{item.s3dis}_{numbers[item.s3dis]}.txt"
        path.write_text(texts[-1], encoding="utf-8")
    (folder / f"{name}.txt").write_text("".join(texts), encoding="utf-8")


def count_s3dis_classes(rooms: Sequence[Path]) -> Counter[str]:
    """Annotated objects per class over whole room folders."""
    return Counter(path.stem.rsplit("_", 1)[0] for room in rooms for path in sorted((room / "Annotations").iterdir()))


def _point_text(points: Float64Array, colors: Int64Array) -> str:
    values = np.concatenate([points, colors], axis=1).ravel().tolist()
    return ("%.3f %.3f %.3f %d %d %d\n" * len(points)) % tuple(values)


def _matrix_text(matrix: Float64Array) -> str:
    return "".join(" ".join(f"{x:.6f}" for x in row) + "\n" for row in matrix)


def _write_ply(room: ScannedRoom, path: Path) -> None:
    vertex = np.zeros(len(room.points), [("xyz", "<f4", 3), ("rgba", "u1", 4)])
    vertex["xyz"], vertex["rgba"][:, :3], vertex["rgba"][:, 3] = room.points, room.colors, 255
    face = np.zeros(len(room.faces), [("count", "u1"), ("index", "<i4", 3)])
    face["count"], face["index"] = 3, room.faces
    properties = [f"property float {axis}" for axis in "xyz"]
    properties += [f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")]
    header = ["ply", "format binary_little_endian 1.0", "comment synthetic room", f"element vertex {len(vertex)}"]
    header += [*properties, f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    path.write_bytes("\n".join(header).encode("ascii") + vertex.tobytes() + face.tobytes())


def _over_segment(room: ScannedRoom) -> Int64Array:
    """Segment id per vertex [N]: blocks of like direction within an object, named by their lowest vertex."""
    main = np.abs(room.normals).argmax(axis=1)
    sign = np.take_along_axis(room.normals, main[:, None], axis=1)[:, 0] > 0
    block = np.floor(room.points / _SEGMENT + 100).astype(np.int64)
    key = np.stack([room.owner, 2 * main + sign, *block.T], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.reshape(-1)], np.int64)
