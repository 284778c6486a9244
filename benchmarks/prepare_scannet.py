"""One raw ScanNet scene to arrays on disk, in one process: `gcbench data prepare scannet` beside Pointcept's script.

    python benchmarks/prepare_scannet.py [--reference POINTCEPT [--python PYTHON]] [--scenes 3] [--vertices 200000]
    python benchmarks/prepare_scannet.py --raw RAW [--reference POINTCEPT] [--scenes 3]

POINTCEPT is a checkout of Pointcept/Pointcept; PYTHON is an interpreter with pandas and plyfile (this one is taken
unless told otherwise). The scenes are bumpy sheets of the size of ScanNet's, or the first ones of the raw ScanNet
folder RAW. Ours reads, writes, flushes to disk and hashes; theirs is `handle_process` of preprocess_scannet.py, which
reads and writes. Prints the median seconds per scene of both, their ratio, where our time goes, and whether the arrays
are equal; the exit code is 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gcbench.data import scannet
from gcbench.data.labels import load_label_set
from gcbench.data.prepare import prepare_scannet
from gcbench.data.storage import PreparedDataset
from gcbench.structures import Float64Array

SCENE_FILES = ("{}_vh_clean_2.ply", "{}_vh_clean_2.0.010000.segs.json", "{}.aggregation.json")
READING = ("read_mesh", "vertex_normals", "_read_segments", "_read_groups", "_owners", "_classes")
NORMALS_WITHIN = 1e-5

# Run by the other interpreter: seconds of each scene, as JSON on the last line.
REFERENCE = """
import json, os, sys, time
import pandas as pd
script, raw, out = sys.argv[1:]
sys.path.insert(0, os.path.dirname(script))
import preprocess_scannet as reference
table = pd.read_csv(os.path.join(raw, "scannetv2-labels.combined.tsv"), sep="\\t", header=0)
lists = [open(os.path.join(raw, f"scannetv2_{split}.txt")).read().splitlines() for split in ("train", "val")]
seconds = []
for name in sorted(os.listdir(os.path.join(raw, "scans"))):
    start = time.perf_counter()
    reference.handle_process(os.path.join(raw, "scans", name), out, table, *lists)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


def generate(root: Path, scenes: int, vertices: int) -> Path:
    """A raw folder of labelled scenes: two triangles per vertex, about 60 vertices per segment, 40 groups."""
    names = [f"scene{number:04d}_00" for number in range(scenes)]
    classes, coarse = load_label_set("scannet200"), load_label_set("scannet20").ids
    raw_ids = zip(classes.ids, classes.classes, strict=True)
    rows = [("id", "raw_category", "nyu40id")]
    rows += [(str(raw), label, str((*coarse, 40)[k % 21])) for k, (raw, label) in enumerate(raw_ids)]
    root.mkdir()
    write_lists(root, names)
    (root / scannet.TSV_NAME).write_text("\n".join(map("\t".join, rows)) + "\n")
    for number, name in enumerate(names):
        rng = np.random.default_rng(number)
        folder = root / "scans" / name
        folder.mkdir(parents=True)
        side = round(vertices**0.5)
        write_mesh(folder / f"{name}_vh_clean_2.ply", side, rng)
        row, column = np.divmod(np.arange(side**2), side)
        of_vertex = row // 8 * side + column // 8
        present = np.unique(of_vertex)
        groups = [
            {"id": k, "objectId": k, "label": str(rng.choice(classes.classes)), "segments": part.tolist()}
            for k, part in enumerate(np.array_split(rng.permutation(present), 50)[:40])
        ]
        segments = {"params": {"kThresh": "0.0001"}, "sceneId": name, "segIndices": of_vertex.tolist()}
        (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments))
        (folder / f"{name}.aggregation.json").write_text(json.dumps({"sceneId": name, "segGroups": groups}))
    return root


def write_mesh(file: Path, side: int, rng: np.random.Generator) -> None:
    """A sheet of side x side vertices, 2 cm apart, bumpy and rough, as ScanNet's binary PLY."""
    row, column = np.divmod(np.arange(side**2), side)
    points: Float64Array = 0.02 * np.stack([row, column, 20 * np.sin(row / 30) * np.cos(column / 25)], axis=1)
    vertex = np.zeros(side**2, [*((axis, "<f4") for axis in "xyz"), ("color", "u1", 4)])
    for axis, values in zip("xyz", (points + rng.normal(0, 0.004, points.shape)).T, strict=True):
        vertex[axis] = values
    vertex["color"] = rng.integers(0, 256, (side**2, 4))
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1, 1)
    around = np.array([0, side, 1, side, side + 1, 1])
    face = np.zeros(2 * len(corner), [("length", "u1"), ("vertex_indices", "<i4", 3)])
    face["length"] = 3
    face["vertex_indices"] = (corner + around).reshape(-1, 3)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(vertex)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue", "alpha")]
    header += [f"element face {len(face)}", "property list uchar int vertex_indices", "end_header", ""]
    file.write_bytes("\n".join(header).encode() + vertex.tobytes() + face.tobytes())


