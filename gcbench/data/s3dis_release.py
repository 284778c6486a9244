"""Which S3DIS release a folder holds: its areas, rooms and angles, and whether it is whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gcbench.data.s3dis_annotations import annotation_files, printable, read_annotation
from gcbench.data.s3dis_facts import s3dis_facts
from gcbench.errors import DataError, InputError
from gcbench.structures import Float64Array

RELEASES = ("auto", "aligned", "unaligned")
_FEW = 0.75  # an area with less than this share of its rooms was not downloaded to its end
_CHECKED = 4  # rooms that are measured to see whether they stand aligned
_CLEARLY = 0.02  # relative change of their boxes that says so
_SHOWN = 10
_BY_THE_WAY = (".DS_Store", "Icon\r", "Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Release:
    """A folder of S3DIS.

    Attributes:
        name: ``"aligned"`` or ``"unaligned"``.
        areas: area name -> its room folders.
        angles: ``"Area_k/<room>"`` -> degrees, for the rooms of the unaligned release; empty for the aligned one, whose
            rooms are not turned.
        notes: what a reader should know.
    """

    name: str
    areas: Mapping[str, tuple[Path, ...]]
    angles: Mapping[str, float]
    notes: tuple[str, ...] = ()


def find_release(raw: Path, release: str = "auto") -> Release:
    """Find the areas and rooms below `raw`.

    Args:
        raw: the folder with `Area_1` ... `Area_6`.
        release: ``"aligned"``, ``"unaligned"`` (every area has its `Area_k_alignmentAngle.txt`), or ``"auto"``: aligned
            where the folder's name says so or there are no such files.

    Raises:
        InputError: `release` is none of these.
        DataError: there are no areas; an angle file is missing or broken, or lacks a room.
    """
    if release not in RELEASES:
        raise InputError(f"The release '{release}' is not one of {', '.join(RELEASES)}.")
    areas = {area.name: _folders(area) for area in _folders(raw) if area.name.startswith("Area_")}
    if not areas:
        inner = [folder for folder in _folders(raw) if any(folder.glob("Area_*/"))]
        where = f"Give {inner[0]} as RAW." if inner else "Give the unpacked release as RAW."
        raise DataError(f"{raw} has no folder Area_1 ... Area_6.", where)
    notes = _odd_files(raw, areas)
    files = {area: raw / area / f"{area}_alignmentAngle.txt" for area in areas}
    present = {area: read_angles(file) for area, file in files.items() if file.is_file()}
    if release == "auto":
        name = raw.resolve().name.lower()
        release = "aligned" if not present or ("aligned" in name and "unaligned" not in name) else "unaligned"
    listed = {f"{area}/{room}": angle for area, angles in present.items() for room, angle in angles.items()}
    if release == "unaligned":
        notes += _check_angles(files, areas, listed)
    notes += _check_stance(release, areas, listed)
    rooms = {f"{area}/{room.name}" for area, folders in areas.items() for room in folders}
    angles = {name: angle for name, angle in listed.items() if name in rooms} if release == "unaligned" else {}
    return Release(release, areas, angles, tuple(notes))


def read_angles(file: Path) -> dict[str, float]:
    """Degrees of each room listed in `Area_k_alignmentAngle.txt`: lines "room angle", comments from # on.

    Raises:
        DataError: the file cannot be read or has another line; it is named.
    """
    try:
        lines = file.read_bytes().decode("latin-1").splitlines()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}).") from error
    angles: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        try:
            room, angle = fields[0], float(fields[1])
            whole = len(fields) == 2 and math.isfinite(angle)
        except (IndexError, ValueError):
            whole = False
        if not whole:
            raise DataError(f"{file}, line {number}: '{line.strip()[:60]}' is no room and its angle in degrees.")
        if angles.setdefault(room, angle) != angle:
            raise DataError(f"{file}, line {number}: '{room}' has two angles.", "Unpack the release again.")
    return angles


def rotation(angle: float) -> Float64Array:
    """The matrix [3, 3] that turns a room listed with `angle` degrees into its canonical place, about z."""
    radians = (2 - angle / 180) * np.pi  # as the reference writes it, to the last bit
    cos, sin = np.cos(radians), np.sin(radians)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def check_rooms(areas: Mapping[str, Sequence[str]]) -> list[str]:
    """Compare room names per area with those of a whole release.

    Returns:
        A note on each area that lacks rooms or has others; none for a whole release.
    """
    facts = s3dis_facts().rooms
    notes = []
    for area in sorted({*areas, *facts.areas}):
        wanted, found = facts.names(area), frozenset(areas.get(area, ()))
        missing, extra = wanted - found, found - wanted
        if area not in areas:
            notes.append(f"{area} is missing: {len(wanted)} of the release's {facts.total} rooms.")
        elif not wanted:
            notes.append(f"{area} is no area of S3DIS.")
        elif missing and {f"{area}/{room}" for room in missing} <= set(facts.often_absent):
            notes.append(f"{area} lacks {_some(missing)}, as many copies do ({len(found)} of {len(wanted)} rooms).")
        elif len(found & wanted) < _FEW * len(wanted):
            notes.append(_incomplete(area, found, wanted))
        elif missing:
            notes.append(f"{area} lacks {len(missing)} of {len(wanted)} rooms: {_some(missing)}.")
        if wanted and extra and len(found & wanted) >= _FEW * len(wanted):
            notes.append(f"{area} has {len(extra)} rooms that are not in the release: {_some(extra)}.")
    return notes


def _incomplete(area: str, found: frozenset[str], wanted: frozenset[str]) -> str:
    facts = s3dis_facts().rooms
    twin = next((other for other in facts.areas if other != area and facts.names(other) == found), None)
    if twin is not None:
        return f"{area} holds the rooms of {twin}: its folder is a copy under a wrong name. Unpack the release again."
    return (
        f"{area} has {len(found & wanted)} of {len(wanted)} rooms: the download or the unpacking stopped early. Get "
        f"the whole archive again (the release has {facts.total} rooms) and unpack it into an empty folder."
    )


def _folders(folder: Path) -> tuple[Path, ...]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}).") from error
    return tuple(entry for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")))


def _odd_files(raw: Path, areas: Mapping[str, Sequence[Path]]) -> list[str]:
    folders = [raw, *(raw / area for area in areas), *(room for rooms in areas.values() for room in rooms)]
    odd = [folder / name for folder in folders for name in _BY_THE_WAY if (folder / name).exists()]
    return [f"{len(odd)} files of desktops (.DS_Store and the like) passed over"] if odd else []


def _check_angles(
    files: Mapping[str, Path], areas: Mapping[str, Sequence[Path]], listed: Mapping[str, float]
) -> list[str]:
    """Notes on listed rooms that are not there; raises where a room has no angle."""
    for area, rooms in areas.items():
        if not files[area].is_file():
            raise DataError(
                f"{files[area]} is missing: the rooms of {area} cannot be turned.",
                "Unpack the unaligned release again, or use --release aligned if these rooms are aligned.",
            )
        without = {room.name for room in rooms} - {name.split("/")[1] for name in listed if name.startswith(f"{area}/")}
        if without:
            raise DataError(
                f"{files[area]} lists no angle for {_some(without)}.",
                "Add a line 'room angle' for each, or move what is no room of S3DIS away.",
            )
    there = {f"{area}/{room.name}" for area, rooms in areas.items() for room in rooms}
    absent = set(listed) - there
    return [f"{len(absent)} rooms have an angle but no folder: {_some(absent)}"] if absent else []


def _check_stance(release: str, areas: Mapping[str, Sequence[Path]], listed: Mapping[str, float]) -> list[str]:
    """A note where the boxes of a few rooms say that they belong to the other release.

    Turning a room by its angle makes its box smaller, unless it stands aligned already. Multiples of 90 degrees say
    nothing.
    """
    rooms = [(room, listed.get(f"{area}/{room.name}", 0.0)) for area, folders in areas.items() for room in folders]
    telling = sorted((item for item in rooms if min(item[1] % 90, -item[1] % 90) > 1), key=lambda item: _size(item[0]))[
        :_CHECKED
    ]
    before = after = 0.0
    for room, angle in telling:
        try:
            points = np.concatenate([read_annotation(file)[0][:, :2] for file in annotation_files(room)[0]])
        except DataError:
            continue  # reading the room will say so
        before += float(np.prod(np.ptp(points, axis=0)))
        after += float(np.prod(np.ptp(points @ rotation(angle)[:2, :2].T, axis=0)))
    if release == "unaligned" and after > before * (1 + _CLEARLY):
        return ["these rooms look aligned already: turning them makes their boxes larger; use --release aligned"]
    if release == "aligned" and after < before * (1 - _CLEARLY):
        return ["these rooms do not look aligned: turning them makes their boxes smaller; use --release unaligned"]
    return []


def _size(room: Path) -> int:
    try:
        return sum(file.stat().st_size for file in annotation_files(room)[0])
    except (DataError, OSError):
        return 0


def _some(names: set[str] | frozenset[str]) -> str:
    shown = sorted(printable(name) for name in names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
