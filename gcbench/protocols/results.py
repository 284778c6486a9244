"""From what a job measured to a result with its protocol and provenance."""

from __future__ import annotations

from datetime import datetime, timezone

import torch

from gcbench.data.storage import PreparedDataset
from gcbench.models.segmentation import EncoderState
from gcbench.protocols.jobs import JobRecipe, SemanticJob
from gcbench.recipe.schema import SemanticRecipe
from gcbench.runs.provenance import collect_provenance
from gcbench.runs.results import Protocol, Provenance, Result
from gcbench.runs.schema import split_hash
from gcbench.scoring.semantic import SemanticMetrics


def provenance(recipe: JobRecipe, dataset: PreparedDataset, started: datetime, weights: str | None) -> Provenance:
    """The provenance of a job that ends now."""
    peak = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return collect_provenance(
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        resolved_recipe=recipe.values,
        preset=recipe.preset,
        data_fingerprint=dataset.fingerprint,
        synthetic=dataset.synthetic,
        started=started,
        weights_hash=weights,
        peak_memory_mb=peak,
    )


def semantic_result(
    job: SemanticJob,
    recipe: SemanticRecipe,
    dataset: PreparedDataset,
    metrics: SemanticMetrics,
    started: datetime,
    encoder: tuple[EncoderState, EncoderState],
) -> Result:
    """The result of one fold of one cell; `encoder` is its state before and after training."""
    names = dataset.scene_names(job.val)
    notes = [f"classes without a value: {', '.join(metrics.undefined)}"] if metrics.undefined else []
    if job.encoder_key is not None and job.encoder_key.startswith("given:"):
        notes.append(f"encoder given, not pre-trained here: SHA-256 {job.encoder_key.removeprefix('given:')}")
    if recipe.probe.frozen:
        before, after = encoder
        notes.append(
            f"encoder parameters before and after: {before.parameters}, {after.parameters}; buffers: {before.buffers}, "
            f"{after.buffers} (batch norm: {recipe.probe.batchnorm})"
        )
    return Result(
        table=job.table,
        row=job.row,
        column=job.column,
        fold=job.fold,
        seed=job.seed,
        protocol=Protocol(
            label_set=job.label_set,
            split="+".join(job.val),
            split_hash=split_hash(names),
            resolution=recipe.evaluation.resolution,
            inference=recipe.evaluation.inference,
            checkpoint=recipe.evaluation.checkpoint,
            batchnorm=recipe.probe.batchnorm if recipe.probe.frozen else "trained",
            level=recipe.probe.level,
            evaluation=metrics.protocol.name,
            evaluation_version=metrics.protocol.version,
        ),
        provenance=provenance(job.recipe, dataset, started, encoder[1].parameters),
        notes=notes,
        **metrics.as_record(),
    )


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(timezone.utc)