def link(root: Path, raw: Path, scenes: int) -> Path:
    """A folder with links to the first labelled scenes of a raw ScanNet folder."""
    folders = sorted(path for path in (raw / "scans").iterdir() if path.is_dir())[:scenes]
    for folder in folders:
        (root / "scans" / folder.name).mkdir(parents=True)
        for pattern in SCENE_FILES:
            name = pattern.format(folder.name)
            (root / "scans" / folder.name / name).symlink_to((folder / name).resolve())
    (root / scannet.TSV_NAME).symlink_to((raw / scannet.TSV_NAME).resolve())
    write_lists(root, [folder.name for folder in folders])
    return root


def write_lists(root: Path, names: list[str]) -> None:
    for split, listed in (("train", names), ("val", []), ("test", [])):
        (root / scannet.SPLIT_FILES[split]).write_text("".join(f"{name}\n" for name in listed))


@contextmanager
def timed_parts(spent: Counter[str]) -> Iterator[None]:
    """Add up the seconds spent in the parts of `scannet.read_scene`."""
    originals = {name: getattr(scannet, name) for name in READING}

    def timed(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = originals[name](*arguments)
            spent[name] += time.perf_counter() - start  # type: ignore[assignment]
            return result

        return call

    for name in READING:
        setattr(scannet, name, timed(name))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(scannet, name, function)


def run_ours(raw: Path, out: Path) -> tuple[PreparedDataset, list[float], Counter[str]]:
    """The prepared dataset, seconds of each scene, and seconds of each part of reading over all scenes."""
    clock = [time.perf_counter()]
    spent: Counter[str] = Counter()
    with timed_parts(spent):
        dataset = prepare_scannet(raw, out, workers=0, on_scene=lambda *_: clock.append(time.perf_counter()))
    return dataset, np.diff(clock).tolist(), spent


def run_reference(checkout: Path, python: str, raw: Path, out: Path) -> list[float]:
    """Seconds of each scene."""
    script = checkout.resolve() / "pointcept/datasets/preprocessing/scannet/preprocess_scannet.py"
    if not script.is_file():
        sys.exit(f"{script} is missing: --reference must be a checkout of Pointcept.")
    command = [python, "-c", REFERENCE, str(script), str(raw), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"The reference stopped:\n{done.stderr}")
    return list(json.loads(done.stdout.splitlines()[-1]))


def compare(dataset: PreparedDataset, out: Path) -> tuple[list[str], float]:
    """Arrays that differ, as `scene/array`, and the largest difference of a normal's component."""
    unequal: list[str] = []
    worst = 0.0
    for name in dataset.scene_names("train"):
        scene = dataset.scene(name)
        arrays: dict[str, Any] = {"coord": scene.coord, "color": scene.color, "instance": scene.instance}
        arrays |= {f"segment{label_set[len('scannet') :]}": ids for label_set, ids in scene.segments.items()}
        theirs = {file.stem: np.load(file) for file in (out / "train" / name).iterdir()}
        worst = max(worst, float(np.abs(scene.normal - theirs.pop("normal")).max()))
        unequal += [f"{name}/{key}" for key, values in theirs.items() if not np.array_equal(values, arrays[key])]
    return unequal, worst


def rate(seconds: list[float]) -> str:
    middle = statistics.median(seconds)
    return f"{middle:7.3f} s per scene, {1 / middle:.2f} scenes per second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--vertices", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = link(root / "raw", options.raw, options.scenes) if options.raw else root / "raw"
        if not options.raw:
            generate(raw, options.scenes, options.vertices)
        run_ours(raw, root / "warm")  # the first call in a process loads libraries
        dataset, ours, spent = run_ours(raw, root / "ours")
        points = sum(dataset.point_count(name) for name in dataset.scene_names("train"))
        print(f"{len(ours)} scenes, {points / len(ours):.0f} vertices each, one process")
        print(f"  gcbench    {rate(ours)}")
        for part, seconds in (*spent.items(), ("write, flush, hash, rest", sum(ours) - sum(spent.values()))):
            print(f"    {part.lstrip('_'):26}{1e3 * seconds / len(ours):7.1f} ms")
        if options.reference is None:
            return
        theirs = run_reference(options.reference, options.python, raw, root / "theirs")
        print(f"  reference  {rate(theirs)}")
        print(f"  reference / gcbench: {statistics.median(theirs) / statistics.median(ours):.1f}")
        unequal, worst = compare(dataset, root / "theirs")
        print(f"  coordinates, colours, labels, instances: {', '.join(unequal) + ' differ' if unequal else 'equal'}")
        print(f"  normals: largest difference {worst:.1e}")
        if unequal or not worst <= NORMALS_WITHIN:
            sys.exit(1)


if __name__ == "__main__":
    main()
