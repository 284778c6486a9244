"""The versioned result schema: a number with its protocol and its provenance. Imports no torch.

Metrics are fractions in [0, 1]; NaN, "undefined", is `null` in JSON. Times are UTC. Fields may be added with a default;
any other change raises `SCHEMA_VERSION` and adds a step to `_MIGRATIONS`, so that old files still load.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from gcbench.errors import RunError
from gcbench.runs.schema import Count, Number, Strict

SCHEMA_VERSION = 2


class Protocol(Strict):
    """How a number was measured. Numbers of different protocols are never compared silently.

    Attributes:
        label_set: e.g. ``"scannet20"``.
        split: e.g. ``"val"``, ``"Area_5"``.
        split_hash: short hash of the split's scene names, from `gcbench.runs.schema.split_hash`.
        resolution: scored on the sampled ``voxels`` or on the original ``points``.
        inference: ``single-pass``, or ``tta`` (fragments under test-time augmentation).
        ignored: what does not count, e.g. ``("unlabelled",)``.
        checkpoint: the ``last`` or the ``best`` checkpoint of the training.
        batchnorm: of the encoder: ``trained`` with it, or, when it is frozen, ``track``, ``frozen``, ``reestimated``.
        level: features a head sees: the ``decoder``'s output or all ``encoder-levels``.
        evaluation: name of the metric policy, e.g. ``"pointcept"``.
        evaluation_version: its version.
    """

    label_set: str
    split: str
    split_hash: str
    resolution: Literal["voxels", "points"]
    inference: Literal["single-pass", "tta"]
    ignored: tuple[str, ...] = ("unlabelled",)
    checkpoint: Literal["last", "best"]
    batchnorm: Literal["trained", "track", "frozen", "reestimated"]
    level: Literal["decoder", "encoder-levels"] = "decoder"
    evaluation: str
    evaluation_version: int

    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of the protocol's canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def describe(self) -> str:
        """One line for readers."""
        encoder = {
            "trained": "encoder trained",
            "track": "encoder frozen, batch norm tracking",
            "frozen": "encoder frozen, batch norm frozen",
            "reestimated": "encoder frozen, batch norm re-estimated",
        }[self.batchnorm]
        parts = (
            f"{self.label_set} on {self.split}",
            f"scored on {self.resolution}",
            "single pass" if self.inference == "single-pass" else "test-time augmentation",
            f"{self.checkpoint} checkpoint",
            encoder if self.level == "decoder" else f"{encoder}, all encoder levels",
            f"{self.evaluation} v{self.evaluation_version}",
        )
        return ", ".join(parts)


class Provenance(Strict):
    """Where a number comes from.

    Attributes:
        recipe: its name; `recipe_hash`: of its values; `resolved_recipe`: all of them, as run.
        preset: the overlay it ran with, None for the paper's settings.
        data_fingerprint: of the prepared dataset.
        synthetic: the data are synthetic rooms.
        git_commit: of gcbench, None outside a checkout; `git_dirty`: with local changes.
        versions: Python, gcbench and the libraries that decide numbers.
        hardware: processor, cores, memory, accelerators.
        wall_seconds: from `started` to `ended`.
        peak_memory_mb: of the process, or of the accelerator where one was used.
        weights_hash: SHA-256 of the weights that were scored, or saved.
    """

    recipe: str
    recipe_hash: str
    resolved_recipe: dict[str, Any]
    preset: str | None
    data_fingerprint: str
    synthetic: bool
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    hardware: dict[str, str]
    wall_seconds: float
    peak_memory_mb: float
    weights_hash: str | None = None
    started: datetime
    ended: datetime


class ClassScore(Strict):
    """IoU and accuracy of one class."""

    iou: Number
    acc: Number


class SceneCounts(Strict):
    """Integer counts of one scene, one entry per class."""

    intersection: list[Count]
    union: list[Count]
    target: list[Count]


class Budget(Strict):
    """What a training saw.

    Attributes:
        scenes: training scenes.
        labelled_points: of them; of limited annotations those that are kept.
        steps: optimiser steps.
        samples: scenes taken, `steps` times the batch.
        passes: `samples` over `scenes`.
        epochs: the paper's number, where the budget was in epochs.
        processes: that shared every step.
    """

    scenes: Count
    labelled_points: Count
    steps: Count
    samples: Count
    passes: Number
    epochs: Count | None = None
    processes: int = 1

    def describe(self) -> str:
        """One line for readers."""
        said = f" ({self.epochs:,} epochs of the paper)" if self.epochs is not None else ""
        return (
            f"{self.steps:,} steps, {self.samples:,} samples, {self.passes:.1f} passes over {self.scenes:,} scenes"
            f"{said}, {self.labelled_points:,} labelled points"
        )


class CheckpointScore(Strict):
    """What a moment of a training scored, single pass, on the scenes of the cell.

    Attributes:
        step: after so many optimiser steps.
        metrics: by name, fractions.
        sha256: first 16 hex digits of the SHA-256 of the model's file; None in the file itself.
    """

    step: Count
    metrics: dict[str, Number]
    sha256: str | None = None


class EncoderHashes(Strict):
    """An encoder before and after a training: 16 hex digits of SHA-256 of its parameters and of its buffers.

    Equal parameters are the proof that a probe's encoder stayed frozen. Buffers, the running statistics of batch norm,
    move where the protocol's `batchnorm` is ``track`` or ``reestimated``.
    """

    parameters_before: str
    parameters_after: str
    buffers_before: str
    buffers_after: str


class Result(Strict):
    """One cell of a table for one seed, or one fold of it.

    Attributes:
        table, row, column: ids of the cell.
        fold: name of the fold if this is a part of the cell only; such a result never stands in a table.
        metrics: as fractions, by name.
        fold_mean: for a cell of several folds, the mean over the folds; `metrics` sums the counts first.
        folds: and the metrics of each, e.g. by area.
        budget: what the training saw; None where several trainings are behind the number.
        encoder: of a probe: the proof that it stayed frozen.
        checkpoints: the last and the best model of the training, whichever the number is of.
    """

    schema_version: Literal[2] = 2
    table: str
    row: str
    column: str
    fold: str | None = None
    seed: int
    metrics: dict[str, Number]
    fold_mean: dict[str, Number] = Field(default={})
    folds: dict[str, dict[str, Number]] = Field(default={})
    protocol: Protocol
    provenance: Provenance
    notes: list[str] = Field(default=[])
    budget: Budget | None = None
    encoder: EncoderHashes | None = None
    checkpoints: dict[Literal["last", "best"], CheckpointScore] = Field(default={})


class SemanticResult(Result):
    """Semantic segmentation.

    Attributes:
        metrics: ``mIoU``, ``mAcc``, ``allAcc``.
        classes: scores by class name.
        groups: mean IoU by group of classes (head, common, tail).
        scenes: counts by scene; the metrics can be recomputed from them.
    """

    kind: Literal["semantic"] = "semantic"
    classes: dict[str, ClassScore]
    groups: dict[str, Number] = Field(default={})
    scenes: dict[str, SceneCounts]

    def class_scores(self) -> dict[str, dict[str, float]]:
        """Scores by class, as readers call them."""
        return {name: {"IoU": score.iou, "Acc": score.acc} for name, score in self.classes.items()}

    def group_scores(self) -> dict[str, dict[str, float]]:
        """Means by group of classes."""
        return {name: {"mIoU": value} for name, value in self.groups.items()}


class InstanceScore(Strict):
    """Average precision of one class: mean over IoU 0.5 up, at 0.5, at 0.25."""

    ap: Number
    ap50: Number
    ap25: Number


class InstanceResult(Result):
    """Instance segmentation.

    Attributes:
        metrics: ``mAP``, ``mAP50``, ``mAP25``.
        classes: scores of the evaluated classes.
        groups: the three means by group of classes.
        scenes: sizes and intersections by scene (`InstanceMetrics.as_record`); the metrics can be recomputed from them.
    """

    kind: Literal["instance"] = "instance"
    classes: dict[str, InstanceScore]
    groups: dict[str, dict[str, Number]] = Field(default={})
    scenes: dict[str, dict[str, list[list[float]]]]

    def class_scores(self) -> dict[str, dict[str, float]]:
        """Scores by class, as readers call them."""
        return {name: {"AP": s.ap, "AP50": s.ap50, "AP25": s.ap25} for name, s in self.classes.items()}

    def group_scores(self) -> dict[str, dict[str, float]]:
        """Means by group of classes."""
        return {
            name: {f"m{metric.upper()}": value for metric, value in means.items()}
            for name, means in self.groups.items()
        }


class CurvePoint(Strict):
    """Rendering quality at one step, dB; NaN where it was not measured."""

    step: Count
    psnr_train: Number = math.nan
    psnr_heldout: Number = math.nan


class PretrainResult(Strict):
    """What a pre-training run reports.

    Attributes:
        losses: final losses by name, unweighted, and ``loss``, their weighted sum.
        psnr: PSNR of training and held-out views by step, dB.
        gaussians_kept: mean number of Gaussians per scene after pruning (Eq. 13), at the end.
        seconds_per_step: median over the log.
        seconds_per_scene: the same, divided by the scenes that one process handles in a step.
        warnings: kind -> how many scenes trained on although something was odd with them.
        teacher: what the 2D teacher is and how photos are prepared for it; None where nothing was distilled.
        processes: how many trained together.
    """

    schema_version: Literal[2] = 2
    kind: Literal["pretrain"] = "pretrain"
    name: str
    seed: int
    steps: Count
    losses: dict[str, Number]
    psnr: list[CurvePoint]
    gaussians_kept: Number
    seconds_per_step: Number
    peak_memory_mb: Number
    provenance: Provenance
    notes: list[str] = Field(default=[])
    seconds_per_scene: Number = math.nan
    warnings: dict[str, Count] = Field(default={})
    teacher: dict[str, Any] | None = None
    processes: int = 1


class FigureScene(Strict):
    """What one scene adds to a figure: a rendered view, or similarities to a query point.

    Attributes:
        frame: the view's frame number; `role`: whether it was trained on.
        psnr: of the view against its photo, dB.
        depth_error: of its depth, metres, where the depth camera measured.
        query: index of the query point in the scene; `query_class`: of its label.
        same_class, other_classes: mean cosine similarity of the labelled points of that class, and of the others.
    """

    scene: str
    frame: int | None = None
    role: str | None = None
    psnr: Number | None = None
    depth_error: Number | None = None
    query: Count | None = None
    query_class: str | None = None
    same_class: Number | None = None
    other_classes: Number | None = None


class FigureResult(Strict):
    """A figure of scenes, drawn with a pre-trained model.

    Attributes:
        figure: its id, such as ``"figS2"``; `figure_hash`: of its definition as resolved.
        pretraining: name of the run; `step`: optimiser steps behind its weights.
        scenes: what is shown, in the figure's order.
        provenance: the recipe is the pre-training's, the dataset the one that is shown.
    """

    schema_version: Literal[2] = 2
    kind: Literal["figure"] = "figure"
    figure: str
    figure_hash: str
    title: str
    caption: str
    seed: int
    pretraining: str
    step: Count
    scenes: list[FigureScene]
    provenance: Provenance
    notes: list[str] = Field(default=[])


def _lower_case_scores(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 wrote the scores of a class as ``IoU`` and ``Acc``."""
    if isinstance(content.get("classes"), dict):
        renamed = {
            name: {key.lower(): value for key, value in scores.items()} if isinstance(scores, dict) else scores
            for name, scores in content["classes"].items()
        }
        content = {**content, "classes": renamed}
    return content


