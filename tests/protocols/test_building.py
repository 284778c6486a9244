"""Models from recipes, encoders on disk, batches by number, and predictions back on the original points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gcbench.data.samples import EvaluationSample, PointSample
from gcbench.errors import DataError
from gcbench.models.point_anchors import PointAnchors
from gcbench.models.teachers import ClassicalTeacher
from gcbench.protocols.encoders import build_encoder, export_encoder, load_encoder
from gcbench.protocols.loading import steps
from gcbench.protocols.pretraining_model import build_pretrainer
from gcbench.protocols.semantic_inference import nearest_voxel
from gcbench.recipe.loader import load_recipe
from gcbench.recipe.schema import Encoder, PretrainRecipe


def pretrain_recipe(preset: str | None) -> PretrainRecipe:
    recipe = load_recipe("pretrain/gaussiancross", preset=preset).recipe
    assert isinstance(recipe, PretrainRecipe)
    return recipe


@pytest.mark.parametrize(("preset", "parameters"), [(None, 39_155_904), ("tiny", None)])
def test_the_recipe_builds_its_model(preset: str | None, parameters: int | None) -> None:
    recipe = pretrain_recipe(preset)
    encoder = build_encoder(recipe.encoder)
    model = build_pretrainer(recipe, encoder, ClassicalTeacher(recipe.teacher.rows).dim)
    assert encoder.out_channels == 96
    assert model.volume.out_channels == recipe.volume.dense_channels[-1]
    if parameters is not None:
        assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters


@pytest.mark.parametrize("ablation", ["without-cuboid", "without-offsets", "targets-image", "opacity-0.7"])
def test_the_ablations_build_their_models(ablation: str) -> None:
    recipe = load_recipe(f"pretrain/{ablation}", preset="tiny").recipe
    assert isinstance(recipe, PretrainRecipe)
    teacher_dim = 12 if recipe.losses.semantic else None
    model = build_pretrainer(recipe, build_encoder(recipe.encoder), teacher_dim)
    assert isinstance(model.volume, PointAnchors) == (ablation == "without-cuboid")
    assert (model.heads.offset is None) == (ablation == "without-offsets")
    assert (model.projection is None) == (ablation == "targets-image")
    assert (model.heads.feature is None) == (ablation == "targets-image")
    assert model.heads.threshold == recipe.gaussians.opacity_threshold


def small(width: int = 8) -> Encoder:
    return Encoder(in_channels=6, base_channels=width, channels=(width, width), layers=(1, 1))


def test_an_exported_encoder_comes_back(tmp_path: Path) -> None:
    first, second = build_encoder(small()), build_encoder(small())
    path = export_encoder(first, small(), tmp_path)
    load_encoder(second, path)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)
    assert (tmp_path / "config.json").is_file()


def test_an_encoder_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = export_encoder(build_encoder(small()), small(), tmp_path)
    with pytest.raises(DataError, match="does not fit this encoder"):
        load_encoder(build_encoder(small(16)), path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="cannot be read"):
        load_encoder(build_encoder(small()), path)
    with pytest.raises(DataError, match="cannot be read"):
        load_encoder(build_encoder(small()), tmp_path / "nothing")


class Squares:
    def __getitem__(self, number: int) -> int:
        return number**2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_starts_at_any_step(workers: int) -> None:
    assert list(steps(Squares(), 3, 7, workers)) == [9, 16, 25, 36]


def test_predictions_go_back_by_nearest_neighbour() -> None:
    coord = np.random.default_rng(0).uniform(0, 1, (200, 3)).astype(np.float32)
    kept = np.arange(0, 200, 7)
    points = PointSample("s", coord[kept], np.zeros((len(kept), 3), np.int32), np.zeros((len(kept), 6), np.float32))
    sample = EvaluationSample(points, np.zeros(200, np.int64), coord, None)
    distances = np.linalg.norm(coord[:, None] - coord[kept][None], axis=2)
    assert (nearest_voxel(sample) == distances.argmin(axis=1)).all()
