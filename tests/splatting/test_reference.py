from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.splatting import RenderedViews, render
from gcbench.structures import Gaussians
from tests.splatting.scenes import FIELDS, cloud, look, render_naively, with_gradient

# Both sides are float64 and differ in the order of their sums only, over at most a few dozen terms of order 1.
TOLERANCE = 1e-12


def images(rendered: RenderedViews) -> Tensor:
    return torch.cat(
        (rendered.colors, rendered.depths[..., None], rendered.features, rendered.alphas[..., None]), dim=-1
    )


def assert_twins(
    gaussians: Gaussians, width: int, height: int, *, views: int = 1, distance: float = 2.5, mirror: bool = False
) -> RenderedViews:
    viewmats, Ks = look(width, height, views=views, distance=distance)
    if mirror:
        viewmats = viewmats @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
    background = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    ours, naive = with_gradient(gaussians), with_gradient(gaussians)
    rendered = render(ours, viewmats, Ks, width, height, background=background)
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


def test_many_chunks_give_the_image_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians, (viewmats, Ks) = cloud(300, scale=0.3), look(24, 18, views=2)
    whole = images(render(gaussians, viewmats, Ks, 24, 18))
    monkeypatch.setattr("gcbench.splatting.reference._PAIRS_PER_CHUNK", 500)
    torch.testing.assert_close(images(render(gaussians, viewmats, Ks, 24, 18)), whole, rtol=0, atol=0)


def test_gradcheck() -> None:
    gaussians, (viewmats, Ks) = cloud(4, scale=0.5), look(4, 3)

    def run(*values: Tensor) -> Tensor:
        return images(render(Gaussians(*values), viewmats, Ks, 4, 3))

    inputs = tuple(getattr(with_gradient(gaussians), name) for name in FIELDS)
    assert torch.autograd.gradcheck(run, inputs)


def test_float32_follows_float64() -> None:
    gaussians, (viewmats, Ks) = cloud(60, seed=8), look(32, 24, views=2)
    single = Gaussians(*(getattr(gaussians, name).float() for name in FIELDS))
    difference = images(render(single, viewmats, Ks, 32, 24)) - images(render(gaussians, viewmats, Ks, 32, 24))
    # 1e-5 is a hundred float32 roundings; a pair at a threshold may flip and change a pixel by up to 1/255.
    flipped = (difference.abs() > 1e-5).any(dim=-1).float().mean()
    assert float(flipped) < 0.005 and float(difference.abs().max()) < 2 / 255


# --- the constants, each on a scene of one Gaussian in front of a straight camera -----------------------------------


def one(**changes: object) -> Gaussians:
    """A Gaussian far smaller than a pixel, on the pixel centre (2.5, 2.5) of a 5 x 5 view at depth 1."""
    values: dict[str, object] = {
        "means": [[0.0, 0, 1]],
        "quats": [[1.0, 0, 0, 0]],
        "scales": [[1e-9] * 3],
        "opacities": [0.5],
        "colors": [[1.0, 0.5, 0]],
        "features": [[2.0]],
    } | changes
    return Gaussians(**{name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()})


def view(gaussians: Gaussians, size: int = 5, focal: float = 10.0) -> RenderedViews:
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    return render(gaussians, torch.eye(4, dtype=torch.float64)[None], K[None], size, size)


def test_blur_and_pixel_centres() -> None:
    alphas = view(one()).alphas[0]
    assert float(alphas[2, 2]) == 0.5
    expected = 0.5 * torch.exp(torch.tensor(-0.5 / 0.3, dtype=torch.float64))  # EPS2D: a variance of 0.3 pixels^2
    torch.testing.assert_close(alphas[2, 1], expected, rtol=1e-14, atol=0)


def test_depth_is_weighted_by_alpha() -> None:
    assert float(view(one()).depths[0, 2, 2]) == 0.5
    assert float(view(one()).features[0, 2, 2, 0]) == 1.0


@pytest.mark.parametrize(("z", "shown"), [(0.01, True), (0.00999, False), (1e10, True), (1.0001e10, False)])
def test_near_and_far_are_inclusive(z: float, shown: bool) -> None:
    assert bool(view(one(means=[[0.0, 0, z]])).alphas.any()) == shown


@pytest.mark.parametrize(("opacity", "shown"), [(1 / 255 + 1e-9, True), (1 / 255 - 1e-9, False)])
def test_faintest_alpha(opacity: float, shown: bool) -> None:
    assert bool(view(one(opacities=[opacity])).alphas.any()) == shown


