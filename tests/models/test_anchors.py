from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.errors import DataError
from gcbench.models.anchors import Metres, UnitCube
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


@pytest.mark.parametrize("coord", [torch.zeros(0, 3), torch.full((2, 3), math.nan)])
def test_unit_cube_needs_points(coord: Tensor) -> None:
    with pytest.raises(DataError, match="unit cube"):
        UnitCube.around(coord)


def test_a_single_point_lies_on_the_floor_of_a_cube_of_half_a_metre() -> None:
    coord = torch.tensor([[3.0, -2.0, 1.0]])
    cube = UnitCube.around(coord)
    torch.testing.assert_close(cube.points(coord), torch.tensor([[0.0, 0.0, -0.5]]))
    assert float(cube.scale) == 2.0


def test_metric_views_stay_as_they_are() -> None:
    views = PosedViews(torch.rand(1, 2, 2, 3), torch.rand(1, 2, 2), torch.eye(4)[None], torch.eye(3)[None])
    assert Metres().views(views) is views
