"""Computes the metrics of a stored result again, from the integer counts of its scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gcbench.errors import DataError, InputError
from gcbench.runs.evaluations import EvaluationRecord


def check_metrics(path: Path, record: EvaluationRecord) -> None:
    """The metrics of a record are those of its scenes, bit for bit, and of several runs their mean.

    Raises:
        InputError: they are not, or the counts are none.
    """
    if not record.runs:
        _same(path, recomputed_metrics(path, record, record.scenes), record.metrics)
        return
    for run in record.runs:
        _same(path, recomputed_metrics(path, record, run.scenes), run.metrics)
    means = {name: float(np.mean([run.metrics[name] for run in record.runs])) for name in record.metrics}
    _same(path, means, record.metrics)


def recomputed_metrics(path: Path, record: EvaluationRecord, scenes: Mapping[str, Any]) -> dict[str, float]:
    """The three means of stored counts, under the record's label set and protocol.

    Raises:
        InputError: an unknown label set or protocol, another version of it, or counts that contradict each other.
    """
    from gcbench.data.labels import load_label_set
    from gcbench.scoring.instance import InstanceScorer
    from gcbench.scoring.protocols import load_protocol
    from gcbench.scoring.semantic import SemanticScorer

    try:
        label_set, protocol = load_label_set(record.label_set), load_protocol(record.protocol.name)
        if protocol.version != record.protocol.version:
            raise InputError(
                f"It was scored under version {record.protocol.version} of '{protocol.name}', which is now at "
                f"{protocol.version}.",
                "Score the predictions again.",
            )
        if record.kind == "evaluate-semantic":
            semantic = SemanticScorer(label_set, protocol)
            for name, counts in scenes.items():
                semantic.add_counts(name, counts)
            return semantic.result().means()
        instance = InstanceScorer(label_set, protocol)
        for name, counts in scenes.items():
            instance.add_record(name, counts)
        return instance.result().means()
    except (InputError, DataError, AttributeError, TypeError, ValueError) as error:
        reason = error.message if isinstance(error, InputError | DataError) else f"its scenes are no counts ({error})"
        raise InputError(
            f"{path}: the metrics cannot be computed again: {reason}", "Score the predictions again."
        ) from error


def _same(path: Path, computed: Mapping[str, float], stated: Mapping[str, float]) -> None:
    for name, value in stated.items():
        again = computed.get(name, math.nan)
        if not (again == value or (math.isnan(again) and math.isnan(value))):
            raise InputError(
                f"{path}: '{name}' is {value}, but its scenes give {again}.", "Score the predictions again."
            )
