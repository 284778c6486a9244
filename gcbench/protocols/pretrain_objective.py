"""What pre-training minimises: predictions of a batch, the teacher's features of its photos, and their losses.

Shape legend: V views of a scene, H x W pixels, h x w cells and D channels of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcbench.data.metadata import cache_folder
from gcbench.data.storage import PreparedDataset
from gcbench.models.pretrainer import ScenePrediction
from gcbench.models.teacher_cache import TeacherCache
from gcbench.models.teachers import Teacher, load_teacher
from gcbench.objectives.pretraining import LossWeights, PretrainingLoss, pretraining_loss
from gcbench.recipe.schema import PretrainRecipe
from gcbench.structures import PointBatch, PosedViews


class PretrainingObjective:
    """Eq. 16-20 for batches of scenes. Nothing here is trained.

    Args:
        recipe: losses, teacher and size of the views.
        dataset: whose photos the teacher sees; its fingerprint keys the features that are kept on disk.
        device: where the teacher computes.

    Raises:
        InputError: there is no such teacher, or it cannot be used on views of this size.
        DataError: the teacher's files, or the folder of its features, cannot be used.
        MissingExtraError: a network, and transformers is not installed.
    """

    def __init__(self, recipe: PretrainRecipe, dataset: PreparedDataset, device: torch.device) -> None:
        self.weights = LossWeights(recipe.losses.image, recipe.losses.depth, recipe.losses.semantic)
        self.device = device
        self.teacher: Teacher | None = None
        self.grid: tuple[int, int] | None = None
        if recipe.losses.semantic:
            self.teacher = load_teacher(
                recipe.teacher.name,
                model=recipe.teacher.model,
                revision=recipe.teacher.revision,
                rows=recipe.teacher.rows,
                precision=recipe.teacher.precision,
                device=device,
            )
            self.grid = self.teacher.grid(recipe.data.view_height, recipe.data.view_width)
            self.cache = _cache(self.teacher, recipe, dataset)

    @property
    def teacher_dim(self) -> int | None:
        """D; None where nothing is distilled."""
        return None if self.teacher is None else self.teacher.dim

    def describe_teacher(self) -> dict[str, Any] | None:
        """What the teacher is; None where nothing is distilled."""
        return None if self.teacher is None else self.teacher.describe()

    def __call__(
        self, model: nn.Module, points: PointBatch, views: Sequence[PosedViews]
    ) -> tuple[Sequence[ScenePrediction], PretrainingLoss]:
        """Predictions of every scene, and the loss over all their views."""
        views = [item.to(self.device) for item in views]
        predictions = self.predict(model, points, views)
        return predictions, self.loss(predictions, points.names, views)

    def predict(self, model: nn.Module, points: PointBatch, views: Sequence[PosedViews]) -> Sequence[ScenePrediction]:
        """The views of every scene, rendered; feature maps are on the teacher's grid."""
        predictions: Sequence[ScenePrediction] = model(
            points.to(self.device), [item.to(self.device) for item in views], self.grid
        )
        return predictions

    def loss(
        self, predictions: Sequence[ScenePrediction], names: Sequence[str], views: Sequence[PosedViews]
    ) -> PretrainingLoss:
        """Eq. 17-20 over all views of the scenes with these names."""
        views = [item.to(self.device) for item in views]
        maps = [p.feature_maps for p in predictions if p.feature_maps is not None]
        return pretraining_loss(
            torch.cat([p.rendered.colors for p in predictions]),
            torch.cat([p.rendered.depths for p in predictions]),
            torch.cat([item.colors for item in views]),
            torch.cat([p.targets.depths for p in predictions]),
            self.weights,
            feature_maps=torch.cat(maps) if maps else None,
            teacher_maps=self.teacher_maps(names, views) if maps else None,
        )

    def teacher_maps(self, scenes: Sequence[str], views: Sequence[PosedViews]) -> Tensor:
        """The teacher's features [all V, h, w, D] of the photos of these scenes, in its own precision."""
        with torch.autocast(self.device.type, enabled=False):
            maps = [
                self.cache.maps(scene, item.frame_ids, item.colors) for scene, item in zip(scenes, views, strict=True)
            ]
        return torch.cat(maps)


def _cache(teacher: Teacher, recipe: PretrainRecipe, dataset: PreparedDataset) -> TeacherCache:
    """Keeps the teacher's features in the user's cache folder, shared by all runs, if the recipe says so."""
    if recipe.teacher.cache_gb is None:
        return TeacherCache(teacher)
    limit = int(recipe.teacher.cache_gb * 1e9)
    return TeacherCache(teacher, cache_folder() / "teacher-features", limit, dataset.fingerprint)
