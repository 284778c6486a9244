"""What holds for every engine: the constants, each on a scene of one Gaussian before a straight camera, and laws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gcbench.splatting import RenderedViews, render
from gcbench.splatting.interface import Backend
from gcbench.structures import Gaussians
from tests.splatting.scenes import FIELDS, cloud, images, look, with_gradient

BACKENDS: tuple[Backend, ...] = ("reference", "cpu")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


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


def view(gaussians: Gaussians, backend: Backend, size: int = 5, focal: float = 10.0) -> RenderedViews:
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    return render(gaussians, torch.eye(4, dtype=torch.float64)[None], K[None], size, size, backend=backend)


def test_blur_and_pixel_centres(backend: Backend) -> None:
    alphas = view(one(), backend).alphas[0]
    assert float(alphas[2, 2]) == 0.5
    expected = 0.5 * torch.exp(torch.tensor(-0.5 / 0.3, dtype=torch.float64))  # EPS2D: a variance of 0.3 pixels^2
    torch.testing.assert_close(alphas[2, 1], expected, rtol=1e-14, atol=0)


def test_depth_is_weighted_by_alpha(backend: Backend) -> None:
    assert float(view(one(), backend).depths[0, 2, 2]) == 0.5
    assert float(view(one(), backend).features[0, 2, 2, 0]) == 1.0


def test_no_view_at_all(backend: Backend) -> None:
    gaussians, (viewmats, Ks) = with_gradient(cloud(3)), look(5, 4, views=2)
    image = images(render(gaussians, viewmats[:0], Ks[:0], 5, 4, backend=backend))
    assert image.shape == (0, 4, 5, 7)
    (image.sum() + sum(getattr(gaussians, name).sum() for name in FIELDS)).backward()
    assert all(bool((getattr(gaussians, name).grad == 1).all()) for name in FIELDS)


@pytest.mark.parametrize(("z", "shown"), [(0.01, True), (0.00999, False), (1e10, True), (1.0001e10, False)])
def test_near_and_far_are_inclusive(backend: Backend, z: float, shown: bool) -> None:
    assert bool(view(one(means=[[0.0, 0, z]]), backend).alphas.any()) == shown


@pytest.mark.parametrize(("opacity", "shown"), [(1 / 255 + 1e-9, True), (1 / 255 - 1e-9, False)])
def test_faintest_alpha(backend: Backend, opacity: float, shown: bool) -> None:
    assert bool(view(one(opacities=[opacity]), backend).alphas.any()) == shown


def test_alpha_is_clamped_and_passes_gradient_to_the_colour_only(backend: Backend) -> None:
    gaussians = with_gradient(one(opacities=[1.0], means=[[0.001, 0, 1]]))
    rendered = view(gaussians, backend)
    assert float(rendered.alphas[0, 2, 2].detach()) == pytest.approx(0.999, abs=1e-15)
    rendered.colors[0, 2, 2].sum().backward()
    assert float(gaussians.opacities.grad.abs().sum() + gaussians.means.grad.abs().sum()) == 0.0
    assert float(gaussians.colors.grad[0, 0]) == pytest.approx(0.999, abs=1e-15)


def test_pixel_ends_before_the_splat_that_would_saturate_it(backend: Backend) -> None:
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
    assert float(view(stack(0.9899), backend).colors[0, 2, 2, 1]) == pytest.approx(0.009899)
    ended = view(stack(0.9901), backend)
    assert not ended.colors[0, 2, 2].any()  # neither the second nor the third, faint enough by itself, is blended
    assert float(ended.alphas[0, 2, 2]) == pytest.approx(0.99)


def test_clamp_of_the_jacobian_at_the_widened_field_of_view(backend: Backend) -> None:
    # At slope 2 the Jacobian's clamp is (5 - 2.5) / 10 + 0.3 * 0.5 * 5 / 10 = 0.325; the mean itself is not clamped.
    wide = one(means=[[2.0, 0, 1]], scales=[[1e-9, 1e-9, 4.0]], opacities=[1.0])
    variance = (10 * 0.325 * 4.0) ** 2 + 0.3
    distance = 10 * 2 + 2.5 - 4.5
    expected = torch.exp(torch.tensor(-0.5 * distance**2 / variance, dtype=torch.float64))
    torch.testing.assert_close(view(wide, backend).alphas[0, 2, 4], expected, rtol=1e-12, atol=0)


def test_gradcheck(backend: Backend) -> None:
    gaussians, (viewmats, Ks) = cloud(6, scale=0.5), look(4, 3)

    def run(*values: Tensor) -> Tensor:
        return images(render(Gaussians(*values), viewmats, Ks, 4, 3, backend=backend))

    inputs = tuple(getattr(with_gradient(gaussians), name) for name in FIELDS)
    assert torch.autograd.gradcheck(run, inputs)


def test_float32_follows_float64(backend: Backend) -> None:
    gaussians, (viewmats, Ks) = cloud(60, seed=8), look(32, 24, views=2)
    single = Gaussians(*(getattr(gaussians, name).float() for name in FIELDS))
    exact = images(render(gaussians, viewmats, Ks, 32, 24, backend=backend))
    difference = images(render(single, viewmats, Ks, 32, 24, backend=backend)) - exact
    # 1e-5 is a hundred float32 roundings; a pair at a threshold may flip and change a pixel by up to 1/255.
    flipped = (difference.abs() > 1e-5).any(dim=-1).float().mean()
    assert float(flipped) < 0.005 and float(difference.abs().max()) < 2 / 255


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_the_gaussians_does_not_matter(backend: Backend, seed: int) -> None:
    gaussians, (viewmats, Ks) = cloud(30, seed=seed), look(16, 12)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    permuted = Gaussians(*(getattr(gaussians, name)[shuffled] for name in FIELDS))
    torch.testing.assert_close(
        images(render(permuted, viewmats, Ks, 16, 12, backend=backend)),
        images(render(gaussians, viewmats, Ks, 16, 12, backend=backend)),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), mirrored=st.booleans())
def test_moving_scene_and_camera_together_changes_nothing(backend: Backend, seed: int, mirrored: bool) -> None:
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
    moved = render(
        replace(gaussians, means=means, quats=quats), viewmats @ motion.inverse(), Ks, 16, 12, backend=backend
    )
    torch.testing.assert_close(
        images(moved), images(render(gaussians, viewmats, Ks, 16, 12, backend=backend)), rtol=1e-9, atol=1e-9
    )


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
