"""Import of Pointcept's folders as a prepared dataset, with or without a copy, and export to them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gcbench.data import s3dis
from gcbench.data.arrow_files import kept_metadata
from gcbench.data.labels import load_label_set
from gcbench.data.npy_files import map_npy, write_npy
from gcbench.data.pointcept import (
    HIDDEN,
    SEGMENT_FILES,
    PointceptFolders,
    check_scene,
    find_folders,
    open_scene,
    scene_arrays,
)
from gcbench.data.prepare import SYNTHETIC_MARK, synthetic_mark
from gcbench.data.scene_jobs import OnScene, alone_in, build_dataset, run_jobs
from gcbench.data.storage import PreparedDataset, describe, scene_entry, scene_file, scene_sha256, write_scene
from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.structures import Scene

_NORMALS = "as in the Pointcept folders"
_UNFINISHED = ".{}.unfinished"


@dataclass(frozen=True)
class ImportJob:
    """One scene's folder; it must have the files `labels`."""

    out: Path
    name: str
    root: Path
    folder: str
    layout: str
    labels: Sequence[str]
    classes: Mapping[str, int]
    neighbours: int
    in_place: bool

    def run(self) -> dict[str, Any]:
        """See `SceneJob`."""
        path = scene_file(self.out, "scenes", self.name)
        source = self.root / self.folder
        self._check_files(source)
        estimated = self.layout == "s3dis" and not (source / "normal.npy").exists()
        normals = s3dis.NORMALS_SOURCE.format(neighbours=self.neighbours) if estimated else None
        if self.in_place:
            scene = self._read(source)
            return {**describe(scene, scene_sha256(scene), []), "folder": self.folder}
        options = {"normals": normals, "raw": _state(source)}
        if kept_metadata(path, options) is None:
            metadata: dict[str, Any] = {"options": options, "notes": []}
            write_scene(path, self._read(source), metadata if normals is None else {**metadata, "normals": normals})
        return scene_entry(path)

    def _check_files(self, source: Path) -> None:
        lost = [stem for stem in self.labels if not (source / f"{stem}.npy").exists()]
        if lost:
            raise DataError(f"{source / lost[0]}.npy is missing; other scenes have it.")
        if (source / "normal.npy").exists():
            return
        if self.layout == "scannet":
            raise DataError(f"{source / 'normal.npy'} is missing.", "Process ScanNet with --parse_normals True.")
        if self.in_place:
            raise DataError(
                f"{source / 'normal.npy'} is missing, and an import in place has nowhere to keep estimated normals.",
                "Import without --in-place.",
            )

    def _read(self, source: Path) -> Scene:
        estimate = partial(s3dis.estimate_normals, neighbours=self.neighbours) if self.layout == "s3dis" else None
        scene = open_scene(source, self.name, self.layout, estimate)
        check_scene(scene, source, self.layout, self.classes)
        return scene


