"""Measures shares: what another way to score, another checkpoint, another run or other scenes are worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gcbench.data.storage import PreparedDataset
from gcbench.errors import DataError, InputError, RunError
from gcbench.reporting.explanation import Share, ShareKind
from gcbench.reporting.measured_runs import CellGroup, is_value, one_key_apart, value_of
from gcbench.reporting.recipe_differences import RecipeComparison
from gcbench.reporting.rescoring import Progress, metrics_of, rescore, scored_data
from gcbench.reporting.stored_jobs import as_yaml, trainings
from gcbench.runs.results import PretrainResult, SemanticResult, TableResult
from gcbench.runs.store import Run, RunStore

DRAWS = 1000  # of the bootstrap over scenes
AUGMENTED = "test-time augmentation"
# From runs, one per fold, and their data to means as fractions; see `gcbench.protocols.rescore.augmented_means`.
Predict = Callable[[Sequence[tuple[Run, PreparedDataset]], Progress], Mapping[str, float]]


@dataclass
class ShareMeter:
    """Measures the shares of one metric of one group of results.

    Attributes:
        notes: what could not be measured, filled while measuring.
        measured_keys: keys of recipes whose value in the paper another run has, filled while measuring.
    """

    own: CellGroup
    metric: str
    store: RunStore
    progress: Progress
    notes: list[str] = field(default_factory=list)
    measured_keys: set[str] = field(default_factory=set)

    @property
    def values(self) -> dict[int, float]:
        """Ours by seed."""
        return {one.seed: value_of(one.result, self.metric) for one in self.own.results}

    def scoring(self) -> list[Share]:
        """The kept predictions of every seed, scored in other ways; of a pre-training views that it never saw."""
        found: dict[str, dict[int, float]] = {}
        for one in self.own.results:
            result = one.result
            if isinstance(result, PretrainResult):
                held_out = [point.psnr_heldout for point in result.psnr if math.isfinite(point.psnr_heldout)]
                if held_out and self.metric == "PSNR":
                    found.setdefault("held-out views instead of training views", {})[one.seed] = held_out[-1]
                continue
            rescoring = rescore(result, trainings(one.run, self.store), self.store, self.progress)
            for way in rescoring.alternatives:
                found.setdefault(way.change, {})[one.seed] = 100 * way.means[self.metric]
            if rescoring.problem:
                self.notes.append(f"Seed {one.seed}: the predictions were not scored again: {rescoring.problem}.")
        return [share for change, numbers in found.items() for share in self._share("scoring", change, numbers)]

    def augmented(self, predict: Predict) -> list[Share]:
        """The kept models, run again under test-time augmentation; where ours is a single pass."""
        numbers: dict[int, float] = {}
        for one in self.own.results:
            result = one.result
            if isinstance(result, SemanticResult) and result.protocol.inference == "single-pass":
                parts = trainings(one.run, self.store)
                try:
                    runs = [(part.run, scored_data(part, result, self.store)) for part in parts]
                    numbers[one.seed] = 100 * predict(runs, self.progress)[self.metric]
                except (InputError, DataError, RunError) as error:
                    self.notes.append(f"Seed {one.seed}: the model was not run again: {error.message}")
        return self._share("scoring", f"{AUGMENTED}, on points", numbers)

    def checkpoints(self) -> list[Share]:
        """The last and the best model, and a single pass where ours is not one."""
        other_model: dict[int, float] = {}
        single: dict[int, float] = {}
        name = ""
        for seed, result in self._table_results().items():
            used = result.protocol.checkpoint
            other: Literal["last", "best"] = "best" if used == "last" else "last"
            name = f"{other} checkpoint instead of {used}"
            kept = {moment: 100 * score.metrics[self.metric] for moment, score in result.checkpoints.items()}
            if used in kept and other in kept:
                other_model[seed] = self.values[seed] + kept[other] - kept[used]
            if used in kept and result.protocol.inference == "tta":
                single[seed] = kept[used]
        note = "the best was chosen on the scenes that are scored" if name.startswith("best") else ""
        single_name = f"a single pass instead of {AUGMENTED}"
        return self._share("checkpoint", name, other_model, note) + self._share("scoring", single_name, single)

    def other_runs(self, recipes: Sequence[RecipeComparison]) -> list[Share]:
        """Runs that differ from ours in a single key of a recipe."""
        paper = {f"{recipe.kind}.{d.key}": d.paper for recipe in recipes for d in recipe.differences}
        found = []
        for other in one_key_apart(self.own, self.store, self.metric):
            change = f"{other.key}={as_yaml(other.value)} instead of {as_yaml(other.ours)}"
            is_papers = other.key in paper and is_value(other, paper[other.key])
            note = f"{'' if is_papers else 'not '}the paper's value; run {', '.join(other.runs)}"
            shares = self._share("recipe", change, other.numbers, note)
            if shares and is_papers:
                self.measured_keys.add(other.key)
            found += shares
        return found

    def spreads(self) -> list[Share]:
        """How far the choice of seeds, and that of scenes, may move the number."""
        found, values = [], list(self.values.values())
        if len(values) > 1:
            spread = statistics.stdev(values)
            found.append(Share("seeds", "other seeds", None, spread, len(values), "one standard deviation of a seed"))
        results = list(self._table_results().values())
        if not results or len(results[0].scenes) < 2:
            return found
        try:
            low, high = self._interval(results)
        except (InputError, DataError) as error:
            self.notes.append(f"No interval over scenes: {error.message}")
            return found
        note = f"95 % between {low:.1f} and {high:.1f} over {len(results[0].scenes)} scenes"
        return [*found, Share("scenes", "other scenes of the same kind", None, (high - low) / 2, len(results), note)]

    def _interval(self, results: Sequence[TableResult]) -> tuple[float, float]:
        from gcbench.scoring.bootstrap import scene_intervals

        interval = scene_intervals([metrics_of(result) for result in results], DRAWS, 0)[self.metric]
        return 100 * interval.low, 100 * interval.high

    def _table_results(self) -> dict[int, TableResult]:
        return {one.seed: one.result for one in self.own.results if not isinstance(one.result, PretrainResult)}

    def _share(self, kind: ShareKind, change: str, numbers: Mapping[int, float], note: str = "") -> list[Share]:
        """One share, measured with the seeds that ours has too; none if there is no such seed."""
        values = self.values
        seeds = sorted(numbers.keys() & values.keys())
        if not seeds:
            return []
        number = statistics.fmean(numbers[seed] for seed in seeds)
        return [Share(kind, change, number, number - statistics.fmean(values[s] for s in seeds), len(seeds), note)]
