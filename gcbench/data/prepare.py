"""From a raw folder to a prepared dataset: finds the scenes, their splits and frames, and makes one job of each.

What runs the jobs is in scene_jobs.py, what reads the files in scannet.py, s3dis.py, frames.py and sens.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcbench.data import metadata, s3dis, scannet
from gcbench.data.arrow_files import content_sha256, kept_metadata, read_table, write_batch
from gcbench.data.frames import SceneFrames, read_exported_frames
from gcbench.data.mesh_normals import cache_area_mesh
from gcbench.data.scene_jobs import OnScene, build_dataset, some
from gcbench.data.sens import read_sens
from gcbench.data.storage import PreparedDataset, scene_entry, scene_file, write_scene
from gcbench.errors import DataError

SYNTHETIC_MARK = "SYNTHETIC.json"
EVERY_EXPORTED, EVERY_SENS = 1, 10
"""Which frames are kept unless told otherwise: exported folders were thinned when they were exported."""
_READERS = 2  # counts changes of what the readers make of the same raw files: older scene files are written anew
_NORMALS_SCANNET = "area-weighted vertex normals from the mesh's faces"


@dataclass(frozen=True)
class ScanNetJob:
    """One scene of ScanNet: mesh, labels where `categories` are given, frames where `frames` names a source."""

    out: Path
    name: str
    folder: Path
    categories: scannet.Categories | None = None
    frames: Path | None = None
    frames_options: Mapping[str, Any] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """See `SceneJob`."""
        path = scene_file(self.out, "scenes", self.name)
        raw = (file for file in self.folder.iterdir() if file.suffix in (".ply", ".json"))
        options = {"labelled": self.categories is not None, **_origin(raw)}
        if kept_metadata(path, options) is None:
            scene, notes = scannet.read_scene(self.folder, self.categories)
            write_scene(path, scene, {"options": options, "notes": notes})
        entry = scene_entry(path)
        return entry if self.frames is None else entry | self._frames_entry(self.frames)

    def _frames_entry(self, source: Path) -> dict[str, Any]:
        path = scene_file(self.out, "frames", self.name)
        raw = (file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
        options = {**self.frames_options, **_origin(raw)}
        written = kept_metadata(path, options)
        if written is None:
            frames = _read_frames(source, self.frames_options)
            written = {"options": options, "dropped": dict(zip(map(str, frames.dropped), frames.reasons, strict=True))}
            write_batch(path, frames.batch, written)
        entry = {"frames": read_table(path)[0].num_rows, "frames_dropped": len(written["dropped"])}
        return {**entry, "frames_sha256": content_sha256(path)}


@dataclass(frozen=True)
class S3DISJob:
    """One room of S3DIS; normals from the mesh cached in the folder `mesh`, or estimated."""

    out: Path
    name: str
    folder: Path
    neighbours: int
    angle: float | None = None
    mesh: Path | None = None

    def run(self) -> dict[str, Any]:
        """See `SceneJob`."""
        path = scene_file(self.out, "scenes", self.name)
        raw = (self.folder / "Annotations").glob("*.txt")
        options = {"neighbours": self.neighbours, "angle": self.angle, "mesh": self.mesh is not None, **_origin(raw)}
        if kept_metadata(path, options) is None:
            room = s3dis.read_room(self.folder, neighbours=self.neighbours, angle=self.angle, mesh=self.mesh)
            write_scene(path, room.scene, {"options": options, "notes": room.notes, "normals": room.normals})
        return scene_entry(path)


def prepare_scannet(
    raw: Path,
    out: Path,
    *,
    rgbd: Path | None = None,
    meta_dir: Path | None = None,
    frames: bool = True,
    every_frame: int | None = None,
    max_width: int | None = None,
    workers: int = 0,
    on_scene: OnScene | None = None,
    keep_going: bool = False,
) -> PreparedDataset:
    """Prepare a raw ScanNet folder (`scans`, `scans_test`, the label table and split lists).

    Args:
        raw: the folder with `scans` and / or `scans_test`.
        out: the prepared dataset; what is finished in it is kept.
        rgbd: exported RGB-D frames, one folder per scene; None takes ``raw/rgbd`` where it is present. A scene without
            such a folder takes its frames from ``<id>.sens`` beside its mesh, if that is there.
        meta_dir: where the label table and split lists are; None takes `raw`, then the official files (downloaded).
        frames: False leaves RGB-D frames out.
        every_frame: keep every n-th frame; None: all exported ones, every 10th of a `.sens`.
        max_width: shrink wider frames to this width, pixels.
        workers: processes; 0 works in this one.
        on_scene: progress.
        keep_going: do all scenes that can be done instead of stopping at the first broken one.

    Raises:
        DataError: something is missing or broken; it is named.
        RunError: the disk is full, or another process is preparing into `out`.
    """
    labelled = _folders(raw / "scans")
    hidden = _folders(raw / "scans_test")
    if not labelled and not hidden:
        raise DataError(f"{raw} has neither scans/<id> nor scans_test/<id>.", "Give ScanNet's raw folder as RAW.")
    mark = synthetic_mark(raw)
    folders = [meta_dir] if meta_dir is not None else [raw]
    splits, notes = _scannet_splits(folders, [path.name for path in labelled], [path.name for path in hidden], mark)
    categories = scannet.read_categories(metadata.find(scannet.TSV_NAME, folders)) if labelled else None
    sources = _frame_sources([*labelled, *hidden], raw, rgbd) if frames else {}
    if sources and len(sources) < len(labelled) + len(hidden):
        without = [folder.name for folder in [*labelled, *hidden] if folder.name not in sources]
        total = len(labelled) + len(hidden)
        notes.append(f"{len(without)} of {total} scenes have no RGB-D frames: {some(without)}")
    jobs = [
        ScanNetJob(
            out=out,
            name=folder.name,
            folder=folder,
            categories=categories if position < len(labelled) else None,
            frames=sources.get(folder.name),
            frames_options={"every": every_frame, "max_width": max_width},
        )
        for position, folder in enumerate([*labelled, *hidden])
    ]
    header = {
        "layout": "scannet",
        "synthetic": mark is not None,
        "synthetic_rooms": mark,
        "label_sets": sorted(scannet.RAW_ID_COLUMNS) if labelled else [],
        "normals": _NORMALS_SCANNET,
    }
    return build_dataset(
        out,
        jobs,
        splits=splits,
        header=header,
        notes=notes,
        workers=workers,
        on_scene=on_scene,
        keep_going=keep_going,
    )


def prepare_s3dis(
    raw: Path,
    out: Path,
    *,
    release: str = "auto",
    meshes: Path | None = None,
    neighbours: int = 16,
    workers: int = 0,
    on_scene: OnScene | None = None,
    keep_going: bool = False,
) -> PreparedDataset:
    """Prepare S3DIS (`Area_1` ... `Area_6`), the aligned or the unaligned release.

    Args:
        raw: the folder with the areas.
        out: the prepared dataset; what is finished in it is kept.
        release: ``"aligned"``, ``"unaligned"`` (rooms are turned by their listed angles), or ``"auto"``.
        meshes: the 2D-3D-S download with a mesh per area, for normals; None estimates them.
        neighbours: points a normal is estimated from.
        workers: processes; 0 works in this one.
        on_scene: progress.
        keep_going: do all rooms that can be done instead of stopping at the first broken one.

    Raises:
        DataError: something is missing or broken; it is named.
        RunError: the disk is full, or another process is preparing into `out`.
    """
    mark = synthetic_mark(raw)
    found = s3dis.find_release(raw, release)
    splits = {area: [f"{area}/{room.name}" for room in rooms] for area, rooms in found.areas.items()}
    notes = list(found.notes)
    if mark is None:
        notes += s3dis.check_rooms({area: [room.name for room in rooms] for area, rooms in found.areas.items()})
    if meshes is not None and found.name == "aligned":
        raise DataError(
            f"The meshes of {meshes} fit the unaligned release; {raw} is the aligned one.",
            "Prepare the unaligned release (Stanford3dDataset_v1.2), or leave --meshes out.",
        )
    cache = out / ".meshes"
    cached = {} if meshes is None else {area: cache_area_mesh(meshes, area, cache) for area in found.areas}
    jobs = [
        S3DISJob(
            out=out,
            name=f"{area}/{room.name}",
            folder=room,
            neighbours=neighbours,
            angle=found.angles.get(f"{area}/{room.name}"),
            mesh=cached.get(area),
        )
        for area, rooms in found.areas.items()
        for room in rooms
    ]
    if not jobs:
        raise DataError(f"The areas of {raw} have no rooms.", "Give the unpacked release as RAW.")
    header = {
        "layout": "s3dis",
        "synthetic": mark is not None,
        "synthetic_rooms": mark,
        "label_sets": [s3dis.LABEL_SET],
        "normals": "see each room" if meshes is not None else s3dis.NORMALS_SOURCE.format(neighbours=neighbours),
    }
    dataset = build_dataset(
        out,
        jobs,
        splits=splits,
        header=header,
        notes=notes,
        workers=workers,
        on_scene=on_scene,
        keep_going=keep_going,
    )
    shutil.rmtree(cache, ignore_errors=True)
    return dataset


def _origin(raw: Iterable[Path]) -> dict[str, Any]:
    """What a scene was made from: number of raw files and their bytes, and the version of the readers."""
    sizes = [file.stat().st_size for file in raw]
    return {"raw": [len(sizes), sum(sizes)], "readers": _READERS}


def _read_frames(source: Path, options: Mapping[str, Any]) -> SceneFrames:
    every, max_width = options["every"], options["max_width"]
    if source.is_dir():
        return read_exported_frames(source, every=every or EVERY_EXPORTED, max_width=max_width)
    return read_sens(source, every=every or EVERY_SENS, max_width=max_width)


def _frame_sources(folders: Sequence[Path], raw: Path, rgbd: Path | None) -> dict[str, Path]:
    """Scene -> its exported frames' folder, else its `.sens` file."""
    if rgbd is not None and not rgbd.is_dir():
        raise DataError(f"There is no folder {rgbd}.", "Give the folder with one exported RGB-D folder per scene.")
    sources = {}
    for folder in folders:
        exported = (rgbd or raw / "rgbd") / folder.name
        stream = folder / f"{folder.name}.sens"
        if exported.is_dir():
            sources[folder.name] = exported
        elif stream.is_file():
            sources[folder.name] = stream
    return sources


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scannet_splits(
    folders: Sequence[Path], labelled: Sequence[str], hidden: Sequence[str], mark: Any
) -> tuple[dict[str, list[str]], list[str]]:
    """Scenes per split, and notes on listed scenes that are not there and on lists that are not the official ones.

    Lists are downloaded only when there are labelled scenes and the folders have neither `train` nor `val`.
    """
    own = {
        split: [folder / name for folder in folders if (folder / name).is_file()]
        for split, name in scannet.SPLIT_FILES.items()
    }
    if labelled and not own["train"] and not own["val"]:
        files = {split: metadata.find(name, folders) for split, name in scannet.SPLIT_FILES.items()}
    else:
        files = {split: paths[0] for split, paths in own.items() if paths}
    listed = {split: _read_list(files[split]) if split in files else [] for split in scannet.SPLIT_FILES}
    homeless = sorted(set(labelled) - set(listed["train"]) - set(listed["val"]))
    twice = sorted(set(listed["train"]) & set(listed["val"]))
    for names, what in ((homeless, "in neither"), (twice, "in both")):
        if names:
            where = " and ".join(str(files.get(split, scannet.SPLIT_FILES[split])) for split in ("train", "val"))
            raise DataError(
                f"{len(names)} scenes are {what} of {where}: {some(names)}.",
                "Every labelled scene needs one split: correct the lists, or move the scenes out of scans/.",
            )
    inside = {split: set(names) for split, names in listed.items()}
    splits = {split: [name for name in labelled if name in inside[split]] for split in ("train", "val")}
    splits["test"] = list(hidden)
    notes = [] if mark is not None else [note for file in files.values() if (note := metadata.check(file))]
    for split, names in listed.items():
        absent = sorted(set(names) - set(splits[split]))
        if absent:
            notes.append(f"{len(absent)} of {len(names)} scenes listed for {split} are not in RAW: {some(absent)}")
    return splits, notes


def _read_list(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is no list of scene names ({error}).") from error


def synthetic_mark(raw: Path) -> Any:
    """What the generator wrote about synthetic rooms; None for real data.

    Raises:
        DataError: the mark is not JSON.
    """
    file = raw / SYNTHETIC_MARK
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}).", "Generate the rooms again.") from error
