"""The prepared dataset on disk.

    <root>/scenes/<scene>.arrow    one Arrow stream, one record batch: a flat list per field
    <root>/frames/<scene>.arrow    one Arrow stream, one row per posed RGB-D frame (see frames.py)
    <root>/dataset.json            written last: splits, hashes, counts, notes, the fingerprint

A scene file is mapped, not read: opening one takes about 0.2 ms and its arrays are read-only views of the file.
`datasets.Dataset.from_file` opens the same files.

A dataset that was imported in place has `dataset.json` alone; ``"storage"`` in it names the folders (pointcept.py) that
its scenes are mapped from. Everything else, the fingerprint too, is as if they had been copied.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from numpy.typing import NDArray

from gcbench.data.arrow_files import content_sha256, read_table, table_sha256, view, write_batch
from gcbench.data.frames import FrameSequence
from gcbench.data.pointcept import SEGMENT_FILES, open_scene
from gcbench.errors import DataError
from gcbench.files import write_atomic
from gcbench.structures import Scene

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
_VECTORS = {"coord": pa.float32(), "color": pa.uint8(), "normal": pa.float32()}
_SEGMENT = "segment_"
_LABELS = {_SEGMENT: pa.int16(), "instance": pa.int32()}
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
    write_batch(path, _record_batch(scene), {"name": scene.name, **metadata})


def read_scene(path: Path) -> tuple[Scene, dict[str, Any]]:
    """Map one scene file; the arrays are read-only views of it.

    Raises:
        DataError: the file is missing or broken.
    """
    table, metadata = read_table(path)
    names = table.column_names
    if table.num_rows != 1 or not {"coord", "color", "normal"} <= set(names) or "name" not in metadata:
        raise DataError(f"{path} is not a prepared scene.")
    values = {name: _flat_view(path, name, table[name]) for name in names}
    segments = {name[len(_SEGMENT) :]: values[name] for name in names if name.startswith(_SEGMENT)}
    coord, color, normal = (values[name].reshape(-1, 3) for name in ("coord", "color", "normal"))
    instance = values.get("instance")
    lengths = {len(item) for item in (coord, color, normal, *segments.values())}
    lengths |= set() if instance is None else {len(instance)}
    if len(lengths) != 1:
        raise DataError(f"{path} is broken: its fields have {sorted(lengths)} points.")
    return Scene(str(metadata["name"]), coord, color, normal, segments, instance), metadata


def scene_entry(path: Path) -> dict[str, Any]:
    """The manifest's entry of a scene file: points, labels, hash, and the notes and normals of its metadata.

    Raises:
        DataError: the file is missing or broken.
    """
    scene, metadata = read_scene(path)
    return describe(scene, content_sha256(path), metadata.get("notes", []), metadata.get("normals"))


def describe(scene: Scene, sha256: str, notes: Sequence[str], normals: str | None = None) -> dict[str, Any]:
    """The manifest's entry of a scene; `normals` says where they come from, if not as for all scenes."""
    entry = {"points": len(scene), "labels": sorted(scene.segments), "sha256": sha256, "notes": list(notes)}
    return entry if normals is None else {**entry, "normals": normals}


def scene_sha256(scene: Scene) -> str:
    """The `content_sha256` that a file of this scene would have."""
    return table_sha256(pa.Table.from_batches([_record_batch(scene)]))


def _record_batch(scene: Scene) -> Any:
    arrays: dict[str, NDArray[Any]] = {"coord": scene.coord, "color": scene.color, "normal": scene.normal}
    arrays |= {f"{_SEGMENT}{label_set}": values for label_set, values in scene.segments.items()}
    if scene.instance is not None:
        arrays["instance"] = scene.instance
    return pa.record_batch(
        {
            name: pa.ListArray.from_arrays(pa.array([0, values.size], pa.int32()), pa.array(values.reshape(-1)))
            for name, values in arrays.items()
        }
    )


