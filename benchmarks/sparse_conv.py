"""Training step of the sparse U-Net on the CPU: ours beside spconv's own kernels, in one run.

    python benchmarks/sparse_conv.py [--threads 2] [--repeats 5] [--shape tiny|paper|all]

spconv's own CPU result is wrong with more than one thread; its time is the bar all the same. Prints the best and the
median of the repeats, the ratio, and where our time goes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gcbench.models import sparse_cpu, sparse_unet
from gcbench.models.sparse_unet import SparseUNet
from gcbench.structures import PointBatch

SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "tiny": (30_000, {"base_channels": 16, "channels": (16, 32, 64, 96, 96, 64, 32, 16), "layers": (2,) * 8}),
    "paper": (80_000, {}),
}
PARTS = {"rulebook_of": "rulebook", "_gather": "forward and input gradient", "_weight_gradient": "weight gradient"}


def room(voxels: int) -> PointBatch:
    """A box room with a slab in it, 2 cm voxels, in random order, of about the given number of voxels."""
    generator = torch.Generator().manual_seed(0)
    scale = (voxels / 30) ** 0.5  # the surfaces below cover about 30 scale^2 cells
    planes = (((4, 0, 0), (0, 3, 0), (0, 0, 0)), ((4, 0, 0), (0, 0, 2), (0, 0, 0)), ((0, 3, 0), (0, 0, 2), (0, 0, 0)))
    planes += (((0, 3, 0), (0.3, 0, 2), (3.7, 0, 0)), ((1, 0.5, 0), (0, 1, 0.2), (1, 1, 0.7)))
    points = []
    for first, second, corner in planes:
        uv = torch.rand(12 * voxels // 2, 2, generator=generator)
        points.append(uv @ torch.tensor([first, second], dtype=torch.float32) + torch.tensor(corner))
    cloud = torch.cat(points) * scale * 0.8
    grid = torch.unique((cloud + 0.2 * torch.randn(cloud.shape, generator=generator)).floor().int(), dim=0)
    grid = grid[torch.randperm(len(grid), generator=generator)][:voxels]
    grid = grid - grid.amin(dim=0)
    feat = torch.randn(len(grid), 6, generator=generator)
    return PointBatch(grid * 0.02, grid, feat, torch.tensor([len(grid)]))


@contextmanager
def spconv_kernels() -> Iterator[None]:
    """Run the U-Net on spconv's own CPU kernels (its backward asks CUDA for a stream unless told not to)."""
    import spconv.pytorch.ops as ops

    ours, stream = sparse_unet.convolve, ops.get_current_stream
    sparse_unet.convolve, ops.get_current_stream = (lambda conv, x: conv(x)), (lambda: 0)  # type: ignore[assignment]
    try:
        yield
    finally:
        sparse_unet.convolve, ops.get_current_stream = ours, stream


@contextmanager
def timed_parts(spent: Counter[str]) -> Iterator[None]:
    """Add up the seconds spent in the parts of `sparse_cpu`."""
    originals = {name: getattr(sparse_cpu, name) for name in PARTS}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - start  # type: ignore[assignment]
            return result

        return call

    for name, function in originals.items():
        setattr(sparse_cpu, name, timed(name, function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(sparse_cpu, name, function)


def step(model: SparseUNet, batch: PointBatch) -> tuple[float, float]:
    """Seconds of one forward and one backward pass."""
    model.zero_grad()
    start = time.perf_counter()
    out = model(batch)
    middle = time.perf_counter()
    out.square().mean().backward()
    return middle - start, time.perf_counter() - middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", choices=(*SHAPES, "all"), default="all")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in SHAPES if options.shape == "all" else [options.shape]:
        voxels, arguments = SHAPES[name]
        batch, model = room(voxels), SparseUNet(**arguments)
        size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        print(f"{name}: {len(batch.feat)} voxels, {size:.1f} M parameters, {options.threads} threads")
        ours: list[tuple[float, float]] = []
        theirs: list[tuple[float, float]] = []
        parts: list[Counter[str]] = []
        step(model, batch)  # compiles
        for _ in range(options.repeats):  # in turn, so that a busy machine disturbs both alike
            parts.append(Counter())
            with timed_parts(parts[-1]):
                ours.append(step(model, batch))
            with spconv_kernels():
                theirs.append(step(model, batch))
        for label, times in (("ours", ours), ("spconv", theirs)):
            forward, backward = min(times, key=sum)
            median = statistics.median(map(sum, times))
            print(
                f"  {label:7}{(forward + backward) * 1e3:7.0f} ms (median {median * 1e3:.0f}):"
                f" forward {forward * 1e3:.0f}, backward {backward * 1e3:.0f}"
            )
        print(f"  spconv / ours: {min(map(sum, theirs)) / min(map(sum, ours)):.2f}")
        fastest = min(range(len(ours)), key=lambda i: sum(ours[i]))
        for part, label in PARTS.items():
            print(f"    {label:28}{parts[fastest][part] * 1e3:6.0f} ms")
        print(f"    {'all else':28}{(sum(ours[fastest]) - sum(parts[fastest].values())) * 1e3:6.0f} ms")


if __name__ == "__main__":
    main()
