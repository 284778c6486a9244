from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gcbench.errors import InputError
from gcbench.splatting import render
from gcbench.splatting.interface import _engine
from tests.splatting.scenes import cloud, look


def test_shapes() -> None:
    rendered = render(cloud(4, features=5), *look(7, 6, views=3), 7, 6)
    assert rendered.colors.shape == (3, 6, 7, 3)
    assert rendered.depths.shape == rendered.alphas.shape == (3, 6, 7)
    assert rendered.features.shape == (3, 6, 7, 5)


def test_auto_is_the_fast_engine_of_the_device() -> None:
    named = render(cloud(4), *look(7, 6), 7, 6, backend="cpu")
    assert torch.equal(render(cloud(4), *look(7, 6), 7, 6).colors, named.colors)
    assert torch.equal(render(cloud(4), *look(7, 6), 7, 6, backend="auto").colors, named.colors)


def test_an_engine_refuses_tensors_of_another_device() -> None:
    with pytest.raises(InputError, match="'gsplat' does not take tensors on 'cpu'"):
        render(cloud(4), *look(7, 6), 7, 6, backend="gsplat")
    assert _engine("auto", "cuda").__module__ == "gcbench.splatting.gsplat_backend"
    assert _engine("auto", "mps").__module__ == "gcbench.splatting.reference"
    with pytest.raises(InputError, match="'cpu' does not take tensors on 'cuda'"):
        _engine("cpu", "cuda")


def test_types_are_widened_to_one() -> None:
    gaussians = cloud(4, dtype=torch.float32)
    mixed = replace(gaussians, features=gaussians.features.double(), colors=gaussians.colors.half())
    assert render(mixed, *look(7, 6), 7, 6).colors.dtype == torch.float64
    assert render(gaussians, *look(7, 6), 7, 6).colors.dtype == torch.float32


@pytest.mark.parametrize("opacity", [1.001, -0.1])
def test_opacity_outside_0_1_is_refused(opacity: float) -> None:
    gaussians = cloud(2)
    gaussians.opacities[1] = opacity
    with pytest.raises(InputError, match="Opacities range from"):
        render(gaussians, *look(4, 4), 4, 4)


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors", "features"])
def test_numbers_that_are_not_finite_are_refused_by_name(name: str) -> None:
    gaussians = cloud(2)
    getattr(gaussians, name).view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=f"'{name}' has values that are not finite"):
        render(gaussians, *look(4, 4), 4, 4)


def test_cameras_are_checked() -> None:
    viewmats, Ks = look(4, 4, views=2)
    with pytest.raises(InputError, match=r"Ks of shape \[2, 3, 3\]"):
        render(cloud(2), viewmats, Ks[:1], 4, 4)
    viewmats[0, 0, 3] = float("inf")
    with pytest.raises(InputError, match="'viewmats'"):
        render(cloud(2), viewmats, Ks, 4, 4)


def test_other_mistakes() -> None:
    gaussians = cloud(3)
    with pytest.raises(InputError, match=r"scales of shape \[3, 3\], not \[3, 1\]"):
        render(replace(gaussians, scales=gaussians.scales[:, :1]), *look(4, 4), 4, 4)
    with pytest.raises(InputError, match="0 x 4 pixels"):
        render(gaussians, *look(4, 4), 0, 4)
    with pytest.raises(InputError, match="no splatting backend 'fast'"):
        render(gaussians, *look(4, 4), 4, 4, backend="fast")  # type: ignore[arg-type]
