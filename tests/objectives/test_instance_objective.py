"""PointGroup's losses against the formulas, point by point, with gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.objectives.instance import offset_losses


def drawn(points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    offsets, coord, centroid = torch.randn(3, points, 3, generator=generator, dtype=torch.float64)
    return offsets, coord, centroid, torch.rand(points, generator=generator) < 0.6


def twin(
    offsets: torch.Tensor, coord: torch.Tensor, centroid: torch.Tensor, is_instance: torch.Tensor
) -> tuple[float, float]:
    l1, cosine, count = 0.0, 0.0, 0
    for offset, at, center, counts in zip(
        offsets.tolist(), coord.tolist(), centroid.tolist(), is_instance.tolist(), strict=True
    ):
        if not counts:
            continue
        true = [c - a for c, a in zip(center, at, strict=True)]
        l1 += sum(abs(o - t) for o, t in zip(offset, true, strict=True))
        length, true_length = math.hypot(*offset) + 1e-8, math.hypot(*true) + 1e-8
        cosine -= sum((o / length) * (t / true_length) for o, t in zip(offset, true, strict=True))
        count += 1
    return l1 / (count + 1e-8), cosine / (count + 1e-8)


@settings(max_examples=40)
@given(st.integers(0, 30), st.integers(0, 10**6))
def test_losses_are_the_formulas(points: int, seed: int) -> None:
    arrays = drawn(points, seed)
    losses = offset_losses(*arrays)
    l1, cosine = twin(*arrays)
    assert losses.l1.item() == pytest.approx(l1, abs=1e-12)
    assert losses.cosine.item() == pytest.approx(cosine, abs=1e-12)


def test_gradients_are_those_of_differences() -> None:
    offsets, coord, centroid, is_instance = drawn(12, 0)
    offsets.requires_grad_(True)

    def both(moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses = offset_losses(moved, coord, centroid, is_instance)
        return losses.l1, losses.cosine

    assert torch.autograd.gradcheck(both, (offsets,))
    losses = offset_losses(offsets, coord, centroid, is_instance)
    (gradient,) = torch.autograd.grad(losses.l1 + losses.cosine, offsets)
    assert gradient[~is_instance].abs().max() == 0
    assert gradient[is_instance].abs().min() > 0


def test_no_instance_is_zero_with_zero_gradient() -> None:
    offsets, coord, centroid, _ = drawn(5, 1)
    offsets.requires_grad_(True)
    losses = offset_losses(offsets, coord, centroid, torch.zeros(5, dtype=torch.bool))
    assert (losses.l1.item(), losses.cosine.item()) == (0.0, 0.0)
    (gradient,) = torch.autograd.grad(losses.l1 + losses.cosine, offsets)
    assert gradient.abs().max() == 0


def test_a_zero_offset_or_a_point_at_its_centroid_is_finite() -> None:
    zero = torch.zeros(2, 3, requires_grad=True)
    at = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    losses = offset_losses(zero, torch.zeros(2, 3), at, torch.ones(2, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(losses.l1 + losses.cosine, zero)
    assert losses.cosine.item() == 0.0
    assert torch.isfinite(gradient).all()


def test_shapes_that_do_not_fit_are_named() -> None:
    offsets, coord, centroid, is_instance = drawn(4, 2)
    with pytest.raises(InputError, match=r"offsets \[3, 3\], coord \[4, 3\]"):
        offset_losses(offsets[:3], coord, centroid, is_instance)
    with pytest.raises(InputError, match=r"is_instance \[4, 1\]"):
        offset_losses(offsets, coord, centroid, is_instance[:, None])
