"""The prepared dataset on disk.

    <root>/scenes/<scene>.arrow    one Arrow stream, one record batch: a flat list per field
    <root>/frames/<scene>.arrow    one Arrow stream, one row per posed RGB-D frame (see frames.py)
    <root>/dataset.json            written last: splits, hashes, counts, notes, the fingerprint

A scene file is mapped, not read: opening one takes about 0.1 ms and its arrays are read-only views of the file.
`datasets.Dataset.from_file` opens the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from gcbench.data.arrow_files import read_table, write_batch
from gcbench.data.frames import FrameSequence
from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.structures import Scene

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
_SEGMENT = "segment_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)*")


def scene_file(root: Path, folder: str, name: str) -> Path:
    """Path of a scene's file; a name can not lead out of the dataset.

    Raises:
        DataError: the name has other characters than letters, digits, ``_ . -`` and ``/`` between parts.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"'{name}' cannot be a scene's name.")
    return root / folder / f"{name}.arrow"


def write_scene(path: Path, scene: Scene, metadata: Mapping[str, Any]) -> None:
    """Write one scene as one Arrow record batch; `metadata` (JSON) is kept in the schema."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"coord": scene.coord, "color": scene.color, "normal": scene.normal}
    arrays |= {f"{_SEGMENT}{label_set}": values for label_set, values in scene.segments.items()}
    if scene.instance is not None:
        arrays["instance"] = scene.instance
    columns = {
        name: pa.ListArray.from_arrays(pa.array([0, values.size], pa.int32()), pa.array(values.reshape(-1)))
        for name, values in arrays.items()
    }
    write_batch(path, pa.record_batch(columns), {"name": scene.name, **metadata})


def read_scene(path: Path) -> tuple[Scene, dict[str, Any]]:
    """Map one scene file; the arrays are read-only views of it.

    Raises:
        DataError: the file is missing or broken.
    """
    table, metadata = read_table(path)
    if table.num_rows != 1 or not {"coord", "color", "normal"} <= set(table.column_names):
        raise DataError(f"{path} is not a prepared scene.")
    values = {
        name: table[name].chunk(0).values.to_numpy(zero_copy_only=True)[table[name].chunk(0).offsets[0].as_py() :]
        for name in table.column_names
    }
    segments = {name[len(_SEGMENT) :]: values[name] for name in values if name.startswith(_SEGMENT)}
    coord, color, normal = (values[name].reshape(-1, 3) for name in ("coord", "color", "normal"))
    lengths = {len(item) for item in (coord, color, normal, *segments.values())}
    if len(lengths) != 1:
        raise DataError(f"{path} is broken: its fields have {sorted(lengths)} points.")
    return Scene(str(metadata["name"]), coord, color, normal, segments, values.get("instance")), metadata


def fingerprint(scenes: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Sequence[str]]) -> str:
    """16 hex digits over the scenes' and frames' hashes and the split lists; not over paths or times."""
    content = {
        "scenes": {name: [entry["sha256"], entry.get("frames_sha256")] for name, entry in scenes.items()},
        "splits": {split: sorted(names) for split, names in splits.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Write `dataset.json`: from here on the dataset counts as prepared."""
    write_atomic(root / MANIFEST, json.dumps(manifest, indent=1) + "\n")


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared dataset, opened. Cheap to pickle: files are mapped when a scene is asked for.

    Attributes:
        root: its folder.
        manifest: the content of `dataset.json`.
    """

    root: Path
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> PreparedDataset:
        """Open the prepared dataset in a folder.

        Raises:
            DataError: there is no such folder, `prepare` did not finish in it, or its manifest is not readable.
        """
        root = Path(path)
        if not root.is_dir():
            raise DataError(
                f"There is no folder {root}.", "Make it with `gcbench data prepare` or `gcbench data synth`."
            )
        file = root / MANIFEST
        if not file.is_file():
            raise DataError(
                f"{root} has no {MANIFEST}: prepare did not finish, or this is a raw folder.",
                "Run `gcbench data prepare` (again) and give its OUT folder here.",
            )
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            version = manifest["format_version"]
            missing = {"layout", "synthetic", "label_sets", "splits", "scenes", "fingerprint"} - set(manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is broken ({error!r}).", "Run `gcbench data prepare` again.") from error
        if version != FORMAT_VERSION or missing:
            raise DataError(
                f"{file} has format version {version!r}, this gcbench reads {FORMAT_VERSION}.",
                "Prepare the dataset again with this version.",
            )
        return cls(root, manifest)

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Split -> scene names: train, val, test for ScanNet, Area_1 ... Area_6 for S3DIS."""
        return {split: tuple(names) for split, names in self.manifest["splits"].items()}

    @property
    def layout(self) -> str:
        """Where it comes from: ``"scannet"`` or ``"s3dis"``."""
        return cast(str, self.manifest["layout"])

    @property
    def label_sets(self) -> tuple[str, ...]:
        """Label sets its labelled scenes carry."""
        return tuple(self.manifest["label_sets"])

    @property
    def fingerprint(self) -> str:
        """Hash of its content and splits."""
        return cast(str, self.manifest["fingerprint"])

    @property
    def synthetic(self) -> bool:
        """True for generated rooms: no number on them is compared with the paper."""
        return bool(self.manifest["synthetic"])

    @property
    def has_frames(self) -> bool:
        """True if any scene has posed RGB-D frames."""
        return any(entry.get("frames") for entry in self.manifest["scenes"].values())

    def scene_names(self, split: str | Sequence[str]) -> tuple[str, ...]:
        """Scene names of one split or of several, in order.

        Raises:
            DataError: the dataset has no such split.
        """
        wanted = [split] if isinstance(split, str) else list(split)
        for name in wanted:
            if name not in self.splits:
                raise DataError(f"{self.root} has no split '{name}'.", f"It has: {', '.join(self.splits) or 'none'}.")
        return tuple(scene for name in wanted for scene in self.splits[name])

    def point_count(self, name: str) -> int:
        """Number of points of a scene."""
        return int(self._entry(name)["points"])

    def frame_count(self, name: str) -> int:
        """Number of posed RGB-D frames of a scene; 0 if it has none."""
        return int(self._entry(name).get("frames") or 0)

    def scene(self, name: str) -> Scene:
        """One scene; its arrays are read-only views of the file.

        Raises:
            DataError: there is no such scene, or its file is missing or broken.
        """
        entry = self._entry(name)
        path = scene_file(self.root, "scenes", name)
        scene, _ = read_scene(path)
        if len(scene) != entry["points"]:
            raise DataError(f"{path} has {len(scene)} points, {MANIFEST} says {entry['points']}.", "Prepare it again.")
        return scene

    def frames(self, name: str) -> FrameSequence:
        """The posed RGB-D frames of a scene.

        Raises:
            DataError: the scene has no frames, or their file is missing or broken.
        """
        if not self.frame_count(name):
            raise DataError(
                f"Scene '{name}' of {self.root} has no RGB-D frames.",
                "Prepare the dataset with exported frames: gcbench data prepare scannet RAW OUT --rgbd DIR.",
            )
        return FrameSequence(scene_file(self.root, "frames", name))

    def _entry(self, name: str) -> Mapping[str, Any]:
        entry = self.manifest["scenes"].get(name)
        if entry is None:
            raise DataError(f"{self.root} has no scene '{name}'.")
        return cast(Mapping[str, Any], entry)
