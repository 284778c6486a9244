"""Whole training steps: sparse U-Net, Gaussians, rendering and every loss, also on scenes that teach nothing."""

from __future__ import annotations

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gcbench.data.samples import PretrainSamples
from gcbench.models.dense_volume import DenseVolume, Voxels, scatter_features
from gcbench.models.gaussian_heads import GaussianHeads
from gcbench.models.point_anchors import PointAnchors
from gcbench.models.pretrainer import Pretrainer, ScenePrediction
from gcbench.models.sparse_unet import SparseUNet
from gcbench.models.teachers import ClassicalTeacher
from gcbench.objectives.pretraining import (
    LossWeights,
    PretrainingLoss,
    depth_loss,
    image_loss,
    pretraining_loss,
    semantic_loss,
)
from gcbench.splatting import render
from gcbench.structures import PointBatch, PosedViews
from tests.models.box_room import (
    looking_away,
    room_points,
    room_views,
    some_points,
    together,
    voxelised,
    without_depth,
)

TEACHER = ClassicalTeacher(rows=6)
ALL = LossWeights(1.0, 1.0, 1.0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are small: on a busy machine waiting for a second thread costs far more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pretrainer(anchors: str = "voxels", features: int = 8, **options: Any) -> Pretrainer:
    torch.manual_seed(0)
    encoder = SparseUNet(6, 8, channels=(16, 16, 16, 16), layers=(1, 1, 1, 1))
    volume = PointAnchors(16, 0.05) if anchors == "points" else DenseVolume(16, (16, 16, 12), (16,), norm="group")
    heads = GaussianHeads(volume.out_channels, features, 16, volume.edges, **({"threshold": 0.3} | options))
    teacher = TEACHER.dim if features else None
    return Pretrainer(encoder, volume, heads, render, feature_channels=features, teacher_channels=teacher)


def step(
    model: Pretrainer, points: PointBatch, views: Sequence[PosedViews], weights: LossWeights = ALL
) -> tuple[tuple[ScenePrediction, ...], PretrainingLoss]:
    grid = TEACHER.grid(*views[0].depths.shape[1:]) if model.projection is not None else None
    scenes = model(points, views, grid)
    loss = pretraining_loss(
        torch.cat([scene.rendered.colors for scene in scenes]),
        torch.cat([scene.rendered.depths for scene in scenes]),
        torch.cat([scene.targets.colors for scene in scenes]),
        torch.cat([scene.targets.depths for scene in scenes]),
        weights,
        feature_maps=torch.cat([scene.feature_maps for scene in scenes]) if grid else None,
        teacher_maps=torch.cat([teacher_maps(len(scene.targets.colors)) for scene in scenes]) if grid else None,
    )
    return scenes, loss


@functools.cache
def teacher_maps(views: int) -> Tensor:
    """Of the photos of `room_views(views)`, which every scene here shows."""
    return TEACHER(room_views(views).colors)


def room(seed: int = 0, count: int = 1200) -> PointBatch:
    return voxelised(room_points(count, seed))


def point_in_view() -> PointBatch:
    """The point of a room that lies closest to the middle of the first view."""
    points = room(3)
    return some_points(points, (points.coord - torch.tensor([3.0, 1.2, 1.0])).norm(dim=1).argmin()[None])


def degenerate() -> tuple[PointBatch, list[PosedViews], list[tuple[str, ...]]]:
    """A room as it should be, one without depth, one out of view, and one of a single point; and their warnings."""
    batch = together(room(0), room(1), room(2), point_in_view())
    views = [room_views(2), without_depth(room_views(1)), looking_away(room_views(1)), room_views(1)]
    return batch, views, [(), ("no-depth",), ("nothing-in-view",), ("one-point",)]


@pytest.mark.parametrize("anchors", ["voxels", "points"])
def test_the_whole_loss_has_a_gradient_in_every_parameter(anchors: str) -> None:
    model = pretrainer(anchors)
    (scene,), loss = step(model, room(), [room_views(3)])
    assert scene.warnings == ()
    loss.total.backward()
    missing = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    infinite = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value.grad).all())]
    assert missing == [] and infinite == []


@pytest.mark.parametrize("anchors", ["voxels", "points"])
def test_degenerate_scenes_are_named_and_train_on(anchors: str) -> None:
    points, views, expected = degenerate()
    model = pretrainer(anchors)
    scenes, loss = step(model, points, views)
    assert [scene.warnings for scene in scenes] == expected
    loss.total.backward()
    assert all(bool(torch.isfinite(value.grad).all()) and value.grad.any() for value in model.parameters())


@pytest.mark.parametrize(("floor", "kept"), [(0, 0), (7, 7)])
def test_when_all_are_pruned_the_step_goes_on(floor: int, kept: int) -> None:
    model = pretrainer(min_kept=floor)
    with torch.no_grad():
        model.heads.opacity[-1].bias.fill_(-20.0)
    (scene,), loss = step(model, room(), [room_views(1)])
    assert "all-pruned" in scene.warnings and scene.counts.kept == kept
    loss.total.backward()
    assert all(value.grad is not None and bool(torch.isfinite(value.grad).all()) for value in model.parameters())


@pytest.mark.parametrize(("name", "value"), [("color", float("nan")), ("feature", float("inf"))])
def test_gaussians_that_are_not_finite_give_a_loss_that_is_not(name: str, value: float) -> None:
    """And no error, which would end the run where it should skip the step."""
    model = pretrainer()
    with torch.no_grad():
        getattr(model.heads, name)[-1].bias[0] = value
    (scene,), loss = step(model, room(), [room_views(2)])
    assert scene.warnings == ()
    assert bool(scene.rendered.colors.isnan().all()) and scene.rendered.colors.shape == scene.targets.colors.shape
    assert not bool(torch.isfinite(loss.total))
    loss.total.backward()
    assert all(value.grad is not None for value in model.parameters())


