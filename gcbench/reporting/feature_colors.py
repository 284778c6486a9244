"""Features as colours, for pictures.

Shape legend: H x W pixels of a view, N points, F channels of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.errors import require
from gcbench.structures import Float64Array

_BLOCK = 2048  # features compared with all others at a time


@dataclass(frozen=True)
class FeatureColors:
    """The first three principal components, each stretched from its 1st to its 99th percentile.

    One instance gives equal features of different views equal colours.

    Attributes:
        mean: [F].
        axes: [F, 3], or fewer columns where F < 3; a sign is chosen, so that colours do not flip.
        low, high: [3] or fewer, the percentiles.
    """

    mean: Float64Array
    axes: Float64Array
    low: Float64Array
    high: Float64Array

    @classmethod
    def of(cls, views: Sequence[NDArray[np.floating[Any]]]) -> FeatureColors:
        """Fitted to all pixels of views [H, W, F]; their sizes may differ."""
        values = np.concatenate([view.reshape(-1, view.shape[-1]) for view in views]).astype(np.float64)
        mean = values.mean(axis=0)
        covariance = np.cov(values.T, bias=True).reshape(len(mean), len(mean))  # biased: a single pixel has one too
        axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :3]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])])
        low, high = np.percentile((values - mean) @ axes, [1, 99], axis=0)
        return cls(mean, axes, low, high)

    def __call__(self, features: NDArray[np.floating[Any]]) -> Float64Array:
        """Colours [H, W, 3] in [0, 1] of features [H, W, F]; where F < 3 the last ones are 0."""
        spread = np.maximum(self.high - self.low, 1e-12)
        scaled = np.clip(((features - self.mean) @ self.axes - self.low) / spread, 0.0, 1.0)
        return np.pad(scaled, ((0, 0), (0, 0), (0, 3 - scaled.shape[-1])))


def umap_colors(features: NDArray[np.floating[Any]], *, points: int, neighbors: int, seed: int) -> Float64Array:
    """Colours [N, 3] in [0, 1] of features [N, F]: UMAP in three dimensions, each from its 1st to its 99th percentile.

    Args:
        points: UMAP learns from so many different features, chosen by `seed`; the others take the nearest one's colour.
        neighbors: how many each is placed by: the more, the less single features stand out.
        seed: with it the same features get the same colours; UMAP then uses one core.

    Raises:
        MissingExtraError: umap-learn is not installed.
    """
    umap = require("umap", "figures", "Colours by UMAP")
    different, which = np.unique(features.astype(np.float32), axis=0, return_inverse=True)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(different))[:points])
    learned = different[chosen]
    model = umap.UMAP(
        n_components=3, n_neighbors=min(neighbors, len(chosen) - 1), init="pca", random_state=seed, n_jobs=1
    )
    placed = model.fit_transform(learned)
    low, high = np.percentile(placed, [1, 99], axis=0)
    colors: Float64Array = np.clip((placed - low) / np.maximum(high - low, 1e-12), 0.0, 1.0).astype(np.float64)
    return colors[_nearest(different, learned)][which.reshape(-1)]


def _nearest(values: NDArray[np.float32], among: NDArray[np.float32]) -> NDArray[np.intp]:
    """[N] of each value [N, F], the position of the nearest of `among` [M, F], in blocks that fit in memory."""
    squares = (among**2).sum(axis=1)
    blocks = (values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK))
    return np.concatenate([(squares - 2 * block @ among.T).argmin(axis=1) for block in blocks])
