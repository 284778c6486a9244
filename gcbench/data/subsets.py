"""The data-efficient sets of a prepared dataset (Table 2): few training scenes, or few labelled points per scene.

    <root>/subsets/scenes-<percent>.json     names of training scenes
    <root>/subsets/points-<count>.json       training scene -> ids of the vertices whose labels are kept

They come from the official files of ScanNet's data-efficient benchmark, or are drawn by seed. Which there are stands in
`evaluation/splits/scannet.yaml`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from gcbench.data import metadata
from gcbench.data.benchmark_files import official_points, official_scenes
from gcbench.data.scene_jobs import OnScene, some
from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError
from gcbench.files import write_atomic
from gcbench.structures import Int64Array, Scene

FOLDER = "subsets"
_OFFICIAL = "official"
_SCENE_ORDER, _POINT_ORDER = range(2)  # independent streams of one seed


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Labels(_Base):
    """How many labelled points of the training scenes a set keeps."""

    kept: NonNegativeInt
    of: NonNegativeInt


class _Subset(_Base):
    format_version: Literal[1] = 1
    name: str
    source: str
    dataset: str
    labels: Labels
    notes: tuple[str, ...] = ()

    @property
    def official(self) -> bool:
        """True if it comes from the official files, False if it was drawn."""
        return self.source.startswith(_OFFICIAL)


class SceneSubset(_Subset):
    """Few scenes: names of training scenes, sorted if drawn, in the order of the list if official."""

    kind: Literal["scenes"] = "scenes"
    scenes: tuple[str, ...]

    @property
    def scene_count(self) -> int:
        """How many scenes it has."""
        return len(self.scenes)


class PointSubset(_Subset):
    """Few labels: ids of the vertices, ascending, whose labels are kept, per training scene."""

    kind: Literal["points"] = "points"
    points: dict[str, tuple[NonNegativeInt, ...]]

    @property
    def scene_count(self) -> int:
        """How many scenes it has."""
        return len(self.points)


_ANY: TypeAdapter[SceneSubset | PointSubset] = TypeAdapter(
    Annotated[SceneSubset | PointSubset, Field(discriminator="kind")]
)


def load_scenes(dataset: PreparedDataset, name: str) -> tuple[str, ...]:
    """Scene names of a set, e.g. ``"scenes-10"``.

    Raises:
        DataError: the set is not there, is broken, belongs to another state of the dataset, or is no list of scenes.
    """
    subset = load(dataset, name)
    if not isinstance(subset, SceneSubset):
        raise DataError(f"{subset_file(dataset, name)} lists points per scene, not scenes.")
    return subset.scenes


def load_points(dataset: PreparedDataset, name: str) -> dict[str, Int64Array]:
    """Scene -> [K] ids, ascending, of the vertices whose labels are kept, for a set, e.g. ``"points-20"``.

    Raises:
        DataError: the set is not there, is broken, belongs to another state of the dataset, or is a list of scenes.
    """
    subset = load(dataset, name)
    if not isinstance(subset, PointSubset):
        raise DataError(f"{subset_file(dataset, name)} lists scenes, not points per scene.")
    return {scene: np.array(ids, np.int64) for scene, ids in subset.points.items()}


def load(dataset: PreparedDataset, name: str) -> SceneSubset | PointSubset:
    """One set, checked against the dataset. Raises as `load_scenes`."""
    file = subset_file(dataset, name)
    way_out = f"Make it (again) with: gcbench data subsets {dataset.root}"
    try:
        subset = _ANY.validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing.", way_out) from error
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error}).", way_out) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])[:100] or "file"
        raise DataError(f"{file}: '{key}': {first['msg']}.", f"Delete it. {way_out}") from error
    if subset.dataset != dataset.fingerprint:
        raise DataError(f"{file} belongs to another state of the dataset ({subset.dataset[:40]!r}).", way_out)
    problem = _problem(dataset, name, subset)
    if problem:
        raise DataError(f"{file}: {problem}.", f"Delete it. {way_out}")
    return subset


def load_all(dataset: PreparedDataset) -> list[SceneSubset | PointSubset]:
    """All sets that are there, in the order of `subset_names`. Raises as `load_scenes`."""
    return [load(dataset, name) for name in subset_names(dataset) if subset_file(dataset, name).exists()]


def subset_names(dataset: PreparedDataset) -> tuple[str, ...]:
    """Names of the sets a dataset of this layout can have.

    Raises:
        DataError: there are none for this layout.
    """
    sets = metadata.data_efficient(dataset.layout)
    return (*(_scenes_name(share.percent) for share in sets.scenes), *map(_points_name, sets.points))


def subset_file(dataset: PreparedDataset, name: str) -> Path:
    """Where a set is stored.

    Raises:
        DataError: there is no set of that name.
    """
    names = subset_names(dataset)
    if name not in names:
        raise DataError(f"There is no data-efficient set '{name}'.", f"There are: {', '.join(names)}.")
    return dataset.root / FOLDER / f"{name}.json"


def draw(dataset: PreparedDataset, seed: int, *, on_scene: OnScene | None = None) -> list[str]:
    """Draw all sets that are not there as official ones. Smaller sets lie inside larger ones.

    Scenes are the first share of a seeded permutation of the sorted training scenes, at least one. Points are the first
    of a seeded permutation of a scene's labelled vertices; it depends on the seed and the scene's name alone, so a part
    of a dataset gets the same points.

    Args:
        dataset: the prepared dataset.
        seed: at least 0.
        on_scene: progress.

    Returns:
        Names of the sets that were drawn.

    Raises:
        DataError: there are no training scenes, or a scene's file is broken.
        InputError: the seed is negative.
    """
    if seed < 0:
        raise InputError(f"The seed is {seed}; it must be at least 0.")
    sets = metadata.data_efficient(dataset.layout)
    train = _training_scenes(dataset)
    counts: dict[str, int] = {}
    vertices: dict[str, Int64Array] = {}
    for name, labelled in _labelled_points(dataset, train, on_scene):
        counts[name] = int(labelled.sum())
        digest = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        order = np.random.default_rng((seed, _POINT_ORDER, digest)).permutation(np.flatnonzero(labelled))
        vertices[name] = order[: max(sets.points)]
    order = np.random.default_rng((seed, _SCENE_ORDER)).permutation(len(train))
    source = f"drawn: seed {seed}"
    subsets: list[SceneSubset | PointSubset] = []
    for share in sets.scenes:
        first = order[: max(1, share.percent * len(train) // 100)]
        chosen = tuple(train[position] for position in sorted(first))
        subsets.append(_scene_subset(dataset, share.percent, chosen, counts, source))
    for points in sets.points:
        ids = {name: np.sort(scene_order[:points]) for name, scene_order in vertices.items()}
        few = sum(len(scene_ids) < points for scene_ids in ids.values())
        notes = [f"{few} scenes have fewer than {points} labelled points: all of theirs are taken"] if few else []
        kept = sum(map(len, ids.values()))
        subsets.append(_point_subset(dataset, points, ids, Labels(kept=kept, of=sum(counts.values())), source, notes))
    drawn = [subset for subset in subsets if not _is_official(dataset, subset.name)]
    _store(dataset, drawn)
    return [subset.name for subset in drawn]


def write_official(
    dataset: PreparedDataset, tasks: Path, *, allow_missing: bool = False, on_scene: OnScene | None = None
) -> list[str]:
    """Take over the official sets that `tasks` has: ``scenes/<percent>.txt`` and ``points/points<count>``.

    Args:
        dataset: the prepared dataset.
        tasks: the benchmark's folder `tasks`, or the folder it lies in.
        allow_missing: the dataset is a part: leave listed scenes out that it lacks, and count them.
        on_scene: progress.

    Returns:
        Names of the sets that were written; none is if there is an error.

    Raises:
        DataError: `tasks` has no such file; a file is broken; it names a scene that is no training scene here, or lacks
            one that is.
    """
    sets = metadata.data_efficient(dataset.layout)
    train = _training_scenes(dataset)
    root = tasks / "tasks" if (tasks / "tasks").is_dir() else tasks
    scene_files = {share: root / "scenes" / f"{share.percent}.txt" for share in sets.scenes}
    point_files = {points: root / "points" / f"points{points}" for points in sets.points}
    found = [file for file in (*scene_files.values(), *point_files.values()) if file.exists()]
    if not found:
        raise DataError(
            f"{tasks} has none of {', '.join(str(file.relative_to(root)) for file in scene_files.values())}, "
            f"{', '.join(str(file.relative_to(root)) for file in point_files.values())}.",
            "Give the folder `tasks` of ScanNet's data-efficient benchmark.",
        )
    scenes = {s: official_scenes(f, train, s.names, allow_missing) for s, f in scene_files.items() if f in found}
    sizes = {name: dataset.point_count(name) for name in train}
    points = {k: official_points(f, sizes, k, allow_missing) for k, f in point_files.items() if f in found}
    counts: dict[str, int] = {}
    kept = dict.fromkeys(points, 0)
    for name, labelled in _labelled_points(dataset, train, on_scene):
        counts[name] = int(labelled.sum())
        for count, (ids, _) in points.items():
            kept[count] += int(labelled[ids[name]].sum()) if name in ids else 0
    subsets: list[SceneSubset | PointSubset] = [
        _scene_subset(dataset, share.percent, names, counts, _source(scene_files[share]), notes)
        for share, (names, notes) in scenes.items()
    ]
    for count, (ids, notes) in points.items():
        labels = Labels(kept=kept[count], of=sum(counts.values()))
        subsets.append(_point_subset(dataset, count, ids, labels, _source(point_files[count]), notes))
    _store(dataset, subsets)
    return [subset.name for subset in subsets]


def _labelled_points(
    dataset: PreparedDataset, names: Sequence[str], on_scene: OnScene | None
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Scene by scene: name, and which points have a class in any label set [N]."""
    for done, name in enumerate(names, start=1):
        yield name, _labelled(dataset.scene(name))
        if on_scene is not None:
            on_scene(name, done, len(names))


