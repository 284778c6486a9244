"""What a model card tells: facts about one model and its measured numbers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from gcbench.protocols.encoder_files import ModelKind


@dataclass(frozen=True)
class Measurement:
    """One number of the paper's tables, measured with this model, or with a probe or training that started from it.

    Attributes:
        table, row, column: ids of the cell, such as ``table1``, ``gaussiancross``, ``scannet``.
        title: of the cell, for readers: ``"Table 1, linear probing, ScanNet"``.
        metric: ``"mIoU"``, ``"mAP50"``, ...
        value: mean over the seeds, percent.
        spread: standard deviation over the seeds, percentage points; None for one seed.
        interval: 95 % bootstrap interval over scenes, percent; None where there is none.
        seeds: of the results behind it.
        task: ``"semantic"`` or ``"instance"``.
        label_set: ``"scannet20"``, ``"scannet200"``, ``"s3dis"``.
        dataset: ``"scannet"`` or ``"s3dis"``.
        split: ``"val"``, ``"Area_5"``, ...
        protocol: one line for readers.
        fingerprint: 12 hex digits of the protocol.
        paper: the printed number, percent; None where the paper has none.
        difference: measured minus printed, percentage points; None where they are not comparable.
        verdict: ``"reproduced"``, ``"within noise"``, ``"below"``, ``"above"``, ``"not comparable"``.
        why: the reason for the verdict, one line, may be empty.
        files: the result files in the repository, one per seed, such as ``"results/table1-scannet-seed0.json"``.
        measured: when the last of them ended, UTC.
        synthetic: measured on synthetic rooms, so no benchmark result.
    """

    table: str
    row: str
    column: str
    title: str
    metric: str
    value: float
    spread: float | None
    interval: tuple[float, float] | None
    seeds: tuple[int, ...]
    task: Literal["semantic", "instance"]
    label_set: str
    dataset: Literal["scannet", "s3dis"]
    split: str
    protocol: str
    fingerprint: str
    paper: float | None
    difference: float | None
    verdict: str
    why: str
    files: tuple[str, ...]
    measured: datetime
    synthetic: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that is to be published.

    Attributes:
        repo: ``"user/name"``.
        kind: what it is.
        parameters: number of them.
        channels: of a point's feature.
        in_channels: of a point's input (6: colour and normal).
        grid_size: voxel edge, metres.
        classes: names, of a segmenter.
        recipe: name of the recipe it was trained with; None for converted weights.
        recipe_hash: of its values; `preset`: the overlay, None for the paper's settings.
        seed, steps: of its training, where they are known.
        dataset: what it was trained on, such as ``"scannet"``; None if nobody knows.
        data_fingerprint: of the prepared dataset.
        synthetic: it was trained on synthetic rooms.
        teacher: name of the 2D teacher, such as ``"radio"``, with its model and revision if it has them.
        commit: of gcbench; `versions`: of Python, gcbench and the libraries.
        converted_from: file name and SHA-256 of the checkpoint that it was taken out of.
        weights_sha256: of `model.safetensors`.
        measurements: numbers measured with it; empty if none.
        notes: what a reader must know besides.
        curves: a picture of its losses is published with it.
        given_encoder: SHA-256 of the encoder that the training was given; nobody knows which data that has seen.
    """

    repo: str
    kind: ModelKind
    parameters: int
    channels: int
    in_channels: int
    grid_size: float
    classes: tuple[str, ...]
    recipe: str | None
    recipe_hash: str | None
    preset: str | None
    seed: int | None
    steps: int | None
    dataset: str | None
    data_fingerprint: str | None
    synthetic: bool
    teacher: str | None
    commit: str | None
    versions: Mapping[str, str]
    converted_from: tuple[str, str] | None
    weights_sha256: str
    measurements: tuple[Measurement, ...] = ()
    notes: tuple[str, ...] = ()
    given_encoder: str | None = None
    curves: bool = False
