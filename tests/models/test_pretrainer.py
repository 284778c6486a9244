from __future__ import annotations

import math
from collections.abc import Iterator
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

ROOM = torch.tensor([3.0, 2.4, 2.0])  # metres
WIDTH, HEIGHT = 32, 24


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


def wall_colour(points: Tensor) -> Tensor:
    """Smooth colours of the inside of the room's box, by place; points [..., 3] metres."""
    x, y, z = (points / ROOM).unbind(-1)
    return torch.stack((0.2 + 0.6 * x, 0.8 - 0.6 * y, 0.3 + 0.4 * torch.sin(math.pi * z)), dim=-1).clamp(0, 1)


def room_points(count: int = 3000) -> PointBatch:
    draw = torch.Generator().manual_seed(0)
    coord = torch.rand(count, 3, generator=draw) * ROOM
    axis = torch.randint(0, 3, (count,), generator=draw)
    normal = torch.zeros(count, 3)
    for i in range(3):  # push every point to one of the six walls
        on_wall = axis == i
        far = torch.rand(count, generator=draw) < 0.5
        coord[on_wall, i] = torch.where(far, ROOM[i], torch.zeros(()))[on_wall]
        normal[on_wall, i] = torch.where(far, -1.0, 1.0)[on_wall]
    feat = torch.cat((wall_colour(coord) * 2 - 1, normal), dim=1)
    grid_coord = (coord / 0.05).int()
    return PointBatch(coord, grid_coord, feat, torch.tensor([count]))


def room_views(count: int) -> PosedViews:
    """Exact colour and depth of the box from its middle, looking around."""
    K = torch.tensor([[0.7 * WIDTH, 0, WIDTH / 2], [0, 0.7 * WIDTH, HEIGHT / 2], [0, 0, 1]])
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)), dim=-1)
    eye, colors, depths, viewmats = ROOM / 2, [], [], []
    for view in range(count):
        turn = 2 * math.pi * view / count
        forward = torch.tensor([math.cos(turn), math.sin(turn), 0.0])
        right = torch.tensor([math.sin(turn), -math.cos(turn), 0.0])
        rotation = torch.stack((right, torch.tensor([0.0, 0, -1]), forward))  # world-to-camera
        directions = rays @ rotation
        distance = torch.where(directions > 0, ROOM - eye, -eye) / directions
        depth = distance.amin(-1)  # rays have z = 1 in the camera: the way along one is its depth
        viewmat = torch.eye(4)
        viewmat[:3, :3], viewmat[:3, 3] = rotation, -rotation @ eye
        colors.append(wall_colour(eye + depth[..., None] * directions))
        depths.append(depth)
        viewmats.append(viewmat)
    return PosedViews(torch.stack(colors), torch.stack(depths), torch.stack(viewmats), K.expand(count, 3, 3))


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


def test_every_part_gets_gradient() -> None:
    model = pretrainer()
    (scene,) = model(room_points(), [room_views(2)], (3, 4))
    (scene.rendered.colors.square().sum() + scene.rendered.depths.sum() + scene.feature_maps.square().sum()).backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


def test_scenes_of_a_batch_are_rendered_apart_and_in_cube_units() -> None:
    points, views = room_points(), room_views(2)
    both = PointBatch(
        torch.cat((points.coord, 2 * points.coord)),
        torch.cat((points.grid_coord, 2 * points.grid_coord)),
        points.feat.repeat(2, 1),
        torch.tensor([3000, 6000]),
    )
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
    away = room_views(1)
    away.viewmats[:, 2, 3] -= 100.0  # the room lies behind the camera
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