def test_alpha_is_clamped_and_passes_gradient_to_the_colour_only() -> None:
    gaussians = with_gradient(one(opacities=[1.0], means=[[0.001, 0, 1]]))
    rendered = view(gaussians)
    assert float(rendered.alphas[0, 2, 2].detach()) == pytest.approx(0.999, abs=1e-15)
    rendered.colors[0, 2, 2].sum().backward()
    assert float(gaussians.opacities.grad.abs().sum() + gaussians.means.grad.abs().sum()) == 0.0
    assert float(gaussians.colors.grad[0, 0]) == pytest.approx(0.999, abs=1e-15)


def test_pixel_ends_before_the_splat_that_would_saturate_it() -> None:
    def stack(second: float) -> Gaussians:
        return one(
            means=[[0.0, 0, 1], [0, 0, 2], [0, 0, 3]],
            quats=[[1.0, 0, 0, 0]] * 3,
            scales=[[1e-9] * 3] * 3,
            opacities=[0.99, second, 0.5],
            colors=[[0.0, 0, 0], [0, 1, 0], [0, 0, 1]],
            features=[[0.0]] * 3,
        )

    # Transmittance 0.01 behind the first; 0.01 * (1 - 0.9899) > 1e-4 goes on, 0.01 * (1 - 0.9901) <= 1e-4 ends there.
    assert float(view(stack(0.9899)).colors[0, 2, 2, 1]) == pytest.approx(0.009899)
    ended = view(stack(0.9901))
    assert not ended.colors[0, 2, 2].any()  # neither the second nor the third, faint enough by itself, is blended
    assert float(ended.alphas[0, 2, 2]) == pytest.approx(0.99)


def test_clamp_of_the_jacobian_at_the_widened_field_of_view() -> None:
    # At slope 2 the Jacobian's clamp is (5 - 2.5) / 10 + 0.3 * 0.5 * 5 / 10 = 0.325; the mean itself is not clamped.
    wide = one(means=[[2.0, 0, 1]], scales=[[1e-9, 1e-9, 4.0]], opacities=[1.0])
    variance = (10 * 0.325 * 4.0) ** 2 + 0.3
    distance = 10 * 2 + 2.5 - 4.5
    expected = torch.exp(torch.tensor(-0.5 * distance**2 / variance, dtype=torch.float64))
    torch.testing.assert_close(view(wide).alphas[0, 2, 4], expected, rtol=1e-12, atol=0)


# --- laws -----------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_the_gaussians_does_not_matter(seed: int) -> None:
    gaussians, (viewmats, Ks) = cloud(30, seed=seed), look(16, 12)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    permuted = Gaussians(*(getattr(gaussians, name)[shuffled] for name in FIELDS))
    torch.testing.assert_close(
        images(render(permuted, viewmats, Ks, 16, 12)), images(render(gaussians, viewmats, Ks, 16, 12))
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), mirrored=st.booleans())
def test_moving_scene_and_camera_together_changes_nothing(seed: int, mirrored: bool) -> None:
    gaussians, (viewmats, Ks) = cloud(20, seed=seed), look(16, 12)
    draw = torch.Generator().manual_seed(seed)
    quat = torch.randn(4, generator=draw, dtype=torch.float64)
    quat = quat / quat.norm()
    w, x, y, z = quat.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross
    shift = torch.randn(3, generator=draw, dtype=torch.float64)
    means, quats = gaussians.means @ turn.T + shift, _product(quat, gaussians.quats)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = turn, shift
    if mirrored:  # x -> -x of the moved scene: the handedness of the camera changes with it
        flip = torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
        means, motion = means @ flip[:3, :3], flip @ motion
        quats = quats * torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)  # F R F for the flip F of x
    moved = render(replace(gaussians, means=means, quats=quats), viewmats @ motion.inverse(), Ks, 16, 12)
    torch.testing.assert_close(images(moved), images(render(gaussians, viewmats, Ks, 16, 12)), rtol=1e-9, atol=1e-9)


def _product(left: Tensor, right: Tensor) -> Tensor:
    w, x, y, z = left.tolist()
    a, b, c, d = right.unbind(1)
    return torch.stack(
        (
            w * a - x * b - y * c - z * d,
            w * b + x * a + y * d - z * c,
            w * c - x * d + y * a + z * b,
            w * d + x * c - y * b + z * a,
        ),
        dim=1,
    )