@pytest.mark.parametrize("weights", [LossWeights(1.0, 0.0, 0.0), LossWeights(0.0, 1.0, 0.0)])
def test_a_batch_that_teaches_nothing_is_still_a_step(weights: LossWeights) -> None:
    """What all processes of a distributed run rely on: every parameter takes part in every step."""
    model = pretrainer(features=0, min_kept=0)
    with torch.no_grad():
        model.heads.opacity[-1].bias.fill_(-20.0)
    (scene,), loss = step(model, room(), [without_depth(looking_away(room_views(1)))], weights)
    assert scene.warnings == ("no-depth", "all-pruned")
    loss.total.backward()
    assert all(value.grad is not None and not value.grad.any() for value in model.parameters())


def test_a_scene_may_have_its_own_number_of_views() -> None:
    both, views = together(room(0), room(1)), [room_views(3), room_views(1)]
    model = pretrainer().eval()
    scenes, loss = step(model, both, views)
    assert [len(scene.rendered.colors) for scene in scenes] == [3, 1]
    alone = [step(model, room(seed), [view])[1] for seed, view in zip((0, 1), views, strict=True)]
    torch.testing.assert_close(loss.image, (3 * alone[0].image + alone[1].image) / 4)  # the mean over views


def test_without_a_teacher_there_are_no_features() -> None:
    model = pretrainer(features=0)
    (scene,), loss = step(model, room(), [room_views(2)], LossWeights(1.0, 0.0, 0.0))
    assert scene.rendered.features.shape[-1] == 0 and scene.feature_maps is None and loss.semantic is None
    assert not loss.depth.requires_grad and float(loss.depth) > 0  # measured, not trained on
    loss.total.backward()
    assert all(value.grad is not None and value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("anchors", ["voxels", "points"])
def test_low_precision_is_close_and_splats_in_float32(anchors: str) -> None:
    model = pretrainer(anchors)
    points, views = room(), [room_views(2)]
    (full,), full_loss = step(model, points, views)
    with torch.autocast("cpu", torch.bfloat16):
        (low,), low_loss = step(model, points, views)
    assert {field.dtype for field in vars(low.gaussians).values()} == {torch.float32}
    assert low.targets.depths.dtype == low.feature_maps.dtype == low_loss.total.dtype == torch.float32
    torch.testing.assert_close(low.rendered.colors, full.rendered.colors, atol=0.02, rtol=0)
    torch.testing.assert_close(low.rendered.depths, full.rendered.depths, atol=0.02, rtol=0)
    torch.testing.assert_close(low_loss.total, full_loss.total, atol=0, rtol=0.02)
    low_loss.total.backward()
    assert all(bool(torch.isfinite(value.grad).all()) and value.grad.any() for value in model.parameters())


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_sixty_steps_with_degenerate_scenes(precision: torch.dtype) -> None:
    """The short form of `benchmarks/stability.py`."""
    model = pretrainer(min_kept=64)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95), weight_decay=0.05)
    bad_points, bad_views, _ = degenerate()
    good_points, good_views = room(0), [room_views(2)]
    history, found = [], Counter[str]()
    for number in range(60):
        points, views = (bad_points, bad_views) if number % 6 == 3 else (good_points, good_views)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            scenes, loss = step(model, points, views)
        optimiser.zero_grad()
        loss.total.backward()
        assert bool(torch.isfinite(loss.total)), number
        assert all(bool(torch.isfinite(value.grad).all()) for value in model.parameters()), number
        optimiser.step()
        found.update(kind for scene in scenes for kind in scene.warnings)
        history.append(float(loss.total.detach()))
    assert found == {"no-depth": 10, "nothing-in-view": 10, "one-point": 10}
    assert history[-1] < 0.7 * history[0]


IMPLEMENTED: dict[int, Sequence[Callable[..., Any]]] = {
    4: (PretrainSamples,),
    5: (Pretrainer,),
    6: (Voxels, Voxels.centers),
    7: (scatter_features,),
    8: (DenseVolume.dense,),
    9: (GaussianHeads.quats_and_scales,),
    10: (GaussianHeads.colors, GaussianHeads.opacities),
    11: (GaussianHeads.means,),
    12: (GaussianHeads.semantics,),
    13: (GaussianHeads.keep,),
    14: (render,),
    15: (render,),
    16: (Pretrainer.feature_maps,),
    17: (image_loss,),
    18: (depth_loss,),
    19: (semantic_loss,),
    20: (pretraining_loss,),
}


@pytest.mark.parametrize("number", range(4, 21))
def test_each_equation_is_named_where_it_is_implemented(number: int) -> None:
    for implementation in IMPLEMENTED[number]:
        assert number in equations(inspect.getdoc(implementation) or ""), implementation


def equations(text: str) -> set[int]:
    """{1, 2, 3, 14} of a text with "Eq. 1-3, 14"."""
    found = set()
    for mention in re.findall(r"Eq\. (\d+(?:(?:-|, )\d+)*)", text):
        for part in mention.split(", "):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def test_depth_that_is_not_measured_stays_out_of_the_gradient() -> None:
    """Infinite and undefined depths, in cube units too, leave the gradient as zeros would."""
    gradients = []
    for views in (without_depth(room_views(1)), replace(room_views(1), depths=torch.zeros(1, 24, 32))):
        model = pretrainer()
        step(model, room(), [views])[1].total.backward()
        gradients.append([value.grad for value in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)
