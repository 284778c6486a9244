"""Sparse 3-D convolution on the CPU: right, the same at every call, and for any number of threads.

spconv's own CPU kernel lets its threads overwrite each other, so with more than one thread it returns wrong rows. For
CPU tensors only its modules and weights are used; the pairs are found in `sparse_rulebook`, and the product,

    out[o] = sum over kernel offsets k, over the pairs (i, o) of k, of W[k] x[i]

and its two gradients are done here. Pairs are grouped by block of target rows, then by offset. One thread owns one
block, so it adds to rows that no other thread writes, in an order that does not depend on the number of threads. The
weight gradient is split by offset in the same spirit. So outputs and gradients are equal to the last bit from run to
run and for any number of threads. `convolve_reference` is the slow, readable twin of the fast path.

Tensors on another device go through spconv's own modules untouched.

Shape legend
    N, M  input, output voxels     C, D  input, output channels     K  kernel offsets     P  pairs of the rulebook
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gcbench.errors import InputError
from gcbench.models import sparse_cpu_kernels as kernels
from gcbench.models.sparse_rulebook import PairGroups, grid_pairs, rulebook_of

_SERIAL_WORK = 2_000_000  # multiply-adds below which a second thread costs more than it brings
_SHARES = 8  # pieces of work per thread, so that a late thread does not hold up the rest


def convolve(conv: nn.Module, x: Any) -> Any:
    """Apply a module of `spconv.pytorch` (SubMConv3d, SparseConv3d or SparseInverseConv3d) to a SparseConvTensor.

    A 1x1 convolution reads its weight's memory as [C, D] although its shape is [D, 1, 1, 1, C]: so does spconv on
    every device, and so do all released weights.

    Under autocast on the CPU, features, weights and the result are rounded to its type; products are summed in float32.
    On CUDA spconv computes in float16 under any autocast. Gradients only survive that with a scaler, which bfloat16
    goes without, so under bfloat16 its convolutions compute in float32.

    Args:
        conv: the module; its weight is [D, kz, ky, kx, C].
        x: SparseConvTensor with features [N, C]; float32 or float64 (anything else is widened to float32).

    Returns:
        SparseConvTensor with features [M, D].

    Raises:
        InputError: a transposed or fused module, or an `indice_key` that another geometry owns.
    """
    device = x.features.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device != "cpu":
        if low != torch.bfloat16:
            return conv(x)
        with torch.autocast(device, enabled=False):
            return conv(x.replace_feature(x.features.float()))
    module: Any = conv
    if module.transposed or module.act_type.name != "None_":
        raise InputError(f"{conv} is not supported on the CPU.", "Use SubMConv3d, SparseConv3d or SparseInverseConv3d.")
    values, weight = x.features, module.weight
    dtype = torch.promote_types(torch.promote_types(values.dtype, weight.dtype), torch.float32)
    if low is not None:
        values, weight = values.to(low), weight.to(low)
    weight = weight.to(dtype)
    if module.conv1x1:
        weight = weight.reshape(module.in_channels, 1, module.out_channels).permute(2, 1, 0)
    else:
        weight = weight.reshape(module.out_channels, -1, module.in_channels)
    book = rulebook_of(module, x)
    forward, backward = book.to_output, book.to_input
    indices, shape = book.out_indices, book.out_shape
    if module.inverse:
        forward, backward, indices, shape = backward, forward, book.in_indices, book.in_shape
    features = _Convolution.apply(values.to(dtype), weight, forward, backward)  # type: ignore[no-untyped-call]
    if module.bias is not None:
        features = features + module.bias
    out = x.replace_feature(features if low is None else features.to(low))
    out.indices, out.spatial_shape = indices, list(shape)
    if module.indice_key is not None:
        out.indice_dict = {**x.indice_dict, module.indice_key: book}
    return out


def convolve_occupied(features: Tensor, cells: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:
    """`conv3d` with centred zero padding of a grid that is zero but for few cells, at the cost of those cells.

    Args:
        features: [N, C], on the CPU; float32 or float64 (anything else is widened to float32).
        cells: [N] int64, numbers of different cells, the last axis fastest.
        shape: the grid (x, y, z).
        weight: [D, C, kx, ky, kz], odd sizes.

    Returns:
        [x * y * z, D], every cell of the grid.
    """
    dtype = torch.promote_types(torch.promote_types(features.dtype, weight.dtype), torch.float32)
    forward, backward = grid_pairs(cells.numpy(), shape, weight.shape[2:])
    by_offset = weight.to(dtype).flatten(2).transpose(1, 2)
    result: Tensor = _Convolution.apply(features.to(dtype), by_offset, forward, backward)  # type: ignore[no-untyped-call]
    return result


def convolve_reference(x: Tensor, weight: Tensor, groups: PairGroups) -> Tensor:
    """The same product in plain torch, one offset after the other.

    Args:
        x: [N, C].
        weight: [D, K, C].
        groups: pairs from the rows of `x` to the rows of the result.

    Returns:
        [M, D].
    """
    out = x.new_zeros(groups.rows, len(weight))
    offset_of_group = torch.arange(len(groups.starts) - 1) % groups.offsets
    offset_of_pair = offset_of_group.repeat_interleave(torch.from_numpy(np.diff(groups.starts)))
    for k in range(groups.offsets):
        of_k = offset_of_pair == k
        source, target = torch.from_numpy(groups.source)[of_k].long(), torch.from_numpy(groups.target)[of_k].long()
        out = out.index_add(0, target, x[source] @ weight[:, groups.offsets - 1 - k if groups.mirrored else k].T)
    return out


class _Convolution(torch.autograd.Function):
    """x [N, C], weight [D, K, C] -> [M, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, forward: PairGroups, backward: PairGroups) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = forward, backward
        return _gather(x, weight.permute(1, 2, 0), forward)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        forward, backward = ctx.groups
        grad_x = _gather(grad, weight.transpose(0, 1), backward) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(x, grad, forward) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, None, None


