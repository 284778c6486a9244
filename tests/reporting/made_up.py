"""Made-up results and a made-up paper for the tests of reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from gcbench.reporting.paper import PaperTable, PaperValue
from gcbench.runs.results import (
    AnyResult,
    ClassScore,
    CurvePoint,
    PretrainResult,
    Protocol,
    Provenance,
    SceneCounts,
    SemanticResult,
)

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Made:
    """A result and the cell it fills."""

    row: str
    column: str
    seed: int
    result: AnyResult
    encoder: PretrainResult | None = None


def paper_table(table: str, numbers: Mapping[str, float]) -> PaperTable:
    """A paper that prints these numbers, by cell id without the table."""
    cells = {f"{table}/{cell}": PaperValue(value, f"Table 9, {cell}") for cell, value in numbers.items()}
    return PaperTable(
        table=table,
        title="A small table",
        source="a made-up paper",
        decimals=1,
        reproduced_within=0.5,
        noise_factor=2.0,
        cells=cells,
    )


def provenance(**changes: Any) -> Provenance:
    """Of a finished run."""
    known: dict[str, Any] = {
        "recipe": "semantic/scannet",
        "recipe_hash": "0123",
        "resolved_recipe": {"optimizer.lr": 0.005, "note": "</script><img src=x>"},
        "preset": None,
        "data_fingerprint": "feed",
        "synthetic": False,
        "git_commit": "c" * 40,
        "git_dirty": False,
        "versions": {"gcbench": "0.1.0"},
        "hardware": {"cores": "2"},
        "wall_seconds": 60.0,
        "peak_memory_mb": 100.0,
        "started": START,
        "ended": START + timedelta(minutes=1),
    }
    return Provenance(**{**known, **changes})


def made_result(row: str = "method", column: str = "one", seed: int = 0, *, mIoU: float = 0.2, **changes: Any) -> Made:
    """A semantic result; keywords that belong to the protocol or the provenance go there."""
    protocol = {
        "label_set": "scannet20",
        "split": "val",
        "split_hash": "abc",
        "resolution": "voxels",
        "inference": "single-pass",
        "checkpoint": "last",
        "batchnorm": "track",
        "evaluation": "pointcept",
        "evaluation_version": 1,
    }
    of_protocol = {key: changes.pop(key, value) for key, value in protocol.items()}
    of_origin = {key: changes.pop(key) for key in list(changes) if key in Provenance.model_fields}
    content = {
        "table": "another",
        "row": "another",
        "column": "another",
        "seed": seed,
        "metrics": {"mIoU": mIoU, "mAcc": mIoU + 0.1, "allAcc": 0.9},
        "classes": {"wall": ClassScore(iou=0.5, acc=0.6), "no such": ClassScore(iou=float("nan"), acc=0.0)},
        "scenes": {"scene": SceneCounts(intersection=[1, 0], union=[2, 0], target=[2, 0])},
        "protocol": Protocol(**of_protocol),
        "provenance": provenance(**of_origin),
        **changes,
    }
    return Made(row, column, seed, SemanticResult(**content))


def made_pretraining(
    row: str = "method", column: str = "before", seed: int = 0, *, psnr: float = 21.0, **changes: Any
) -> Made:
    """A pre-training's result; keywords that belong to the provenance go there."""
    of_origin = {key: changes.pop(key) for key in list(changes) if key in Provenance.model_fields}
    content: dict[str, Any] = {
        "name": "gaussiancross",
        "seed": seed,
        "steps": 100,
        "losses": {"loss": 0.5},
        "psnr": [CurvePoint(step=50, psnr_train=psnr), CurvePoint(step=100, psnr_heldout=9.0)],
        "gaussians_kept": 100.0,
        "seconds_per_step": 1.0,
        "seconds_per_scene": 0.1234,
        "peak_memory_mb": 2048.4,
        "provenance": provenance(**{"recipe": "pretrain/gaussiancross", **of_origin}),
        **changes,
    }
    return Made(row, column, seed, PretrainResult(**content))
