"""Furnished synthetic rooms in the raw layouts of ScanNet and S3DIS: makes the package usable without either dataset.

A room depends on (seed, layout, its number) and the catalogue alone, never on how many processes make the rooms.
Each is written beside its place and then renamed, so that an interrupted call can be taken up again.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gcbench.data.rooms.catalogue import Catalogue, load_catalogue
from gcbench.errors import DataError, InputError
from gcbench.files import write_atomic

VERSION = 1
LAYOUTS = ("scannet", "s3dis")
MARKER = "SYNTHETIC.json"
_PROGRESS = ".synthetic_rooms.json"
_AREAS = 6


@dataclass(frozen=True)
class RoomsPlan:
    """What one call writes; two calls agree if their plans do."""

    version: int
    layout: str
    scenes: int
    val: int
    seed: int
    frames: int
    frame_size: tuple[int, int]
    catalogue: str

    def describe(self) -> dict[str, object]:
        return {**asdict(self), "frame_size": list(self.frame_size)}


def generate_rooms(
    out: Path,
    *,
    layout: str,
    scenes: int,
    val: int,
    seed: int,
    workers: int = 0,
    frames: int = 30,
    frame_size: tuple[int, int] = (160, 120),
    catalogue: Path | None = None,
    on_room: Callable[[str], None] | None = None,
) -> None:
    """Write synthetic rooms into `out`; `out/SYNTHETIC.json` comes last and says that all of them are there.

    Args:
        layout: ``"scannet"`` (`scans`, `rgbd`, split lists, label table) or ``"s3dis"`` (`Area_1` .. `Area_6`).
        scenes: number of training rooms; for S3DIS `scenes + val` rooms are spread over the areas.
        val: number of validation rooms.
        workers: processes; 0 is one per core.
        frames: RGB-D frames per room (ScanNet layout only).
        frame_size: their (width, height), pixels.
        catalogue: folder with `labels.yaml`, `furniture.yaml`, `rooms.yaml`; default is the project's own.
        on_room: called with a room's name when it is whole, also for those that were there before.

    Raises:
        InputError: an argument is out of range.
        DataError: `out` holds something else, or the catalogue is wrong.
    """
    _check(layout, scenes, val, seed, workers, frames, frame_size)
    book = load_catalogue(catalogue)
    digest = hashlib.sha256(book.model_dump_json().encode()).hexdigest()[:16]
    size = frame_size if layout == "scannet" else (0, 0)
    plan = RoomsPlan(VERSION, layout, scenes, val, seed, frames if layout == "scannet" else 0, size, digest)
    _claim(out, plan)
    names = _room_names(plan, book)
    if layout == "scannet":
        for split, part in (("train", names[:scenes]), ("val", names[scenes:]), ("test", [])):
            write_atomic(out / f"scannetv2_{split}.txt", "".join(f"{name}\n" for name in part))
    _make_all(out, plan, book, names, workers, on_room or (lambda _: None))
    _close(out, plan, book, names)


def _make_all(
    out: Path, plan: RoomsPlan, book: Catalogue, names: list[str], workers: int, on_room: Callable[[str], None]
) -> None:
    """Make the rooms that are not there yet, here or in several processes."""
    jobs = []
    for number, name in enumerate(names):
        if _scan_folder(out, plan, name).is_dir():
            on_room(name)
        else:
            jobs.append((out, plan, book, number, name))
    processes = min(workers or os.cpu_count() or 1, len(jobs))
    if processes <= 1:
        for job in jobs:
            on_room(_make_room(*job))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(_make_room, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                on_room(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check(layout: str, scenes: int, val: int, seed: int, workers: int, frames: int, size: tuple[int, int]) -> None:
    if layout not in LAYOUTS:
        raise InputError(f"There is no layout '{layout}'.", f"Choose one of {', '.join(LAYOUTS)}.")
    for name, value, least in (("scenes", scenes, 1), ("val", val, 0), ("seed", seed, 0), ("workers", workers, 0),
                               ("frames", frames, 1), ("width", size[0], 16), ("height", size[1], 16)):  # fmt: skip
        if value < least:
            raise InputError(f"{name} = {value} is too small.", f"Give at least {least}.")
    if layout == "s3dis" and scenes + val < _AREAS:
        raise InputError(f"{scenes} + {val} rooms do not fill six areas.", f"Give at least {_AREAS} in total.")
    if max(scenes + val, *size) > 9999:
        raise InputError("More than 9999 rooms or pixels a side.", "Give less.")


def _claim(out: Path, plan: RoomsPlan) -> None:
    """Take the folder for this plan, or say what it holds instead."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (MARKER, _PROGRESS):
        if (out / name).is_file():
            try:
                found = json.loads((out / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{out / name} is broken ({error}).", "Remove the folder or choose another.") from error
            wanted = plan.describe()
            different = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
            if different:
                values = ", ".join(f"{key} = {found.get(key)!r} (asked for {wanted[key]!r})" for key in different[:3])
                raise DataError(f"{out} holds other synthetic rooms: {values}.", "Choose another folder.")
            return
    if any(out.iterdir()):
        raise DataError(f"{out} is not empty and holds no synthetic rooms.", "Choose another folder.")
    write_atomic(out / _PROGRESS, json.dumps(plan.describe()))


def _room_names(plan: RoomsPlan, book: Catalogue) -> list[str]:
    """``scene0007_00``, or ``Area_2/office_1`` with rooms of a type numbered within their area."""
    total = plan.scenes + plan.val
    if plan.layout == "scannet":
        return [f"scene{number:04d}_00" for number in range(total)]
    seen: dict[str, int] = {}
    names = []
    for number in range(total):
        stem = f"Area_{number % _AREAS + 1}/{_room_type(plan, book, number)}"
        seen[stem] = seen.get(stem, 0) + 1
        names.append(f"{stem}_{seen[stem]}")
    return names


def _room_type(plan: RoomsPlan, book: Catalogue, number: int) -> str:
    if plan.layout == "scannet":
        return book.rooms.scannet[number % len(book.rooms.scannet)]
    return book.rooms.s3dis[(number % _AREAS + number // _AREAS) % len(book.rooms.s3dis)]


def _scan_folder(out: Path, plan: RoomsPlan, name: str) -> Path:
    return out / "scans" / name if plan.layout == "scannet" else out / name


def _make_room(out: Path, plan: RoomsPlan, book: Catalogue, number: int, name: str) -> str:
    """Make and write one room; the scan folder is renamed in place last, so it marks the room as whole."""
    from gcbench.data.rooms.scan import scan_room
    from gcbench.data.rooms.writers import write_frames, write_s3dis_room, write_scannet_scan

    rng = np.random.default_rng([plan.seed, LAYOUTS.index(plan.layout), number])
    whole = plan.layout == "s3dis"
    room = scan_room(
        _room_type(plan, book, number), book, rng, frames=plan.frames, size=plan.frame_size or (0, 0), whole=whole
    )
    scan, frames = _scan_folder(out, plan, name), out / "rgbd" / name
    try:
        with _whole_folder(scan) as folder:
            if whole:
                write_s3dis_room(room, scan.name, folder, rng)
            else:
                shutil.rmtree(frames, ignore_errors=True)
                with _whole_folder(frames) as frames_folder:
                    write_frames(room, frames_folder)
                write_scannet_scan(room, name, folder, rng)
    except BaseException:
        shutil.rmtree(frames, ignore_errors=True)  # frames without a scan are half a room
        raise
    return name


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """An empty temporary folder that takes `target`'s place at the end; nothing is left of it after an error."""
    temporary = target.parent / f".{target.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _close(out: Path, plan: RoomsPlan, book: Catalogue, names: list[str]) -> None:
    """The label table, and last the file that marks the folder as complete and synthetic."""
    from gcbench.data.rooms.writers import count_s3dis_classes, count_scannet_labels, write_label_table

    folders = [_scan_folder(out, plan, name) for name in names]
    if plan.layout == "scannet":
        counts = count_scannet_labels(folders)
        write_label_table(out / "scannetv2-labels.combined.tsv", book, counts)
    else:
        counts = count_s3dis_classes(folders)
    content = {"generator": "gcbench.data.synthetic_rooms", **plan.describe(), "rooms": len(names)}
    write_atomic(out / MARKER, json.dumps({**content, "objects": dict(sorted(counts.items()))}, indent=1))
    (out / _PROGRESS).unlink(missing_ok=True)
