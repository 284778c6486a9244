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
from collections.abc import Callable
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
from gcbench.splatting.cpu_vectors import LANES
from gcbench.splatting.interface import RenderedViews
from gcbench.structures import Gaussians

_SHARES = 8  # pieces of work per thread, so that a late thread does not hold up the rest
_SERIAL_SPLATS, _SERIAL_ENTRIES = 8192, 2048  # below these a second thread costs more than it brings
_CELLS = np.stack([np.arange(LANES) % 4, np.arange(LANES) // 4])  # x and y of 4 x 4 pixels
_LOW = (1 << 32) - 1


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
        V, F, number = len(cameras), values[5].shape[1], cameras.dtype
        tiles, cells = (-(-width // projection.TILE), -(-height // projection.TILE)), _CELLS.astype(number)
        splats, channels, starts, entries = _list(values, cameras, tiles, cells)
        images = [np.empty((V, height, width, *last), number) for last in ((3,), (), (F,), ())]
        hits = np.zeros(len(entries), np.uint16)
        blended = *tiles, starts, entries, splats, channels, cells, hits
        _in_threads(blending.blend, starts, _SERIAL_ENTRIES, *blended, *images)
        ctx.save_for_backward(*fields)
        ctx.state = cameras, blended
        return tuple(torch.from_numpy(image) for image in images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cameras, blended = ctx.state
        _, _, starts, _, splats, channels, _, hits = blended
        values = [tensor.detach().contiguous().numpy() for tensor in ctx.saved_tensors]
        images = [grad.detach().contiguous().numpy() for grad in grads]
        row_starts = _starts(hits != 0)[starts]
        R, S = row_starts[-1], len(splats)
        table, row_keys = np.empty((R, channels.shape[1]), splats.dtype), np.empty(R, np.int32)
        _in_threads(
            blending.blend_backward, row_starts, _SERIAL_ENTRIES, *blended, *images, row_starts, table, row_keys
        )
        rows, group_starts = np.empty(R, np.int64), _starts(np.bincount(row_keys, minlength=S))
        projection.group_rows(row_keys, group_starts.copy(), rows)
        gradients = [np.zeros_like(value) for value in values]
        projected = *values[:3], cameras, splats, table, rows, group_starts
        every = np.arange(len(values[0]) + 1)
        _in_threads(projection.project_backward, every, _SERIAL_SPLATS, *projected, *gradients)
        return *(torch.from_numpy(gradient) for gradient in gradients), None, None, None


def _list(values: list[Any], cameras: Any, tiles: tuple[int, int], cells: Any) -> tuple[Any, ...]:
    """Splats [S, SPLAT], channels [G, ...], starts [tiles + 1] of the entries, and these [E]."""
    V, G, number = len(cameras), len(values[0]), cameras.dtype
    splats, boxes = np.empty((V * G, projection.SPLAT), number), np.empty((V * G, 4), np.int32)
    stride = -(-(4 + values[5].shape[1] + projection.MOMENTS) // LANES) * LANES
    channels = np.zeros((G, stride), number)
    project = *values, cameras, *tiles, splats, boxes, channels
    _in_threads(projection.project, np.arange(G + 1), _SERIAL_SPLATS, *project)
    depths = np.where(boxes[:, 2] > 0, splats[:, projection.DEPTH], np.inf).reshape(V, G)
    order, ranks = _argsort(depths), np.empty(V * G, np.int64)
    ranks[(order + G * np.arange(V)[:, None]).reshape(-1)] = np.arange(V * G)
    rooms = _starts((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    keys = np.full(rooms[-1], np.iinfo(np.int64).max)  # the unused ones come last
    listed = splats, boxes, rooms, ranks, cells, G, *tiles, keys
    _in_threads(projection.list_tiles, np.arange(V * G + 1), _SERIAL_SPLATS, *listed)
    keys.sort()
    starts = np.searchsorted(keys, np.arange(V * tiles[0] * tiles[1] + 1) << 32)
    keys &= _LOW
    return splats, channels, starts, order.reshape(-1)[keys[: starts[-1]]]


def _argsort(values: Any) -> Any:
    """Stable order of positive numbers along the last axis.

    float32 is sorted as integers, which have the same order, together with the places: numpy is faster at that.
    """
    if values.itemsize != 4:
        return np.argsort(values, kind="stable")
    keys = values.view(np.int32).astype(np.int64) << 32 | np.arange(values.shape[-1])
    keys.sort()
    return keys & _LOW


def _starts(counts: Any) -> Any:
    """[0, counts[0], counts[0] + counts[1], ...]."""
    return np.concatenate(([0], np.cumsum(counts)))


def _in_threads(run: Callable[..., None], work: Any, least: int, *arguments: Any) -> None:
    """Call ``run(first, last, *arguments)`` on pieces of n items, in as many threads as torch uses.

    Args:
        run: a kernel.
        work: [n + 1] the items' running sums of work; pieces have about as much of it each.
        least: less work is done in one piece.
        arguments: what `run` gets beside the piece.
    """
    threads = torch.get_num_threads()
    count = _SHARES * threads if threads > 1 and work[-1] >= least else 1
    inner = np.searchsorted(work, work[-1] * np.arange(1, count) // count)
    bounds = [0, *(int(bound) for bound in inner), len(work) - 1]
    pieces = [(first, last) for first, last in pairwise(bounds) if first < last]
    if len(pieces) > 1:
        tasks = [_pool(os.getpid(), threads).submit(run, *piece, *arguments) for piece in pieces]
        for task in tasks:
            task.result()
    elif pieces:
        run(*pieces[0], *arguments)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The threads; a forked process has none of its parent's, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gcbench-splatting")
