"""The fast splatting engine for the CPU: one pass for all channels, forward and backward in numba kernels.

Forward: project every Gaussian into every view, sort each view by depth, list the splats of each tile of 16 x 16
pixels, blend tile by tile. Backward: tile by tile one row of gradients per entry that was blended, then sum the rows of
each Gaussian and lead the sums back through the projection.

No two threads write to the same number, and every sum has one order, so results are equal to the last bit from run to
run and for any number of threads. `reference.py` is the readable twin.

Shape legend
    G  Gaussians      V  views      H, W  pixels      F  feature channels      E  entries, R  rows: see `cpu_projection`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gcbench.splatting import cpu_blending as blending
from gcbench.splatting import cpu_projection as projection
from gcbench.splatting.interface import RenderedViews
from gcbench.structures import Gaussians

_SHARES = 8  # pieces of work per thread, so that a late thread does not hold up the rest
_SERIAL_GAUSSIANS, _SERIAL_ENTRIES = 4096, 2048  # below these a second thread costs more than it brings
_CELLS = np.stack([np.arange(16) % 4, np.arange(16) // 4])


def rasterize(
    gaussians: Gaussians, viewmats: Tensor, Ks: Tensor, width: int, height: int, background: Tensor | None
) -> RenderedViews:
    """Render as `interface.render` says; the inputs have been checked there, and are float32 or float64 alike."""
    dtype = gaussians.means.dtype
    number = np.float64 if dtype == torch.float64 else np.float32
    poses, lenses = (camera.detach().cpu().double().numpy() for camera in (viewmats, Ks))
    cameras = projection.cameras(poses, lenses, width, height)
    colors, depths, features, transmittance = _Rendering.apply(  # type: ignore[no-untyped-call]
        *(getattr(gaussians, name) for name in gaussians.__dataclass_fields__), cameras.astype(number), width, height
    )
    if background is not None:
        colors = colors + transmittance[..., None] * background.to(dtype)
    return RenderedViews(colors, depths, features, 1.0 - transmittance)


class _Rendering(torch.autograd.Function):
    """The six fields of Gaussians -> colours [V, H, W, 3], depths [V, H, W], features [V, H, W, F], transmittance."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *fields, cameras, width, height = arguments
        values = [field.detach().contiguous().numpy() for field in fields]
        tiles = -(-width // projection.TILE), -(-height // projection.TILE)
        splats, channels, starts, ends, entries = _list(values, cameras, tiles)
        V, F, number = len(cameras), values[5].shape[1], cameras.dtype
        images = [np.empty((V, height, width, *last), number) for last in ((3,), (), (F,), ())]
        hits = np.zeros(len(entries), np.uint16)
        cells = _CELLS.astype(number).reshape(-1)

        def run(first: int, last: int) -> None:
            blending.blend(
                first, last, *tiles, starts, ends, entries, splats.reshape(-1), channels, cells + number.type(0.5),
                cells, hits, *images,
            )  # fmt: skip

        _in_threads(run, _balanced(starts))
        outputs = tuple(torch.from_numpy(image) for image in images)
        ctx.save_for_backward(*fields)
        ctx.state = cameras, tiles, splats, channels, starts, ends, entries, hits, cells
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cameras, tiles, splats, channels, starts, ends, entries, hits, cells = ctx.state
        values = [tensor.detach().contiguous().numpy() for tensor in ctx.saved_tensors]
        images = [grad.detach().contiguous().numpy() for grad in grads]
        row_starts = np.concatenate(([0], np.cumsum(hits != 0)))[starts]
        R = row_starts[-1]
        table, row_gaussian = np.empty((R, channels.shape[1] + 8), splats.dtype), np.empty(R, np.int32)

        def run(first: int, last: int) -> None:
            blending.blend_backward(
                first, last, *tiles, starts, ends, entries, hits, row_starts, splats.reshape(-1), channels,
                cells + splats.dtype.type(0.5), *images, table, row_gaussian,
            )  # fmt: skip

        _in_threads(run, _balanced(row_starts))
        G = len(values[0])
        row_ends = np.concatenate(([0], np.cumsum(np.bincount(row_gaussian, minlength=G))))
        group_starts, rows = row_ends.copy(), np.empty(R, np.int64)
        projection.sort_rows(0, R, row_gaussian, row_ends, rows)
        view_rows = row_starts[:: tiles[0] * tiles[1]].copy()
        gradients = [np.empty_like(value) for value in values]

        def lead_back(first: int, last: int) -> None:
            projection.project_backward(
                first, last, *values[:3], cameras, splats, table, view_rows, rows, group_starts, *gradients
            )

        _in_threads(lead_back, _even(G, _SERIAL_GAUSSIANS))
        return *(torch.from_numpy(gradient) for gradient in gradients), None, None, None


def _list(values: list[Any], cameras: Any, tiles: tuple[int, int]) -> tuple[Any, ...]:
    """Splats [V, G, 8], channels [G, ...], starts [tiles + 1] and ends [tiles] of the entries, and these [E]."""
    V, G, number = len(cameras), len(values[0]), cameras.dtype
    splats, boxes = np.empty((V, G, projection.SPLAT), number), np.empty((V, G, 4), np.int32)
    channels = np.zeros((G, -(-(4 + values[5].shape[1]) // 16) * 16), number)

    def project(first: int, last: int) -> None:
        projection.project(first, last, *values, cameras, *tiles, splats, boxes, channels)

    _in_threads(project, _even(G, _SERIAL_GAUSSIANS))
    order, sorted_boxes, counts = np.empty((V, G), np.int32), np.empty_like(boxes), np.empty(V, np.int64)
    changes = np.zeros((V, tiles[1] + 1, tiles[0] + 1), np.int64)
    depth_bits = splats.view(np.uint64 if number.itemsize == 8 else np.uint32)

    def sort(first: int, last: int) -> None:
        projection.sort_by_depth(first, last, depth_bits, boxes, order, sorted_boxes, counts, changes)

    _in_threads(sort, _even(V, V if V * G < _SERIAL_GAUSSIANS else 1))
    room = changes.cumsum(1).cumsum(2)[:, :-1, :-1].reshape(-1)  # at least the entries of each tile
    starts = np.concatenate(([0], np.cumsum(room)))
    ends, entries = starts[:-1].copy(), np.empty(starts[-1], np.int32)
    cells, bands = _CELLS.astype(number).reshape(-1), V * -(-tiles[1] // 4)

    def fill(first: int, last: int) -> None:
        projection.list_tiles(
            first, last, splats.reshape(-1), sorted_boxes, order, counts, cells, *tiles, ends, entries
        )

    _in_threads(fill, _even(bands, bands if V * G < _SERIAL_GAUSSIANS else 1))
    return splats, channels, starts, ends, entries


def _even(count: int, least: int) -> list[int]:
    """Bounds of equal pieces of 0 .. count, of `least` or more each."""
    pieces = max(1, min(count // max(least, 1), _SHARES * torch.get_num_threads()))
    return [count * i // pieces for i in range(pieces + 1)]


def _balanced(starts: Any) -> list[int]:
    """Bounds of pieces of the tiles with about as many entries each."""
    threads = torch.get_num_threads()
    pieces = 1 if threads == 1 or starts[-1] < _SERIAL_ENTRIES else _SHARES * threads
    inner = np.searchsorted(starts, starts[-1] * np.arange(1, pieces) // pieces)
    return [0, *(int(bound) for bound in inner), len(starts) - 1]


def _in_threads(run: Callable[[int, int], None], bounds: list[int]) -> None:
    """Call ``run(first, last)`` on the pieces between `bounds`, in as many threads as torch uses."""
    pieces = [(first, last) for first, last in pairwise(bounds) if first < last]
    threads = min(torch.get_num_threads(), len(pieces))
    if threads <= 1:
        run(bounds[0], bounds[-1])
        return
    left = iter(pieces)  # shared: `next` on it is atomic

    def worker(left: Iterator[tuple[int, int]]) -> None:
        for first, last in left:
            run(first, last)

    helpers = [_pool(os.getpid(), threads - 1).submit(worker, left) for _ in range(threads - 1)]
    try:
        worker(left)
    finally:
        for helper in helpers:
            helper.result()


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The helper threads; a forked process has none of its parent's, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gcbench-splatting")
