from __future__ import annotations

import math

import pytest
import torch

from gcbench.errors import DataError, InputError
from gcbench.models.anchors import Metres
from gcbench.models.gaussian_heads import GaussianHeads
from gcbench.models.point_anchors import PointAnchors


def test_every_point_is_an_anchor_in_metres() -> None:
    coord, features = torch.rand(30, 3) * 5, torch.randn(30, 8)
    first, second = PointAnchors(8, 0.02)(coord, features, torch.tensor([12, 30]))
    assert isinstance(first[0], Metres)
    assert torch.equal(first[1].centers, coord[:12]) and torch.equal(second[1].centers, coord[12:])
    assert torch.equal(second[1].features, features[12:]) and bool(second[1].inside.all())
    torch.testing.assert_close(second[1].edges, torch.full((3,), 0.02))


def test_heads_draw_gaussians_of_half_a_grid_size_at_the_points() -> None:
    torch.manual_seed(0)
    anchors = PointAnchors(8, 0.02)
    heads = GaussianHeads(anchors.out_channels, 4, 16, anchors.edges, threshold=0.3, offsets=False)
    coord = torch.rand(30, 3) * 5
    ((_, scene),) = anchors(coord, torch.randn(30, 8), torch.tensor([30]))
    gaussians, counts = heads(scene)
    assert (counts.anchors, counts.kept, counts.born, counts.gone) == (30, 30, 0, 0)
    assert torch.equal(gaussians.means, coord)
    torch.testing.assert_close(gaussians.scales, torch.full((30, 3), 0.01), rtol=0.2, atol=0)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="grid size of 0"):
        PointAnchors(8, 0.0)
    for coord in (torch.zeros(0, 3), torch.full((2, 3), math.inf)):
        with pytest.raises(DataError, match="no anchors"):
            PointAnchors(8, 0.02)(coord, torch.zeros(len(coord), 8), torch.tensor([len(coord)]))
