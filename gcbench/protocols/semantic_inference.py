"""Predictions of a trained segmenter, in each way that a table may mean.

Single pass: one point per voxel is predicted, and scored there, or each original point takes its nearest voxel's class.
Test-time augmentation ("precise" in the official code): the scene is turned, scaled and flipped; each variant is split
into fragments that together hold every point; probabilities are summed per point.

Shape legend: N original points, M voxels, K classes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

from gcbench.data import geometry
from gcbench.data.batching import collate
from gcbench.data.samples import EvaluationSample, evaluation_fragments, evaluation_sample
from gcbench.errors import DataError
from gcbench.protocols.predictions import Arrays
from gcbench.recipe.schema import SemanticEvaluation
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import ClassCounts, SemanticMetrics, SemanticScorer
from gcbench.structures import Float64Array, Int64Array, LabelSet, Scene


@dataclass(frozen=True)
class SceneInference:
    """How a scene is predicted.

    Attributes:
        evaluation: the recipe's section.
        grid_size: voxel edge, metres.
        label_set: the classes.
    """

    evaluation: SemanticEvaluation
    grid_size: float
    label_set: LabelSet

    def predict(self, model: nn.Module, scene: Scene, device: torch.device) -> Arrays:
        """``classes`` [M] int16 of the voxels, or [N] of the original points.

        Args:
            model: maps a `PointBatch` to logits; in eval mode, on `device`.
            scene: what to predict.
            device: where the model is.
        """
        if self.evaluation.inference == "tta":
            return {"classes": self._summed(model, scene, device).astype(np.int16)}
        sample = evaluation_sample(scene, grid_size=self.grid_size, label_set=self.label_set.name)
        with torch.no_grad():
            logits = model(collate([sample.points]).to(device))
        classes: Int64Array = logits.argmax(dim=1).cpu().numpy()
        if self.evaluation.resolution == "points":
            classes = classes[nearest_voxel(sample)]
        return {"classes": classes.astype(np.int16)}

    def target(self, scene: Scene) -> Int64Array:
        """True classes of the same points, -1 is not labelled.

        Raises:
            DataError: the scene has no labels.
        """
        labels = scene.segments.get(self.label_set.name)
        if labels is None:
            raise DataError(f"Scene '{scene.name}' has no labels of {self.label_set.name}.", "Score a split that has.")
        if self.evaluation.resolution == "points":
            return labels.astype(np.int64)
        sample = evaluation_sample(scene, grid_size=self.grid_size, label_set=self.label_set.name)
        assert sample.points.segment is not None
        return sample.points.segment

    def settings(self) -> dict[str, Any]:
        """All that decides a prediction but the weights and the data, as JSON."""
        how = self.evaluation.model_dump(mode="json", exclude={"protocol", "checkpoint"})
        return {"evaluation": how, "grid_size": self.grid_size, "label_set": self.label_set.name}

    def scorer(self) -> SegmentationScorer:
        """An empty scorer."""
        return SegmentationScorer(self)

    def _summed(self, model: nn.Module, scene: Scene, device: torch.device) -> Int64Array:
        """Classes [N] by the sum of probabilities over all fragments of all variants."""
        total = torch.zeros(len(scene), len(self.label_set), device=device)
        for matrix in tta_matrices(self.evaluation):
            fragments = evaluation_fragments(
                scene, grid_size=self.grid_size, label_set=self.label_set.name, matrix=matrix
            )
            for index, points in fragments:
                with torch.no_grad():
                    probabilities = model(collate([points]).to(device)).float().softmax(dim=1)
                total.index_add_(0, torch.from_numpy(index).to(device), probabilities)
        return total.argmax(dim=1).cpu().numpy()


def tta_matrices(evaluation: SemanticEvaluation) -> list[Float64Array]:
    """The variants of a scene, [4, 4] each: every rotation about z at every scale, then both axes flipped."""
    turned = [
        geometry.scaling(scale) @ geometry.rotation("z", np.deg2rad(angle))
        for scale, angle in itertools.product(evaluation.tta_scales, evaluation.tta_rotations)
    ]
    return [*turned, geometry.flip(True, True)] if evaluation.tta_flip else turned


def nearest_voxel(sample: EvaluationSample) -> Int64Array:
    """[N]: for each original point, the nearest of the sampled points (PROTOCOLS: back by 1-nearest neighbour)."""
    index = cKDTree(sample.points.coord).query(sample.coord)[1]
    return np.asarray(index, dtype=np.int64)


class SegmentationScorer:
    """Scores the predictions of a `SceneInference` under its protocol."""

    def __init__(self, inference: SceneInference) -> None:
        self._inference = inference
        self._scorer = SemanticScorer(inference.label_set, load_protocol(inference.evaluation.protocol))

    def measure(self, scene: Scene, prediction: Arrays) -> ClassCounts:
        """Counts of one scene.

        Raises:
            DataError: the scene has no labels.
        """
        return self._scorer.measure(scene.name, prediction["classes"].astype(np.int64), self._inference.target(scene))

    def insert(self, scene_name: str, counts: ClassCounts) -> None:
        """Add a scene that was measured."""
        self._scorer.insert(scene_name, counts)

    def result(self) -> SemanticMetrics:
        """The metrics over all scenes."""
        return self._scorer.result()