def _gather(x: Tensor, weight: Tensor, groups: PairGroups) -> Tensor:
    """Sum of ``x[source] @ weight[k]`` into the target rows; x [N, C], weight [K, C, D], result [M, D]."""
    C, D = weight.shape[1:]
    lanes = kernels.lanes(_numpy_dtype(x))
    if D % lanes or weight.stride(2) != 1:
        weight = functional.pad(weight, (0, -D % lanes)).contiguous()
    out = x.new_empty(groups.rows, D + -D % lanes)
    source, target, starts = groups.source, groups.target, groups.starts
    x_array, out_array = x.detach().contiguous().numpy(), out.numpy()
    flat = weight.detach().as_strided((weight.untyped_storage().nbytes() // weight.element_size(),), (1,), 0).numpy()
    first_weight, offset_step, row_step = weight.storage_offset(), weight.stride(0), weight.stride(1)
    if groups.mirrored:
        first_weight, offset_step = first_weight + (groups.offsets - 1) * offset_step, -offset_step

    def add_blocks(first: int, last: int) -> None:
        kernels.gather_products(
            x_array, source, target, starts, flat, first_weight, offset_step, row_step, out_array,
            groups.block, groups.offsets, first, last, lanes,
        )  # fmt: skip

    _in_threads(add_blocks, groups.blocks, len(source) * C * D)
    return out[:, :D].contiguous()


def _weight_gradient(x: Tensor, grad: Tensor, groups: PairGroups) -> Tensor:
    """Sum over the pairs of outer(grad[target], x[source]); x [N, C], grad [M, D], result [D, K, C]."""
    C, D = x.shape[1], grad.shape[1]
    lanes = kernels.lanes(_numpy_dtype(x))
    out = x.new_empty(D, groups.offsets, C + -C % lanes)
    source, target, starts = groups.source, groups.target, groups.starts
    x_array, grad_array, out_array = x.contiguous().numpy(), grad.contiguous().numpy(), out.numpy()

    def add_offsets(first: int, last: int) -> None:
        for k in range(first, last):
            kernels.weight_gradient(x_array, grad_array, source, target, starts, out_array, k, lanes)

    _in_threads(add_offsets, groups.offsets, len(source) * C * D)
    return out[..., :C].contiguous()


def _numpy_dtype(x: Tensor) -> type[np.float32] | type[np.float64]:
    return np.float64 if x.dtype == torch.float64 else np.float32


def _in_threads(run: Callable[[int, int], None], count: int, work: int) -> None:
    """Call ``run(first, last)`` on pieces of 0 .. count, in as many threads as torch uses."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1 or work < _SERIAL_WORK:
        run(0, count)
        return
    piece = -(-count // (threads * _SHARES))
    pieces = iter(range(0, count, piece))  # shared: `next` on it is atomic

    def worker(pieces: Iterator[int]) -> None:
        for first in pieces:
            run(first, min(first + piece, count))

    helpers = [_pool(os.getpid(), threads - 1).submit(worker, pieces) for _ in range(threads - 1)]
    try:
        worker(pieces)
    finally:
        for helper in helpers:
            helper.result()


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """The helper threads; a forked process has none of its parent's, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="gcbench-sparse")
