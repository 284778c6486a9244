"""Each way to predict a scene: what is scored where, and that every point has its say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gcbench.data import geometry
from gcbench.data.samples import evaluation_sample
from gcbench.errors import DataError
from gcbench.protocols.semantic_inference import SceneInference, tta_matrices
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import SemanticEvaluation, SemanticRecipe
from gcbench.structures import LabelSet, PointBatch, Scene

LABELS = LabelSet("scannet20", "scannet", ("wall", "floor", "cabinet"), (1, 2, 3))
CPU = torch.device("cpu")
GRID = 0.1


def evaluation(**changes: Any) -> SemanticEvaluation:
    recipe = load_recipe("semantic/scannet").recipe
    assert isinstance(recipe, SemanticRecipe)
    return SemanticEvaluation.model_validate({**recipe.evaluation.model_dump(), **changes})


TTA = evaluation(inference="tta", resolution="points")


def room(name: str = "scene0000_00", points: int = 400, seed: int = 0) -> Scene:
    draw = np.random.default_rng(seed)
    return Scene(
        name=name,
        coord=draw.uniform(0, 1, (points, 3)).astype(np.float32),
        color=draw.integers(0, 256, (points, 3)).astype(np.uint8),
        normal=np.tile(np.float32([1, 0, 0]), (points, 1)),
        segments={"scannet20": draw.integers(-1, 3, points).astype(np.int16)},
        instance=None,
    )


class ByColor(nn.Module):
    """The class is the strongest colour of a point: rotations, scales and flips do not change it."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(5.0))
        self.calls = 0

    def forward(self, batch: PointBatch) -> Tensor:
        self.calls += 1
        return self.sharpness * batch.feat[:, :3]


class ByNormal(nn.Module):
    """Class 0 for normals along + x, 1 along + y, 2 else: tells the variants apart."""

    def forward(self, batch: PointBatch) -> Tensor:
        normal = batch.feat[:, 3:]
        return 10 * torch.stack([normal[:, 0], normal[:, 1], torch.full_like(normal[:, 0], 0.5)], dim=1)


def test_the_recipe_has_the_thirteen_official_variants() -> None:
    matrices = tta_matrices(TTA)
    assert len(matrices) == 13
    assert np.allclose(matrices[0], np.eye(4))
    assert np.allclose(matrices[-1], np.diag([-1, -1, 1, 1]))
    scales = [round(geometry.scale_of(matrix), 6) for matrix in matrices]
    assert scales == [1.0] * 4 + [0.95] * 4 + [1.05] * 4 + [1.0]
    quarter = matrices[1][:3, :3] @ [1, 0, 0]
    assert np.allclose(quarter, [0, 1, 0])
    assert len(tta_matrices(evaluation(tta_flip=False, tta_scales=[1.0], tta_rotations=[0.0]))) == 1


def test_test_time_augmentation_predicts_every_point_itself() -> None:
    scene = room()
    own = np.asarray(scene.color).argmax(axis=1)
    unique = np.sort(scene.color, axis=1)[:, -1] > np.sort(scene.color, axis=1)[:, -2]
    classes = SceneInference(TTA, GRID, LABELS).predict(ByColor(), scene, CPU)["classes"]
    assert (classes == own)[unique].all()
    # A single pass gives a point the class of the nearest voxel's point instead.
    single = SceneInference(evaluation(resolution="points"), GRID, LABELS).predict(ByColor(), scene, CPU)["classes"]
    assert 0.3 < (single == own).mean() < 0.95


def test_probabilities_of_all_variants_are_summed() -> None:
    """The normal + x points to + x in 1 + 1 + 1 variants, to + y in 3, away in 7 of 13: the third class wins."""
    inference = SceneInference(TTA, GRID, LABELS)
    assert set(inference.predict(ByNormal(), room(), CPU)["classes"]) == {2}
    one = evaluation(inference="tta", resolution="points", tta_rotations=[90.0], tta_flip=False)
    assert set(SceneInference(one, GRID, LABELS).predict(ByNormal(), room(), CPU)["classes"]) == {1}


def test_voxels_and_points_are_scored_where_the_recipe_says() -> None:
    scene = room()
    sample = evaluation_sample(scene, grid_size=GRID, label_set="scannet20")
    voxels = SceneInference(evaluation(resolution="voxels"), GRID, LABELS)
    assert len(voxels.predict(ByColor(), scene, CPU)["classes"]) == len(sample.points) == len(voxels.target(scene))
    points = SceneInference(evaluation(resolution="points"), GRID, LABELS)
    assert len(points.predict(ByColor(), scene, CPU)["classes"]) == len(scene) == len(points.target(scene))
    assert points.target(scene).tolist() == scene.segments["scannet20"].tolist()


def test_without_labels_there_is_no_target() -> None:
    scene = Scene("a", np.zeros((1, 3), np.float32), np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="Scene 'a' has no labels of scannet20"):
        SceneInference(TTA, GRID, LABELS).target(scene)


def test_augmentation_needs_the_original_points() -> None:
    with pytest.raises(ValueError, match="needs resolution: points"):
        evaluation(inference="tta", resolution="voxels")
