"""Folders in Pointcept's layout (since its version 1.5.2): one folder of `.npy` files per scene.

    ScanNet   <root>/{train,val,test}/<id>/   coord, color, normal, segment20, segment200, instance
    S3DIS     <root>/Area_k/<room>/           coord, color, normal, segment, instance

Its scripts write coord and normal as float32, color as uint8, ScanNet's labels as int64 [N] and S3DIS's as int16
[N, 1]; test scenes have no labels. ScanNet's arrays often lie column by column in the file, because they come from a
table of columns: those are copied into row order, so that a scene looks the same whatever it was read from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.data.npy_files import map_npy
from gcbench.errors import DataError
from gcbench.structures import IGNORE_INDEX, Float32Array, Scene

SEGMENT_FILES: Mapping[str, Mapping[str, str]] = {
    "scannet": {"segment20": "scannet20", "segment200": "scannet200"},
    "s3dis": {"segment": "s3dis"},
}
"""Layout -> file stem -> label set, in the order of a scene's label sets."""
SCANNET_SPLITS = ("train", "val", "test")
HIDDEN = "test"
_FLOAT, _COLOR = np.dtype(np.float32), np.dtype(np.uint8)
_SEGMENT, _INSTANCE = np.dtype(np.int16), np.dtype(np.int32)
_LABEL_TYPES: Mapping[str, np.dtype[Any]] = {"scannet": np.dtype(np.int64), "s3dis": np.dtype(np.int16)}


@dataclass(frozen=True)
class PointceptFolders:
    """What lies in a folder of this layout.

    Attributes:
        root: the folder.
        layout: ``"scannet"`` or ``"s3dis"``.
        splits: split -> scene names, sorted.
        folders: scene name -> its folder below `root`, e.g. ``"train/scene0000_00"``. Two scenes of one name: the last.
        label_files: stems that some labelled scene has; then every labelled scene must have them.
        notes: what was not read.
    """

    root: Path
    layout: str
    splits: Mapping[str, tuple[str, ...]]
    folders: Mapping[str, str]
    label_files: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        """True if any scene should have labels: it is in another split than the hidden one."""
        return any(names for split, names in self.splits.items() if split != HIDDEN)


