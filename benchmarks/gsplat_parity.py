"""gsplat on CUDA beside our CPU engine: how far images and gradients differ, and how long a step takes.

    python benchmarks/gsplat_parity.py [--repeats 10] [--sizes 60000,200000]

Needs a GPU and gsplat; without them it says so and ends with exit code 2. Values and gradients are compared on 4000
Gaussians in 5 views of 160 x 120, packed and not: the mean error, and the share of pixels where a threshold (alpha
1/255, the end of a pixel) fell on the other side. Times are forward + backward of 480 x 640, 5 views, 36 channels.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys

import torch
from torch import Tensor

from gcbench.errors import GcbenchError
from gcbench.splatting import RenderedViews, gsplat_backend, render
from gcbench.structures import Gaussians

FIELDS = ("means", "quats", "scales", "opacities", "colors", "features")
IMAGES = ("colors", "depths", "features", "alphas")
VIEWS = 5
FLIPPED = 2e-3  # half of the smallest alpha that is drawn


def room(count: int, *, features: int = 32) -> Gaussians:
    """Gaussians on the walls of a unit box, each as large as its share of the walls."""
    draw = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=draw) - 0.5
    wall = torch.randint(3, (count,), generator=draw)
    means[torch.arange(count), wall] = 0.5 * torch.sign(torch.rand(count, generator=draw) - 0.5)
    return Gaussians(
        means=means,
        quats=torch.randn(count, 4, generator=draw),
        scales=(0.5 + torch.rand(count, 3, generator=draw)) * math.sqrt(6 / count),
        opacities=0.3 + 0.65 * torch.rand(count, generator=draw),
        colors=torch.rand(count, 3, generator=draw),
        features=torch.randn(count, features, generator=draw),
    )


def cameras(width: int, height: int) -> tuple[Tensor, Tensor]:
    """Cameras in the middle of the box that look around; the last one is mirrored, as after a flip of the scene."""
    viewmats = torch.eye(4).repeat(VIEWS, 1, 1)
    for view, viewmat in enumerate(viewmats):
        turn = torch.tensor(2 * math.pi * view / VIEWS)
        viewmat[0, 0], viewmat[0, 2] = turn.cos(), turn.sin()
        viewmat[2, 0], viewmat[2, 2] = -turn.sin(), turn.cos()
        viewmat[2, 3] = 0.2
    viewmats[-1, :, 0] *= -1
    K = torch.tensor([[0.9 * width, 0.0, width / 2], [0.0, 0.9 * width, height / 2], [0.0, 0.0, 1.0]])
    return viewmats, K.repeat(VIEWS, 1, 1)


def leaves(gaussians: Gaussians) -> Gaussians:
    """The same numbers, asking for gradients."""
    return Gaussians(*(getattr(gaussians, name).detach().clone().requires_grad_() for name in FIELDS))


def weights(width: int, height: int, channels: dict[str, int]) -> dict[str, Tensor]:
    """Random weights of every channel and pixel: the loss whose gradients are compared."""
    draw = torch.Generator().manual_seed(1)
    shapes = {name: (VIEWS, height, width, *((count,) if count else ())) for name, count in channels.items()}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def weighted(rendered: RenderedViews, weight: dict[str, Tensor]) -> Tensor:
    """The loss."""
    return torch.stack([(getattr(rendered, name) * weight[name]).sum() for name in IMAGES]).sum()


def compare(packed: bool) -> None:
    """Print how far gsplat is from the CPU engine."""
    width, height = 160, 120
    viewmats, Ks = cameras(width, height)
    weight = weights(width, height, {"colors": 3, "depths": 0, "features": 32, "alphas": 0})
    ours, theirs = leaves(room(4000)), leaves(room(4000).to("cuda"))
    expected = render(ours, viewmats, Ks, width, height)
    found = gsplat_backend.rasterize(theirs, viewmats, Ks, width, height, None, packed=packed)
    print(
        f"\n{'packed' if packed else 'not packed':<12} {'mean error':>12} {'of mean size':>14} {'flipped pixels':>16}"
    )
    for name in IMAGES:
        image, wanted = getattr(found, name).detach().cpu(), getattr(expected, name).detach()
        error = (image - wanted).abs()
        flips = (error if error.ndim == 3 else error.amax(-1)).gt(FLIPPED).float().mean()
        print(f"{name:<12} {error.mean():>12.2e} {error.mean() / wanted.abs().mean():>14.2e} {flips:>15.4%}")
    weighted(expected, weight).backward()
    weighted(found, {name: value.cuda() for name, value in weight.items()}).backward()
    for name in FIELDS:
        wanted, got = getattr(ours, name).grad, getattr(theirs, name).grad.cpu()
        error = (got - wanted).abs()
        print(f"d {name:<10} {error.mean():>12.2e} {error.mean() / wanted.abs().mean():>14.2e}")


def time_step(count: int, packed: bool, repeats: int) -> None:
    """Print the milliseconds of one forward and backward pass, and the peak memory."""
    width, height = 640, 480
    viewmats, Ks = (tensor.cuda() for tensor in cameras(width, height))
    gaussians = leaves(room(count).to("cuda"))
    weight = weights(width, height, {"colors": 3, "depths": 0, "features": 32, "alphas": 0})
    weight = {name: value.cuda() for name, value in weight.items()}
    torch.cuda.reset_peak_memory_stats()
    spent = []
    for step in range(repeats + 2):
        start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        start.record()
        loss = weighted(gsplat_backend.rasterize(gaussians, viewmats, Ks, width, height, None, packed=packed), weight)
        middle.record()
        loss.backward()
        end.record()
        torch.cuda.synchronize()
        if step >= 2:  # the first ones fill caches
            spent.append((start.elapsed_time(middle), middle.elapsed_time(end)))
    forward, backward = (statistics.median(part) for part in zip(*spent, strict=True))
    memory = torch.cuda.max_memory_allocated() / 1e6
    kind = "packed" if packed else "not packed"
    print(f"{count:>8,} {kind:<12} forward {forward:7.1f} ms   backward {backward:7.1f} ms   peak {memory:7.0f} MB")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--sizes", default="60000,200000", help="numbers of Gaussians to time")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("No CUDA GPU: gsplat cannot be compared here.", file=sys.stderr)
        return 2
    try:
        gsplat_backend.load()
    except GcbenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, gsplat {gsplat_backend.VERSION}")
    for packed in (False, True):
        compare(packed)
    print()
    for count in (int(size) for size in options.sizes.split(",")):
        for packed in (False, True):
            time_step(count, packed, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
