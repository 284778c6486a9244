"""Small scenes, and a twin of the renderer with one Python step per pixel and Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gcbench.splatting import RenderedViews
from gcbench.structures import Gaussians

FIELDS = ("means", "quats", "scales", "opacities", "colors", "features")


def cloud(
    count: int, *, seed: int = 0, scale: float = 0.15, features: int = 2, dtype: torch.dtype = torch.float64
) -> Gaussians:
    """Gaussians scattered in front of `look` cameras."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw, dtype=dtype)

    return Gaussians(
        means=(uniform(count, 3) - 0.5) * torch.tensor([2.0, 1.6, 2.0], dtype=dtype),
        quats=uniform(count, 4) - 0.5,
        scales=scale * (0.3 + uniform(count, 3)),
        opacities=0.1 + 0.85 * uniform(count),
        colors=uniform(count, 3),
        features=uniform(count, features) - 0.5,
    )


def look(
    width: int, height: int, *, views: int = 1, distance: float = 2.5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Cameras at `distance` from the origin, on a circle, slightly tilted; with unequal focal lengths."""
    viewmats = []
    for view in range(views):
        turn, tilt = 2 * math.pi * view / views, 0.1
        about_y = [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
        about_x = [[1, 0, 0], [0, math.cos(tilt), -math.sin(tilt)], [0, math.sin(tilt), math.cos(tilt)]]
        viewmat = torch.eye(4, dtype=dtype)
        viewmat[:3, :3] = torch.tensor(about_x, dtype=dtype) @ torch.tensor(about_y, dtype=dtype)
        viewmat[2, 3] = distance
        viewmats.append(viewmat)
    K = [[0.9 * width, 0, 0.48 * width], [0, 0.85 * width, 0.53 * height], [0, 0, 1]]
    return torch.stack(viewmats), torch.tensor(K, dtype=dtype).expand(views, 3, 3).clone()


def with_gradient(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(getattr(gaussians, name).detach().clone().requires_grad_() for name in FIELDS))


def images(rendered: RenderedViews) -> Tensor:
    """All that was rendered, [V, H, W, 3 + 1 + F + 1]."""
    return torch.cat(
        (rendered.colors, rendered.depths[..., None], rendered.features, rendered.alphas[..., None]), dim=-1
    )


def render_naively(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None = None
) -> RenderedViews:
    """3DGS as written down: for every view, pixel and Gaussian in the order of depth."""
    views = []
    for viewmat, K in zip(viewmats, Ks, strict=True):
        splats = []
        for index in range(len(gaussians)):
            splat = _project(gaussians, index, viewmat, K, width, height)
            if splat is not None:
                splats.append((float(splat[0].detach()), index, splat))
        splats.sort(key=lambda item: item[:2])
        pixels = [_pixel(gaussians, splats, x + 0.5, y + 0.5, background) for y in range(height) for x in range(width)]
        views.append(torch.stack(pixels).view(height, width, -1))
    image = torch.stack(views)
    return RenderedViews(image[..., :3], image[..., 3], image[..., 5:], image[..., 4])


def _project(
    gaussians: Gaussians, index: int, viewmat: Tensor, K: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    x, y, z = mean = viewmat[:3, :3] @ gaussians.means[index] + viewmat[:3, 3]
    if z < 0.01 or z > 1e10 or gaussians.opacities[index] < 1 / 255:
        return None
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    qw, qx, qy, qz = gaussians.quats[index] / gaussians.quats[index].norm()
    cross = torch.stack(
        [torch.stack([0 * qw, -qz, qy]), torch.stack([qz, 0 * qw, -qx]), torch.stack([-qy, qx, 0 * qw])]
    )
    rotation = torch.eye(3, dtype=mean.dtype) + 2 * qw * cross + 2 * cross @ cross
    covariance = rotation @ torch.diag(gaussians.scales[index] ** 2) @ rotation.T
    right, left = (width - cx) / fx + 0.15 * width / fx, cx / fx + 0.15 * width / fx
    below, above = (height - cy) / fy + 0.15 * height / fy, cy / fy + 0.15 * height / fy
    tx, ty = z * torch.clamp(x / z, -left, right), z * torch.clamp(y / z, -above, below)
    zero = torch.zeros_like(z)
    J = torch.stack([torch.stack([fx / z, zero, -fx * tx / z**2]), torch.stack([zero, fy / z, -fy * ty / z**2])])
    JW = J @ viewmat[:3, :3]
    covariance = JW @ covariance @ JW.T + 0.3 * torch.eye(2, dtype=mean.dtype)
    if torch.det(covariance) <= 0:
        return None
    return z, torch.stack([fx * x / z + cx, fy * y / z + cy]), covariance


def _pixel(gaussians: Gaussians, splats: list, x: float, y: float, background: Tensor | None) -> Tensor:  # type: ignore[type-arg]
    transmittance = gaussians.means.new_ones(())
    total = gaussians.means.new_zeros(5 + gaussians.features.shape[1])
    for _, index, (z, center, covariance) in splats:
        offset = center.new_tensor([x, y]) - center
        sigma = 0.5 * offset @ torch.linalg.inv(covariance) @ offset
        alpha = torch.clamp(gaussians.opacities[index] * torch.exp(-sigma), max=0.999)
        if sigma < 0 or alpha < 1 / 255:
            continue
        if transmittance * (1 - alpha) <= 1e-4:
            break
        channels = torch.cat((gaussians.colors[index], z[None], torch.ones_like(z)[None], gaussians.features[index]))
        total = total + channels * alpha * transmittance
        transmittance = transmittance * (1 - alpha)
    if background is not None:
        total = total + torch.cat((background * transmittance, torch.zeros_like(total[3:])))
    return total
