"""Features as colours, for pictures.

Shape legend: H x W pixels of a view, F channels of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcbench.structures import Float64Array


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
