"""From scored folders of predictions, one per seed, to the record of their scores. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gcbench import __version__
from gcbench.errors import InputError
from gcbench.runs.evaluations import (
    EvaluationProtocol,
    EvaluationRecord,
    SceneIntervals,
    ScoredRun,
    SeedSpread,
    protocol_fingerprint,
)
from gcbench.runs.schema import split_hash
from gcbench.scoring.bootstrap import LEVEL, Metrics, scene_intervals, seed_spread
from gcbench.scoring.semantic import SemanticMetrics, SemanticScorer, sixfold


def evaluation_record(
    runs: Mapping[str, Metrics],
    *,
    split: str | None = None,
    missing: Sequence[str] = (),
    draws: int = 0,
    seed: int = 0,
    workers: int = 1,
    synthetic: bool = False,
    data_fingerprint: str | None = None,
) -> EvaluationRecord:
    """The record of one run or of several that differ in their seed.

    Args:
        runs: metrics by folder of predictions, of one kind, under one protocol, on the same scenes.
        split: name of the split, where it is known.
        missing: scenes that were left out.
        draws: of the bootstrap over scenes; 0 for none.
        seed: of the draws.
        workers: processes for them.
        synthetic: the ground truth are synthetic rooms.
        data_fingerprint: of the dataset that the ground truth is from.

    Raises:
        InputError: no run, or runs on different scenes.
    """
    metrics = list(runs.values())
    if not metrics or any(run.scenes.keys() != metrics[0].scenes.keys() for run in metrics):
        raise InputError("Several runs must have predictions of the same scenes.", "Add what is missing.")
    first = metrics[0]
    kind = "semantic" if isinstance(first, SemanticMetrics) else "instance"
    records = [run.as_record() for run in metrics]
    several = len(records) > 1
    hash_ = split_hash(first.scenes)
    protocol, label_set = first.protocol, first.label_set.name
    folds, fold_mean = _folds(metrics)
    return EvaluationRecord(
        kind="evaluate-semantic" if kind == "semantic" else "evaluate-instance",
        gcbench=__version__,
        label_set=label_set,
        split=split,
        split_hash=hash_,
        protocol=EvaluationProtocol(
            name=protocol.name,
            version=protocol.version,
            fingerprint=protocol_fingerprint(kind, protocol.name, protocol.version, label_set, hash_),
        ),
        predictions=list(runs),
        metrics=_mean([record["metrics"] for record in records]),
        classes=_mean([record["classes"] for record in records]),
        groups=_mean([record["groups"] for record in records]),
        undefined=sorted({name for run in metrics for name in run.undefined}, key=first.label_set.classes.index),
        scenes={} if several else records[0]["scenes"],
        missing=list(missing),
        folds=folds,
        fold_mean=fold_mean,
        intervals=_intervals(metrics, draws, seed, workers),
        seeds=_spread(metrics) if several else None,
        runs=[
            ScoredRun(
                predictions=folder,
                metrics=record["metrics"],
                classes=record["classes"],
                scenes=record["scenes"],
            )
            for folder, record in (zip(runs, records, strict=True) if several else ())
        ],
        synthetic=synthetic,
        data_fingerprint=data_fingerprint,
    )


def _mean(values: Sequence[Any]) -> Any:
    """Mean of records of the same shape, number by number; of one it is that one. NaN where one has no value."""
    if isinstance(values[0], Mapping):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    return values[0] if len(values) == 1 else float(np.mean(values))


def _intervals(runs: Sequence[Metrics], draws: int, seed: int, workers: int) -> SceneIntervals | None:
    if not draws or len(runs[0].scenes) < 2:
        return None
    intervals = scene_intervals(runs, draws, seed, workers)
    return SceneIntervals(
        level=LEVEL,
        draws=draws,
        seed=seed,
        scenes={name: (interval.low, interval.high) for name, interval in intervals.items()},
    )


def _spread(runs: Sequence[Metrics]) -> dict[str, SeedSpread]:
    return {
        name: SeedSpread(mean=spread.mean, std=spread.std, n=spread.runs) for name, spread in seed_spread(runs).items()
    }


def _folds(runs: Sequence[Metrics]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Metrics by fold, and their mean, where semantic scenes lie in two folders or more (`Area_1/office_1`)."""
    of_runs: list[dict[str, SemanticMetrics]] = []
    for run in runs:
        if not isinstance(run, SemanticMetrics):
            return {}, {}
        scorers: dict[str, SemanticScorer] = {}
        for scene, counts in run.scenes.items():
            fold = scene.rpartition("/")[0]
            scorers.setdefault(fold, SemanticScorer(run.label_set, run.protocol)).insert(scene, counts)
        if len(scorers) < 2:
            return {}, {}
        of_runs.append({fold: scorer.result() for fold, scorer in sorted(scorers.items())})
    by_fold = _mean([{fold: result.means() for fold, result in of_run.items()} for of_run in of_runs])
    return by_fold, _mean([dict(sixfold(list(of_run.values())).mean) for of_run in of_runs])
