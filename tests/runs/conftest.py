from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from gcbench.runs.provenance import collect_provenance
from gcbench.runs.results import Protocol, SemanticResult


@pytest.fixture(scope="session")
def result() -> SemanticResult:
    nan = float("nan")
    provenance = collect_provenance(
        recipe="semantic/scannet",
        recipe_hash="0123456789ab",
        resolved_recipe={"optimizer.lr": 0.005},
        preset=None,
        data_fingerprint="feed",
        synthetic=False,
        started=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )
    content: dict[str, Any] = {
        "table": "table1",
        "row": "gaussiancross",
        "column": "scannet",
        "seed": 0,
        "metrics": {"mIoU": 0.5, "mAcc": 0.75, "allAcc": nan},
        "classes": {"wall": {"iou": 0.5, "acc": 0.75}, "floor": {"iou": nan, "acc": nan}},
        "scenes": {"scene0000_00": {"intersection": [1, 0], "union": [2, 0], "target": [2, 0]}},
    }
    protocol = Protocol(
        label_set="scannet20",
        split="val",
        split_hash="abc",
        resolution="voxels",
        inference="single-pass",
        checkpoint="last",
        batchnorm="track",
        evaluation="pointcept",
        evaluation_version=1,
    )
    return SemanticResult(**content, protocol=protocol, provenance=provenance)
