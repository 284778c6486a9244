"""numba kernels that find and sort the pairs of sparse convolutions; `sparse_rulebook` calls them.

Shape legend
    N  input voxels     K  kernel offsets, the last axis fastest     P  pairs
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def submanifold_pairs(ids, order, shape, kernel, dilation):  # type: ignore[no-untyped-def]
    """Pairs of the offsets before the centre; the others are their mirror images.

    Voxel o meets voxel i under offset k when i's cell is o's cell plus (k - centre) * dilation.

    Args:
        ids: [N] int64, cell numbers in ascending order, in a grid of `shape` that no offset leaves.
        order: [N] int32, the row of each.
        shape, kernel, dilation: [3] each.

    Returns:
        source [K // 2, N] int32, target [K // 2, N] int32, counts [K] int32 (zero from the centre on).
    """
    N, K = len(ids), kernel[0] * kernel[1] * kernel[2]
    source, target = np.empty((K // 2, N), np.int32), np.empty((K // 2, N), np.int32)
    counts = np.zeros(K, np.int32)
    reach, step = kernel[2] // 2 * dilation[2], dilation[2]
    for line in range(kernel[0] * kernel[1] // 2 + 1):
        away_0 = (line // kernel[1] - kernel[0] // 2) * dilation[0]
        away_1 = (line % kernel[1] - kernel[1] // 2) * dilation[1]
        away = (away_0 * shape[1] + away_1) * shape[2]
        first = line * kernel[2]
        start = 0
        for o in range(N):
            lowest = ids[o] + away - reach
            highest = min(lowest + 2 * reach, ids[o] - 1)  # from the centre on: mirror images
            while start < N and ids[start] < lowest:
                start += 1
            i = start
            while i < N and ids[i] <= highest:
                if (ids[i] - lowest) % step == 0:
                    k = first + (ids[i] - lowest) // step
                    source[k, counts[k]], target[k, counts[k]] = order[i], order[o]
                    counts[k] += 1
                i += 1
    return source, target, counts


@njit(cache=True, nogil=True)
def strided_cells(indices, shape, kernel, stride, padding, dilation):  # type: ignore[no-untyped-def]
    """Which cells of the output every voxel reaches, by offset.

    Args:
        indices: [N, 4] int32, scene and cell.
        shape: [3] of the output; kernel, stride, padding, dilation: [3] each.

    Returns:
        source [K, N] int32, rows; cells [K, N] int64, numbers of output cells; counts [K] int32, how many are valid.
    """
    N, K = len(indices), kernel[0] * kernel[1] * kernel[2]
    source, cells, counts = np.empty((K, N), np.int32), np.empty((K, N), np.int64), np.zeros(K, np.int32)
    reached = np.empty((3, kernel.max()), np.int64)  # coordinate by place in the kernel, -1 where none
    for n in range(N):
        for axis in range(3):
            for at in range(kernel[axis]):
                ahead = indices[n, 1 + axis] + padding[axis] - at * dilation[axis]
                out = ahead // stride[axis]
                hit = ahead >= 0 and out * stride[axis] == ahead and out < shape[axis]
                reached[axis, at] = out if hit else -1
        k = 0
        for i in reached[0, : kernel[0]]:
            for j in reached[1, : kernel[1]]:
                for h in reached[2, : kernel[2]]:
                    if i >= 0 and j >= 0 and h >= 0:
                        cell = ((indices[n, 0] * shape[0] + i) * shape[1] + j) * shape[2] + h
                        source[k, counts[k]], cells[k, counts[k]] = n, cell
                        counts[k] += 1
                    k += 1
    return source, cells, counts


@njit(cache=True, nogil=True)
def grid_pairs(cells, shape, kernel):  # type: ignore[no-untyped-def]
    """Pairs of occupied cells and the cells of a grid that they reach; see `sparse_rulebook.grid_pairs`.

    Returns:
        source [K, N] int32, numbers of occupied cells; target [K, N] int32, cells; counts [K] int32.
    """
    N, K = len(cells), kernel[0] * kernel[1] * kernel[2]
    source, target, counts = np.empty((K, N), np.int32), np.empty((K, N), np.int32), np.zeros(K, np.int32)
    for k in range(K):
        away_0 = kernel[0] // 2 - k // (kernel[1] * kernel[2])
        away_1 = kernel[1] // 2 - k // kernel[2] % kernel[1]
        away_2 = kernel[2] // 2 - k % kernel[2]
        for n in range(N):
            i = cells[n] // (shape[1] * shape[2]) + away_0
            j = cells[n] // shape[2] % shape[1] + away_1
            h = cells[n] % shape[2] + away_2
            if 0 <= i < shape[0] and 0 <= j < shape[1] and 0 <= h < shape[2]:
                source[k, counts[k]], target[k, counts[k]] = n, (i * shape[1] + j) * shape[2] + h
                counts[k] += 1
    return source, target, counts


@njit(cache=True, nogil=True)
def group_pairs(source, target, counts, rows, block, submanifold):  # type: ignore[no-untyped-def]
    """Stable counting sort of a rulebook by (block of target rows, offset).

    Args:
        source, target: [K, P'] row indices, of which the first ``counts[k]`` of offset k are pairs.
        counts: [K].
        rows: number of target rows; block: rows of a block.
        submanifold: only offsets before the centre are read; the centre pairs every row with itself, and the offsets
            after it are the mirror image of those before.

    Returns:
        source [P] int32, target [P] int32, starts [blocks * K + 1] int64.
    """
    K = len(counts)
    centre = K // 2 if submanifold else K
    itself = np.arange(rows if submanifold else 0).astype(np.int32)
    starts = np.zeros(-(-rows // block) * K + 1, np.int64)
    for k in range(K):
        _, targets = _pairs_of(source, target, counts, k, centre, itself)
        for row in targets:
            starts[row // block * K + k + 1] += 1
    starts = np.cumsum(starts)
    free = starts[:-1].copy()
    grouped_source, grouped_target = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.int32)
    for k in range(K):
        sources, targets = _pairs_of(source, target, counts, k, centre, itself)
        for p in range(len(targets)):
            group = targets[p] // block * K + k
            grouped_source[free[group]] = sources[p]
            grouped_target[free[group]] = targets[p]
            free[group] += 1
    return grouped_source, grouped_target, starts


@njit(cache=True, nogil=True)
def _pairs_of(source, target, counts, k, centre, itself):  # type: ignore[no-untyped-def]
    """Sources and targets of offset k; see `group_pairs`."""
    if k < centre:
        return source[k, : counts[k]], target[k, : counts[k]]
    if k == centre:
        return itself, itself
    twin = 2 * centre - k
    return target[twin, : counts[twin]], source[twin, : counts[twin]]
