"""Opening prepared scenes: ours beside `np.load` of a folder of .npy files per scene, in one run.

    python benchmarks/prepared_scenes.py [--scenes 1201] [--small 2000] [--large 150000] [--workers 2]

Makes a set of `--scenes` scenes, the first of `--large` points and the others of `--small`, then measures with files in
the page cache: opening the set, opening the large scene, opening every scene, and the time until a `DataLoader`'s
workers have delivered their first scene. The baseline is what Pointcept's datasets do: list the folders, `np.load`
every array, convert it.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from gcbench.data.npy_files import write_npy
from gcbench.data.pointcept import scene_arrays
from gcbench.data.storage import (
    FORMAT_VERSION,
    PreparedDataset,
    describe,
    fingerprint,
    scene_file,
    scene_sha256,
    write_manifest,
    write_scene,
)
from gcbench.structures import Scene

REPEATS = 9
LAYOUT = "scannet"


@dataclass
class Prepared(Dataset[int]):
    """Scenes of a prepared dataset; an item is the sum of a colour channel, so that the worker reads something."""

    dataset: PreparedDataset
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, position: int) -> int:
        return int(self.dataset.scene(self.names[position]).color[:, 0].sum())


@dataclass
class Folders(Dataset[int]):
    """The same from folders of .npy files."""

    folders: Sequence[Path]

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, position: int) -> int:
        return int(load_folder(self.folders[position])["color"][:, 0].sum())


def load_folder(folder: Path) -> dict[str, NDArray[Any]]:
    """The baseline: every array of a folder, read and converted as Pointcept does."""
    arrays = {file.stem: np.load(file) for file in folder.iterdir() if file.suffix == ".npy"}
    floats = {stem: arrays[stem].astype(np.float32) for stem in ("coord", "color", "normal")}
    return floats | {stem: arrays[stem].reshape(-1).astype(np.int32) for stem in arrays.keys() - floats.keys()}


def make_scene(name: str, points: int, seed: int) -> Scene:
    rng = np.random.default_rng(seed)
    return Scene(
        name=name,
        coord=rng.uniform(0, 8, (points, 3)).astype(np.float32),
        color=rng.integers(0, 256, (points, 3)).astype(np.uint8),
        normal=rng.uniform(-1, 1, (points, 3)).astype(np.float32),
        segments={
            "scannet20": rng.integers(-1, 20, points).astype(np.int16),
            "scannet200": rng.integers(-1, 200, points).astype(np.int16),
        },
        instance=rng.integers(-1, 40, points).astype(np.int32),
    )


def make_set(root: Path, scenes: int, small: int, large: int) -> tuple[PreparedDataset, PreparedDataset, list[Path]]:
    """The set as prepared files, in place, and as folders; the in-place one maps the folders."""
    names = [f"scene{number:04d}_00" for number in range(scenes)]
    entries = {}
    for number, name in enumerate(names):
        scene = make_scene(name, small if number else large, number)
        write_scene(scene_file(root / "prepared", "scenes", name), scene, {"notes": []})
        for stem, values in scene_arrays(scene, LAYOUT).items():
            write_npy(root / "folders" / "train" / name / f"{stem}.npy", values)
        entries[name] = {**describe(scene, scene_sha256(scene), []), "folder": f"train/{name}"}
    splits = {"train": names, "val": [], "test": []}
    header = {"format_version": FORMAT_VERSION, "layout": LAYOUT, "synthetic": True, "label_sets": []}
    content = {"splits": splits, "scenes": entries, "fingerprint": fingerprint(entries, splits)}
    write_manifest(root / "prepared", {**header, **content})
    storage = {"kind": "pointcept", "root": str((root / "folders").absolute())}
    write_manifest(root / "placed", {**header, **content, "storage": storage})
    folders = [root / "folders" / "train" / name for name in names]
    return PreparedDataset.open(root / "prepared"), PreparedDataset.open(root / "placed"), folders


def median(action: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median seconds of an action, after one run that is not counted."""
    action()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def touch(scene: Scene) -> None:
    """Read every byte of a scene."""
    for values in (scene.coord, scene.color, scene.normal, *scene.segments.values(), scene.instance):
        assert values is not None
        values.max()


def first_item(data: Dataset[int], workers: int, method: str) -> float:
    """Seconds from asking a loader for its first scene to having one of every worker."""
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=method)
    start = time.perf_counter()
    items = iter(loader)
    for _ in range(workers):
        next(items)
    seconds = time.perf_counter() - start
    del items
    return seconds


def import_seconds(module: str) -> float:
    """Seconds a fresh interpreter takes to import a module, less those of starting."""

    def run(code: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - start

    return min(run(f"import {module}") for _ in range(3)) - min(run("pass") for _ in range(3))


def line(what: str, ours: float, baseline: float, bar: float | None = None) -> None:
    limit = "" if bar is None else f"  {'met' if ours < bar else 'MISSED'}: under {bar * 1e3:g} ms"
    print(f"{what:<58} {ours * 1e3:10.3f} ms   {baseline * 1e3:10.3f} ms   {baseline / ours:7.1f}x{limit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1201)
    parser.add_argument("--small", type=int, default=2000)
    parser.add_argument("--large", type=int, default=150_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset, placed, folders = make_set(root, options.scenes, options.small, options.large)
        names = dataset.scene_names("train")
        print(f"{'':<58} {'ours':>13} {'np.load of folders':>18}")
        listing = median(lambda: sorted((root / "folders").glob("*/*")))
        line(f"open the set of {options.scenes} scenes", median(lambda: PreparedDataset.open(dataset.root)), listing, 1)
        large = median(lambda: load_folder(folders[0]), 50)
        line(f"open a scene of {options.large} points", median(lambda: dataset.scene(names[0]), 200), large, 1e-3)
        line("the same, in place (labels are converted)", median(lambda: placed.scene(names[0]), 200), large)
        read = median(lambda: touch(dataset.scene(names[0])), 50)
        line(
            "open it and read every value",
            read,
            median(lambda: [v.max() for v in load_folder(folders[0]).values()], 50),
        )
        every = median(lambda: [load_folder(item) for item in folders], 3)
        line(f"open all {options.scenes} scenes", median(lambda: [dataset.scene(name) for name in names], 3), every)
        loaders: tuple[Dataset[int], Dataset[int]] = (Prepared(dataset, names[1:]), Folders(folders[1:]))
        for method in ("fork", "spawn"):
            ours, theirs = (median(partial(first_item, data, options.workers, method), 3) for data in loaders)
            line(f"{options.workers} workers ({method}) have delivered a scene each", ours, theirs, 2)
    for module in ("torch", "pyarrow", "gcbench.data.storage"):
        print(f"a spawned worker imports {module:<22} {import_seconds(module):6.2f} s")


if __name__ == "__main__":
    main()
