"""Bootstrap intervals of stored results, from the integer counts of their scenes. NumPy comes with the first one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gcbench.errors import InputError

if TYPE_CHECKING:
    from gcbench.runs.results import TableResult
    from gcbench.scoring.bootstrap import Metrics

DRAWS = 200
_SEED = 0  # the same scenes are drawn in every report
_TOLERANCE = 1e-9


class SceneBootstrap:
    """Computes 95 % intervals over scenes; what was computed once is kept, since tables share results.

    Args:
        draws: of the bootstrap.
    """

    def __init__(self, draws: int = DRAWS) -> None:
        self.draws = draws
        self._metrics: dict[int, tuple[TableResult, Metrics]] = {}
        self._known: dict[tuple[int, ...], dict[str, tuple[float, float]]] = {}

    def __call__(self, results: Sequence[TableResult]) -> dict[str, tuple[float, float]]:
        """Interval of the results' mean by metric, as fractions; empty where there is none.

        There is none for a single scene, and for results on different scenes.

        Args:
            results: seeds of one cell, or of the columns that a mean is over.

        Raises:
            InputError, DataError: see `stored_metrics`.
        """
        key = tuple(id(result) for result in results)
        if key not in self._known:
            self._known[key] = self._intervals(results)
        return self._known[key]

    def _intervals(self, results: Sequence[TableResult]) -> dict[str, tuple[float, float]]:
        from gcbench.scoring.bootstrap import scene_intervals

        scenes = {frozenset(result.scenes) for result in results}
        if len(scenes) != 1 or len(next(iter(scenes))) < 2:
            return {}
        intervals = scene_intervals([self._measured(result) for result in results], self.draws, _SEED)
        return {
            name: (interval.low, interval.high) for name, interval in intervals.items() if not math.isnan(interval.low)
        }

    def _measured(self, result: TableResult) -> Metrics:
        if id(result) not in self._metrics:
            self._metrics[id(result)] = (
                result,
                stored_metrics(result),
            )  # holds the result, so that its id stays its own
        return self._metrics[id(result)][1]


def stored_metrics(result: TableResult) -> Metrics:
    """The metrics of a stored result, computed again from its scenes.

    Raises:
        InputError: an unknown label set or protocol, another version of it, or scenes that are no counts or give other
            metrics than those stored.
        DataError: the file of the label set is broken.
    """
    from gcbench.data.labels import load_label_set
    from gcbench.scoring.instance import InstanceScorer
    from gcbench.scoring.protocols import load_protocol
    from gcbench.scoring.semantic import SemanticScorer

    label_set, protocol = load_label_set(result.protocol.label_set), load_protocol(result.protocol.evaluation)
    if protocol.version != result.protocol.evaluation_version:
        raise InputError(
            f"It was scored under version {result.protocol.evaluation_version} of '{protocol.name}', which is now at "
            f"{protocol.version}.",
            "Score the predictions again.",
        )
    metrics: Metrics
    if result.kind == "semantic":
        semantic = SemanticScorer(label_set, protocol)
        for name, counts in result.scenes.items():
            semantic.add_counts(name, counts.model_dump())
        metrics = semantic.result()
    else:
        instance = InstanceScorer(label_set, protocol)
        for name, record in result.scenes.items():
            instance.add_record(name, record)
        metrics = instance.result()
    for name, value in metrics.means().items():
        stored = result.metrics.get(name, math.nan)
        if abs(stored - value) > _TOLERANCE or math.isnan(stored) != math.isnan(value):
            raise InputError(f"'{name}' is {stored}, but its scenes give {value}.", "Score the predictions again.")
    return metrics
