"""Our rulebooks against spconv's own, pair by pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import spconv.pytorch as spconv
import spconv.pytorch.ops as ops
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcbench.errors import InputError
from gcbench.models.sparse_rulebook import PairGroups, rulebook_of

Cell = tuple[int, ...]
Size = tuple[int, int, int]


def voxels(shape: Size, scenes: int, share: float, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    indices = (torch.rand(scenes, *shape, generator=generator) < share).nonzero().int()
    indices = indices[torch.randperm(len(indices), generator=generator)].contiguous()
    return spconv.SparseConvTensor(torch.zeros(len(indices), 1), indices, list(shape), scenes)


def our_pairs(groups: PairGroups, source: Any, target: Any) -> set[tuple[int, Cell, Cell]]:
    """(offset, cell read, cell added to) of every pair, after a check of their order."""
    found = set()
    for group in range(len(groups.starts) - 1):
        for p in range(groups.starts[group], groups.starts[group + 1]):
            assert groups.target[p] // groups.block == group // groups.offsets
            k = group % groups.offsets
            k = groups.offsets - 1 - k if groups.mirrored else k
            found.add((k, tuple(source[groups.source[p]].tolist()), tuple(target[groups.target[p]].tolist())))
    assert len(found) == len(groups.source)
    return found


def their_pairs(conv: Any, x: Any) -> set[tuple[int, Cell, Cell]]:
    out, pairs, counts = ops.get_indice_pairs(
        x.indices, x.batch_size, x.spatial_shape, spconv.ConvAlgo.Native, conv.kernel_size, conv.stride,
        conv.padding, conv.dilation, conv.output_padding, conv.subm, False,
    )  # fmt: skip
    found = set()
    for k, count in enumerate(counts.tolist()):
        if conv.subm and k >= len(counts) // 2:  # the rest is implied
            break
        for i, o in zip(pairs[0, k, :count].tolist(), pairs[1, k, :count].tolist(), strict=True):
            found.add((k, tuple(x.indices[i].tolist()), tuple(out[o].tolist())))
            if conv.subm:
                found.add((len(counts) - 1 - k, tuple(out[o].tolist()), tuple(x.indices[i].tolist())))
    if conv.subm:
        found |= {(len(counts) // 2, cell, cell) for cell in map(tuple, x.indices.tolist())}
    return found


def check(conv: Any, x: Any) -> Any:
    book = rulebook_of(conv, x)
    expected = their_pairs(conv, x)
    assert our_pairs(book.to_output, book.in_indices, book.out_indices) == expected
    backwards = our_pairs(book.to_input, book.out_indices, book.in_indices)
    assert backwards == {(k, target, source) for k, source, target in expected}
    return book


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 8), st.integers(1, 7)),
    scenes=st.integers(1, 3),
    kernel=st.sampled_from([(3, 3, 3), (5, 5, 5), (1, 3, 5), (5, 1, 3)]),
    dilation=st.sampled_from([1, 2]),
    share=st.floats(0.02, 1.0),
    seed=st.integers(0, 99),
)
def test_submanifold_pairs_are_spconvs(
    shape: Size, scenes: int, kernel: Size, dilation: int, share: float, seed: int
) -> None:
    x = voxels(shape, scenes, share, seed)
    if len(x.indices):
        check(spconv.SubMConv3d(1, 1, kernel, dilation=dilation), x)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 9), st.integers(3, 8), st.integers(3, 7)),
    scenes=st.integers(1, 3),
    kernel=st.sampled_from([2, 3, (3, 1, 2)]),
    stride=st.sampled_from([1, 2, (1, 2, 3)]),
    padding=st.sampled_from([0, 1]),
    share=st.floats(0.02, 1.0),
    seed=st.integers(0, 99),
)
def test_strided_pairs_are_spconvs(
    shape: Size, scenes: int, kernel: Any, stride: Any, padding: int, share: float, seed: int
) -> None:
    x = voxels(shape, scenes, share, seed)
    if not len(x.indices):
        return
    book = check(spconv.SparseConv3d(1, 1, kernel, stride=stride, padding=padding), x)
    ids = np.ravel_multi_index(book.out_indices.numpy().T, (scenes, *book.out_shape))
    assert (np.diff(ids) > 0).all()  # in the order of their cells


def test_an_even_submanifold_kernel_is_refused() -> None:
    conv: Any = spconv.SubMConv3d(1, 1, 3)
    conv.kernel_size = [2, 2, 2]
    with pytest.raises(InputError, match="no centre"):
        rulebook_of(conv, voxels((4, 4, 4), 1, 0.5, 0))