def find_folders(root: Path) -> PointceptFolders:
    """Find the scenes, and which of the two datasets they are.

    Raises:
        DataError: there is no such folder, or it has another layout; the message names what was looked for.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.")
    splits = [root / name for name in SCANNET_SPLITS if (root / name).is_dir()]
    areas = sorted(path for path in root.glob("Area_*") if path.is_dir())
    _check_layout(root, splits, areas)
    layout = "scannet" if splits else "s3dis"
    scenes = {parent: _folders(parent) for parent in splits or areas}
    old = [file for parent in scenes for file in sorted(parent.glob("*.pth"))]
    if not any((folder / "coord.npy").exists() for folders in scenes.values() for folder in folders):
        _no_scenes(root, old)
    names = {
        parent.name: tuple(folder.name if splits else f"{parent.name}/{folder.name}" for folder in folders)
        for parent, folders in scenes.items()
    }
    labelled = [folder for parent, folders in scenes.items() if parent.name != HIDDEN for folder in folders]
    stems = (*SEGMENT_FILES[layout], "instance")
    return PointceptFolders(
        root=root,
        layout=layout,
        splits={split: names.get(split, ()) for split in SCANNET_SPLITS} if splits else names,
        folders={
            name: f"{parent.name}/{folder.name}"
            for parent, folders in scenes.items()
            for name, folder in zip(names[parent.name], folders, strict=True)
        },
        label_files=tuple(stem for stem in stems if any((folder / f"{stem}.npy").exists() for folder in labelled)),
        notes=(f"{len(old)} .pth files of an older layout were not read, e.g. {old[0]}",) if old else (),
    )


def open_scene(
    folder: Path, name: str, layout: str, estimate: Callable[[Float32Array], Float32Array] | None = None
) -> Scene:
    """Map one scene; what has the stored type and order is a read-only view of its file, the rest is converted.

    Args:
        folder: the scene's folder.
        name: the scene's name.
        layout: ``"scannet"`` or ``"s3dis"``.
        estimate: makes normals [N, 3] from coordinates where normal.npy is missing; None: that is an error.

    Raises:
        DataError: a file is missing, broken, or does not fit the others; it is named.
    """
    coord = _triples(folder / "coord.npy", _FLOAT)
    color = _triples(folder / "color.npy", _COLOR)
    estimated = estimate is not None and not (folder / "normal.npy").exists()
    normal = estimate(coord) if estimate and estimated else _triples(folder / "normal.npy", _FLOAT)
    for stem, array in (("color", color), ("normal", normal)):
        if len(array) != len(coord):
            raise DataError(f"{folder / stem}.npy has {len(array)} points, coord.npy has {len(coord)}.")
    segments = {
        label_set: values
        for stem, label_set in SEGMENT_FILES[layout].items()
        if (values := _labels(folder / f"{stem}.npy", len(coord), _SEGMENT)) is not None
    }
    return Scene(name, coord, color, normal, segments, _labels(folder / "instance.npy", len(coord), _INSTANCE))


def check_scene(scene: Scene, folder: Path, layout: str, classes: Mapping[str, int]) -> None:
    """Check every value of a scene that was opened from `folder`.

    Args:
        scene: the scene.
        folder: where it comes from, for the message.
        layout: ``"scannet"`` or ``"s3dis"``.
        classes: label set -> number of classes.

    Raises:
        DataError: a coordinate or normal is not finite, or a label is out of range; file, point and value are named.
    """
    for stem, values in (("coord", scene.coord), ("normal", scene.normal)):
        if not np.isfinite(values).all():
            point = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DataError(f"{folder / stem}.npy: point {point} is {values[point].tolist()}, which is not finite.")
    limits = {stem: (scene.segments.get(name), classes[name]) for stem, name in SEGMENT_FILES[layout].items()}
    for stem, (labels, count) in {**limits, "instance": (scene.instance, np.iinfo(np.int32).max)}.items():
        if labels is None:
            continue
        low, high = int(labels.min()), int(labels.max())
        if low < IGNORE_INDEX or high >= count:
            wrong = low if low < IGNORE_INDEX else high
            point = int(np.argmax(labels == wrong))
            raise DataError(
                f"{folder / stem}.npy: point {point} has label {wrong}; labels are {IGNORE_INDEX} or 0 .. {count - 1}."
            )


def scene_arrays(scene: Scene, layout: str) -> dict[str, NDArray[Any]]:
    """File stem -> array of one scene, with the types and shapes that Pointcept's scripts write.

    Raises:
        DataError: a label does not fit the type (S3DIS: int16).
    """
    arrays: dict[str, NDArray[Any]] = {"coord": scene.coord, "color": scene.color, "normal": scene.normal}
    labels: dict[str, NDArray[Any] | None] = {
        stem: scene.segments.get(label_set) for stem, label_set in SEGMENT_FILES[layout].items()
    }
    for stem, values in {**labels, "instance": scene.instance}.items():
        if values is None:
            continue
        dtype = _LABEL_TYPES[layout]
        if values.max() > np.iinfo(dtype).max:
            raise DataError(f"{stem} {values.max()} does not fit: the layout stores {dtype}.")
        arrays[stem] = values.astype(dtype).reshape((-1, 1) if layout == "s3dis" else -1)
    return arrays


def _triples(file: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A file of [N, 3] in row order as `dtype`."""
    values = map_npy(file)
    if values.ndim != 2 or values.shape[1] != 3 or not len(values):
        raise DataError(f"{file} has shape {list(values.shape)} instead of [N, 3] with N > 0.")
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    if dtype == _COLOR:
        return _whole_numbers(values, file)
    if values.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise DataError(f"{file} holds {values.dtype}; {dtype} was expected.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype)


def _whole_numbers(values: NDArray[Any], file: Path) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore"):
        converted = np.ascontiguousarray(values, np.uint8)
    wrong = converted != values
    if wrong.any():
        point = int(np.argwhere(wrong)[0, 0])
        raise DataError(f"{file}: point {point} is {values[point].tolist()}; colours are whole numbers 0 .. 255.")
    return converted


def _labels(file: Path, points: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """A file of [N] or [N, 1] whole numbers as [N] `dtype`; None if there is none."""
    if not file.exists():
        return None
    values = map_npy(file)
    if values.dtype.kind not in "iu" or values.shape not in ((points,), (points, 1)):
        raise DataError(
            f"{file} holds {values.dtype} of shape {list(values.shape)}; coord.npy has {points} points, "
            "so a whole number for each was expected."
        )
    values = values.reshape(-1)
    limits = np.iinfo(dtype)
    for value in (values.min(), values.max()):
        if not limits.min <= value <= limits.max:
            raise DataError(f"{file}: point {int(np.argmax(values == value))} has label {value}.")
    return values.astype(dtype, copy=False)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{parent} cannot be read ({error.strerror}).") from error


def _check_layout(root: Path, splits: Sequence[Path], areas: Sequence[Path]) -> None:
    if splits and areas:
        raise DataError(
            f"{root} has both {splits[0].name} and {areas[0].name}: ScanNet or S3DIS?", "Give one dataset's folder."
        )
    if splits or areas:
        return
    if (root / "scans").is_dir():
        raise DataError(f"{root} is ScanNet's raw folder.", "Use `gcbench data prepare scannet`.")
    raise DataError(
        f"{root} has neither train, val, test (ScanNet) nor Area_1 ... Area_6 (S3DIS).",
        "Give the folder that Pointcept's preprocessing wrote as ROOT.",
    )


def _no_scenes(root: Path, old: Sequence[Path]) -> None:
    if old:
        raise DataError(
            f"{old[0]} is one of {len(old)} .pth files: an older Pointcept layout. They are pickles, which can run "
            "any code when they are read, so they are not.",
            "Prepare the raw data with `gcbench data prepare`, or process it with Pointcept 1.5.2 or later.",
        )
    if any(root.glob("Area_*/*/Annotations")):
        raise DataError(f"{root} is the raw S3DIS release.", "Use `gcbench data prepare s3dis`.")
    raise DataError(
        f"No scene below {root} has a coord.npy.",
        "Expected <split>/<scene>/coord.npy (ScanNet) or Area_k/<room>/coord.npy (S3DIS).",
    )
