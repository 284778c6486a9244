from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.errors import DataError, InputError
from gcbench.models.dense_volume import DenseVolume, UnitCube, dilate, scatter_features
from gcbench.structures import PosedViews


def points(count: int = 200, seed: int = 0) -> Tensor:
    """A flat, long room somewhere in the world, metres."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=draw, dtype=torch.float64) * torch.tensor([5.0, 3.0, 2.0]) - 1.0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_unit_cube_fills_the_longest_axis_and_puts_the_floor_at_the_bottom(seed: int) -> None:
    coord = points(seed=seed)
    mapped = UnitCube.around(coord).points(coord)
    extent = mapped.amax(0) - mapped.amin(0)
    assert float(extent.max()) == pytest.approx(1.0)
    assert float(mapped.min()) >= -0.5 - 1e-9 and float(mapped.max()) <= 0.5 + 1e-9
    torch.testing.assert_close(mapped.amin(0)[:2], -mapped.amax(0)[:2])  # centred in x and y
    assert float(mapped[:, 2].min()) == pytest.approx(-0.5)
    torch.testing.assert_close(torch.cdist(mapped, mapped) * 1.0, torch.cdist(coord, coord) * _scale(coord))


def _scale(coord: Tensor) -> Tensor:
    return 1.0 / (coord.amax(0) - coord.amin(0)).max()


def test_unit_cube_can_be_left_again() -> None:
    coord = points()
    cube = UnitCube.around(coord)
    torch.testing.assert_close(cube.metres(cube.points(coord)), coord)


@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_a_point_is_seen_at_the_same_pixel_and_the_scaled_depth(mirror: float) -> None:
    coord = points()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)).double())[0]
    viewmat[:3, 0] *= mirror
    viewmat[:3, 3] = torch.tensor([0.3, -0.2, 4.0])
    camera = coord @ viewmat[:3, :3].T + viewmat[:3, 3]
    views = PosedViews(
        torch.zeros(1, 10, 20, 3), camera[:, 2].view(1, 10, 20), viewmat[None], torch.eye(3, dtype=torch.float64)[None]
    )
    cube = UnitCube.around(coord)
    mapped = cube.views(views)
    seen = cube.points(coord) @ mapped.viewmats[0, :3, :3].T + mapped.viewmats[0, :3, 3]
    torch.testing.assert_close(seen[:, 2], mapped.depths.flatten())
    torch.testing.assert_close(seen[:, :2] / seen[:, 2:], camera[:, :2] / camera[:, 2:])
    assert torch.equal(views.viewmats[0], viewmat)  # the metric views are left as they were


@pytest.mark.parametrize("coord", [torch.zeros(0, 3), torch.ones(4, 3), torch.full((2, 3), math.nan)])
def test_unit_cube_needs_an_extent(coord: Tensor) -> None:
    with pytest.raises(DataError, match="unit cube"):
        UnitCube.around(coord)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_scatter_is_a_loop_over_points(reduction: str) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(50, 4, generator=draw, dtype=torch.float64)
    index = torch.randint(0, 20, (50,), generator=draw)
    got, occupied = scatter_features(features, index, 24, reduction)  # type: ignore[arg-type]
    for cell in range(24):
        members = [features[i] for i in range(50) if index[i] == cell]
        assert bool(occupied[cell]) == bool(members)
        expected = torch.stack(members).sum(0) if members else torch.zeros(4, dtype=torch.float64)
        torch.testing.assert_close(got[cell], expected / (len(members) if reduction == "mean" and members else 1))


def test_anchors_lie_where_their_points_are() -> None:
    torch.manual_seed(0)
    volume = DenseVolume(3, (12, 10, 6), (8,), margin=2)
    coord = points().float()
    ((cube, scene),) = volume(coord, torch.randn(200, 3), torch.tensor([200]))
    mapped = cube.points(coord)
    occupied = scene.centers[scene.occupied.view(-1)]
    gap = (mapped[:, None] - occupied).abs() / scene.edges  # in voxels; every point is inside some occupied voxel ...
    assert float(gap.amax(-1).amin(1).max()) <= 0.5 + 1e-4
    assert float(gap.amax(-1).amin(0).max()) <= 0.5 + 1e-4  # ... and every occupied voxel holds some point
    assert scene.features.shape == (scene.centers.shape[0], volume.out_channels)
    torch.testing.assert_close(scene.edges, torch.tensor([1 / 12, 1 / 10, 1 / 6]))


def test_crop_is_a_window_of_the_whole_cube() -> None:
    coord, features = points().float(), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    whole = DenseVolume(3, (12, 12, 12), (4,), crop=False).eval()
    cropped = DenseVolume(3, (12, 12, 12), (4,), crop=True, margin=1).eval()
    cropped.load_state_dict(whole.state_dict())
    offsets = torch.tensor([200])
    (_, all_of_it), (_, part) = whole(coord, features, offsets)[0], cropped(coord, features, offsets)[0]
    assert all_of_it.occupied.numel() == 12**3 > part.occupied.numel()
    nearest = torch.cdist(part.centers.double(), all_of_it.centers.double()).min(1)
    assert float(nearest.values.max()) < 1e-6
    # One 3x3x3 convolution reads one voxel around an occupied one, which the margin holds.
    inside = part.occupied.view(-1)
    torch.testing.assert_close(part.features[inside], all_of_it.features[nearest.indices][inside])


def test_scenes_of_a_batch_do_not_mix() -> None:
    first, second = points(seed=1).float(), points(seed=2).float() * 2
    volume = DenseVolume(3, (8, 8, 8), (4, 4), norm="group")
    features = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    both = volume(torch.cat((first, second)), features, torch.tensor([200, 400]))
    alone = volume(second, features[200:], torch.tensor([200]))[0]
    assert len(both) == 2
    torch.testing.assert_close(both[1][1].features, alone[1].features)
    assert float(both[1][0].scale) == float(alone[0].scale)


def test_checkpointing_changes_memory_not_gradients() -> None:
    coord, features = points().float(), torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        volume = DenseVolume(3, (8, 8, 8), (4, 4), norm="group", checkpointing=checkpointing)
        leaf = features.clone().requires_grad_()
        volume(coord, leaf, torch.tensor([200]))[0][1].features.square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_dilate_reaches_all_26_neighbours_and_no_further() -> None:
    occupied = torch.zeros(5, 5, 5, dtype=torch.bool)
    occupied[2, 2, 2] = True
    expected = torch.zeros_like(occupied)
    expected[1:4, 1:4, 1:4] = True
    assert torch.equal(dilate(occupied, 1), expected)


def test_arguments_are_checked() -> None:
    with pytest.raises(InputError, match="resolution"):
        DenseVolume(3, (8, 0, 8), (4,))
    with pytest.raises(InputError, match="norm 'layer'"):
        DenseVolume(3, (8, 8, 8), (4,), norm="layer")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="running statistics"):
        DenseVolume(3, (8, 8, 8), (4,), norm="batch", checkpointing=True)