def _flat_view(path: Path, name: str, column: Any) -> NDArray[Any]:
    """The values of a column of one row, as a read-only view."""
    expected = (_VECTORS | _LABELS).get(_SEGMENT if name.startswith(_SEGMENT) else name)
    if column.num_chunks != 1 or not pa.types.is_list(column.type) or column.type.value_type != expected:
        raise DataError(f"{path} is broken: it has a field '{name}' of {column.type}.", "Prepare it again.")
    values = column.chunk(0)[0].values
    if values.null_count or (name in _VECTORS and len(values) % 3):
        raise DataError(f"{path} is broken: its field '{name}' is not whole.", "Prepare it again.")
    return view(values)


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
    """A prepared dataset, opened. Scenes are mapped when they are asked for.

    Pickles to its path and fingerprint. With the manifest a pickle would be larger than a pipe's buffer, and spawned
    loader workers would start one after the other, each waited for until it reads.

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
        dataset = cls(root, _read_manifest(file))
        origin = dataset.in_place
        if origin is not None and not origin.is_dir():
            raise DataError(
                f"{file} reads its scenes in place from {origin}, and there is no such folder.",
                f"Put it back, or name its new place: gcbench data import pointcept ROOT {root} --in-place",
            )
        return dataset

    def __reduce__(self) -> tuple[Callable[[Path, str], PreparedDataset], tuple[Path, str]]:
        return _reopen, (self.root, self.fingerprint)

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

    @property
    def in_place(self) -> Path | None:
        """The folder its scenes are mapped from, for a dataset that was imported in place; else None."""
        root = self.manifest.get("storage", {}).get("root")
        return None if root is None else Path(root)

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
        path = self._scene_path(name)
        scene = read_scene(path)[0] if self.in_place is None else open_scene(path, name, self.layout)
        if len(scene) != entry["points"]:
            raise DataError(f"{path} has {len(scene)} points, {MANIFEST} says {entry['points']}.", "Prepare it again.")
        if scene.name != name:
            raise DataError(f"{path} is scene '{scene.name}', not '{name}': it was renamed.", "Prepare it again.")
        return scene

    def verify(self, name: str) -> None:
        """Read all of a scene and its frames and compare their hashes with the manifest.

        Raises:
            DataError: there is no such scene, or its content is not what was prepared; the file is named.
        """
        entry = self._entry(name)
        scene = self.scene(name)
        path = self._scene_path(name)
        found = {path: (entry["sha256"], scene_sha256(scene))}
        if self.frame_count(name):
            frames = scene_file(self.root, "frames", name)
            found[frames] = (entry.get("frames_sha256"), content_sha256(frames))
        for file, (expected, actual) in found.items():
            if actual != expected:
                raise DataError(
                    f"{file} is not what {MANIFEST} says: its content has changed since it was prepared.",
                    "Restore it, or import the dataset again." if self.in_place else "Delete it and prepare it again.",
                )

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

    def _scene_path(self, name: str) -> Path:
        """A scene's file, or its folder when it is read in place."""
        if self.in_place is None:
            return scene_file(self.root, "scenes", name)
        return self.in_place / cast(str, self._entry(name)["folder"])

    def _entry(self, name: str) -> Mapping[str, Any]:
        entry = self.manifest["scenes"].get(name)
        if entry is None:
            raise DataError(f"{self.root} has no scene '{name}'.")
        return cast(Mapping[str, Any], entry)


def _reopen(root: Path, fingerprint: str) -> PreparedDataset:
    dataset = PreparedDataset.open(root)
    if dataset.fingerprint != fingerprint:
        raise DataError(f"{root} was prepared anew while it was in use.", "Start again.")
    return dataset


def _read_manifest(file: Path) -> Mapping[str, Any]:
    """Read `dataset.json` and check that every field has its type and no name leads out of a folder."""
    way_out = "Run the command that made the dataset again."
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is broken ({error!r}).", way_out) from error
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise DataError(f"{file} is broken: it has no format version.", way_out)
    if version != FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, this gcbench reads {FORMAT_VERSION}.",
            "Prepare the dataset again with this version.",
        )
    wrong = next(_wrong_fields(manifest), None)
    if wrong is not None:
        raise DataError(f"{file} is broken: {wrong} is missing or not what it must be.", way_out)
    return cast(Mapping[str, Any], manifest)


def _wrong_fields(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Names of the fields that are missing, of a wrong type, or contradict another."""
    types = {"layout": str, "synthetic": bool, "label_sets": list, "splits": dict, "scenes": dict, "fingerprint": str}
    optional = {"normals": str, "notes": list, "failed": dict, "storage": dict}
    yield from (f"'{key}'" for key, kind in types.items() if not isinstance(manifest.get(key), kind))
    yield from (f"'{key}'" for key, kind in optional.items() if not isinstance(manifest.get(key, kind()), kind))
    yield from (f"'{key}'" for key in ("label_sets", "notes") if not _are_strings(manifest.get(key, [])))
    storage = manifest.get("storage", {"kind": "arrow"})
    in_place = storage.get("kind") == "pointcept"
    if in_place and (not _is_absolute(storage.get("root")) or manifest["layout"] not in SEGMENT_FILES):
        yield "'storage'"
    if not in_place and storage != {"kind": "arrow"}:
        yield "'storage'"
    for name, entry in manifest["scenes"].items():
        if not _NAME.fullmatch(name) or not _is_entry(entry, in_place):
            yield f"scene {name!r}"
    for split, names in manifest["splits"].items():
        if not _NAME.fullmatch(split) or not _are_strings(names) or not manifest["scenes"].keys() >= set(names):
            yield f"split {split!r}"


def _is_entry(entry: Any, in_place: bool) -> bool:
    return (
        isinstance(entry, dict)
        and _is_count(entry.get("points"))
        and isinstance(entry.get("sha256"), str)
        and _is_count(entry.get("frames") or 0)
        and _is_count(entry.get("frames_dropped") or 0)
        and _are_strings(entry.get("notes", []))
        and _are_strings(entry.get("labels", []))
        and (not in_place or (isinstance(entry.get("folder"), str) and bool(_NAME.fullmatch(entry["folder"]))))
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_absolute(path: Any) -> bool:
    return isinstance(path, str) and "\0" not in path and Path(path).is_absolute()