@dataclass(frozen=True)
class ExportJob:
    """One scene of the prepared dataset in `root`, and the folder it becomes."""

    root: Path
    name: str
    folder: Path

    def run(self) -> dict[str, Any]:
        """See `SceneJob`; a folder that is there is compared, never written over."""
        dataset = PreparedDataset.open(self.root)
        arrays = scene_arrays(dataset.scene(self.name), dataset.layout)
        unfinished = self.folder.with_name(_UNFINISHED.format(self.folder.name))
        shutil.rmtree(unfinished, ignore_errors=True)
        if self.folder.exists():
            self._compare(arrays, dataset.layout)
            return {"written": False}
        try:
            for stem, values in arrays.items():
                write_npy(unfinished / f"{stem}.npy", values)
            unfinished.rename(self.folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return {"written": True}

    def _compare(self, arrays: Mapping[str, np.ndarray[Any, Any]], layout: str) -> None:
        way_out = "Remove that folder, or export to another one."
        for stem in ("coord", "color", "normal", *SEGMENT_FILES[layout], "instance"):
            file, expected = self.folder / f"{stem}.npy", arrays.get(stem)
            found = map_npy(file) if file.exists() else None
            if found is None and expected is None:
                continue
            if found is None or expected is None:
                which = "without" if found is None else "with"
                raise DataError(f"{self.folder} is there already, {which} {file.name}.", way_out)
            if (found.dtype, found.shape) != (expected.dtype, expected.shape) or found.tobytes() != expected.tobytes():
                raise DataError(f"{file} is there already, with other content.", way_out)


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes:
        written: scenes written now.
        kept: scenes that an earlier export had written.
        failed: scene -> message.
        notes: what the layout cannot hold.
    """

    written: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def import_pointcept(
    root: Path,
    out: Path,
    *,
    in_place: bool = False,
    neighbours: int = 16,
    workers: int = 0,
    on_scene: OnScene | None = None,
    keep_going: bool = False,
) -> PreparedDataset:
    """Make a prepared dataset of folders that were processed with Pointcept.

    Args:
        root: the folder with train, val, test (ScanNet) or Area_1 ... Area_6 (S3DIS).
        out: the prepared dataset; what is finished in it is kept.
        in_place: write `dataset.json` alone; scenes are mapped from `root` whenever they are opened.
        neighbours: points a normal of S3DIS is estimated from where a room has none.
        workers: processes; 0 works in this one.
        on_scene: progress.
        keep_going: do all scenes that can be done instead of stopping at the first broken one.

    Raises:
        DataError: `root` has another layout, or a file is missing or broken; it is named.
        RunError: the disk is full, or another process is preparing into `out`.
    """
    found = find_folders(root)
    if out.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{out} lies in {root}.", "Give OUT a folder of its own.")
    mark = synthetic_mark(root)
    label_sets = SEGMENT_FILES[found.layout]
    if not any(stem in found.label_files for stem in label_sets) and found.labelled:
        _no_labels(found)
    place = Path(root).absolute()
    header = {
        "layout": found.layout,
        "synthetic": mark is not None,
        "synthetic_rooms": mark,
        "label_sets": sorted(label_set for stem, label_set in label_sets.items() if stem in found.label_files),
        "normals": _NORMALS,
    }
    if in_place:
        header["storage"] = {"kind": "pointcept", "root": str(place)}
    classes = {label_set: len(load_label_set(label_set)) for label_set in label_sets.values()}
    jobs = [
        ImportJob(
            out=out,
            name=name,
            root=place,
            folder=found.folders[name],
            layout=found.layout,
            labels=() if split == HIDDEN else found.label_files,
            classes=classes,
            neighbours=neighbours,
            in_place=in_place,
        )
        for split, names in found.splits.items()
        for name in names
    ]
    return build_dataset(
        out,
        jobs,
        splits=found.splits,
        header=header,
        notes=found.notes,
        workers=workers,
        on_scene=on_scene,
        keep_going=keep_going,
    )


def export_pointcept(
    dataset: PreparedDataset,
    out: Path,
    *,
    workers: int = 0,
    on_scene: OnScene | None = None,
    keep_going: bool = False,
) -> Exported:
    """Write a prepared dataset as Pointcept's folders, so that `import_pointcept` of them gives it back.

    A scene's folder is whole or absent; one that is there already must have the same content.

    Args:
        dataset: the prepared dataset; its RGB-D frames are left out.
        out: the folder for train, val, test (ScanNet) or Area_1 ... Area_6 (S3DIS).
        workers: processes; 0 works in this one.
        on_scene: progress.
        keep_going: do all scenes that can be done instead of stopping at the first broken one.

    Raises:
        DataError: a scene is broken, has a label that the layout cannot hold, or is there with other content.
        RunError: the disk is full, or another process is writing to `out`.
    """
    if dataset.layout not in SEGMENT_FILES:
        raise DataError(f"{dataset.root} has layout '{dataset.layout}', Pointcept has none for it.")
    if out.resolve() == dataset.root.resolve():
        raise DataError(f"{out} is the prepared dataset itself.", "Give OUT a folder of its own.")
    jobs = [
        ExportJob(
            root=dataset.root,
            name=name,
            folder=out / name if dataset.layout == "s3dis" else out / split / name,
        )
        for split, names in dataset.splits.items()
        for name in names
    ]
    with alone_in(out):
        if dataset.synthetic:  # generated rooms stay marked, whoever imports them
            write_atomic(out / SYNTHETIC_MARK, json.dumps(dataset.manifest.get("synthetic_rooms")) + "\n")
        entries, failed = run_jobs(out, jobs, workers, on_scene, keep_going)
    frames = sum(dataset.frame_count(name) for name in dataset.manifest["scenes"])
    return Exported(
        written=tuple(name for name, entry in entries.items() if entry["written"]),
        kept=tuple(name for name, entry in entries.items() if not entry["written"]),
        failed=failed,
        notes=(f"{frames} RGB-D frames were left out: the layout has none",) if frames else (),
    )


def _state(source: Path) -> list[list[Any]]:
    """Name, size and time of a folder's arrays: a change of any of them shows, even of equal size."""
    files = sorted(source.glob("*.npy"))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _no_labels(found: PointceptFolders) -> None:
    stems = " or ".join(f"{stem}.npy" for stem in SEGMENT_FILES[found.layout])
    raise DataError(f"No labelled scene of {found.root} has {stems}.", f"Is it {found.layout} at all?")
