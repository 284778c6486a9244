"""The versioned record that `gcbench evaluate` writes: scores of predictions that were made anywhere. Imports no torch.

Metrics are fractions in [0, 1]; NaN, "undefined", is `null` in JSON.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from gcbench.errors import RunError
from gcbench.runs.schema import Number, Strict

SCHEMA_VERSION = 1


class EvaluationProtocol(Strict):
    """Under what the predictions were scored.

    Attributes:
        name: of the metric policy, e.g. ``"scannet-official"``.
        version: of it.
        fingerprint: of all that makes two scores comparable, from `protocol_fingerprint`.
    """

    name: str
    version: int
    fingerprint: str


def protocol_fingerprint(kind: str, name: str, version: int, label_set: str, split_hash: str) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON of the arguments."""
    identity = {"kind": kind, "label_set": label_set, "name": name, "split_hash": split_hash, "version": version}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class SceneIntervals(Strict):
    """Bootstrap intervals over scenes.

    Attributes:
        level: share of the draws inside, e.g. 0.95.
        draws: how many.
        seed: of the draws.
        scenes: metric -> low, high.
    """

    level: float
    draws: int
    seed: int
    scenes: dict[str, tuple[Number, Number]]


class SeedSpread(Strict):
    """Mean and sample standard deviation of one metric over `n` runs."""

    mean: Number
    std: Number
    n: int


class ScoredRun(Strict):
    """One of several runs: its own metrics, classes and scenes, as `EvaluationRecord` has them."""

    predictions: str
    metrics: dict[str, Number]
    classes: dict[str, dict[str, Number]]
    scenes: dict[str, Any]


class EvaluationRecord(Strict):
    """Scores of one method on one split.

    Attributes:
        kind: what was scored.
        gcbench: version that scored.
        label_set: e.g. ``"scannet20"``.
        split: its name, None where the ground truth does not say.
        split_hash: of the names of the scenes that were scored, from `gcbench.runs.schema.split_hash`.
        protocol: the policy.
        predictions: the folders that were scored, as they were given.
        metrics: ``mIoU``, ``mAcc``, ``allAcc``, or ``mAP``, ``mAP50``, ``mAP25``; the mean over several runs.
        classes: by name, ``iou``, ``acc``, or ``ap``, ``ap50``, ``ap25``; likewise.
        groups: head, common and tail of a label set that has them; likewise.
        undefined: classes without a value.
        scenes: integer counts by scene, from which the metrics can be computed again; empty for several runs, which
            have their own.
        missing: scenes that were left out, as they have no prediction.
        folds: metrics by fold, for scenes in folders such as `Area_1`; `metrics` sums the counts of all.
        fold_mean: mean over the folds.
        intervals: over scenes, by bootstrap.
        seeds: spread over several runs.
        runs: the runs, where there are several.
        synthetic: the ground truth are synthetic rooms.
        data_fingerprint: of the prepared dataset that the ground truth is from.
    """

    schema_version: Literal[1] = 1
    kind: Literal["evaluate-semantic", "evaluate-instance"]
    gcbench: str
    label_set: str
    split: str | None
    split_hash: str
    protocol: EvaluationProtocol
    predictions: list[str]
    metrics: dict[str, Number]
    classes: dict[str, dict[str, Number]]
    groups: dict[str, Number | dict[str, Number]] = Field(default={})
    undefined: list[str] = Field(default=[])
    scenes: dict[str, Any]
    missing: list[str] = Field(default=[])
    folds: dict[str, dict[str, Number]] = Field(default={})
    fold_mean: dict[str, Number] = Field(default={})
    intervals: SceneIntervals | None = None
    seeds: dict[str, SeedSpread] | None = None
    runs: list[ScoredRun] = Field(default=[])
    synthetic: bool = False
    data_fingerprint: str | None = None


def load_evaluation(path: Path) -> EvaluationRecord:
    """A record from its file.

    Raises:
        RunError: missing, not JSON, newer than this gcbench, or not such a record.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}.") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise RunError(
            f"{path}: key 'schema_version' is {version}, this gcbench reads up to {SCHEMA_VERSION}.",
            "Update gcbench: pip install -U gcbench.",
        )
    try:
        return EvaluationRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{path}: key '{key}': {first['msg']}.", "It must be a file that `gcbench evaluate --json` wrote."
        ) from error
