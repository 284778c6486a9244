"""The readable splatting engine: plain torch, exact gradients, any device and floating-point type.

Three steps. (a) Project every Gaussian into every view, without gradient. (b) Walk the splats front to back and find
the (pixel, splat) pairs that contribute to an image, still without gradient. (c) Project the splats that contribute
once more, evaluate the contributing pairs and blend them, with gradient. What (b) leaves out has no gradient, so
those of (c) are exact. `interface.py` names the constants.

Shape legend
    G  Gaussians      V  views      H, W  pixels      F  feature channels
    S  splats: (view, Gaussian) combinations, in the order view * G + Gaussian
    P  pairs: (pixel, splat) combinations; a pixel's index is (view * H + y) * W + x
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gcbench.splatting.interface import (
    EPS2D,
    FAR,
    FIELD_OF_VIEW_MARGIN,
    MAX_ALPHA,
    MAX_SIGMAS,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    NEAR,
    RenderedViews,
)
from gcbench.structures import Gaussians

_PAIRS_PER_CHUNK = 1 << 18  # candidates handled at once; bounds the memory and sets how early hidden splats are dropped


@dataclass(frozen=True)
class Splats:
    """S projected Gaussians: `view` [S] and `depth` [S]; `x`, `y` [S] pixels; covariance `xx`, `xy`, `yy` [S] pixels^2
    with EPS2D added; `opacity` [S]."""

    view: Tensor
    depth: Tensor
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor
    opacity: Tensor

    @property
    def determinant(self) -> Tensor:
        return self.xx * self.yy - self.xy * self.xy

    def take(self, index: Tensor) -> Splats:
        return Splats(*(getattr(self, name).index_select(0, index) for name in self.__dataclass_fields__))


def rasterize(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None
) -> RenderedViews:
    """Render as `interface.render` says; the inputs have been checked there."""
    count, views = len(gaussians), len(viewmats)
    camera = (viewmats.to(gaussians.means), Ks.to(gaussians.means), width, height)
    with torch.no_grad():
        every = torch.arange(views * count, device=gaussians.means.device)
        splats = project(gaussians, every, *camera)
        pixel, splat, per_pixel = contributing_pairs(splats, views, width, height)
        seen = torch.zeros(views * count, dtype=torch.bool, device=every.device).index_fill_(0, splat, True).nonzero()
        seen = seen.squeeze(1)  # the splats that contribute anywhere
        splat = torch.empty_like(every).index_copy_(0, seen, every[: len(seen)]).index_select(0, splat)

    splats = project(gaussians, seen, *camera)
    source = torch.remainder(seen, max(count, 1))
    channels = torch.cat((gaussians.colors, gaussians.features), dim=1).index_select(0, source)
    channels = torch.cat((channels, splats.depth[:, None]), dim=1)
    weight, transmittance = blending_weights(splats, pixel, splat, per_pixel, width, height)
    image = _WeightedSum.apply(channels, weight, pixel, splat, per_pixel).view(views, height, width, -1)  # type: ignore[no-untyped-call]
    transmittance = transmittance.view(views, height, width)
    colors = image[..., :3]
    if background is not None:
        colors = colors + transmittance[..., None] * background.to(colors)
    return RenderedViews(colors, image[..., -1], image[..., 3:-1], 1.0 - transmittance)


def project(gaussians: Gaussians, splat: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int) -> Splats:
    """Project the Gaussians of the given splats (Eq. 1): covariance J W (R S)(R S)^T W^T J^T + EPS2D.

    Culled splats (outside [NEAR, FAR], degenerate, too faint) get opacity 0.

    Args:
        gaussians: G Gaussians.
        splat: [S] splat indices, view * G + Gaussian.
        viewmats: [V, 4, 4].
        Ks: [V, 3, 3].
        width: W.
        height: H.
    """
    count = max(len(gaussians), 1)
    view, source = torch.div(splat, count, rounding_mode="floor"), torch.remainder(splat, count)
    rotation = viewmats[:, :3, :3].index_select(0, view)  # W, [S, 3, 3]
    axes = rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :]  # R S, [G, 3, 3]
    u, v, w = (rotation @ axes.index_select(0, source)).unbind(1)  # rows of W R S, each [S, 3]
    means = (rotation @ gaussians.means.index_select(0, source)[:, :, None]).squeeze(2)
    x, y, z = (means + viewmats[:, :3, 3].index_select(0, view)).unbind(1)
    fx, fy, cx, cy = (Ks[:, i, j].index_select(0, view) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))

    inside = (z >= NEAR) & (z <= FAR)
    z = torch.where(inside, z, 1.0)  # no division by zero, and no gradient, where culled
    slope_x, slope_y = x / z, y / z
    margin_x, margin_y = FIELD_OF_VIEW_MARGIN * 0.5 * width / fx, FIELD_OF_VIEW_MARGIN * 0.5 * height / fy
    bounded_x = torch.clamp(slope_x, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    bounded_y = torch.clamp(slope_y, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    row_x = (fx / z)[:, None] * (u - bounded_x[:, None] * w)  # rows of J W R S, each [S, 3]
    row_y = (fy / z)[:, None] * (v - bounded_y[:, None] * w)
    xx, xy, yy = (row_x * row_x).sum(1) + EPS2D, (row_x * row_y).sum(1), (row_y * row_y).sum(1) + EPS2D

    opacity = gaussians.opacities.index_select(0, source)
    kept = inside & (opacity >= MIN_ALPHA) & (xx * yy - xy * xy > 0)
    return Splats(view, z, fx * slope_x + cx, fy * slope_y + cy, xx, xy, yy, torch.where(kept, opacity, 0.0))


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [G, 3, 3] of quaternions [G, 4] (w, x, y, z), normalised here."""
    w, x, y, z = functional.normalize(quats, dim=1).unbind(1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def pair_alphas(splats: Splats, splat: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Alpha [P] of each pair before the cut at MIN_ALPHA; `x`, `y` [P] are pixel centres. sigma < 0 gives 0 (Eq. 2)."""
    determinant = splats.determinant
    conic_xx, conic_xy, conic_yy = splats.yy / determinant, -splats.xy / determinant, splats.xx / determinant
    dx, dy = x - splats.x.index_select(0, splat), y - splats.y.index_select(0, splat)
    a, b, c = (conic.index_select(0, splat) for conic in (conic_xx, conic_xy, conic_yy))
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = splats.opacity.index_select(0, splat) * torch.exp(-sigma)
    return torch.where(sigma < 0, 0.0, alpha).clamp(max=MAX_ALPHA)


def contributing_pairs(splats: Splats, views: int, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs that are blended: alpha >= MIN_ALPHA, and the pixel not ended in front of the splat.

    A pixel ends before the first splat that brings its transmittance to MIN_TRANSMITTANCE or below. Transmittance never
    rises, so "not ended" is the same as: still above it with this splat included.

    Returns:
        pixel [P] ascending, splat [P] front to back within a pixel (equal depths by index), and the number of pairs of
        each pixel [V * H * W].
    """
    size = views * height * width
    device = splats.depth.device
    log_transmittance = torch.zeros(size, dtype=torch.float64, device=device)
    ended = math.log(MIN_TRANSMITTANCE)
    found_pixel, found_splat = [torch.empty(0, dtype=torch.int32, device=device)], [splats.view[:0]]
    for chunk, box in _front_to_back(splats, width, height):
        visible = _box_has(log_transmittance.view(views, height, width) > ended, splats.view[chunk], box)
        splat, x, y = _candidates(splats, chunk[visible], box[visible], width)
        pixel = (splats.view.index_select(0, splat).int() * height + y) * width + x
        alpha = pair_alphas(splats, splat, x + 0.5, y + 0.5)
        kept = ((alpha >= MIN_ALPHA) & (log_transmittance > ended).index_select(0, pixel)).nonzero().squeeze(1)
        pixel, order = pixel.index_select(0, kept).sort(stable=True)
        kept = kept.index_select(0, order)

        log_passed = torch.log1p(-alpha.index_select(0, kept).double()).cumsum(0)  # over all pixels of the chunk ...
        stops = torch.bincount(pixel, minlength=size).cumsum(0)
        at_stops = functional.pad(log_passed, (1, 0)).index_select(0, stops)
        before = log_transmittance - functional.pad(at_stops, (1, -1))  # ... so take off what lies before each pixel
        blended = ((log_passed + before.index_select(0, pixel)) > ended).nonzero().squeeze(1)
        log_transmittance = before + at_stops
        found_pixel.append(pixel.index_select(0, blended))
        found_splat.append(splat.index_select(0, kept.index_select(0, blended)))
    pixel, order = torch.cat(found_pixel).sort(stable=True)
    return pixel, torch.cat(found_splat).index_select(0, order), torch.bincount(pixel, minlength=size)


def _front_to_back(splats: Splats, width: int, height: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of visible splats in the order of their depth, with their pixel boxes [.., 4]: left, top, right, bottom.

    The box holds every pixel whose alpha can reach MIN_ALPHA. It is tighter than gsplat's whole tiles around ceiled
    radii and gives the same image, since what it leaves out is below MIN_ALPHA.
    """
    sigmas = torch.log((splats.opacity / MIN_ALPHA).clamp(min=1.0)).mul(2).sqrt().clamp(max=MAX_SIGMAS)
    reach_x, reach_y = (_widened(sigmas * variance.sqrt()) for variance in (splats.xx, splats.yy))
    left = torch.ceil(splats.x - reach_x - 0.5).clamp(min=0, max=width)
    top = torch.ceil(splats.y - reach_y - 0.5).clamp(min=0, max=height)
    right = torch.floor(splats.x + reach_x - 0.5).clamp(min=-1, max=width - 1)
    bottom = torch.floor(splats.y + reach_y - 0.5).clamp(min=-1, max=height - 1)
    visible = ((splats.opacity > 0) & (left <= right) & (top <= bottom)).nonzero().squeeze(1)
    visible = visible[splats.depth[visible].argsort(stable=True)]
    box = torch.stack((left, top, right, bottom), dim=1)[visible].int()
    areas = ((box[:, 2] - box[:, 0] + 1).long() * (box[:, 3] - box[:, 1] + 1)).cumsum(0)
    sizes = torch.bincount(torch.div(areas, _PAIRS_PER_CHUNK, rounding_mode="floor")).tolist() if len(areas) else []
    for chunk, chunk_box in zip(torch.split(visible, sizes), torch.split(box, sizes), strict=True):
        if len(chunk):
            yield chunk, chunk_box


def _box_has(pixels: Tensor, view: Tensor, box: Tensor) -> Tensor:
    """Whether any pixel of each box is set, by a summed-area table of the [V, H, W] mask."""
    table = functional.pad(pixels.int().cumsum(1).cumsum(2), (1, 0, 1, 0))
    left, top, right, bottom = box.long().unbind(1)
    inside = table[view, bottom + 1, right + 1] - table[view, top, right + 1]
    return inside - table[view, bottom + 1, left] + table[view, top, left] > 0


def _candidates(splats: Splats, chunk: Tensor, box: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (splat, x, y) of the chunk: each splat's rows, and in each row the span inside the splat's ellipse.

    In the row at distance dy the ellipse's centre is (xy / yy) dy aside and its half width is
    sqrt((sigmas^2 - dy^2 / yy) * determinant / yy).
    """
    near = splats.take(chunk)
    of_row, row = _expand(box[:, 3] - box[:, 1] + 1)
    y = box[:, 1].index_select(0, of_row) + row
    dy = y + 0.5 - near.y.index_select(0, of_row)
    half = 2 * torch.log(near.opacity / MIN_ALPHA).index_select(0, of_row) - dy * dy / near.yy.index_select(0, of_row)
    half = _widened((half.clamp(min=0) * (near.determinant / near.yy).index_select(0, of_row)).sqrt())
    middle = near.x.index_select(0, of_row) + (near.xy / near.yy).index_select(0, of_row) * dy - 0.5
    left = torch.ceil(middle - half).clamp(min=0, max=width).int()
    right = torch.floor(middle + half).clamp(min=-1, max=width - 1).int()
    of_pair, column = _expand((right - left + 1).clamp(min=0))
    x = left.index_select(0, of_pair) + column
    return chunk.index_select(0, of_row.index_select(0, of_pair)), x, y.index_select(0, of_pair)


def _widened(reach: Tensor) -> Tensor:
    """More than rounding can take away, so that the cut at MIN_ALPHA alone decides."""
    return reach * 1.001 + 0.01


def _expand(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner and position within the owner of sum(counts) items: [2, 3] gives [0, 0, 1, 1, 1], [0, 1, 0, 1, 2]."""
    owner = torch.repeat_interleave(counts.long())
    starts = (counts.cumsum(0) - counts).int()
    position = torch.arange(len(owner), dtype=torch.int32, device=counts.device) - starts.index_select(0, owner)
    return owner, position


def blending_weights(
    splats: Splats, pixel: Tensor, splat: Tensor, per_pixel: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """alpha T of every pair [P] and the transmittance behind the last pair of every pixel (Eq. 3).

    The pairs of a pixel stand in one row of a table, padded with 1, whose running product is the transmittance.
    """
    x, y = (
        torch.remainder(pixel, width) + 0.5,
        torch.remainder(torch.div(pixel, width, rounding_mode="floor"), height) + 0.5,
    )
    alpha = pair_alphas(splats, splat, x, y)
    longest = int(per_pixel.max()) if len(per_pixel) else 0
    starts = per_pixel.cumsum(0) - per_pixel
    rank = torch.arange(len(pixel), device=pixel.device) - starts.index_select(0, pixel)
    slot = pixel.long() * (longest + 1) + rank
    passed = alpha.new_ones(len(per_pixel) * (longest + 1)).index_copy(0, slot + 1, 1.0 - alpha)
    transmittance = passed.view(-1, longest + 1).cumprod(dim=1)
    return alpha * transmittance.view(-1).index_select(0, slot), transmittance[:, -1]


class _WeightedSum(torch.autograd.Function):
    """image[p] = sum of weight * channels[splat] over the pairs of pixel p: the sparse product W C, and its transposes.

    `embedding_bag` does the same, but its own gradient to the table is ten times slower than a bag over the transposed
    pairs.
    """

    @staticmethod
    def forward(ctx: Any, channels: Tensor, weight: Tensor, pixel: Tensor, splat: Tensor, per_pixel: Tensor) -> Tensor:
        ctx.save_for_backward(channels, weight, pixel, splat, per_pixel)
        return _bags(splat, channels, per_pixel, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        channels, weight, pixel, splat, per_pixel = ctx.saved_tensors
        with torch.enable_grad():  # torch's own backward is a fused dot product here
            leaf = weight.detach().requires_grad_()
            (grad_weight,) = torch.autograd.grad(_bags(splat, channels.detach(), per_pixel, leaf), leaf, grad)
        order = splat.int().argsort(stable=True)
        per_splat = torch.bincount(splat, minlength=len(channels))
        grad_channels = _bags(pixel.index_select(0, order), grad, per_splat, weight.index_select(0, order))
        return grad_channels, grad_weight, None, None, None


def _bags(row: Tensor, table: Tensor, per_bag: Tensor, weight: Tensor) -> Tensor:
    starts = per_bag.cumsum(0) - per_bag
    return functional.embedding_bag(row.long(), table.contiguous(), starts, mode="sum", per_sample_weights=weight)
