"""Batch norm over the batches of all processes.

torch has it for GPUs only; on the CPU it is ours, with the same statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Step:
    running = False


@contextmanager
def synchronised() -> Iterator[None]:
    """Around what all processes do together: outside, every norm is an ordinary one, as when one process evaluates."""
    _Step.running = distributed.is_initialized() and distributed.get_world_size() > 1
    try:
        yield
    finally:
        _Step.running = False


def synchronise(model: nn.Module) -> None:
    """Let every batch norm of a model that is in training mode take its statistics from all processes; in place.

    Only within `synchronised()`. Parameters, buffers and their names stay. A norm that says `per_scene = True` takes
    its statistics from one scene at a time, so there is nothing to put together.
    """
    for module in model.modules():
        if getattr(module, "per_scene", False):
            continue
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            module.__class__ = _synchronised(type(module))


def _synchronised(kind: type[_BatchNorm]) -> type[_BatchNorm]:
    """A subclass of a kind of batch norm whose statistics are those of all processes."""
    if issubclass(kind, _Synchronised):
        return kind
    return type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})


class _Synchronised(_BatchNorm):
    def forward(self, values: Tensor) -> Tensor:
        """As batch norm does, with the mean and the variance of the rows of all processes."""
        if not (self.training and _Step.running):
            return super().forward(values)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        mean, variance, count = _Moments.apply(values)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)
        shape = [1, -1] + [1] * (values.ndim - 2)
        normal = (values.float() - mean.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))
        result: Tensor = normal.to(values)
        return result


class _Moments(torch.autograd.Function):
    """Mean [C], biased variance [C] and number of rows over all processes, of an input [N, C, ...].

    The gradient of a mean over all processes reaches each row once, summed over what all processes did with it.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = values.transpose(0, 1).flatten(1).float()  # [C, N ...]
        sums = torch.cat([rows.sum(1), rows.new_tensor([rows.shape[1]])])
        distributed.all_reduce(sums)
        count = sums[-1]
        mean = sums[:-1] / count.clamp(min=1)
        squares = (rows - mean[:, None]).square().sum(1)  # a second round, for no difference of large numbers
        distributed.all_reduce(squares)
        variance = squares / count.clamp(min=1)
        ctx.save_for_backward(values, mean, count)
        ctx.mark_non_differentiable(count)
        return mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor, grad_count: Tensor) -> Tensor:
        values, mean, count = ctx.saved_tensors
        gradients = torch.cat([grad_mean, grad_variance])
        distributed.all_reduce(gradients)
        by_mean, by_variance = gradients.chunk(2)
        shape = [1, -1] + [1] * (values.ndim - 2)
        centred = values.float() - mean.view(shape)
        result = (by_mean.view(shape) + 2.0 * by_variance.view(shape) * centred) / count.clamp(min=1)
        gradient: Tensor = result.to(values)
        return gradient
