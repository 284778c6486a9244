"""Budget and data of a training beside the paper's, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gcbench.errors import DataError
from gcbench.recipe.loader import LoadedRecipe
from gcbench.recipe.schema import InstanceRecipe, PretrainRecipe, SemanticRecipe
from gcbench.recipe.tables import TableColumn
from gcbench.reporting.explanation import Fact
from gcbench.reporting.rescoring import found_data
from gcbench.reporting.stored_jobs import Training
from gcbench.runs.results import CellContent, FigureResult, PretrainResult
from gcbench.runs.store import RunStore


def training_facts(
    what: str, column: TableColumn, training: Training, paper: LoadedRecipe, store: RunStore
) -> Iterator[Fact]:
    """Steps, samples and passes, then scenes.

    Args:
        what: which training, in words.
        column: of the cell.
        training: a training of the cell, or its pre-training.
        paper: the paper's recipe for it.
        store: where the runs lie.
    """
    result = training.run.result()
    assert not isinstance(result, FigureResult), training.run.folder
    scenes = _pretraining_scenes(training, store) if isinstance(result, PretrainResult) else None
    official, words = _official_scenes(column, paper)
    yield Fact(f"budget, {what}", _budget(result, training, scenes), _paper_budget(paper, official))
    yield Fact(f"data, {what}", _data(result, scenes), words)


def _budget(result: CellContent, training: Training, scenes: int | None) -> str:
    if not isinstance(result, PretrainResult):
        return result.budget.describe() if result.budget else "not known"
    batch = training.recipe.values.get("schedule.batch_size")
    if not isinstance(batch, int):
        return f"{result.steps:,} steps"
    passes = f", {result.steps * batch / scenes:.1f} passes over {scenes:,} scenes" if scenes else ""
    return f"{result.steps:,} steps, {result.steps * batch:,} samples{passes}"


def _paper_budget(paper: LoadedRecipe, scenes: int | None) -> str:
    """The recipe's epochs; steps and samples where the number of scenes is known."""
    assert isinstance(paper.recipe, PretrainRecipe | SemanticRecipe | InstanceRecipe)
    schedule = paper.recipe.schedule
    said = f"{schedule.epochs:,} epochs (passes), batches of {schedule.batch_size}" if schedule.epochs else ""
    if scenes is None and schedule.epochs is not None:
        return said
    steps = schedule.total_steps(scenes or 0)
    return ", ".join(filter(None, (f"{steps:,} steps, {steps * schedule.batch_size:,} samples", said)))


def _data(result: CellContent, scenes: int | None) -> str:
    kind = "synthetic rooms" if result.provenance.synthetic else "real rooms"
    if isinstance(result, PretrainResult):
        return kind if scenes is None else f"{kind}, {scenes:,} scenes"
    trained = f"{result.budget.scenes:,} training scenes, " if result.budget else ""
    return f"{kind}, {trained}{len(result.scenes):,} scored"


def _pretraining_scenes(training: Training, store: RunStore) -> int | None:
    """How many scenes a pre-training had; None if its data are gone."""
    splits = training.recipe.values.get("data.splits")
    try:
        return len(found_data(training, store).scene_names(splits)) if isinstance(splits, list | tuple) else None
    except DataError:
        return None


def _official_scenes(column: TableColumn, paper: LoadedRecipe) -> tuple[int | None, str]:
    """The paper's training scenes, None if no official list counts them, and its splits in words."""
    from gcbench.data.metadata import expected_scenes

    dataset: str = column.data
    trained: Sequence[str]
    scored: Sequence[str] = ()
    if isinstance(paper.recipe, PretrainRecipe):
        dataset, trained = paper.recipe.data.dataset, paper.recipe.data.splits
    else:
        trained, scored = column.folds[0].train, column.folds[0].val
    try:
        counts = expected_scenes(dataset)
    except DataError:
        counts = {}
    limit = column.limit if not isinstance(paper.recipe, PretrainRecipe) else None
    known = limit is None and all(split in counts for split in trained)

    def words(splits: Sequence[str]) -> str:
        return ", ".join(f"{counts[split]:,} of {split}" if split in counts else split for split in splits)

    limited = f", limited to {limit}" if limit else ""
    said = f"{dataset}: trained on {words(trained)}{limited}" + (f"; scored on {words(scored)}" if scored else "")
    return (sum(counts[split] for split in trained) if known else None), said
