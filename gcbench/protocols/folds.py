"""Puts the folds of a cell together (S3DIS 6-fold): counts are summed over folds before any ratio is taken."""

from __future__ import annotations

from gcbench.data.labels import load_label_set
from gcbench.errors import RunError
from gcbench.protocols.jobs import FoldsJob
from gcbench.runs.results import SemanticResult, load_result
from gcbench.runs.schema import split_hash
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer, sixfold


def combine_folds(job: FoldsJob) -> SemanticResult:
    """The cell's result; the mean over the folds stands beside it.

    Raises:
        RunError: a fold's result is missing.
    """
    label_set, protocol = load_label_set(job.label_set), load_protocol(job.protocol)
    results, folds = [], []
    for path in job.folds:
        result = load_result(path)
        if not isinstance(result, SemanticResult):
            raise RunError(f"{path} is not the result of a fold.")
        scorer = SemanticScorer(label_set, protocol)
        for name, counts in result.scenes.items():
            scorer.add_counts(name, counts.model_dump())
        results.append(result)
        folds.append(scorer.result())
    both = sixfold(folds)
    first = results[0]
    times = [result.provenance for result in results]
    return SemanticResult(
        table=job.table,
        row=job.row,
        column=job.column,
        seed=job.seed,
        fold_mean=dict(both.mean),
        folds={result.protocol.split: dict(result.metrics) for result in results},
        protocol=first.protocol.model_copy(
            update={
                "split": f"{len(folds)} folds",
                "split_hash": split_hash(both.summed.scenes),
            }
        ),
        provenance=first.provenance.model_copy(
            update={
                "wall_seconds": sum(item.wall_seconds for item in times),
                "peak_memory_mb": max(item.peak_memory_mb for item in times),
                "started": min(item.started for item in times),
                "ended": max(item.ended for item in times),
            }
        ),
        **both.summed.as_record(),
    )
