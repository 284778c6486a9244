from __future__ import annotations

import math

import pytest
import torch

from gcbench.errors import InputError
from gcbench.objectives.pretraining import (
    LossWeights,
    depth_loss,
    image_loss,
    pretraining_loss,
    psnr,
    semantic_loss,
)


def test_image_loss_is_the_mean_absolute_difference() -> None:
    target = torch.zeros(2, 2, 2, 3)
    rendered = target.clone()
    rendered[0, 0, 0, 0] = -0.6
    rendered[1, 1, 1, 2] = 0.6
    assert float(image_loss(rendered, target)) == pytest.approx(1.2 / 24)


def test_depth_loss_skips_unmeasured_pixels_but_divides_by_all() -> None:
    target = torch.tensor([[[0.0, 1.0], [2.0, float("nan")]]])
    rendered = torch.full((1, 2, 2), 1.5, requires_grad=True)
    loss = depth_loss(rendered, target)
    loss.backward()
    assert float(loss.detach()) == pytest.approx((0.5 + 0.5) / 4)
    assert torch.equal(rendered.grad, torch.tensor([[[0.0, 0.25], [-0.25, 0.0]]]))


def test_semantic_loss_sees_directions_only() -> None:
    teacher = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert float(semantic_loss(7 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(semantic_loss(-teacher, teacher)) == pytest.approx(2, abs=1e-6)


def test_total_is_the_weighted_sum_of_the_unweighted_terms() -> None:
    draw = torch.Generator().manual_seed(0)
    colors, targets = torch.rand(2, 1, 4, 5, 3, generator=draw)
    depths, target_depths = torch.rand(2, 1, 4, 5, generator=draw)
    maps, teacher = torch.randn(2, 1, 2, 2, 6, generator=draw)
    loss = pretraining_loss(
        colors, depths, targets, target_depths, LossWeights(1.0, 4.0, 0.5), feature_maps=maps, teacher_maps=teacher
    )
    assert loss.semantic is not None
    torch.testing.assert_close(loss.total, loss.image + 4 * loss.depth + 0.5 * loss.semantic)
    torch.testing.assert_close(loss.image, image_loss(colors, targets))
    torch.testing.assert_close(loss.depth, depth_loss(depths, target_depths))
    torch.testing.assert_close(loss.semantic, semantic_loss(maps, teacher))


def test_without_a_teacher() -> None:
    colors, depths = torch.rand(1, 2, 2, 3), torch.rand(1, 2, 2)
    loss = pretraining_loss(colors, depths, colors, depths, LossWeights(1.0, 1.0, 0.0))
    assert loss.semantic is None and float(loss.total) == 0.0
    with pytest.raises(InputError, match="weight to 0"):
        pretraining_loss(colors, depths, colors, depths, LossWeights(1.0, 1.0, 1.0))


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match=r"Rendered depths have shape \[1, 2, 2\]"):
        depth_loss(torch.rand(1, 2, 2), torch.rand(2, 2, 2))


def test_psnr_is_per_view_and_of_clamped_colours() -> None:
    target = torch.ones(2, 3, 3, 3)
    rendered = torch.stack((target[0] * 0.9, target[0] * 1.7))
    values = psnr(rendered, target)
    assert float(values[0]) == pytest.approx(20.0, abs=1e-4)
    assert float(values[1]) > 300 and math.isfinite(float(values[1]))


def test_a_weight_of_zero_leaves_a_target_out_but_measures_it() -> None:
    """Table 5: the term is logged, and nothing is learnt from it."""
    draw = torch.Generator().manual_seed(0)
    colors, targets = torch.rand(2, 1, 4, 5, 3, generator=draw)
    depths, target_depths = torch.rand(2, 1, 4, 5, generator=draw)
    colors.requires_grad_()
    depths.requires_grad_()
    loss = pretraining_loss(colors, depths, targets, target_depths, LossWeights(1.0, 0.0, 0.0))
    loss.total.backward()
    assert depths.grad is None and colors.grad is not None
    torch.testing.assert_close(loss.total, loss.image)
    torch.testing.assert_close(loss.depth, depth_loss(depths, target_depths))


def test_losses_are_float32_whatever_comes_in() -> None:
    draw = torch.Generator().manual_seed(0)
    colors, depths = torch.rand(1, 4, 5, 3, generator=draw).half(), torch.rand(1, 4, 5, generator=draw).half()
    maps = torch.randn(1, 2, 2, 6, generator=draw)
    loss = pretraining_loss(
        colors,
        depths,
        torch.ones(1, 4, 5, 3),
        torch.ones(1, 4, 5),
        LossWeights(1.0, 1.0, 1.0),
        feature_maps=maps,
        teacher_maps=maps.half(),
    )
    assert {term.dtype for term in (loss.total, loss.image, loss.depth)} == {torch.float32}
    assert loss.semantic is not None and float(loss.semantic) == pytest.approx(0.0, abs=1e-6)
