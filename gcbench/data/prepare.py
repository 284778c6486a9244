"""From a raw folder to a prepared dataset.

Scenes are independent jobs for as many processes as wanted. A scene's file is whole or absent, so running the same
command again goes on where it stopped; `dataset.json` is written last, when every scene is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from gcbench.data import s3dis, scannet
from gcbench.data.arrow_files import content_sha256, read_table, write_batch
from gcbench.data.frames import read_exported_frames
from gcbench.data.storage import (
    FORMAT_VERSION,
    MANIFEST,
    PreparedDataset,
    fingerprint,
    scene_file,
    write_manifest,
    write_scene,
)
from gcbench.data.storage import read_scene as read_prepared_scene
from gcbench.errors import DataError, RunError
from gcbench.structures import Scene

SYNTHETIC_MARK = "SYNTHETIC.json"
_SHOWN = 10

OnScene = Callable[[str, int, int], None]
"""Called after each scene with its name, how many are done, and how many there are."""


@dataclass(frozen=True)
class _Job:
    """One scene, self-contained for a worker process."""

    out: Path
    layout: Literal["scannet", "s3dis"]
    name: str
    folder: Path
    labelled: bool
    options: Mapping[str, Any]
    categories: scannet.Categories | None = None
    frames_folder: Path | None = None
    frames_options: Mapping[str, Any] = field(default_factory=dict)


def prepare_scannet(
    raw: Path,
    out: Path,
    *,
    rgbd: Path | None = None,
    meta_dir: Path | None = None,
    every_frame: int = 1,
    max_width: int | None = None,
    workers: int = 0,
    on_scene: OnScene | None = None,
) -> PreparedDataset:
    """Prepare a raw ScanNet folder (`scans`, `scans_test`, the label table and split lists).

    Args:
        raw: the folder with `scans` and / or `scans_test`.
        out: the prepared dataset; what is finished in it is kept.
        rgbd: exported RGB-D frames, one folder per scene; None takes ``raw/rgbd`` where it is present.
        meta_dir: where the label table and split lists are; None takes `raw`.
        every_frame: keep every n-th exported frame.
        max_width: shrink wider frames to this width, pixels.
        workers: processes; 0 works in this one.
        on_scene: progress.

    Raises:
        DataError: something is missing or broken; every broken scene is named.
        RunError: the disk is full.
    """
    meta = meta_dir or raw
    labelled = _folders(raw / "scans")
    hidden = _folders(raw / "scans_test")
    if not labelled and not hidden:
        raise DataError(f"{raw} has neither scans/<id> nor scans_test/<id>.", "Give ScanNet's raw folder as RAW.")
    splits, notes = _scannet_splits(meta, [path.name for path in labelled], [path.name for path in hidden])
    categories = scannet.read_categories(meta / scannet.TSV_NAME) if labelled else None
    frames_root = rgbd or raw / "rgbd"
    if rgbd is not None and not rgbd.is_dir():
        raise DataError(f"There is no folder {rgbd}.", "Give the folder with one exported RGB-D folder per scene.")
    frames_options = {"every": every_frame, "max_width": max_width}
    jobs = [
        _Job(
            out=out,
            layout="scannet",
            name=folder.name,
            folder=folder,
            labelled=folder in labelled,
            options={},
            categories=categories if folder in labelled else None,
            frames_folder=frames_root / folder.name if (frames_root / folder.name).is_dir() else None,
            frames_options=frames_options,
        )
        for folder in [*labelled, *hidden]
    ]
    without = [job.name for job in jobs if job.frames_folder is None]
    if frames_root.is_dir() and without:
        notes.append(f"{len(without)} of {len(jobs)} scenes have no RGB-D frames: {_some(without)}")
    label_sets = sorted(scannet.RAW_ID_COLUMNS) if labelled else []
    normals = "area-weighted vertex normals from the mesh's faces"
    return _prepare(jobs, splits, raw, label_sets, normals, notes, workers, on_scene)


def prepare_s3dis(
    raw: Path,
    out: Path,
    *,
    neighbours: int = 16,
    workers: int = 0,
    on_scene: OnScene | None = None,
) -> PreparedDataset:
    """Prepare the aligned S3DIS release (`Area_1` ... `Area_6`).

    Args:
        raw: the folder with the areas.
        out: the prepared dataset; what is finished in it is kept.
        neighbours: points a normal is estimated from.
        workers: processes; 0 works in this one.
        on_scene: progress.

    Raises:
        DataError: something is missing or broken; every broken room is named.
        RunError: the disk is full.
    """
    areas = [folder for folder in _folders(raw) if folder.name.startswith("Area_")]
    if not areas:
        raise DataError(f"{raw} has no folder Area_1 ... Area_6.", "Give the unpacked aligned release as RAW.")
    jobs, splits = [], {}
    for area in areas:
        rooms = _folders(area)
        splits[area.name] = [f"{area.name}/{room.name}" for room in rooms]
        jobs += [
            _Job(out, "s3dis", f"{area.name}/{room.name}", room, True, {"neighbours": neighbours}) for room in rooms
        ]
    normals = s3dis.NORMALS_SOURCE.format(neighbours=neighbours)
    return _prepare(jobs, splits, raw, [s3dis.LABEL_SET], normals, [], workers, on_scene)


def _prepare(
    jobs: Sequence[_Job],
    splits: Mapping[str, Sequence[str]],
    raw: Path,
    label_sets: Sequence[str],
    normals: str,
    notes: Sequence[str],
    workers: int,
    on_scene: OnScene | None,
) -> PreparedDataset:
    if not jobs:
        raise DataError(f"{raw} has no scenes.")
    out = jobs[0].out
    mark = _synthetic_mark(raw)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    scenes = _run(jobs, workers, on_scene)
    write_manifest(
        out,
        {
            "format_version": FORMAT_VERSION,
            "layout": jobs[0].layout,
            "synthetic": mark is not None,
            "synthetic_rooms": mark,
            "label_sets": list(label_sets),
            "normals": normals,
            "splits": {split: list(names) for split, names in splits.items()},
            "scenes": scenes,
            "notes": list(notes),
            "fingerprint": fingerprint(scenes, splits),
        },
    )
    return PreparedDataset.open(out)


def _run(jobs: Sequence[_Job], workers: int, on_scene: OnScene | None) -> dict[str, Any]:
    """All scenes' manifest entries; broken scenes are collected, any other error stops at once."""
    entries: dict[str, Any] = {}
    broken: list[DataError] = []
    # spawned, not forked: a forked child of a process with running threads can hang
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) if workers > 0 else None
    with pool or nullcontext():
        for done, (name, result) in enumerate(_results(jobs, pool), start=1):
            if isinstance(result, DataError):
                broken.append(result)
            else:
                entries[name] = result
            if on_scene is not None:
                on_scene(name, done, len(jobs))
    if broken:
        listed = "\n".join(f"  {error}" for error in broken[:_SHOWN])
        more = f"\n  ... and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise DataError(
            f"{len(broken)} of {len(jobs)} scenes could not be prepared:\n{listed}{more}\n",
            "Mend or remove them and run the same command again: the other scenes are kept.",
        )
    return dict(sorted(entries.items()))


