"""Predictions of a trained segmenter, scene by scene, in each way that a table may mean; kept per scene, so that a
scoring that was cut off goes on.

Single pass: one point per voxel is predicted, and scored there, or each original point takes its nearest voxel's class.
Test-time augmentation ("precise" in the official code): the scene is turned, scaled and flipped; each variant is split
into fragments that together hold every point; probabilities are summed per point.

Shape legend: N original points, M voxels, K classes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

from gcbench.data import geometry
from gcbench.data.batching import collate
from gcbench.data.npy_files import map_npy, write_npy
from gcbench.data.samples import EvaluationSample, evaluation_fragments, evaluation_sample
from gcbench.errors import DataError
from gcbench.recipe.schema import SemanticEvaluation
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

    def predict(self, model: nn.Module, scene: Scene, device: torch.device) -> Int64Array:
        """Classes of the points that are scored: [M] voxels, or [N] original points.

        Args:
            model: maps a `PointBatch` to logits; in eval mode, on `device`.
            scene: what to predict.
            device: where the model is.
        """
        if self.evaluation.inference == "tta":
            return self._summed(model, scene, device)
        sample = evaluation_sample(scene, grid_size=self.grid_size, label_set=self.label_set.name)
        with torch.no_grad():
            logits = model(collate([sample.points]).to(device))
        classes: Int64Array = logits.argmax(dim=1).cpu().numpy()
        return classes[nearest_voxel(sample)] if self.evaluation.resolution == "points" else classes

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

    def key(self, model: nn.Module, data_fingerprint: str) -> str:
        """16 hex digits of all that a prediction depends on: weights and buffers, data, and how it is made."""
        digest = hashlib.sha256()
        settings = [self.evaluation.model_dump(mode="json"), self.grid_size, self.label_set.name, data_fingerprint]
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

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


@dataclass(frozen=True)
class PredictionCache:
    """Predicted classes by scene, a `.npy` each; a file is whole or not there.

    Attributes:
        folder: of one key (`SceneInference.key`): other weights or another way to predict have a folder of their own.
    """

    folder: Path

    def load(self, scene_name: str, points: int) -> Int64Array | None:
        """Classes [points] of a scene, or None if there are none, or not so many."""
        file = self._file(scene_name)
        if not file.is_file():
            return None
        try:
            classes = map_npy(file)
        except DataError:
            return None
        return classes.astype(np.int64) if classes.shape == (points,) and classes.dtype == np.int16 else None

    def store(self, scene_name: str, classes: Int64Array) -> None:
        """Keep the classes of a scene."""
        write_npy(self._file(scene_name), classes.astype(np.int16))

    def _file(self, scene_name: str) -> Path:
        return self.folder / f"{scene_name}.npy"
