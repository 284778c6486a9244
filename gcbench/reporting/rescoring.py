"""The predictions that a run kept, scored again in other ways. No model runs, and no torch is imported.

Semantic predictions are classes of voxels or of original points. The class of a point is that of the nearest voxel's
point, the class of a voxel that of its first point, so each gives the other. Instances are kept on the original points.
What needs probabilities or another forward pass (test-time augmentation, another grid) cannot be had from them.

Shape legend: N original points, M voxels, K classes, P proposals.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gcbench.data.geometry import move_points
from gcbench.data.labels import load_label_set
from gcbench.data.storage import PreparedDataset
from gcbench.data.transforms import center_shift
from gcbench.data.voxels import grid_sample
from gcbench.errors import DataError, InputError
from gcbench.reporting.stored_jobs import Training
from gcbench.runs.results import InstanceResult, SemanticResult, TableResult
from gcbench.runs.store import RunStore
from gcbench.scoring.instance import InstanceMetrics, InstancePredictions, InstanceScorer, InstanceTarget
from gcbench.scoring.instance_overlaps import SceneOverlaps
from gcbench.scoring.protocols import Protocol as Policy
from gcbench.scoring.protocols import load_protocol, protocol_names
from gcbench.scoring.semantic import ClassCounts, SemanticMetrics, SemanticScorer
from gcbench.structures import IGNORE_INDEX, Int64Array, Scene

Progress = Callable[[int, int], None]
Arrays = Mapping[str, NDArray[Any]]
_RESOLUTIONS = ("voxels", "points")


@dataclass(frozen=True)
class Rescored:
    """The means, as fractions, of one other way to score, and in words what it changes."""

    change: str
    means: Mapping[str, float]


@dataclass(frozen=True)
class Rescoring:
    """A result scored again.

    Attributes:
        alternatives: one for each other way that could be had.
        problem: why predictions could not be scored, empty if they were.
    """

    alternatives: tuple[Rescored, ...]
    problem: str = ""


def metrics_of(result: TableResult) -> SemanticMetrics | InstanceMetrics:
    """The metrics of a result, computed again from the counts of its scenes.

    Raises:
        InputError: its protocol is of another version now, or its counts contradict each other.
    """
    label_set, protocol = load_label_set(result.protocol.label_set), load_protocol(result.protocol.evaluation)
    if protocol.version != result.protocol.evaluation_version:
        raise InputError(f"it was scored under version {result.protocol.evaluation_version} of '{protocol.name}'.")
    if isinstance(result, InstanceResult):
        instance = InstanceScorer(label_set, protocol)
        for name, record in result.scenes.items():
            instance.add_record(name, record)
        return instance.result()
    semantic = SemanticScorer(label_set, protocol)
    for name, counts in result.scenes.items():
        semantic.add_counts(name, counts.model_dump())
    return semantic.result()


def rescore(result: TableResult, parts: Sequence[Training], store: RunStore, progress: Progress) -> Rescoring:
    """Score what the trainings behind a result predicted in all other ways that it allows.

    Args:
        result: of a table's cell.
        parts: its trainings, one per fold.
        store: where the runs lie; data that moved with it are found too.
        progress: gets how many scenes of how many are done.
    """
    ways = _SemanticWays(result) if isinstance(result, SemanticResult) else _InstanceWays(result)
    measured: dict[str, Any] = {}
    try:
        for part in parts:
            measured |= _measured(part, scored_data(part, result, store), ways, len(measured), progress)
        if measured.keys() != result.scenes.keys():
            raise DataError("the runs of some folds are gone")
    except (DataError, InputError) as error:
        return Rescoring(ways.from_counts(), error.message)
    return Rescoring(ways.alternatives(measured))


class _Ways(Protocol):
    """All ways to score one kind of prediction."""

    def measure(self, scene: Scene, prediction: Arrays, grid_size: float) -> Any:
        """The counts of a scene in all ways; None if the result's own way does not give what the result says.

        Raises:
            DataError, InputError: the prediction does not fit the scene.
        """

    def alternatives(self, measured: Mapping[str, Any]) -> tuple[Rescored, ...]:
        """The means of every other way, from the counts of all scenes."""

    def from_counts(self) -> tuple[Rescored, ...]:
        """What can be had from the counts in the result alone."""


class _SemanticWays:
    def __init__(self, result: SemanticResult) -> None:
        self.result, self.at = result, result.protocol.resolution
        self.label_set = load_label_set(result.protocol.label_set)
        self.own, self.others = _policies(result)

    def measure(self, scene: Scene, prediction: Arrays, grid_size: float) -> dict[str, ClassCounts] | None:
        """Counts on voxels, on points, and with unlabelled points as errors."""
        target, kept = _labels(scene, self.label_set.name), _array(prediction, "classes")
        first, coord = _first_points(scene, grid_size)
        scorer = SemanticScorer(self.label_set, self.own)
        targets = {"voxels": target[first], "points": target}
        counts: dict[str, ClassCounts] = {self.at: scorer.measure(scene.name, kept, targets[self.at])}
        stated = self.result.scenes.get(scene.name)
        if stated is None or counts[self.at].as_lists() != stated.model_dump():
            return None
        if self.at == "points":
            counts["voxels"] = scorer.measure(scene.name, kept[first], targets["voxels"])
        else:
            from scipy.spatial import cKDTree

            nearest = cKDTree(coord[first]).query(coord)[1]
            counts["points"] = scorer.measure(scene.name, kept[nearest], targets["points"])
        wrong = np.bincount(kept[targets[self.at] == IGNORE_INDEX], minlength=len(self.label_set))
        own = counts[self.at]
        return {**counts, "unlabelled": ClassCounts(own.intersection, own.union + wrong, own.target)}

    def alternatives(self, measured: Mapping[str, dict[str, ClassCounts]]) -> tuple[Rescored, ...]:
        """See `_Ways`."""
        found = []
        for resolution, policy in itertools.product(_RESOLUTIONS, (self.own, *self.others)):
            if (resolution, policy) != (self.at, self.own):
                change = _change(resolution if resolution != self.at else None, policy if policy != self.own else None)
                found.append(self._rescored(change, policy, {name: of[resolution] for name, of in measured.items()}))
        unlabelled = {name: of["unlabelled"] for name, of in measured.items()}
        return (*found, self._rescored("unlabelled points count as errors", self.own, unlabelled))

    def from_counts(self) -> tuple[Rescored, ...]:
        """Other metric policies need no prediction."""
        scenes = {
            name: ClassCounts(*(np.array(getattr(counts, key)) for key in ("intersection", "union", "target")))
            for name, counts in self.result.scenes.items()
        }
        return tuple(self._rescored(_change(None, policy), policy, scenes) for policy in self.others)

    def _rescored(self, change: str, policy: Policy, scenes: Mapping[str, ClassCounts]) -> Rescored:
        scorer = SemanticScorer(self.label_set, policy)
        for name, counts in scenes.items():
            scorer.insert(name, counts)
        return Rescored(change, scorer.result().means())


class _InstanceWays:
    def __init__(self, result: InstanceResult) -> None:
        self.result = result
        self.label_set = load_label_set(result.protocol.label_set)
        self.own, others = _policies(result)
        self.ways = list(itertools.product(("points", "voxels"), (self.own, *others)))  # the first is the result's

    def measure(self, scene: Scene, prediction: Arrays, grid_size: float) -> list[SceneOverlaps] | None:
        """Overlaps in each of `ways`."""
        own = self._overlaps(scene, prediction, self.own, None)
        stated = self.result.scenes.get(scene.name, {})
        if any(not np.array_equal(rows, np.array(stated.get(key))) for key, rows in own.as_record().items()):
            return None
        first = _first_points(scene, grid_size)[0]
        rest = [
            self._overlaps(scene, prediction, policy, first if resolution == "voxels" else None)
            for resolution, policy in self.ways[1:]
        ]
        return [own, *rest]

    def alternatives(self, measured: Mapping[str, list[SceneOverlaps]]) -> tuple[Rescored, ...]:
        """See `_Ways`."""
        found = []
        for number, (resolution, policy) in enumerate(self.ways[1:], start=1):
            scorer = InstanceScorer(self.label_set, policy)
            for name, of in measured.items():
                scorer.insert(name, of[number])
            change = _change(resolution if resolution != "points" else None, policy if policy != self.own else None)
            found.append(Rescored(change, scorer.result().means()))
        return tuple(found)

    def from_counts(self) -> tuple[Rescored, ...]:
        """The policies count other vertices: nothing."""
        return ()

    def _overlaps(self, scene: Scene, prediction: Arrays, policy: Policy, rows: Int64Array | None) -> SceneOverlaps:
        """On all N points, or on some rows of them."""
        if scene.instance is None:
            raise DataError(f"scene '{scene.name}' has no instances")
        of_point, classes = _array(prediction, "of_point"), _array(prediction, "classes")
        if of_point.shape != (len(scene),):
            raise DataError(f"scene '{scene.name}' has {len(scene)} points, its prediction {of_point.shape}")
        chosen = np.arange(len(scene)) if rows is None else rows
        masks = [np.flatnonzero(of_point[chosen] == number) for number in range(len(classes))]
        target = InstanceTarget(_labels(scene, self.label_set.name)[chosen], scene.instance.astype(np.int64)[chosen])
        predictions = InstancePredictions(classes, prediction["scores"], masks)
        return InstanceScorer(self.label_set, policy).measure(scene.name, predictions, target)


def _measured(
    training: Training, dataset: PreparedDataset, ways: _Ways, done: int, progress: Progress
) -> dict[str, Any]:
    """Counts of all scenes of a training, from those of its kept predictions that the result is of.

    Raises:
        DataError: there are none, or none that scores as the result says.
    """
    folders = sorted(path for path in (training.run.folder / "predictions").glob("*") if path.is_dir())
    if not folders:
        raise DataError("the predictions were removed, or never kept")
    names, problem = dataset.scene_names(training.job.val), ""
    grid_size = training.recipe.values.get("data.grid_size")
    if not isinstance(grid_size, int | float):
        raise DataError(f"{training.run.job_path}: its recipe has no data.grid_size")
    for folder in folders:
        found: dict[str, Any] = {}
        try:
            for name in names:
                counts = ways.measure(dataset.scene(name), _prediction(folder / f"{name}.safetensors"), grid_size)
                if counts is None:
                    break
                found[name] = counts
                progress(done + len(found), done + len(names))
        except (DataError, InputError) as error:
            problem = error.message
            continue
        if len(found) == len(names):
            return found
    raise DataError(problem or f"none of the predictions in {training.run.folder} scores as its result says")


def _prediction(file: Path) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file} is missing or broken ({error})") from error


def _policies(result: TableResult) -> tuple[Policy, list[Policy]]:
    own = load_protocol(result.protocol.evaluation)
    return own, [load_protocol(name) for name in protocol_names() if name != own.name]


def _array(prediction: Arrays, name: str) -> Int64Array:
    if name not in prediction:
        raise DataError(f"the predictions have no '{name}'")
    return prediction[name].astype(np.int64)


def scored_data(training: Training, result: TableResult, store: RunStore) -> PreparedDataset:
    """The data a training was scored on.

    Raises:
        DataError: they are gone, or changed.
    """
    dataset = found_data(training, store)
    if dataset.fingerprint != result.provenance.data_fingerprint:
        raise DataError(f"the data in {dataset.root} are not those that were scored: they have changed")
    return dataset


def found_data(training: Training, store: RunStore) -> PreparedDataset:
    """The dataset of a training, where its job says or where it lies now if it moved with the runs.

    Raises:
        DataError: it is in neither place.
    """
    where = training.job.data or Path("data")
    moved = store.root.parent / "data" / where.name
    return PreparedDataset.open(where if where.is_dir() or not moved.is_dir() else moved)


def _first_points(scene: Scene, grid_size: float) -> tuple[Int64Array, NDArray[np.float32]]:
    """[M] the point of each voxel that was predicted, and the points [N, 3] as they were then."""
    coord = move_points(center_shift(scene.coord, apply_z=True), scene.coord)
    return grid_sample(coord, grid_size, None).index, coord


def _labels(scene: Scene, label_set: str) -> Int64Array:
    if label_set not in scene.segments:
        raise DataError(f"scene '{scene.name}' has no labels of {label_set}")
    return scene.segments[label_set].astype(np.int64)


def _change(resolution: str | None, policy: Policy | None) -> str:
    """In words, what another way to score changes."""
    return ", ".join(
        ([f"scored on {resolution}"] if resolution else []) + ([f"policy {policy.name}"] if policy else [])
    )
