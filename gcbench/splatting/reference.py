"""The readable splatting engine: plain torch, gradients by autograd, any device and floating-point type.

It evaluates every pixel against every visible splat, so its time grows as H W G per view. Its purpose is to be read,
line by line, beside the equations, and to say what the fast engines must give. `interface.py` names the constants.

The fast engines draw a splat out to min(MAX_SIGMAS, sqrt(2 ln(opacity / MIN_ALPHA))) standard deviations only. For
opacities up to 1 the cut at MIN_ALPHA leaves out all that lies beyond, so nothing here bounds a splat, nor drops one
beside the image.

Shape legend
    G  Gaussians      V  views      H, W  pixels      F  feature channels
    S  splats: the Gaussians that a view does not cull, front to back      P  pixels evaluated at once
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gcbench.splatting.interface import (
    EPS2D,
    FAR,
    FIELD_OF_VIEW_MARGIN,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    NEAR,
    RenderedViews,
)
from gcbench.structures import Gaussians

_PAIRS_AT_ONCE = 1 << 21  # P * S, which bounds the memory


@dataclass(frozen=True)
class Splats:
    """S projected Gaussians, front to back; equal depths by index.

    Attributes:
        centers: [S, 2], pixels.
        covariances: [S, 2, 2], pixels^2, with EPS2D added.
        opacities: [S].
        channels: [S, 3 + 1 + F]: colour, depth, feature.
    """

    centers: Tensor
    covariances: Tensor
    opacities: Tensor
    channels: Tensor

    def take(self, index: Tensor) -> Splats:
        """Those of an index or a mask over S."""
        return Splats(self.centers[index], self.covariances[index], self.opacities[index], self.channels[index])


def rasterize(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None
) -> RenderedViews:
    """Render as `interface.render` says; the inputs have been checked there."""
    means, channels = gaussians.means, 3 + 1 + gaussians.features.shape[1] + 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack((x, y), dim=2).view(-1, 2).to(means) + 0.5  # centres, [H * W, 2]
    images = [means.new_zeros(0, channels)]
    for viewmat, K in zip(viewmats.to(means), Ks.to(means), strict=True):
        splats = project(gaussians, viewmat, K, width, height)
        chunks = pixels.split(max(1, _PAIRS_AT_ONCE // max(1, len(splats.centers))))
        images += [checkpoint(_blend, splats, chunk, use_reentrant=False) for chunk in chunks]  # again for the gradient
    image = torch.cat(images).view(len(viewmats), height, width, channels)
    colors, depths, features, alphas = image[..., :3], image[..., 3], image[..., 4:-1], image[..., -1]
    if background is not None:
        colors = colors + (1.0 - alphas)[..., None] * background.to(means)
    return RenderedViews(colors, depths, features, alphas)


def project(gaussians: Gaussians, viewmat: Tensor, K: Tensor, width: int, height: int) -> Splats:
    """Project Gaussians into one view, drop the culled ones, sort the others by depth (Eq. 1).

    The covariance is J W (R S)(R S)^T W^T J^T + EPS2D. Culled are depths outside [NEAR, FAR], opacities below MIN_ALPHA
    and covariances whose determinant is not positive.

    Args:
        gaussians: G Gaussians.
        viewmat: [4, 4] world-to-camera; its 3 x 3 part is W.
        K: [3, 3], pixels.
        width: W.
        height: H.
    """
    W, (fx, fy, cx, cy) = viewmat[:3, :3], (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    positions = gaussians.means @ W.T + viewmat[:3, 3]
    depths = positions[:, 2]
    kept = ((depths >= NEAR) & (depths <= FAR) & (gaussians.opacities >= MIN_ALPHA)).nonzero().squeeze(1)
    kept = kept[depths[kept].argsort(stable=True)]

    x, y, z = positions[kept].unbind(1)
    margin_x, margin_y = FIELD_OF_VIEW_MARGIN * 0.5 * width / fx, FIELD_OF_VIEW_MARGIN * 0.5 * height / fy
    slope_x = torch.clamp(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)  # for the Jacobian only
    slope_y = torch.clamp(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    none = torch.zeros_like(z)
    J = torch.stack((fx / z, none, -fx * slope_x / z, none, fy / z, -fy * slope_y / z), dim=1).view(-1, 2, 3)
    axes = J @ W @ (rotation_matrices(gaussians.quats[kept]) * gaussians.scales[kept][:, None, :])  # J W R S, [S, 2, 3]
    covariances = axes @ axes.mT + EPS2D * torch.eye(2).to(axes)
    centers = torch.stack((fx * x / z + cx, fy * y / z + cy), dim=1)
    channels = torch.cat((gaussians.colors[kept], z[:, None], gaussians.features[kept]), dim=1)
    return Splats(centers, covariances, gaussians.opacities[kept], channels).take(_determinants(covariances) > 0)


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [G, 3, 3] of quaternions [G, 4] (w, x, y, z), normalised here."""
    w, x, y, z = functional.normalize(quats, dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _determinants(matrices: Tensor) -> Tensor:
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]


def blending_weights(splats: Splats, pixels: Tensor) -> Tensor:
    """Weights alpha T [P, S] of the splats in pixels with centres [P, 2] (Eq. 2, 3).

    alpha = min(MAX_ALPHA, opacity exp(-sigma)), without gradient to either factor where MAX_ALPHA is less; skipped if
    sigma < 0 or alpha < MIN_ALPHA. T is the product of 1 - alpha over the splats in front. A pixel ends before the
    splat that would bring it to MIN_TRANSMITTANCE or below; T never rises, so that is: weight 0 from there on.
    """
    dx, dy = (pixels[:, None, :] - splats.centers).unbind(2)
    (xx, xy), (_, yy) = (splats.covariances[:, i].unbind(1) for i in (0, 1))
    sigma = (0.5 * (yy * dx * dx + xx * dy * dy) - xy * dx * dy) / _determinants(splats.covariances)
    alpha = splats.opacities * torch.exp(-torch.where(sigma < 0, math.inf, sigma))
    alpha = torch.where(alpha < MIN_ALPHA, 0.0, alpha.clamp(max=MAX_ALPHA))
    transmittance = functional.pad(torch.cumprod(1.0 - alpha, dim=1), (1, 0), value=1.0)
    in_front, behind = transmittance[:, :-1], transmittance[:, 1:]
    return torch.where(behind > MIN_TRANSMITTANCE, alpha * in_front, 0.0)


def _blend(splats: Splats, pixels: Tensor) -> Tensor:
    """Sums over the splats [P, 3 + 1 + F + 1] of channel alpha T (Eq. 3, 14, 15), and of alpha T alone."""
    weights = blending_weights(splats, pixels)
    return torch.cat((weights @ splats.channels, weights.sum(dim=1, keepdim=True)), dim=1)
