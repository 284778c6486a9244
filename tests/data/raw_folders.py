"""Small raw folders in the real layouts, for tests: a wavy floor, a wall, and cameras that look at them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement

from gcbench.structures import Float64Array

FOCAL, WIDTH, HEIGHT = 60.0, 64, 48
TABLE = (
    ("id", "raw_category", "category", "nyu40id"),
    ("1", "wall", "wall", "1"),
    ("3", "floor", "floor", "2"),
    ("2", "chair", "chair", "5"),
    ("29", "closed door", "door", "8"),
    ("5000", "odd thing", "odd thing", "40"),
)


def sheet(side: int = 12, seed: int = 0) -> tuple[Float64Array, Float64Array]:
    """Vertices [side^2, 3] of a wavy sheet of 2 x 2 m and its triangles [F, 3], both sides of each square."""
    step = np.linspace(-1, 1, side)
    x, y = (axis.reshape(-1) for axis in np.meshgrid(step, step, indexing="ij"))
    z = 0.2 * np.sin(2 * x + seed) * np.cos(2 * y)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    faces = np.concatenate(
        [
            np.stack([corner, corner + side, corner + 1], axis=1),
            np.stack([corner + side, corner + side + 1, corner + 1], axis=1),
        ]
    )
    return np.stack([x, y, z], axis=1), faces


def write_mesh(file: Path, seed: int = 0) -> int:
    """Write the sheet as a ScanNet mesh; returns the number of vertices."""
    points, faces = sheet(seed=seed)
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("alpha", "u1")]
    vertex = np.zeros(len(points), fields)
    for axis, name in enumerate("xyz"):
        vertex[name] = points[:, axis]
    rng = np.random.default_rng(seed)
    for name in ("red", "green", "blue"):
        vertex[name] = rng.integers(0, 256, len(points))
    face = np.zeros(len(faces), [("vertex_indices", "i4", (3,))])
    face["vertex_indices"] = faces
    file.parent.mkdir(parents=True, exist_ok=True)
    PlyData([PlyElement.describe(vertex, "vertex"), PlyElement.describe(face, "face")]).write(str(file))
    return len(points)


def write_scene(root: Path, name: str, *, labelled: bool, seed: int = 0) -> Path:
    """Write one scene folder: segments of 12 vertices, groups floor, chair and an unknown category."""
    folder = root / ("scans" if labelled else "scans_test") / name
    count = write_mesh(folder / f"{name}_vh_clean_2.ply", seed)
    if labelled:
        segments = (np.arange(count) // 12 * 7).tolist()
        groups = [
            {"id": 0, "objectId": 0, "label": "floor", "segments": [7 * k for k in range(8)]},
            {"id": 1, "objectId": 1, "label": "chair", "segments": [7 * 7, 7 * 8]},
            {"id": 2, "objectId": 2, "label": "no such thing", "segments": [7 * 9]},
            {"id": 3, "objectId": 3, "label": "odd thing", "segments": [7 * 10]},
        ]
        (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segments}))
        (folder / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    return folder


def write_table(root: Path) -> Path:
    file = root / "scannetv2-labels.combined.tsv"
    file.write_text("\n".join("\t".join(row) for row in TABLE) + "\n")
    return file


def write_frames(folder: Path, *, count: int = 10, lost: tuple[int, ...] = (), color_size: int = 1) -> None:
    """Write exported frames of the sheet: depth by splatting its points, camera above, pixel centres at + 0."""
    points, _ = sheet(side=150)
    intrinsic = np.eye(4)
    intrinsic[:2, :2] *= FOCAL
    intrinsic[:2, 2] = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", intrinsic)
    for position in range(count):
        number = 10 * position
        pose = np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = (0.02 * position, 0.0, 2.0)
        seen = np.linalg.inv(pose)[:3] @ np.vstack([points.T, np.ones(len(points))])
        u, v = (np.rint(FOCAL * seen[axis] / seen[2] + intrinsic[axis, 2]).astype(int) for axis in (0, 1))
        inside = (u >= 0) & (u < WIDTH) & (v >= 0) & (v < HEIGHT)
        depth = np.zeros((HEIGHT, WIDTH), np.uint16)
        depth[v[inside], u[inside]] = np.rint(1000 * seen[2, inside])
        Image.fromarray(depth).save(folder / "depth" / f"{number}.png")
        color = np.full((HEIGHT * color_size, WIDTH * color_size, 3), 20 * position, np.uint8)
        Image.fromarray(color).save(folder / "color" / f"{number}.jpg", quality=95)
        np.savetxt(folder / "pose" / f"{number}.txt", np.full((4, 4), -np.inf) if number in lost else pose)


def write_scannet(
    root: Path, *, train: int = 2, val: int = 1, hidden: int = 1, frames: int = 0, first: int = 0
) -> Path:
    """Write a raw ScanNet folder with split lists, the label table and, where wanted, exported frames."""
    numbers = iter(range(first, first + train + val + hidden))
    for split, count in (("train", train), ("val", val), ("test", hidden)):
        names = [f"scene{next(numbers):04d}_00" for _ in range(count)]
        for name in names:
            write_scene(root, name, labelled=split != "test", seed=int(name[5:9]))
            if frames:
                write_frames(root / "rgbd" / name, count=frames)
        (root / f"scannetv2_{split}.txt").write_text("".join(f"{name}\n" for name in names))
    write_table(root)
    return root


def write_room(root: Path, name: str, *, seed: int = 0, stray: bytes = b"") -> Path:
    """Write one S3DIS room of a floor, two chairs and stairs; `stray` goes into the first number of the floor."""
    rng = np.random.default_rng(seed)
    folder = root / name / "Annotations"
    folder.mkdir(parents=True)
    for file, height, points in (
        ("floor_1", 0.0, 300),
        ("chair_1", 0.5, 80),
        ("chair_2", 0.7, 80),
        ("stairs_1", 0.9, 40),
    ):
        coord = np.column_stack([rng.uniform(0, 3, (points, 2)), np.full(points, height)])
        rows = [
            f"{x:.3f} {y:.3f} {z:.3f} {r} {g} {b}"
            for (x, y, z), (r, g, b) in zip(coord, rng.integers(0, 256, (points, 3)), strict=True)
        ]
        content = ("\n".join(rows) + "\n").encode()
        if file == "floor_1" and stray:
            content = content[:3] + stray + content[3:]
        (folder / f"{file}.txt").write_bytes(content)
    return root / name