def _results(jobs: Sequence[_Job], pool: Executor | None) -> Any:
    if pool is None:
        for job in jobs:
            yield job.name, _work(job)
        return
    futures = {pool.submit(_work, job): job.name for job in jobs}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise RunError(
            "A worker process was killed, most likely for lack of memory.", "Run again with fewer --workers."
        ) from error
    finally:  # after an error or an interrupt: what has not begun is not begun
        pool.shutdown(cancel_futures=True)


def _work(job: _Job) -> dict[str, Any] | DataError:
    try:
        entry = _scene_entry(job)
        if job.frames_folder is not None:
            entry |= _frames_entry(job, job.frames_folder)
    except DataError as error:
        return error
    return entry


def _scene_entry(job: _Job) -> dict[str, Any]:
    path = scene_file(job.out, "scenes", job.name)
    options = {**job.options, "labelled": job.labelled, "raw": _sizes(job.folder)}
    if _kept(path, options) is None:
        scene, notes = _read_raw(job)
        write_scene(path, scene, {"options": options, "notes": notes})
    scene, metadata = read_prepared_scene(path)
    return {
        "points": len(scene),
        "labels": sorted(scene.segments),
        "sha256": content_sha256(path),
        "notes": metadata["notes"],
    }


def _frames_entry(job: _Job, folder: Path) -> dict[str, Any]:
    path = scene_file(job.out, "frames", job.name)
    options = {**job.frames_options, "raw": _sizes(folder)}
    metadata = _kept(path, options)
    if metadata is None:
        exported = read_exported_frames(folder, **job.frames_options)
        metadata = {"options": options, "dropped": list(exported.dropped)}
        write_batch(path, exported.batch, metadata)
    dropped = metadata["dropped"]
    entry = {"frames": read_table(path)[0].num_rows, "frames_dropped": len(dropped)}
    return {**entry, "frames_sha256": content_sha256(path)}


