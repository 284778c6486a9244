"""The pre-training losses (Eq. 17-20) and PSNR.

Shape legend
    V  views      H, W  pixels      h, w  cells of the teacher's grid      D  channels of the teacher
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gcbench.errors import InputError


@dataclass(frozen=True)
class LossWeights:
    """The lambdas of Eq. 20; 0 leaves a target out (Table 5)."""

    image: float
    depth: float
    semantic: float


@dataclass(frozen=True)
class PretrainingLoss:
    """The weighted `total` of Eq. 20 and its unweighted terms, all [], in float32 at least.

    A term whose weight is 0 is measured all the same, without gradient; `semantic` is None without feature maps.
    """

    total: Tensor
    image: Tensor
    depth: Tensor
    semantic: Tensor | None


def image_loss(colors: Tensor, target_colors: Tensor) -> Tensor:
    """Eq. 17: mean absolute difference of images [V, H, W, 3]."""
    _same_shape("colours", colors, target_colors)
    return (colors - target_colors).abs().mean()


def depth_loss(depths: Tensor, target_depths: Tensor) -> Tensor:
    """Eq. 18: |D - D*| [V, H, W] where D* is a measurement (> 0), divided by all V H W pixels.

    Both are not divided by the accumulated alpha, in the same unit (cube units in pre-training).
    """
    _same_shape("depths", depths, target_depths)
    measured = torch.isfinite(target_depths) & (target_depths > 0)
    return torch.where(measured, depths - target_depths, 0.0).abs().mean()


def semantic_loss(feature_maps: Tensor, teacher_maps: Tensor) -> Tensor:
    """Eq. 19: 1 - cos of feature maps [V, h, w, D], mean over views and cells; the teacher's may be fp16."""
    _same_shape("feature maps", feature_maps, teacher_maps)
    teacher_maps = teacher_maps.to(feature_maps)
    return (1.0 - functional.cosine_similarity(feature_maps, teacher_maps, dim=-1)).mean()


def pretraining_loss(
    colors: Tensor,
    depths: Tensor,
    target_colors: Tensor,
    target_depths: Tensor,
    weights: LossWeights,
    *,
    feature_maps: Tensor | None = None,
    teacher_maps: Tensor | None = None,
) -> PretrainingLoss:
    """Eq. 20, over V views of one or several scenes (concatenated; each scene may have another number of views).

    Args:
        colors: [V, H, W, 3] rendered.
        depths: [V, H, W] rendered.
        target_colors: [V, H, W, 3].
        target_depths: [V, H, W], 0 where there is no measurement.
        weights: the lambdas.
        feature_maps: [V, h, w, D], projected.
        teacher_maps: [V, h, w, D].

    Raises:
        InputError: shapes differ, or only one of the two feature maps is given, or a semantic weight without them.
    """
    if (feature_maps is None) != (teacher_maps is None) or (feature_maps is None and weights.semantic != 0):
        raise InputError(
            "The semantic loss needs both feature maps.", "Set its weight to 0 to train without a teacher."
        )
    image = image_loss(_wanted(colors, weights.image), target_colors)
    depth = depth_loss(_wanted(depths, weights.depth), target_depths)
    semantic, total = None, weights.image * image + weights.depth * depth
    if feature_maps is not None and teacher_maps is not None:
        semantic = semantic_loss(_wanted(feature_maps, weights.semantic), teacher_maps)
        total = total + weights.semantic * semantic
    return PretrainingLoss(total, image, depth, semantic)


def _wanted(rendered: Tensor, weight: float) -> Tensor:
    """What is rendered, in float32 at least; without gradient if its weight is 0."""
    rendered = rendered.to(torch.promote_types(rendered.dtype, torch.float32))
    return rendered if weight else rendered.detach()


def psnr(colors: Tensor, target_colors: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [V] in dB of images [V, H, W, 3] in [0, 1]; rendered values are clamped to that."""
    _same_shape("colours", colors, target_colors)
    error = (colors.clamp(0.0, 1.0) - target_colors).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(error.clamp(min=torch.finfo(error.dtype).tiny))


def _same_shape(name: str, rendered: Tensor, target: Tensor) -> None:
    if rendered.shape != target.shape:
        raise InputError(f"Rendered {name} have shape {list(rendered.shape)}, their targets {list(target.shape)}.")