def _labelled(scene: Scene) -> NDArray[np.bool_]:
    labelled = np.zeros(len(scene), np.bool_)
    for segment in scene.segments.values():
        labelled |= segment >= 0
    return labelled


def _scene_subset(
    dataset: PreparedDataset,
    percent: int,
    scenes: tuple[str, ...],
    counts: Mapping[str, int],
    source: str,
    notes: Sequence[str] = (),
) -> SceneSubset:
    return SceneSubset(
        name=_scenes_name(percent),
        source=source,
        dataset=dataset.fingerprint,
        labels=Labels(kept=sum(counts[name] for name in scenes), of=sum(counts.values())),
        notes=tuple(notes),
        scenes=scenes,
    )


def _point_subset(
    dataset: PreparedDataset,
    count: int,
    points: Mapping[str, Int64Array],
    labels: Labels,
    source: str,
    notes: Sequence[str],
) -> PointSubset:
    return PointSubset(
        name=_points_name(count),
        source=source,
        dataset=dataset.fingerprint,
        labels=labels,
        notes=tuple(notes),
        points={name: tuple(ids.tolist()) for name, ids in points.items()},
    )


def _store(dataset: PreparedDataset, subsets: Sequence[SceneSubset | PointSubset]) -> None:
    for subset in subsets:
        write_atomic(subset_file(dataset, subset.name), subset.model_dump_json() + "\n")