def _kept(path: Path, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Metadata of a file that an earlier run finished with the same options and raw files, else None."""
    if not path.is_file():
        return None
    try:
        metadata = read_table(path)[1]
    except DataError:  # not readable: written anew
        return None
    return metadata if metadata.get("options") == json.loads(json.dumps(options)) else None


def _read_raw(job: _Job) -> tuple[Scene, list[str]]:
    if job.layout == "s3dis":
        return s3dis.read_room(job.folder, **job.options)
    return scannet.read_scene(job.folder, job.categories)


def _sizes(folder: Path) -> list[int]:
    """Number of files and total bytes below a folder: a change of the raw files shows."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return [len(sizes), sum(sizes)]


def _folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scannet_splits(
    meta: Path, labelled: Sequence[str], hidden: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Scenes per split, and notes on listed scenes that are not there."""
    listed = {split: _read_list(meta / name) for split, name in scannet.SPLIT_FILES.items()}
    if labelled and not any(listed[split] for split in ("train", "val")):
        raise DataError(
            f"{meta} has no {scannet.SPLIT_FILES['train']} or {scannet.SPLIT_FILES['val']}, "
            f"but there are {len(labelled)} labelled scenes.",
            "Put ScanNet's split lists (its repository's Tasks/Benchmark) there, or name their folder with --meta-dir.",
        )
    homeless = sorted(set(labelled) - set(listed["train"]) - set(listed["val"]))
    twice = sorted(set(listed["train"]) & set(listed["val"]))
    for names, what in ((homeless, "in neither"), (twice, "in both")):
        if names:
            raise DataError(
                f"{len(names)} scenes are {what} {scannet.SPLIT_FILES['train']} and {scannet.SPLIT_FILES['val']} "
                f"of {meta}: {_some(names)}.",
                "Every labelled scene needs one split: correct the lists, or move the scenes out of scans/.",
            )
    splits = {split: [name for name in labelled if name in set(listed[split])] for split in ("train", "val")}
    splits["test"] = list(hidden)
    notes = []
    for split, names in listed.items():
        absent = sorted(set(names) - set(splits[split]))
        if absent:
            notes.append(f"{len(absent)} of {len(names)} scenes listed for {split} are not in RAW: {_some(absent)}")
    return splits, notes


def _read_list(file: Path) -> list[str]:
    if not file.is_file():
        return []
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _synthetic_mark(raw: Path) -> Any:
    file = raw / SYNTHETIC_MARK
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error}).", "Generate the rooms again.") from error


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
