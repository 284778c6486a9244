"""Instance segmentation: average precision per class from masks with scores, under a named protocol.

Shape legend
    N  vertices of a scene    P  predictions    K  classes of the label set    T  IoU thresholds

A scene is reduced to the sizes and intersections of its instances, in vertices, as soon as it is added; masks are
looked at one at a time and never kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gcbench.errors import InputError
from gcbench.scoring.average_precision import (
    Outcomes,
    average_precision,
    collect_outcomes,
    resampled_precision,
)
from gcbench.scoring.instance_overlaps import (
    InstancePredictions,
    InstanceTarget,
    OverlapMeter,
    SceneOverlaps,
    class_indices,
    overlaps_from_record,
)
from gcbench.scoring.means import mean_of_defined, means_of_defined
from gcbench.scoring.protocols import Protocol
from gcbench.structures import Float64Array, Int64Array, LabelSet

__all__ = [
    "InstanceMetrics",
    "InstancePredictions",
    "InstanceScorer",
    "InstanceTarget",
    "class_indices",
]


@dataclass(frozen=True)
class InstanceMetrics:
    """Metrics of a split, as fractions in [0, 1], float64. NaN is "no ground truth of it", or "not evaluated".

    Attributes:
        label_set: the classes.
        protocol: the policy.
        evaluated: indices of the classes that have an AP under the protocol.
        scenes: sizes and intersections per scene, in the order they were added.
        ap: [K], mean over the thresholds from 0.5 up.
        ap50, ap25: [K], at IoU 0.5 and 0.25.
        map, map50, map25: means over the classes that have a value.
        groups: ``ap``, ``ap50`` and ``ap25`` per group of the label set (head, common, tail), likewise.
        undefined: names of the evaluated classes without a counted ground truth; left out of the means.
        outcomes: true and false positives, what `resampled_means` starts from.
    """

    label_set: LabelSet
    protocol: Protocol
    evaluated: Int64Array
    scenes: Mapping[str, SceneOverlaps]
    ap: Float64Array
    ap50: Float64Array
    ap25: Float64Array
    map: float
    map50: float
    map25: float
    groups: Mapping[str, Mapping[str, float]]
    undefined: tuple[str, ...]
    outcomes: Outcomes

    def means(self) -> dict[str, float]:
        """The three means by name."""
        return {"mAP": self.map, "mAP50": self.map50, "mAP25": self.map25}

    def resampled_means(self, scene_counts: Int64Array) -> dict[str, Float64Array]:
        """The three means of R splits in which every scene stands so many times, [R] each; equal but for rounding.

        Args:
            scene_counts: [R, S] integers >= 0, in the order of `scenes`.

        Raises:
            InputError: another number of counts than scenes, or a negative one.
        """
        if scene_counts.ndim != 2 or scene_counts.shape[1] != len(self.scenes) or (scene_counts < 0).any():
            raise InputError(f"There must be one count >= 0 for each of the {len(self.scenes)} scenes.")
        tables = resampled_precision(self.outcomes, scene_counts)
        return {
            f"m{metric.upper()}": means_of_defined(tables[:, rows].reshape(len(tables), -1))
            for metric, rows in self.protocol.instance.thresholds_of().items()
        }

    def as_record(self) -> dict[str, Any]:
        """`metrics`, `classes` (the evaluated ones), `groups` and `scenes` as plain values, NaN where undefined."""
        return {
            "metrics": self.means(),
            "classes": {
                self.label_set.classes[k]: {
                    "ap": float(self.ap[k]),
                    "ap50": float(self.ap50[k]),
                    "ap25": float(self.ap25[k]),
                }
                for k in self.evaluated.tolist()
            },
            "groups": {name: dict(values) for name, values in self.groups.items()},
            "scenes": {name: scene.as_record() for name, scene in self.scenes.items()},
        }


class InstanceScorer:
    """Collects sizes and intersections scene by scene; no mask is kept.

    Args:
        label_set: the classes; a class index is a position in it.
        protocol: from `gcbench.scoring.protocols.load_protocol`.

    Raises:
        InputError: the protocol does not say which classes of the label set count as instances.
    """

    def __init__(self, label_set: LabelSet, protocol: Protocol) -> None:
        self.label_set = label_set
        self.protocol = protocol
        self._evaluated = protocol.instance.evaluated_classes(label_set)
        is_evaluated = np.zeros(len(label_set) + 1, np.bool_)  # the last for class -1
        is_evaluated[self._evaluated] = True
        self._meter = OverlapMeter(is_evaluated, protocol.instance)
        self._scenes: dict[str, SceneOverlaps] = {}

    def __len__(self) -> int:
        return len(self._scenes)

    def add(self, scene_name: str, predictions: InstancePredictions, target: InstanceTarget) -> None:
        """Measure one scene and add it: `measure`, then `insert`."""
        self.insert(scene_name, self.measure(scene_name, predictions, target))

    def measure(self, scene_name: str, predictions: InstancePredictions, target: InstanceTarget) -> SceneOverlaps:
        """Sizes and intersections of one scene, which is not added; so that several processes can share the work.

        Args:
            scene_name: for errors.
            predictions: in the order of their file, which matters where two overlap.
            target: the ground truth.

        Raises:
            InputError: arrays of a wrong type or length, a class out of range, a score that is not a number, or a
                vertex that the scene does not have.
        """
        return self._meter.measure(scene_name, predictions, target)

    def insert(self, scene_name: str, overlaps: SceneOverlaps) -> None:
        """Add a scene that was measured.

        Raises:
            InputError: it was added before.
        """
        if scene_name in self._scenes:
            raise InputError(f"Scene '{scene_name}' was scored twice.", "Score every scene of a split exactly once.")
        self._scenes[scene_name] = overlaps

    def add_record(self, scene_name: str, record: Mapping[str, Sequence[Sequence[float]]]) -> None:
        """Take over a scene from a stored result: its entry under ``scenes``.

        Raises:
            InputError: a scene scored twice, or not such an entry.
        """
        self.insert(scene_name, overlaps_from_record(scene_name, record, self._meter.is_evaluated))

    def merge(self, other: InstanceScorer) -> None:
        """Take over another scorer's scenes.

        Raises:
            InputError: another label set or protocol, or a scene both have; nothing is taken over then.
        """
        if (self.label_set, self.protocol) != (other.label_set, other.protocol):
            raise InputError(
                f"Scores on {self.label_set.name} ({self.protocol.name} v{self.protocol.version}) and on "
                f"{other.label_set.name} ({other.protocol.name} v{other.protocol.version}) cannot be put together."
            )
        common = sorted(self._scenes.keys() & other._scenes.keys())
        if common:
            raise InputError(f"Scene '{common[0]}' was scored twice.", "Score every scene of a split exactly once.")
        self._scenes.update(other._scenes)

    def result(self) -> InstanceMetrics:
        """The metrics over everything added so far.

        Raises:
            InputError: nothing was added.
        """
        if not self._scenes:
            raise InputError("There is no scene to score.", "Add at least one scene before asking for the result.")
        policy = self.protocol.instance
        scenes = dict(self._scenes)
        outcomes = collect_outcomes(
            list(scenes.values()), self._evaluated, policy.thresholds(), policy.minimum_vertices
        )
        table = average_precision(outcomes)
        rows = policy.thresholds_of()
        per_class = {metric: np.full(len(self.label_set), np.nan) for metric in rows}
        for metric, chosen in rows.items():
            per_class[metric][self._evaluated] = np.ascontiguousarray(table[chosen].T).mean(axis=1)
        return InstanceMetrics(
            label_set=self.label_set,
            protocol=self.protocol,
            evaluated=self._evaluated,
            scenes=scenes,
            ap=per_class["ap"],
            ap50=per_class["ap50"],
            ap25=per_class["ap25"],
            map=mean_of_defined(table[rows["ap"]]),  # sums in the order of the table's memory, as the script's
            map50=mean_of_defined(table[rows["ap50"]]),
            map25=mean_of_defined(table[rows["ap25"]]),
            groups={
                name: {metric: mean_of_defined(values[list(members)]) for metric, values in per_class.items()}
                for name, members in self.label_set.groups.items()
            },
            undefined=tuple(
                self.label_set.classes[k] for k in self._evaluated[outcomes.targets.sum(axis=0) == 0].tolist()
            ),
            outcomes=outcomes,
        )
