"""Rows of all processes in every process, with gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, ...] of all processes one after the other, in each of them; alone, the rows themselves.

    Each process may have another number of rows, or none. A loss of all rows that every process computes in the same
    way has the gradient of that loss after DDP's mean over the processes.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        world, rank = distributed.get_world_size(), distributed.get_rank()
        sizes = rows.new_zeros(world, dtype=torch.int64)
        sizes[rank] = len(rows)
        distributed.all_reduce(sizes)
        counts = sizes.tolist()
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded)
        ctx.world, ctx.first, ctx.count = world, sum(counts[:rank]), len(rows)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # DDP divides by the number of processes what only this one has of its rows
        own: Tensor = gradient[ctx.first : ctx.first + ctx.count] * ctx.world
        return own
