from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gcbench.errors import InputError
from gcbench.models.dense_volume import DenseVolume
from gcbench.models.gaussian_heads import GaussianHeads
from gcbench.models.pretrainer import Pretrainer
from gcbench.models.teachers import ClassicalTeacher
from gcbench.objectives.pretraining import LossWeights, pretraining_loss, psnr
from gcbench.splatting import render
from gcbench.structures import PointBatch, PosedViews
from tests.models.box_room import looking_away, room_points, room_views, together


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors here are small: on a busy machine waiting for a second thread costs far more than it gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class PointMLP(nn.Module):
    """Stands for the sparse U-Net: any module from a PointBatch to point features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, batch: PointBatch) -> Tensor:
        features: Tensor = self.layers(batch.feat)
        return features


def pretrainer(**options: Any) -> Pretrainer:
    torch.manual_seed(0)
    volume = DenseVolume(16, (16, 16, 12), (16,))
    heads = GaussianHeads(16, 8, 16, volume.edges, threshold=0.3)
    return Pretrainer(PointMLP(), volume, heads, render, **({"feature_channels": 8, "teacher_channels": 12} | options))


def test_losses_fall_and_the_room_appears() -> None:
    teacher, points, views = ClassicalTeacher(rows=6), room_points(), room_views(4)
    model = pretrainer(teacher_channels=teacher.dim, background="mean")
    teacher_maps = teacher(views.colors)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(60):
        (scene,) = model(points, [views], tuple(teacher_maps.shape[1:3]))
        loss = pretraining_loss(
            scene.rendered.colors,
            scene.rendered.depths,
            scene.targets.colors,
            scene.targets.depths,
            LossWeights(1.0, 1.0, 1.0),
            feature_maps=scene.feature_maps,
            teacher_maps=teacher_maps,
        )
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
        history.append([float(term.detach()) for term in (loss.image, loss.depth, loss.semantic)])
    first, last = history[0], history[-1]
    assert last[0] < 0.5 * first[0] and last[1] < 0.4 * first[1] and last[2] < 0.8 * first[2], (first, last)
    assert float(psnr(scene.rendered.colors.detach(), views.colors).mean()) > 20


def test_scenes_of_a_batch_are_rendered_apart_and_in_cube_units() -> None:
    points, views = room_points(), room_views(2)
    both = together(points, replace(points, coord=2 * points.coord, grid_coord=2 * points.grid_coord))
    viewmats = views.viewmats.clone()
    viewmats[:, :3, 3] *= 2
    twice = PosedViews(views.colors, views.depths * 2, viewmats, views.Ks)
    model = pretrainer().eval()
    small, large = model(both, [views, twice], (3, 4))
    assert float(small.targets.depths.max()) < 1.0
    # The second room is the first, twice as large: in cube units they are one, but for the rounding of 2 x.
    torch.testing.assert_close(large.targets.depths, small.targets.depths)
    torch.testing.assert_close(large.rendered.colors, small.rendered.colors, atol=1e-4, rtol=0)
    assert small.feature_maps.shape == (2, 3, 4, 12)


def test_averaging_before_a_linear_projection_is_averaging_after_it() -> None:
    model = pretrainer()
    features = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    projected = model.projection(features).permute(0, 3, 1, 2)
    expected = torch.nn.functional.avg_pool2d(projected, 2).permute(0, 2, 3, 1)
    torch.testing.assert_close(model.feature_maps(features, (3, 4)), expected)


def test_background_is_the_mean_colour_where_asked() -> None:
    away = looking_away(room_views(1))
    (black,), (mean,) = (pretrainer(background=name)(room_points(), [away]) for name in ("black", "mean"))
    assert not black.rendered.colors.any()
    torch.testing.assert_close(mean.rendered.colors[0, 0, 0], away.colors.mean(dim=(0, 1, 2)))


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="1 scenes of points, but views of 2"):
        pretrainer()(room_points(), [room_views(1)] * 2)
    with pytest.raises(InputError, match="projection head"):
        pretrainer(teacher_channels=None)(room_points(), [room_views(1)], (3, 4))
    with pytest.raises(InputError, match="background 'white'"):
        pretrainer(background="white")
    with pytest.raises(InputError, match="features to project"):
        pretrainer(feature_channels=0)
