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
    for kernel in ((size, 1), (1, size)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        channels = functional.avg_pool2d(channels, kernel, 1, padding, count_include_pad=False)
    return channels


def cells(channels: Tensor, grid: Grid) -> Tensor:
    """Mean over each cell of the grid."""
    return functional.adaptive_avg_pool2d(channels, grid)


def shifted(channels: Tensor, down: int, right: int) -> Tensor:
    """The value `down`, `right` pixels away from each pixel; the border is repeated."""
    height, width = channels.shape[-2:]
    rows = (torch.arange(height, device=channels.device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=channels.device) + right).clamp(0, width - 1)
    return channels.index_select(-2, rows).index_select(-1, columns)


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
    total = box_mean(energy.sum(1, keepdim=True), 2 * max(radii) + 1) + 0.01
    parts = []
    for radius in radii:
        window = box_mean(energy, 2 * radius + 1)
        step = 2 * radius + 1
        around = ((0, 0), (-step, 0), (step, 0), (0, -step), (0, step))
        parts += [cells((shifted(window, *offset) / total).sqrt(), grid) for offset in around]
    return torch.cat(parts, dim=1)


def self_similarity(images: Tensor, fine: Grid, grid: Grid, radii: tuple[int, ...], tolerance: float = 0.1) -> Tensor:
    """exp(-(colour difference / tolerance)^2) between a pixel and eight neighbours at each radius, mean over cells."""
    colours = box_mean(opponent_colours(cells(images, fine)), 3)
    parts = []
    for radius in radii:
        for down, right in _COMPASS:
            reach = radius / math.hypot(down, right)
            difference = colours - shifted(colours, round(down * reach), round(right * reach))
            alike = torch.exp(-difference.square().sum(1, keepdim=True) / tolerance**2)
            parts.append(cells(alike, grid))
    return torch.cat(parts, dim=1)


def local_binary_patterns(images: Tensor, fine: Grid, grid: Grid, window: int) -> Tensor:
    """Histogram [V, 10, h, w] of rotation-invariant uniform patterns of eight neighbours: 0 .. 8 brighter, or mixed."""
    grey = luminance(images)
    brighter = torch.cat([shifted(grey, *offset) > grey + 0.01 for offset in _COMPASS], dim=1)
    changes = (brighter ^ brighter.roll(1, dims=1)).sum(1)
    pattern = torch.where(changes <= 2, brighter.sum(1), 9)
    histogram = functional.one_hot(pattern, 10).permute(0, 3, 1, 2).to(images)
    return cells(box_mean(cells(histogram, fine), window), grid).sqrt()


def colour_statistics(images: Tensor, fine: Grid, grid: Grid, windows: tuple[int, ...]) -> Tensor:
    """Mean of the opponent colours in a cell and their spread in each window."""
    colours = opponent_colours(cells(images, fine))
    parts = [cells(colours, grid)]
    for window in windows:
        spread = (box_mean(colours.square(), window) - box_mean(colours, window).square()).clamp(min=0).sqrt()
        parts.append(cells(spread, grid))
    return torch.cat(parts, dim=1)
