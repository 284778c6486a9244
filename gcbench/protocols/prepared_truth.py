"""Ground truth for scores, from a prepared dataset. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError
from gcbench.scoring.instance_overlaps import InstanceTarget
from gcbench.structures import Int64Array, LabelSet


@dataclass(frozen=True)
class PreparedTruth:
    """Labels of the scenes of one split or of several; scenes are mapped when they are asked for.

    Attributes:
        dataset: the prepared dataset.
        label_set: the classes.
        scenes: names of the scenes.
    """

    dataset: PreparedDataset
    label_set: LabelSet
    scenes: tuple[str, ...]

    @classmethod
    def open(cls, dataset: PreparedDataset, label_set: LabelSet, split: str) -> PreparedTruth:
        """The scenes of a split, or of several with commas between them.

        Raises:
            InputError: the dataset does not carry the label set, or has no such split.
        """
        if label_set.name not in dataset.label_sets:
            raise InputError(
                f"{dataset.root} has no labels of {label_set.name}.",
                f"It has: {', '.join(dataset.label_sets) or 'none'}.",
            )
        try:
            return cls(dataset, label_set, dataset.scene_names(split.split(",")))
        except DataError as error:
            raise InputError(error.message, f"{error.way_out} Choose with --split.") from error

    def segment(self, scene: str) -> Int64Array:
        """Class indices [N]; see `gcbench.scoring.evaluation.GroundTruth`."""
        labels = self.dataset.scene(scene).segments.get(self.label_set.name)
        if labels is None:
            raise InputError(f"Scene '{scene}' of {self.dataset.root} has no labels.", "Choose a labelled --split.")
        return labels.astype(np.int64)

    def instances(self, scene: str) -> InstanceTarget:
        """Classes and instances [N]."""
        segment = self.segment(scene)
        instance = self.dataset.scene(scene).instance
        if instance is None:
            raise InputError(f"Scene '{scene}' of {self.dataset.root} has no instances.", "Choose a labelled --split.")
        return InstanceTarget(segment, instance.astype(np.int64))
