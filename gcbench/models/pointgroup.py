"""PointGroup: semantic logits and offsets per point, and from them instance proposals.

Source: Jiang et al., PointGroup, CVPR 2020; Pointcept's `PG-v1m1`.

Shape legend
    N  points of a scene    F  feature channels    K  classes    P  proposals
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from gcbench.models.clustering import cluster_points
from gcbench.models.sparse_unet import SparseUNet
from gcbench.structures import Float32Array, Int64Array, PointBatch


class PointGroup(nn.Module):
    """An encoder with a linear layer for classes and a small network for offsets; parameter names as in the reference.

    Args:
        encoder: maps a `PointBatch` to [N, F].
        num_classes: K.
    """

    def __init__(self, encoder: SparseUNet, num_classes: int) -> None:
        super().__init__()
        width = encoder.out_channels
        self.encoder = encoder
        self.seg_head = nn.Linear(width, num_classes)
        self.bias_head = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width, eps=1e-3, momentum=0.01), nn.ReLU(), nn.Linear(width, 3)
        )

    def forward(self, batch: PointBatch) -> tuple[Tensor, Tensor]:
        """Class logits [N, K], and offsets [N, 3] to the centroid of each point's instance, metres."""
        features = self.encoder(batch)
        return self.seg_head(features), self.bias_head(features)


@dataclass(frozen=True)
class Proposals:
    """Instances of a scene; none share a point.

    Attributes:
        classes: [P] class indices.
        scores: [P] mean probability of the class over the points.
        of_point: [N] number of the proposal that a point is of, -1 for none.
    """

    classes: Int64Array
    scores: Float32Array
    of_point: Int64Array

    def at(self, nearest: Int64Array) -> Proposals:
        """The same on other points: [V] each one's nearest of the N."""
        return replace(self, of_point=self.of_point[nearest])

    def masks(self) -> list[Int64Array]:
        """Ascending point indices of each proposal."""
        order = np.argsort(self.of_point, kind="stable")
        starts = np.searchsorted(self.of_point[order], np.arange(len(self.classes) + 1))
        return [order[start:end] for start, end in itertools.pairwise(starts)]


def propose(
    coord: Tensor,
    offsets: Tensor,
    logits: Tensor,
    *,
    grid_size: float,
    radius: float,
    cluster_minimum: int,
    proposal_minimum: int,
    ignored: Sequence[int],
) -> Proposals:
    """Group the points of one scene.

    Points move by their offsets; those of one predicted class that are connected by steps shorter than `radius` grid
    cells are a cluster. Its class is that of its points, its score the mean probability of that class over them.

    Args:
        coord: [N, 3], metres.
        offsets: [N, 3], metres.
        logits: [N, K].
        grid_size: edge of a cell, metres.
        radius: in cells; distances are strictly smaller.
        cluster_minimum: smaller clusters are dropped.
        proposal_minimum: a proposal has more points than that.
        ignored: classes that are no instances.
    """
    probabilities, classes = logits.float().softmax(dim=1).max(dim=1)
    predicted = classes.cpu().numpy()
    shifted = ((coord + offsets) / grid_size).cpu().numpy()
    clusters = cluster_points(
        shifted,
        predicted,
        np.zeros(len(predicted), np.int64),
        radius=radius,
        minimum_points=cluster_minimum,
        ignored=ignored,
    )
    sizes = np.bincount(clusters[clusters >= 0])
    kept = np.flatnonzero(sizes > proposal_minimum)
    number = np.full(len(sizes) + 1, -1, np.int64)  # the last for cluster -1
    number[kept] = np.arange(len(kept))
    of_point = number[clusters]
    member = of_point >= 0
    sums = np.bincount(of_point[member], probabilities.cpu().numpy()[member], len(kept))
    first = np.full(len(kept), len(of_point), np.int64)
    np.minimum.at(first, of_point[member], np.flatnonzero(member))
    scores = (sums / np.maximum(sizes[kept], 1)).astype(np.float32)
    return Proposals(predicted[first], scores, of_point)
