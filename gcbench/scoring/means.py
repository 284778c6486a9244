"""Means that leave out what is undefined.

Shape legend
    R  rows    K  values of a row
"""

from __future__ import annotations

import numpy as np

from gcbench.structures import Float64Array


def mean_of_defined(values: Float64Array) -> float:
    """Mean of an array of any shape without its NaNs, in the order of its memory; NaN if there is nothing else."""
    return float("nan") if np.isnan(values).all() else float(np.nanmean(values))


def means_of_defined(values: Float64Array) -> Float64Array:
    """Mean of each row [R, K] without its NaNs, [R]; NaN where there is nothing else."""
    defined = ~np.isnan(values)
    number = defined.sum(axis=1)
    means = np.full(len(values), np.nan)
    np.divide(np.where(defined, values, 0.0).sum(axis=1), number, out=means, where=number > 0)
    return means
