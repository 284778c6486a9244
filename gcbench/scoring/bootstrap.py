"""How sure a number is: intervals over scenes by bootstrap, and the spread over seeds. The two are never mixed.

Scenes are drawn with replacement, as many as there are; the metric of every draw is that of the split it makes up. The
interval is made of the draws' percentiles, moved so that the draws' mean lies at the measured value: draws lack the
classes of scenes that were not drawn, which shifts all of them to one side. With several runs (seeds) on the same
scenes each draw is the same for all of them, and the interval is of their mean: it says how much the choice of scenes
matters, and nothing of the seeds.

Shape legend
    R  draws    S  scenes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcbench.errors import InputError
from gcbench.scoring.instance import InstanceMetrics
from gcbench.scoring.processes import worker_processes
from gcbench.scoring.semantic import SemanticMetrics
from gcbench.structures import Float64Array, Int64Array

LEVEL = 0.95
Metrics = SemanticMetrics | InstanceMetrics


@dataclass(frozen=True)
class Interval:
    """An interval, as fractions in [0, 1]; NaN where no draw has a value."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (NaN for a single one) and number of the runs."""

    mean: float
    std: float
    runs: int


def scene_draws(scenes: int, draws: int, seed: int) -> Int64Array:
    """How often each scene stands in each draw: [R, S], rows sum to S; the same for the same seed.

    Raises:
        InputError: no scene, or no draw.
    """
    if scenes < 1 or draws < 1:
        raise InputError(f"There is nothing to draw: {scenes} scenes, {draws} draws.")
    generator = np.random.default_rng(seed)
    return generator.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)


def scene_intervals(runs: Sequence[Metrics], draws: int, seed: int, workers: int = 1) -> dict[str, Interval]:
    """95 % percentile intervals over scenes of the runs' mean, by metric.

    Args:
        runs: one or more, of the same kind and on the same scenes.
        draws: R.
        seed: of the draws.
        workers: processes; they do not change the result.

    Raises:
        InputError: no run, or runs on different scenes.
    """
    if not runs or any(run.scenes.keys() != runs[0].scenes.keys() for run in runs):
        raise InputError("An interval over scenes needs runs on the same scenes.")
    column = {name: number for number, name in enumerate(sorted(runs[0].scenes))}
    counts = scene_draws(len(column), draws, seed)
    of_runs = [_resampled(run, counts[:, [column[name] for name in run.scenes]], workers) for run in runs]
    return {
        name: _interval(np.mean([values[name] for values in of_runs], axis=0), spread.mean)
        for name, spread in seed_spread(runs).items()
    }


def seed_spread(runs: Sequence[Metrics]) -> dict[str, Spread]:
    """Mean and sample standard deviation over runs that differ in their seed, by metric."""
    spreads = {}
    for name in runs[0].means():
        values = [run.means()[name] for run in runs]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        spreads[name] = Spread(float(np.mean(values)), std, len(values))
    return spreads


def _resampled(run: Metrics, counts: Int64Array, workers: int) -> dict[str, Float64Array]:
    """The means of all draws; shared among processes where that takes its time."""
    if workers <= 1 or isinstance(run, SemanticMetrics):
        return run.resampled_means(counts)
    with worker_processes(workers, InstanceMetrics.resampled_means, run) as submit:
        futures = [submit(part) for part in np.array_split(counts, workers)]
        parts = [future.result() for future in futures]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _interval(draws: Float64Array, measured: float) -> Interval:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return Interval(float("nan"), float("nan"))
    bounds = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - draws.mean() + measured
    low, high = np.clip(bounds, 0.0, 1.0)
    return Interval(float(low), float(high))
