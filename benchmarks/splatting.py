"""Splatting on the CPU: the fast engine beside the readable one, beside the arithmetic it cannot avoid, and by threads.

    python benchmarks/splatting.py [--repeats 7] [--slow-reference]

Prints for each size the medians of forward and forward + backward on one thread; how many times faster that is than
the reference engine in the same run; contributing (pixel, splat) pairs per second; how far it is from the floor, which
is C multiply-adds forward and 3 C in all for every pixel of a 4 x 4 block with a contributing pair, at the speed of the
engine's own matrix product in the first-level cache; and what a second thread brings. C = 20: colour, depth, 16
features.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np
import torch
from torch import Tensor

from gcbench.splatting import cpu_vectors, interface, reference, render
from gcbench.structures import Gaussians

# Width, height, Gaussians, views, pixels of a standard deviation; the last is what the pre-training of a room renders.
SIZES = ((64, 48, 2_000, 5, 16), (160, 120, 20_000, 5, 16), (640, 480, 60_000, 1, 16), (80, 60, 12_000, 3, 32))
SIGMA = 3.0  # pixels of a standard deviation, in the middle: a few, as where Gaussians stand for voxels
QUICK_REFERENCE = 100e6  # pixels times views times Gaussians up to which the reference takes seconds


def scene(width: int, height: int, count: int, views: int, features: int) -> tuple[Gaussians, Tensor, Tensor]:
    """A box full of Gaussians about three units from cameras on a circle around it."""
    draw = torch.Generator().manual_seed(0)
    means = (torch.rand(count, 3, generator=draw) - 0.5) * torch.tensor([2.4, 1.8, 2.4])
    scales = SIGMA * 3.0 / width * (0.5 + torch.rand(count, 3, generator=draw))
    opacities, colors = 0.05 + 0.9 * torch.rand(count, generator=draw), torch.rand(count, 3, generator=draw)
    quats, extra = torch.randn(count, 4, generator=draw), torch.randn(count, features, generator=draw)
    fields = (means, quats, scales, opacities, colors, extra)
    gaussians = Gaussians(*(field.requires_grad_() for field in fields))
    turn = torch.arange(views) * (2 * torch.pi / views)
    viewmats = torch.eye(4).repeat(views, 1, 1)
    viewmats[:, 0, 0], viewmats[:, 0, 2] = turn.cos(), turn.sin()
    viewmats[:, 2, 0], viewmats[:, 2, 2], viewmats[:, 2, 3] = -turn.sin(), turn.cos(), 3.0
    K = torch.tensor([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], dtype=torch.float32)
    return gaussians, viewmats, K.repeat(views, 1, 1)


def seconds(backend: interface.Backend, inputs: tuple[Gaussians, Tensor, Tensor], size: tuple[int, int]) -> list[float]:
    """Forward, and forward + backward."""
    start = time.perf_counter()
    rendered = render(*inputs, *size, backend=backend)
    forward = time.perf_counter() - start
    outputs = [rendered.colors, rendered.depths, rendered.features, rendered.alphas]
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return [forward, time.perf_counter() - start]


def medians(runs: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*runs, strict=True)]


def pairs(inputs: tuple[Gaussians, Tensor, Tensor], size: tuple[int, int]) -> tuple[int, int]:
    """Contributing (pixel, splat) pairs, and (4 x 4 block, splat) combinations with any, by the reference engine."""
    gaussians, viewmats, Ks = inputs
    contributing = blocks = 0
    corner = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="xy"), dim=2).view(-1, 2) + 0.5
    block = (corner // 4 @ torch.tensor([1.0, 4.0])).long()  # of each pixel of a tile of 16 x 16
    for viewmat, K in zip(viewmats, Ks, strict=True):
        splats = reference.project(gaussians, viewmat, K, *size)
        reach = interface.MAX_SIGMAS * torch.diagonal(splats.covariances, dim1=1, dim2=2).sqrt()
        for left, top in itertools.product(range(0, size[0], 16), range(0, size[1], 16)):
            start = torch.tensor([left, top])
            near = ((splats.centers + reach > start) & (splats.centers - reach < start + 16)).all(dim=1)
            pixels = corner + start
            inside = (pixels < torch.tensor(size)).all(dim=1)
            seen = reference.blending_weights(splats.take(near), pixels[inside]) > 0
            contributing += int(seen.sum())
            blocks += int(torch.zeros(16, seen.shape[1]).index_add_(0, block[inside], seen.float()).count_nonzero())
    return contributing, blocks


@cpu_vectors.helper
def _multiply(a, rows, steps, b, out, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        cpu_vectors.add_products(a, rows, steps, b, 0, len(steps), out, rows, len(rows), 2)


def multiply_adds_per_second() -> float:
    a, b, out = np.ones(8 * 64, np.float32), np.ones(64, np.float32), np.zeros(8 * 64, np.float32)
    rows, steps, best = np.arange(8) * 64, np.zeros(512, np.int64), 0.0
    for times in (1, *[200] * 20):
        start = time.perf_counter()
        _multiply(a, rows, steps, b, out, times)
        best = max(best, times * len(steps) * 8 * 32 / (time.perf_counter() - start))
    return best


def compare(width: int, height: int, count: int, views: int, features: int, repeats: int, slow: bool) -> None:
    inputs, size, channels = scene(width, height, count, views, features), (width, height), 4 + features
    with_reference = slow or width * height * views * count <= QUICK_REFERENCE
    seconds("cpu", inputs, size)
    ours: dict[int, list[list[float]]] = {1: [], 2: []}
    theirs = []
    for repeat in range(repeats):
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours[threads].append(seconds("cpu", inputs, size))
        torch.set_num_threads(1)
        if with_reference and repeat < 3:
            theirs.append(seconds("reference", inputs, size))
    one, two = medians(ours[1]), medians(ours[2])
    print(f"{width} x {height}, {count} Gaussians, {views} views, C = {channels}")
    print(f"  forward {1e3 * one[0]:7.2f} ms, forward + backward {1e3 * one[1]:7.2f} ms")
    if theirs:
        slower = medians(theirs)
        print(f"  reference {1e3 * slower[0]:.0f} and {1e3 * slower[1]:.0f} ms: ", end="")
        print(f"{slower[0] / one[0]:.0f} and {slower[1] / one[1]:.0f} times ours")
    with torch.no_grad():
        contributing, blocks = pairs(inputs, size)
    floor = 16 * blocks * channels / multiply_adds_per_second()
    print(f"  {contributing / 1e6:.2f} M pairs in {100 * contributing / (16 * blocks):.0f} % of their blocks: ", end="")
    print(f"{contributing / one[0] / 1e6:.0f} and {contributing / one[1] / 1e6:.0f} M/s; ", end="")
    print(f"{one[0] / floor:.1f} and {one[1] / (3 * floor):.1f} times the floor")
    print(f"  2 threads: {one[0] / two[0]:.2f} and {one[1] / two[1]:.2f} times as fast as 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--slow-reference", action="store_true", help="run the reference at every size")
    arguments = parser.parse_args()
    for size in SIZES:
        compare(*size, arguments.repeats, arguments.slow_reference)
    print(f"multiply-adds: {multiply_adds_per_second() / 1e9:.0f} G/s on one thread")


if __name__ == "__main__":
    main()
