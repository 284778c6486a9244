"""Dense classical descriptors of a photo: what a pixel's surroundings look like, on several scales, without learning.

Each group maps images [V, 3, H, W] to channels [V, C, h, w] on a grid of h x w cells. Edges and textures are found at
the photo's own resolution; windows and radii are pixels of the `fine` grid that these are averaged to. The groups:

- `oriented_gradients`: histograms of gradient orientation (HOG), sampled on rings as in DAISY (Dalal and Triggs 2005;
  Tola et al. 2010): which edges lie here, above, below, left and right.
- `self_similarity`: how alike the colours here and at rings of growing radius are (Shechtman and Irani 2007): the
  outline of the region that a cell belongs to, whatever its colour.
- `local_binary_patterns`: rotation-invariant uniform patterns (Ojala et al. 2002): the texture.
- `colour_statistics`: opponent colours, mean and spread.

Shape legend
    V  images      H, W  pixels, of the photo or of the fine grid      h, w  cells      C  channels of a descriptor
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Grid: TypeAlias = tuple[int, int]

_TINY = 1e-6
_COMPASS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))  # (down, right)


def luminance(images: Tensor) -> Tensor:
    """[V, 1, H, W] of RGB [V, 3, H, W] (Rec. 601)."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def opponent_colours(images: Tensor) -> Tensor:
    """[V, 3, H, W]: brightness, red against green, yellow against blue; each spans about one unit."""
    red, green, blue = images.unbind(1)
    return torch.stack(((red + green + blue) / 3, red - green, (red + green) / 2 - blue), dim=1)


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (right, down) of the channel with the steepest gradient, [V, 1, H, W] each."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    right = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    steepest = (right.square() + down.square()).argmax(dim=1, keepdim=True)
    return right.gather(1, steepest), down.gather(1, steepest)


def box_mean(channels: Tensor, size: int) -> Tensor:
    """Mean over size x size pixels (size odd) around each pixel, over what lies inside the image."""
    return _line_mean(_line_mean(channels, size, -2), size, -1)


def _line_mean(channels: Tensor, size: int, axis: int) -> Tensor:
    """Mean over `size` pixels along an axis: a sum of shifted images, several times faster than pooling on a CPU."""
    reach, length = size // 2, channels.shape[axis]
    padded = functional.pad(channels, (reach, reach) if axis == -1 else (0, 0, reach, reach))
    total = padded.narrow(axis, 0, length).clone()
    for start in range(1, size):
        total += padded.narrow(axis, start, length)
    index = torch.arange(length, device=channels.device)
    inside = (index + reach).clamp(max=length - 1) - (index - reach).clamp(min=0) + 1
    return total / (inside if axis == -1 else inside[:, None])


def cells(channels: Tensor, grid: Grid) -> Tensor:
    """Mean over each cell of the grid."""
    return channels if channels.shape[-2:] == grid else functional.adaptive_avg_pool2d(channels, grid)


def neighbours(channels: Tensor, offsets: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """For each offset (down, right), the value so many pixels away from each pixel; the border is repeated."""
    height, width = channels.shape[-2:]
    reach = max(max(abs(down), abs(right)) for down, right in offsets)
    padded = functional.pad(channels, (reach, reach, reach, reach), mode="replicate")
    for down, right in offsets:
        yield padded[..., reach + down : reach + down + height, reach + right : reach + right + width]


def orientation_energy(images: Tensor, bins: int) -> Tensor:
    """Gradient magnitude [V, bins, H, W], shared between the two nearest of `bins` unsigned orientations."""
    right, down = gradients(images)
    magnitude = (right.square() + down.square() + _TINY**2).sqrt()
    position = torch.atan2(down, right) / math.pi * bins  # a half turn is `bins` wide: unsigned
    distance = torch.remainder(position - torch.arange(bins, device=images.device).view(1, -1, 1, 1) + bins / 2, bins)
    return magnitude * (1 - (distance - bins / 2).abs()).clamp(min=0)


def oriented_gradients(images: Tensor, fine: Grid, grid: Grid, radii: tuple[int, ...], bins: int = 6) -> Tensor:
    """Orientation histograms of windows of each radius, here and one window above, below, left and right.

    Normalised by the energy in the widest window around, and square-rooted: contrast of the light drops out.
    """
    energy = cells(orientation_energy(images, bins), fine)
    scale = (box_mean(energy.sum(1, keepdim=True), 2 * max(radii) + 1) + 0.01).rsqrt()
    parts = []
    for radius in radii:
        size = 2 * radius + 1
        root = box_mean(energy, size).sqrt()
        around = ((0, 0), (-size, 0), (size, 0), (0, -size), (0, size))
        parts += [cells(moved * scale, grid) for moved in neighbours(root, around)]
    return torch.cat(parts, dim=1)


def self_similarity(images: Tensor, fine: Grid, grid: Grid, radii: tuple[int, ...], tolerance: float = 0.1) -> Tensor:
    """exp(-(colour difference / tolerance)^2) between a pixel and eight neighbours at each radius, mean over cells."""
    colours = box_mean(opponent_colours(cells(images, fine)), 3)
    offsets = [
        (round(down * radius / math.hypot(down, right)), round(right * radius / math.hypot(down, right)))
        for radius in radii
        for down, right in _COMPASS
    ]
    distances = [(colours - other).square().sum(1) for other in neighbours(colours, offsets)]
    return cells(torch.exp(torch.stack(distances, dim=1) / -(tolerance**2)), grid)


def local_binary_patterns(images: Tensor, fine: Grid, grid: Grid, window: int) -> Tensor:
    """Histogram [V, 10, h, w] of rotation-invariant uniform patterns of eight neighbours: 0 .. 8 brighter, or mixed."""
    grey = luminance(images)
    brighter = torch.cat([other > grey + 0.01 for other in neighbours(grey, _COMPASS)], dim=1)
    changes = (brighter ^ brighter.roll(1, dims=1)).sum(1)
    pattern = torch.where(changes <= 2, brighter.sum(1), 9)
    histogram = cells((pattern[:, None] == torch.arange(10, device=images.device).view(1, 10, 1, 1)).to(images), fine)
    return cells(box_mean(histogram, window), grid).sqrt()


def colour_statistics(images: Tensor, fine: Grid, grid: Grid, windows: tuple[int, ...]) -> Tensor:
    """Mean of the opponent colours in a cell and their spread in each window."""
    colours = opponent_colours(cells(images, fine))
    parts = [cells(colours, grid)]
    for window in windows:
        spread = (box_mean(colours.square(), window) - box_mean(colours, window).square()).clamp(min=0).sqrt()
        parts.append(cells(spread, grid))
    return torch.cat(parts, dim=1)
