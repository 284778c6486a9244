"""From what a job measured to a result with its protocol and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import torch

from gcbench.data.storage import PreparedDataset
from gcbench.files import short_sha256
from gcbench.models.segmentation import EncoderState
from gcbench.protocols.downstream import Training
from gcbench.protocols.jobs import InstanceJob, JobRecipe, SegmentationJob, SemanticJob
from gcbench.protocols.trained_models import CHECKPOINTS
from gcbench.recipe.schema import Checkpoint, InstanceRecipe, SemanticRecipe
from gcbench.runs.provenance import collect_provenance
from gcbench.runs.results import CheckpointScore, EncoderHashes, InstanceResult, Protocol, Provenance, SemanticResult
from gcbench.runs.schema import split_hash
from gcbench.scoring.instance import InstanceMetrics
from gcbench.scoring.protocols import Protocol as ScoringProtocol
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


def job_origin(job: SegmentationJob, dataset: PreparedDataset) -> dict[str, Any]:
    """Where a trained model comes from, for its file."""
    return {
        "table": job.table,
        "row": job.row,
        "column": job.column,
        "fold": job.fold,
        "seed": job.seed,
        "recipe": job.recipe.name,
        "recipe_hash": job.recipe.hash,
        "preset": job.recipe.preset,
        "data_fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "encoder": job.encoder_key,
    }


def semantic_result(
    job: SemanticJob,
    recipe: SemanticRecipe,
    training: Training[SemanticMetrics],
    metrics: SemanticMetrics,
    started: datetime,
    encoder: tuple[EncoderState, EncoderState],
) -> SemanticResult:
    """The result of one fold of one cell; `encoder` is its state before and after training."""
    before, after = encoder
    return SemanticResult(
        **_common(job, training, metrics.undefined, started, after),
        protocol=Protocol(
            **_measured(job, training, metrics.protocol),
            resolution=recipe.evaluation.resolution,
            inference=recipe.evaluation.inference,
            checkpoint=recipe.evaluation.checkpoint,
            batchnorm=recipe.probe.batchnorm if recipe.probe.frozen else "trained",
            level=recipe.probe.level,
        ),
        encoder=EncoderHashes(
            parameters_before=before.parameters,
            parameters_after=after.parameters,
            buffers_before=before.buffers,
            buffers_after=after.buffers,
        )
        if recipe.probe.frozen
        else None,
        **metrics.as_record(),
    )


def instance_result(
    job: InstanceJob,
    recipe: InstanceRecipe,
    training: Training[InstanceMetrics],
    metrics: InstanceMetrics,
    started: datetime,
    encoder: EncoderState,
) -> InstanceResult:
    """The result of one cell; `encoder` is its state after training."""
    evaluated = set(metrics.evaluated.tolist())
    left_out = [name for k, name in enumerate(metrics.label_set.classes) if k not in evaluated]
    return InstanceResult(
        **_common(job, training, metrics.undefined, started, encoder),
        protocol=Protocol(
            **_measured(job, training, metrics.protocol),
            resolution="points",
            inference="single-pass",
            ignored=("unlabelled", *left_out),
            checkpoint=recipe.evaluation.checkpoint,
            batchnorm="trained",
        ),
        **metrics.as_record(),
    )


def _measured(job: SegmentationJob, training: Training[Any], protocol: ScoringProtocol) -> dict[str, Any]:
    return {
        "label_set": job.label_set,
        "split": "+".join(job.val),
        "split_hash": split_hash(training.dataset.scene_names(job.val)),
        "evaluation": protocol.name,
        "evaluation_version": protocol.version,
    }


def _scored(training: Training[Any], checkpoint: Checkpoint) -> CheckpointScore | None:
    """What a kept model scored, and the hash of its file."""
    score = training.kept.score(checkpoint)
    return score and score.model_copy(update={"sha256": short_sha256(training.kept.file(checkpoint))})


def _common(
    job: SegmentationJob, training: Training[Any], undefined: Sequence[str], started: datetime, encoder: EncoderState
) -> dict[str, Any]:
    notes = [*job.notes]
    if undefined:
        notes.append(f"classes without a value: {', '.join(undefined)}")
    if job.limit is not None:
        notes.append(f"trained on the data-efficient set {job.limit}")
    if job.encoder_key is not None and job.encoder_key.startswith("given:"):
        notes.append(f"encoder given, not pre-trained here: SHA-256 {job.encoder_key.removeprefix('given:')}")
    kept = {name: _scored(training, name) for name in CHECKPOINTS}
    return {
        "table": job.table,
        "row": job.row,
        "column": job.column,
        "fold": job.fold,
        "seed": job.seed,
        "provenance": provenance(job.recipe, training.dataset, started, encoder.parameters),
        "notes": notes,
        "budget": training.budget(),
        "checkpoints": {name: score for name, score in kept.items() if score is not None},
    }


def now() -> datetime:
    """The time, with its zone."""
    return datetime.now(timezone.utc)
