"""Kept models predict their scenes again, under test-time augmentation: what a single pass left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import ValidationError

from gcbench.data.labels import load_label_set
from gcbench.data.storage import PreparedDataset
from gcbench.errors import InputError
from gcbench.protocols.jobs import SemanticJob, read_job
from gcbench.protocols.predictions import score_scenes
from gcbench.protocols.semantic_inference import SceneInference
from gcbench.protocols.trained_models import load_model, model_file
from gcbench.recipe.schema import SemanticEvaluation
from gcbench.runs.store import Run
from gcbench.scoring.protocols import load_protocol
from gcbench.scoring.semantic import SemanticScorer


def augmented_means(
    runs: Sequence[tuple[Run, PreparedDataset]], progress: Callable[[int, int], None]
) -> Mapping[str, float]:
    """The means of finished semantic runs, one per fold, had they been scored under test-time augmentation.

    The rotations, scales and flips are those of the runs' recipes. Predictions are kept with the run, so a second call
    is quick, and one that was cut off goes on.

    Args:
        runs: and the data each was scored on.
        progress: gets how many scenes of how many are predicted, per run.

    Raises:
        InputError: a run is of another kind, or its model was removed.
        DataError: its model or its data are broken.
        RunError: its job file is.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorer: SemanticScorer | None = None
    for run, dataset in runs:
        job = read_job(run.job_path)
        if not isinstance(job, SemanticJob):
            raise InputError(f"{run.folder} is not semantic segmentation.", "Only that has test-time augmentation.")
        model, config = load_model(model_file(run.folder))
        evaluation, label_set = _augmented(job), load_label_set(job.label_set)
        inference = SceneInference(evaluation, config.grid_size, label_set)

        def report(event: Mapping[str, Any]) -> None:
            progress(event["step"], event["total"])

        names = dataset.scene_names(job.val)
        metrics = score_scenes(inference, model, dataset, names, device, report, kept=run.folder / "predictions")
        scorer = scorer or SemanticScorer(label_set, load_protocol(evaluation.protocol))
        for name, counts in metrics.scenes.items():
            scorer.insert(name, counts)
    if scorer is None:
        raise InputError("There is no run to predict with.")
    return scorer.result().means()


def _augmented(job: SemanticJob) -> SemanticEvaluation:
    """The evaluation of a job with test-time augmentation. Only that section of its recipe need be of today."""
    prefix = "evaluation."
    values = {key.removeprefix(prefix): value for key, value in job.recipe.values.items() if key.startswith(prefix)}
    try:
        return SemanticEvaluation.model_validate_json(
            json.dumps({**values, "inference": "tta", "resolution": "points"})
        )
    except ValidationError as error:
        raise InputError(f"The job {job.name} does not say how to augment: {error.errors()[0]['msg']}.") from error
