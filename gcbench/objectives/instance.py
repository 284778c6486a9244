"""The losses of PointGroup: every point of an instance should point to the instance's centroid.

Shape legend
    N  points
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcbench.errors import InputError

_EPSILON = 1e-8  # of the reference's denominators


@dataclass(frozen=True)
class OffsetLosses:
    """Both terms [], unweighted: `l1` metres, and `cosine` in [-1, 1], -1 is the right direction everywhere."""

    l1: Tensor
    cosine: Tensor


def offset_losses(offsets: Tensor, coord: Tensor, centroid: Tensor, is_instance: Tensor) -> OffsetLosses:
    """L1 distance and negative cosine between predicted and true offsets, means over the points of instances.

    Pointcept's `PG-v1m1`: the true offset is ``centroid - coord``; denominators have 1e-8 added, so that both terms are
    zero, with gradient zero, where no point is of an instance.

    Args:
        offsets: [N, 3] predicted, metres.
        coord: [N, 3] of the points.
        centroid: [N, 3] of each point's instance; of others any finite value.
        is_instance: [N] bool.

    Raises:
        InputError: shapes differ.
    """
    shapes = {"offsets": offsets.shape, "coord": coord.shape, "centroid": centroid.shape}
    if any(shape != (len(coord), 3) for shape in shapes.values()) or is_instance.shape != (len(coord),):
        named = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(f"Shapes do not fit each other: {named}, is_instance {list(is_instance.shape)}.")
    rows = is_instance.nonzero().squeeze(1)
    predicted = offsets.index_select(0, rows)
    true = (centroid - coord).index_select(0, rows)
    count = len(rows) + _EPSILON
    l1 = (predicted - true).abs().sum() / count
    cosine = -(_directions(predicted) * _directions(true)).sum() / count
    return OffsetLosses(l1, cosine)


def _directions(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / (lengths + _EPSILON)
