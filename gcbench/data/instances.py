"""Instance targets of a training sample: where each point's instance has its centre.

Shape legend: M voxels of the sample (one point each).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gcbench.data.batching import PointSample
from gcbench.errors import DataError
from gcbench.structures import Float32Array


def with_centroids(sample: PointSample, counted: Sequence[int]) -> PointSample:
    """The sample with `centroid`: the mean of the points of each point's instance that are in the sample.

    As Pointcept's `InstanceParser`, after the crop. Unlike there, a point of a counted class that belongs to no
    instance (id -1) gets no centroid; the reference treats all those of a scene as one instance.

    Args:
        sample: with classes and instances.
        counted: classes whose instances count; others (wall, floor) have none.

    Raises:
        DataError: the sample has no classes or no instances.
    """
    if sample.segment is None or sample.instance is None:
        raise DataError(
            f"Scene '{sample.name}' has no instances.", "Train on splits with instance labels, prepared from raw data."
        )
    centroid: Float32Array = np.full((len(sample), 3), np.nan, np.float32)
    rows = np.flatnonzero(np.isin(sample.segment, np.asarray(counted)) & (sample.instance >= 0))
    if len(rows):
        number = np.unique(sample.instance[rows], return_inverse=True)[1]
        sizes = np.bincount(number)
        for axis in range(3):
            sums = np.bincount(number, sample.coord[rows, axis].astype(np.float64))
            centroid[rows, axis] = (sums / sizes)[number]
    return replace(sample, centroid=centroid)