# version of a stored file -> a function that turns its content into the next version's
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _lower_case_scores}

TableResult = SemanticResult | InstanceResult
CellContent = TableResult | PretrainResult
AnyResult = CellContent | FigureResult
_KINDS: Mapping[str, type[SemanticResult | InstanceResult | PretrainResult | FigureResult]] = {
    "semantic": SemanticResult,
    "instance": InstanceResult,
    "pretrain": PretrainResult,
    "figure": FigureResult,
}


def parse_result(text: str | bytes, where: Path | str = "result") -> AnyResult:
    """A result from JSON, of this or an older schema version.

    Raises:
        RunError: not JSON, of an unknown kind, newer than this gcbench, or not what its version says.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise RunError(f"{where} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("kind") not in _KINDS:
        kind = content.get("kind") if isinstance(content, dict) else None
        raise RunError(f"{where}: key 'kind' is {kind!r}.", f"Results are of kind {', '.join(_KINDS)}.")
    version = content.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise RunError(
            f"{where}: key 'schema_version' is {version!r}, this gcbench reads up to {SCHEMA_VERSION}.",
            "Update gcbench: pip install -U gcbench.",
        )
    while version < SCHEMA_VERSION and version in _MIGRATIONS:
        content = _MIGRATIONS[version](content)
        version += 1
    content["schema_version"] = version
    try:
        return _KINDS[content["kind"]].model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{where}: key '{key}': {first['msg']}.") from error


def load_result(path: Path) -> AnyResult:
    """A result file.

    Raises:
        RunError: missing, or see `parse_result`.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    return parse_result(text, path)
