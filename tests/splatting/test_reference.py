"""The readable engine against one Python step per pixel and Gaussian."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gcbench.splatting import RenderedViews, render
from gcbench.structures import Gaussians
from tests.splatting.scenes import FIELDS, cloud, images, look, render_naively, with_gradient

# Both sides are float64 and differ in the order of their sums only, over at most a few dozen terms of order 1.
TOLERANCE = 1e-12


def assert_twins(
    gaussians: Gaussians, width: int, height: int, *, views: int = 1, distance: float = 2.5, mirror: bool = False
) -> RenderedViews:
    viewmats, Ks = look(width, height, views=views, distance=distance)
    if mirror:
        viewmats = viewmats @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    ours, naive = with_gradient(gaussians), with_gradient(gaussians)
    rendered = render(ours, viewmats, Ks, width, height, background=background, backend="reference")
    expected = render_naively(naive, viewmats, Ks, width, height, background)
    torch.testing.assert_close(images(rendered), images(expected), rtol=TOLERANCE, atol=TOLERANCE)
    weights = torch.rand(images(expected).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (images(rendered) * weights).sum().backward()
    if images(expected).requires_grad:
        (images(expected) * weights).sum().backward()
    for name in FIELDS:
        got, wanted = getattr(ours, name).grad, getattr(naive, name).grad
        wanted = torch.zeros_like(got) if wanted is None else wanted  # nothing visible: the loop touched no Gaussian
        size = float(wanted.abs().max()) if wanted.numel() else 0.0
        limit = TOLERANCE * max(size, 1.0)
        torch.testing.assert_close(got, wanted, rtol=TOLERANCE, atol=limit, msg=f"gradient of {name} differs")
    return rendered


def test_several_views_of_sizes_that_are_no_multiple_of_16() -> None:
    assert_twins(cloud(20), 19, 13, views=3)


def test_mirrored_camera() -> None:
    assert_twins(cloud(12, seed=5), 17, 11, mirror=True)


def test_opaque_gaussians_end_pixels() -> None:
    gaussians = cloud(24, scale=0.5)
    rendered = assert_twins(replace(gaussians, opacities=torch.ones(24, dtype=torch.float64)), 12, 10)
    assert float(rendered.alphas.detach().max()) > 0.9989


def test_very_faint_gaussians() -> None:
    gaussians = cloud(16, scale=0.4)
    faint = torch.linspace(0.5 / 255, 3 / 255, 16, dtype=torch.float64)
    rendered = assert_twins(replace(gaussians, opacities=faint), 12, 10)
    assert 0 < float(rendered.alphas.detach().max()) < 0.2


@pytest.mark.parametrize("factor", [6.0, 0.05])
def test_big_and_tiny_scales(factor: float) -> None:
    gaussians = cloud(16, seed=2)
    assert_twins(replace(gaussians, scales=gaussians.scales * factor), 14, 12)


def test_equal_depths_keep_the_order_of_the_index() -> None:
    gaussians = cloud(10, scale=0.6, seed=4)
    means = gaussians.means.clone()
    means[:, 1:] = torch.tensor([0.0, 0.3], dtype=torch.float64)  # one row across the untilted part of the view
    assert_twins(replace(gaussians, means=means), 12, 10)


def test_camera_inside_the_cloud() -> None:
    assert_twins(cloud(24, seed=3), 13, 9, distance=0.0)


def test_jacobian_is_clamped_outside_the_field_of_view() -> None:
    gaussians = cloud(8, scale=0.8, seed=6)
    means = gaussians.means.clone()
    means[:4, 0], means[4:, 1] = -3.5, 3.2  # outside the image by more than the margin, reaching into it
    rendered = assert_twins(replace(gaussians, means=means), 14, 10)
    assert float(rendered.alphas.detach().max()) > 0


def test_empty_view_shows_the_background_and_gives_no_gradient() -> None:
    gaussians = cloud(5)
    behind = with_gradient(replace(gaussians, means=gaussians.means - torch.tensor([0.0, 0, 9])))
    rendered = assert_twins(behind, 6, 5)
    assert not rendered.alphas.detach().any()
    assert torch.equal(rendered.colors[0, 0, 0].detach(), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))


def test_no_gaussians_at_all() -> None:
    rendered = assert_twins(cloud(0), 5, 4)
    assert not rendered.depths.detach().any()


def test_many_chunks_give_the_image_and_the_gradients_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (viewmats, Ks), found = look(24, 18, views=2), []
    for pairs in (24 * 18 * 300, 500):
        monkeypatch.setattr("gcbench.splatting.reference._PAIRS_AT_ONCE", pairs)
        gaussians = with_gradient(cloud(300, scale=0.3))
        image = images(render(gaussians, viewmats, Ks, 24, 18, backend="reference"))
        image.square().sum().backward()
        found.append([image.detach(), *(getattr(gaussians, name).grad for name in FIELDS)])
    for whole, parts in zip(*found, strict=True):
        limit = TOLERANCE * float(whole.abs().max())
        torch.testing.assert_close(parts, whole, rtol=TOLERANCE, atol=limit)