def _problem(dataset: PreparedDataset, name: str, subset: SceneSubset | PointSubset) -> str | None:
    """What does not fit the dataset, in words, or None."""
    if subset.name != name:
        return f"'name' is {subset.name[:40]!r}, it must be '{name}' as the file is called"
    scenes = subset.scenes if isinstance(subset, SceneSubset) else tuple(subset.points)
    train = set(_training_scenes(dataset))
    strange = [scene for scene in scenes if scene not in train]
    if strange:
        return f"{len(strange)} scenes are no training scenes of this dataset: {some(strange)}"
    if not scenes or len(set(scenes)) < len(scenes):
        return "it has no scene, or one twice"
    if isinstance(subset, PointSubset):
        for scene, ids in subset.points.items():
            if any(ids[at] >= ids[at + 1] for at in range(len(ids) - 1)):
                return f"scene {scene}: the ids are not ascending"
            if ids and ids[-1] >= dataset.point_count(scene):
                return f"scene {scene}: there is no point {ids[-1]}, it has {dataset.point_count(scene)}"
    return None


def _is_official(dataset: PreparedDataset, name: str) -> bool:
    """True if a valid official set lies there, which a drawn one must not replace."""
    try:
        return load(dataset, name).official
    except DataError:  # missing, broken or of another state of the dataset: to be drawn
        return False


def _training_scenes(dataset: PreparedDataset) -> tuple[str, ...]:
    split = metadata.data_efficient(dataset.layout).split
    names = dataset.scene_names(split)
    if not names:
        raise DataError(
            f"{dataset.root} has no scenes in its split '{split}'.", "Data-efficient sets are taken from it."
        )
    return tuple(sorted(names))


def _source(file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"{_OFFICIAL}: tasks/{file.parent.name}/{file.name} sha256 {digest}"


def _scenes_name(percent: int) -> str:
    return f"scenes-{percent}"


def _points_name(count: int) -> str:
    return f"points-{count}"
