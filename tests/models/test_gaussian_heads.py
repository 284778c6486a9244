from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from gcbench.errors import InputError
from gcbench.models.anchors import SceneAnchors
from gcbench.models.gaussian_heads import GaussianHeads

EDGES = (1 / 8, 1 / 8, 1 / 4)


def volume(seed: int = 0, requires_grad: bool = False) -> SceneAnchors:
    """6 x 6 x 4 voxels, a plate of 2 x 2 x 1 of them occupied: it and its neighbours are inside."""
    features = torch.randn(144, 10, generator=torch.Generator().manual_seed(seed)).requires_grad_(requires_grad)
    steps = torch.meshgrid(torch.arange(6), torch.arange(6), torch.arange(4), indexing="ij")
    centers = (torch.stack(steps, -1).view(-1, 3) + 0.5) * torch.tensor(EDGES) - 0.5
    inside = torch.zeros(6, 6, 4, dtype=torch.bool)
    inside[1:5, 1:5, :2] = True
    return SceneAnchors(features, centers, inside.view(-1), torch.tensor(EDGES))


def heads(**options: Any) -> GaussianHeads:
    torch.manual_seed(0)
    return GaussianHeads(10, 5, 16, EDGES, **({"threshold": 0.3, "min_kept": 4} | options))


def test_a_fresh_network_draws_half_voxel_axis_aligned_grey_gaussians() -> None:
    gaussians, _ = heads()(volume())
    torch.testing.assert_close(
        gaussians.scales / torch.tensor(EDGES), torch.full_like(gaussians.scales, 0.5), rtol=0.2, atol=0
    )
    assert float((gaussians.quats.detach() - torch.tensor([1.0, 0, 0, 0])).abs().max()) < 0.2
    assert float((gaussians.colors.detach() - 0.5).abs().max()) < 0.1
    torch.testing.assert_close(gaussians.quats.norm(dim=1), torch.ones(len(gaussians)))
    assert gaussians.features.shape == (len(gaussians), 5)


def test_occupancy_prior_keeps_what_is_near_the_points() -> None:
    gaussians, counts = heads()(volume())
    assert counts.kept == 4 * 4 * 2  # the plate and its neighbours; one layer of them lies below the grid
    assert (counts.anchors, counts.above, counts.born, counts.gone) == (144, 32, 0, 0)
    assert counts.share == pytest.approx(32 / 144)
    torch.testing.assert_close(gaussians.opacities, torch.full((32,), 1 / (1 + math.exp(-1.5))), rtol=0.1, atol=0)


def test_without_a_prior_every_anchor_is_kept() -> None:
    _, counts = heads(opacity_prior="none")(volume())
    assert counts.kept == 144 and counts.born == 144 - 32


def test_pruning_is_hard_and_exact() -> None:
    model = heads(threshold=0.49, opacity_prior="none")
    with torch.no_grad():
        model.opacity[-1].weight.mul_(100)
    scene = volume(requires_grad=True)
    gaussians, counts = model(scene)
    opacity = torch.sigmoid(model.opacity(scene.features).squeeze(1))
    kept = opacity > 0.49
    assert 0 < counts.kept == int(kept.sum()) < 144
    assert float(gaussians.opacities.detach().min()) > 0.49
    torch.testing.assert_close(gaussians.opacities, opacity[kept])
    sum(field.sum() for field in vars(gaussians).values()).backward()
    assert scene.features.grad is not None
    assert torch.equal(scene.features.grad.any(dim=1), kept)  # gradient only through what is kept


def test_floor_keeps_the_most_opaque_when_all_fall_below_tau() -> None:
    model = heads(min_kept=7)
    with torch.no_grad():
        model.opacity[-1].bias.fill_(-20.0)
    gaussians, counts = model(volume())
    assert (counts.above, counts.kept, len(gaussians)) == (0, 7, 7)
    gaussians.opacities.sum().backward()
    assert bool(model.opacity[-1].bias.grad.any())  # not dead


def test_without_a_floor_everything_can_be_pruned() -> None:
    """The literal Eq. 13: no Gaussian is left, and every parameter still has a gradient, of zero."""
    model = heads(min_kept=0)
    with torch.no_grad():
        model.opacity[-1].bias.fill_(-20.0)
    gaussians, counts = model(volume(requires_grad=True))
    assert (counts.above, counts.kept, len(gaussians), counts.gone) == (0, 0, 0, 32)
    assert gaussians.features.shape == (0, 5)
    sum(field.sum() for field in vars(gaussians).values()).backward()
    assert all(value.grad is not None and not value.grad.any() for value in model.parameters())


def test_without_a_feature_head() -> None:
    model = GaussianHeads(10, 0, 16, EDGES, threshold=0.3, min_kept=4)
    assert not any(name.startswith("feature") for name, _ in model.named_parameters())
    assert model(volume())[0].features.shape == (32, 0)


def test_low_precision_features_give_float32_gaussians() -> None:
    scene = volume()
    gaussians, _ = heads()(replace(scene, features=scene.features.bfloat16()))
    assert {field.dtype for field in vars(gaussians).values()} == {torch.float32}


def test_means_stay_within_the_offset_range_of_their_voxels() -> None:
    model = heads(opacity_prior="none", offset_range=0.75)
    with torch.no_grad():
        model.offset[-1].weight.mul_(1000)
    scene = volume()
    shift = (model(scene)[0].means - scene.centers) / scene.edges
    assert 0.7 < float(shift.detach().abs().max()) <= 0.75 + 1e-5


def test_without_offsets_the_means_are_the_voxel_centres() -> None:
    model = heads(opacity_prior="none", offsets=False)
    assert not any(name.startswith("offset") for name, _ in model.named_parameters())
    assert torch.equal(model(volume())[0].means, volume().centers)


def test_scales_are_clamped_at_the_limit() -> None:
    model = heads(scale_limit=3.0)
    with torch.no_grad():
        model.scale[-1].bias.fill_(50.0)
    torch.testing.assert_close(model(volume())[0].scales[0], 3.0 * torch.tensor(EDGES))
    model.scale_limit = None
    assert float(model(volume())[0].scales.detach().min()) > 40


def test_fatal_starts_are_refused() -> None:
    with pytest.raises(InputError, match="no anchor starts above"):
        heads(threshold=0.5, opacity_prior="none")
    with pytest.raises(InputError, match="opacity prior 'full'"):
        heads(opacity_prior="full")
    with pytest.raises(InputError, match="scale_start > 0"):
        heads(scale_start=0.0)
    with pytest.raises(InputError, match="min_kept >= 0"):
        heads(min_kept=-1)
