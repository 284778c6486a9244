"""Made-up results of a small table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from gcbench.reporting.compare import ColumnSpec, RowSpec, TableSpec
from gcbench.reporting.paper import PaperTable, PaperValue
from gcbench.runs.results import ClassScore, Protocol, Provenance, SceneCounts, SemanticResult

MakeResult = Callable[..., SemanticResult]
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def table() -> TableSpec:
    rows = (RowSpec("floor", "Floor <b>"), RowSpec("method", "Method | ours"))
    return TableSpec(
        "tiny", "A small table", rows, (ColumnSpec("one", "One"), ColumnSpec("two", "Two")), ("mIoU", "mAcc")
    )


@pytest.fixture
def paper() -> PaperTable:
    cells = {
        f"tiny/method/{column}/{metric}": PaperValue(value, f"Table 9, {column}, {metric}")
        for column, metric, value in (
            ("one", "mIoU", 20.0),
            ("one", "mAcc", 30.0),
            ("two", "mIoU", 40.0),
            ("two", "mAcc", 50.0),
        )
    }
    return PaperTable("tiny", "A small table", "a made-up paper", 1, 0.5, 2.0, cells)


@pytest.fixture
def make() -> MakeResult:
    """A result; keywords that belong to the protocol or the provenance go there."""

    def make_result(
        row: str = "method", column: str = "one", seed: int = 0, *, mIoU: float = 0.2, **changes: Any
    ) -> SemanticResult:
        protocol: dict[str, Any] = {
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
        provenance: dict[str, Any] = {
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
        for key in list(changes):
            for group in (protocol, provenance):
                if key in group:
                    group[key] = changes.pop(key)
        return SemanticResult(
            **{
                "table": "tiny",
                "row": row,
                "column": column,
                "seed": seed,
                "metrics": {"mIoU": mIoU, "mAcc": mIoU + 0.1, "allAcc": 0.9},
                "classes": {"wall": ClassScore(iou=0.5, acc=0.6), "no such": ClassScore(iou=float("nan"), acc=0.0)},
                "scenes": {"scene": SceneCounts(intersection=[1, 0], union=[2, 0], target=[2, 0])},
                "protocol": Protocol(**protocol),
                "provenance": Provenance(**provenance),
                **changes,
            }
        )

    return make_result
