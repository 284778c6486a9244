"""A room that is an empty box, seen from its middle: points, photos and depths that fit each other exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from gcbench.structures import PointBatch, PosedViews

ROOM = torch.tensor([3.0, 2.4, 2.0])  # metres
WIDTH, HEIGHT = 32, 24


def wall_colour(points: Tensor) -> Tensor:
    """Smooth colours of the inside of the room's box, by place; points [..., 3] metres."""
    x, y, z = (points / ROOM).unbind(-1)
    return torch.stack((0.2 + 0.6 * x, 0.8 - 0.6 * y, 0.3 + 0.4 * torch.sin(math.pi * z)), dim=-1).clamp(0, 1)


def room_points(count: int = 3000, seed: int = 0) -> PointBatch:
    """Points on the walls, normals inwards, on a grid of 5 cm."""
    draw = torch.Generator().manual_seed(seed)
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


def together(*scenes: PointBatch) -> PointBatch:
    """Several scenes as one batch."""
    sizes = torch.tensor([len(scene.coord) for scene in scenes])
    return PointBatch(
        torch.cat([scene.coord for scene in scenes]),
        torch.cat([scene.grid_coord for scene in scenes]),
        torch.cat([scene.feat for scene in scenes]),
        torch.cumsum(sizes, 0),
    )


def without_depth(views: PosedViews) -> PosedViews:
    """Nothing is measured, in three ways: 0, infinite, not a number."""
    depths = torch.zeros_like(views.depths)
    depths[:, 0], depths[:, 1] = math.inf, math.nan
    return replace(views, depths=depths)


def looking_away(views: PosedViews) -> PosedViews:
    """All of the room lies far behind the cameras."""
    viewmats = views.viewmats.clone()
    viewmats[:, 2, 3] -= 100.0
    return replace(views, viewmats=viewmats)


def voxelised(points: PointBatch) -> PointBatch:
    """The first point of every voxel of a scene."""
    cells, inverse = torch.unique(points.grid_coord, dim=0, return_inverse=True)
    first = torch.full((len(cells),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
    return some_points(points, first)


def some_points(points: PointBatch, index: Tensor) -> PointBatch:
    """Some points of a scene."""
    return PointBatch(points.coord[index], points.grid_coord[index], points.feat[index], torch.tensor([len(index)]))
