"""Sparse 3-D convolution on the CPU: right, the same at every call, and for any number of threads.

spconv's own CPU kernel lets its threads overwrite each other, so with more than one thread it returns wrong rows. For
CPU tensors only its modules, its weights and its rulebook are used; the product,

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gcbench.errors import InputError, require
from gcbench.models import sparse_cpu_kernels as kernels
from gcbench.structures import Int32Array, Int64Array

_BLOCK_ROWS, _MIN_BLOCK_ROWS, _WANTED_BLOCKS = 1024, 64, 32  # a block's rows fit the cache; few rows: smaller blocks
_SERIAL_WORK = 2_000_000  # multiply-adds below which a second thread costs more than it brings
_SHARES = 8  # pieces of work per thread, so that a late thread does not hold up the rest


@dataclass(frozen=True)
class PairGroups:
    """The pairs of a rulebook, ordered by block of target rows, then by kernel offset.

    Attributes:
        source: [P] int32, the row that is read.
        target: [P] int32, the row that is added to.
        starts: [blocks * K + 1] int64; group b * K + k is ``starts[b * K + k] : starts[b * K + k + 1]``.
        rows: number of target rows.
        block: target rows of a block.
        offsets: K.
        mirrored: the pairs of offset k belong to the weight K - 1 - k.
    """

    source: Int32Array
    target: Int32Array
    starts: Int64Array
    rows: int
    block: int
    offsets: int
    mirrored: bool = False

    @property
    def blocks(self) -> int:
        return -(-self.rows // self.block)


@dataclass(frozen=True)
class Rulebook:
    """Which input voxel meets which output voxel under which kernel offset, for one convolution's geometry.

    Attributes:
        to_output: pairs from input rows to output rows; `to_input` the other way.
        in_indices: [N, 4] int32, (batch, z, y, x) in spconv's words; `out_indices` [M, 4].
        in_shape, out_shape: the two spatial shapes.
        geometry: kernel size and dilation, which layers sharing an `indice_key` must have in common.
    """

    to_output: PairGroups
    to_input: PairGroups
    in_indices: Tensor
    out_indices: Tensor
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    geometry: tuple[tuple[int, ...], tuple[int, ...]]


def convolve(conv: nn.Module, x: Any) -> Any:
    """Apply a module of `spconv.pytorch` (SubMConv3d, SparseConv3d or SparseInverseConv3d) to a SparseConvTensor.

    A 1x1 convolution reads its weight's memory as [C, D] although its shape is [D, 1, 1, 1, C]: so does spconv on
    every device, and so do all released weights.

    Args:
        conv: the module; its weight is [D, kz, ky, kx, C].
        x: SparseConvTensor with features [N, C]; float32 or float64 (anything else is widened to float32).

    Returns:
        SparseConvTensor with features [M, D].

    Raises:
        InputError: a transposed or fused module, or an `indice_key` that another geometry owns.
    """
    if x.features.device.type != "cpu":
        return conv(x)
    module: Any = conv
    if module.transposed or module.act_type.name != "None_":
        raise InputError(f"{conv} is not supported on the CPU.", "Use SubMConv3d, SparseConv3d or SparseInverseConv3d.")
    dtype = torch.promote_types(torch.promote_types(x.features.dtype, module.weight.dtype), torch.float32)
    weight = module.weight.to(dtype)
    if module.conv1x1:
        weight = weight.reshape(module.in_channels, 1, module.out_channels).permute(2, 1, 0)
    else:
        weight = weight.reshape(module.out_channels, -1, module.in_channels)
    book = _rulebook(module, x)
    forward, backward = book.to_output, book.to_input
    indices, shape = book.out_indices, book.out_shape
    if module.inverse:
        forward, backward, indices, shape = backward, forward, book.in_indices, book.in_shape
    features = _Convolution.apply(x.features.to(dtype), weight, forward, backward)  # type: ignore[no-untyped-call]
    out = x.replace_feature(features if module.bias is None else features + module.bias)
    out.indices, out.spatial_shape = indices, list(shape)
    if module.indice_key is not None:
        out.indice_dict = {**x.indice_dict, module.indice_key: book}
    return out


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


def _rulebook(conv: Any, x: Any) -> Rulebook:
    """The rulebook of a layer: the one kept under its `indice_key`, else a new one."""
    geometry = tuple(conv.kernel_size), tuple(conv.dilation)
    if conv.conv1x1:
        pairs = np.arange(len(x.indices), dtype=np.int32)[None]
        groups = _group(pairs, pairs, np.array([pairs.size], dtype=np.int32), pairs.size)
        shape = tuple(x.spatial_shape)
        return Rulebook(groups, groups, x.indices, x.indices, shape, shape, geometry)
    book = x.indice_dict.get(conv.indice_key) if conv.indice_key is not None else None
    if book is None and not conv.inverse:
        return _new_rulebook(conv, x)
    if book is None:
        raise InputError(f"No layer before this inverse convolution has its indice_key '{conv.indice_key}'.")
    expected = (book.out_shape, len(book.out_indices)) if conv.inverse else (book.in_shape, len(book.in_indices))
    reusable = conv.subm == book.to_input.mirrored and (conv.subm or conv.inverse)
    if not reusable or book.geometry != geometry or expected != (tuple(x.spatial_shape), len(x.indices)):
        raise InputError(f"The indice_key '{conv.indice_key}' already belongs to a layer of another geometry.")
    return book  # type: ignore[no-any-return]


def _new_rulebook(conv: Any, x: Any) -> Rulebook:
    ops = require("spconv.pytorch.ops", "cpu", "sparse convolution")
    algo = require("spconv.core", "cpu", "sparse convolution").ConvAlgo.Native
    if conv.subm and any(size % 2 == 0 for size in conv.kernel_size):
        raise InputError(f"A submanifold kernel of size {conv.kernel_size} has no centre.", "Use odd sizes.")
    in_shape = tuple(x.spatial_shape)
    out_shape = in_shape
    if not conv.subm:
        out_shape = tuple(
            ops.get_conv_output_size(in_shape, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        )
    out_indices, pairs, counts = ops.get_indice_pairs(
        x.indices.contiguous(), x.batch_size, list(in_shape), algo, conv.kernel_size, conv.stride, conv.padding,
        conv.dilation, conv.output_padding, conv.subm, False,
    )  # fmt: skip
    source, target, counts = pairs[0].numpy(), pairs[1].numpy(), counts.numpy()
    to_output = _group(source, target, counts, len(out_indices), conv.subm)
    to_input = replace(to_output, mirrored=True) if conv.subm else _group(target, source, counts, len(x.indices))
    geometry = tuple(conv.kernel_size), tuple(conv.dilation)
    return Rulebook(to_output, to_input, x.indices, out_indices, in_shape, out_shape, geometry)


def _group(
    source: Int32Array, target: Int32Array, counts: Int32Array, rows: int, submanifold: bool = False
) -> PairGroups:
    """Group the pairs of a rulebook; source and target [K, >= counts], counts [K]; see `kernels.group_pairs`."""
    block = min(_BLOCK_ROWS, max(_MIN_BLOCK_ROWS, -(-rows // _WANTED_BLOCKS)))
    grouped_source, grouped_target, starts = kernels.group_pairs(source, target, counts, rows, block, submanifold)
    return PairGroups(grouped_source, grouped_target, starts, rows, block, len(counts))


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
