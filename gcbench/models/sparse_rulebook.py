"""Rulebooks of sparse convolutions on the CPU: which input voxel meets which output voxel under which kernel offset.

Voxels are numbered by their cell and sorted; a neighbour is found by walking two sorted lists side by side. Output
voxels of a strided convolution come in the order of their cells. All is serial and the same at every call.

Shape legend
    N, M  input, output voxels     K  kernel offsets, the last axis fastest     P  pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcbench.errors import InputError
from gcbench.models import sparse_rulebook_kernels as kernels
from gcbench.structures import Int32Array, Int64Array

_BLOCK_ROWS, _MIN_BLOCK_ROWS, _WANTED_BLOCKS = 1024, 64, 32  # a block's rows fit the cache; few rows: smaller blocks


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
    """The rulebook of one convolution's geometry.

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


def rulebook_of(conv: Any, x: Any) -> Rulebook:
    """The rulebook of a layer of `spconv.pytorch`: the one kept under its `indice_key`, else a new one.

    Args:
        conv: SubMConv3d, SparseConv3d or SparseInverseConv3d.
        x: the layer's input, SparseConvTensor.

    Raises:
        InputError: an `indice_key` that another geometry owns, or an even submanifold kernel.
    """
    geometry = tuple(conv.kernel_size), tuple(conv.dilation)
    if conv.conv1x1:
        pairs = np.arange(len(x.indices), dtype=np.int32)[None]
        groups = _group(pairs, pairs, np.array([pairs.size], dtype=np.int32), pairs.size)
        shape = tuple(x.spatial_shape)
        return Rulebook(groups, groups, x.indices, x.indices, shape, shape, geometry)
    book = x.indice_dict.get(conv.indice_key) if conv.indice_key is not None else None
    if book is None and not conv.inverse:
        return _submanifold(conv, x) if conv.subm else _strided(conv, x)
    if book is None:
        raise InputError(f"No layer before this inverse convolution has its indice_key '{conv.indice_key}'.")
    expected = (book.out_shape, len(book.out_indices)) if conv.inverse else (book.in_shape, len(book.in_indices))
    reusable = conv.subm == book.to_input.mirrored and (conv.subm or conv.inverse)
    if not reusable or book.geometry != geometry or expected != (tuple(x.spatial_shape), len(x.indices)):
        raise InputError(f"The indice_key '{conv.indice_key}' already belongs to a layer of another geometry.")
    return book  # type: ignore[no-any-return]


def grid_pairs(cells: Int64Array, shape: Sequence[int], kernel: Sequence[int]) -> tuple[PairGroups, PairGroups]:
    """Pairs between few occupied cells and all cells of a grid, under a centred kernel that ends at the grid's border.

    Args:
        cells: [N], flat numbers of different cells, the last axis fastest.
        shape: the grid.
        kernel: odd sizes.

    Returns:
        pairs from the N cells to the whole grid, and the other way.
    """
    source, target, counts = kernels.grid_pairs(cells, np.array(shape), np.array(kernel))
    return _group(source, target, counts, int(np.prod(shape))), _group(target, source, counts, len(cells))


def _submanifold(conv: Any, x: Any) -> Rulebook:
    kernel, dilation, shape = np.array(conv.kernel_size), np.array(conv.dilation), tuple(x.spatial_shape)
    if (kernel % 2 == 0).any():
        raise InputError(f"A submanifold kernel of size {conv.kernel_size} has no centre.", "Use odd sizes.")
    reach = kernel // 2 * dilation
    indices = x.indices.numpy()
    padded = np.array(shape) + reach  # so that a step over the border leads to no voxel's number
    ids = _cell_ids(indices, padded)
    order = np.argsort(ids, kind="stable")
    source, target, counts = kernels.submanifold_pairs(ids[order], order.astype(np.int32), padded, kernel, dilation)
    groups = _group(source, target, counts, len(indices), submanifold=True)
    geometry = tuple(conv.kernel_size), tuple(conv.dilation)
    return Rulebook(groups, replace(groups, mirrored=True), x.indices, x.indices, shape, shape, geometry)


def _strided(conv: Any, x: Any) -> Rulebook:
    in_shape = tuple(x.spatial_shape)
    axes = zip(in_shape, conv.kernel_size, conv.stride, conv.padding, conv.dilation, strict=True)
    out_shape = tuple(
        (size + 2 * pad - dilated * (edge - 1) - 1) // step + 1 for size, edge, step, pad, dilated in axes
    )
    settings = [np.array(v) for v in (out_shape, conv.kernel_size, conv.stride, conv.padding, conv.dilation)]
    indices = np.ascontiguousarray(x.indices.numpy())
    source, cells, counts = kernels.strided_cells(indices, *settings)
    found = [cells[k, :count] for k, count in enumerate(counts)]
    out_ids, rows = np.unique(np.concatenate(found), return_inverse=True)
    target = np.empty_like(source)
    for k, part in enumerate(np.split(rows, np.cumsum(counts)[:-1])):
        target[k, : len(part)] = part
    scene_and_cell = np.unravel_index(out_ids, (x.batch_size, *out_shape))
    out_indices = torch.from_numpy(np.stack(scene_and_cell, axis=1).astype(np.int32))
    to_output = _group(source, target, counts, len(out_ids))
    to_input = _group(target, source, counts, len(indices))
    geometry = tuple(conv.kernel_size), tuple(conv.dilation)
    return Rulebook(to_output, to_input, x.indices, out_indices, in_shape, out_shape, geometry)


def _cell_ids(indices: Int32Array, shape: Int64Array) -> Int64Array:
    """One number per cell; indices [N, 4] (scene and three coordinates)."""
    scene, i, j, k = indices.astype(np.int64).T
    ids: Int64Array = ((scene * shape[0] + i) * shape[1] + j) * shape[2] + k
    return ids


def _group(
    source: Int32Array, target: Int32Array, counts: Int32Array, rows: int, submanifold: bool = False
) -> PairGroups:
    """Group the pairs of a rulebook; source and target [K, >= counts], counts [K]; see `kernels.group_pairs`."""
    block = min(_BLOCK_ROWS, max(_MIN_BLOCK_ROWS, -(-rows // _WANTED_BLOCKS)))
    grouped_source, grouped_target, starts = kernels.group_pairs(source, target, counts, rows, block, submanifold)
    return PairGroups(grouped_source, grouped_target, starts, rows, block, len(counts))
